"""Test what only a GPU can tell: `python -m pytest -m gpu` where there is one. Everywhere else the CPU is tested."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from helpers import broken_off, copy_of, read, run_processes, train, write_config
from PIL import Image
from test_engine import metrics

from mgd.__main__ import main
from mgd.config import Evaluate, Experiment, load, override
from mgd.data.batch import Batch
from mgd.data.datasets import open_splits
from mgd.engine import distributed
from mgd.engine.distributed import Processes
from mgd.engine.fit import made_batch
from mgd.engine.history import History
from mgd.engine.step import Stepper
from mgd.infer import predict_labels, predict_scores
from mgd.models import build_model
from mgd.objectives import build_objective
from mgd.student import load_student

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that is looked for: python -m pytest -m gpu"),
]
GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
LATE = ("method.burn_in_iterations=0", "method.rampup_iterations=0")
METHODS = {
    "supervised": ("method=supervised",),
    "supervised-ohem": ("method=supervised", "method.criterion.kind=ohem", "method.criterion.min_kept=100"),
    "mgd": (),  # the fixture's teachers make it one
    "mgd-batch-norm": ("method.teacher_norm=batch", "method.confidence=0.2"),
    "mgd-thresholds": ("method.confidence=0.2", "method.confidence_ema=0.9", "method.soft=0.5", "data.strong=true"),
    "mgd-offline": ("method.teachers=offline", "method.teach.projection=24"),
    "kd": ("method=kd",),
    "kd-offline": ("method=kd", "method.teachers=offline"),
    "cwd": ("method=cwd",),
    "cps": ("method=cps", *LATE),
    "cps-averaged": ("method=cps", "method.ema=0.9", *LATE),
    "mean_teacher": ("method=mean_teacher", *LATE),
    "unimatch": ("method=unimatch", "method.ema=0.9", *LATE),
    "unimatch-complementary": ("method=unimatch", "method.drop=complementary", *LATE),
}


@pytest.fixture
def exact() -> Iterator[None]:
    """Convolutions in float32 proper: by default torch lets a GPU round their inputs to TF32."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield


@pytest.fixture
def config(small_scenes: Path, tmp_path: Path) -> Experiment:
    return load(write_config(tmp_path, small_scenes), ["train.precision=fp32"])


def taught(config: Experiment, teachers: list[str], method: str) -> Experiment:
    """The config with a method; its teachers are the fixture's where it has any."""
    name = next((c.partition("=")[2] for c in METHODS[method] if c.startswith("method=")), "mgd")
    own = [f"method={name}", *(teachers[1:] if name in ("mgd", "kd", "cwd") else [])]
    return override(config, [*own, *(c for c in METHODS[method] if not c.startswith("method="))])


def stepper_of(config: Experiment, device: torch.device, **team: Any) -> Stepper:
    torch.manual_seed(0)
    objective = build_objective(config, len(open_splits(config.data).classes))
    return Stepper(objective, config.train, Processes(**{"rank": 0, "world": 1, "device": device, **team}), 100)


def batch_of(config: Experiment, device: torch.device, iteration: int = 0) -> Batch:
    torch.manual_seed(iteration)
    return made_batch(config, len(open_splits(config.data).classes), device)._replace(iteration=iteration)


# A step


@pytest.mark.parametrize("method", METHODS)
def test_a_step_on_the_gpu_is_that_on_the_cpu(
    exact: None, config: Experiment, teachers: list[str], method: str
) -> None:
    config = override(taught(config, teachers, method), ["train.ema=0.9"])
    found = {}
    for device in (CPU, GPU):
        stepper = stepper_of(config, device)
        outcome = stepper([batch_of(config, device)])
        assert outcome.gradient_norm.device == device
        found[device] = {name: float(term) for name, term in outcome.terms.items()}
        found[device] |= {"norm": float(outcome.gradient_norm), "labels": float(outcome.labels)}
    assert found[GPU] == pytest.approx(found[CPU], rel=2e-3, abs=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("method", METHODS)
def test_nothing_in_a_step_waits_for_the_gpu(
    config: Experiment, teachers: list[str], method: str, precision: str
) -> None:
    changes = [f"train.precision={precision}", "train.ema=0.9", "train.accumulate=2"]
    config = override(taught(config, teachers, method), changes)
    stepper = stepper_of(config, GPU)
    history = History(None, config, stepper.team, weights=stepper.objective.weights)  # type: ignore[arg-type]
    for iteration in range(8):  # fp16 begins with a scale that overflows a few times
        parts = [batch_of(config, GPU, iteration) for _ in range(2)]
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error" if iteration else "default")  # the first sets things up
        try:
            history.add(iteration, stepper(parts))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    values = history.read()
    assert values["loss/total"] > 0
    assert np.isfinite(values["gradient_norm"])


@pytest.mark.parametrize(("precision", "off"), [("bf16", 0.05), ("fp16", 0.02)])
@pytest.mark.parametrize("method", ["mgd", "kd", "cwd", "cps", "unimatch"])
def test_terms_in_half_precision_are_those_of_fp32(
    config: Experiment, teachers: list[str], method: str, precision: str, off: float
) -> None:
    config = taught(config, teachers, method)
    full, half = (
        stepper_of(override(config, [f"train.precision={one}"]), GPU)([batch_of(config, GPU)]).terms
        for one in ("fp32", precision)
    )
    assert {name: float(term) for name, term in half.items()} == pytest.approx(
        {name: float(term) for name, term in full.items()}, rel=off, abs=0.02
    )


def test_auto_precision_is_bf16_where_the_gpu_has_it(config: Experiment) -> None:
    found = stepper_of(override(config, ["train.precision=auto"]), GPU).precision
    assert found == (torch.bfloat16 if torch.cuda.get_device_capability() >= (8, 0) else torch.float32)


@pytest.mark.parametrize("change", ["", "train.optimizer=adamw", "train.precision=fp16"])
def test_a_step_with_an_infinite_gradient_changes_nothing(config: Experiment, change: str) -> None:
    config = override(config, [change] if change else [])
    stepper = stepper_of(config, GPU)
    before = copy_of(stepper.objective.state_dict())
    hook = next(stepper.objective.parameters()).register_hook(lambda gradient: gradient * torch.inf)
    stepper([batch_of(config, GPU)])
    hook.remove()
    after = stepper.objective.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before if "num_batches" not in name)
    for iteration in (1, 2, 3):  # fp16 halves its scale until gradients fit
        stepper([batch_of(config, GPU, iteration)])
    assert not torch.equal(before["student.classifier.weight"], after["student.classifier.weight"])


@pytest.mark.slow
def test_compiled_networks_give_the_terms_of_plain_ones(config: Experiment, teachers: list[str]) -> None:
    config = taught(config, teachers, "mgd")
    plain, compiled = (
        stepper_of(override(config, [f"train.compile={flag}"]), GPU)([batch_of(config, GPU)]).terms
        for flag in ("false", "true")
    )
    for name, term in plain.items():
        torch.testing.assert_close(compiled[name], term, rtol=0.02, atol=1e-3)


# Runs


def test_a_run_trains_saves_and_is_scored_on_the_gpu(small_scenes: Path, tmp_path: Path, teachers: list[str]) -> None:
    run = train(tmp_path, small_scenes, *teachers, "evaluate.every=1", "data.workers=2", "evaluate.watch=2")
    lines = metrics(run)
    assert any("miou" in line for line in lines)
    assert all(0 < line["peak_memory_gib"] < 8 for line in lines if "peak_memory_gib" in line)
    told = (run / "log.txt").read_text()
    assert torch.cuda.get_device_name() in told
    assert "bfloat16" in told
    assert {tensor.device for tensor in load_student(run / "last.pt").state_dict().values()} == {CPU}


def test_a_broken_off_run_goes_on_to_about_the_same_weights(small_scenes: Path, tmp_path: Path) -> None:
    changes = ("train.max_iterations=6", "run.save_every=1", "train.precision=fp32", "train.ema=0.9")
    whole = train(tmp_path / "whole", small_scenes, *changes)
    with broken_off(at=3):
        main(["train", str(write_config(tmp_path / "parts", small_scenes)), *changes])
    parts = train(tmp_path / "parts", small_scenes, *changes, "--resume")
    assert "resumed" in (parts / "log.txt").read_text()
    one, other = (read(run / "last.pt")["model"] for run in (whole, parts))
    for name, tensor in one.items():  # sums of atomic additions differ in their last bits
        torch.testing.assert_close(other[name], tensor, rtol=0.02, atol=2e-3, msg=name)


def test_a_network_labels_a_photo_on_the_gpu_as_on_the_cpu(
    exact: None, small_scenes: Path, tmp_path: Path, config: Experiment
) -> None:
    run = train(tmp_path, small_scenes, "train.max_iterations=10")
    photo = next((small_scenes / "val" / "image").iterdir())
    image = torch.from_numpy(np.array(Image.open(photo).convert("RGB"))).permute(2, 0, 1)
    network = load_student(run / "last.pt")
    for mode in ("whole", "slide"):
        how = override(config, [f"evaluate.mode={mode}", "evaluate.flip=true", "evaluate.scales=0.75,1"]).scoring
        on_cpu = predict_labels(network.to(CPU), image, how)
        on_gpu = predict_labels(network.to(GPU), image.to(GPU), how).cpu()
        assert float((on_cpu == on_gpu).float().mean()) > 0.995


def test_depthwise_convolutions_of_photos_of_any_size_are_those_of_the_cpu(exact: None) -> None:
    network = build_model("mobilenet_v2", 5, channels=64).eval()
    sizes = [(64 + 10 * i, 90 + 14 * i) for i in range(8)]
    photos = [torch.randint(256, (3, *size), dtype=torch.uint8) for size in sizes]
    how = Evaluate(mode="whole")
    on_cpu = [predict_scores(network, photo, how) for photo in photos]
    network = network.to(GPU)
    for photo, expected in zip(photos, on_cpu, strict=True):
        found = predict_scores(network, photo.to(GPU), how).cpu()
        torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-5)


def test_commands_run_on_the_gpu(small_scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train(tmp_path, small_scenes)
    student, photos = str(run / "last.pt"), str(small_scenes / "val" / "image")
    assert main(["evaluate", str(tmp_path / "config.py")]) == 0
    assert main(["predict", student, photos, "--out", str(tmp_path / "out"), "--device", "cuda"]) == 0
    assert len([*(tmp_path / "out").rglob("*.png")]) >= 3
    assert main(["report", str(run), "--out", str(tmp_path / "report.html"), "--device", "cuda"]) == 0
    capsys.readouterr()
    assert main(["profile", student, "--size", "64", "--seconds", "0.2"]) == 0
    assert "cuda" in capsys.readouterr().out


def test_maps_of_teachers_are_stored_from_the_gpu_and_serve_training(
    small_scenes: Path, tmp_path: Path, teachers: list[str]
) -> None:
    offline = [*teachers, "method.teachers=offline", f"method.teach.dir={tmp_path / 'maps'}"]
    path = write_config(tmp_path, small_scenes)
    assert main(["teach", str(path), *offline]) == 0
    run = train(tmp_path, small_scenes, *offline)
    own = train(tmp_path / "online", small_scenes, *teachers)
    terms = [metrics(one)[-1] for one in (run, own)]
    assert terms[0].keys() == terms[1].keys()


def test_fit_measures_each_size_by_itself(
    small_scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(tmp_path, small_scenes)
    assert main(["fit", str(path), "train.batch_size=16", "data.crop_size=128"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert re.match(r"cuda(:0)?, 1 processes, [\d.]+ GiB", rows[0])
    gib = {int(row.split()[0]): float(row.split()[2]) for row in rows[2:6]}
    assert [*gib] == [2, 4, 8, 16]
    assert gib[2] <= gib[16]


def test_a_batch_that_does_not_fit_is_told_in_a_sentence(
    small_scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(tmp_path, small_scenes)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.001)  # 80 MB of 80 GB
    try:
        assert main(["train", str(path), "data.crop_size=512", "train.batch_size=8"]) == 2
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    told = capsys.readouterr().err
    assert "out of memory" in told
    assert "mgd fit" in told


def test_a_sweep_shares_the_gpu(small_scenes: Path, tmp_path: Path) -> None:
    write_config(tmp_path, small_scenes)
    (tmp_path / "sweep.py").write_text(
        "from mgd.config import load\nfrom mgd.study import Row, Sweep\n"
        f"base = load({str(tmp_path / 'config.py')!r})\n"
        "rows = {'a': Row(), 'b': Row(changes=('train.lr=0.02',))}\n"
        "sweep = Sweep(base=base, rows=rows, partitions=(4,), seeds=(0,), reference='a')\n"
    )
    assert main(["sweep", str(tmp_path / "sweep.py"), "--jobs", "2"]) == 0
    for name in ("a.p4.s0", "b.p4.s0"):
        assert torch.cuda.get_device_name() in (tmp_path / "runs" / name / "run" / "log.txt").read_text()


# Several processes


def share_one_gpu() -> None:
    """Two processes on one GPU, which NCCL refuses; gloo takes tensors of a GPU."""
    distributed.pick_device = lambda *_: GPU
    begin = dist.init_process_group
    dist.init_process_group = lambda backend, **options: begin("gloo", **options)


def test_two_processes_train_as_one(small_scenes: Path, tmp_path: Path, teachers: list[str]) -> None:
    changes = [*teachers, "train.precision=fp32", "train.max_iterations=2", "evaluate.every=1"]
    alone = train(tmp_path / "one", small_scenes, *changes)
    path = write_config(tmp_path / "two", small_scenes)
    run_processes(2, "train", str(path), *changes, first=share_one_gpu)
    first, second = (metrics(run)[0] for run in (alone, tmp_path / "two" / "run"))
    for name in (name for name in first if name.startswith("loss/")):
        assert second[name] == pytest.approx(first[name], rel=0.02, abs=1e-3), name


def test_steps_run_over_nccl(config: Experiment, teachers: list[str]) -> None:
    """A group of one process that takes itself for two: SyncBN, DDP and counts go over NCCL, and all doubles."""
    config = taught(config, teachers, "mgd-thresholds")
    alone = stepper_of(config, GPU)([batch_of(config, GPU)])
    names = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "RANK": "0", "WORLD_SIZE": "1"}
    os.environ.update(names)
    torch.cuda.set_device(GPU)
    dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)
    try:
        stepper = stepper_of(config, GPU, world=2)
        together = stepper([batch_of(config, GPU)])
        for name, term in alone.terms.items():
            torch.testing.assert_close(together.terms[name], 2 * term, rtol=0.02, atol=1e-3, msg=name)
    finally:
        dist.destroy_process_group()
        for name in names:
            os.environ.pop(name)
