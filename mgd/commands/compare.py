"""Score several networks on one list; draw them side by side."""

import argparse
from pathlib import Path

from mgd.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoints", nargs="+", metavar="NAME:FILE", help="checkpoints, or key.sub=value")
    parser.add_argument("--out", type=Path, default=Path("compare.png"), help="the picture (default compare.png)")
    parser.add_argument("--images", type=int, default=6, help="rows of the picture (default 6)")
    parser.set_defaults(overrides=[])


def run(options: argparse.Namespace) -> None:
    import torch

    from mgd.compare import compare
    from mgd.engine.distributed import pick_device
    from mgd.evaluate import open_target

    if options.images < 1:
        raise UserError(f"--images {options.images} must be 1 or more")
    files: dict[str, Path] = {}
    for text in options.checkpoints:
        name, _, file = text.partition(":")
        if "=" in name:  # key.sub=value: argparse cannot tell the two apart
            options.overrides = [*options.overrides, text]
        elif name and file:
            files[name] = Path(file)
        else:
            raise UserError(f"{text} must be NAME:FILE, such as student:exp.demo/scenes.student/run/last.pt")
    if not files:
        raise UserError("compare needs a network, such as student:exp.demo/scenes.student/run/last.pt")
    config, _, _ = open_target(next(iter(files.values())), options.overrides)
    device = pick_device(config.run.device, 0, torch.cuda.device_count())
    print(compare(files, config, device, out=options.out, images=options.images))
    print(f"picture: {options.out.absolute()}")
