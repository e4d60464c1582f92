"""Objectives: what a method computes in a step. The type of `config.method` picks one."""

import logging
from pathlib import Path

from mgd.checkpoint import flat_state, read
from mgd.config import CPS, CWD, KD, MGD, Experiment, MeanTeacher, Model, Supervised, Taught
from mgd.errors import UserError
from mgd.models.deeplab import DeepLabV3Plus, build_model
from mgd.models.pretrained import load_imagenet
from mgd.objectives.base import Objective
from mgd.objectives.cps import CPSObjective
from mgd.objectives.distill import CWDObjective, KDObjective
from mgd.objectives.mean_teacher import MeanTeacherObjective
from mgd.objectives.mgd import MGDObjective
from mgd.objectives.supervised import SupervisedObjective
from mgd.student import load_student

__all__ = ["Objective", "build_objective", "find_teacher"]

log = logging.getLogger(__name__)


def build_objective(config: Experiment, num_classes: int) -> Objective:
    """Networks and method of an experiment, on the CPU; weights at random come from torch's global generator.

    Raises:
        UserError: ImageNet weights or a teacher cannot be had or do not fit.
    """
    method = config.method
    # First, since it is what most often fails.
    names = teacher_paths(method) if isinstance(method, Taught) else ()
    teachers = {name: load_teacher(config, name, num_classes) for name in names}
    student = _network(config.model, num_classes)
    if isinstance(method, MGD):
        return MGDObjective(student, teachers, method)
    if isinstance(method, KD):
        return KDObjective(student, teachers, method)
    if isinstance(method, CWD):
        return CWDObjective(student, teachers, method)
    if isinstance(method, CPS):
        return CPSObjective(student, _network(config.model, num_classes), method)
    if isinstance(method, MeanTeacher):
        return MeanTeacherObjective(student, method)
    assert isinstance(method, Supervised)
    return SupervisedObjective(student, method)


def teacher_paths(method: Taught) -> dict[str, tuple[str, ...]]:
    """The teachers that a config names: "deep" and "wide", each with its candidate files."""
    paths = {"deep": method.deep_teacher, "wide": method.wide_teacher}
    return {name: files for name, files in paths.items() if files}


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


def _network(model: Model, num_classes: int) -> DeepLabV3Plus:
    network = build_model(model.backbone, num_classes, channels=model.channels, output_stride=model.output_stride)
    if model.pretrained:
        load_imagenet(network.backbone, network.arch["backbone"], model.weights_dir, read=lambda p: flat_state(read(p)))
    return network
