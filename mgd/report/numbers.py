"""The numbers of a report: what its tables show, and what `--json` writes."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mgd.config import method_name
from mgd.deploy.profile import count
from mgd.report.predictions import Predictions
from mgd.report.runs import Run
from mgd.statistics import Difference, ious, paired_bootstrap


@dataclass(frozen=True, kw_only=True)
class Score:
    """How good a run is; shares are 0..1.

    Attributes:
        ious: (K,) NaN for a class in neither labels nor predictions.
        differences: to the first run, of every class's IoU and, last, of mIoU; empty for the first run.
        agreements: pixels with the same class as each run of the report.
    """

    name: str
    method: str
    miou: float
    accuracy: float
    ious: np.ndarray
    differences: tuple[Difference, ...]
    agreements: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a run's network costs.

    Attributes:
        multiply_accumulates: at 512x512.
        bytes: of last.pt.
        images_per_second: median in training; None where metrics.jsonl does not tell.
    """

    backbone: str
    parameters: int
    multiply_accumulates: int
    bytes: int
    images_per_second: float | None


def scores(runs: Sequence[Run], found: Predictions) -> list[Score]:
    """Every run's score on the images that all have predicted."""
    scored = []
    for r, (run, confusions) in enumerate(zip(runs, found.confusions, strict=True)):
        total = confusions.sum(0)
        config = run.source.config
        differences = paired_bootstrap(found.confusions[0], confusions, counted=found.counted) if r else ()
        scored.append(
            Score(
                name=run.name,
                method=method_name(config.method) if config else "not known",
                miou=found.miou(total),
                accuracy=_diagonal(total),
                ious=ious(total),
                differences=tuple(differences),
                agreements=tuple(_diagonal(both) for both in found.agreements[r]),
            )
        )
    return scored


def cost(run: Run) -> Cost:
    """Parameters, multiply-accumulates, size and speed of training."""
    network = run.source.network
    rate = [line["images_per_second"] for line in run.metrics if "lr" in line]
    return Cost(
        backbone=network.arch["backbone"],
        parameters=sum(p.numel() for p in network.parameters()),
        multiply_accumulates=count(network, 512)[0].whole,
        bytes=run.source.path.stat().st_size,
        images_per_second=float(np.median(rate)) if rate else None,
    )


def to_json(runs: Sequence[Run], found: Predictions, scored: Sequence[Score]) -> dict[str, Any]:
    """JSON values: the images' names, and each run's scores, differences to the first run, and cost."""
    names = found.classes.names
    listed = [
        {
            "name": one.name,
            "checkpoint": str(run.path),
            "command": run.command,
            "method": one.method,
            "miou": one.miou,
            "accuracy": one.accuracy,
            "iou": dict(zip(names, one.ious.tolist(), strict=True)),
            "minus_first": {name: _interval(d) for name, d in zip((*names, "mIoU"), one.differences, strict=True)}
            if one.differences
            else None,
            "agreement": dict(zip((run.name for run in runs), one.agreements, strict=True)),
            "cost": asdict(cost(run)),
        }
        for run, one in zip(runs, scored, strict=True)
    ]
    return {"classes": list(names), "excluded": list(found.excluded), "images": list(found.names), "runs": listed}


def _interval(difference: Difference) -> dict[str, Any]:
    low, high = difference.low, difference.high
    return {"mean": difference.mean, "low": low, "high": high, "distinguishable": bool(difference.sign)}


def _diagonal(confusion: np.ndarray) -> float:
    """Share of the pixels in which rows and columns say the same."""
    return float(confusion.trace() / max(1, confusion.sum()))
