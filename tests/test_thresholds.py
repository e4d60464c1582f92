"""Thresholds that follow a run: their rule by hand, what they count, runs that are cut off or divided."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import broken_off, differences, read, run_processes, train, write_config
from test_engine import freeze_batch_norm, frozen_forward, metrics, trained_state
from test_objectives import METHOD, SIZE, batch, cps, mgd, network, paper_valid, settled
from test_recipe import loud
from torch import nn

from mgd.__main__ import main
from mgd.config import CPS, MGD, Data, Experiment, MeanTeacher, Model, Train, UniMatch
from mgd.engine.distributed import Processes
from mgd.engine.step import Stepper
from mgd.errors import UserError
from mgd.objectives.base import Objective, hard_label
from mgd.objectives.mean_teacher import MeanTeacherObjective
from mgd.objectives.thresholds import AdaptiveThresholds
from mgd.objectives.unimatch import UniMatchObjective

ON = ["method.confidence=0.5", "method.confidence_ema=0.9"]


def test_thresholds_by_hand() -> None:
    one = AdaptiveThresholds((0.8,), 3, 0.75)
    assert one().tolist() == pytest.approx([0.8] * 3)  # nothing is known yet
    p, label = torch.tensor([[[0.9, 0.7, 0.4, 0.5]]]), torch.tensor([[[0, 0, 1, 1]]])
    valid = torch.tensor([[[True, True, True, False]]])
    assert one.sure(p, label, valid).tolist() == [[[True, False, False, False]]]
    assert one().tolist() == pytest.approx([0.8] * 3)  # until the step is over
    one.update()
    # Class 0: pixels of 0.9 and 0.7; 1: of 0.4 (the other is not valid); 2: none.
    expected = [0.25 + 0.25 * 0.8, 0.25 + 0.25 * 0.4, 1 / 3]
    assert one.learned.tolist() == pytest.approx(expected)
    assert one().tolist() == pytest.approx([0.8 * value / expected[0] for value in expected])
    assert not one.seen.any()
    one.update()  # a step without pseudo-labels
    assert one.learned.tolist() == pytest.approx(expected)


def test_a_probability_that_is_not_finite_is_left_out_and_switches_nothing_off() -> None:
    p, label = torch.tensor([[[0.9, math.nan, 0.4]]]), torch.tensor([[[0, 0, 1]]])
    one, other = (AdaptiveThresholds((0.8,), 3, 0.75) for _ in range(2))
    assert one.sure(p, label, torch.ones(1, 1, 3, dtype=torch.bool)).tolist() == [[[True, False, False]]]
    other.sure(p[..., ::2], label[..., ::2], torch.ones(1, 1, 2, dtype=torch.bool))
    for each in (one, other):
        each.update()
    assert torch.equal(one.learned, other.learned)


def test_each_class_keeps_a_highest_threshold_of_its_own() -> None:
    assert AdaptiveThresholds((0.8, 0.4), 2, 0.9)().tolist() == pytest.approx([0.8, 0.4])


def test_pixels_below_the_threshold_of_their_class_are_255() -> None:
    one, teacher = batch(), settled(1)
    thresholds = AdaptiveThresholds((0.5,), 5, 0.9)
    thresholds.learned.copy_(torch.tensor([0.2, 0.4, 0.6, 0.8, 1.0]))
    with torch.no_grad():
        feature = teacher.feature(one.labeled.image)
        confidence, label = teacher.logits(feature, (SIZE, SIZE)).softmax(dim=1).max(dim=1)
    found = hard_label(teacher, feature, one.labeled.valid, confidence=thresholds)
    highest = 0.5 * torch.tensor([0.2, 0.4, 0.6, 0.8, 1.0])[label]
    assert torch.equal(found.long(), torch.where(one.labeled.valid & (confidence >= highest), label, 255))
    pixels = one.labeled.valid
    expected = [[confidence[pixels & (label == k)].sum(), (pixels & (label == k)).sum()] for k in range(5)]
    torch.testing.assert_close(thresholds.seen, torch.tensor(expected).T)


SURE = 0.22  # of five classes, by networks that have learned nothing: some pixels are, others are not
MAKERS: dict[str, tuple[Callable[[bool], Objective], set[str]]] = {
    "mean_teacher": (
        lambda on: MeanTeacherObjective(network(0), MeanTeacher(confidence=(SURE,), confidence_ema=0.9 * on)),
        {"teacher"},
    ),
    "cps": (lambda on: cps(CPS(confidence=(SURE,), confidence_ema=0.9 * on)), {"student", "peer"}),
    "unimatch": (
        lambda on: UniMatchObjective(network(0), UniMatch(confidence=(SURE,), confidence_ema=0.9 * on)),
        {"teacher"},
    ),
    "mgd": (lambda on: mgd(replace(METHOD, confidence=(SURE,), confidence_ema=0.9 * on)), {"deep", "wide"}),
}


@pytest.mark.parametrize("name", MAKERS)
def test_every_network_that_labels_has_thresholds_which_begin_as_fixed_ones(name: str) -> None:
    make, labellers = MAKERS[name]
    one, plain, following = loud(), make(False), make(True)
    expected, found = plain(one), following(one)
    assert all(torch.equal(found[term], expected[term]) and expected[term] > 0 for term in expected)
    kept = {key: value for key, value in following.state_dict().items() if key.startswith("confidence.")}
    assert kept.keys() == {f"confidence.{labeller}.learned" for labeller in labellers}
    assert plain.state_dict().keys() == following.state_dict().keys() - kept.keys()
    modules = [module for module in following.modules() if isinstance(module, AdaptiveThresholds)]
    assert one.first is not None
    assert one.second is not None
    mixed = name == "mean_teacher"
    pixels = paper_valid(one).sum() if mixed else one.first.valid.sum() + one.second.valid.sum()
    assert [module.seen[1].sum() for module in modules] == [pixels] * len(labellers)


@pytest.mark.parametrize("name", MAKERS)
def test_images_that_are_nothing_but_padding_change_no_threshold(name: str) -> None:
    objective = MAKERS[name][0](True)
    terms = objective(loud(padded=SIZE))
    sum(terms.values()).backward()
    assert all(value.item() == 0 for value in terms.values())
    for module in objective.modules():
        if isinstance(module, AdaptiveThresholds):
            module.update()
            assert module().tolist() == pytest.approx([SURE] * 5)


def test_a_step_that_is_left_out_changes_no_threshold() -> None:
    stepper = Stepper(MAKERS["cps"][0](True), Train(lr=0.01), Processes(0, 1, torch.device("cpu")), 10)
    one = stepper.thresholds[0]
    stepper([loud()])
    before = one.learned.clone()
    assert (before != 1 / 5).any()
    hook = next(stepper.objective.parameters()).register_hook(lambda gradient: gradient * torch.nan)
    stepper([loud()])
    hook.remove()
    assert torch.equal(one.learned, before)
    assert not one.seen.any()


# Whole runs


@pytest.mark.parametrize("method", ["cps", "mgd"])
def test_a_run_that_is_cut_off_ends_with_the_same_weights_and_thresholds(
    small_scenes: Path, tmp_path: Path, teachers: list[str], monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    options = [*(teachers if method == "mgd" else ["method=cps"]), *ON, "train.max_iterations=4", "evaluate.every=2"]
    whole = train(tmp_path / "whole", small_scenes, *options)
    command = ["train", str(write_config(tmp_path / "parts", small_scenes)), *options, "run.save_every=2", "--resume"]
    with broken_off(at=2):
        assert main(command) == 130
    assert main(command) == 0
    state = trained_state(whole)
    learned = [value for name, value in state.items() if name.endswith(".learned")]
    told = [line for line in metrics(whole) if "threshold/" in " ".join(line)]
    assert len(told) == 1
    assert max(value for name, value in told[0].items() if name.startswith("threshold/")) == pytest.approx(0.5)
    assert len(learned) == 2
    assert all((value != 1 / 8).any() for value in learned)
    assert differences(trained_state(tmp_path / "parts/run"), state) == []


def test_two_processes_and_two_halves_of_a_batch_have_the_thresholds_of_one(
    small_scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, teachers: list[str]
) -> None:
    monkeypatch.setattr(nn.BatchNorm2d, "forward", frozen_forward)  # its statistics are those of a part
    options = [*teachers, "method.score_teachers=false", *ON, "train.max_iterations=3", "data.crop_size=48"]
    options += ["train.lr=0.003", "method.lambda_region=10"]
    whole = train(tmp_path / "whole", small_scenes, *options)
    halves = train(tmp_path / "halves", small_scenes, *options, "train.accumulate=2")
    run_processes(2, "train", str(write_config(tmp_path / "two", small_scenes)), *options, first=freeze_batch_norm)
    expected = read(whole / "last.pt")["training"]["objective"]
    for run in (halves, tmp_path / "two/run"):
        found = read(run / "last.pt")["training"]["objective"]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (CPS(confidence=(0.9,), confidence_ema=1.0), "method.confidence_ema=1.0 must be below 1"),
        (MGD(deep_teacher=("x",), confidence_ema=0.9), "method.confidence_ema=0.9 needs method.confidence"),
        (UniMatch(confidence_ema=-0.5), "method.confidence_ema=-0.5 must not be negative"),
    ],
)
def test_thresholds_that_cannot_follow_are_refused(method: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Experiment(data=Data(root="x"), model=Model(backbone="resnet18"), method=method)
