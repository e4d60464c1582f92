"""Networks in files: ours (config inside, atomic, strict) and the official ones, told apart by what they hold."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_safetensors

from mgd.config import Experiment, from_dict
from mgd.errors import UserError
from mgd.files import atomic
from mgd.models.backbones import canonical_name, recognise_backbone
from mgd.models.network import SegmentationNetwork, build_model
from mgd.models.normalise import IMAGENET_MEAN, IMAGENET_STD
from mgd.tensors import USUAL, Candidate, State, describe, find_networks
from mgd.weights import FORMAT, METADATA, is_ours

MAIN_BRANCH = "branch1"  # of the networks in an official file the one that counts
IMAGENET_HEADS = ("backbone.fc.", "backbone.classifier.")  # in some official files, used by no one
LOCAL = re.compile(r"(timm:)?[\w.-]+")  # a backbone that is code on this machine: nothing to fetch, no address, no path


@dataclass(frozen=True, kw_only=True)
class Recognised:
    """A segmentation network found in a file.

    Attributes:
        arch: arguments of `build_model`.
        state: tensors under our names.
        renamed: how many tensors lost a prefix.
        unused: names in the file that this network does not use.
        classes: class names, when the file tells.
        config: the experiment as a plain dict, in our files.
        progress: (iteration, total) of the run, in our files.
        extra: what else our file holds; "unused", in both kinds of file: the tensors of ImageNet heads.
    """

    arch: dict[str, Any]
    state: State
    renamed: int = 0
    unused: tuple[str, ...] = ()
    classes: tuple[str, ...] | None = None
    config: dict[str, Any] | None = None
    progress: tuple[int, int] | None = None
    extra: dict[str, Any] = field(default_factory=dict)


def save(
    path: Path,
    network: SegmentationNetwork,
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
    with atomic(path, durable=True) as file:
        torch.save(content, file)


def save_safetensors(
    path: Path,
    network: SegmentationNetwork,
    *,
    config: dict[str, Any] | None = None,
    classes: tuple[str, ...] | None = None,
    **extra: Any,
) -> None:
    """Write our format as safetensors: what `save` writes beside the tensors is JSON in the file's metadata."""
    content = {"format": FORMAT, "arch": network.arch, "classes": classes, "config": config, **extra}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    with atomic(path) as file:
        file.write(to_safetensors(tensors, {"format": "pt", METADATA: json.dumps(content)}))


def recognise(content: Any, path: str | Path, *, network: str = MAIN_BRANCH, backbone: str = "") -> Recognised:
    """Find the segmentation network in what `mgd.weights.read` returned.

    Args:
        path: for messages.
        network: which of the up to three networks of an official file. A file with one network may have no prefix.
        backbone: what the architecture must be; "" recognises it from names and shapes.

    Raises:
        UserError: no network in it, an unknown architecture, or one other than `backbone`.
    """
    found = _recognise_ours(content, path) if is_ours(content) else _recognise_official(content, path, network)
    if backbone and found.arch["backbone"] != canonical_name(backbone):
        raise UserError(f"{path} holds a {found.arch['backbone']} network, expected {canonical_name(backbone)}")
    return found


def network_of(found: Recognised, path: str | Path) -> SegmentationNetwork:
    """Build the network and load it, strictly. Raises UserError naming the first tensors that do not fit."""
    try:
        network = build_model(**found.arch)
    except TypeError as error:  # an argument that is unknown here, or of another type
        raise UserError(
            f"{path} names an architecture that this mgd cannot build ({error}); use a newer one"
        ) from error
    arch = network.arch
    what = f"{arch['backbone']} with the head {arch['head']} for {network.num_classes} classes"
    if arch["head"] == "separable" and "head.branches.1.0.bn.weight" in found.state:
        raise UserError(
            f"{path} holds a separable head of an earlier version, with a batch norm after each depthwise convolution; "
            "train it again, or use the version that its config.json names"
        )
    check_fit(found.state, network.state_dict(), path, what)
    network.load_state_dict(found.state)
    network.classes = found.classes
    network.short_side = (found.config or {}).get("data", {}).get("short_side", 0)
    return network


def config_of(found: Recognised, path: str | Path) -> Experiment | None:
    """The experiment that a file tells; None where it does not. Raises UserError where this version cannot read it."""
    if found.config is None:
        return None
    try:
        return from_dict(found.config)
    except (KeyError, TypeError, ValueError) as error:
        reason = error if isinstance(error, UserError) else repr(error)
        raise UserError(f"{path} has a config that cannot be read: {reason}; use the mgd that wrote it") from error


def check_fit(state: State, expected: State, path: str | Path, what: str) -> None:
    """Raise UserError where names or shapes of `state` and `expected` differ, naming the first tensors that do."""
    problems = {
        "lacks": sorted(expected.keys() - state.keys()),
        "has unknown": sorted(state.keys() - expected.keys()),
        "has other shapes for": [n for n in expected if n in state and expected[n].shape != state[n].shape],
    }
    for problem, names in problems.items():
        if names:
            raise UserError(
                f"{path} does not fit {what}: it {problem} {len(names)} of the expected {len(expected)} tensors, first "
                f"{', '.join(names[:3])}"
            )


def strip_prefix(state: State, prefix: str) -> State:
    """Drop `prefix` where it stands; names without it stay."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def _recognise_ours(content: Mapping[str, Any], path: str | Path) -> Recognised:
    if not content.keys() >= {"arch", "model"}:
        raise UserError(f"{path} says it is {FORMAT} but lacks arch or model; expected a file that mgd wrote")
    arch, classes, config = (content.get(key) for key in ("arch", "classes", "config"))
    sections = [*config.values()] if isinstance(config, dict) else [] if config is None else [config]
    if not all(isinstance(part, dict) for part in (content["model"], *sections)):
        raise UserError(f"{path} says it is {FORMAT} but its model or config is no dict; expected what mgd writes")
    if not isinstance(arch, Mapping) or not isinstance(arch.get("backbone"), str) or "num_classes" not in arch:
        raise UserError(f"{path} has no architecture that mgd wrote in it: backbone and num_classes, found {arch!r}")
    if not LOCAL.fullmatch(arch["backbone"]):
        raise UserError(
            f"{path} names the backbone {arch['backbone']!r}, which leads elsewhere; a file may name one of mgd's "
            "backbones or timm:<name> alone"
        )
    if classes is not None and not (isinstance(classes, list | tuple) and len(classes) == arch["num_classes"]):
        raise UserError(f"{path} has the classes {classes!r} for a network of {arch['num_classes']}; save it again")
    if "colors" in content and not _are_colors(content["colors"], arch["num_classes"]):
        raise UserError(
            f"{path} has the colors {content['colors']!r}; expected red, green and blue of 0 to 255 for each of "
            f"{arch['num_classes']} classes: save it again"
        )
    known = {"format", "arch", "classes", "config", "model", "iteration", "total"}
    return Recognised(
        # Older files do not tell the statistics: every network had ImageNet's.
        arch={"mean": IMAGENET_MEAN, "std": IMAGENET_STD, **arch},
        state=dict(content["model"]),
        classes=None if classes is None else tuple(classes),
        config=config,
        progress=(content["iteration"], content["total"]) if "iteration" in content else None,
        extra={k: v for k, v in content.items() if k not in known},
    )


def _are_colors(colors: Any, count: int) -> bool:
    """Whether these are RGB colours of so many classes."""
    if not isinstance(colors, list | tuple) or len(colors) != count:
        return False
    return all(
        isinstance(color, list | tuple) and len(color) == 3 and all(v in range(256) for v in color) for color in colors
    )


def _recognise_official(content: Any, path: str | Path, network: str) -> Recognised:
    chosen = _choose(find_networks(content), content, path, network)
    heads = {name: tensor for name, tensor in chosen.state.items() if name.startswith(IMAGENET_HEADS)}
    state = {name: tensor for name, tensor in chosen.state.items() if name not in heads}
    raw = content
    for key in filter(None, chosen.key.split(".")):
        raw = raw[key]
    return Recognised(
        arch=_recognise_arch(state, path),
        state=state,
        renamed=sum(name not in raw for name in state),
        unused=(*chosen.others, *heads),
        extra={"unused": heads} if heads else {},
    )


def _choose(found: list[Candidate], content: Any, path: str | Path, network: str) -> Candidate:
    """The network that is meant: by its name in an official file, under a usual key, or the only one."""
    named = [one for one in found if one.prefix == f"{network}."]
    if not named and network != MAIN_BRANCH:
        raise UserError(f"{path} has no tensor under {network}.; expected an official file with several networks")
    for group in (named, _usual(named), found, [one for one in _usual(found) if not one.prefix]):
        if len(group) == 1:
            return group[0]
    if found:
        listed = "; ".join(f"{one} ({_told(one)})" for one in found)
        raise UserError(
            f"{path} holds {len(found)} networks: {listed}; save the tensors of the one that is meant by themselves"
        )
    raise UserError(
        f"{path} is not a DeepLabV3+ of this family: expected classifier.weight and head.last_conv.0.weight, found "
        f"{describe(content)}"
    )


def _usual(found: list[Candidate]) -> list[Candidate]:
    return [one for one in found if one.key in ("", *USUAL)]


def _told(one: Candidate) -> str:
    """A candidate in two words."""
    shapes = {n.removeprefix("backbone."): tuple(t.shape) for n, t in one.state.items() if n.startswith("backbone.")}
    return f"{recognise_backbone(shapes) or 'unknown backbone'}, {len(one.state['classifier.weight'])} classes"


def _recognise_arch(state: State, path: str | Path) -> dict[str, Any]:
    """Architecture from names and shapes."""
    shape = {name: tuple(tensor.shape) for name, tensor in state.items()}
    classifier, head = shape["classifier.weight"], shape["head.last_conv.0.weight"]
    backbone = recognise_backbone(
        {n.removeprefix("backbone."): s for n, s in shape.items() if n.startswith("backbone.")}
    )
    if backbone is None:
        raise UserError(
            f"{path} has a backbone of an unknown architecture; known are resnet18, resnet50, resnet101, "
            "wide_resnet50_2 and mobilenet_v2"
        )
    return {"backbone": backbone, "num_classes": classifier[0], "channels": head[0], "output_stride": None}
