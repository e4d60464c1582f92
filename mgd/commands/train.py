"""Train an experiment into its run folder."""

import argparse

from mgd.config import load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="an experiment's config.py or folder")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="changes, such as train.lr=0.01")
    parser.add_argument("--resume", action="store_true", help="go on from run.dir/last.pt when it is there")


def run(options: argparse.Namespace) -> None:
    from mgd.engine.distributed import processes
    from mgd.engine.log import log_to_terminal
    from mgd.engine.loop import Trainer

    config = load(options.config, options.overrides)
    with processes(config.run.device) as team:
        log_to_terminal(main=team.is_main)
        Trainer(config, team, resume=options.resume).run()
