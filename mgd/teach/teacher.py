"""A frozen teacher looks at a photo: what a store keeps of its answers, and what keeping costs."""

import math
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mgd.config import CWD, KD, Experiment, Taught
from mgd.data.datasets import Splits
from mgd.data.maps import Kind
from mgd.errors import UserError
from mgd.infer import starts, windows_at_once
from mgd.losses import region_level_loss
from mgd.models.folding import for_inference
from mgd.models.network import SegmentationNetwork
from mgd.objectives import load_teacher, teacher_paths

FEATURE_STRIDE = 4  # of the decoder feature: windows begin at multiples of it


class Teacher:
    """A frozen network and what is stored of its answers."""

    def __init__(self, name: str, network: SegmentationNetwork, config: Experiment, device: torch.device) -> None:
        method = config.method
        assert isinstance(method, Taught)
        self.name, self.how, self.device, self.stored = name, method.teach, device, method.stored[name]
        self.network = for_inference(network).to(device)
        if "feature" in self.stored:
            assert not isinstance(method, KD)
            self.stride = method.feature_stride(config.data.crop_size)
            without = "weight_feature=0" if isinstance(method, CWD) else "lambda_region=0 and method.wide_teacher="
            self._check_stride(f"method.{without}")
        window = self.how.crop_size or config.data.crop_size
        self.window = -(-window // FEATURE_STRIDE) * FEATURE_STRIDE
        self.step = max(1, math.ceil(window * config.evaluate.stride) // FEATURE_STRIDE) * FEATURE_STRIDE
        self.batch = windows_at_once(config.evaluate, device)
        width, projection = self.network.classifier.in_channels, self.how.projection
        if "feature" in self.stored and projection > width:
            raise UserError(
                f"method.teach.projection={projection} is more than the {width} channels of the {name} "
                "teacher's feature; use fewer, or 0 for its own"
            )
        self.projection = _projection(width, projection).to(device) if projection else None
        values = {"fp16": "<f2", "fp32": "<f4"}[self.how.values]
        self.kinds = [Kind(f"{name}.label"), Kind(f"{name}.confidence")]
        if "feature" in self.stored:
            self.kinds.append(Kind(f"{name}.feature", self.stride, projection or width, values))
        if "logits" in self.stored:
            self.kinds.append(Kind(f"{name}.logits", self.how.logits_stride, network.num_classes, values))

    @torch.inference_mode()
    def _check_stride(self, without: str) -> None:
        """Raise UserError where the network's feature cannot be stored; `without`: settings that do without it."""
        side = self.network.padded(64, 64)[0]
        own = side // self.network.feature(torch.zeros(1, 3, 64, 64, device=self.device)).shape[-1]
        if own != FEATURE_STRIDE:
            raise UserError(
                f"the {self.name} teacher's feature has a cell for {own} pixels, storing it needs {FEATURE_STRIDE}, as "
                f"the published head has: leave the teachers online, or set {without}"
            )

    @torch.inference_mode()
    def look(self, image: Tensor) -> tuple[dict[str, np.ndarray], Tensor]:
        """(3,H,W) uint8 -> its maps by kind, as the store wants them; the decoder feature (1,C,h,w) at stride 4.

        Logits are means over windows, mirror images and scales: of the size that a single forward gives.
        """
        size = [image.shape[-2], image.shape[-1]]
        pixels = self.network.normalise(image[None])
        scores, feature = self._slide(pixels)
        variants = [
            (scale, flip) for scale in self.how.scales for flip in ((False, True) if self.how.flip else (False,))
        ]
        total = torch.zeros_like(scores)
        for scale, flip in variants:
            own = scores if (scale, flip) == (1.0, False) else self._score_variant(pixels, scale, flip)
            total += own
        logits = total / len(variants)
        confidence, label = logits.softmax(dim=1).max(dim=1)
        maps = {"label": label[0].byte(), "confidence": (255 * confidence[0]).round().byte()}
        if "logits" in self.stored:
            maps["logits"] = _in_cells(logits, self.how.logits_stride)
        if "feature" in self.stored:
            maps["feature"] = _in_cells(self._project(feature), self.stride // FEATURE_STRIDE)
        assert list(logits.shape[-2:]) == size
        return {f"{self.name}.{what}": values.cpu().numpy() for what, values in maps.items()}, feature

    def _score_variant(self, pixels: Tensor, scale: float, flip: bool) -> Tensor:
        size = pixels.shape[-2:]
        scaled = [max(1, round(side * scale)) for side in size]
        seen = F.interpolate(pixels, scaled, mode="bilinear", align_corners=False)
        scores, _ = self._slide(seen.flip(-1) if flip else seen)
        scores = scores.flip(-1) if flip else scores
        return F.interpolate(scores, size, mode="bilinear", align_corners=False)

    def _slide(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(1,3,H,W) normalised -> logits (1,K,H,W) and feature (1,C,H/4,W/4), means over the windows.

        As in `mgd.infer`, but for where windows begin: at multiples of 4 pixels, so that features of two meet.
        """
        window, stride, (height, width) = self.window, FEATURE_STRIDE, pixels.shape[-2:]
        top, left = (max(0, window - side) // 2 // stride * stride for side in (height, width))
        sides = [max(window, -(-side // stride) * stride) for side in (height, width)]
        pixels = F.pad(pixels, (left, sides[1] - width - left, top, sides[0] - height - top))
        corners = [(y, x) for y in starts(sides[0], window, self.step) for x in starts(sides[1], window, self.step)]
        logits = _Mean(sides)
        feature = _Mean([side // stride for side in sides])
        for i in range(0, len(corners), self.batch):
            chunk = corners[i : i + self.batch]
            seen = self.network.feature(torch.cat([pixels[:, :, y : y + window, x : x + window] for y, x in chunk]))
            scores = self.network.logits(seen, (window, window))
            seen = self.network.over_image(seen, (window, window))
            for (y, x), one, its_logits in zip(chunk, seen.float(), scores.float(), strict=True):
                logits.add(its_logits, y, x)
                feature.add(one, y // stride, x // stride)
        own = feature.mean()[:, :, top // stride :, left // stride :]
        own = own[:, :, : -(-height // stride), : -(-width // stride)]
        return logits.mean()[:, :, top : top + height, left : left + width], own

    def _project(self, feature: Tensor) -> Tensor:
        if self.projection is None:
            return feature
        with torch.autocast(feature.device.type, enabled=False):  # the mean over windows is float32, and stays it
            return torch.einsum("ncHW,cd->ndHW", feature, self.projection)

    def error(self, feature: Tensor, maps: Mapping[str, np.ndarray]) -> float:
        """What the region loss would be for a student whose feature is the teacher's: of what is stored, the error."""
        stored = torch.from_numpy(maps[f"{self.name}.feature"]).to(feature.device, torch.float32).permute(2, 0, 1)[None]
        fine = self.stride // FEATURE_STRIDE
        stored = stored.repeat_interleave(fine, dim=2).repeat_interleave(fine, dim=3)
        return region_level_loss(feature, stored[:, :, : feature.shape[2], : feature.shape[3]]).item()


class _Mean:
    """The mean of overlapping (C,h,w) tiles over a field."""

    def __init__(self, size: list[int]) -> None:
        self.size, self.total, self.count = size, torch.zeros(0), torch.zeros(0)

    def add(self, tile: Tensor, top: int, left: int) -> None:
        if not self.total.numel():
            self.total = tile.new_zeros(1, len(tile), *self.size)
            self.count = tile.new_zeros(1, 1, *self.size)
        place = (..., slice(top, top + tile.shape[1]), slice(left, left + tile.shape[2]))
        self.total[place] += tile
        self.count[place] += 1

    def mean(self) -> Tensor:
        return self.total / self.count


def open_teachers(config: Experiment, splits: Splits, device: torch.device) -> list[Teacher]:
    """The teachers that the config names. Raises UserError as `load_teacher` does."""
    assert isinstance(config.method, Taught)
    classes = splits.classes.names
    loaded = {name: load_teacher(config, name, len(classes), classes=classes) for name in teacher_paths(config.method)}
    return [Teacher(name, network, config, device) for name, network in loaded.items()]


def _in_cells(values: Tensor, stride: int) -> Tensor:
    """(1,C,H,W) -> (h,w,C): means over cells, the last of which may be smaller."""
    pooled = F.avg_pool2d(values.float(), stride, ceil_mode=True, count_include_pad=False) if stride > 1 else values
    return pooled[0].permute(1, 2, 0).contiguous()


def _projection(channels: int, wanted: int) -> Tensor:
    """(channels, wanted): orthogonal directions, at random but always the same, which about keep cosines."""
    noise = torch.randn(channels, channels, generator=torch.Generator().manual_seed(0))
    return torch.linalg.qr(noise).Q[:, :wanted].contiguous()
