"""CutMix box masks and the mixing of two images (or label maps) with them."""

import math

import numpy as np
import torch
from torch import Tensor

BOXES = 3
AREA_RANGE = (0.25, 0.5)


def box_masks(n: int, height: int, width: int, *, generator: np.random.Generator | np.random.RandomState) -> np.ndarray:
    """Draw `n` masks of three boxes each (French et al., BMVC 2020, with the published settings).

    The mask starts at 0 and every box flips what it covers. A box's area share is uniform in (0.25, 0.5), a third of it
    for each box; its aspect is random; it lies inside the image.

    Args:
        generator: asked for `uniform` three times: areas (n,3), aspects (n,3), positions (n,3,2).

    Returns:
        (n,1,height,width) uint8 of 0 and 1; 1 takes the second image.
    """
    share = generator.uniform(*AREA_RANGE, (n, BOXES))
    aspect = generator.uniform(0.0, 1.0, (n, BOXES))
    position = generator.uniform(0.0, 1.0, (n, BOXES, 2))
    tall = np.exp(aspect * np.log(share))
    lengths = np.array([height, width])
    sides = np.rint(np.array([tall, share / tall]).transpose(1, 2, 0) * math.sqrt(1.0 / BOXES) * lengths)
    starts = np.rint((lengths - sides) * position)
    corners = np.concatenate([starts, starts + sides], axis=2).astype(int).tolist()

    masks = np.zeros((n, 1, height, width), dtype=np.uint8)
    for mask, boxes in zip(masks[:, 0], corners, strict=True):
        for top, left, bottom, right in boxes:
            mask[top:bottom, left:right] ^= 1
    return masks


def mix(first: Tensor, second: Tensor, mask: Tensor) -> Tensor:
    """`first` where the mask is 0, `second` where it is 1.

    Args:
        first, second: (N,C,H,W) images or (N,H,W) label maps. mask: (N,1,H,W), bool or 0/1.
    """
    mask = mask.bool() if first.dim() == 4 else mask[:, 0].bool()
    return torch.where(mask, second, first)
