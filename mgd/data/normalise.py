"""Normalisation with the ImageNet statistics, on the device, from uint8."""

from functools import lru_cache

import torch
from torch import Tensor

MEAN = (0.485, 0.456, 0.406)  # RGB, of pixels scaled to 0..1
STD = (0.229, 0.224, 0.225)


def normalise(image: Tensor, valid: Tensor | None = None) -> Tensor:
    """uint8 RGB (N,3,H,W) -> float32, ImageNet mean and std; 0 where `valid` (N,H,W) is False (crop padding)."""
    scale, shift = _constants(image.device)
    out = image.float() * scale + shift
    return out if valid is None else out * valid[:, None]


@lru_cache
def _constants(device: torch.device) -> tuple[Tensor, Tensor]:
    """1 / (255 std) and -mean / std, (1,3,1,1): made once for each device, since the copy would wait for it."""
    mean, std = (torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (1 / (255 * std)).float().to(device), (-mean / std).float().to(device)
