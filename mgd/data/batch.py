"""A batch on the device: augmented images with where they are valid, their labels, CutMix masks.

`to_device` makes one from what the loader collates; `mixed` and `hardened` are what a student sees of a pair.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from mgd.data.cutmix import mix
from mgd.data.photometric import strengthen


class StoredMaps(NamedTuple):
    """What the teachers' store has of images, with their geometry."""

    labels: Mapping[str, Tensor]  # teacher -> (N,H,W) uint8, 255 in the padding
    confidence: Mapping[str, Tensor]  # teacher -> (N,H,W) uint8, 255 is certain; where a threshold asks for it
    coarse: Mapping[str, Tensor]  # "deep.logits", "wide.feature", ... -> (N,C,h,w), cells of the crop


class Views(NamedTuple):
    """Augmented images on the device; each network normalises them with its own statistics."""

    image: Tensor  # (N,3,H,W) uint8 RGB
    valid: Tensor  # (N,H,W) bool, False in the crop padding
    label: Tensor | None = None  # (N,H,W) int64, 255 is ignored
    maps: StoredMaps | None = None  # with method.teachers="offline"


class Batch(NamedTuple):
    """What an objective's forward gets: one micro-batch of one rank."""

    labeled: Views
    first: Views | None  # u0 of the paper; None where the method uses no unlabelled images
    second: Views | None  # u1: other images than `first`; None: image i's is image i+1 of `first`, and the other way
    mask: Tensor | None  # (N,1,H,W) bool, True takes `second`
    iteration: int
    other_mask: Tensor | None = None  # of a second view, for methods that take one
    noise: Tensor | None = None  # (N,) int64 on the CPU, one number for each position's own draws; with data.strong

    def pair(self) -> tuple[Views, Views, Tensor]:
        """(u0, u1, mask), for methods that use unlabelled images."""
        assert self.first is not None and self.mask is not None  # noqa: PT018
        return self.first, self.second or _beside(self.first), self.mask

    def mixed(self, view: int = 0) -> Views:
        """CutMix of the pair, of view 1 with its own mask; a pixel is valid where it is in the image it comes from."""
        first, second, mask = self.pair()
        return mix_views(first, second, mask if view == 0 or self.other_mask is None else self.other_mask)

    def hardened(self, mixed: Views, view: int = 0) -> Views:
        """The `mixed` images of a view as a student sees them: with data.strong augmented once more."""
        return mixed if self.noise is None else mixed._replace(image=strengthen(mixed.image, self.noise, view=view))


def mix_views(first: Views, second: Views, mask: Tensor) -> Views:
    """CutMix of images and of where they are valid."""
    return Views(mix(first.image, second.image, mask), mix(first.valid, second.valid, mask))


def neighbours(values: Tensor) -> Tensor:
    """(2n,...) -> the same with 0 and 1, 2 and 3, ... in each other's place."""
    return values.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)


def _beside(views: Views) -> Views:
    """The views of the neighbours."""
    return Views(*tree_map(lambda value: None if value is None else neighbours(value), tuple(views)))


def to_device(sample: dict[str, Any], device: torch.device, iteration: int) -> Batch:
    """A collated batch -> the device, still uint8; copies do not block where memory is pinned."""

    def views(name: str) -> Views | None:
        if name not in sample:
            return None
        image = sample[name]["image"].to(device, non_blocking=True)
        valid = _inside(sample[name]["extent"].to(device, non_blocking=True), *image.shape[-2:])
        label, maps = sample[name].get("label"), sample[name].get("maps")
        return Views(
            image.contiguous(memory_format=torch.channels_last),
            valid,
            None if label is None else label.to(device, non_blocking=True).long(),
            None if maps is None else StoredMaps(**tree_map(lambda t: t.to(device, non_blocking=True), maps)),
        )

    labeled = views("labeled")
    assert labeled is not None

    def mask(name: str) -> Tensor | None:
        return sample[name].to(device, non_blocking=True).bool() if name in sample else None

    noise = sample.get("noise")
    pair = (views("first"), views("second"), mask("mask"))
    return Batch(labeled, *pair, iteration, other_mask=mask("other_mask"), noise=noise)


def _inside(extent: Tensor, height: int, width: int) -> Tensor:
    """(N,4) top, bottom, left, right -> (N,H,W) bool."""
    y = torch.arange(height, device=extent.device)
    x = torch.arange(width, device=extent.device)
    rows = (y >= extent[:, 0:1]) & (y < extent[:, 1:2])
    columns = (x >= extent[:, 2:3]) & (x < extent[:, 3:4])
    return rows[:, :, None] & columns[:, None, :]
