"""From (network, image) to class scores or labels: sliding windows or whole image, scales, flip; band by band."""

import contextlib
import math
import operator
from collections.abc import Iterator
from functools import reduce
from typing import Protocol

import cv2
import torch
import torch.nn.functional as F
from torch import Tensor

from mgd.config import Evaluate
from mgd.models.any_size import any_size
from mgd.models.network import SegmentationNetwork
from mgd.models.normalise import NormalisingNetwork
from mgd.rows import Resized

BAND = 2**21  # scores that are finished at once: a band has so many, over all classes (8 MiB)

Size = tuple[int, int]


class Rows(Protocol):
    """Class scores of an image, from the top down: no row is asked for again once a later band was."""

    size: Size

    def rows(self, start: int, stop: int) -> Tensor:
        """(K, stop - start, width) float32, valid until the next call."""


def predict_scores(network: NormalisingNetwork, image: Tensor, how: Evaluate, *, size: Size | None = None) -> Tensor:
    """Score one image.

    Args:
        network: normalised images (N,3,H,W) -> logits (N,K,H,W), in eval mode; its own statistics are used.
        image: (3,H,W) uint8 RGB on the network's device.
        how: windows, scales, flip; with sliding windows `crop_size` must be set.
        size: height and width of the result; None means the image's.

    Returns:
        (K,*size) float32: logits summed over windows, flips and scales.
    """
    return torch.cat([band.clone() for band in _bands(network, image, how, size)], dim=1)


def predict_labels(network: NormalisingNetwork, image: Tensor, how: Evaluate, *, size: Size | None = None) -> Tensor:
    """The class with the greatest score at every pixel, (*size) uint8; arguments as in `predict_scores`.

    No more than a band of scores is held at a time, besides what a row of windows or a forward pass needs.

    Raises:
        FloatingPointError: a score is not finite.
    """
    labels, best = [], []
    for band in _bands(network, image, how, size):
        values, label = band.max(dim=0)  # NaN is greater than any number to it
        labels.append(label.to(torch.uint8))
        best.append(values.sum())
    if not torch.stack(best).isfinite().all():
        raise FloatingPointError("a score is not finite")
    return torch.cat(labels)


def predict_confidence(
    network: NormalisingNetwork, image: Tensor, how: Evaluate, *, size: Size | None = None
) -> tuple[Tensor, Tensor]:
    """Labels as `predict_labels` and their probability, (*size) float32; NaN where a score is NaN.

    The probability is the softmax of the mean of the logits that are summed: the same however many windows overlap.
    """
    once = how.mode == "whole" and not how.flip and len(how.scales) == 1
    counts = None if once else predict_scores(_Ones(), image, how, size=size)[0]
    labels, shares, start = [], [], 0
    for band in _bands(network, image, how, size):
        stop = start + band.shape[1]
        mean = band if counts is None else band / counts[start:stop]
        labels.append(band.max(dim=0).indices.to(torch.uint8))  # on a CPU argmax takes four times as long
        shares.append(mean.softmax(dim=0).amax(dim=0))
        start = stop
    return torch.cat(labels), torch.cat(shares)


class _Ones(NormalisingNetwork):
    """Images -> (N,1,H,W) ones: their sums say how many logits are summed at a pixel."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.ones_like(x[:, :1])


@torch.inference_mode()
def _bands(network: NormalisingNetwork, image: Tensor, how: Evaluate, size: Size | None) -> Iterator[Tensor]:
    """(K, rows, width) of the summed scores, from the top down."""
    height, width = size or (image.shape[-2], image.shape[-1])
    scales: list[Rows] = []
    for scale in how.scales:
        scaled = resize_photo(image, scale)
        scores = _Windows(network, scaled, how) if how.mode == "slide" else _whole(network, scaled, how)
        scales.append(scores if scores.size == (height, width) else Resized(scores, (height, width)))
    start, rows = 0, 1
    while start < height:
        band = reduce(operator.add, [scores.rows(start, min(start + rows, height)) for scores in scales])
        yield band
        start += band.shape[1]
        rows = max(1, BAND // (band.shape[0] * width))


def resize_photo(image: Tensor, scale: float) -> Tensor:
    """(3,H,W) uint8, bilinear on the uint8 values by OpenCV, as the published evaluation does."""
    if scale == 1:
        return image
    array = image.permute(1, 2, 0).contiguous().cpu().numpy()
    if min(round(side * scale) for side in array.shape[:2]) < 1:
        size = tuple(max(1, round(side * scale)) for side in array.shape[1::-1])
        resized = cv2.resize(array, size, interpolation=cv2.INTER_LINEAR)
    else:
        resized = cv2.resize(array, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    return torch.from_numpy(resized).permute(2, 0, 1).to(image.device)


def _forward(network: NormalisingNetwork, pixels: Tensor, how: Evaluate, *, coarse: bool = False) -> Tensor:
    """Normalised images -> logits (N,K,H,W) float32, with those of the mirrored images added where asked for.

    Args:
        coarse: at the classifier's own resolution. Mirroring and upsampling can be done in either order.
    """

    def logits(images: Tensor) -> Tensor:
        if coarse:
            assert isinstance(network, SegmentationNetwork)
            return network.classifier(network.feature(images)).float()
        return network(images).float()

    pixels = pixels.contiguous(memory_format=torch.channels_last)
    bf16 = torch.autocast(pixels.device.type, torch.bfloat16) if how.precision == "bf16" else contextlib.nullcontext()
    with bf16:
        scores = logits(pixels)
        return scores + logits(pixels.flip(-1)).flip(-1) if how.flip else scores


def _whole(network: NormalisingNetwork, image: Tensor, how: Evaluate) -> Rows:
    """The whole image in one forward pass; a DeepLabV3+ keeps its logits at stride 4 and upsamples rows as asked."""
    # Where the backbone's images are padded, its logits are larger than theirs.
    coarse = isinstance(network, SegmentationNetwork) and network.backbone.multiple == 1
    with any_size(image.device):
        scores = _Given(_forward(network, network.normalise(image[None]), how, coarse=coarse)[0])
    return Resized(scores, (image.shape[-2], image.shape[-1]), align_corners=True) if coarse else scores


class _Given:
    """Scores that are there."""

    def __init__(self, scores: Tensor) -> None:
        self.scores, self.size = scores, (scores.shape[-2], scores.shape[-1])

    def rows(self, start: int, stop: int) -> Tensor:
        return self.scores[:, start:stop]


class _Windows:
    """The windows' logits, summed; a row of windows is computed when its first pixels are asked for.

    An image smaller than the window is padded with 0 after normalising, all around; a window that reaches over the
    border is shifted back.
    """

    def __init__(self, network: NormalisingNetwork, image: Tensor, how: Evaluate) -> None:
        assert how.crop_size > 0, "the caller fills in the training crop"
        self.network, self.how, self.crop = network, how, how.crop_size
        self.size = height, width = image.shape[-2], image.shape[-1]
        self.top, self.left = max(0, self.crop - height) // 2, max(0, self.crop - width) // 2
        bottom, right = max(0, self.crop - height) - self.top, max(0, self.crop - width) - self.left
        sides = (self.left, right, self.top, bottom)
        self.image = F.pad(image, sides)
        self.valid = F.pad(torch.ones_like(image[0], dtype=torch.bool), sides) if any(sides) else None
        step = math.ceil(self.crop * how.stride)
        self.tops, self.lefts = (starts(side, self.crop, step) for side in self.image.shape[-2:])
        self.done = 0  # the first row that is not yet finished
        self.kept: Tensor | None = None  # rows `base` to `base + kept.shape[1]`, ...
        self.base, self.first, self.filled = 0, 0, 0  # ... of which those from `first` to `filled` are in use

    def rows(self, start: int, stop: int) -> Tensor:
        start, stop = start + self.top, stop + self.top
        self.first = start
        while self.done < stop:
            self._next_row()
        assert self.kept is not None
        return self.kept[:, start - self.base : stop - self.base, self.left : self.left + self.size[1]]

    def _next_row(self) -> None:
        """Add one row of windows to what is kept."""
        top, crop = self.tops.pop(0), self.crop
        batch = windows_at_once(self.how, self.image.device)
        for i in range(0, len(self.lefts), batch):
            lefts = self.lefts[i : i + batch]
            windows = torch.stack([self.image[:, top : top + crop, x : x + crop] for x in lefts])
            valid = self.valid
            if valid is not None:
                valid = torch.stack([valid[top : top + crop, x : x + crop] for x in lefts])
            logits = _forward(self.network, self.network.normalise(windows, valid), self.how)
            kept = self._room_for(top + crop, logits)
            for score, x in zip(logits, lefts, strict=True):
                kept[:, top - self.base : top - self.base + crop, x : x + crop] += score
        self.done = self.tops[0] if self.tops else self.image.shape[-2]

    def _room_for(self, stop: int, logits: Tensor) -> Tensor:
        """What is kept, in place, with zeros down to row `stop`."""
        kept = self.kept
        if kept is None:
            kept = logits.new_empty(logits.shape[1], self.crop, self.image.shape[-1])
        if stop - self.base > kept.shape[1]:
            # Shrinking to less than half skips rows: the windows that come may begin above those asked for.
            shift, used = min(self.first, self.filled, stop - self.crop) - self.base, self.filled - self.base
            for row in range(0, used - shift, max(1, shift)):  # blocks that do not overlap
                end = min(row + shift, used - shift)
                kept[:, row:end] = kept[:, row + shift : end + shift]
            self.base += shift
            if missing := max(0, stop - self.base - kept.shape[1]):
                kept = F.pad(kept, (0, 0, 0, missing))
        kept[:, self.filled - self.base : stop - self.base] = 0
        self.kept, self.filled = kept, max(self.filled, stop)
        return kept


def windows_at_once(how: Evaluate, device: torch.device) -> int:
    """Windows in a forward pass: on a CPU one.

    Several at once gain nothing there, and their activations are so large that the system is asked for each of them
    anew: four of 480x480 take 1.08 times the CPU time of one by one (ResNet-18, one thread).
    """
    return 1 if device.type == "cpu" else how.window_batch


def starts(length: int, crop: int, step: int) -> list[int]:
    """First pixels of the windows along one side."""
    count = math.ceil((length - crop) / step) + 1
    return [min(i * step, length - crop) for i in range(count)]
