"""Numbers that our networks, losses, masks and evaluation give, in tests/reference.json: python tests/reference.py

They are measured with our own code, on weights and inputs that are drawn from names and shapes alone (tests/golden.py),
and written only where the recorded values of the official code are there and are met. So whoever does not have those
still sees, by tests/test_reference.py, that the code computes what it did when they were met.
"""

import hashlib
import json
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import GOLDEN, array, network
from torch import Tensor, nn

from mgd.config import Evaluate
from mgd.data.cutmix import box_masks
from mgd.infer import predict_scores
from mgd.losses import (
    cross_entropy,
    image_level_loss,
    ohem_cross_entropy,
    pixel_level_loss,
    region_level_loss,
    self_similarity,
)
from mgd.metrics import confusion_matrix, iou_per_class, mean_iou, pixel_accuracy
from mgd.models import SegmentationNetwork

FILE = Path(__file__).with_name("reference.json")
BACKBONES = ("resnet18", "mobilenet_v2", "wide_resnet50_2", "resnet101")
SMALL, SCENE = (2, 3, 65, 97), (1, 3, 161, 257)  # the latter so large that dilated convolutions see more than a pixel
LARGE = (1, 3, 449, 673)  # ASPP's greatest rate, 18, reaches within it
CLASSES = 21
LETTERS = "abcdefghijklmnopqrstu"
CLEAR = 1e-3  # a pixel whose two best scores are nearer than that may get either label
BEST = 2e-6  # the least tolerance

Numbers = dict[str, Any]


def drawn(name: str, *shape: int, low: int | None = None, high: int = 0) -> Tensor:
    """Standard normal float32 of PCG64 seeded with the CRC-32 of the name; integers from `low` below `high`."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    if low is not None:
        return torch.from_numpy(rng.integers(low, high, shape))
    return torch.from_numpy(rng.standard_normal(shape).astype(np.float32))


def scene(shape: tuple[int, ...]) -> Tensor:
    """The input of the official code's recorded outputs, in any shape."""
    return torch.from_numpy(np.random.Generator(np.random.PCG64(1234)).standard_normal(shape).astype(np.float32))


def some(values: Tensor, count: int) -> list[float]:
    """About `count` of the values, evenly spread, and the mean of their absolutes over all."""
    flat = values.detach().flatten().double()
    step = max(1, len(flat) // count)
    return [float(f"{value:.8g}") for value in [*flat[::step].tolist(), flat.abs().mean().item()]]


# Networks


def names_digest(net: nn.Module) -> str:
    """SHA-256 of a line "name shape" for every entry of the state dict, sorted."""
    lines = sorted(f"{name} {tuple(tensor.shape)}\n" for name, tensor in net.state_dict().items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@torch.no_grad()
def outputs(net: SegmentationNetwork, shape: tuple[int, ...]) -> Numbers:
    """Logits before the last upsampling, and the feature; in train mode what batch norm counted as well."""
    x = scene(shape).to(next(net.parameters()).dtype)
    feature = net.feature(x)
    found = {"logits": net.classifier(feature), "feature": feature}
    if net.training:
        first = next(name for name, module in net.named_modules() if isinstance(module, nn.BatchNorm2d))
        layers = (first, "head.aspp.map_bn", "head.aspp.global_pooling_bn", "head.last_conv.4")
        state = net.state_dict()
        for kind in ("running_mean", "running_var"):
            found[kind] = torch.cat([state[f"{layer}.{kind}"] for layer in layers])
    return {name: some(value, 48) for name, value in found.items()}


def cases(backbone: str) -> Iterator[tuple[str, Callable[[], SegmentationNetwork], tuple[int, ...]]]:
    """(name, the network in its mode, the input's shape)."""
    yield "eval", lambda: network(backbone), SMALL
    yield "variant b", lambda: network(backbone, variant_b=True), LARGE if backbone == "resnet18" else SCENE
    yield "train", lambda: network(backbone).train(), SMALL


def of_network(backbone: str) -> Numbers:
    """All numbers of a network."""
    net = network(backbone)
    found: Numbers = {"names": names_digest(net), "parameters": sum(p.numel() for p in net.parameters())}
    return found | {name: outputs(make(), shape) for name, make, shape in cases(backbone)}


def tolerances(backbone: str, measured: Numbers) -> dict[str, float]:
    """10 times the rounding of float32, as in docs/parity.md; what was recorded for the official network where it was.

    It is measured against the same network in float64.
    """
    found = {}
    for name, make, shape in cases(backbone):
        exact = outputs(make().double(), shape)
        pairs = [
            (ours, theirs)
            for key, values in measured[name].items()
            for ours, theirs in zip(values, exact[key], strict=True)
        ]
        found[name] = max(BEST, 10 * max(abs(ours - theirs) for ours, theirs in pairs))
        if (GOLDEN / f"outputs_{backbone}.npz").is_file():
            mode = {"eval": "eval", "variant b": "b_eval", "train": "train"}[name]
            recorded = float(array(f"outputs_{backbone}", f"{mode}_max_abs_err_f32_vs_f64"))
            found[name] = max(BEST, 10 * recorded)
    return {name: float(f"{value:.2g}") for name, value in found.items()}


# Losses


def with_gradient(loss: Callable[[Tensor], Tensor], x: Tensor) -> Numbers:
    x.requires_grad_()
    value = loss(x)
    (gradient,) = torch.autograd.grad(value, x)
    return {"value": some(value, 1)[:1], "gradient": some(gradient, 24), "norm": some(gradient.norm(), 1)[:1]}


def losses() -> Numbers:
    """Values and gradients: of logits (2,5,9,13), labels with every seventh pixel ignored, features of two widths."""
    logits = "student"
    label = drawn("label", 2, 9, 13, low=0, high=5)
    label.flatten()[::7] = 255
    valid = torch.zeros(2, 9, 13, dtype=torch.bool)
    valid[0, :6, 2:], valid[1, 1:, :11] = True, True
    pseudo = torch.where(valid, drawn("teacher", 2, 5, 9, 13).argmax(1), 255)
    weight = drawn("weight", 2, 49, 49)
    of_logits: dict[str, Callable[[Tensor], Tensor]] = {
        "cross-entropy": lambda x: cross_entropy(x, label),
        "OHEM, threshold": lambda x: ohem_cross_entropy(x, label, threshold=0.4, min_kept=20),
        "OHEM, least kept": lambda x: ohem_cross_entropy(x, label, threshold=0.05, min_kept=60),
        "OHEM, all kept": lambda x: ohem_cross_entropy(x, label, threshold=0.4, min_kept=220),
        "pixel level": lambda x: pixel_level_loss(x, pseudo),
        "image level": lambda x: image_level_loss(x, drawn("teacher", 2, 5, 9, 13)),
        "image level, padded": lambda x: image_level_loss(x, drawn("teacher", 2, 5, 9, 13), valid=valid),
    }
    other = drawn("wide feature", 2, 24, 17, 25)
    of_features: dict[str, Callable[[Tensor], Tensor]] = {
        "region level": lambda x: region_level_loss(x, other),
        "region level, padded": lambda x: region_level_loss(x, other, valid=valid),
        "cosine self-similarity": lambda x: (self_similarity(x.flatten(2)[..., :49]) * weight).sum(),
    }
    found = {name: with_gradient(loss, drawn(logits, 2, 5, 9, 13)) for name, loss in of_logits.items()}
    return found | {name: with_gradient(loss, drawn("feature", 2, 16, 17, 25)) for name, loss in of_features.items()}


# Masks and evaluation


def masks() -> list[str]:
    """A CutMix mask of 16x24 from NumPy's RandomState(0): a string for each row, # takes the second image."""
    (mask,) = torch.from_numpy(box_masks(1, 16, 24, generator=np.random.RandomState(0)))[:, 0]
    return ["".join(".#"[value] for value in row) for row in mask.tolist()]


def evaluation_scores() -> Tensor:
    """(21,100,150): sliding windows of 64, stride 2/3, over a photo of noise, by ResNet-18 with variant b's weights."""
    photo = drawn("photo", 3, 100, 150, low=0, high=256).to(torch.uint8)
    return predict_scores(network("resnet18", variant_b=True), photo, Evaluate(crop_size=64))


def label_map(scores: Tensor) -> list[str]:
    """Every fourth pixel of every fourth row: a letter for its class, "-" where the two best are too near."""
    first, second = scores[:, ::4, ::4].topk(2, dim=0).values
    labels, clear = scores[:, ::4, ::4].argmax(0).tolist(), (first - second > CLEAR).tolist()
    rows = [zip(*pair, strict=True) for pair in zip(labels, clear, strict=True)]
    return ["".join(LETTERS[label] if sure else "-" for label, sure in row) for row in rows]


def metrics() -> Numbers:
    """Of labels with every ninth pixel ignored and class 4 nowhere, and predictions that are right at about half."""
    label = drawn("truth", 60, 80, low=0, high=4)
    prediction = torch.where(drawn("right", 60, 80) > 0, label, drawn("guess", 60, 80, low=0, high=4))
    label.flatten()[::9] = 255
    confusion = confusion_matrix(label, prediction, 5)
    iou = [None if value != value else value for value in iou_per_class(confusion).tolist()]
    scores = {"iou": iou, "mean": mean_iou(confusion), "accuracy": pixel_accuracy(confusion)}
    return {"confusion": confusion.tolist(), **scores}


def main() -> int:
    """Write the file; the status is not 0 where the official values are absent or not met."""
    folder = Path(__file__).parent
    tests = [str(folder / f"test_parity_{part}.py") for part in ("networks", "losses", "evaluation")]
    if not GOLDEN.is_dir() or pytest.main(["-q", "--durations=0", *tests]) != 0:
        print(f"{FILE} stays as it is: the official values are not in {GOLDEN}, or are not met", file=sys.stderr)
        return 1
    networks = {backbone: of_network(backbone) for backbone in BACKBONES}
    for backbone, measured in networks.items():
        measured["tolerances"] = tolerances(backbone, measured)
    scores = evaluation_scores()
    evaluation = {"scores": some(scores, 150), "labels": label_map(scores), "metrics": metrics()}
    content = {"networks": networks, "losses": losses(), "mask": masks(), "evaluation": evaluation}
    FILE.write_text(json.dumps(content, indent=1, separators=(",", ":")).replace(",\n    ", ",") + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
