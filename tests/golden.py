"""Reference values of the official code: where they lie, the weights and inputs they were recorded with."""

import json
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mgd.models import SegmentationNetwork, build_model

GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden"
needs_golden = pytest.mark.skipif(
    not GOLDEN.is_dir(), reason="../shared/golden, the recorded values of the official code, is absent"
)


def array(file: str, key: str) -> Tensor:
    """One array of an .npz, as a tensor."""
    with np.load(GOLDEN / f"{file}.npz") as archive:
        return torch.from_numpy(np.asarray(archive[key]))


@lru_cache
def facts(file: str) -> dict[str, Any]:
    """A .json."""
    return json.loads((GOLDEN / f"{file}.json").read_text())


def made_up(name: str, shape: tuple[int, ...], *, variant_b: bool = False) -> Tensor:
    """The deterministic weight of that name (../shared/golden/README.md). Variant b: 1-D weights times 2."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    if len(shape) >= 2:
        value = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    elif name.endswith("running_var"):
        value = rng.uniform(0.5, 1.5, shape)
    elif name.endswith(".weight"):
        value = rng.uniform(0.5, 1.0, shape) * 0.5
    else:
        value = 0.1 * rng.standard_normal(shape)
    value = value.astype(np.float32)
    return torch.from_numpy(value * np.float32(2 if variant_b and len(shape) == 1 and name.endswith(".weight") else 1))


def network(backbone: str, num_classes: int = 21, *, variant_b: bool = False, **options: Any) -> SegmentationNetwork:
    """A network with the deterministic weights, in eval mode."""
    with torch.device("meta"):  # no time is spent on weights that are replaced at once
        net = build_model(backbone, num_classes, **options)
    state = {k: made_up(k, tuple(v.shape), variant_b=variant_b) for k, v in net.state_dict().items()}
    net.load_state_dict(state, assign=True)
    return net.eval()


def official_state(backbone: str, prefix: str = "branch1.") -> dict[str, Tensor]:
    """The state dict of an official file, ImageNet heads and all, from names and shapes alone."""
    entries = facts(f"arch_{backbone}")["state_dict"]
    return {prefix + name: made_up(name, tuple(shape)) for name, shape in entries}


def image(*, large: bool = False) -> Tensor:
    """The recorded outputs' input."""
    shape = (1, 3, 449, 673) if large else (2, 3, 65, 97)
    return torch.from_numpy(np.random.Generator(np.random.PCG64(1234)).standard_normal(shape).astype(np.float32))
