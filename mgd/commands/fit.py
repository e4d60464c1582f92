"""Find the largest micro-batch that fits the memory, and how long the run takes."""

import argparse
from pathlib import Path

from mgd.config import load
from mgd.errors import UserError
from mgd.files import write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="an experiment's config.py or folder")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="changes, such as train.precision=bf16")
    parser.add_argument("--processes", type=int, help="that share a batch (default: one for each GPU of this machine)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the trials and the advice here as well")
    parser.add_argument("--memory", type=float, metavar="GIB", help="for one process (default: 0.9 of what there is)")


def run(options: argparse.Namespace) -> None:
    import torch

    from mgd.engine.distributed import pick_device
    from mgd.engine.fit import advice, fit, memory_limit

    config = load(options.config, options.overrides)
    gpus = torch.cuda.device_count()
    device = pick_device(config.run.device, 0, gpus)
    usual = gpus if device.type == "cuda" else 1
    processes = usual if options.processes is None else options.processes
    if processes < 1 or (options.memory is not None and options.memory <= 0):
        raise UserError("--processes and --memory must be greater than 0")
    limit = memory_limit(device, processes, options.memory)
    print(f"{device}, {processes} processes, {limit:.1f} GiB for each\nimages  accumulate     GiB  s/iteration")
    trials = []
    for trial in fit(config, device, processes=processes, limit=limit):
        note = "" if trial.gib <= limit else "  does not fit"
        print(f"{trial.images:6}  {trial.accumulate:10}  {trial.gib:6.1f}  {trial.seconds:11.2f}{note}", flush=True)
        trials.append(trial)
    text = advice(config, trials, device, processes=processes, limit=limit)
    if options.json:
        write_json(options.json, {"trials": [trial._asdict() for trial in trials], "limit": limit, "advice": text})
    print(text)
