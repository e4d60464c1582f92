"""The programs in benchmarks/ run and write what they promise, at tiny settings; no ratio is asserted."""

import importlib
import json
import runpy
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from mgd.config import Model

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
TINY = "timm:test_resnet"


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Callable[..., ModuleType]:
    """A benchmark as a module, called with these arguments when its `main` is."""
    monkeypatch.syspath_prepend(str(FOLDER))

    def load(name: str, *arguments: object) -> ModuleType:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        monkeypatch.delitem(sys.modules, name, raising=False)
        return importlib.import_module(name)

    return load


def read(file: Path) -> Any:
    return json.loads(file.read_text())


def test_every_program_has_a_test_here() -> None:
    tested = {"evaluate", "loader", "scaling", "step", "backbones", "shrunk_labels", "parity_differences"}
    assert {file.stem for file in FOLDER.glob("*.py")} == tested


def test_evaluate(program: Callable[..., ModuleType], tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    tiny = ["--size", 48, 64, "--crop", 32, "--backbone", TINY, "--channels", 16, "--pairs", 1]
    program("evaluate", *tiny, "--json", file).main()
    found = read(file)
    assert set(found) == {"slide", "whole", "whole_of_whole", "differing", "clearly"}
    assert found["clearly"] == 0  # ours and the published evaluator say the same


def test_loader(program: Callable[..., ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "found.json"
    loader = program("loader", "--samples", 1, "--rounds", 1, "--json", file)
    small = {name: ((60, 80), 48, *others) for name, (_, _, *others) in loader.SETS.items()}
    monkeypatch.setattr(loader, "SETS", small)
    loader.main()
    assert set(read(file)) == {"voc", "city"}
    assert all(set(found) == {"of_published", "of_decoding", "packed"} for found in read(file).values())


def test_step(program: Callable[..., ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "found.json"
    step = program("step", "--student", "light", "--size", 32, "--pairs", 1, "--json", file)
    monkeypatch.setattr(step, "TEACHERS", {"deep": TINY, "wide": TINY})
    monkeypatch.setitem(step.PUBLISHED, "light", TINY)
    monkeypatch.setitem(step.STUDENTS, "light", Model(backbone=TINY, head="separable", pretrained=False))
    monkeypatch.setattr(
        step, "peak", lambda make, *arguments: make(*arguments)() is None or 1.0
    )  # no process of its own
    step.main()
    assert set(read(file)) == {"online", "online_bf16", "offline", "memory"}


def test_scaling(program: Callable[..., ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "found.json"
    scaling = program("scaling", "names", "--values", 20, "--samples", 8, "--json", file, "--plot", tmp_path)
    monkeypatch.setattr(scaling, "in_processes", lambda count, work, *inputs, **named: work(*inputs, **named))
    scaling.main()
    assert set(read(file)["names"]["20"]) == {"seconds", "wall", "memory"}
    assert (tmp_path / "scaling.png").stat().st_size < 60_000


def test_scalings_steps_and_loaders(program: Callable[..., ModuleType], tmp_path: Path) -> None:
    scaling = program("scaling")
    options = type("Options", (), {"backbone": TINY, "steps": 1, "samples": 80})()
    step = scaling.step(options, crop=32, batch=2, classes=3)
    loading = scaling.loading(options, scaling.made_list(tmp_path / "data", 64, (50, 37)), 1)
    assert min(step.seconds, step.wall, loading.wall, loading.memory) > 0


def test_backbones(program: Callable[..., ModuleType], capsys: pytest.CaptureFixture[str]) -> None:
    program("backbones").main(["test_resnet"])
    assert "| `test_resnet` | separable | 2, 4, 8, 16, 16 | any |" in capsys.readouterr().out


def test_shrunk_labels(monkeypatch: pytest.MonkeyPatch, small_scenes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["shrunk_labels.py", str(small_scenes), "24"])
    runpy.run_path(str(FOLDER / "shrunk_labels.py"), run_name="__main__")
    assert capsys.readouterr().out.startswith("OpenCV's nearest ")


def test_parity_differences(
    program: Callable[..., ModuleType], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parity = program("parity_differences")
    whole, batches, scenes = parity.experiment, parity.batches, parity.generate_scenes

    def experiment(*arguments: Any) -> Any:
        config = whole(*arguments)
        small = replace(config.train, max_iterations=1, batch_size=2)
        return replace(config, train=small, data=replace(config.data, crop_size=32))

    monkeypatch.setattr(parity, "experiment", experiment)
    monkeypatch.setattr(parity, "batches", lambda config, count, size: batches(config, min(count, 2), min(size, 2)))
    monkeypatch.setattr(parity, "generate_scenes", lambda root, **_: scenes(root, train=8, val=2, height=48, width=64))
    parity.main()
    torch.set_num_threads(1)
    told = capsys.readouterr().out
    assert all(word in told for word in ("teacher_norm, 2 images", "padding: ", "image-level loss: ", "cutmix: "))
