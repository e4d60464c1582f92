"""Write a photo graph as ONNX, as PyTorch's own programs, or through OpenVINO's and LiteRT's converters."""

import io
import json
import logging
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mgd.deploy.runtime import SHAPE_FILE
from mgd.errors import UserError
from mgd.extras import need
from mgd.models.photo import NAMES, PhotoGraph

AXES = ("batch", "height", "width")
OPSETS = range(18, 24)  # 18 has the antialiased Resize; ONNX Runtime reads them all
SMALLEST, LARGEST = 33, 8192  # sides in pixels of photos for a graph of dynamic size


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What photos a file takes. `size`: (height, width), None for any; `batch`: 0 for any."""

    size: tuple[int, int] | None = None
    batch: int = 1

    def example(self) -> Tensor:
        """Photos to trace with: uint8 (N,H,W,3)."""
        return torch.zeros(self.batch or 2, *(self.size or (96, 128)), 3, dtype=torch.uint8)

    @property
    def dynamic(self) -> tuple[str, ...]:
        """The axes that may change."""
        return (() if self.batch else AXES[:1]) + (() if self.size else AXES[1:])


def write_onnx(graph: PhotoGraph, shape: Shape, path: Path, *, opset: int, metadata: dict[str, Any]) -> None:
    """One file, weights inside. Raises UserError for an opset that the graph cannot have."""
    need("onnxscript", extra="export")
    onnx = need("onnx", extra="export")
    if opset not in OPSETS:
        raise UserError(f"--opset {opset} is not available; use {OPSETS[0]} to {OPSETS[-1]}")
    names = [*NAMES[graph.output]]
    with _quiet():
        program = torch.onnx.export(
            _program(graph, shape),
            (),
            input_names=["image"],
            output_names=names,
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _name_axes(model)
    _forget_the_tracing(model)
    onnx.helper.set_model_props(model, {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()})
    onnx.save(model, str(path))


def write_pt2(graph: PhotoGraph, shape: Shape, path: Path, **_: Any) -> None:
    """`torch.export`'s archive."""
    buffer = io.BytesIO()
    try:
        with _quiet():
            torch.export.save(_program(graph, shape), buffer)
    except torch._export.serde.serialize.SerializeError as error:  # such as sizes rounded up
        raise UserError(
            f"--format pt2 cannot hold this network with a dynamic size ({str(error).splitlines()[0]}); name a --size"
        ) from error
    path.write_bytes(buffer.getvalue())


def write_torchscript(graph: PhotoGraph, shape: Shape, path: Path, **_: Any) -> None:
    """A traced TorchScript module, its size in an extra file. Raises UserError for a dynamic one: traces have none."""
    if shape.size is None:
        raise UserError("--format torchscript records one size; name it, such as --size 512x512, or use pt2 or onnx")
    buffer = io.BytesIO()  # torch says of a full disk no more than that a runtime error happened; open() tells it
    with _quiet(), torch.no_grad():
        traced = torch.jit.trace(graph, shape.example(), check_trace=False)
        torch.jit.save(traced, buffer, _extra_files={SHAPE_FILE: json.dumps([*shape.example().shape])})
    with zipfile.ZipFile(buffer) as whole, zipfile.ZipFile(path, "w") as bare:
        for entry in whole.infolist():
            if entry.filename.endswith(".debug_pkl"):  # lines of source, with paths of this machine
                continue
            bare.writestr(entry, whole.read(entry))


def write_openvino(graph: PhotoGraph, shape: Shape, path: Path, *, opset: int, metadata: dict[str, Any]) -> None:
    """OpenVINO's IR in float32, from the ONNX file: the graph in `path`, the weights beside it in .bin."""
    openvino = need("openvino", extra="openvino")
    onnx = path.with_suffix(".onnx")
    write_onnx(graph, shape, onnx, opset=opset, metadata=metadata)
    openvino.save_model(openvino.convert_model(str(onnx)), str(path), compress_to_fp16=False)


class _Named(nn.Module):
    """A photo graph whose outputs a program has by name."""

    def __init__(self, photo_graph: PhotoGraph) -> None:
        super().__init__()
        self.photo_graph = photo_graph

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        found = self.photo_graph(image)
        outputs = found if isinstance(found, tuple) else (found,)
        return dict(zip(NAMES[self.photo_graph.output], outputs, strict=True))


def write_litert(graph: PhotoGraph, shape: Shape, path: Path, **_: Any) -> None:
    """LiteRT's flatbuffer. Raises UserError for a dynamic size, and for shrinking, which LiteRT cannot antialias."""
    if shape.dynamic:
        raise UserError("--format litert records one size and batch; name them, such as --size 512x512 --batch 1")
    if graph.short_side:
        raise UserError(
            f"--format litert cannot shrink photos to a short side of {graph.short_side}: let the app do it and name a "
            "--size of that short side, or --short-side 0 to segment them as they are"
        )
    litert = need("litert_torch", extra="litert")
    with _quiet():
        litert.config.show_progress = False
        litert.convert(_Named(graph).eval(), sample_kwargs={"image": shape.example()}).export(str(path))


WRITERS: dict[str, Callable[..., None]] = {
    "onnx": write_onnx,
    "pt2": write_pt2,
    "torchscript": write_torchscript,
    "openvino": write_openvino,
    "litert": write_litert,
}
SUFFIXES = {kind: f".{kind}" for kind in WRITERS} | {"openvino": ".xml", "litert": ".tflite"}


def _program(graph: PhotoGraph, shape: Shape) -> torch.export.ExportedProgram:
    sides = {name: torch.export.Dim(name, min=SMALLEST, max=LARGEST) for name in AXES[1:]}
    dims = {"batch": torch.export.Dim("batch", min=1, max=1024), **sides}
    axes = {i: dims[name] for i, name in enumerate(AXES) if name in shape.dynamic}
    program = torch.export.export(
        graph,
        (shape.example(),),
        dynamic_shapes=(axes,) if axes else None,
        strict=False,
        # Sizes after strides are floors that the solver cannot compare: checked when it runs, not promised beforehand.
        prefer_deferred_runtime_asserts_over_guards=True,
    )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # with paths of this machine
    return program


def _name_axes(model: Any) -> None:
    """Call the dynamic axes batch, height and width, instead of the tracer's s62."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    names = {dim.dim_param: name for dim, name in zip(dims, AXES, strict=False) if dim.dim_param}
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in names:
                dim.dim_param = names[dim.dim_param]
    del model.graph.value_info[:]  # they name the old axes; runtimes infer them again


def _forget_the_tracing(model: Any) -> None:
    """Drop what the tracer notes about every node: stack traces with paths of this machine, a tenth of a small file."""
    for part in (*model.graph.node, *model.graph.initializer, model.graph, model):
        del part.metadata_props[:]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' remarks about themselves."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
