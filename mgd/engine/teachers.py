"""Teachers are scored before they teach: a student follows its teachers, down as well."""

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from mgd.config import Experiment, Taught
from mgd.data.datasets import Splits
from mgd.errors import UserError
from mgd.evaluate import Report, evaluate
from mgd.metrics import iou_per_class
from mgd.models.network import SegmentationNetwork
from mgd.objectives import find_teacher, teacher_paths
from mgd.weights import end_of

log = logging.getLogger(__name__)
LOST = 0.01  # a class below this IoU counts as lost
REMEDY = (
    "A student follows its teachers, down as well: train the teacher longer, with method.rampup_iterations, or from "
    "ImageNet weights"
)


def score_teachers(
    teachers: Mapping[str, SegmentationNetwork],
    config: Experiment,
    splits: Splits,
    device: torch.device,
    *,
    main: bool,
    before_image: Callable[[], None] = lambda: None,
) -> None:
    """Evaluate every teacher, write teacher-<name>.json and .txt into the run's folder, and warn of a bad one.

    `before_image` is called before every image, as in `evaluate`.
    """
    assert isinstance(config.method, Taught)
    if not config.method.score_teachers:
        return
    baseline = _baseline_miou(config.method.baseline)
    for name, teacher in teachers.items():
        caption = f"{name} teacher" if main else ""
        report = evaluate(
            teacher, splits.val, splits.classes, config, device, progress=caption, before_image=before_image
        )
        log.info("%s teacher: mIoU %.2f on %d validation images", name, 100 * report.miou, report.images)
        for warning in warnings_about(report, baseline):
            log.warning("the %s teacher %s. %s", name, warning, REMEDY)
        if main:
            end = end_of(find_teacher(teacher_paths(config.method)[name], name))
            report.write(Path(config.run.dir), f"teacher-{name}", end=end)


def scored_teachers(folder: Path, ends: Mapping[str, str]) -> dict[str, float]:
    """The mIoU of each teacher as `score_teachers` wrote it; none of a teacher whose checkpoint is another by now.

    Args:
        folder: of the run.
        ends: `mgd.weights.end_of` each teacher's checkpoint.
    """
    found = {}
    for name, end in ends.items():
        file = folder / f"teacher-{name}.json"
        told = json.loads(file.read_text()) if file.is_file() else {}
        if isinstance(told.get("miou"), float) and told.get("end", end) == end:
            found[name] = told["miou"]
    return found


def warnings_about(report: Report, baseline: float | None) -> list[str]:
    """What is wrong with a teacher: below the labels alone, or collapsed towards few classes."""
    found = []
    if baseline is not None and report.miou < baseline:
        found.append(f"scores {100 * report.miou:.2f} mIoU, labels alone give {100 * baseline:.2f}")
    iou = iou_per_class(report.confusion)
    lost = [name for name, value in zip(report.classes.names, iou.tolist(), strict=True) if value < LOST]
    if 2 * len(lost) >= len(report.classes):
        found.append(f"has lost {len(lost)} of {len(report.classes)} classes ({', '.join(lost)})")
    return found


def _baseline_miou(path: str) -> float | None:
    """mIoU of an evaluation's JSON; None, which is told, where there is none."""
    if not path or not Path(path).is_file():
        log.info("method.baseline: no evaluation at %r, so the teachers are not held against labels alone", path)
        return None
    try:
        return float(json.loads(Path(path).read_text())["miou"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"method.baseline={path} is not the JSON of an evaluation; evaluate that run again") from error
