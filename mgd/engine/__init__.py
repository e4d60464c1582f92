"""Running an experiment: processes, optimiser, log, loop.

run        loop (asks for steps, evaluates, saves), resume (how it goes on), inputs (what it is trained on), stop
step       step (gradients and update), optim, sync_batch_norm
machines   distributed (processes and devices), hosts (several machines), fit (what the memory allows)
telling    record (what runs), log (files, bar), history (of the steps), teachers (their scores), watch (warnings)
"""
