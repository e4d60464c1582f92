"""Float32 ONNX -> INT8; layers that lose much or gain nothing stay in float32."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mgd.data.folders import photos_in
from mgd.data.items import Item
from mgd.deploy.comparison import Comparison, label_of, readable
from mgd.deploy.int8.qdq import Graph
from mgd.deploy.int8.speed import best_times, slower_layers
from mgd.deploy.runtime import Runner, onnx_runner
from mgd.errors import UserError

log = logging.getLogger(__name__)
MOST_LOST = 0.005  # mIoU, 0..1
CALIBRATION = 64  # photos


@dataclass(frozen=True)
class Quantised:
    """An INT8 model and how it came about.

    Attributes:
        layers: of convolutions, how many are INT8.
        kept: convolutions left in float32, with why.
        speedup: float32 time / INT8 time, one thread, the golden photo.
        size: INT8 bytes / float32 bytes.
    """

    model: bytes
    comparison: Comparison
    photos: int
    layers: int
    kept: dict[str, str]
    speedup: float
    size: float

    def to_dict(self) -> dict[str, Any]:
        """What the card says."""
        return {
            "calibration_photos": self.photos,
            "int8_convolutions": self.layers,
            "float32_convolutions": self.kept,
            "speedup": round(self.speedup, 2),
            "size": round(self.size, 3),
        }


def quantise(
    file: Path,
    folder: Path,
    measure: Callable[[Runner], Comparison],
    *,
    float32: Comparison,
    photo: np.ndarray,
    label_pattern: str = "",
) -> Quantised:
    """Quantise a float32 ONNX file.

    Args:
        folder: calibration photos, no labels needed.
        measure: compares a runner with the network.
        float32: what it found for the file as it is.
        photo: (batch,H,W,3), what times and single layers' losses are measured on.
        label_pattern: of labels among the photos of the folder, which are none.

    Raises:
        UserError: no photo can be read, or more than `MOST_LOST` is lost with every layer in float32 that helps.
    """
    graph = Graph(file, _calibration_photos(folder, label_pattern, onnx_runner(file.read_bytes(), file)))
    kept = dict.fromkeys(slower_layers(graph, photo), "INT8 is not faster")
    result = graph.quantised(kept)
    compared = measure(onnx_runner(result, file))
    if float32.miou is None:
        changed = 100 * (1 - compared.agreement)
        log.warning(
            "INT8 changes the class of %.1f %% of the pixels; labelled --images would tell what it loses", changed
        )
    else:
        compared, result = _keep_worst(graph, kept, photo, measure, compared, result, float32.miou)
    times = best_times({"float32": file.read_bytes(), "int8": result}, photo)
    layers = len(graph.convs) - len(kept)
    speedup, size = times["float32"] / times["int8"], len(result) / file.stat().st_size
    return Quantised(result, compared, graph.count, layers, kept, speedup, size)


def _keep_worst(
    graph: Graph,
    kept: dict[str, str],
    photo: np.ndarray,
    measure: Callable[[Runner], Comparison],
    compared: Comparison,
    result: bytes,
    miou: float,
) -> tuple[Comparison, bytes]:
    """Put layers back into float32, those that change most first, until no more than `MOST_LOST` is lost."""
    ranked: list[str] = []
    step = 1
    while (lost := miou - (compared.miou or 0.0)) > MOST_LOST:
        ranked = ranked or _by_loss(graph, photo)
        room = max(0, len(graph.convs) // 2 - len(kept))
        worst = [name for name in ranked if name not in kept][: min(step, room)]
        if not worst:
            raise UserError(
                f"INT8 loses {100 * lost:.2f} points of mIoU with {len(kept)} of {len(graph.convs)} convolutions in "
                f"float32, at most {100 * MOST_LOST} may be lost; calibrate with more photos like those it will see "
                f"than these {graph.count}, or export without --int8"
            )
        kept |= dict.fromkeys(worst, "loses accuracy")
        step *= 2
        result = graph.quantised(kept)
        compared = measure(onnx_runner(result, graph.file))
    return compared, result


def _by_loss(graph: Graph, photo: np.ndarray) -> list[str]:
    """All convolutions, first the one that changes most of the photo's pixels when it alone is INT8."""
    expected = label_of(onnx_runner(graph.file.read_bytes(), graph.file).run(photo))
    losses = {}
    for name in graph.convs:
        alone = onnx_runner(graph.quantised(set(graph.inner) - {name}), graph.file)
        losses[name] = float((label_of(alone.run(photo)) != expected).mean())
    return sorted(graph.convs, key=lambda name: -losses[name])


def _calibration_photos(folder: Path, label_pattern: str, runner: Runner) -> list[np.ndarray]:
    """Photos (batch,H,W,3) spread over the folder, as the file takes them; broken ones are told and left out."""
    if not folder.is_dir():
        raise UserError(f"--int8 {folder} is not a folder; name one with photos to calibrate with, labels or none")
    files = photos_in(folder, label_pattern)
    chosen = np.unique(np.linspace(0, len(files) - 1, min(CALIBRATION, len(files))).round().astype(int))
    items = [Item(files[i].stem, files[i], None) for i in chosen]
    return [runner.fit(photo) for _, photo in readable(items, "calibration photos")]
