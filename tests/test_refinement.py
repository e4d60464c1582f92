"""A last stage on labels alone: what it computes and reads, runs that are cut off or divided in it."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import broken_off, copy_of, differences, read, run_processes, train, write_config
from test_class_weights import OBJECTIVES, WEIGHTS
from test_engine import freeze_batch_norm, frozen_forward, metrics, trained_state
from test_objectives import batch, network
from torch import nn

from mgd.__main__ import main
from mgd.config import CPS as CPSConfig
from mgd.config import Criterion, Train, load
from mgd.data.batch import Batch
from mgd.data.datasets import open_splits
from mgd.data.samples import TrainingSamples
from mgd.engine.distributed import Processes
from mgd.engine.step import Stepper
from mgd.objectives.cps import CPSObjective

CPS = ["method=cps", "train.max_iterations=5", "train.refine_iterations=2"]


def alone(**how: int) -> Batch:
    return batch(**how)._replace(first=None, second=None, mask=None)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_without_unlabelled_images_every_method_is_the_students_loss_on_labels(name: str) -> None:
    objective, one = OBJECTIVES[name](Criterion()).eval(), alone()
    objective.class_weights = WEIGHTS
    assert one.labeled.label is not None
    pixels = F.cross_entropy(
        objective.student(one.labeled.image),
        one.labeled.label,
        torch.tensor(WEIGHTS),
        ignore_index=255,
        reduction="none",
    )
    expected = pixels.sum() / (one.labeled.label != 255).sum()
    (due,) = objective.due(one)
    assert due.counts.keys() == due.terms().keys() == {"supervised"}
    torch.testing.assert_close(due.terms()["supervised"], expected)
    torch.testing.assert_close(objective(one)["supervised"], expected)
    assert objective(alone(padded=32))["supervised"].item() == 0


@pytest.mark.parametrize("name", ["cps", "cwd"])
def test_what_is_trained_beside_the_student_learns_no_more_but_has_a_gradient_for_ddp(name: str) -> None:
    objective = OBJECTIVES[name](Criterion())
    beside = [p for key, p in objective.named_parameters() if not key.startswith("student.")]
    objective.due(alone())[0].terms()["supervised"].backward()
    assert all(p.grad is None for p in beside)
    objective(alone())["supervised"].backward()
    assert all(p.grad is not None for p in objective.parameters() if p.requires_grad)
    assert not any(p.grad.any() for p in beside if p.grad is not None)


def test_its_positions_have_the_same_labelled_images_and_read_no_others(small_scenes: Path, tmp_path: Path) -> None:
    config = load(write_config(tmp_path, small_scenes), [*CPS, "data.strong=true"])  # 4 positions an iteration
    splits = open_splits(config.data)
    whole, cut = TrainingSamples(splits, config), TrainingSamples(splits, config, labels_alone_from=3)
    before, after = cut[11], cut[12]
    assert before.keys() == whole[11].keys() == {"labeled", "first", "second", "mask", "noise", "broken"}
    assert after.keys() == {"labeled", "broken"}
    assert np.array_equal(after["labeled"]["image"], whole[12]["labeled"]["image"])
    assert cut.names(12) == whole.names(12)[:1]


def test_a_burn_in_reads_no_unlabelled_image_and_trains_all_that_it_did(small_scenes: Path, tmp_path: Path) -> None:
    late = [*CPS[:2], "method.burn_in_iterations=2"]
    config = load(write_config(tmp_path, small_scenes), late)  # 4 positions an iteration
    samples = TrainingSamples(open_splits(config.data), config)
    assert samples[7].keys() == {"labeled", "broken"}
    assert samples[8].keys() == {"labeled", "first", "second", "mask", "broken"}
    objective = CPSObjective(network(0), network(1), CPSConfig(burn_in_iterations=1))
    torch.testing.assert_close(objective(alone()), objective(batch()))
    stepper = Stepper(objective, Train(max_iterations=9), Processes(0, 1, torch.device("cpu")), 9)
    before = copy_of(objective.state_dict())
    stepper([alone()])
    assert {key.partition(".")[0] for key in differences(before, objective.state_dict())} == {"student", "peer"}


def test_a_run_ends_on_labels_alone_and_says_so_while_its_schedule_goes_on(small_scenes: Path, tmp_path: Path) -> None:
    run, plain = (train(tmp_path / str(i), small_scenes, *CPS[: 3 - i]) for i in (0, 1))
    lines, others = metrics(run), metrics(plain)
    assert [line["lr"] for line in lines] == [line["lr"] for line in others]
    assert [{"loss/cps", "refining"} & line.keys() for line in lines] == [{"loss/cps"}] * 3 + [{"refining"}] * 2
    assert [line["loss/total"] for line in lines[:3]] == [line["loss/total"] for line in others[:3]]
    said = (run / "log.txt").read_text()
    assert "of these the last 2 on labels alone" in said
    assert "iteration 4: from here on the student learns from labels alone" in said
    assert "labels alone" not in (plain / "log.txt").read_text()


@pytest.mark.parametrize(("method", "saved"), [("cps", 2), ("mean_teacher", 4)])  # before its beginning, in it
def test_a_run_that_is_cut_off_ends_in_the_same_weights(
    small_scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, saved: int
) -> None:
    options = [f"method={method}", *CPS[1:]]
    whole = train(tmp_path / "whole", small_scenes, *options)
    command = ["train", str(write_config(tmp_path / "parts", small_scenes)), *options, "run.save_every=2", "--resume"]
    with broken_off(at=saved):
        assert main(command) == 130
    assert main(command) == 0
    assert differences(trained_state(tmp_path / "parts/run"), trained_state(whole)) == []


@pytest.mark.parametrize("method", ["cps", "cwd"])  # both train weights beside the student's
def test_two_processes_and_two_halves_of_a_batch_refine_as_one(
    small_scenes: Path, tmp_path: Path, teachers: list[str], monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(nn.BatchNorm2d, "forward", frozen_forward)  # its statistics are those of a part
    wide = [teachers[2], "method.score_teachers=false"] if method == "cwd" else []
    options = [f"method={method}", *wide, *CPS[1:], "train.max_iterations=4", "train.lr=0.003", "data.crop_size=48"]
    expected = read(train(tmp_path / "whole", small_scenes, *options) / "last.pt")["model"]
    halves = train(tmp_path / "halves", small_scenes, *options, "train.accumulate=2")
    run_processes(2, "train", str(write_config(tmp_path / "two", small_scenes)), *options, first=freeze_batch_norm)
    for run in (halves, tmp_path / "two/run"):
        torch.testing.assert_close(read(run / "last.pt")["model"], expected, rtol=0, atol=1e-5)


def test_added_iterations_have_a_last_stage_of_their_own(small_scenes: Path, tmp_path: Path) -> None:
    run = train(tmp_path, small_scenes, *CPS)
    train(tmp_path, small_scenes, *CPS, "train.refine_iterations=1", "--more", "3")
    assert ["refining" in line for line in metrics(run)] == [False] * 3 + [True] * 2 + [False] * 2 + [True]


def test_a_last_stage_as_long_as_the_run_is_refused(
    small_scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(write_config(tmp_path, small_scenes)), *CPS, "train.refine_iterations=5"]) == 2
    said = "train.refine_iterations=5 leaves none of the 5 iterations to the method; use fewer, or method=supervised"
    assert said in capsys.readouterr().err
