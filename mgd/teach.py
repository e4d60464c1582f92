"""Frozen teachers look at every training photo once; what their student's losses need of it is stored."""

import logging
import math
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, SequentialSampler, Subset

from mgd.config import MGD, Experiment
from mgd.data.datasets import Splits
from mgd.data.images import load_image
from mgd.data.loaders import make_loader
from mgd.data.maps import Kind, Maps, MapsWriter, Photo
from mgd.data.transforms import resize, shrink
from mgd.errors import UserError
from mgd.files import atomic
from mgd.losses import region_level_loss
from mgd.models.folding import for_inference
from mgd.models.network import SegmentationNetwork
from mgd.objectives import load_teacher, maps_contents, teacher_paths
from mgd.progress import Progress

log = logging.getLogger(__name__)
FEATURE_STRIDE = 4  # of the decoder feature: windows begin at multiples of it
PROBES = 8  # photos on which the error of what is stored is measured
Teachers = Mapping[str, SegmentationNetwork]


@dataclass(frozen=True)
class Estimate:
    """What teaching a whole list takes, from a few photos of it."""

    photos: int
    bytes: int
    seconds: float  # of one process


class Photos(Dataset):
    """Index -> photo as training reads it, before augmentation, and the size of its file."""

    def __init__(self, photos: tuple[str, ...], config: Experiment) -> None:
        self.photos, self.root, self.short_side = photos, Path(config.data.root), config.data.short_side

    def __getitem__(self, index: int) -> dict[str, Any]:
        path = self.root / self.photos[index]
        image = shrink(load_image(path), self.short_side)
        return {"index": index, "image": torch.from_numpy(image).permute(2, 0, 1), "bytes": path.stat().st_size}


class Teacher:
    """A frozen network and what is stored of its answers."""

    def __init__(self, name: str, network: SegmentationNetwork, config: Experiment, device: torch.device) -> None:
        assert isinstance(config.method, MGD)
        self.name, self.how, self.device = name, config.method.teach, device
        self.network = for_inference(network).to(device)
        self.stride = config.method.feature_stride(config.data.crop_size)
        if name == "wide":
            self._check_stride()
        window = self.how.crop_size or config.data.crop_size
        self.window = -(-window // FEATURE_STRIDE) * FEATURE_STRIDE
        self.step = max(1, math.ceil(window * config.evaluate.stride) // FEATURE_STRIDE) * FEATURE_STRIDE
        self.batch = config.evaluate.window_batch
        width = self.network.classifier.in_channels
        if name == "wide" and self.how.projection > width:
            raise UserError(
                f"method.teach.projection={self.how.projection} is more than the {width} channels of the wide "
                "teacher's feature; use fewer, or 0 for its own"
            )
        self.projection = _projection(width, self.how.projection).to(device) if self.how.projection else None
        values = {"fp16": "<f2", "fp32": "<f4"}[self.how.values]
        self.kinds = [Kind(f"{name}.label"), Kind(f"{name}.confidence")]
        if name == "deep":
            self.kinds.append(Kind("deep.logits", self.how.logits_stride, network.num_classes, values))
        else:
            self.kinds.append(Kind("wide.feature", self.stride, self.how.projection or width, values))

    @torch.inference_mode()
    def _check_stride(self) -> None:
        side = self.network.padded(64, 64)[0]
        own = side // self.network.feature(torch.zeros(1, 3, 64, 64, device=self.device)).shape[-1]
        if own != FEATURE_STRIDE:
            raise UserError(
                f"the wide teacher's feature has a cell for {own} pixels, storing it needs {FEATURE_STRIDE}, as the "
                "published head has: leave this teacher online, or set method.lambda_region=0 and method.wide_teacher="
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
        if self.name == "deep":
            maps["logits"] = _in_cells(logits, self.how.logits_stride)
        else:
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
        corners = [(y, x) for y in _starts(sides[0], window, self.step) for x in _starts(sides[1], window, self.step)]
        logits = _Mean(sides)
        feature = _Mean([side // stride for side in sides])
        for i in range(0, len(corners), self.batch):
            chunk = corners[i : i + self.batch]
            seen = self.network.feature(torch.cat([pixels[:, :, y : y + window, x : x + window] for y, x in chunk]))
            scores = self.network.logits(seen, (window, window))
            for (y, x), one, its_logits in zip(chunk, seen.float(), scores.float(), strict=True):
                logits.add(its_logits, y, x)
                feature.add(one, y // stride, x // stride)
        own = feature.mean()[:, :, top // stride :, left // stride :]
        own = own[:, :, : -(-height // stride), : -(-width // stride)]
        return logits.mean()[:, :, top : top + height, left : left + width], own

    def _project(self, feature: Tensor) -> Tensor:
        return feature if self.projection is None else torch.einsum("ncHW,cd->ndHW", feature, self.projection)

    def error(self, feature: Tensor, maps: Mapping[str, np.ndarray]) -> float:
        """What the region loss would be for a student whose feature is the teacher's: of what is stored, the error."""
        stored = torch.from_numpy(maps["wide.feature"]).to(feature.device, torch.float32).permute(2, 0, 1)[None]
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
    assert isinstance(config.method, MGD)
    classes = splits.classes.names
    loaded = {name: load_teacher(config, name, len(classes), classes=classes) for name in teacher_paths(config.method)}
    return [Teacher(name, network, config, device) for name, network in loaded.items()]


def teach(
    config: Experiment,
    splits: Splits,
    teachers: list[Teacher],
    *,
    precision: torch.dtype,
    rank: int = 0,
    world: int = 1,
) -> int:
    """Write the store of `method.teach.dir`, or go on with it; returns how many photos were looked at here.

    Ranks share the photos. A process that is killed at any moment loses the last few photos at most.

    Args:
        precision: the autocast type; float32 means none.

    Raises:
        UserError: the folder holds maps of something else; a teacher, a photo or space on the disk is missing.
    """
    assert isinstance(config.method, MGD)
    contents, device = maps_contents(config, splits), teachers[0].device
    folder, kinds = Path(config.method.teach.dir), [kind for teacher in teachers for kind in teacher.kinds]
    if rank:
        dist.barrier()  # the main process has made the folder
    with closing(MapsWriter(folder, contents, kinds, rank=rank)) as store:
        if world > 1 and not rank:
            dist.barrier()
        left = [index for index in range(rank, len(contents.photos), world) if index not in store.done]
        errors: list[float] = []
        photos = _load_photos(config, contents.photos, left, device)
        for sample in Progress(photos, desc="teachers look", unit="photo", disable=True if rank else None):
            maps, error = _look(teachers, sample, device, precision, measure=len(errors) < PROBES)
            errors += error
            store.add(_photo(sample), maps)
    if errors:
        text = "a student with the wide teacher's own feature would have a region loss of %.2g (it is not weighted)"
        log.info("what storing costs: " + text, sum(errors) / len(errors))
    return len(left)


def estimate(config: Experiment, splits: Splits, teachers: list[Teacher], *, precision: torch.dtype) -> Estimate:
    """Size and time of a store, from a few photos spread over the list; writes nothing."""
    contents, device = maps_contents(config, splits), teachers[0].device
    count = len(contents.photos)
    probes = sorted({0, count // 3, 2 * count // 3, count - 1})
    sizes, seconds = [], []
    with TemporaryDirectory() as folder:
        kinds = [kind for teacher in teachers for kind in teacher.kinds]
        with closing(MapsWriter(Path(folder), contents, kinds)) as store:
            for sample in _load_photos(config, contents.photos, probes, device):
                started = time.perf_counter()
                maps, _ = _look(teachers, sample, device, precision, measure=False)
                sizes.append(store.add(_photo(sample), maps))
                seconds.append(time.perf_counter() - started)
    each = seconds[1:] or seconds  # the first sets things up
    return Estimate(count, round(sum(sizes) / len(sizes) * count), sum(each) / len(each) * count)


def export(config: Experiment, splits: Splits, maps: Maps, folder: Path) -> int:
    """Write what the teachers say as a person's pre-annotations; returns how many photos.

    Of each teacher `<folder>/<teacher>/labels/<photo>.png`, class indices with the classes' colours as palette, and
    `<folder>/<teacher>/confidence/<photo>.png`, grey, 255 where it is certain; both of the photo's own size.
    """
    teachers = [kind.name.removesuffix(".label") for kind in maps.kinds if kind.name.endswith(".label")]
    palette = splits.classes.palette().tobytes()
    for index, name in enumerate(Progress(maps.contents.photos, unit="photo", desc="export", disable=None)):
        photo = maps.photo(index)
        height, width = photo.height, photo.width
        if config.data.short_side:
            height, width = load_image(Path(config.data.root) / name).shape[:2]
        for teacher in teachers:
            label = Image.fromarray(resize(maps.full(index, f"{teacher}.label"), height, width, nearest=True))
            label.putpalette(palette)
            confidence = Image.fromarray(resize(maps.full(index, f"{teacher}.confidence"), height, width))
            for what, image in (("labels", label), ("confidence", confidence)):
                path = folder / teacher / what / Path(name.lstrip("/")).with_suffix(".png")
                with atomic(path) as file:
                    image.save(file, format="PNG")
    return len(maps.contents.photos)


def _load_photos(config: Experiment, photos: tuple[str, ...], indices: list[int], device: torch.device) -> DataLoader:
    chosen: Subset[dict[str, Any]] = Subset(Photos(photos, config), indices)
    workers = config.data.workers
    return make_loader(chosen, SequentialSampler(chosen), workers=workers, device=device, batched=False)


def _look(
    teachers: list[Teacher], sample: dict[str, Any], device: torch.device, precision: torch.dtype, *, measure: bool
) -> tuple[dict[str, np.ndarray], list[float]]:
    """The maps of a photo, and the error of the stored feature where it is to be measured."""
    image = sample["image"].to(device, non_blocking=True)
    maps: dict[str, np.ndarray] = {}
    errors = []
    for teacher in teachers:
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            own, feature = teacher.look(image)
        maps |= own
        if measure and teacher.name == "wide":
            errors.append(teacher.error(feature, own))
    return maps, errors


def _photo(sample: dict[str, Any]) -> Photo:
    _, height, width = sample["image"].shape
    return Photo(sample["index"], height, width, sample["bytes"])


def _in_cells(values: Tensor, stride: int) -> Tensor:
    """(1,C,H,W) -> (h,w,C): means over cells, the last of which may be smaller."""
    pooled = F.avg_pool2d(values.float(), stride, ceil_mode=True, count_include_pad=False) if stride > 1 else values
    return pooled[0].permute(1, 2, 0).contiguous()


def _starts(length: int, window: int, step: int) -> list[int]:
    """First pixels of the windows along one side; the last one ends where the side does."""
    return [min(i * step, length - window) for i in range(-(-(length - window) // step) + 1)]


def _projection(channels: int, wanted: int) -> Tensor:
    """(channels, wanted): orthogonal directions, at random but always the same, which about keep cosines."""
    noise = torch.randn(channels, channels, generator=torch.Generator().manual_seed(0))
    return torch.linalg.qr(noise).Q[:, :wanted].contiguous()
