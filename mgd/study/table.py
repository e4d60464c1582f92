"""The results of a sweep: Markdown, CSV and JSON; means over seeds and paired differences from the reference."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mgd.errors import first_few
from mgd.files import csv_text, read_text, write_json, write_text
from mgd.statistics import Difference, Spread, paired_difference, spread, verdict
from mgd.study.plan import Cell, read_report

DIFFERENCES = (
    "Difference from **{}** in points, paired, with 95 % intervals (Student's): of the mIoU over the seeds, and of the "
    "images' own mIoU over the validation images. Better or worse: both intervals leave 0 out."
)
NONE = "-"  # a figure that there is none of


class Result(NamedTuple):
    """A finished run's scores, in percent; NaN where there is none."""

    cell: Cell
    miou: float
    iou: dict[str, float]  # of each class
    images: dict[str, float]  # mIoU of each validation image, where the evaluation tells it


class Comparison(NamedTuple):
    """A row against the reference at one partition."""

    row: str
    partition: int
    over_seeds: Difference
    over_images: Difference
    verdict: str


def read_results(cells: Sequence[Cell]) -> list[Result]:
    """The scores of the cells that are done."""
    results = []
    for cell in cells:
        if cell.is_done:
            found: Any = read_report(cell)
            iou = {name: _percent(value) for name, value in found.get("iou", {}).items()}
            results.append(Result(cell, _percent(found["miou"]), iou, _of_images(cell.report)))
    return results


def share_name(partition: int) -> str:
    """What the tables and the picture call a partition."""
    return f"1/{partition}" if partition > 1 else "all labels"


def spreads(results: Sequence[Result]) -> dict[tuple[str, int], Spread]:
    """(row, partition) -> mean and standard deviation over the seeds."""
    scores: dict[tuple[str, int], list[float]] = {}
    for result in results:
        scores.setdefault((result.cell.row, result.cell.partition), []).append(result.miou)
    return {key: spread(values) for key, values in scores.items()}


def compare_with(reference: str, results: Sequence[Result]) -> list[Comparison]:
    """Every other row against the reference, at each partition that both have, over the seeds that both have."""
    by_key = {(r.cell.row, r.cell.partition, r.cell.seed): r for r in results}
    found = []
    for row, partition in dict.fromkeys((r.cell.row, r.cell.partition) for r in results):
        seeds = [s for name, p, s in by_key if (name, p) == (row, partition) and (reference, p, s) in by_key]
        if row == reference or not seeds:
            continue
        own = [by_key[row, partition, seed] for seed in seeds]
        other = [by_key[reference, partition, seed] for seed in seeds]
        over_seeds = paired_difference([r.miou for r in own], [r.miou for r in other])
        over_images = paired_difference(*_image_means(own, other))
        found.append(Comparison(row, partition, over_seeds, over_images, verdict(over_seeds, over_images)))
    return found


def markdown(cells: Sequence[Cell], results: Sequence[Result], reference: str, failed: Mapping[str, str]) -> str:
    """The tables, with what each figure is."""
    partitions = sorted({cell.partition for cell in cells}, reverse=True)
    cellular, rows = spreads(results), list(dict.fromkeys(cell.row for cell in cells))
    lines = ["mIoU in percent, mean ± standard deviation over the seeds (number of runs where it is not all).", ""]
    lines += _head(["", *map(share_name, partitions)])
    for row in rows:
        wanted = {p: sum((c.row, c.partition) == (row, p) for c in cells) for p in partitions}
        lines.append(_line([row, *(_cell_text(cellular.get((row, p)), wanted[p]) for p in partitions)]))
    lines += ["", DIFFERENCES.format(reference), ""]
    lines += _head(["", "partition", "over seeds", "over images", "verdict"])
    for one in compare_with(reference, results):
        ends = (_difference(one.over_seeds), _difference(one.over_images), one.verdict)
        lines.append(_line([one.row, share_name(one.partition), *ends]))
    missing = [cell.name for cell in cells if not cell.is_done]
    if missing:
        lines += ["", "No result:", "", *(f"- {name}: {failed[name]}" for name in missing if name in failed)]
    if untrained := [name for name in missing if name not in failed]:
        lines += [f"- not trained yet: {first_few(untrained)}"]
    return "\n".join(lines) + "\n"


def as_csv(results: Sequence[Result]) -> str:
    """One row a run: row, partition, seed, mIoU, IoU of each class, in percent; empty where there is none."""
    classes = list(results[0].iou) if results else []
    rows = [["row", "partition", "seed", "mIoU", *classes]]
    for result in results:
        values = (result.miou, *(result.iou.get(name, math.nan) for name in classes))
        key = (result.cell.row, str(result.cell.partition), str(result.cell.seed))
        rows.append([*key, *("" if math.isnan(value) else f"{value:.4f}" for value in values)])
    return csv_text(rows)


def as_dict(cells: Sequence[Cell], results: Sequence[Result], reference: str, failed: Mapping[str, str]) -> Any:
    """JSON values of all that the Markdown tells; NaN, which `write_json` turns to null, where there is none."""
    return {
        "reference": reference,
        "runs": [
            {"row": r.cell.row, "partition": r.cell.partition, "seed": r.cell.seed, "miou": r.miou, "iou": r.iou}
            for r in results
        ],
        "cells": [{"row": row, "partition": p, **s._asdict()} for (row, p), s in spreads(results).items()],
        "differences": [
            {**one._asdict(), "over_seeds": one.over_seeds._asdict(), "over_images": one.over_images._asdict()}
            for one in compare_with(reference, results)
        ],
        "missing": {cell.name: failed.get(cell.name, "not trained yet") for cell in cells if not cell.is_done},
    }


def write_tables(
    folder: Path, cells: Sequence[Cell], reference: str, failed: Mapping[str, str], *, json_file: Path | None = None
) -> str:
    """Write results.md, results.csv and results.json into a folder, and to `json_file`; returns the Markdown."""
    results = read_results(cells)
    text = markdown(cells, results, reference, failed)
    write_text(folder / "results.md", text)
    write_text(folder / "results.csv", as_csv(results))
    for file in (folder / "results.json", json_file):
        if file is not None:
            write_json(file, as_dict(cells, results, reference, failed))
    return text


def _image_means(own: Sequence[Result], other: Sequence[Result]) -> tuple[list[float], list[float]]:
    """Each image's mIoU, mean over the seeds, of both; of the images that every run has scored."""
    names = set.intersection(*(set(r.images) for r in (*own, *other)))
    pairs = [[float(np.mean([r.images[name] for r in part])) for name in sorted(names)] for part in (own, other)]
    return pairs[0], pairs[1]


def _of_images(report: Path) -> dict[str, float]:
    """mIoU of each image from the CSV beside a report; empty where there is none."""
    file = report.with_name(f"{report.stem}-images.csv")
    if not file.is_file():
        return {}
    rows = csv.DictReader(io.StringIO(read_text(file)))
    return {row["image"]: float(row["mIoU"] or "nan") for row in rows}


def _percent(value: float | None) -> float:
    return math.nan if value is None else 100 * value


def _cell_text(found: Spread | None, wanted: int) -> str:
    if found is None:
        return NONE if wanted else ""
    sd = "" if math.isnan(found.sd) else f" ± {found.sd:.2f}"
    return f"{found.mean:.2f}{sd}" + (f" ({found.runs} of {wanted})" if found.runs < wanted else "")


def _difference(found: Difference) -> str:
    if not found.pairs:
        return NONE
    interval = "" if math.isnan(found.low) else f" [{found.low:+.2f}, {found.high:+.2f}]"
    return f"{found.mean:+.2f}{interval}"


def _head(titles: Sequence[str]) -> list[str]:
    return [_line(titles), "|" + "---|" * len(titles)]


def _line(values: Sequence[str]) -> str:
    return f"| {' | '.join(values)} |"
