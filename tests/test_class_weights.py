"""Class weights from the labelled part: the rule by hand, what they weigh and what they do not, runs that keep them."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import read, run_processes, train, write_config, write_image
from test_engine import freeze_batch_norm, frozen_forward
from test_objectives import METHOD, batch, cps, mgd, network
from torch import Tensor, nn

from mgd.__main__ import main
from mgd.config import CPS, CWD, KD, Criterion, Data, MeanTeacher, Supervised, UniMatch
from mgd.data.balance import class_weights
from mgd.data.datasets import Item
from mgd.errors import UserError
from mgd.losses import mean_of_hard, weigh
from mgd.objectives.base import Objective, supervised_loss
from mgd.objectives.distill import CWDObjective, KDObjective
from mgd.objectives.mean_teacher import MeanTeacherObjective
from mgd.objectives.supervised import SupervisedObjective
from mgd.objectives.unimatch import UniMatchObjective

WEIGHTS = (0.5, 2.0, 1.0, 3.0, 0.1)
BALANCED = "method.criterion.class_weights=median_frequency"

# The rule


def items(folder: Path, *labels: Any) -> list[Item]:
    made = []
    for i, label in enumerate(labels):
        path = write_image(folder / f"{i}.png", np.array(label, np.uint8))
        made.append(Item(str(i), path, path))
    return made


def test_weights_go_as_one_over_a_classes_share_of_the_images_that_hold_it(tmp_path: Path) -> None:
    # Class 0: 6 of the 4 + 4 pixels with a label; 1: 1 of 4; 2: 1 of 4; 3: none.
    # 1 / share: 8/6, 4, 4; the mean over the 8 labelled pixels (6 * 8/6 + 4 + 4) / 8 = 2.
    found = class_weights(items(tmp_path, [[0, 0, 0, 1]], [[0, 0, 0, 2, 255, 255]]), Data(root="x"), 4)
    assert found == pytest.approx((2 / 3, 2, 2, 1))


def test_weights_are_those_of_the_labels_as_training_reads_them(tmp_path: Path) -> None:
    data = Data(root="x", label_map=("7=1", "0=0", "9=ignore"), short_side=2)
    labels = items(tmp_path, np.kron([[0, 0, 0, 7], [0, 0, 0, 9]], np.ones((3, 3))))
    assert class_weights(labels, data, 2) == pytest.approx((7 / 12, 7 / 2))  # 6 and 1 of 7; mean of 7/6 and 7: 2


def test_labels_without_a_pixel_weigh_all_classes_alike(tmp_path: Path) -> None:
    assert class_weights(items(tmp_path, [[255, 255]]), Data(root="x"), 3) == (1.0, 1.0, 1.0)


def test_a_label_that_cannot_be_read_is_told_or_left_out_where_that_is_asked_for(tmp_path: Path) -> None:
    labels = items(tmp_path, [[0, 1]], [[0, 9]])
    with pytest.raises(UserError, match=r"1\.png holds the label value 9"):
        class_weights(labels, Data(root="x"), 2)
    assert class_weights(labels, Data(root="x", skip_broken=True), 2) == pytest.approx((1, 1))


# The loss


def test_weighted_cross_entropy_by_hand() -> None:
    losses, target = torch.tensor([[[1.0, 2.0, 3.0, 0.0]]]), torch.tensor([[[0, 1, 1, 255]]])
    found = supervised_loss(losses, target, Criterion(), weights=(0.5, 2.0))
    assert found.item() == pytest.approx((0.5 * 1 + 2 * 2 + 2 * 3) / 3)


def test_hard_pixels_are_chosen_without_the_weights_and_their_mean_has_them() -> None:
    losses = -torch.tensor([[0.1, 0.5, 0.8, 0.9]]).log()  # kept: the probabilities of at most 0.7
    target = torch.tensor([[1, 0, 0, 1]])
    found = mean_of_hard(losses, target, threshold=0.7, min_kept=1, weights=(3.0, 0.25))
    assert found.item() == pytest.approx(-(0.25 * math.log(0.1) + 3 * math.log(0.5)) / (0.25 + 3))


@pytest.mark.parametrize("kind", ["ce", "ohem"])
def test_gradient_of_the_weighted_loss_is_torchs(kind: Any) -> None:
    one, objective = (
        batch(),
        SupervisedObjective(network(0), Supervised(criterion=Criterion(kind=kind, min_kept=10**6))),
    )
    objective.class_weights = WEIGHTS
    label, student = one.labeled.label, objective.student
    assert label is not None
    parameters = list(student.parameters())
    objective.eval()
    found = torch.autograd.grad(objective(one)["supervised"], parameters, allow_unused=True)
    pixels = F.cross_entropy(
        student(one.labeled.image), label, weight=torch.tensor(WEIGHTS), ignore_index=255, reduction="none"
    )
    kept = torch.tensor([*WEIGHTS, *[0.0] * (256 - len(WEIGHTS))])[label].sum(dim=(1, 2))
    mean = pixels.sum() / (label != 255).sum() if kind == "ce" else (pixels.sum(dim=(1, 2)) / kept).mean()
    for own, expected in zip(found, torch.autograd.grad(mean, parameters, allow_unused=True), strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-6)


def test_without_weights_losses_are_as_they_are() -> None:
    losses = torch.rand(1, 2, 2)
    assert weigh(losses, torch.zeros(1, 2, 2, dtype=torch.int64), ()) is losses


# Objectives


def taught(kind: Any, config: Any) -> Objective:
    return kind(network(0), {"deep": network(1).eval()}, config)


OBJECTIVES: dict[str, Callable[[Criterion], Objective]] = {
    "supervised": lambda criterion: SupervisedObjective(network(0), Supervised(criterion=criterion)),
    "mean_teacher": lambda criterion: MeanTeacherObjective(network(0), MeanTeacher(criterion=criterion, confidence=())),
    "cps": lambda criterion: cps(CPS(criterion=criterion)),
    "unimatch": lambda criterion: UniMatchObjective(
        network(0), UniMatch(criterion=criterion, confidence=(), burn_in_iterations=1)
    ),
    "kd": lambda criterion: taught(KDObjective, KD(criterion=criterion, deep_teacher=("x",))),
    "cwd": lambda criterion: taught(CWDObjective, CWD(criterion=criterion, deep_teacher=("x",))),
    "mgd": lambda criterion: mgd(replace(METHOD, criterion=criterion)),
}


def weighted_terms(make: Callable[[Criterion], Objective], criterion: Criterion, **how: int) -> list[dict[str, Tensor]]:
    """Terms without and with weights; the networks in eval mode, so that one forward changes nothing for the next."""
    objective = make(criterion).eval()
    found = []
    for weights in ((), WEIGHTS):
        objective.class_weights = weights
        found.append(objective(batch(**how)))
    return found


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("kind", ["ce", "ohem"])
def test_weights_change_the_term_on_labels_and_no_other(name: str, kind: Any) -> None:
    plain, weighted = weighted_terms(OBJECTIVES[name], Criterion(kind=kind, min_kept=100))
    assert plain.keys() == weighted.keys()
    for term in plain:
        assert torch.equal(plain[term], weighted[term]) == (term != "supervised"), term


@pytest.mark.parametrize("name", ["supervised", "mgd"])
@pytest.mark.parametrize("kind", ["ce", "ohem"])
def test_an_image_without_a_label_gives_weighted_terms_and_gradients_of_0(name: str, kind: Any) -> None:
    objective = OBJECTIVES[name](Criterion(kind=kind, min_kept=100))
    objective.class_weights = WEIGHTS
    term = objective(batch(padded=32))["supervised"]
    term.backward()
    assert term.item() == 0
    assert not any(p.grad.any() for p in objective.parameters() if p.grad is not None)


# Whole runs


def test_a_run_tells_its_weights_keeps_them_and_refuses_to_go_on_without(
    small_scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(tmp_path, small_scenes, BALANCED)
    told = json.loads((run / "config.json").read_text())["class_weights"]
    assert "class weights: sky " in (run / "log.txt").read_text()
    assert max(told.values()) > 1 > min(told.values())
    assert main(["train", str(tmp_path / "config.py"), "--resume", "train.max_iterations=4"]) == 2
    assert "another method.criterion.class_weights ('median_frequency', now 'none')" in capsys.readouterr().err


def test_a_criterion_with_other_weights_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path, tmp_path)
    assert main(["train", str(config), "method.criterion.class_weights=inverse"]) == 2
    assert "method.criterion.class_weights='inverse' must be none or median_frequency" in capsys.readouterr().err


def test_two_processes_and_two_halves_of_a_batch_weigh_as_one(
    small_scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nn.BatchNorm2d, "forward", frozen_forward)  # its statistics are those of a part
    options = [BALANCED, "train.max_iterations=3", "data.crop_size=48"]
    whole = train(tmp_path / "whole", small_scenes, *options)
    halves = train(tmp_path / "halves", small_scenes, *options, "train.accumulate=2")
    config = str(write_config(tmp_path / "processes", small_scenes))
    run_processes(2, "train", config, *options, first=freeze_batch_norm)
    expected = read(whole / "last.pt")["model"]
    for run in (halves, tmp_path / "processes/run"):
        torch.testing.assert_close(read(run / "last.pt")["model"], expected, rtol=0, atol=1e-5)
