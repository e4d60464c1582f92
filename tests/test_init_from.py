"""`model.init_from`: a student starts from a trained segmentation network; what fits is loaded, the rest is told."""

import logging
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import BACKBONE, CHANNELS, differences, write_network

from mgd.checkpoint import save
from mgd.config import CPS, Data, Experiment, Method, Model, Supervised
from mgd.errors import UserError
from mgd.models import build_model
from mgd.objectives import build_objective
from mgd.student import load_student, start_from


def experiment(file: Path, *, method: Method | None = None, **model: object) -> Experiment:
    network = Model(backbone=BACKBONE, pretrained=False, channels=CHANNELS, init_from=str(file))
    return Experiment(data=Data(root="x"), model=replace(network, **model), method=method or Supervised())  # type: ignore[arg-type]


def test_the_same_network_is_loaded_whole(tmp_path: Path) -> None:
    file = write_network(tmp_path / "x.pt", num_classes=5, seed=7)
    student = build_objective(experiment(file), 5).student
    assert differences(student.state_dict(), load_student(file).state_dict()) == []


def test_another_class_count_leaves_the_classifier_alone_at_random(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write_network(tmp_path / "x.pt", num_classes=5, seed=7)
    logging.getLogger("mgd").propagate = True
    with caplog.at_level(logging.INFO, "mgd"):
        student = build_objective(experiment(file), 3).student
    loaded = load_student(file).state_dict()
    own = {name: tensor for name, tensor in student.state_dict().items() if not name.startswith("classifier.")}
    assert differences(own, {name: loaded[name] for name in own}) == []
    assert "left at random: classifier.weight, classifier.bias" in caplog.text
    assert "head.aspp.* (" in caplog.text


def test_another_width_keeps_the_backbone(tmp_path: Path) -> None:
    file = write_network(tmp_path / "x.pt", num_classes=5, seed=7)
    student = build_objective(experiment(file, channels=24), 5).student
    assert differences(student.backbone.state_dict(), load_student(file).backbone.state_dict()) == []


def test_other_class_names_leave_the_classifier_at_random(tmp_path: Path) -> None:
    network = build_model(BACKBONE, 2, channels=CHANNELS)
    save(tmp_path / "x.pt", network, classes=("cat", "dog"))
    for names, same in ((("cat", "dog"), True), (("dog", "cat"), False), ((), True)):
        other = build_model(BACKBONE, 2, channels=CHANNELS)
        start_from(other, tmp_path / "x.pt", classes=names)
        assert torch.equal(other.classifier.weight, network.classifier.weight) is same


def test_the_peer_of_cps_does_not_start_as_the_student_does(tmp_path: Path) -> None:
    file = write_network(tmp_path / "x.pt", num_classes=5, seed=7)
    one, other = (
        p for n, p in build_objective(experiment(file, method=CPS()), 5).named_parameters() if "classifier.w" in n
    )
    assert not torch.equal(one, other)


def test_another_backbone_is_refused(tmp_path: Path) -> None:
    file = write_network(tmp_path / "x.pt", num_classes=5)
    with pytest.raises(
        UserError, match=r"init_from=.*x\.pt holds a timm:test_resnet network, model.backbone is resnet18"
    ):
        build_objective(experiment(file, backbone="resnet18"), 5)


def test_a_file_of_values_that_are_not_finite_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    network = build_model(BACKBONE, 3, channels=16)
    torch.nn.init.constant_(network.classifier.bias, math.nan)
    save(tmp_path / "n.pt", network)
    with pytest.raises(UserError, match=r"values that are not finite: classifier\.bias"):
        start_from(build_model(BACKBONE, 3, channels=16), tmp_path / "n.pt")
