"""Objectives: what a method computes in a step. The type of `config.method` picks one."""

import logging
from dataclasses import asdict
from pathlib import Path

from mgd.checkpoint import flat_state, read
from mgd.config import CPS, CWD, KD, MGD, Experiment, MeanTeacher, Model, Supervised, Taught, UniMatch
from mgd.data.datasets import Splits
from mgd.data.maps import Contents, Maps, photo_name
from mgd.errors import UserError
from mgd.files import sha256_of
from mgd.models.deeplab import DeepLabV3Plus, build_model
from mgd.models.pretrained import load_imagenet
from mgd.objectives.base import Objective
from mgd.objectives.cps import CPSObjective
from mgd.objectives.distill import CWDObjective, KDObjective
from mgd.objectives.mean_teacher import MeanTeacherObjective
from mgd.objectives.mgd import MGDObjective
from mgd.objectives.supervised import SupervisedObjective
from mgd.objectives.teaching import StoredTeaching, TeacherNetworks, Teaching
from mgd.objectives.unimatch import UniMatchObjective
from mgd.student import load_student

__all__ = ["Objective", "build_objective", "find_teacher"]

log = logging.getLogger(__name__)


def build_objective(config: Experiment, num_classes: int) -> Objective:
    """Networks and method of an experiment, on the CPU; weights at random come from torch's global generator.

    Raises:
        UserError: ImageNet weights or a teacher cannot be had or do not fit.
    """
    method = config.method
    confidence = getattr(method, "confidence", ())
    if len(confidence) not in (0, 1, num_classes):
        told = (
            f"method.confidence has {len(confidence)} values, the data {num_classes} classes; give one, or one for each"
        )
        raise UserError(told)
    # Teachers first, since they are what most often fails.
    if isinstance(method, MGD):
        teaching = _teaching(config, method, num_classes)
        return MGDObjective(_network(config.model, num_classes), teaching, method)
    if isinstance(method, KD):
        teachers = _load_teachers(config, method, num_classes)
        return KDObjective(_network(config.model, num_classes), teachers, method)
    if isinstance(method, CWD):
        teachers = _load_teachers(config, method, num_classes)
        return CWDObjective(_network(config.model, num_classes), teachers, method)
    student = _network(config.model, num_classes)
    if isinstance(method, CPS):
        return CPSObjective(student, _network(config.model, num_classes), method)
    if isinstance(method, UniMatch):
        return UniMatchObjective(student, method)
    if isinstance(method, MeanTeacher):
        return MeanTeacherObjective(student, method)
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
    assert isinstance(method, MGD)
    crop = config.data.crop_size
    resolved = {"crop_size": method.teach.crop_size or crop, "feature_stride": method.feature_stride(crop)}
    teach = asdict(method.teach) | resolved
    del teach["dir"]
    files = {name: find_teacher(files, name) for name, files in teacher_paths(method).items()}
    facts = {
        "teachers": {name: sha256_of(file) for name, file in files.items()},
        "classes": list(splits.classes.names),
        "options": teach | {"short_side": config.data.short_side},
    }
    photos = {photo_name(item.image, root) for item in (*splits.labeled, *splits.unlabeled)}
    return Contents(tuple(sorted(photos)), facts)


def open_maps(config: Experiment, splits: Splits) -> Maps | None:
    """The teachers' maps that an experiment with `method.teachers="offline"` trains on; None for any other.

    Raises:
        UserError: there are none, or they are of another teacher, list, class set, option or version.
    """
    if not isinstance(config.method, MGD) or config.method.teachers != "offline":
        return None
    return Maps(Path(config.method.teach.dir), maps_contents(config, splits))


def find_teacher(files: tuple[str, ...], name: str) -> Path:
    """The first file that exists. Raises UserError saying which script makes the teacher."""
    found = next((Path(file) for file in files if Path(file).is_file()), None)
    if found is not None:
        return found
    runs = [script for file in files if (script := Path(file).absolute().parent.parent / "script.sh").is_file()]
    remedy = f"train it first: bash {runs[-1]}" if runs else "put one there"
    raise UserError(f"no checkpoint for method.{name}_teacher: none of {', '.join(files)} exists; {remedy}")


def load_teacher(config: Experiment, name: str, num_classes: int) -> DeepLabV3Plus:
    """The "deep" or "wide" teacher of a config, from our file or an official one."""
    assert isinstance(config.method, Taught)
    path = find_teacher(teacher_paths(config.method)[name], name)
    network = load_student(path, num_classes=num_classes)
    log.info("%s teacher: %s from %s", name, network.arch["backbone"], path)
    return network


def _load_teachers(config: Experiment, method: Taught, num_classes: int) -> dict[str, DeepLabV3Plus]:
    return {name: load_teacher(config, name, num_classes) for name in teacher_paths(method)}


def _teaching(config: Experiment, method: MGD, num_classes: int) -> Teaching:
    if method.teachers == "offline":
        return StoredTeaching(method, tuple(teacher_paths(method)))
    return TeacherNetworks(_load_teachers(config, method, num_classes), method)


def _network(model: Model, num_classes: int) -> DeepLabV3Plus:
    network = build_model(model.backbone, num_classes, channels=model.channels, output_stride=model.output_stride)
    if model.pretrained:
        load_imagenet(network.backbone, network.arch["backbone"], model.weights_dir, read=lambda p: flat_state(read(p)))
    return network
