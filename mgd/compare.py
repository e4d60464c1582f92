"""Several networks side by side on one validation list: a table of scores and one picture."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from mgd.config import Experiment
from mgd.data.classes import read_classes
from mgd.data.datasets import open_val
from mgd.data.loaders import ValidationSamples
from mgd.draw import draw_sheet, panel, panels
from mgd.evaluate import check_network, evaluate
from mgd.files import write_png
from mgd.infer import predict_labels
from mgd.metrics import iou_per_class
from mgd.scores import Report
from mgd.student import load_student

WIDTH = 320  # of a picture in the comparison, in pixels


def compare(
    checkpoints: Mapping[str, Path],
    config: Experiment,
    device: torch.device,
    *,
    out: Path,
    images: int = 6,
    overrides: Sequence[str] = (),
) -> dict[str, Report]:
    """Evaluate the networks of `checkpoints` (name -> file) on `config`'s validation list.

    Writes `out`: for `images` images spread over the list a row of image, truth and every network's prediction.

    Args:
        overrides: what `config` was changed by; those of `model.*` must hold of every network.

    Returns:
        Each network's report, by its name.

    Raises:
        UserError: as `load_student` and `evaluate`; an override asks for another network than a file's.
    """
    root = Path(config.data.root)
    classes, items = read_classes(config.data.classes, root), open_val(config.data)
    networks = {n: load_student(path, device, classes=classes.names) for n, path in checkpoints.items()}
    for name, network in networks.items():
        check_network(network, config.model, overrides, checkpoints[name])
    how = replace(config.evaluate, crop_size=config.evaluate.crop_size or config.data.crop_size)
    samples = ValidationSamples(items, config, len(classes))
    rows = []
    for index in np.linspace(0, len(items) - 1, min(images, len(items))).round().astype(int):
        sample = samples[int(index)]
        image, label = sample["image"], sample["label"]
        size = tuple(label.shape)
        found = (predict_labels(n, image.to(device), how, size=size).cpu() for n in networks.values())
        row = panels(image, [label, *found], classes)
        rows.append([panel(one, width=WIDTH) for one in row])
    write_png(out, draw_sheet(rows, ["image", "truth", *networks], classes))
    return {n: evaluate(net, items, classes, config, device, progress=n) for n, net in networks.items()}


def comparison_table(reports: Mapping[str, Report]) -> str:
    """One row a class and mIoU, one column a report, in percent."""
    first = next(iter(reports.values()))
    excluded = f" without {', '.join(first.excluded)}" if first.excluded else ""
    names = [*first.classes.names, f"mIoU{excluded}"]
    columns = {n: [*iou_per_class(r.confusion).tolist(), r.miou] for n, r in reports.items()}
    width = max(map(len, names))
    widths = {n: max(8, len(n)) for n in columns}
    lines = [" ".join([" " * width, *(f"{n:>{widths[n]}}" for n in columns)])]
    for i, name in enumerate(names):
        cells = ("absent" if math.isnan(v[i]) else f"{100 * v[i]:.2f}" for v in columns.values())
        padded = (f"{cell:>{widths[n]}}" for n, cell in zip(columns, cells, strict=True))
        lines.append(" ".join([f"{name:<{width}}", *padded]))
    return "\n".join(lines)
