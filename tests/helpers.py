"""What several test files use: a run small enough for a test, checkpoints, comparisons bit by bit."""

import multiprocessing
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import mgd.engine.loop as loop
from mgd.__main__ import main
from mgd.checkpoint import save
from mgd.data.batch import Batch
from mgd.models import build_model
from mgd.objectives.base import Objective

# Processes come from a server that has imported mgd and runs nothing. Forked from the tests' own process they would
# share its locks; one that is killed while it holds one would leave the tests waiting.
FRESH = multiprocessing.get_context("forkserver")
FRESH.set_forkserver_preload(["mgd.commands.train", "mgd.engine.loop"])

BACKBONE, CHANNELS, CROP = "timm:test_resnet", 16, 32
CONFIG = f'''"""A run small enough for a test: 12 training images, 3 of them labelled."""
from mgd.config import Data, Evaluate, Experiment, Model, Run, Supervised, Train

config = Experiment(
    data=Data(root="ROOT", train_list="train_aug.txt", partition=4, crop_size={CROP}, workers=0),
    model=Model(backbone="{BACKBONE}", pretrained=False, channels={CHANNELS}),
    method=Supervised(),
    train=Train(batch_size=4, max_iterations=3, lr=0.01),
    evaluate=Evaluate(every=0),
    run=Run(log_every=1),
)
'''


def write_config(folder: Path, root: Path) -> Path:
    """Write a config.py that trains on the data in `root`; its run folder is `folder`/run."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.py"
    path.write_text(CONFIG.replace("ROOT", str(root)))
    return path


def train(folder: Path, root: Path, *arguments: str) -> Path:
    """Train in this process; returns the run folder."""
    assert main(["train", str(write_config(folder, root)), *arguments]) == 0
    return folder / "run"


@contextmanager
def broken_off(*, at: int) -> Iterator[None]:
    """Ctrl-C in the place of the iteration `at`, counted from 0."""
    to_device = loop.to_device

    def interrupt(*arguments: Any) -> Any:
        if arguments[2] == at:
            raise KeyboardInterrupt
        return to_device(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "to_device", interrupt)
        yield


@dataclass
class Started:
    """A command in a process of its own. What it says is in `output` while it runs, and on stderr once it is joined."""

    process: Any
    output: Path

    def wait(self, seconds: float = 100) -> int | None:
        """Its status; None, and it is killed, where it has not ended by then."""
        self.process.join(seconds)
        status: int | None = self.process.exitcode
        self.process.kill()
        self.process.join()
        sys.stderr.write(self.output.read_text())
        self.output.write_text("")
        return status

    def wait_for(self, done: Callable[[], bool], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            assert self.process.is_alive(), f"ended with {self.wait()}"
            assert time.monotonic() < deadline
            time.sleep(0.002)


def bytes_in(folder: Path) -> int:
    """Of the files in a folder that another process writes: one that it renames meanwhile counts as nothing."""
    total = 0
    for path in folder.glob("*"):
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def start(
    *arguments: str,
    first: Callable[[], object] | None = None,
    own_group: bool = False,
    environment: Mapping[str, str] | None = None,
) -> Started:
    """Run a command in a fresh process.

    Args:
        first: is called there before; a function at the top of a file.
        own_group: the process leads a process group of its own.
        environment: added to this one.
    """
    output = Path(tempfile.mkdtemp(prefix="mgd-test-"), "output")
    output.touch()
    work = (arguments, first, own_group, {**os.environ, **(environment or {})}, output)
    process = FRESH.Process(target=_run, args=work)
    process.start()
    return Started(process, output)


def _run(
    arguments: tuple[str, ...],
    first: Callable[[], object] | None,
    own_group: bool,
    environment: dict[str, str],
    output: Path,
) -> None:
    with open(output, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    multiprocessing.set_start_method(None, force=True)  # its loaders start their workers as those of a user do
    os.environ.update(environment)
    if own_group:
        os.setsid()
    if first is not None:
        first()
    sys.exit(main(arguments))


def run_processes(
    count: int, *arguments: str, statuses: Sequence[int] = (), first: Callable[[], object] | None = None
) -> None:
    """Run a command in `count` processes that find each other as torchrun's do; `first` as in `start`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    names = {"WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    team = [
        start(
            *arguments,
            first=first,
            environment={name: str(value) for name, value in {**names, "RANK": rank, "LOCAL_RANK": rank}.items()},
        )
        for rank in range(count)
    ]
    assert [process.wait() for process in team] == [*(statuses or [0] * count)]


def write_network(path: Path, *, num_classes: int, channels: int = CHANNELS, seed: int = 0) -> Path:
    """Write a checkpoint of a small network with random weights."""
    torch.manual_seed(seed)
    save(path, build_model(BACKBONE, num_classes, channels=channels))
    return path


def read(path: Path) -> dict[str, Any]:
    """Return a checkpoint's content."""
    return torch.load(path, weights_only=True)


def copy_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a copy that later training steps do not change."""
    return {name: tensor.clone() for name, tensor in state.items()}


def differences(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors that are not equal bit by bit."""
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


def assert_weighed(weighing: Objective, plain: Objective, batch: Batch) -> None:
    """The terms of an objective, divided by its `weights`, are those of one whose weights are 1."""
    terms, raw, weights = weighing(batch), plain(batch), weighing.weights(batch.iteration)
    assert terms.keys() == raw.keys() == {"supervised", *weights}
    for name, weight in weights.items():
        torch.testing.assert_close(terms[name] / weight, raw[name], msg=name)


def write_image(path: Path, array: np.ndarray, **options: Any) -> Path:
    """Write RGB (H,W,3) or one channel (H,W), uint8; the suffix tells the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path
