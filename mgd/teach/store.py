"""Teachers look at every training photo once, and a store keeps it; what that takes, from a few photos."""

import logging
import time
import zlib
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Dataset

from mgd.config import MGD, Experiment, Taught
from mgd.data.datasets import Splits
from mgd.data.images import load_image
from mgd.data.loaders import make_loader
from mgd.data.maps import MAPS, MapsWriter, Photo, check_unchanged
from mgd.data.store import check_contents, known_facts
from mgd.data.transforms import shrink
from mgd.objectives import maps_contents
from mgd.progress import Progress
from mgd.teach.teacher import Teacher

log = logging.getLogger(__name__)
PROBES = 8  # photos on which the error of what is stored is measured


@dataclass(frozen=True)
class Estimate:
    """What is left to teach of a list, and what it takes, from a few of its photos."""

    photos: int
    bytes: int
    seconds: float  # of one process


class Photos(Dataset):
    """Index -> photo as training reads it, before augmentation, and what tells its file again."""

    def __init__(self, photos: tuple[str, ...], config: Experiment) -> None:
        self.photos, self.root, self.short_side = photos, Path(config.data.root), config.data.short_side

    def __getitem__(self, index: int) -> dict[str, Any]:
        path = self.root / self.photos[index]
        image = shrink(load_image(path), self.short_side)
        content = path.read_bytes()
        file = {"bytes": len(content), "mtime": int(path.stat().st_mtime), "crc": zlib.crc32(content)}
        return {"index": index, "image": torch.from_numpy(image).permute(2, 0, 1), **file}


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
        UserError: the folder holds maps of something else, or of photos that have changed; a teacher, a photo or space
            on the disk is missing.
    """
    assert isinstance(config.method, Taught)
    contents, device = maps_contents(config, splits), teachers[0].device
    folder, kinds = Path(config.method.teach.dir), [kind for teacher in teachers for kind in teacher.kinds]
    if rank:
        dist.barrier()  # the main process has made the folder
    with closing(MapsWriter(folder, contents, kinds, rank=rank)) as store:
        if world > 1 and not rank:
            dist.barrier()
        done = np.array([store.done[index] for index in sorted(store.done)], [*MAPS.facts])
        check_unchanged(folder, [Path(config.data.root, contents.photos[index]) for index in done["place"]], done)
        left = [index for index in range(rank, len(contents.photos), world) if index not in store.done]
        errors: list[float] = []
        photos = _load_photos(config, contents.photos, left, device)
        for sample in Progress(photos, desc="teachers look", unit="photo", disable=True if rank else None):
            measure = isinstance(config.method, MGD) and len(errors) < PROBES
            maps, error = _look(teachers, sample, device, precision, measure=measure)
            errors += error
            store.add(_photo(sample), maps)
    if errors:
        text = "a student with the wide teacher's own feature would have a region loss of %.2g (it is not weighted)"
        log.info("what storing costs: " + text, sum(errors) / len(errors))
    return len(left)


def estimate(config: Experiment, splits: Splits, teachers: list[Teacher], *, precision: torch.dtype) -> Estimate:
    """Size and time of what a store lacks, from a few photos spread over the list; writes nothing.

    Raises:
        UserError: as `teach` does, of these few.
    """
    assert isinstance(config.method, Taught)
    contents, device, place = maps_contents(config, splits), teachers[0].device, Path(config.method.teach.dir)
    kinds = [kind for teacher in teachers for kind in teacher.kinds]
    if (place / MAPS.description).is_file():
        check_contents(MAPS, place, contents)
    done = known_facts(MAPS, place, len(kinds))
    left = [index for index in range(len(contents.photos)) if index not in done]
    if not (count := len(left)):
        return Estimate(0, 0, 0.0)
    probes = sorted({left[0], left[count // 3], left[2 * count // 3], left[-1]})
    sizes, seconds = [], []
    with TemporaryDirectory() as folder, closing(MapsWriter(Path(folder), contents, kinds)) as store:
        for sample in _load_photos(config, contents.photos, probes, device):
            started = time.perf_counter()
            maps, _ = _look(teachers, sample, device, precision, measure=False)
            sizes.append(store.add(_photo(sample), maps))
            seconds.append(time.perf_counter() - started)
    each = seconds[1:] or seconds  # the first sets things up
    return Estimate(count, round(sum(sizes) / len(sizes) * count), sum(each) / len(each) * count)


def _load_photos(config: Experiment, photos: tuple[str, ...], indices: list[int], device: torch.device) -> DataLoader:
    return make_loader(Photos(photos, config), indices, workers=config.data.workers, device=device, batched=False)


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
        if measure and "feature" in teacher.stored:
            errors.append(teacher.error(feature, own))
    return maps, errors


def _photo(sample: dict[str, Any]) -> Photo:
    _, height, width = sample["image"].shape
    return Photo(sample["index"], height, width, sample["bytes"], sample["mtime"], sample["crc"])
