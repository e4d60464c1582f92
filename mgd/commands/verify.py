"""Test an exported file against its card and its golden photo; needs ONNX Runtime and NumPy alone."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="that mgd export wrote")


def run(options: argparse.Namespace) -> None:
    from mgd.deploy.verify import verify

    for file in options.files:
        print(verify(file))
