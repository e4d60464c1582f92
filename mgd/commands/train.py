"""Train an experiment into its run folder."""

import argparse

from mgd.config import load
from mgd.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="an experiment's config.py or folder")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="changes, such as train.lr=0.01")
    parser.add_argument("--resume", action="store_true", help="go on from run.dir/last.pt when it is there")
    text = "go on although data or settings are others than the run's so far; both are recorded"
    parser.add_argument("--accept-changes", action="store_true", help=text)
    text = "train a run that is at its end so many iterations more, with a schedule of their own (train.lr may differ)"
    parser.add_argument("--more", type=int, default=0, metavar="ITERATIONS", help=text)


def run(options: argparse.Namespace) -> None:
    from mgd.engine.distributed import processes
    from mgd.engine.log import leave_file, log_to_terminal
    from mgd.engine.loop import Trainer
    from mgd.engine.resume import Wish

    if options.more < 0:
        raise UserError(f"--more {options.more} must be a number of iterations, 1 or greater")
    config = load(options.config, options.overrides)
    wish = Wish(resume=options.resume, accept_changes=options.accept_changes, more=options.more)
    with processes(config.run.device, timeout=config.run.timeout) as team:
        log_to_terminal(main=team.is_main)
        try:
            Trainer(config, team, wish).run()
        finally:
            leave_file()
