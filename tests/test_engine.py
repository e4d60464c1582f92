"""Test the engine: schedule, optimiser, devices; whole small runs, repeated, interrupted, resumed, in two processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from helpers import broken_off, differences, read, run_processes, start, train, write_config
from torch import nn

import mgd.engine.loop as loop
import mgd.engine.step as step
from mgd.__main__ import main
from mgd.config import Data, Experiment, Model, Supervised, Train
from mgd.data.classes import BUILT_IN
from mgd.data.datasets import Splits
from mgd.data.items import Item, Items
from mgd.engine.distributed import pick_device
from mgd.engine.optim import make_optimizer, make_schedule, pick_precision
from mgd.engine.teachers import warnings_about
from mgd.errors import UserError
from mgd.evaluate import Report

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
METHODS = ["supervised", "mean_teacher", "cps", "unimatch", "kd", "cwd", "mgd"]
TAUGHT = ["kd", "cwd", "mgd"]  # by frozen teachers

# Parts


def test_the_learning_rate_falls_as_published_from_the_first_iteration_to_zero() -> None:
    optimizer = make_optimizer(nn.Conv2d(3, 4, 1), Train(lr=0.0025), CPU)
    schedule = make_schedule(optimizer, Train(lr=0.0025), 10)
    seen = []
    for _ in range(10):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert seen == pytest.approx([0.0025 * (1 - i / 10) ** 0.9 for i in range(10)])
    assert schedule.get_last_lr() == [0.0, 0.0]


def test_only_convolution_weights_decay_and_everything_learns() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    optimizer = make_optimizer(module, Train(weight_decay=0.01, momentum=0.8), CPU)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    expected = {name: 0.01 if name in ("0.weight", "2.weight") else 0.0 for name, _ in module.named_parameters()}
    assert {name: decay[id(p)] for name, p in module.named_parameters()} == expected
    assert all(group["momentum"] == 0.8 for group in optimizer.param_groups)


def test_frozen_parameters_are_not_optimised() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3).requires_grad_(False), nn.Conv2d(4, 2, 1))
    groups = make_optimizer(module, Train(), CPU).param_groups
    assert sum(len(group["params"]) for group in groups) == 2


def test_precision_is_full_on_a_cpu_unless_asked_otherwise() -> None:
    assert pick_precision("auto", CPU) == torch.float32
    assert pick_precision("bf16", CPU) == torch.bfloat16
    assert pick_precision("fp16", GPU) == torch.float16
    assert pick_precision("fp32", GPU) == torch.float32
    with pytest.raises(UserError, match=r"train.precision=fp16 needs a GPU; use fp32 or bf16"):
        pick_precision("fp16", CPU)


def test_every_process_takes_a_gpu_of_its_own_where_there_are_some() -> None:
    assert pick_device("auto", 0, 0) == CPU
    assert pick_device("cpu", 3, 4) == CPU
    assert pick_device("auto", 3, 4) == torch.device("cuda", 3)
    assert pick_device("cuda", 1, 2) == torch.device("cuda", 1)
    with pytest.raises(UserError, match=r"run.device=cuda but this machine has no GPU.*run.device=cpu"):
        pick_device("cuda", 0, 0)
    with pytest.raises(UserError, match=r"process 4 has no GPU of its own: there are 4; set NGPUS=4"):
        pick_device("auto", 4, 4)


@pytest.mark.parametrize(
    ("labeled", "unlabeled", "options", "expected"),
    [
        (1323, 9259, {"epochs": 34}, (1157, 39338)),  # VOC 1/8: 9259 // 8 = 1157; x 34
        (662, 9920, {"epochs": 34}, (1240, 42160)),  # VOC 1/16
        (186, 2789, {"epochs": 137, "batch_size": 16}, (174, 23838)),  # Cityscapes 1/16
        (1323, 9259, {"max_iterations": 1}, (1157, 1)),
        (10, 0, {"epochs": 3}, (1, 3)),  # all labelled: the labelled list is what an epoch goes through
        (3, 5, {"epochs": 2}, (1, 2)),  # fewer images than a batch
    ],
)
def test_a_run_is_as_long_as_published(
    labeled: int, unlabeled: int, options: dict[str, Any], expected: tuple[int, int]
) -> None:
    def items(count: int) -> Items:
        return Items.of(Item(str(i), Path(f"{i}.jpg"), None) for i in range(count))

    config = Experiment(
        data=Data(root=""), model=Model(backbone="resnet18"), method=Supervised(), train=Train(**options)
    )
    splits = Splits(BUILT_IN["voc"], items(labeled), items(unlabeled), items(0))
    assert loop.run_length(config, splits) == expected


def test_a_teacher_below_the_labels_alone_or_collapsed_is_warned_of() -> None:
    classes = replace(BUILT_IN["camvid"], names=tuple("abcd"), colors=BUILT_IN["camvid"].colors[:4])
    good = Report(classes, torch.eye(4, dtype=torch.int64), 1)
    collapsed = Report(classes, torch.zeros(4, 4, dtype=torch.int64), 1)
    collapsed.confusion[:, 0] = 1  # everything is taken for class a
    assert warnings_about(good, 0.9) == warnings_about(good, None) == []
    assert warnings_about(good, 1.1) == ["scores 100.00 mIoU, labels alone give 110.00"]
    assert warnings_about(collapsed, None) == ["has lost 3 of 4 classes (b, c, d)"]


# Whole runs


@pytest.fixture(scope="module")
def method_options(teachers: list[str]) -> dict[str, list[str]]:
    taught = {name: [f"method={name}", *teachers[1:]] for name in TAUGHT}
    return {name: [f"method={name}"] for name in METHODS} | taught


@pytest.fixture(scope="module")
def undisturbed(
    small_scenes: Path, tmp_path_factory: pytest.TempPathFactory, method_options: dict[str, list[str]]
) -> Callable[[str], Path]:
    """The run folder of 5 undisturbed iterations of a method; made once."""
    made: dict[str, Path] = {}

    def run(method: str) -> Path:
        if method not in made:
            folder = tmp_path_factory.mktemp(method)
            made[method] = train(folder, small_scenes, *method_options[method], "train.max_iterations=5")
        return made[method]

    return run


def trained_state(run: Path) -> dict[str, torch.Tensor]:
    """Everything that a run has trained: weights, buffers, momentum."""
    training = read(run / "last.pt")["training"]
    momentum = {f"momentum.{i}": s["momentum_buffer"] for i, s in training["optimizer"]["state"].items()}
    return training["objective"] | momentum


def weights(run: Path) -> dict[str, torch.Tensor]:
    return dict(read(run / "last.pt")["training"]["objective"])


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("method", METHODS)
def test_a_run_writes_its_whole_record(
    small_scenes: Path, tmp_path: Path, method: str, method_options: dict[str, list[str]]
) -> None:
    options = [*method_options[method], "train.max_iterations=3", "evaluate.every=1", "evaluate.mode=whole"]
    run = train(tmp_path, small_scenes, *options)
    record = json.loads((run / "config.json").read_text())
    assert record["config"]["method"]["name"] == method
    assert record["config"]["train"]["max_iterations"] == record["iterations"] == 3
    assert set(record["versions"]) >= {"python", "torch", "torchvision", "timm"}
    assert "git" in record
    assert "iteration 3/3" in (run / "log.txt").read_text()
    assert any((run / "tensorboard").iterdir())
    training = [line for line in metrics(run) if "lr" in line]
    assert [line["step"] for line in training] == [1, 2, 3]
    assert all(line["loss/total"] > 0 and line["images_per_second"] > 0 for line in training)
    assert [line["step"] for line in metrics(run) if "miou" in line] == [2, 3]  # 9 unlabelled // 4 = 2 an epoch
    for name in ("last.pt", "best.pt"):
        content = read(run / name)
        assert content["config"] == record["config"] or json.loads(json.dumps(content["config"])) == record["config"]
        assert len(content["classes"]) == 8
        assert not any(tensor.isnan().any() for tensor in content["model"].values())
    assert read(run / "last.pt")["iteration"] == 3
    assert all((run / f"teacher-{name}.json").is_file() is (method in TAUGHT) for name in ("deep", "wide"))
    assert not [path.name for path in run.iterdir() if path.name.endswith(".tmp")]


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_weights_for_any_number_of_workers(
    small_scenes: Path,
    tmp_path: Path,
    method: str,
    method_options: dict[str, list[str]],
    undisturbed: Callable[[str], Path],
) -> None:
    options = [*method_options[method], "train.max_iterations=5"]
    for workers in (0, 2) if method == "mgd" else (1,):
        again = train(tmp_path / str(workers), small_scenes, *options, f"data.workers={workers}")
        assert differences(trained_state(again), trained_state(undisturbed(method))) == []


def test_another_seed_gives_other_weights(
    small_scenes: Path, tmp_path: Path, undisturbed: Callable[[str], Path]
) -> None:
    other = train(tmp_path, small_scenes, "train.max_iterations=5", "train.seed=1")
    assert differences(trained_state(other), trained_state(undisturbed("supervised")))


@pytest.mark.parametrize("method", METHODS)
def test_an_interrupted_run_that_is_resumed_ends_in_the_same_weights(
    small_scenes: Path,
    tmp_path: Path,
    method: str,
    method_options: dict[str, list[str]],
    undisturbed: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = str(write_config(tmp_path, small_scenes))
    # The run breaks off in iteration 4, 3 being saved.
    command = ["train", config, *method_options[method], "train.max_iterations=5", "run.save_every=3", "--resume"]
    with broken_off(at=3):
        assert main(command) == 130
    assert read(tmp_path / "run/last.pt")["iteration"] == 3
    assert main(command) == 0
    assert differences(trained_state(tmp_path / "run"), trained_state(undisturbed(method))) == []
    assert [line["step"] for line in metrics(tmp_path / "run")] == [1, 2, 3, 4, 5]


def test_a_killed_run_that_is_resumed_ends_in_the_same_weights(
    small_scenes: Path, tmp_path: Path, undisturbed: Callable[[str], Path]
) -> None:
    config = str(write_config(tmp_path, small_scenes))
    command = ["train", config, "method=cps", "train.max_iterations=5", "run.save_every=1", "--resume"]
    last = tmp_path / "run/last.pt"
    for pause in (0.0, 0.05):  # killed early and late in a step or a save
        seen = last.stat().st_mtime_ns if last.exists() else 0
        process = start(*command)
        process.wait_for(lambda seen=seen: last.exists() and last.stat().st_mtime_ns != seen)
        time.sleep(pause)
        os.kill(process.process.pid, signal.SIGKILL)
        process.wait()
        assert 0 < read(last)["iteration"] <= 5
    assert main(command) == 0
    assert differences(trained_state(tmp_path / "run"), trained_state(undisturbed("cps"))) == []


def test_evaluation_in_the_middle_does_not_change_what_is_trained(
    small_scenes: Path, tmp_path: Path, undisturbed: Callable[[str], Path]
) -> None:
    options = ["method=cps", "train.max_iterations=5", "evaluate.every=1", "evaluate.mode=whole"]
    run = train(tmp_path, small_scenes, *options)
    assert len([line for line in metrics(run) if "miou" in line]) == 3
    assert differences(trained_state(run), trained_state(undisturbed("cps"))) == []


def test_the_best_evaluation_is_kept(small_scenes: Path, tmp_path: Path) -> None:
    options = ["train.max_iterations=6", "train.lr=0.1", "evaluate.every=1", "evaluate.mode=whole"]
    run = train(tmp_path, small_scenes, *options)
    scores = {int(line["step"]): line["miou"] for line in metrics(run) if "miou" in line}
    best = read(run / "best.pt")
    assert best["miou"] == max(scores.values()) == scores[best["iteration"]]
    out = ["--out", str(tmp_path / "out")]
    assert main(["evaluate", str(run / "best.pt"), *out]) == 0
    assert json.loads((tmp_path / "out/best.json").read_text())["miou"] == pytest.approx(best["miou"])


def test_accumulation_makes_as_many_iterations_at_the_same_learning_rates(
    small_scenes: Path, tmp_path: Path, undisturbed: Callable[[str], Path]
) -> None:
    run = train(tmp_path, small_scenes, "method=cps", "train.max_iterations=5", "train.accumulate=2")
    whole = metrics(undisturbed("cps"))
    assert [(line["step"], line["lr"]) for line in metrics(run)] == [(line["step"], line["lr"]) for line in whole]
    # The terms are means over the batch, not sums over its parts.
    assert metrics(run)[0]["loss/total"] == pytest.approx(whole[0]["loss/total"], rel=0.2)


def test_bf16_trains_to_nearly_the_losses_of_fp32(
    small_scenes: Path, tmp_path: Path, method_options: dict[str, list[str]], undisturbed: Callable[[str], Path]
) -> None:
    run = train(tmp_path, small_scenes, *method_options["mgd"], "train.max_iterations=1", "train.precision=bf16")
    full, half = metrics(undisturbed("mgd"))[0], metrics(run)[0]
    for name in ("loss/supervised", "loss/pixel_labeled", "loss/pixel_unlabeled"):
        assert half[name] == pytest.approx(full[name], rel=0.05)
    assert all(tensor.dtype != torch.bfloat16 for tensor in read(run / "last.pt")["model"].values())


# Going on


def test_a_finished_run_that_is_resumed_does_nothing(small_scenes: Path, tmp_path: Path) -> None:
    run = train(tmp_path, small_scenes)
    before, lines = trained_state(run), metrics(run)
    train(tmp_path, small_scenes, "--resume")
    assert differences(before, trained_state(run)) == []
    assert metrics(run) == lines


def test_an_existing_run_is_not_overwritten(
    small_scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(tmp_path, small_scenes)
    before = (run / "last.pt").read_bytes()
    capsys.readouterr()
    assert main(["train", str(tmp_path)]) == 2
    assert "last.pt exists: go on with --resume" in capsys.readouterr().err
    assert (run / "last.pt").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("train.lr=0.02", "train.lr (0.01, now 0.02)"),
        ("train.seed=3", "train.seed (0, now 3)"),
        ("data.partition=3", "data.partition (4, now 3)"),
        ("data.scales=1", "data.scales"),
        ("model.channels=24", "model.channels (16, now 24)"),
        ("method=cps", "method."),
    ],
)
def test_going_on_with_another_setting_is_refused(
    small_scenes: Path, tmp_path: Path, change: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path, small_scenes, "train.max_iterations=1")
    assert main(["train", str(tmp_path), "train.max_iterations=1", change, "--resume"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"was trained with another {words}" in error
    assert "set it back, or use another run.dir" in error


@pytest.mark.parametrize("lost", ["training", "counts"])  # as in best.pt; as in a file of an older version
def test_a_state_that_lacks_something_is_refused_and_kept(
    small_scenes: Path, tmp_path: Path, lost: str, capsys: pytest.CaptureFixture[str]
) -> None:
    last = train(tmp_path, small_scenes) / "last.pt"
    content = read(last)
    del (content if lost == "training" else content["training"])[lost]
    torch.save(content, last)
    before = last.read_bytes()
    assert main(["train", str(tmp_path), "--resume"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"{last} has no training state that can be gone on from; use another run.dir, or delete it" in error
    assert last.read_bytes() == before


def test_what_changes_no_weight_may_differ_when_a_run_goes_on(small_scenes: Path, tmp_path: Path) -> None:
    train(tmp_path, small_scenes, "train.max_iterations=1")
    changes = ["data.workers=1", "evaluate.every=2", "run.log_every=7", "run.save_every=9"]
    train(tmp_path, small_scenes, "train.max_iterations=1", *changes, "--resume")


# Two processes


def dump_what_is_evaluated(folder: Path) -> None:
    """Make each process write the network that it evaluates while training."""
    evaluate = loop.evaluate

    def dump_and_evaluate(network: nn.Module, *arguments: Any, **options: Any) -> Report:
        torch.save(network.state_dict(), folder / f"rank{dist.get_rank()}.pt")
        return evaluate(network, *arguments, **options)

    loop.evaluate = dump_and_evaluate


def test_two_processes_train_and_evaluate_one_network_and_save_it_once(
    small_scenes: Path, tmp_path: Path, method_options: dict[str, list[str]]
) -> None:
    config, options = write_config(tmp_path, small_scenes), ["train.max_iterations=4", "evaluate.every=1"]
    dump = partial(dump_what_is_evaluated, tmp_path)
    run_processes(2, "train", str(config), *method_options["mgd"], *options, first=dump)
    run = tmp_path / "run"
    last = read(run / "last.pt")
    assert last["iteration"] == 4
    for rank in (0, 1):  # parameters, and running statistics
        assert differences(last["model"], torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)) == []
    assert [line["step"] for line in metrics(run) if "lr" in line] == [1, 2, 3, 4]  # one process writes
    assert json.loads((run / "config.json").read_text())["processes"] == 2
    assert main(["evaluate", str(run / "last.pt")]) == 0
    alone = json.loads((run / "evaluation/last.json").read_text())["miou"]
    assert [line["miou"] for line in metrics(run) if "miou" in line][-1] == pytest.approx(alone)


def freeze_batch_norm() -> None:
    """The statistics of micro-batches are those of a part, which no process can change."""
    nn.BatchNorm2d.forward = frozen_forward  # type: ignore[method-assign]
    step.synchronise = lambda module: module  # type: ignore[attr-defined]


def frozen_forward(self: nn.BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
    """Batch norm with its running statistics, as in eval mode."""
    return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


@pytest.mark.parametrize(
    ("method", "criterion"),
    [
        ("supervised", "ce"),
        ("supervised", "ohem"),
        ("mean_teacher", "ce"),
        ("cps", "ohem"),
        ("unimatch", "ce"),
        ("kd", "ce"),
        ("cwd", "ce"),
        ("mgd", "ce"),
    ],
)
def test_a_batch_trains_the_same_however_it_is_divided(
    small_scenes: Path,
    tmp_path: Path,
    method_options: dict[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    criterion: str,
) -> None:
    """1 process x 4 images, 2 x 2, and 2 images accumulated twice; the crops have unequal shares of padding."""
    monkeypatch.setattr(nn.BatchNorm2d, "forward", frozen_forward)  # its statistics are those of a part
    hard = [f"method.criterion.kind={criterion}", "method.criterion.min_kept=200"]
    short = ["train.max_iterations=8"]
    special = {  # at higher rates rounding grows
        "mgd": ["method.lambda_region=10", "train.lr=0.003"],
        "cps": ["train.lr=0.003", "train.max_iterations=12"],
        "mean_teacher": [*short, "method.confidence=0"],
        "unimatch": [*short, "method.confidence=0", "train.lr=0.003"],
        "kd": short,
        "cwd": [*short, "train.lr=0.003"],
    }
    options = [*method_options[method], *hard, "train.max_iterations=20", "data.crop_size=48", *special.get(method, [])]
    whole = train(tmp_path / "whole", small_scenes, *options)
    accumulated = train(tmp_path / "accumulated", small_scenes, *options, "train.accumulate=2")
    shared = str(write_config(tmp_path / "processes", small_scenes))
    run_processes(2, "train", shared, *options, first=freeze_batch_norm)
    begin = train(tmp_path / "begin", small_scenes, *options, "train.max_iterations=1", "train.lr=1e-12")
    expected, untrained = weights(whole), weights(begin)
    assert max(float((expected[name] - untrained[name]).abs().max()) for name in expected) > 0.003
    for run in (accumulated, tmp_path / "processes/run"):
        torch.testing.assert_close(weights(run), expected, rtol=0, atol=1e-5)
        for line, whole_line in zip(metrics(run), metrics(whole), strict=True):  # a log tells of all processes
            assert line["loss/total"] == pytest.approx(whole_line["loss/total"], rel=1e-3)


@pytest.mark.parametrize("method", ["cps", "mgd"])
def test_batch_norm_is_that_of_the_batch_for_any_number_of_processes(
    small_scenes: Path, tmp_path: Path, method_options: dict[str, list[str]], method: str
) -> None:
    """1 process x 4 images, 2 x 2 and 4 x 1: the same weights and the same running statistics."""
    gentle = ["method.lambda_region=1"] if method == "mgd" else []  # else rounding grows
    options = [*method_options[method], *gentle, "train.lr=0.001", "train.max_iterations=3", "data.crop_size=48"]
    expected = read(train(tmp_path / "one", small_scenes, *options) / "last.pt")["model"]
    for processes in (2, 4):
        folder = tmp_path / str(processes)
        run_processes(processes, "train", str(write_config(folder, small_scenes)), *options)
        found = read(folder / "run/last.pt")["model"]
        for name, tensor in expected.items():
            if not name.endswith("num_batches_tracked"):  # no one reads it; it counts passes, not images
                what = f"{processes} processes: {name}"
                torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-4, msg=what)


@pytest.mark.slow
def test_torchrun_starts_the_processes(small_scenes: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, small_scenes)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "mgd"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(loop.__file__).parents[2])}
    done = subprocess.run(
        [*launcher, "train", str(config), "train.max_iterations=1"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run/config.json").read_text())["processes"] == 2
    assert read(tmp_path / "run/last.pt")["iteration"] == 1


def test_images_kept_in_memory_give_the_same_run(
    small_scenes: Path, tmp_path: Path, method_options: dict[str, list[str]], undisturbed: Callable[[str], Path]
) -> None:
    run = train(tmp_path, small_scenes, *method_options["cps"], "train.max_iterations=5", "data.cache=true")
    assert differences(trained_state(run), trained_state(undisturbed("cps"))) == []
