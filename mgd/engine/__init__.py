"""Running an experiment: processes, optimiser, log, loop."""
