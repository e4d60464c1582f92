"""Test `mgd fit`: what it tries, where it stops, what it advises."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import write_config

import mgd.engine.fit as fit_module
from mgd.__main__ import main
from mgd.config import Experiment, load, override
from mgd.engine.fit import Trial, advice, fit, made_batch
from mgd.errors import UserError
from mgd.objectives import build_objective

CPU = torch.device("cpu")


@pytest.fixture
def config(small_scenes: Path, tmp_path: Path) -> Experiment:
    return load(write_config(tmp_path, small_scenes), ["train.batch_size=8", "train.max_iterations=100"])


@pytest.fixture
def one_gib_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(config: Experiment, device: torch.device, *, alone: bool) -> tuple[float, float]:
        assert config.train.accumulate == 1
        return config.train.batch_size * 1.0 + (not alone), 0.5

    monkeypatch.setattr(fit_module, "_measure", measure)


@pytest.mark.usefixtures("one_gib_an_image")
@pytest.mark.parametrize(
    ("processes", "limit", "sizes"),
    [(1, 5.0, [2, 4, 8]), (1, 100.0, [2, 4, 8]), (1, 2.5, [2, 4]), (2, 3.5, [2, 4]), (4, 100.0, [2]), (8, 100.0, [1])],
)
def test_sizes_that_divide_the_batch_are_tried_until_one_does_not_fit(
    config: Experiment, processes: int, limit: float, sizes: list[int]
) -> None:
    trials = list(fit(config, CPU, processes=processes, limit=limit))
    assert [trial.images for trial in trials] == sizes
    for trial in trials:
        assert trial.images * trial.accumulate * processes == 8
        assert trial.seconds == 0.5 * trial.accumulate


@pytest.mark.usefixtures("one_gib_an_image")
def test_a_batch_that_does_not_divide_among_the_processes_is_refused(config: Experiment) -> None:
    with pytest.raises(UserError, match=r"train\.batch_size=8 does not divide among 3 processes"):
        list(fit(config, CPU, processes=3, limit=1.0))


@pytest.mark.parametrize("option", [("--processes", "0"), ("--memory", "0")])
def test_nothing_to_fit_into_is_refused(
    small_scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: tuple[str, str]
) -> None:
    assert main(["fit", str(write_config(tmp_path, small_scenes)), *option]) == 2
    assert "--processes and --memory must be greater than 0" in capsys.readouterr().err


def test_the_advice_keeps_the_batch_and_tells_how_long_the_run_takes(config: Experiment) -> None:
    trials = [Trial(2, 4, 1.0, 4.0), Trial(4, 2, 2.0, 3.0), Trial(8, 1, 4.0, 2.0)]
    told = advice(config, trials, CPU, processes=1, limit=3.0)
    assert told.splitlines()[0] == "train.accumulate=2"
    assert "8 images / 1 processes / 2 parts = 4 at a time; train.batch_size=8 and train.lr=0.01 stay" in told
    assert "100 iterations of 3.00 s: 0:05:00" in told
    assert "iterations" not in advice(config, trials, CPU, processes=2, limit=3.0)  # of communication it knows nothing
    with pytest.raises(UserError, match=r"2 images at a time need 1\.0 GiB, there are 0\.5: use a smaller"):
        advice(config, trials, CPU, processes=1, limit=0.5)


def test_real_steps_are_measured_in_processes_of_their_own(
    small_scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], teachers: list[str]
) -> None:
    path = write_config(tmp_path, small_scenes)
    assert main(["fit", str(path), *teachers, "train.batch_size=2", "--memory", "8"]) == 0
    rows = capsys.readouterr().out.splitlines()
    images, accumulate, gib, seconds = rows[2].split()
    assert (images, accumulate) == ("2", "1")
    assert 0.1 < float(gib) < 8
    assert float(seconds) > 0
    assert "train.accumulate=1" in rows
    assert not (tmp_path / "run").exists()


def test_a_trial_computes_all_of_a_step_whatever_the_burn_in(config: Experiment) -> None:
    late = override(config, ["method=cps", "method.burn_in_iterations=50", "method.rampup_iterations=50"])
    batch = made_batch(replace(late, train=replace(late.train, batch_size=2)), 8, CPU)
    assert set(build_objective(late, 8)(batch)) == {"supervised", "cps"}


@pytest.mark.usefixtures("one_gib_an_image")
def test_made_maps_are_as_wide_as_the_wide_teacher(
    config: Experiment, teachers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[Experiment] = []
    monkeypatch.setattr(fit_module, "_measure", lambda config, *_, **__: tried.append(config) or (1.0, 1.0))
    offline = override(config, [*teachers, "method.teachers=offline"])
    list(fit(offline, CPU, processes=1, limit=2.0))
    batch = made_batch(tried[0], 8, CPU)
    assert batch.first is not None
    assert batch.first.maps is not None
    assert batch.first.maps.coarse["wide.feature"].shape[:2] == (2, 24)  # the fixture's wide teacher has 24 channels
    projected = override(offline, ["method.teach.projection=3"])
    list(fit(projected, CPU, processes=1, limit=2.0))
    assert tried[-1].method == projected.method
    channels = override(config, ["method=cwd", *teachers[1:], "method.teachers=offline"])
    list(fit(channels, CPU, processes=1, limit=2.0))
    batch = made_batch(tried[-1], 8, CPU)
    assert batch.labeled.maps is not None
    assert {name: cells.shape[1] for name, cells in batch.labeled.maps.coarse.items()} == {
        **{"deep.feature": 24, "wide.feature": 24},  # the wider one's: memory holds them then
        **{"deep.logits": 8, "wide.logits": 8},
    }
    assert all(term.isfinite() for term in build_objective(tried[-1], 8)(batch).values())


@pytest.mark.parametrize(
    ("backbone", "precision", "has", "told"),
    [
        ("resnet18", "fp32", {"avx512_bf16": True}, True),
        ("resnet18", "auto", {"amx_bf16": True}, True),  # auto is fp32 on a CPU
        ("resnet18", "bf16", {"avx512_bf16": True}, False),
        ("resnet18", "fp32", {"avx512_bf16": False, "amx_bf16": False}, False),
        ("mobilenet_v2", "fp32", {"avx512_bf16": True}, False),  # depthwise
    ],
)
def test_bf16_is_named_where_the_cpu_has_it_and_convolutions_are_dense(
    config: Experiment, monkeypatch: pytest.MonkeyPatch, backbone: str, precision: str, has: dict[str, bool], told: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
    changed = override(config, [f"model.backbone={backbone}", f"train.precision={precision}"])
    text = advice(changed, [Trial(8, 1, 1.0, 1.0)], CPU, processes=1, limit=3.0)
    assert ("train.precision=bf16 takes about half the time for resnet18" in text) == told


def test_a_missing_teacher_is_told_as_in_training(
    small_scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(tmp_path, small_scenes)
    assert main(["fit", str(path), "method=mgd", "method.deep_teacher=none.pt"]) == 2
    assert "no checkpoint for method.deep_teacher: none of none.pt exists" in capsys.readouterr().err
