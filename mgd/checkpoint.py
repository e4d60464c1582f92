"""Checkpoint files: ours (config inside, atomic, strict) and the official ones, told apart by what they hold."""

import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mgd.errors import UserError
from mgd.files import atomic
from mgd.models.backbones import canonical_name
from mgd.models.deeplab import DeepLabV3Plus, build_model

FORMAT = "mgd-1"
State = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Recognised:
    """A segmentation network found in a file.

    Attributes:
        arch: arguments of `build_model`.
        state: tensors under our names.
        origin: "mgd" or "official".
        renamed: how many tensors lost a prefix.
        unused: names in the file that this network does not use.
        classes: class names, when the file tells.
        config: the experiment as a plain dict, in our files.
        progress: (iteration, total) of the run, in our files.
    """

    arch: dict[str, Any]
    state: State
    origin: str
    renamed: int = 0
    unused: tuple[str, ...] = ()
    classes: tuple[str, ...] | None = None
    config: dict[str, Any] | None = None
    progress: tuple[int, int] | None = None
    extra: dict[str, Any] = field(default_factory=dict)


def save(
    path: Path,
    network: DeepLabV3Plus,
    *,
    config: dict[str, Any] | None = None,
    classes: tuple[str, ...] | None = None,
    **extra: Any,
) -> None:
    """Write our format. `extra` goes in beside the network (iteration, total, training state)."""
    content = {
        "format": FORMAT,
        "arch": network.arch,
        "classes": classes,
        "config": config,
        "model": network.state_dict(),
        **extra,
    }
    with atomic(path) as file:
        torch.save(content, file)


def read(path: str | Path) -> Any:
    """Load a file of tensors and plain values; code in it is never run.

    Raises:
        UserError: missing, truncated, no checkpoint, or a pickle that wants to run code.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path.absolute()} does not exist; expected a checkpoint file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Weights only load failed" in str(error) and "GLOBAL" in str(error):
            raise UserError(
                f"{path} wants to run code when it is loaded and was refused; expected tensors only"
            ) from error
        raise UserError(f"{path} is not a checkpoint, or is damaged; expected a file written by torch.save") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is truncated or not a checkpoint ({reason}); copy or train it again") from error


def recognise(content: Any, path: str | Path, *, network: str = "branch1", backbone: str = "") -> Recognised:
    """Find the segmentation network in what `read` returned.

    Args:
        path: for messages.
        network: official files hold up to three networks; "branch1" is the one that counts.
        backbone: what the architecture must be; "" recognises it from names and shapes.

    Raises:
        UserError: no network in it, an unknown architecture, or one other than `backbone`.
    """
    if isinstance(content, Mapping) and content.get("format") == FORMAT:
        found = _recognise_ours(content)
    else:
        found = _recognise_official(content, path, network)
    if backbone and found.arch["backbone"] != canonical_name(backbone):
        raise UserError(f"{path} holds a {found.arch['backbone']} network, expected {canonical_name(backbone)}")
    return found


def network_of(found: Recognised, path: str | Path) -> DeepLabV3Plus:
    """Build the network and load it, strictly. Raises UserError naming the first tensors that do not fit."""
    network = build_model(**found.arch)
    expected = network.state_dict()
    missing = sorted(expected.keys() - found.state.keys())
    surplus = sorted(found.state.keys() - expected.keys())
    shapes = [k for k in expected if k in found.state and expected[k].shape != found.state[k].shape]
    for problem, names in {"lacks": missing, "has unknown": surplus, "has other shapes for": shapes}.items():
        if names:
            raise UserError(
                f"{path} does not fit {found.arch['backbone']} with {found.arch['num_classes']} classes: it {problem} "
                f"{len(names)} tensors, first {', '.join(names[:3])}"
            )
    network.load_state_dict(found.state)
    network.classes = found.classes
    return network


def to_official(network: DeepLabV3Plus) -> dict[str, Any]:
    """The content of an official file: `{"model": {"branch1.<name>": tensor}}`."""
    return {"model": {f"branch1.{name}": tensor for name, tensor in network.state_dict().items()}}


def flat_state(content: Any) -> State | None:
    """The tensors of a bare state dict, or of one under `model` or `state_dict`; None when there are none."""
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        return None
    state = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    return state or None


def strip_prefix(state: State, prefix: str) -> State:
    """Drop `prefix` where it stands; names without it stay."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def _recognise_ours(content: Mapping[str, Any]) -> Recognised:
    classes = content.get("classes")
    known = {"format", "arch", "classes", "config", "model", "iteration", "total"}
    return Recognised(
        arch=dict(content["arch"]),
        state=dict(content["model"]),
        origin="mgd",
        classes=None if classes is None else tuple(classes),
        config=content.get("config"),
        progress=(content["iteration"], content["total"]) if "iteration" in content else None,
        extra={k: v for k, v in content.items() if k not in known},
    )


def _recognise_official(content: Any, path: str | Path, network: str) -> Recognised:
    raw = flat_state(content)
    if raw is None:
        raise UserError(f"{path} holds no tensors; expected a checkpoint of a segmentation network")
    state = strip_prefix(raw, "module.")
    if any(name.startswith(f"{network}.") for name in state):
        own = {name: tensor for name, tensor in state.items() if name.startswith(f"{network}.")}
        unused = [name for name in state if name not in own]
        state = strip_prefix(own, f"{network}.")
    elif network == "branch1":
        own, unused = state, []
    else:
        raise UserError(f"{path} has no tensor under {network}.; expected an official file with several networks")
    arch = _recognise_arch(state, path)
    used = build_meta(arch).state_dict().keys()
    heads = [name for name in state if name.startswith(IMAGENET_HEADS) and name not in used]
    state = {name: tensor for name, tensor in state.items() if name not in heads}
    return Recognised(
        arch=arch,
        state=state,
        origin="official",
        renamed=sum(name not in raw for name in state),
        unused=(*unused, *heads),
    )


IMAGENET_HEADS = ("backbone.fc.", "backbone.classifier.")


def build_meta(arch: Mapping[str, Any]) -> DeepLabV3Plus:
    """The network without memory for its weights."""
    with torch.device("meta"):
        return build_model(**arch)


def _recognise_arch(state: State, path: str | Path) -> dict[str, Any]:
    """Architecture from names and shapes."""
    shape = {name: tuple(tensor.shape) for name, tensor in state.items()}
    classifier, head = shape.get("classifier.weight"), shape.get("head.last_conv.0.weight")
    if classifier is None or head is None or len(classifier) != 4:
        first = ", ".join(list(state)[:3])
        raise UserError(
            f"{path} is not a DeepLabV3+ of this family: expected classifier.weight and head.last_conv.0.weight, found "
            f"{len(state)} tensors, first {first}"
        )
    backbone = recognise_backbone(
        {n.removeprefix("backbone."): s for n, s in shape.items() if n.startswith("backbone.")}
    )
    if backbone is None:
        raise UserError(
            f"{path} has a backbone of an unknown architecture; known are resnet18, resnet50, resnet101, "
            "wide_resnet50_2 and mobilenet_v2"
        )
    return dict(backbone=backbone, num_classes=classifier[0], channels=head[0], output_stride=None)


def recognise_backbone(shape: Mapping[str, tuple[int, ...]]) -> str | None:
    """The backbone's name from its parameters' names and shapes; None when it is none of ours."""
    if shape.get("features.17.conv.2.weight") == (320, 960, 1, 1):
        return "mobilenet_v2"
    blocks = len({name.split(".")[1] for name in shape if name.startswith("layer3.")})
    width = shape.get("layer1.0.conv1.weight", (0,))[0]
    key = (blocks, "layer1.0.conv3.weight" in shape, width)
    return {
        (2, False, 64): "resnet18",
        (6, True, 64): "resnet50",
        (23, True, 64): "resnet101",
        (6, True, 128): "wide_resnet50_2",
    }.get(key)
