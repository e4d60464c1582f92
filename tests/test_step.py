"""Test a training step: what it leaves out, averages, casts and converts, as far as no run's result shows it."""

import contextlib
import copy
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import BACKBONE, read, train, write_config
from test_engine import metrics
from torch import Tensor, nn

import mgd.engine.loop as loop
from mgd.config import Experiment, load, override
from mgd.data import batch as data_batch
from mgd.data.batch import Batch
from mgd.data.datasets import open_splits
from mgd.data.samples import TrainingSamples
from mgd.engine import distributed, step
from mgd.engine.distributed import Processes
from mgd.engine.fit import made_batch
from mgd.engine.history import History
from mgd.engine.resume import Wish
from mgd.engine.step import Stepper, keep_cast
from mgd.engine.sync_batch_norm import SyncBatchNorm2d
from mgd.models import build_model
from mgd.objectives import build_objective
from mgd.objectives.base import Objective, Pass, Terms
from mgd.objectives.supervised import SupervisedObjective

CPU = torch.device("cpu")
ALONE = Processes(0, 1, CPU)


@pytest.fixture
def config(small_scenes: Path, tmp_path: Path) -> Experiment:
    return load(write_config(tmp_path, small_scenes))


def make_stepper(config: Experiment, **changes: Any) -> Stepper:
    torch.manual_seed(0)
    student = build_model(BACKBONE, 8, channels=16)
    assert config.method.uses_unlabeled is False
    objective = SupervisedObjective(student, config.method)  # type: ignore[arg-type]
    return Stepper(objective, replace(config.train, **changes), ALONE, 10)


def batch_of(config: Experiment, iteration: int = 0) -> Batch:
    return made_batch(config, 8, CPU)._replace(iteration=iteration)


# Terms


def test_a_line_tells_terms_with_their_weights_and_without(config: Experiment) -> None:
    weights = {0: {}, 1: {"cps": 0.5, "other": 0.0}, 2: {"cps": 2.0}}
    samples = TrainingSamples(open_splits(config.data), config)
    history = History(samples, config, ALONE, weights=lambda iteration: weights[iteration])
    for iteration, terms in enumerate(({}, {"cps": 3.0, "other": 0.0}, {"cps": 8.0, "other": 0.0})):
        found = {name: torch.tensor(value) for name, value in {"supervised": 1.0, **terms}.items()}
        history.add(iteration, step.Outcome(found, torch.tensor(1.0), torch.tensor(9)))
    assert history.read() == pytest.approx(
        {
            "loss/total": 1 + 11 / 3,
            "loss/supervised": 1.0,
            "loss/cps": 11 / 3,  # a step without it has 0 of it
            "loss/other": 0.0,
            "raw/cps": (3 / 0.5 + 8 / 2) / 2,  # of the steps that computed it
            "gradient_norm": 1.0,
        }
    )


# Averaged weights


def test_averaged_weights_are_the_mean_of_the_first_ones_then_decay_as_the_key_says(config: Experiment) -> None:
    stepper = make_stepper(config, ema=0.6, lr=0.1)
    name = "classifier.bias"
    seen: list[Tensor] = []
    for iteration in range(5):
        stepper([batch_of(config, iteration)])
        seen.append(stepper.objective.student.state_dict()[name].clone())
    mean = seen[0]
    for weight, decay in zip(seen[1:], (1 / 2, 0.6, 0.6, 0.6), strict=True):  # 1 - 1/n until that is above 0.6
        mean = decay * mean + (1 - decay) * weight
    torch.testing.assert_close(stepper.network.state_dict()[name], mean)


def test_the_decay_of_averaged_weights_is_the_one_asked_for_after_2000_iterations(config: Experiment) -> None:
    averaged = make_stepper(config, ema=0.999).averaged
    assert averaged is not None
    assert averaged.get_decay(2000) == 0.999
    assert averaged.get_decay(500) == pytest.approx(1 - 1 / 500)


def test_running_statistics_are_averaged_as_the_weights_are(config: Experiment) -> None:
    stepper = make_stepper(config, ema=0.999)
    names = [name for name in stepper.network.state_dict() if name.endswith("running_mean")]
    seen = []
    for iteration in range(3):
        stepper([batch_of(config, iteration)])
        seen.append({name: stepper.objective.student.state_dict()[name].clone() for name in names})
    for name in names:
        torch.testing.assert_close(stepper.network.state_dict()[name], sum(one[name] for one in seen) / 3)


# Steps that are left out or must not be


def test_a_gradient_that_is_large_but_finite_is_a_step_like_others(config: Experiment) -> None:
    stepper = make_stepper(config, lr=1e-12)
    for parameter in stepper.objective.parameters():  # as a loss 1e6 times as large would
        parameter.register_hook(lambda gradient: gradient * 1e6)
    before = {name: tensor.clone() for name, tensor in stepper.objective.state_dict().items()}
    outcome = stepper([batch_of(config)])
    assert 1e4 < float(outcome.gradient_norm) < math.inf
    momentum = [state["momentum_buffer"] for state in stepper.optimizer.state.values()]
    assert any(tensor.any() for tensor in momentum)
    after = stepper.objective.state_dict()
    assert not torch.equal(
        after["student.head.last_conv.1.running_mean"], before["student.head.last_conv.1.running_mean"]
    )


def test_the_loss_scale_of_fp16_halves_with_an_overflow_and_its_step_is_left_out(config: Experiment) -> None:
    stepper = make_stepper(config)
    stepper.scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=2)
    scales = []
    for iteration in range(4):
        hook = next(stepper.objective.parameters()).register_hook(
            lambda g, i=iteration: g * (torch.inf if i == 0 else 1)
        )
        before = next(stepper.objective.parameters()).clone()
        stepper([batch_of(config, iteration)])
        hook.remove()
        assert torch.equal(before, next(stepper.objective.parameters())) == (iteration == 0)
        scales.append(stepper.scaler.get_scale())
    assert scales == [2.0, 2.0, 4.0, 4.0]  # halved by the overflow, doubled after two steps without one


# What a state holds


def test_a_state_holds_all_that_later_steps_depend_on(config: Experiment) -> None:
    first, second = (make_stepper(config, ema=0.9, lr=0.1) for _ in range(2))
    first.scaler, second.scaler = (torch.amp.GradScaler("cpu", init_scale=scale) for scale in (4.0, 2.0**16))
    for iteration in range(2):
        first([batch_of(config, iteration)])
    second.load_state_dict(copy.deepcopy(first.state_dict()), 2)
    assert second.scaler.get_scale() == 4.0
    batch = batch_of(config, 2)
    for stepper in (first, second):
        stepper([batch])
    assert first.lr == second.lr
    for one, other in ((first.objective.student, second.objective.student), (first.network, second.network)):
        torch.testing.assert_close(other.state_dict(), one.state_dict(), rtol=0, atol=0)
    averaged = first.network.state_dict()["classifier.bias"]
    assert not torch.equal(averaged, first.objective.student.state_dict()["classifier.bias"])


# Loss, micro-batches


class Overflowing(SupervisedObjective):
    """Its loss is infinite, its gradients are not: a sum of terms that each fit."""

    def passes(self, batch: Batch) -> list[Pass]:
        (only,) = super().passes(batch)
        return [only._replace(terms=lambda: {name: term + math.inf for name, term in only.terms().items()})]


def test_a_loss_that_is_not_finite_leaves_the_step_out_though_its_gradients_are(config: Experiment) -> None:
    objective = Overflowing(build_model(BACKBONE, 8, channels=16), config.method)  # type: ignore[arg-type]
    stepper = Stepper(objective, config.train, ALONE, 10)
    before = {name: tensor.clone() for name, tensor in objective.state_dict().items()}
    assert not stepper([batch_of(config)]).gradient_norm.isfinite()
    for name, tensor in objective.state_dict().items():
        assert torch.equal(tensor, before[name]) or name.endswith("num_batches_tracked"), name


class Wrapped(nn.Module):
    """In DDP's place: notes which forwards do not synchronise gradients."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module, self.quiet, self.seen = module, False, list[bool]()

    def forward(self, batch: Batch) -> Terms:
        self.seen.append(self.quiet)
        return self.module(batch)  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        self.quiet = True
        yield
        self.quiet = False


def test_gradients_travel_once_with_the_last_micro_batch(config: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "DistributedDataParallel", Wrapped)
    monkeypatch.setattr(step, "distribute", lambda module, team: Wrapped(module))
    stepper = make_stepper(config)
    stepper([batch_of(config), batch_of(config), batch_of(config)])
    assert stepper.model.seen == [True, True, False]


@pytest.mark.parametrize("world", [1, 2])
def test_what_a_step_draws_is_the_seeds_iterations_and_processs_own(
    small_scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: int
) -> None:
    seeds: dict[int, list[int]] = {}
    monkeypatch.setattr(Stepper, "__call__", lambda self, parts: seeds[rank].append(torch.initial_seed()))
    monkeypatch.setattr(History, "add", lambda self, iteration, outcome: None)
    monkeypatch.setattr(loop.Trainer, "_plan", lambda self: (False, False, False))
    config = load(write_config(tmp_path, small_scenes), ["train.max_iterations=3", "train.seed=7", "run.log_every=9"])
    for rank in range(world):
        seeds[rank] = []
        trainer = loop.Trainer(config, Processes(rank, 1, CPU), Wish())
        trainer.team = Processes(rank, world, CPU)
        trainer._loop(SimpleNamespace(waiting=contextlib.nullcontext, advance=lambda: None))
    assert [seed for drawn in zip(*seeds.values(), strict=True) for seed in drawn] == [*range(7, 7 + 3 * world)]


# Precision, layout, batch norm over processes


class Watched(SupervisedObjective):
    """Notes how its forward runs."""

    seen: list[Any]

    def passes(self, batch: Batch) -> list[Pass]:
        (only,) = super().passes(batch)

        def terms() -> Terms:
            found = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu"), torch.is_autocast_cache_enabled()
            self.seen.append(found)
            return only.terms()

        return [only._replace(terms=terms)]


@pytest.mark.parametrize(("precision", "expected"), [("bf16", True), ("fp32", False)])
def test_a_step_casts_as_its_precision_says(config: Experiment, precision: str, expected: bool) -> None:
    objective = Watched(build_model(BACKBONE, 8, channels=16), config.method)  # type: ignore[arg-type]
    objective.seen, outputs = [], []
    objective.student.classifier.register_forward_hook(lambda module, inputs, output: outputs.append(output.dtype))
    Stepper(objective, replace(config.train, precision=precision), ALONE, 10)([batch_of(config)])
    assert [enabled for enabled, _, _ in objective.seen] == [expected]
    assert outputs == [torch.bfloat16 if expected else torch.float32]


@pytest.mark.parametrize("method", ["mgd", "kd", "cwd"])
def test_frozen_teachers_are_cast_once_and_teach_the_same(
    config: Experiment, teachers: list[str], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = override(config, [f"method={method}", *teachers[1:], "train.precision=bf16"])
    outcomes, dtypes = [], []
    for cast in (keep_cast, lambda networks, dtype: None):
        monkeypatch.setattr(step, "keep_cast", cast)
        torch.manual_seed(0)
        stepper = Stepper(build_objective(config, 8), config.train, ALONE, 10)
        assert next(stepper.objective.teachers["deep"].parameters()).dtype == torch.float32  # scored as it is
        outcomes.append([stepper([batch_of(config, iteration)]).terms for iteration in range(2)])
        dtypes.append(
            {p.dtype for net in stepper.objective.teachers.values() for p in net.parameters() if p.dim() == 4}
        )
    assert dtypes == [{torch.bfloat16}, {torch.float32}]
    for one, other in zip(*outcomes, strict=True):
        assert {name: term.item() for name, term in one.items()} == {name: term.item() for name, term in other.items()}


@pytest.mark.parametrize("method", ["cps", "mean_teacher"])
def test_gradients_of_passes_are_added_as_autograd_does(
    config: Experiment, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = ["method.burn_in_iterations=0", "method.rampup_iterations=0"]
    config = override(config, [f"method={method}", *late])
    weights = []
    for _ in range(2):
        torch.manual_seed(0)
        stepper = Stepper(build_objective(config, 8), config.train, ALONE, 10)
        for iteration in range(2):
            torch.manual_seed(iteration)
            stepper([batch_of(config, iteration) for _ in range(2)])
        weights.append(stepper.objective.state_dict())
        monkeypatch.setattr(Stepper, "_set_aside", lambda self: [])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("method", ["cps", "mean_teacher", "unimatch", "mgd"])
def test_images_are_strengthened_once_though_ddp_asks_twice_what_is_due(
    config: Experiment, teachers: list[str], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = [f"method.{key}=0" for key in ("burn_in_iterations", "rampup_iterations") if method != "mgd"]
    config = override(
        config, [f"method={method}", "data.strong=true", *late, *(teachers[1:] if method == "mgd" else [])]
    )
    objective, batch, calls = build_objective(config, 8), batch_of(config), []
    monkeypatch.setattr(data_batch, "strengthen", lambda image, *args, **options: calls.append(1) or image)
    counts = objective.due(batch)
    assert counts
    assert not calls
    objective(batch)
    assert len(calls) == (2 if method == "unimatch" else 1)  # it has two views


def test_networks_are_trained_channels_last(config: Experiment) -> None:
    stepper = make_stepper(config, ema=0.9)
    for network in (stepper.objective.student, stepper.network):
        kernels = [p for p in network.parameters() if p.dim() == 4 and p.shape[1] > 1 and p.shape[2] > 1]
        assert kernels
        assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)
        assert not any(kernel.is_contiguous() for kernel in kernels)


@pytest.mark.parametrize(("world", "device", "synchronised"), [(2, "cuda", True), (1, "cuda", False), (2, "cpu", True)])
def test_batch_norm_is_synchronised_over_several_processes(
    config: Experiment, monkeypatch: pytest.MonkeyPatch, world: int, device: str, synchronised: bool
) -> None:
    monkeypatch.setattr(step, "distribute", lambda module, team: module)
    monkeypatch.setattr(Objective, "to", lambda self, *arguments, **options: self)  # there is no GPU
    monkeypatch.setattr(torch.amp, "GradScaler", lambda *arguments, **options: None)
    monkeypatch.setattr(step, "make_optimizer", lambda module, *arguments: torch.optim.SGD(module.parameters(), lr=0.1))
    objective = SupervisedObjective(build_model(BACKBONE, 8, channels=16), config.method)  # type: ignore[arg-type]
    team = Processes(0, world, torch.device(device))
    stepper = Stepper(objective, replace(config.train, precision="fp32"), team, 10)
    norms = [module for module in stepper.objective.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert {isinstance(module, SyncBatchNorm2d) for module in norms} == {synchronised}


def test_ddp_shares_memory_between_gradients_and_what_it_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(distributed, "DistributedDataParallel", lambda module, **options: asked.update(options))
    distributed.distribute(nn.Linear(1, 1), Processes(0, 2, torch.device("cuda", 0)))  # no device_ids there either
    assert asked == {"broadcast_buffers": False, "gradient_as_bucket_view": True}


# The best, and steps without labels


def test_the_best_network_is_kept_when_later_ones_are_worse(
    small_scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.2, 0.5, 0.4, 0.5])
    rest = {"confusion": torch.eye(8, dtype=torch.int64), "classes": SimpleNamespace(names=tuple("abcdefgh"))}
    monkeypatch.setattr(loop, "evaluate", lambda *arguments, **options: SimpleNamespace(miou=next(scores), **rest))
    run = train(tmp_path, small_scenes, "train.max_iterations=8", "evaluate.every=1")  # an epoch is 2 iterations
    assert [line["miou"] for line in metrics(run) if "miou" in line] == [0.2, 0.5, 0.4, 0.5]
    assert (read(run / "best.pt")["iteration"], read(run / "best.pt")["miou"]) == (4, 0.5)


def test_steps_without_a_labelled_pixel_are_counted_and_the_first_is_told(
    small_scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    move = loop.to_device

    def unlabel(sample: Any, device: torch.device, iteration: int) -> Batch:
        batch = move(sample, device, iteration)
        if iteration in (1, 2):
            assert batch.labeled.label is not None
            batch.labeled.label.fill_(255)
        return batch

    monkeypatch.setattr(loop, "to_device", unlabel)
    run = train(tmp_path, small_scenes, "train.max_iterations=4")
    assert [line.get("steps_without_labels", 0) for line in metrics(run)] == [0, 1, 2, 2]
    said = capsys.readouterr().err
    assert said.count("has a label in the crops that were drawn") == 1
    assert "WARNING: iteration 2: no pixel of scene_" in said


def test_a_training_that_diverges_says_so_once(
    small_scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = "far above that of a guess: training diverges. Train anew with a lower train.lr"
    train(tmp_path, small_scenes, "train.max_iterations=4", "run.log_every=1")
    assert told not in capsys.readouterr().err
    train(tmp_path, small_scenes, "train.max_iterations=8", "run.log_every=1", "train.lr=100", f"run.dir={tmp_path}/b")
    assert capsys.readouterr().err.count(told) == 1
