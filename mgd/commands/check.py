"""Look for what is wrong with an experiment before it is trained: every file, overlaps, teachers, disk, memory."""

import argparse
from pathlib import Path

from mgd.config import load
from mgd.errors import UserError
from mgd.figures import png


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="an experiment's config.py or folder")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="changes, such as data.root=photos")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the findings here as well")
    parser.add_argument("--sheet", type=png, help="draw training samples as the networks get them into this PNG")


def run(options: argparse.Namespace) -> int:
    """Returns 1 when there is an error, or no sheet though one was asked for, else 0."""
    from mgd.check import check, table
    from mgd.data.datasets import open_splits
    from mgd.files import write_json, write_png
    from mgd.sheet import contact_sheet

    config = load(options.config, options.overrides)
    findings = check(config)
    print(table(findings))
    if options.json:
        write_json(options.json, {"findings": [finding._asdict() for finding in findings]})
    failed = any(finding.level == "error" for finding in findings)
    if options.sheet:
        try:
            write_png(options.sheet, contact_sheet(config, open_splits(config.data)))
            print(f"sheet: {options.sheet.absolute()}")
        except UserError as error:
            print(f"no sheet: {error}")
            failed = True
    return int(failed)
