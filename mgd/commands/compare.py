"""Score several networks on one list; draw them side by side."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mgd.config import Experiment
from mgd.errors import UserError
from mgd.fields import hints
from mgd.figures import png
from mgd.files import write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoints", nargs="+", metavar="NAME:FILE", help="checkpoints, or key.sub=value")
    parser.add_argument("--out", type=png, default=Path("compare.png"), help="the picture (default compare.png)")
    parser.add_argument("--images", type=int, default=6, help="rows of the picture (default 6)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write each network's figures here as well")
    parser.set_defaults(overrides=[])


def run(options: argparse.Namespace) -> None:
    from mgd.compare import compare, comparison_table
    from mgd.engine.distributed import pick_device
    from mgd.evaluate import open_target

    if options.images < 1:
        raise UserError(f"--images {options.images} must be 1 or more")
    files, overrides = tell_apart([*options.checkpoints, *options.overrides])
    config, _, _ = open_target(next(iter(files.values())), overrides)
    device = pick_device(config.run.device)
    reports = compare(files, config, device, out=options.out, images=options.images, overrides=overrides)
    if options.json:
        told = {name: {"checkpoint": str(files[name]), **report.to_dict()} for name, report in reports.items()}
        write_json(options.json, told)
    print(comparison_table(reports))
    print(f"picture: {options.out.absolute()}")


def tell_apart(texts: Sequence[str]) -> tuple[dict[str, Path], list[str]]:
    """(name -> checkpoint, overrides): argparse cannot, since a name may hold a "=" and a path both ":" and "="."""
    files: dict[str, Path] = {}
    overrides: list[str] = []
    for text in texts:
        colons = [i for i, character in enumerate(text) if character == ":"]
        split = next((i for i in colons if Path(text[i + 1 :]).is_file()), None)
        if split is None and text.partition("=")[0].split(".")[0] in hints(Experiment):
            overrides.append(text)
            continue
        name, file = (text[:split], text[split + 1 :]) if split is not None else text.partition(":")[::2]
        if not name or not file:
            raise UserError(f"{text} must be NAME:FILE, such as student:exp.demo/scenes.student/run/last.pt")
        if name in files:
            raise UserError(f"{name} stands for {files[name]} and for {file}; give each network a name of its own")
        files[name] = Path(file)
    if not files:
        raise UserError("compare needs a network, such as student:exp.demo/scenes.student/run/last.pt")
    return files, overrides
