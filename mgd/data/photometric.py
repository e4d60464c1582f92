"""Strong photometric augmentation of images on the device; what is drawn depends on each image's own number alone."""

import math

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

JITTER, JITTERED = 0.5, 0.8  # of brightness, contrast and saturation; the share of images that get it
HUE = 0.25
GREY, BLURRED = 0.2, 0.5  # shares of images
SIGMA = (0.1, 2.0)  # pixels


def strengthen(image: Tensor, noise: Tensor, *, view: int = 0) -> Tensor:
    """Colour jitter, grey and blur, with the settings of UniMatch (Yang et al., CVPR 2023).

    Args:
        image: (N,3,H,W) uint8 RGB on any device.
        noise: (N,) int64 on the CPU; an image's number decides what happens to it.
        view: another view of the same images gets other draws.

    Returns:
        (N,3,H,W) uint8, channels last.
    """
    rngs = (np.random.default_rng([number, view]) for number in noise.tolist())
    with torch.autocast(image.device.type, enabled=False):  # a blur in half precision would be off by a level or more
        changed = [_strengthen_one(one, rng) for one, rng in zip(image, rngs, strict=True)]
    return torch.stack(changed).contiguous(memory_format=torch.channels_last)


def channel_dropout(noise: Tensor, channels: int, *, rate: float, stream: int) -> Tensor:
    """(N,channels,1,1) float32 on the CPU: 0 for the dropped channels of each image, 1 / (1 - rate) for the others."""
    rngs = (np.random.default_rng([number, stream]) for number in noise.tolist())
    kept = np.stack([rng.random(channels) >= rate for rng in rngs])
    return torch.from_numpy(kept / (1.0 - rate)).float()[:, :, None, None]


def _strengthen_one(image: Tensor, rng: np.random.Generator) -> Tensor:
    """(3,H,W) uint8. Every number is drawn whether it is used or not."""
    jitters, greys, blurs = (bool(rng.random() < share) for share in (JITTERED, GREY, BLURRED))
    factors = rng.uniform(1 - JITTER, 1 + JITTER, 3).tolist()
    hue, sigma = float(rng.uniform(-HUE, HUE)), float(rng.uniform(*SIGMA))
    changes = [
        lambda one: F.adjust_brightness(one, factors[0]),
        lambda one: F.adjust_contrast(one, factors[1]),
        lambda one: F.adjust_saturation(one, factors[2]),
        lambda one: F.adjust_hue(one, hue),
    ]
    for index in rng.permutation(len(changes)) if jitters else ():
        image = changes[index](image)
    if greys:
        image = F.rgb_to_grayscale(image, num_output_channels=3)
    if blurs:
        reach = min(math.ceil(3 * sigma), (min(image.shape[-2:]) - 1) // 2)
        image = F.gaussian_blur(image, [2 * reach + 1] * 2, [sigma] * 2)
    return image
