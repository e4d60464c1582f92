"""A float32 ONNX file as INT8 (static, QDQ, weights per channel), as often as wanted, with other layers left out."""

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mgd.extras import need

OPERATORS = [  # that have INT8 kernels; what does not lie between two convolutions stays in float32
    *("Conv", "Add", "Mul", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool", "Relu", "Clip", "LeakyRelu"),
    *("Sigmoid", "Resize"),
]


class Graph:
    """A float32 model with the ranges of its activations, quantised again and again with other layers left out."""

    def __init__(self, file: Path, photos: Sequence[np.ndarray]) -> None:
        need("onnx", extra="export")
        need("onnxruntime", extra="export")
        from onnxruntime.quantization import CalibrationMethod
        from onnxruntime.quantization.calibrate import create_calibrator

        self.file, self.count = file, len(photos)
        self.nodes = self._load().graph.node
        self.convs = [node.name for node in self.nodes if node.op_type == "Conv"]
        self.weights = self._weights()
        self.inner = between_convolutions(self.nodes)
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

    def _weights(self) -> dict[str, int]:
        """Bytes of every convolution's weight in float32."""
        graph = self._load().graph
        sizes = {tensor.name: 4 * int(np.prod(tensor.dims)) for tensor in graph.initializer}
        return {node.name: sizes[node.input[1]] for node in graph.node if node.op_type == "Conv"}

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


def between_convolutions(nodes: Sequence[Any]) -> list[str]:
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
