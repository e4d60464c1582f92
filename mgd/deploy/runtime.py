"""Run exported files: photos (N,H,W,3) uint8 in, named arrays out, whatever the format."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from mgd.errors import UserError
from mgd.extras import need
from mgd.models.photo import NAMES, PhotoGraph
from mgd.parallel import cores

Outputs = dict[str, np.ndarray]
Size = tuple[int, int]  # height, width
SUFFIXES = (".onnx", ".xml", ".tflite", ".pt2", ".torchscript")
SHAPE_FILE = "image_shape.json"  # in a TorchScript archive, whose graph does not tell


@dataclass(frozen=True)
class Runner:
    """Something that segments photos.

    Attributes:
        run: uint8 (N,H,W,3) -> outputs by name.
        size: what photos must have; None takes any.
        batch: how many of them a run is for.
    """

    run: Callable[[np.ndarray], Outputs]
    size: Size | None = None
    batch: int = 1

    def fit(self, photo: np.ndarray) -> np.ndarray:
        """A photo (H,W,3) stretched to `size`, as an app does with a camera's picture: (batch,H,W,3), all the same."""
        if self.size is not None and photo.shape[:2] != self.size:
            shrinks = photo.shape[0] * photo.shape[1] > self.size[0] * self.size[1]
            how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            photo = cv2.resize(photo, self.size[::-1], interpolation=how)
        return np.repeat(photo[None], self.batch, axis=0)


def torch_runner(graph: PhotoGraph, size: Size | None) -> Runner:
    """The network in PyTorch."""
    return Runner(lambda photos: _run_torch(graph, NAMES[graph.output], photos), size)


def open_runner(path: Path, *, threads: int = 0) -> Runner:
    """Open an exported file by its suffix, on the CPU.

    Args:
        threads: of one run; 0: as many as there are cores.

    Raises:
        UserError: it is missing, damaged or of another kind; or its runtime is not installed.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; expected a file that mgd export wrote")
    if path.suffix == ".onnx":
        return onnx_runner(path.read_bytes(), path, threads=threads)
    if path.suffix == ".xml":
        return _open_openvino(path, threads)
    if path.suffix == ".tflite":
        return _open_litert(path, threads)
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path} is not an exported file; expected one of {', '.join(SUFFIXES)}")
    try:
        module, fixed = _load_program(path) if path.suffix == ".pt2" else _load_script(path)
    except Exception as error:  # the two loaders raise whatever a damaged zip leads them to
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} cannot be loaded ({reason}); export it again") from error
    return Runner(lambda photos: _run_torch(module, (), photos), **fixed)


def session_of(model: bytes, *, threads: int = 0, profile: str = "") -> Any:
    """An ONNX Runtime session on the CPU; `profile`: where its profile goes."""
    ort = need("onnxruntime", extra="export")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, profile
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def onnx_runner(model: bytes, name: Path, *, threads: int = 0) -> Runner:
    """As `open_runner`, of an ONNX model in memory; `name`: for messages."""
    try:
        session = session_of(model, threads=threads)
    except UserError:
        raise
    except Exception as error:  # ONNX Runtime has an exception of its own for every status
        raise UserError(f"{name} is not a model that ONNX Runtime can run ({str(error)[:200]})") from error
    names = [output.name for output in session.get_outputs()]
    (image,) = session.get_inputs()

    def run(photos: np.ndarray) -> Outputs:
        return dict(zip(names, session.run(names, {image.name: photos}), strict=True))

    return Runner(run, **_fixed(image.shape))


def _open_openvino(path: Path, threads: int) -> Runner:
    """In float32, which OpenVINO would else leave for bfloat16 on some processors."""
    openvino = need("openvino", extra="openvino")
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    try:
        model = openvino.Core().compile_model(str(path), "CPU", settings)
    except RuntimeError as error:
        raise UserError(f"{path} is not a model that OpenVINO can run ({str(error)[:200]})") from error
    names = [output.get_any_name() for output in model.outputs]
    shape = [None if side.is_dynamic else side.get_length() for side in model.inputs[0].get_partial_shape()]

    def run(photos: np.ndarray) -> Outputs:
        return {name: np.array(array) for name, array in zip(names, model(photos).values(), strict=True)}

    return Runner(run, **_fixed(shape))


def _open_litert(path: Path, threads: int) -> Runner:
    interpreter = need("ai_edge_litert.interpreter", extra="litert")
    try:
        model = interpreter.Interpreter(str(path), num_threads=threads or cores())
        signature = model.get_signature_runner()
        shape = signature.get_input_details()["image"]["shape"].tolist()
    except (ValueError, RuntimeError, KeyError) as error:
        raise UserError(f"{path} is not a model that LiteRT can run ({str(error)[:200]})") from error
    return Runner(lambda photos: signature(image=photos), **_fixed(shape))


def _fixed(shape: Sequence[Any]) -> dict[str, Any]:
    """What `Runner` says of an input (N,H,W,3), whose dynamic axes are no numbers."""
    batch, height, width = (side if isinstance(side, int) else None for side in shape[:3])
    return {"size": (height, width) if height and width else None, "batch": batch or 1}


def _load_program(path: Path) -> tuple[Any, dict[str, Any]]:
    program = torch.export.load(path)
    (name,) = program.graph_signature.user_inputs
    (image,) = (node.meta["val"] for node in program.graph.nodes if node.name == name)
    return program.module(), _fixed(image.shape)


def _load_script(path: Path) -> tuple[Any, dict[str, Any]]:
    extra = {SHAPE_FILE: ""}  # files of other versions lack it
    module = torch.jit.load(path, _extra_files=extra)
    return module, _fixed(json.loads(extra[SHAPE_FILE])) if extra[SHAPE_FILE] else {}


@torch.inference_mode()
def _run_torch(module: Callable[..., Any], names: tuple[str, ...], photos: np.ndarray) -> Outputs:
    found = module(torch.from_numpy(np.ascontiguousarray(photos)))
    arrays = [tensor.numpy() for tensor in (found if isinstance(found, (tuple, list)) else (found,))]
    if not names:  # a loaded program does not know them: the outputs tell
        names = ("label", "confidence")[: len(arrays)] if arrays[0].dtype == np.uint8 else ("logits",)
    return dict(zip(names, arrays, strict=True))
