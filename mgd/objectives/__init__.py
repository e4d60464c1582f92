"""Objectives: what a method computes in a step. The type of `config.method` picks one."""

import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from mgd.config import (
    CPS,
    CWD,
    KD,
    MGD,
    Evaluate,
    Experiment,
    MeanTeacher,
    Method,
    Model,
    Supervised,
    Taught,
    UniMatch,
    is_offline,
)
from mgd.data.datasets import Splits
from mgd.data.maps import Maps
from mgd.data.store import Contents, photo_names
from mgd.errors import UserError
from mgd.files import sha256_of
from mgd.models.network import SegmentationNetwork, build_model
from mgd.models.pretrained import load_imagenet
from mgd.objectives.base import Objective
from mgd.objectives.cps import CPSObjective
from mgd.objectives.distill import CWDObjective, KDObjective
from mgd.objectives.mean_teacher import MeanTeacherObjective
from mgd.objectives.mgd import MGDObjective
from mgd.objectives.supervised import SupervisedObjective
from mgd.objectives.teaching import StoredTeaching, TeacherNetworks
from mgd.objectives.unimatch import UniMatchObjective
from mgd.student import load_student, start_from
from mgd.tensors import flat_state
from mgd.weights import checkpoint_file, read

__all__ = ["Objective", "build_network", "build_objective", "find_teacher"]

log = logging.getLogger(__name__)


def build_objective(config: Experiment, num_classes: int, *, classes: Sequence[str] = ()) -> Objective:
    """Networks and method of an experiment, on the CPU; weights at random come from torch's global generator.

    Args:
        classes: the data's class names, which a teacher must have too; none takes any of the same number.

    Raises:
        UserError: ImageNet weights or a teacher cannot be had or do not fit.
    """
    method = config.method
    _check_confidence(method, num_classes)
    student = _student(config.model, num_classes, classes)  # first: one seed gives one student, whatever teaches it
    if isinstance(method, CPS):
        # The peer starts at random: two networks that start alike have nothing to teach each other.
        return CPSObjective(student, _network(config.model, num_classes), method)
    if isinstance(method, UniMatch):
        return UniMatchObjective(student, method)
    if isinstance(method, MeanTeacher):
        return MeanTeacherObjective(student, method)
    if is_offline(method):
        if isinstance(method, KD):
            return KDObjective(student, {}, method)
        if isinstance(method, CWD):
            compares = method.weight_feature > 0
            widths = {n: feature_width(config, n, num_classes) if compares else 0 for n in teacher_paths(method)}
            return CWDObjective(student, widths, method)
        return MGDObjective(student, StoredTeaching(method, tuple(teacher_paths(method))), method)
    if isinstance(method, Taught):
        loaded = ((name, load_teacher(config, name, num_classes, classes=classes)) for name in teacher_paths(method))
        if isinstance(method, MGD):
            return MGDObjective(student, TeacherNetworks(loaded, method), method)
        teachers = dict(loaded)
        return (
            KDObjective(student, teachers, method)
            if isinstance(method, KD)
            else CWDObjective(student, teachers, method)
        )
    assert isinstance(method, Supervised)
    return SupervisedObjective(student, method)


def teacher_paths(method: Taught) -> dict[str, tuple[str, ...]]:
    """The teachers that a config names: "deep" and "wide", each with its candidate files."""
    paths = {"deep": method.deep_teacher, "wide": method.wide_teacher}
    return {name: files for name, files in paths.items() if files}


def maps_contents(config: Experiment, splits: Splits) -> Contents:
    """What the store of the teachers' maps must be of to serve this experiment, whatever its partition is.

    Raises:
        UserError: a teacher's file is missing.
    """
    method, root = config.method, Path(config.data.root)
    assert isinstance(method, Taught)
    crop = config.data.crop_size
    teach = asdict(method.teach) | {"crop_size": method.teach.crop_size or crop}
    if not isinstance(method, KD):
        teach["feature_stride"] = method.feature_stride(crop)
    if method.stored != MGD().stored:  # stores of the default are older than this key
        teach["stored"] = method.stored
    if config.evaluate.stride != Evaluate().stride:  # of the windows; stores of the default are older than this key
        teach["stride"] = config.evaluate.stride
    del teach["dir"]
    files = {name: find_teacher(files, name) for name, files in teacher_paths(method).items()}
    facts = {
        "teachers": {name: sha256_of(file) for name, file in files.items()},
        "classes": list(splits.classes.names),
        "options": teach | {"short_side": config.data.short_side},
    }
    photos = {photo for part in (splits.labeled, splits.unlabeled) for photo in photo_names(part.images, root)}
    return Contents(tuple(sorted(photos)), facts)


def open_maps(config: Experiment, splits: Splits) -> Maps | None:
    """The teachers' maps that an experiment with `method.teachers="offline"` trains on; None for any other.

    Raises:
        UserError: there are none, or they are of another teacher, list, class set, option or version, or of photos that
            have changed.
    """
    if not is_offline(config.method):
        return None
    maps = Maps(Path(config.method.teach.dir), maps_contents(config, splits))
    maps.check_photos(Path(config.data.root))
    return maps


def find_teacher(files: tuple[str, ...], name: str) -> Path:
    """The first file that exists. Raises UserError saying which script makes the teacher, of kind "untrained" then."""
    found = next((path for path in map(checkpoint_file, files) if path.is_file()), None)
    if found is not None:
        return found
    runs = [script for file in files if (script := Path(os.path.abspath(file)).parent.parent / "script.sh").is_file()]
    remedy = f"train it first: bash {runs[-1]}" if runs else "put one there"
    text = f"no checkpoint for method.{name}_teacher: none of {', '.join(files)} exists; {remedy}"
    raise UserError(text, kind="untrained" if runs else "missing")


def load_teacher(
    config: Experiment, name: str, num_classes: int, *, classes: Sequence[str] = ()
) -> SegmentationNetwork:
    """The "deep" or "wide" teacher of a config, from our file or an official one."""
    assert isinstance(config.method, Taught)
    path = find_teacher(teacher_paths(config.method)[name], name)
    network = load_student(path, num_classes=num_classes, classes=classes)
    log.info("%s teacher: %s from %s", name, network.arch["backbone"], path)
    return network


def feature_width(config: Experiment, name: str, num_classes: int) -> int:
    """Channels of a teacher's decoder feature as `mgd teach` stores it."""
    method = config.method
    assert isinstance(method, Taught)
    if method.teach.projection:
        return method.teach.projection
    return load_student(find_teacher(teacher_paths(method)[name], name), num_classes=num_classes).classifier.in_channels


def _check_confidence(method: Method, num_classes: int) -> None:
    confidence = getattr(method, "confidence", ())
    if len(confidence) not in (0, 1, num_classes):
        count = f"method.confidence has {len(confidence)} values, the data {num_classes} classes"
        raise UserError(f"{count}; give one for all, or one for each")


def _student(model: Model, num_classes: int, classes: Sequence[str]) -> SegmentationNetwork:
    """The network that is trained: from `model.init_from` where it is set."""
    if not model.init_from:
        return _network(model, num_classes)
    network = _network(replace(model, pretrained=False), num_classes)
    start_from(network, model.init_from, classes=classes)
    return network


def build_network(model: Model, num_classes: int) -> SegmentationNetwork:
    """The network that a config asks for, with random weights. Raises UserError where it cannot be built."""
    return build_model(
        model.backbone,
        num_classes,
        channels=model.channels,
        output_stride=model.output_stride,
        head=model.head,
        decoder_stride=model.decoder_stride,
    )


def _network(model: Model, num_classes: int) -> SegmentationNetwork:
    network = build_network(model, num_classes)
    if network.unreached:
        names = ", ".join(network.unreached)
        log.info("frozen, since the head %s does not use what comes of them: %s", model.head, names)
    if model.pretrained:
        load_imagenet(network.backbone, network.arch["backbone"], model.weights_dir, read=lambda p: flat_state(read(p)))
    return network
