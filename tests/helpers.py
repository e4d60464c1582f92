"""What several test files use: a run small enough for a test, checkpoints, comparisons bit by bit."""

import multiprocessing
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mgd.__main__ import main
from mgd.checkpoint import save
from mgd.models import build_model

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


def run_processes(count: int, *arguments: str, statuses: Sequence[int] = ()) -> None:
    """Run a command in `count` processes that find each other as torchrun's do; forked, so that nothing is imported."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    team = [fork.Process(target=_process, args=(rank, count, port, arguments)) for rank in range(count)]
    for process in team:
        process.start()
    for process in team:
        process.join(timeout=100)
        process.kill()
    assert [process.exitcode for process in team] == [*(statuses or [0] * count)]


def _process(rank: int, world: int, port: int, arguments: tuple[str, ...]) -> None:
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in names.items()})
    sys.exit(main(arguments))


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


def write_image(path: Path, array: np.ndarray, **options: Any) -> Path:
    """Write RGB (H,W,3) or one channel (H,W), uint8; the suffix tells the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path
