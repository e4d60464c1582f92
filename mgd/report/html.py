"""The report: one HTML file with all its pictures inside, which fetches nothing."""

import base64
import math
import re
from collections import defaultdict
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

import cv2
import numpy as np

from mgd.config import to_dict
from mgd.data.classes import Classes
from mgd.metrics import IGNORE_INDEX
from mgd.report.numbers import Score, cost
from mgd.report.plots import confusion, learning_curves
from mgd.report.predictions import Predictions
from mgd.report.runs import Run, teachers_of
from mgd.statistics import Difference

PAIRS = 5  # of classes that two runs disagree on
NUMBER = re.compile(r"(<[^>]*>)*[-+]?\d")  # how a table's cell begins


def report_html(runs: Sequence[Run], found: Predictions, scored: Sequence[Score], *, images: int = 12) -> str:
    """The whole page; `images`: how many validation images are shown, the last run's worst first."""
    sections = {
        "Scores": _scores(scored, found),
        "Learning curves": _row(learning_curves(runs)) or "<p>Not recorded.</p>",
        "Classes": _classes(scored, found),
        "Worst images first": _panels(runs, found, images),
        "Agreement": _agreement(runs, found, scored),
        "Teachers and students": _teachers(runs, found, scored),
        "Confusion": _row(
            [confusion(c.sum(0), found.classes, r.name) for r, c in zip(runs, found.confusions, strict=True)]
        ),
        "Cost": _cost(runs),
        "Settings that differ": _settings(runs),
        "Commands": _commands(runs),
    }
    body = "".join(f"<h2>{name}</h2>\n{content}\n" for name, content in sections.items())
    template = Template(files("mgd.report").joinpath("page", "report.html").read_text(encoding="utf-8"))
    return template.substitute(title=escape(" / ".join(run.name for run in runs)), body=body)


def _row(pictures: Sequence[str]) -> str:
    """Side by side, or below each other where the window is narrow."""
    return f'<div class="row">{"".join(pictures)}</div>' if pictures else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML already; columns that hold a number are set to the right."""
    kinds = [' class="number"' if any(map(NUMBER.match, column)) else "" for column in zip(*rows, strict=True)]
    kinds = ["", *kinds[1:]]
    lines = "".join(f"<tr>{_cells('td', row, kinds)}</tr>\n" for row in rows)
    top = _cells("th", [escape(cell) for cell in head], kinds)
    return f'<div class="scroll"><table><tr>{top}</tr>\n{lines}</table></div>'


def _cells(tag: str, row: Sequence[str], kinds: Sequence[str]) -> str:
    return "".join(f"<{tag}{kind}>{cell}</{tag}>" for cell, kind in zip(row, kinds, strict=True))


def _percent(value: float) -> str:
    return "absent" if math.isnan(value) else f"{100 * value:.2f}"


def _scores(scored: Sequence[Score], found: Predictions) -> str:
    images = f"{len(found.names):,}"
    rows = [[escape(one.name), one.method, _percent(one.miou), _percent(one.accuracy), images] for one in scored]
    without = f" mIoU is without {escape(', '.join(found.excluded))}." if found.excluded else ""
    note = f"Scored as each run's config says (evaluate.mode), on the first run's validation list.{without}"
    return _table(["run", "method", "mIoU, %", "pixel accuracy, %", "images"], rows) + f'<p class="note">{note}</p>'


def _classes(scored: Sequence[Score], found: Predictions) -> str:
    columns = [[*one.ious, one.miou] for one in scored]
    rows = []
    for i, name in enumerate([*found.classes.names, "mIoU"]):
        cells = [f"<b>{escape(name)}</b>" if name == "mIoU" else escape(name), _percent(columns[0][i])]
        for column, one in zip(columns[1:], scored[1:], strict=True):
            cells += [_percent(column[i]), _difference(one.differences[i])]
        rows.append(cells)
    head = ["class", scored[0].name]
    for one in scored[1:]:
        head += [one.name, f"minus {scored[0].name}"]
    note = (
        "IoU in percent. Differences with their 95 % intervals from 1,000 paired resamples of the images: what other "
        "images of the same kind would do to them. Other seeds of training are not in it."
    )
    return _table(head, rows) + f'<p class="note">{note}</p>'


def _difference(difference: Difference) -> str:
    if math.isnan(difference.mean):
        return "absent"
    text = f"{100 * difference.mean:+.2f} [{100 * difference.low:+.2f}, {100 * difference.high:+.2f}]"
    if not difference.sign:
        return f'<span class="same">{text}<br><small>not distinguishable</small></span>'
    return f'<span class="{"up" if difference.mean > 0 else "down"}">{text}</span>'


def _panels(runs: Sequence[Run], found: Predictions, images: int) -> str:
    chosen = found.worst_first()[:images]
    legend = "".join(
        f'<span><i style="background:rgb{color}"></i>{escape(name)}</span>'
        for name, color in zip(found.classes.names, found.classes.colors, strict=True)
    )
    panels = "".join(_panel(runs, found, index) for index in chosen)
    note = f"The slider uncovers the photo. Worst of {len(found.names):,} images for {escape(runs[-1].name)}."
    return f'<p class="note">{note}</p><p class="legend">{legend}</p><div class="panels">{panels}</div>'


def _panel(runs: Sequence[Run], found: Predictions, index: int) -> str:
    names = ["truth", *(run.name for run in runs)]
    shown = len(names) - 1
    maps, buttons = "", ""
    for i, (name, label) in enumerate(zip(names, found.maps[index], strict=True)):
        mark = " shown" if i == shown else ""
        maps += f'<img class="map{mark}" alt="{escape(name)}" src="{_png(label, found.classes)}">'
        buttons += f'<button class="{mark.strip()}">{escape(name)}</button> '
    scores = ", ".join(
        f"{escape(run.name)} {_percent(found.miou(one[index]))}"
        for run, one in zip(runs, found.confusions, strict=True)
        if one[index].any()
    )
    return (
        f'<figure class="panel"><div class="stack"><img alt="photo" src="{_jpeg(found.photos[index])}">{maps}</div>'
        f'<input type="range" min="0" max="100" value="40" aria-label="photo / labels"><div>{buttons}</div>'
        f'<figcaption class="note">{escape(found.names[index])}: mIoU {scores}</figcaption></figure>'
    )


def _agreement(runs: Sequence[Run], found: Predictions, scored: Sequence[Score]) -> str:
    """How often each pair says the same, and which classes the last run and each other see in each other's place."""
    rows = [[escape(one.name), *map(_percent, one.agreements)] for one in scored]
    text = _table(["pixels with the same class, %", *(run.name for run in runs)], rows)
    last = len(runs) - 1
    for r, run in enumerate(runs[:-1]):
        apart = found.agreements[r, last].copy()
        np.fill_diagonal(apart, 0)
        order = np.argsort(-apart, axis=None)[:PAIRS]
        pairs = [(*np.unravel_index(i, apart.shape), apart.flat[i]) for i in order if apart.flat[i]]
        names = found.classes.names
        share = [
            f"{escape(names[a])} / {escape(names[b])} {100 * count / found.agreements[r, last].sum():.2f} %"
            for a, b, count in pairs
        ]
        if share:
            text += f"<p>{escape(run.name)} / {escape(runs[last].name)} disagree most on: {'; '.join(share)}.</p>"
    return text


def _teachers(runs: Sequence[Run], found: Predictions, scored: Sequence[Score]) -> str:
    """Of each student that names its teachers: how good they are, and how far it follows them, right or wrong."""
    places = {run.path.resolve(): i for i, run in enumerate(runs)}
    names, rows = found.classes.names, []
    for s, run in enumerate(runs):
        for role, path in teachers_of(run).items():
            if (t := places.get(path.resolve())) is None or t == s:
                continue
            apart = found.agreements[t, s].copy()
            np.fill_diagonal(apart, 0)
            teacher, student = np.unravel_index(int(apart.argmax()), apart.shape)
            most = f"{names[teacher]} / {names[student]}" if apart.any() else "nothing"
            numbers = map(_percent, (scored[t].miou, scored[s].miou, scored[t].agreements[s]))
            rows.append([escape(run.name), role, escape(runs[t].name), *numbers, escape(most)])
    head = ["student", "role", "teacher", "its mIoU, %", "student's mIoU, %", "same class, %", "most often apart on"]
    return _table(head, rows) if rows else "<p>No run names teachers whose files are there.</p>"


def _cost(runs: Sequence[Run]) -> str:
    rows = []
    for run in runs:
        one = cost(run)
        speed = "not recorded" if one.images_per_second is None else f"{one.images_per_second:.1f}"
        numbers = (one.parameters / 1e6, one.multiply_accumulates / 1e9)
        size = f"{one.bytes / 1e6:.1f}"
        rows.append([escape(run.name), escape(one.backbone), *(f"{number:.2f}" for number in numbers), size, speed])
    head = ["run", "backbone", "parameters, M", "multiply-accumulates at 512x512, G", "last.pt, MB"]
    return _table([*head, "training images/s"], rows)


def _settings(runs: Sequence[Run]) -> str:
    """A table of what differs, and below it what only some runs have: another method's settings."""
    flat = [_flat(to_dict(run.source.config)) if run.source.config else {} for run in runs]
    rows, partial = [], defaultdict[tuple[str, ...], list[str]](list)
    for key in sorted({key for one in flat for key in one} - {"run.dir"}):
        values = [str(one[key]) if key in one else None for one in flat]
        if len({*values} - {None}) > 1:
            rows.append([escape(key), *("-" if value is None else escape(value) for value in values)])
        elif None in values:
            having = tuple(run.name for run, value in zip(runs, values, strict=True) if value is not None)
            partial[having].append(f"{key}={next(value for value in values if value is not None)}")
    text = _table(["key", *(run.name for run in runs)], rows) if rows else ""
    for having, settings in partial.items():
        text += f"<p>Only {escape(', '.join(having))}:</p><pre>{escape('  '.join(settings))}</pre>"
    return text or "<p>None.</p>"


def _commands(runs: Sequence[Run]) -> str:
    parts = []
    for run in runs:
        versions = ", ".join(f"{k} {v}" for k, v in run.facts.get("versions", {}).items())
        revision = run.facts.get("git") or "not recorded"
        command = run.command or "not recorded"
        facts = f"git {revision}; {versions}" if versions else f"git {revision}"
        parts.append(f"<p>{escape(run.name)}</p><pre>{escape(command)}</pre><p class='note'>{escape(facts)}</p>")
    return "".join(parts)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def _png(label: np.ndarray, classes: Classes) -> str:
    """A label map in its colours; ignored pixels let the photo through."""
    alpha = np.where(label == IGNORE_INDEX, 0, 255).astype(np.uint8)
    rgba = np.dstack([classes.palette()[label][..., ::-1], alpha])
    return _data("png", cv2.imencode(".png", rgba)[1])


def _jpeg(photo: np.ndarray) -> str:
    return _data("jpeg", cv2.imencode(".jpg", photo[..., ::-1])[1])


def _data(kind: str, encoded: np.ndarray) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(encoded.tobytes()).decode()}"
