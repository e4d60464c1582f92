"""Score a network on the validation list."""

import argparse
from pathlib import Path

from mgd.config import to_dict
from mgd.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", help="a config.py (its last.pt is scored) or a checkpoint, ours or an official one")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="changes, such as data.val_list=x.txt")
    parser.add_argument("--checkpoint", type=Path, help="score this file with the config's settings")
    parser.add_argument("--out", type=Path, help="folder of the report; default: evaluation/ beside the checkpoint")


def run(options: argparse.Namespace) -> None:
    import torch

    from mgd.data.classes import read_classes
    from mgd.data.datasets import open_val
    from mgd.engine.distributed import processes
    from mgd.engine.log import log_to_terminal
    from mgd.evaluate import evaluate, open_target

    config, network, file = open_target(options.target, options.overrides, file=options.checkpoint)
    folder = options.out or file.parent / "evaluation"
    with processes(config.run.device) as team:
        log_to_terminal(main=team.is_main)
        classes = read_classes(config.data.classes, Path(config.data.root))
        if len(classes) != network.num_classes:
            kind = f"data.classes={config.data.classes}"
            raise UserError(
                f"{file} was trained for {network.num_classes} classes, {kind} has {len(classes)}; set data.root and "
                "data.classes to the data that it was trained on"
            )
        pictures, caption = folder / f"{file.stem}-pictures", "evaluation" if team.is_main else ""
        items = open_val(config.data)
        network.to(team.device).to(memory_format=torch.channels_last)
        report = evaluate(network, items, classes, config, team.device, pictures=pictures, progress=caption)
        if team.is_main:
            report.write(folder, file.stem, checkpoint=str(file), config=to_dict(config))
            print(report.table())
            print(f"{report.images} images; report and pictures in {folder}")
