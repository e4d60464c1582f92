"""Time, memory, size, agreement and mIoU of exported files, beside the PyTorch network."""

import argparse
from pathlib import Path

from mgd.errors import UserError
from mgd.figures import png


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="that mgd export wrote, and checkpoints")
    parser.add_argument("--runs", type=int, default=30, help="timed runs of each (default 30)")
    parser.add_argument("--json", type=Path, help="write the table to this file, too")
    parser.add_argument("--picture", type=png, help="draw mIoU against latency into this PNG")


def run(options: argparse.Namespace) -> None:
    from mgd.deploy.benchmark import benchmark, draw, table
    from mgd.files import write_json

    if options.runs < 1:
        raise UserError(f"--runs {options.runs} must be 1 or more")
    rows = benchmark(options.files, runs=options.runs)
    print(table(rows))
    if options.json:
        write_json(options.json, [row.to_dict() for row in rows])
    if options.picture:
        draw(rows, options.picture)
        print(f"picture: {options.picture.absolute()}")
