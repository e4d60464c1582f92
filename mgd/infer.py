"""From (network, image) to class scores: sliding windows or whole image, scales, flip."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgd.config import Evaluate
from mgd.models.normalise import NormalisingNetwork


@torch.inference_mode()
def predict_scores(
    network: NormalisingNetwork, image: Tensor, how: Evaluate, *, size: tuple[int, int] | None = None
) -> Tensor:
    """Score one image.

    Args:
        network: normalised images (N,3,H,W) -> logits (N,K,H,W), in eval mode; its own statistics are used.
        image: (3,H,W) uint8 RGB on the network's device.
        how: windows, scales, flip; with sliding windows `crop_size` must be set.
        size: height and width of the result; None means the image's.

    Returns:
        (K,*size) float32: logits summed over windows, flips and scales.
    """
    own_size = (image.shape[-2], image.shape[-1])
    pixels = network.normalise(image[None])
    total: Tensor | float = 0.0
    for scale in how.scales:
        scaled = _resize(pixels, (max(1, round(own_size[0] * scale)), max(1, round(own_size[1] * scale))))
        scores = _forward(network, scaled, how.flip) if how.mode == "whole" else _slide(network, scaled, how)
        total = total + _resize(scores, size or own_size)
    assert isinstance(total, Tensor)  # the config refuses an empty list of scales
    return total[0]


def _forward(network: nn.Module, pixels: Tensor, flip: bool) -> Tensor:
    scores = network(pixels).float()
    if flip:
        scores += network(pixels.flip(-1)).float().flip(-1)
    return scores


def _slide(network: nn.Module, pixels: Tensor, how: Evaluate) -> Tensor:
    """(1,3,H,W) normalised -> (1,K,H,W): the windows' logits, summed.

    An image smaller than the window is padded with 0 all around; a window that reaches over the border is shifted back.
    """
    assert how.crop_size > 0, "the caller fills in the training crop"
    crop, (own_height, own_width) = how.crop_size, pixels.shape[-2:]
    top, left = max(0, crop - own_height) // 2, max(0, crop - own_width) // 2
    bottom, right = max(0, crop - own_height) - top, max(0, crop - own_width) - left
    pixels = F.pad(pixels, (left, right, top, bottom))
    height, width = pixels.shape[-2:]
    step = math.ceil(crop * how.stride)
    corners = [(y, x) for y in _starts(height, crop, step) for x in _starts(width, crop, step)]
    total: Tensor | None = None
    for i in range(0, len(corners), how.window_batch):
        chunk = corners[i : i + how.window_batch]
        windows = torch.cat([pixels[:, :, y : y + crop, x : x + crop] for y, x in chunk])
        scores = _forward(network, windows, how.flip)
        if total is None:
            total = scores.new_zeros(1, scores.shape[1], height, width)
        for score, (y, x) in zip(scores, chunk, strict=True):
            total[0, :, y : y + crop, x : x + crop] += score
    assert total is not None
    return total[:, :, top : top + own_height, left : left + own_width]


def _starts(length: int, crop: int, step: int) -> list[int]:
    """First pixels of the windows along one side."""
    count = math.ceil((length - crop) / step) + 1
    return [min(i * step, length - crop) for i in range(count)]


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    return x if tuple(x.shape[-2:]) == size else F.interpolate(x, size=size, mode="bilinear", align_corners=False)
