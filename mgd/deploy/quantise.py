"""Float32 ONNX -> INT8 (static, QDQ, weights per channel); layers that lose much or gain nothing stay in float32."""

import json
import logging
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mgd.data.datasets import Item
from mgd.data.folders import photos_in
from mgd.deploy.comparison import Comparison, readable_photos
from mgd.deploy.extras import need
from mgd.deploy.runtime import Runner, onnx_runner, session_of
from mgd.deploy.timing import latencies
from mgd.errors import UserError, first_few

log = logging.getLogger(__name__)
MOST_LOST = 0.005  # mIoU, 0..1
CALIBRATION = 64  # photos
OPERATORS = [  # that have INT8 kernels; what does not lie between two convolutions stays in float32
    *("Conv", "Add", "Mul", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool", "Relu", "Clip", "LeakyRelu"),
    *("Sigmoid", "Resize"),
]


@dataclass(frozen=True)
class Quantised:
    """An INT8 model and how it came about.

    Attributes:
        layers: of convolutions, how many are INT8.
        kept: convolutions left in float32, with why.
        speedup: float32 time / INT8 time, one thread, the golden photo.
    """

    model: bytes
    comparison: Comparison
    photos: int
    layers: int
    kept: dict[str, str]
    speedup: float

    def to_dict(self) -> dict[str, Any]:
        """What the card says."""
        return {
            "calibration_photos": self.photos,
            "int8_convolutions": self.layers,
            "float32_convolutions": self.kept,
            "speedup": round(self.speedup, 2),
        }


def quantise(
    file: Path,
    folder: Path,
    measure: Callable[[Runner], Comparison],
    *,
    float32: Comparison,
    photo: np.ndarray,
) -> Quantised:
    """Quantise a float32 ONNX file.

    Args:
        folder: calibration photos, no labels needed.
        measure: compares a runner with the network.
        float32: what it found for the file as it is.
        photo: (1,H,W,3), what times and single layers' losses are measured on.

    Raises:
        UserError: no photo can be read, or more than `MOST_LOST` is lost with every layer in float32 that helps.
    """
    graph = _Graph(file, _calibration_photos(folder, onnx_runner(file.read_bytes(), file)))
    kept = dict.fromkeys(graph.slower_layers(photo), "INT8 is not faster")
    result = graph.quantised(kept)
    compared = measure(onnx_runner(result, file))
    if float32.miou is None:
        changed = 100 * (1 - compared.agreement)
        log.warning(
            "INT8 changes the class of %.1f %% of the pixels; labelled --images would tell what it loses", changed
        )
    else:
        compared, result = _keep_worst(graph, kept, photo, measure, compared, result, float32.miou)
    times = _best_times({"float32": file.read_bytes(), "int8": result}, photo)
    layers = len(graph.convs) - len(kept)
    return Quantised(result, compared, graph.count, layers, kept, times["float32"] / times["int8"])


def _keep_worst(
    graph: "_Graph",
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
        ranked = ranked or graph.by_loss(photo)
        worst = [name for name in ranked if name not in kept][:step]
        if not worst or len(kept) + len(worst) > len(graph.convs) // 2:
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


class _Graph:
    """A float32 model with the ranges of its activations, quantised again and again with other layers left out."""

    def __init__(self, file: Path, photos: Sequence[np.ndarray]) -> None:
        need("onnx", extra="export")
        need("onnxruntime", extra="export")
        from onnxruntime.quantization import CalibrationMethod
        from onnxruntime.quantization.calibrate import create_calibrator

        self.file, self.count = file, len(photos)
        self.nodes = self._load().graph.node
        self.convs = [node.name for node in self.nodes if node.op_type == "Conv"]
        self.inner = _between_convolutions(self.nodes)
        with tempfile.TemporaryDirectory() as folder:
            augmented = str(Path(folder) / "augmented.onnx")
            calibrator = create_calibrator(
                file, OPERATORS, augmented_model_path=augmented, calibrate_method=CalibrationMethod.MinMax
            )
            calibrator.collect_data(_Reader(photos))
            self.ranges = calibrator.compute_data()

    def quantised(self, kept: Iterable[str]) -> bytes:
        """The model in INT8 but for the convolutions `kept`."""
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

        out = set(kept)
        quantizer = QDQQuantizer(
            self._load(),
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=self.ranges,
            nodes_to_quantize=[name for name in self.inner if name not in out],
            nodes_to_exclude=sorted(out),
            op_types_to_quantize=OPERATORS,
            extra_options={},
        )
        quantizer.quantize_model()
        return quantizer.model.model.SerializeToString()

    def slower_layers(self, photo: np.ndarray) -> list[str]:
        """Convolutions that take no less time in INT8, by both models' profiles; none where the whole gets slower."""
        everything = self.quantised(())
        float32, int8 = _profile(self.file.read_bytes(), photo), _profile(everything, photo)
        outputs = {node.name: {node.output[0]} for node in self.nodes if node.op_type == "Conv"}
        for node in self.nodes:  # ONNX Runtime calls a fused convolution by the output of its activation
            for tensors in outputs.values():
                if node.op_type in ("Relu", "Clip", "LeakyRelu") and node.input[0] in tensors:
                    tensors.add(node.output[0])
        slower = []
        for name, tensors in outputs.items():
            before = [float32[key] for tensor in tensors if (key := f"{tensor}_nchwc") in float32]
            after = [time for key, time in int8.items() if re.fullmatch(rf"{re.escape(name)}(_token_\d+)?", key)]
            if before and after and min(after) >= min(before):
                slower.append(name)
        if not slower:
            return []
        times = _best_times({"all": everything, "some": self.quantised(slower)}, photo)
        return slower if times["some"] < times["all"] else []

    def by_loss(self, photo: np.ndarray) -> list[str]:
        """All convolutions, first the one that changes most of the photo's pixels when it alone is INT8."""
        runner = onnx_runner(self.file.read_bytes(), self.file)
        expected = _first(runner, photo)
        losses = {}
        for name in self.convs:
            alone = onnx_runner(self.quantised(set(self.inner) - {name}), self.file)
            losses[name] = float(np.abs(_first(alone, photo).astype(np.float32) - expected).astype(bool).mean())
        return sorted(self.convs, key=lambda name: -losses[name])

    def _load(self) -> Any:
        from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

        return load_model_with_shape_infer(self.file)


class _Reader:
    """What ONNX Runtime's calibrators take photos from."""

    def __init__(self, photos: Sequence[np.ndarray]) -> None:
        self._rest = iter(photos)

    def __iter__(self) -> "_Reader":
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        return {"image": next(self._rest)}

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next photo, None after the last."""
        return next(self, None)


def _calibration_photos(folder: Path, runner: Runner) -> list[np.ndarray]:
    """Photos (1,H,W,3) spread over the folder, as the file takes them; broken ones are told and left out."""
    if not folder.is_dir():
        raise UserError(f"--int8 {folder} is not a folder; name one with photos to calibrate with, labels or none")
    files = photos_in(folder)
    chosen = np.unique(np.linspace(0, len(files) - 1, min(CALIBRATION, len(files))).round().astype(int))
    photos, problems = readable_photos([Item(files[i].stem, files[i], None) for i in chosen])
    if problems:
        log.warning("%d of %d calibration photos are left out: %s", len(problems), len(chosen), first_few(problems))
    return [np.ascontiguousarray(runner.fit(photo)[None]) for photo in photos]


def _between_convolutions(nodes: Sequence[Any]) -> list[str]:
    """Convolutions, and what lies on a way from one to another: neither the photo's nor the logits' handling."""
    made = {output: node for node in nodes for output in node.output}
    readers: dict[str, list[Any]] = defaultdict(list)
    for node in nodes:
        for name in node.input:
            readers[name].append(node)
    convs = [node for node in nodes if node.op_type == "Conv"]
    after = _reached(convs, lambda node: [reader for output in node.output for reader in readers[output]])
    before = _reached(convs, lambda node: [made[name] for name in node.input if name in made])
    return [node.name for node in nodes if node.op_type == "Conv" or node.name in after & before]


def _reached(start: Sequence[Any], step: Callable[[Any], list[Any]]) -> set[str]:
    found: set[str] = set()
    rest = list(start)
    while rest:
        for node in step(rest.pop()):
            if node.name not in found:
                found.add(node.name)
                rest.append(node)
    return found


def _profile(model: bytes, photo: np.ndarray, *, runs: int = 5) -> dict[str, int]:
    """Shortest time of every node in microseconds, one thread."""
    with tempfile.TemporaryDirectory() as folder:
        session = session_of(model, threads=1, profile=str(Path(folder) / "profile"))
        for _ in range(runs):
            session.run(None, {"image": photo})
        events = json.loads(Path(session.end_profiling()).read_text())
    found: dict[str, int] = {}
    for event in events:
        name, suffix = event["name"].removesuffix("_kernel_time"), "_kernel_time"
        if event.get("cat") == "Node" and event["name"].endswith(suffix):
            found[name] = min(event["dur"], found.get(name, event["dur"]))
    return found


def _best_times(models: dict[str, bytes], photo: np.ndarray, *, rounds: int = 5) -> dict[str, float]:
    """Shortest milliseconds of each, one thread, in turns so that a busy machine is busy for all."""
    runners = {name: onnx_runner(model, Path(name), threads=1) for name, model in models.items()}
    found = dict.fromkeys(models, np.inf)
    for _ in range(rounds):
        for name, runner in runners.items():
            found[name] = min(found[name], float(latencies(runner, photo, runs=3, seconds=1).min()))
    return found


def _first(runner: Runner, photo: np.ndarray) -> np.ndarray:
    return next(iter(runner.run(photo).values()))
