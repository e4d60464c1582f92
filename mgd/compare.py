"""Several networks side by side on one validation list: a table of scores and one picture."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from mgd.checkpoint import config_of, recognise
from mgd.config import Experiment
from mgd.data.classes import read_classes
from mgd.data.datasets import open_val
from mgd.data.samples import ValidationSamples
from mgd.draw import draw_sheet, panel, panels
from mgd.evaluate import check_network, evaluate
from mgd.files import write_png
from mgd.infer import predict_labels
from mgd.metrics import iou_per_class
from mgd.models.network import SegmentationNetwork
from mgd.scores import Report
from mgd.student import student_in
from mgd.weights import read

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

    Each sees photos of the size, and windows, that it was trained with, unless `overrides` say otherwise.

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
    networks: dict[str, SegmentationNetwork] = {}
    configs: dict[str, Experiment] = {}
    for name, path in checkpoints.items():
        found = recognise(read(path), path)
        networks[name] = student_in(found, path, device, classes=classes.names)
        check_network(networks[name], config.model, overrides, path)
        own = config_of(found, path)
        configs[name] = config if own is None else _as_trained(config, own, overrides)
    samples = {n: ValidationSamples(items, own, len(classes)) for n, own in configs.items()}
    rows = []
    for index in np.linspace(0, len(items) - 1, min(images, len(items))).round().astype(int):
        maps = []
        for n, network in networks.items():
            sample, how = samples[n][int(index)], configs[n].scoring
            image, label = sample["image"], sample["label"]
            maps.append(predict_labels(network, image.to(device), how, size=(label.shape[0], label.shape[1])).cpu())
        rows.append([panel(one, width=WIDTH) for one in panels(image, [label, *maps], classes)])
    write_png(out, draw_sheet(rows, ["image", "truth", *networks], classes))
    return {n: evaluate(net, items, classes, configs[n], device, progress=n) for n, net in networks.items()}


def _as_trained(config: Experiment, own: Experiment, overrides: Sequence[str]) -> Experiment:
    """`config` with the photos' size and the windows of a network's `own`, as far as nothing overrides them."""
    changed = {text.partition("=")[0] for text in overrides}
    sizes = {key: getattr(own.data, key) for key in ("short_side", "crop_size") if f"data.{key}" not in changed}
    return replace(config, data=replace(config.data, **sizes))


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
