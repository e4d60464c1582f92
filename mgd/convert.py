"""Official files to ours and back, with a report of every tensor that was matched, renamed or left."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from mgd.checkpoint import (
    MAIN_BRANCH,
    Recognised,
    check_fit,
    network_of,
    recognise,
    save,
    strip_prefix,
)
from mgd.errors import UserError
from mgd.files import atomic
from mgd.models.backbones import BACKBONES, build_backbone, canonical_name, recognise_backbone
from mgd.models.network import SegmentationNetwork
from mgd.models.normalise import IMAGENET_MEAN, IMAGENET_STD
from mgd.models.pretrained import HEADS, SOURCES, our_name
from mgd.tensors import State, find_networks, flat_state
from mgd.weights import check_numbers, is_ours, read

TEACHER_BRANCHES = ("branch2", "branch3")  # of a student's file: T_W and T_D
PUBLISHED_STRIDE = dict.fromkeys(BACKBONES, 16) | {"mobilenet_v2": 32}  # not in an official file, hence implied
GROUP = 20  # more unused tensors under one prefix than this are counted, not named


def convert(file: Path, *, out: Path | None, role: str, backbone: str, official: bool) -> str:
    """Turn an official file into ours, or one of ours into an official one; returns the report.

    Args:
        out: the file to write. None: beside `file`, `.pt` or `.official.pth`; ImageNet weights get the name that
            `model.pretrained` looks for. A file that is there is kept unless `out` names it.
        role: "student" takes the network that counts, `branch1.`. "teacher" does too, except from a student's file,
            which has three networks: there it takes the teacher of architecture `backbone`.
        backbone: what the architecture must be; "" takes what is recognised.
        official: write the official layout.

    Raises:
        UserError: not a checkpoint, an unknown architecture or another than `backbone`, missing tensors, nothing to
            convert, or the target exists.
    """
    content = read(file)
    if official:
        return _to_official(content, file, out, backbone)
    if is_ours(content):
        raise UserError(f"{file} is in our format already; --to-official turns it into an official file")
    state = flat_state(content) or {}
    if find_networks(content) or any("head.aspp." in name or "head.last_conv." in name for name in state):
        return _import_network(content, file, out, role, backbone)
    return _import_backbone(state, _beside(content), file, out, backbone)


def _import_network(content: Any, file: Path, out: Path | None, role: str, backbone: str) -> str:
    branches = _branches(flat_state(content) or {})
    branch = MAIN_BRANCH
    if role == "teacher" and {MAIN_BRANCH, *TEACHER_BRANCHES} <= branches:
        branch = _choose_teacher(content, file, backbone)
    found = recognise(content, file, network=branch, backbone=backbone)
    check_numbers(found.state, file)
    network = network_of(found, file)
    target = _target(file, out, file.stem + ("" if branch == MAIN_BRANCH else f".{branch}") + ".pt")
    save(target, network, **found.extra)
    arch = network.arch
    return _report(
        file,
        recognised=f"{arch['backbone']}, {network.num_classes} classes, {arch['channels']} channels in the head",
        network=f"{branch}., one of {len(branches)}" if len(branches) > 1 else "the only one",
        matched=str(len(found.state)),
        renamed=f"{found.renamed} (a prefix taken off)",
        unused=_summary([*found.unused, *_beside(content)]),
        target=target,
    )


def _choose_teacher(content: Any, file: Path, backbone: str) -> str:
    """The branch of a student's file that holds the teacher with this backbone."""
    found = {branch: recognise(content, file, network=branch).arch["backbone"] for branch in TEACHER_BRANCHES}
    fitting = [branch for branch, name in found.items() if name == canonical_name(backbone)]
    if len(fitting) != 1:
        choices = " and ".join(f"{name} ({branch})" for branch, name in found.items())
        raise UserError(
            f"{file} holds two teachers, {choices}; choose one with --backbone, found --backbone {backbone!r}"
        )
    return fitting[0]


def _import_backbone(state: State, beside: list[str], file: Path, out: Path | None, backbone: str) -> str:
    """ImageNet weights -> a flat file of exactly the tensors of our backbone."""
    short = strip_prefix(strip_prefix(strip_prefix(state, "module."), f"{MAIN_BRANCH}."), "backbone.")
    renamed = {our_name(name, short): tensor for name, tensor in short.items()}
    name = recognise_backbone({key: tuple(tensor.shape) for key, tensor in renamed.items()})
    if name is None:
        raise UserError(
            f"{file} holds {len(state)} tensors of an unknown architecture, first {', '.join([*state][:3]) or 'none'}"
            f"; expected a DeepLabV3+ with head.* and classifier.*, or a backbone: {', '.join(BACKBONES)}"
        )
    if backbone and name != canonical_name(backbone):
        raise UserError(f"{file} holds a {name} backbone, expected {canonical_name(backbone)}")
    with torch.device("meta"):
        expected = build_backbone(name).state_dict()
    unused = [key for key in renamed if key not in expected and key.startswith(HEADS)]
    clean = {key: tensor for key, tensor in renamed.items() if key not in unused}
    # Files older than PyTorch 0.4.1 do not count batches; nothing here uses the count.
    needed = {key: t for key, t in expected.items() if key in clean or not key.endswith("num_batches_tracked")}
    check_fit(clean, needed, file, f"the backbone {name}")
    check_numbers(clean, file)
    target = _target(file, out, SOURCES[name].files[0])
    with atomic(target) as opened:
        torch.save(clean, opened)
    return _report(
        file,
        recognised=f"{name}, a backbone without a segmentation head",
        network="the only one",
        matched=str(len(clean)),
        renamed=str(sum(key not in state for key in clean)),
        unused=_summary([*unused, *beside]),
        target=target,
    )


def _to_official(content: Any, file: Path, out: Path | None, backbone: str) -> str:
    if not is_ours(content):
        raise UserError(f"{file} is not in our format; --to-official turns one of our files into an official one")
    found = recognise(content, file, backbone=backbone)
    arch, network = found.arch, network_of(found, file)
    published = PUBLISHED_STRIDE.get(arch["backbone"])
    if (arch["output_stride"] or published) != published or published is None:
        known = ", ".join(f"{name} ({stride})" for name, stride in PUBLISHED_STRIDE.items())
        raise UserError(
            f"{file} holds {arch['backbone']} at output stride {arch['output_stride'] or 16}, which an official file "
            f"cannot say; expected one of {known}"
        )
    told = {key: network.arch[key] for key in ("head", "decoder_stride", "mean", "std")}
    if told != {"head": "deeplabv3plus", "decoder_stride": None, "mean": IMAGENET_MEAN, "std": IMAGENET_STD}:
        raise UserError(
            f"{file} holds {arch['backbone']} with {told}, which an official file cannot say; expected the published "
            "head deeplabv3plus and ImageNet's mean and std"
        )
    target = _target(file, out, f"{file.stem}.official.pth")
    with atomic(target) as opened:
        torch.save(official_content(network, found), opened)
    return _report(
        file,
        recognised=f"{arch['backbone']}, {arch['num_classes']} classes, {arch['channels']} channels in the head",
        network="the only one",
        matched=str(len(found.state)),
        renamed=f'{len(found.state)} ("{MAIN_BRANCH}." put before)',
        unused=_summary(key for key in ("config", "classes", *found.extra) if content.get(key) and key != "unused"),
        target=target,
    )


def official_content(network: SegmentationNetwork, found: Recognised) -> dict[str, Any]:
    """What an official file holds: `{"model": {"branch1.<name>": tensor}}`, with the ImageNet head it came with."""
    state = network.state_dict() | found.extra.get("unused", {})
    return {"model": {f"{MAIN_BRANCH}.{name}": tensor for name, tensor in state.items()}}


def _branches(state: State) -> set[str]:
    first = {name.removeprefix("module.").split(".")[0] for name in state}
    return {name for name in first if name in (MAIN_BRANCH, *TEACHER_BRANCHES)}


def _beside(content: Any) -> list[str]:
    """What an official file holds beside its tensors: optimisers, epoch, iteration."""
    nested = isinstance(content, Mapping) and any(isinstance(content.get(k), Mapping) for k in ("model", "state_dict"))
    return [str(key) for key in content if key not in ("model", "state_dict")] if nested else []


def _target(file: Path, out: Path | None, name: str) -> Path:
    """Where to write; never over `file`, nor over anything else that `out` does not name."""
    target = out or file.with_name(name)
    if target.exists() and (out is None or target.samefile(file)):
        raise UserError(f"{target} exists already and is kept; name another file with --out")
    return target


def _summary(names: Iterable[str]) -> str:
    """Names, long lists as a prefix and a count."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[name.split(".")[0]].append(name)
    parts = [f"{prefix}.* ({len(g)} tensors)" if len(g) > GROUP else ", ".join(g) for prefix, g in groups.items()]
    return ", ".join(parts) or "none"


def _report(file: Path, *, target: Path, **lines: str) -> str:
    """One line a fact. Nothing is ever missing here: that is an error before."""
    rows = {"file": str(file), **lines, "missing": "none", "written": str(target)}
    return "\n".join(f"{key:<11} {value}" for key, value in rows.items())
