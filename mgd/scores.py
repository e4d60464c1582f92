"""What an evaluation found: scores of each class and image, as a table, JSON and CSV."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mgd.config import completed
from mgd.data.classes import Classes
from mgd.errors import UserError
from mgd.files import csv_text, write_json, write_text
from mgd.metrics import boundary_iou_per_class, dice_per_class, iou_per_class, pixel_accuracy

# Settings that change a score. Where the data lie is none of them.
SCORING = {
    "evaluate": ("mode", "scales", "flip", "exclude", "precision"),
    "data": ("val_list", "val_folder", "short_side", "classes", "label_map", "ignore_values"),
}
TITLES = {"iou": "IoU", "dice": "Dice", "boundary_iou": "boundary IoU"}


class ImageScores(NamedTuple):
    """One image's scores, 0..1; NaN for a class that is in neither label nor prediction."""

    name: str
    iou: tuple[float, ...]
    pixel_accuracy: float


@dataclass(frozen=True)
class Report:
    """The scores of one network on one list. Shares are 0..1; NaN for a class that never occurs."""

    classes: Classes
    confusion: Tensor  # (K,K) int64; rows: label
    images: int
    metrics: tuple[str, ...] = ("iou",)  # those of `mgd.config.Evaluate`
    excluded: tuple[str, ...] = ()  # classes that the means leave out
    boundary: Tensor | None = None  # (3,K) int64: `mgd.metrics.boundary_counts`
    per_image: tuple[ImageScores, ...] = ()

    @property
    def miou(self) -> float:
        """Mean IoU of the classes that occur and are not excluded."""
        return self.mean("iou")

    @property
    def is_empty(self) -> bool:
        """Whether no label holds a pixel that counts, so that there is no score."""
        return not bool(self.confusion.any())

    def of_classes(self, metric: str) -> list[float]:
        """One of `TITLES` for each class."""
        if metric == "boundary_iou":
            assert self.boundary is not None
            return boundary_iou_per_class(self.boundary).tolist()
        return (dice_per_class if metric == "dice" else iou_per_class)(self.confusion).tolist()

    def mean(self, metric: str, *, of_all: bool = False) -> float:
        """Mean over the classes that occur in label or prediction; without the excluded ones unless `of_all`."""
        return self._mean(self.of_classes(metric), () if of_all else self.excluded)

    def _mean(self, values: Sequence[float], left_out: Sequence[str]) -> float:
        kept = [value for name, value in zip(self.classes.names, values, strict=True) if name not in left_out]
        return float(torch.tensor(kept, dtype=torch.float64).nanmean())

    def table(self) -> str:
        """Scores of each class, means and pixel accuracy in percent, for a terminal."""
        names, notes = self.classes.names, self._notes()
        columns = [self.of_classes(metric) for metric in self.metrics]
        rows = [(n, row, notes.get(n, "")) for n, *row in zip(names, *columns, strict=True)]
        mean = "mIoU" if self.metrics == ("iou",) else "mean"
        ends = [(mean, [self.mean(m) for m in self.metrics], "")]
        if self.excluded:
            ends[0] = (mean, ends[0][1], f"without {', '.join(self.excluded)}")
            ends += [(f"{mean} of all", [self.mean(m, of_all=True) for m in self.metrics], "")]
        ends += [("pixel accuracy", [pixel_accuracy(self.confusion)], "")]
        width = max(len(name) for name, *_ in (*rows, *ends))
        lines = [_line(width, *row) for row in rows]
        lines += ["-" * (width + 10 * len(self.metrics)), *(_line(width, *row) for row in ends)]
        if self.metrics != ("iou",):
            heads = "".join(f"  {TITLES[metric].replace('boundary', 'bd.'):>8}" for metric in self.metrics)
            lines.insert(0, " " * width + heads)
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """JSON values; NaN, which `write_json` turns to null, for a class that never occurs."""
        names, confusion = self.classes.names, self.confusion
        labelled, predicted = confusion.sum(dim=1).tolist(), confusion.sum(dim=0).tolist()
        metrics = dict.fromkeys(("iou", *self.metrics))
        values = {
            "miou": self.miou,
            "pixel_accuracy": pixel_accuracy(confusion),
            **{metric: dict(zip(names, self.of_classes(metric), strict=True)) for metric in metrics},
            "means": {metric: self.mean(metric) for metric in metrics},
            "excluded": list(self.excluded),
            "means_of_all": {metric: self.mean(metric, of_all=True) for metric in metrics},
            "not_in_labels": [name for name, count in zip(names, labelled, strict=True) if not count],
            "never_predicted": [name for name, count in zip(names, predicted, strict=True) if not count],
            "images": self.images,
            "confusion": confusion.tolist(),
        }
        return {key: _null(value) for key, value in values.items()}

    def images_csv(self) -> str:
        """One row an image: name, mIoU, pixel accuracy, IoU of each class in percent; empty where there is none."""
        rows = [["image", "mIoU", "pixel accuracy", *self.classes.names]]
        for one in self.per_image:
            values = (self._mean(one.iou, self.excluded), one.pixel_accuracy, *one.iou)
            rows.append([one.name, *("" if math.isnan(v) else f"{100 * v:.2f}" for v in values)])
        return csv_text(rows)

    def write(self, folder: Path, name: str, **facts: Any) -> None:
        """Write <name>.txt, with scores of images <name>-images.csv, and last <name>.json, with `facts` in it."""
        write_text(folder / f"{name}.txt", self.table() + "\n")
        if self.per_image:
            write_text(folder / f"{name}-images.csv", self.images_csv())
        write_json(folder / f"{name}.json", facts | self.to_dict())  # which tells a sweep that the run is done

    def _notes(self) -> dict[str, str]:
        """Why a class has an IoU of 0: told for those that labels or predictions lack altogether."""
        labelled, predicted = self.confusion.sum(dim=1).tolist(), self.confusion.sum(dim=0).tolist()
        notes = {}
        for name, in_labels, in_predictions in zip(self.classes.names, labelled, predicted, strict=True):
            if in_labels and not in_predictions:
                notes[name] = "never predicted"
            elif in_predictions and not in_labels:
                notes[name] = "in no label"
        return notes


def scored_otherwise(config: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The settings of `other`, `key=value`, that score otherwise than those of `config`; both as their JSON tells."""
    own = _scoring(config)
    return [f"{key}={value}" for key, value in _scoring(other).items() if value != own.get(key)]


def _scoring(config: dict[str, Any]) -> dict[str, Any]:
    """What the scores of a config depend on, as JSON has it."""
    config = completed(config)
    found = {f"{section}.{key}": config[section][key] for section, keys in SCORING.items() for key in keys}
    if config["evaluate"]["mode"] == "slide":
        found["evaluate.crop_size"] = config["evaluate"]["crop_size"] or config["data"]["crop_size"]
        found["evaluate.stride"] = config["evaluate"]["stride"]
    as_json: dict[str, Any] = json.loads(json.dumps(found))
    return as_json


def check_excluded(excluded: Sequence[str], classes: Classes) -> None:
    """Raise UserError where `evaluate.exclude` names no class of the data, or all of them."""
    for name in excluded:
        if name not in classes.names:
            raise UserError(f"evaluate.exclude={name} is no class of the data; use some of {', '.join(classes.names)}")
    if set(excluded) >= set(classes.names):
        raise UserError(f"evaluate.exclude={','.join(excluded)} leaves no class for the mean; exclude fewer")


def _line(width: int, name: str, values: Sequence[float], note: str) -> str:
    cells = "".join("    absent" if math.isnan(value) else f"{100 * value:10.2f}" for value in values)
    return f"{name:<{width}}{cells}" + (f"  {note}" if note else "")


def _null(value: Any) -> Any:
    """None for NaN, one level down as well."""
    if isinstance(value, dict):
        return {key: _null(one) for key, one in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
