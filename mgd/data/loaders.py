"""Loaders that make batches of samples, in this process or in others."""

import gc
import math
import os
import signal
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate, get_worker_info

from mgd.config import Experiment, UniMatch, is_offline
from mgd.data.maps import coarse_shapes, wanted_maps
from mgd.parallel import cores, keep_freed_memory

PREFETCH = 2  # batches that a worker is ahead: it evens out what a step takes; more of them would only take memory
SHARED_MEMORY = Path("/dev/shm")  # where workers put their batches; 64 MB in a container, if nobody says otherwise
SHARED_MEMORY_REMEDY = "give the container more (docker run --shm-size=8g), or set data.workers=0"


def shared_bytes(config: Experiment, num_classes: int) -> int:
    """What the loaders of all training processes keep in SHARED_MEMORY when their workers are ahead."""
    train, crop = config.train, config.data.crop_size
    method = config.method
    planes = 3 + 1 + (3 + 3 + 1 if method.uses_unlabeled else 0)  # image and label, two images and their mask
    planes += isinstance(method, UniMatch)  # the mask of the second view
    sample = planes * crop * crop
    if is_offline(method):
        value = {"fp16": 2, "fp32": 4}[method.teach.values]
        coarse = {what: value * math.prod(shape) for what, shape in coarse_shapes(config, num_classes).items()}
        kinds = chain.from_iterable(wanted_maps(config).values())
        sample += sum(coarse.get(kind.partition(".")[2], crop * crop) for kind in kinds)
    return min(config.data.workers, cores()) * PREFETCH * train.batch_size // train.accumulate * sample


def make_loader(
    dataset: Dataset, sampler: Iterable[Any], *, workers: int, device: torch.device, batched: bool
) -> DataLoader:
    """A loader of the indices in `sampler`; `batched` says that it yields lists of them.

    There are no more workers than cores that may be used: how many there are changes no sample.
    """
    workers = min(workers, cores())
    return DataLoader(
        dataset,
        sampler=None if batched else sampler,
        batch_sampler=sampler if batched else None,
        batch_size=1 if batched else None,
        collate_fn=collate if batched else _share,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        persistent_workers=False,
        prefetch_factor=PREFETCH if workers else None,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # its own, so that starting a loader does not move the global one
    )


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """As torch's `default_collate`; images become (N,3,H,W), channels last in memory: none is turned."""
    return {
        name: view | {"image": view["image"].permute(0, 3, 1, 2)} if isinstance(view, dict) else view
        for name, view in default_collate(samples).items()
    }


def _share(sample: Any) -> Any:
    """A sample as it is, in a worker with its tensors in SHARED_MEMORY.

    Where they do not fit, it is here that the main process is told. The queue to it would lose the sample, and it wait.
    Batches are shared by torch's own collation.
    """
    if get_worker_info() is not None:
        for value in sample.values():
            if isinstance(value, Tensor):
                value.share_memory_()
    return sample


def _start_worker(worker: int) -> None:
    """What a worker does apart from loading: it keeps out of the way of the others, and of the run's signals.

    A run that is told to stop still needs the samples of its step, and whoever tells it (a terminal, torchrun) often
    tells the whole process group. SIGTERM stays as it is: the run itself ends its workers with it.
    """
    spare_time()
    os.setpgid(0, 0)
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def spare_time() -> None:
    """Settings of a process that only loads."""
    cv2.setNumThreads(0)  # its own threads would fight with the other workers
    gc.freeze()  # what is there now stays to the end: collecting garbage need not look at it again and again
    keep_freed_memory()
