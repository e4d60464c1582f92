"""Runs side by side in one HTML file: curves, classes with intervals, worst images, agreement, cost, commands."""

import argparse
from pathlib import Path

from mgd.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    runs = "folders of runs, the one that others are compared with first; NAME:FOLDER gives one a name"
    parser.add_argument("runs", nargs="+", metavar="RUN", help=runs)
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="default report.html")
    told = "also write the numbers behind the tables, as JSON"
    parser.add_argument("--json", type=Path, metavar="FILE", help=told)
    parser.add_argument("--images", type=int, default=12, help="that are shown, worst first (default 12)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")


def run(options: argparse.Namespace) -> None:
    from mgd.engine.distributed import pick_device
    from mgd.extras import need
    from mgd.files import write_json, write_text
    from mgd.report.html import report_html
    from mgd.report.numbers import scores, to_json
    from mgd.report.predictions import predict_all
    from mgd.report.runs import read_runs, with_teachers

    if options.images < 1:
        raise UserError(f"--images {options.images} must be 1 or more")
    need("matplotlib", extra="report")
    device = pick_device(options.device)
    runs = with_teachers(read_runs(options.runs))
    found = predict_all(runs, device, progress="predicting")
    scored = scores(runs, found)
    write_text(options.out, report_html(runs, found, scored, images=options.images))
    if options.json:
        write_json(options.json, to_json(runs, found, scored))
    print(f"{len(runs)} runs, {len(found.names)} images: {options.out.absolute()}")
