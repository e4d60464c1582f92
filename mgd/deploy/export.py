"""Checkpoint -> one file that segments photos, compared with the network on real ones before it gets its name."""

import errno
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from mgd.data.classes import Classes
from mgd.data.images import load_image
from mgd.data.items import Item
from mgd.deploy.card import LICENCE, card_bytes, card_path, golden_bytes, golden_path
from mgd.deploy.comparison import choose_photos, compare_runners, readable
from mgd.deploy.formats import SMALLEST, WRITERS, Shape
from mgd.deploy.int8.quantise import quantise
from mgd.deploy.profile import count
from mgd.deploy.runtime import Runner, onnx_runner, open_runner, torch_runner
from mgd.deploy.source import Source
from mgd.deploy.timing import latencies
from mgd.deploy.verify import fingerprint
from mgd.errors import UserError
from mgd.extras import need
from mgd.files import atomic, sha256_of, write_together
from mgd.models.folding import fold_batch_norm
from mgd.models.photo import Output, PhotoGraph, shrunk_size
from mgd.version import __version__

LEAST_AGREEMENT = 0.9999  # of pixels, float32 file against PyTorch
LEAST_AGREEMENT_INT8 = 0.98  # golden photo on another machine's INT8 instructions


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is asked for.

    Attributes:
        kind: a key of `mgd.deploy.formats.WRITERS`.
        short_side: what the graph shrinks photos to; None: as the checkpoint was trained.
        images: folder of photos to compare on; None: the checkpoint's validation list.
        count: at most so many of them.
        int8: folder of photos to calibrate with, for ONNX; None: float32.
        largest: longer side of the golden photo, at most, where the file takes any size; None: as it is.
    """

    kind: str
    out: Path
    shape: Shape = field(default_factory=Shape)
    output: Output = "labels"
    opset: int = 18
    short_side: int | None = None
    images: Path | None = None
    count: int = 200
    int8: Path | None = None
    largest: int | None = None


def export(source: Source, order: Order) -> dict[str, Any]:
    """Write the file, its card (`.json`) and its golden photo (`.npz`).

    Returns:
        The card.

    Raises:
        UserError: photos, size, opset or destination will not do; or the file differs from the network by more than
            rounding, in which case nothing is written.
    """
    assert order.int8 is None or order.kind == "onnx"
    check_destination(order.out)
    chosen = choose_photos(source, order.images, count=order.count)
    items = [item for item, _ in readable(chosen, "photos to compare on")]
    short_side = source.network.short_side if order.short_side is None else order.short_side
    if order.shape.size and min(order.shape.size) <= short_side:
        short_side = 0  # nothing to shrink
    reference = PhotoGraph(source.network, short_side=short_side, output="logits").eval()
    _try(reference, order.shape)
    graph = PhotoGraph(fold_batch_norm(source.network), short_side=short_side, output=order.output).eval()
    measure = partial(
        compare_runners,
        reference=torch_runner(reference, order.shape.size),
        items=items,
        classes=source.classes,
        data=source.config.data if source.config else None,
        excluded=source.config.evaluate.exclude if source.config else (),
    )
    with _scratch() as folder:
        made = folder / f"made{order.out.suffix}"
        metadata = {"classes": _classes(source.classes), "producer": f"mgd {__version__}"}
        WRITERS[order.kind](graph.requires_grad_(False), order.shape, made, opset=order.opset, metadata=metadata)
        compared = measure(_with_logits(made))
        if compared.agreement < LEAST_AGREEMENT:
            raise UserError(
                f"the exported file gives {100 * (1 - compared.agreement):.2f} % of the pixels another class than the "
                f"network (at most {100 * (1 - LEAST_AGREEMENT):.2f} % are rounding): {order.out} is not written; try "
                "another --opset, --size or --format"
            )
        int8 = None
        if order.int8 is not None:
            photo, pattern = _photo(open_runner(made), items, order.largest), source.label_pattern
            int8 = quantise(made, order.int8, measure, float32=compared, photo=photo, label_pattern=pattern)
            made.write_bytes(int8.model)
            compared = int8.comparison
        runner = open_runner(made, threads=1)
        photo = _photo(runner, items, order.largest)
        outputs = runner.run(photo)
        card = {
            **_file_facts(made, order, outputs),
            **_network_facts(source, short_side, photo),
            "comparison": {"photos_from": str(order.images or "validation list"), **compared.to_dict()},
            "tolerance": {"agreement": LEAST_AGREEMENT_INT8 if int8 else LEAST_AGREEMENT},
            "latency": {"milliseconds": round(float(np.median(latencies(runner, photo))), 2), "threads": 1},
            "int8": int8.to_dict() if int8 else None,
        }
        contents = {order.out.with_suffix(file.suffix): file.read_bytes() for file in files_of(made)}
        contents[card_path(order.out)] = card_bytes(order.out, card)
        contents[golden_path(order.out)] = golden_bytes(photo, outputs)
        write_together(contents)
    return card


@contextmanager
def _scratch() -> Iterator[Path]:
    """A folder to work in. Raises UserError where its disk is full."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        place = tempfile.gettempdir()
        raise UserError(f"{place} has no room to work in ({error}); free space, or name a folder in TMPDIR") from error


def files_of(made: Path) -> list[Path]:
    """An exported file, and the weights beside it where OpenVINO wrote them."""
    return [made, made.with_suffix(".bin")] if made.suffix == ".xml" else [made]


def check_destination(path: Path) -> None:
    """Raise UserError where nothing can be written, before the work is done."""
    with atomic(path.with_name(f"{path.name}.probe")) as file:
        file.write(b"0")
    path.with_name(f"{path.name}.probe").unlink()


def _try(graph: PhotoGraph, shape: Shape) -> None:
    """Raise UserError where the network cannot have the size."""
    try:
        with torch.no_grad():
            graph(shape.example())
    except (RuntimeError, ValueError, ZeroDivisionError) as error:
        size = "x".join(map(str, shape.size or ()))
        raise UserError(
            f"--size {size} is not one that the network can have ({error}); use a larger one, such as 256x256"
        ) from error


def _with_logits(made: Path) -> Runner:
    """A runner of a file that also gives the logits, where these can be tapped (ONNX), for the comparison."""
    if made.suffix != ".onnx":
        return open_runner(made)
    onnx = need("onnx", extra="export")
    model = onnx.load(str(made))
    argmax = [node for node in model.graph.node if node.op_type == "ArgMax"]
    if argmax:
        logits = onnx.helper.make_empty_tensor_value_info("logits")
        model.graph.node.append(onnx.helper.make_node("Identity", [argmax[-1].input[0]], ["logits"]))
        logits.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        model.graph.output.append(logits)
    return onnx_runner(model.SerializeToString(), made)


def _photo(runner: Runner, items: Sequence[Item], largest: int | None) -> np.ndarray:
    """(batch,H,W,3): the first photo, as the file takes it."""
    photo = load_image(items[0].image)
    if runner.size is None and largest is not None and max(photo.shape[:2]) > largest:
        scale = largest / max(photo.shape[:2])
        height, width = (max(SMALLEST, round(side * scale)) for side in photo.shape[:2])
        photo = cv2.resize(photo, (width, height), interpolation=cv2.INTER_AREA)
    return runner.fit(photo)


def _file_facts(made: Path, order: Order, outputs: dict[str, np.ndarray]) -> dict[str, Any]:
    size = order.shape.size or ("height", "width")
    return {
        "sha256": fingerprint(made),
        "bytes": sum(file.stat().st_size for file in files_of(made)),
        "kind": order.kind,
        "precision": "float32" if order.int8 is None else "int8",
        "input": {
            "name": "image",
            "dtype": "uint8",
            "colors": "RGB",
            "shape": [order.shape.batch or "batch", *size, 3],
        },
        "outputs": {name: {"dtype": str(array.dtype), "axes": array.ndim} for name, array in outputs.items()},
        "versions": {"mgd": __version__, "torch": torch.__version__},
        "licence": LICENCE,
    }


def _network_facts(source: Source, short_side: int, photo: np.ndarray) -> dict[str, Any]:
    return {
        "checkpoint": {"name": source.path.name, "sha256": sha256_of(source.path)},
        "architecture": {key: value for key, value in source.network.arch.items() if value is not None},
        "short_side": short_side,
        "normalisation": {"mean": source.network.mean, "std": source.network.std, "inside": True},
        "classes": _classes(source.classes),
        "parameters": sum(p.numel() for p in source.network.parameters()),
        "multiply_accumulates": count(source.network, shrunk_size(photo.shape[1:3], short_side))[0].whole,
        "photo": [*photo.shape[1:3]],
    }


def _classes(classes: Classes) -> list[dict[str, Any]]:
    named = zip(classes.names, classes.colors, strict=True)
    return [{"index": i, "name": name, "color": [*color]} for i, (name, color) in enumerate(named)]
