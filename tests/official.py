"""Files as the official code writes them, and commands that must fail."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import facts
from torch import Tensor

from mgd.__main__ import main

State = dict[str, Tensor]


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def teacher_file(state: State) -> dict[str, Any]:
    """What the official code saves of a teacher: both copies of CPS, the optimisers, the progress."""
    model = prefixed(state, "branch1.") | prefixed({n: torch.zeros_like(t) for n, t in state.items()}, "branch2.")
    momentum = {
        "state": {0: {"momentum_buffer": torch.ones(3)}},
        "param_groups": [{"lr": np.float64(0.01), "params": [0]}],
    }
    return {"model": model, "optimizer_l": momentum, "optimizer_r": momentum, "epoch": 33, "iteration": 39337}


def student_file(student: State, wide: State, deep: State) -> dict[str, Any]:
    return {"model": prefixed(student, "branch1.") | prefixed(wide, "branch2.") | prefixed(deep, "branch3.")}


def write(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def hollow(backbone: str) -> State:
    """An official network whose tensors take no room on the disk."""
    return {name: torch.zeros(()).expand(shape) for name, shape in facts(f"arch_{backbone}")["state_dict"]}


def sentence(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must fail; returns the one sentence it says."""
    assert main([*arguments]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "Traceback" not in said
    return said
