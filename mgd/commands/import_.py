"""Turn an official checkpoint into ours, or one of ours into an official one."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path)
    which = (
        "which of the three networks of a student's official file: the student (default), or the teacher whose "
        "architecture --backbone names; in every other file there is one that counts"
    )
    parser.add_argument("--as", dest="role", choices=("teacher", "student"), default="student", help=which)
    parser.add_argument("--backbone", default="", help="what it must be; default: recognised from the tensors")
    where = (
        "default: beside FILE, .pt (.official.pth with --to-official); ImageNet weights of a backbone get the name "
        "that model.pretrained looks for in model.weights_dir"
    )
    parser.add_argument("--out", type=Path, help=where)
    parser.add_argument("--to-official", action="store_true", help="the other way: one of ours to the official layout")


def run(options: argparse.Namespace) -> None:
    from mgd.convert import convert

    print(
        convert(
            options.file, out=options.out, role=options.role, backbone=options.backbone, official=options.to_official
        )
    )
