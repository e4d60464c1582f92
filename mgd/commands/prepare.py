"""Make a data set in VOC layout."""

import argparse
from pathlib import Path

from mgd.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=("scenes",), help="scenes: generated street scenes, no download")
    parser.add_argument("--out", type=Path, required=True, help="the data set's folder")
    parser.add_argument("--train", type=int, default=512, help="training images (default 512)")
    parser.add_argument("--val", type=int, default=64, help="validation images (default 64)")
    parser.add_argument("--size", default="128x96", help="width x height (default 128x96)")
    parser.add_argument("--seed", type=int, default=0)


def run(options: argparse.Namespace) -> None:
    from mgd.data.prepare.scenes import generate_scenes

    try:
        width, height = map(int, options.size.split("x"))
    except ValueError:
        raise UserError(f"--size {options.size} must be WIDTHxHEIGHT, such as 128x96") from None
    generate_scenes(options.out, train=options.train, val=options.val, height=height, width=width, seed=options.seed)
    print(f"{options.train} training and {options.val} validation scenes in {options.out}")
