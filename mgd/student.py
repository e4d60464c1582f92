"""The one road from a checkpoint file to a network that is ready to use."""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from mgd.checkpoint import Recognised, network_of, recognise
from mgd.errors import UserError, first_few
from mgd.models.network import SegmentationNetwork
from mgd.weights import check_numbers, read

log = logging.getLogger(__name__)


def load_student(
    path: str | Path, device: str | torch.device = "cpu", *, num_classes: int = 0, classes: Sequence[str] = ()
) -> SegmentationNetwork:
    """Load one of our files or an official one (a teacher is a student too).

    Args:
        path: the file. Its architecture is recognised from what it holds, never from its name.
        device: where the network goes.
        num_classes: the class count that the data set needs; 0 takes any.
        classes: the data set's class names, held against the file's where it has any; none takes any.

    Returns:
        The network in eval mode: normalised images (N,3,H,W) -> logits (N,K,H,W). It has `.num_classes`, and
        `.classes` when known.

    Raises:
        UserError: missing, truncated, no checkpoint, code in it, unknown architecture, other class count or names.
    """
    return student_in(recognise(read(path), path), path, device, num_classes=num_classes, classes=classes)


def student_in(
    found: Recognised,
    path: str | Path,
    device: str | torch.device = "cpu",
    *,
    num_classes: int = 0,
    classes: Sequence[str] = (),
) -> SegmentationNetwork:
    """As `load_student`, of what was found in a file that has been read."""
    if (count := num_classes or len(classes)) and found.arch["num_classes"] != count:
        own = found.arch["num_classes"]
        raise UserError(f"{path} was trained for {own} classes, the data set has {count}; use another checkpoint")
    if classes:
        check_classes(path, found.classes, classes)
    if "training" in found.extra and found.progress and found.progress[0] < found.progress[1]:
        log.warning("%s is a run in the middle: iteration %d of %d", path, *found.progress)
    return network_of(found, path).to(device).eval()


def check_classes(path: str | Path, own: Sequence[str] | None, classes: Sequence[str], *, data: str = "") -> None:
    """Raise UserError where a network was trained for other classes than the data's, telling the first that differs.

    Args:
        path, data: where the network and the data's classes come from, for the message.
        own: the network's class names; None, as in official files, fits any of the same number.
    """
    remedy = "set data.root and data.classes to the data that it was trained on, or use another checkpoint"
    differing = [i for i, pair in enumerate(zip(own or (), classes, strict=False)) if pair[0] != pair[1]]
    if own is None or not differing:
        return
    first = differing[0]
    order = " (the same names in another order)" if sorted(own) == sorted(classes) else ""
    raise UserError(
        f"{path} was trained for other classes than {data or 'the data set'}: class {first} is {own[first]!r} in the "
        f"file and {classes[first]!r} in the data{order}; {remedy}"
    )


def start_from(network: SegmentationNetwork, path: str | Path, *, classes: Sequence[str] = ()) -> None:
    """Give a network the weights of a trained one, in place; what is loaded and what is left at random is logged.

    A tensor is loaded where the file has one of its name and shape; so another class count leaves the classifier at
    random, another head or width what differs in it. The classifier is also left where the class names differ.

    Args:
        path: our file or an official one.
        classes: the data set's class names.

    Raises:
        UserError: the file holds no network, one with another backbone, or values that are not finite.
    """
    found = recognise(read(path), path)
    own, theirs = network.arch["backbone"], found.arch["backbone"]
    if own != theirs:
        raise UserError(
            f"model.init_from={path} holds a {theirs} network, model.backbone is {own}; choose one of its kind"
        )
    check_numbers(found.state, f"model.init_from={path}")
    other_classes = bool(classes) and found.classes is not None and tuple(classes) != found.classes
    expected = network.state_dict()
    fitting = {
        name: tensor
        for name, tensor in found.state.items()
        if name in expected
        and tensor.shape == expected[name].shape
        and not (other_classes and name.startswith("classifier."))
    }
    network.load_state_dict(expected | fitting)
    if "mean" in found.arch:
        network.set_statistics(found.arch["mean"], found.arch["std"])
    left = [name for name in expected if name not in fitting and not name.endswith("num_batches_tracked")]
    log.info("started from %s: %d of %d tensors loaded", path, len(fitting), len(expected))
    log.info("  loaded: %s", _groups(fitting))
    if unused := [name for name in found.state if name not in fitting]:
        log.info("  in the file, not used: %s", first_few(unused))
    if left:
        log.warning("left at random: %s", ", ".join(left))


def _groups(names: Iterable[str]) -> str:
    """Names, many below one module as that and their number."""
    groups = Counter(".".join(name.split(".")[:2]) for name in names)
    return ", ".join(f"{group}.* ({count})" for group, count in groups.items()) or "nothing"
