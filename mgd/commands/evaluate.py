"""Score a network on the validation list."""

import argparse
import json
from pathlib import Path
from typing import Any

from mgd.config import to_dict
from mgd.errors import UserError
from mgd.files import write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", help="a config.py (its last.pt is scored) or a checkpoint, ours or an official one")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="changes, such as data.val_list=x.txt")
    parser.add_argument("--checkpoint", type=Path, help="score this file with the config's settings")
    parser.add_argument("--out", type=Path, help="folder of the report; default: evaluation/ beside the checkpoint")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table's figures here as well")


def run(options: argparse.Namespace) -> int:
    """Returns 1 when there is no score, since every label is ignored everywhere, else 0."""
    from mgd.data.classes import read_classes
    from mgd.data.datasets import open_val
    from mgd.engine.distributed import processes
    from mgd.engine.inputs import VALIDATION, record_of
    from mgd.engine.log import log_to_terminal
    from mgd.evaluate import evaluate, open_target
    from mgd.student import check_classes
    from mgd.weights import end_of

    config, network, file = open_target(options.target, options.overrides, file=options.checkpoint)
    folder, end = options.out or file.parent / "evaluation", end_of(file)
    with processes(config.run.device, timeout=config.run.timeout) as team:
        log_to_terminal(main=team.is_main)
        classes = read_classes(config.data.classes, Path(config.data.root))
        kind = f"data.classes={config.data.classes}"
        if len(classes) != network.num_classes:
            raise UserError(
                f"{file} was trained for {network.num_classes} classes, {kind} has {len(classes)}; set data.root and "
                "data.classes to the data that it was trained on"
            )
        check_classes(file, network.classes, classes.names, data=kind)
        pictures, caption = folder / f"{file.stem}-pictures", "evaluation" if team.is_main else ""
        items = open_val(config.data)
        what = (network.to(team.device), items, classes, config, team.device)
        report = evaluate(*what, pictures=pictures, per_image=True, progress=caption)
        if team.is_main:
            facts = {"checkpoint": str(file), "end": end, "config": to_dict(config), VALIDATION: record_of(items)}
            others = _replaced(folder / f"{file.stem}.json", facts)
            report.write(folder, file.stem, **facts)
            if options.json:
                write_json(options.json, facts | report.to_dict())
            print(report.table())
            print(f"{report.images} images; report and pictures in {folder}")
            if others:
                print(f"the report that was there, of {', '.join(others)}, is replaced; --out FOLDER keeps both")
    return int(report.is_empty)


def _replaced(path: Path, facts: dict[str, Any]) -> list[str]:
    """What a report that is there was scored with otherwise; nothing where there is none."""
    from mgd.engine.inputs import VALIDATION
    from mgd.scores import scored_otherwise

    try:
        before = json.loads(path.read_text())
        others = scored_otherwise(facts["config"], before["config"])
        if before.get(VALIDATION, facts[VALIDATION]) != facts[VALIDATION]:
            others.append(f"other {VALIDATION}")
        return others
    except (OSError, ValueError, KeyError, TypeError):
        return []
