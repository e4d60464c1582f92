"""Choose which images of a training list are labelled, and write the two lists."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("list", type=Path, help="the training list, such as DATA/pascal_voc/train_aug.txt")
    parser.add_argument("--ratio", type=int, required=True, help="1/RATIO of the images is labelled")
    schemes = (
        "stride (default): every RATIO-th, as published; random; balanced: rare classes get their pixels, for which "
        "all labels are read"
    )
    parser.add_argument("--scheme", choices=("stride", "random", "balanced"), default="stride", help=schemes)
    parser.add_argument("--seed", type=int, default=0, help="of random and balanced (default 0)")
    text = "for balanced: what label values mean, as data.label_map, such as 255=1 or 1..8=0..7"
    parser.add_argument("--label-map", default="", metavar="MAP", help=text)
    text = "of a folder whose labels lie beside the photos, as data.label_pattern: {stem}_mask.png"
    parser.add_argument("--label-pattern", default="", metavar="PATTERN", help=text)
    parser.add_argument("--root", type=Path, help="what the list's paths are relative to (default: its folder)")
    parser.add_argument("--force", action="store_true", help="write over lists that differ")


def run(options: argparse.Namespace) -> None:
    from mgd.data.partitions import partition
    from mgd.fields import split

    root = options.root or options.list.parent
    print(
        partition(
            options.list,
            root=root,
            ratio=options.ratio,
            scheme=options.scheme,
            seed=options.seed,
            label_map=tuple(split(options.label_map)),
            label_pattern=options.label_pattern,
            force=options.force,
        )
    )
