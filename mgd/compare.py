"""Several networks side by side on one validation list: a table of scores and one picture."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch

from mgd.config import Experiment
from mgd.data.classes import Classes, read_classes
from mgd.data.datasets import open_val
from mgd.data.loaders import ValidationSamples
from mgd.evaluate import Report, evaluate, panel_row
from mgd.files import write_png
from mgd.infer import predict_scores
from mgd.metrics import iou_per_class
from mgd.student import load_student

MARGIN, CAPTION = 4, 22  # pixels
FONT = cv2.FONT_HERSHEY_SIMPLEX


def compare(
    checkpoints: Mapping[str, Path], config: Experiment, device: torch.device, *, out: Path, images: int = 6
) -> str:
    """Evaluate the networks of `checkpoints` (name -> file) on `config`'s validation list.

    Writes `out`: for `images` images spread over the list a row of image, truth and every network's prediction.

    Returns:
        The table: one row a class, one column a network, IoU in percent.
    """
    root = Path(config.data.root)
    classes, items = read_classes(config.data.classes, root), open_val(config.data)
    networks = {name: load_student(path, device, num_classes=len(classes)) for name, path in checkpoints.items()}
    how = replace(config.evaluate, crop_size=config.evaluate.crop_size or config.data.crop_size)
    samples = ValidationSamples(items, config, len(classes))
    rows = []
    for index in np.linspace(0, len(items) - 1, min(images, len(items))).round().astype(int):
        sample = samples[int(index)]
        image, label = sample["image"], sample["label"]
        size = tuple(label.shape)
        scores = (predict_scores(n, image.to(device), how, size=size) for n in networks.values())
        rows.append(panel_row(image, [label, *(score.argmax(dim=0).cpu() for score in scores)], classes))
    write_png(out, draw_sheet(rows, ["image", "truth", *networks], classes))
    reports = {n: evaluate(net, items, classes, config, device, progress=n) for n, net in networks.items()}
    return comparison_table(reports)


def comparison_table(reports: Mapping[str, Report]) -> str:
    """One row a class and mIoU, one column a report, in percent."""
    names = [*next(iter(reports.values())).classes.names, "mIoU"]
    columns = {n: [*iou_per_class(r.confusion).tolist(), r.miou] for n, r in reports.items()}
    width = max(map(len, names))
    widths = {n: max(8, len(n)) for n in columns}
    lines = [" ".join([" " * width, *(f"{n:>{widths[n]}}" for n in columns)])]
    for i, name in enumerate(names):
        cells = ("absent" if math.isnan(v[i]) else f"{100 * v[i]:.2f}" for v in columns.values())
        padded = (f"{cell:>{widths[n]}}" for n, cell in zip(columns, cells, strict=True))
        lines.append(" ".join([f"{name:<{width}}", *padded]))
    return "\n".join(lines)


def draw_sheet(rows: list[np.ndarray], captions: list[str], classes: Classes) -> np.ndarray:
    """Stack rows of equally many panels under captions, with the classes' colours below."""
    scale = max(1, round(200 / (rows[0].shape[1] // len(captions))))  # small scenes are drawn larger
    rows = [np.kron(row, np.ones((scale, scale, 1), np.uint8)) for row in rows]
    width = max(row.shape[1] for row in rows)
    panel = rows[0].shape[1] // len(captions)
    header = np.full((CAPTION, width, 3), 255, np.uint8)
    for i, caption in enumerate(captions):
        cv2.putText(header, caption, (i * panel + 4, CAPTION - 7), FONT, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    parts = [header]
    for row in rows:
        fill = np.full((row.shape[0], width - row.shape[1], 3), 255, np.uint8)
        parts += [np.concatenate([row, fill], axis=1), np.full((MARGIN, width, 3), 255, np.uint8)]
    return np.concatenate([*parts, _legend(classes, width)])


def _legend(classes: Classes, width: int) -> np.ndarray:
    """Colour boxes with names, in as many lines as they need."""
    named = zip(classes.names, classes.colors, strict=True)
    cells = [(name, color, 30 + cv2.getTextSize(name, FONT, 0.4, 1)[0][0]) for name, color in named]
    lines: list[list[tuple[str, tuple[int, int, int], int]]] = [[]]
    for cell in cells:
        if lines[-1] and sum(c[2] for c in lines[-1]) + cell[2] > width:
            lines.append([])
        lines[-1].append(cell)
    legend = np.full((CAPTION * len(lines), width, 3), 255, np.uint8)
    for y, line in enumerate(lines):
        x = 4
        for name, color, cell_width in line:
            top = y * CAPTION + 5
            cv2.rectangle(legend, (x, top), (x + 14, top + 12), color, -1)
            cv2.rectangle(legend, (x, top), (x + 14, top + 12), (0, 0, 0), 1)
            cv2.putText(legend, name, (x + 18, top + 11), FONT, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
            x += cell_width
    return legend
