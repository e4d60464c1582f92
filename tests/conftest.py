"""Fixtures that several test files share."""

import os
import signal
from pathlib import Path

import pytest
import torch
from helpers import write_network
from scenes import CLASSES, generate_scenes

torch.set_num_threads(1)  # the networks here are too small for more
signal.signal(signal.SIGINT, signal.default_int_handler)  # also under nohup, or in the background of a script
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # under nohup, and what tests start would ignore it too
    signal.signal(signal.SIGHUP, lambda *_: None)


def _wants_gpu(config: pytest.Config) -> bool:
    return "gpu" in config.option.markexpr.replace("not gpu", "")


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs from all tests but those that need one: only a CPU gives the same bits again."""
    if not _wants_gpu(config):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if collection_path.name == "test_gpu.py" and not _wants_gpu(config) else None


def pytest_report_header(config: pytest.Config) -> str:
    return "on a GPU" if _wants_gpu(config) else "on the CPU; what needs a GPU: python -m pytest -m gpu"


@pytest.fixture(scope="session")
def small_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 training and 3 validation scenes of 64x48 in VOC layout; not to be changed."""
    out = tmp_path_factory.mktemp("data") / "scenes"
    generate_scenes(out, train=12, val=3, height=48, width=64)
    return out


@pytest.fixture(scope="session")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides that make a run an MGD run with two small teachers, of different widths."""
    folder = tmp_path_factory.mktemp("teachers")
    deep = write_network(folder / "deep.pt", num_classes=len(CLASSES), channels=16, seed=1)
    wide = write_network(folder / "wide.pt", num_classes=len(CLASSES), channels=24, seed=2)
    return ["method=mgd", f"method.deep_teacher={deep}", f"method.wide_teacher={wide}"]
