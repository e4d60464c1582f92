"""The largest micro-batch that a process has the memory for, found by training steps with it."""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from multiprocessing.connection import Connection
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import nn

from mgd.check.needs import network, teachers
from mgd.config import Experiment, Taught, UniMatch, is_offline
from mgd.data.batch import Batch, to_device
from mgd.data.datasets import open_splits
from mgd.data.maps import FULL, coarse_shapes, wanted_maps
from mgd.engine.distributed import Processes
from mgd.engine.loop import run_length
from mgd.engine.optim import bf16_hint, pick_precision
from mgd.engine.step import Stepper
from mgd.errors import UserError, is_out_of_memory
from mgd.objectives import build_objective, feature_width, find_teacher, teacher_paths
from mgd.parallel import peak_memory

GIB = 2**30
SHARE = 0.9  # of a device's memory that is planned with: the rest is the libraries' and other programs'
STEPS, ENOUGH = 6, 20.0  # steps of a trial, or fewer when they took so many seconds; the first sets things up
OUT_OF_MEMORY = float("inf"), float("inf")
AFTER_BURN_IN = 10**9  # an iteration after any burn-in, when all of a step is computed


class Trial(NamedTuple):
    """What one micro-batch size took."""

    images: int  # in a forward pass of one process
    accumulate: int
    gib: float  # at its peak, of one process; infinite where memory ran out
    seconds: float  # an iteration, all its micro-batches, without communication


def fit(config: Experiment, device: torch.device, *, processes: int, limit: float) -> Iterator[Trial]:
    """Try micro-batches from the smallest on, until one needs more than `limit` GiB.

    Args:
        processes: that share a batch. Each of several holds all terms of its forward at once, and the gradients,
            which DDP keeps between steps.

    Yields:
        Each trial, the one that does not fit included.

    Raises:
        UserError: the data or a teacher is missing; train.batch_size does not divide among the processes.
    """
    if isinstance(config.method, Taught):  # found missing now, not in a trial
        for name, files in teacher_paths(config.method).items():
            find_teacher(files, name)
    own, left = divmod(config.train.batch_size, processes)
    if left:
        raise UserError(f"train.batch_size={config.train.batch_size} does not divide among {processes} processes")
    if config.train.batch_size < 2:
        raise UserError("train.batch_size=1 is too small for batch norm; use 2 or more")
    config = _with_own_width(config)
    sizes = [size for size in range(2, own + 1) if own % size == 0] or [1]
    for size in sizes:
        # Batch norm needs 2 here, where no other process has any: of 1 image the figures are those of 2.
        change = replace(config.train, batch_size=max(size, 2), accumulate=1)
        gib, seconds = _measure(replace(config, train=change), device, alone=processes == 1)
        yield Trial(size, own // size, gib, seconds * own / size)
        if gib > limit:
            return


def advice(config: Experiment, trials: list[Trial], device: torch.device, *, processes: int, limit: float) -> str:
    """What to train with, and how long it takes. Raises UserError when nothing fits."""
    fitting = [trial for trial in trials if trial.gib <= limit]
    if not fitting:
        raise UserError(
            f"{trials[0].images} images at a time need {trials[0].gib:.1f} GiB, there are {limit:.1f}: use a smaller "
            "data.crop_size, train.precision=bf16 or a smaller network"
        )
    best, train = fitting[-1], config.train
    splits = open_splits(config.data)
    total = run_length(config, splits)[1]
    lines = [
        f"train.accumulate={best.accumulate}",
        f"# {train.batch_size} images / {processes} processes / {best.accumulate} parts = {best.images} at a time; "
        f"train.batch_size={train.batch_size} and train.lr={train.lr} stay as they are",
    ]
    if processes == 1:
        span = timedelta(seconds=round(total * best.seconds))
        lines.append(f"# {total:,} iterations of {best.seconds:.2f} s: {span}, without loading and evaluation")
    classes = splits.classes.names
    networks = [network(config, len(classes)), *teachers(config, classes)[1]]
    if told := bf16_hint(networks, pick_precision(train.precision, device), device):
        lines.append(f"# {told}")
    return "\n".join(lines)


def _with_own_width(config: Experiment) -> Experiment:
    """With `method.teach.projection` as a number, the largest, where maps of the teachers' own width are read."""
    method = config.method
    if not is_offline(method):
        return config
    kinds = {kind for of_view in wanted_maps(config).values() for kind in of_view}
    names = [name for name in teacher_paths(method) if f"{name}.feature" in kinds]
    if not names:
        return config
    classes = len(open_splits(config.data).classes)
    width = max(feature_width(config, name, classes) for name in names)
    return replace(config, method=replace(method, teach=replace(method.teach, projection=width)))


def memory_limit(device: torch.device, processes: int, budget: float | None) -> float:
    """GiB that one process may use: `budget`, else 0.9 of its GPU's memory, or its part of the machine's."""
    return budget or SHARE * _memory(device) / (1 if device.type == "cuda" else processes)


def _memory(device: torch.device) -> float:
    """GiB that the device has: a GPU's free memory, the machine's memory."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / GIB
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB


def _measure(config: Experiment, device: torch.device, *, alone: bool) -> tuple[float, float]:
    """(GiB at the peak, seconds an iteration) of a few steps on made images; infinite where memory ran out."""
    if device.type == "cuda":
        try:
            return _train(config, device, alone=alone)
        except torch.OutOfMemoryError:
            return OUT_OF_MEMORY
        finally:
            torch.cuda.empty_cache()
    # A process's peak never falls: each trial gets one of its own.
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=_report, args=(sender, config, device, alone))
    process.start()
    sender.close()
    try:
        found = receiver.recv()
    except EOFError:
        process.join()
        if process.exitcode != -signal.SIGKILL:  # which is how the system takes memory back
            raise RuntimeError(f"a trial ended with status {process.exitcode}; its message is above") from None
        return OUT_OF_MEMORY
    process.join()
    if isinstance(found, UserError):
        raise found
    return found


def _report(sender: Connection, config: Experiment, device: torch.device, alone: bool) -> None:
    try:
        sender.send(_train(config, device, alone=alone))
    except UserError as error:
        sender.send(error)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        sender.send(OUT_OF_MEMORY)


def _train(config: Experiment, device: torch.device, *, alone: bool) -> tuple[float, float]:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        torch.backends.cudnn.benchmark = True  # as in training: it chooses by speed, not by memory
    splits = open_splits(config.data)
    scratch = replace(config, model=replace(config.model, pretrained=False))  # weights change no size
    team = Processes(0, 1, device)
    stepper = Stepper(build_objective(scratch, len(splits.classes)), config.train, team, stop=10)
    reserve = 0.0
    if not alone:
        stepper.model = nn.Sequential(stepper.objective)  # all terms in one forward, as under DDP
        reserve = sum(p.numel() * p.element_size() for p in stepper.objective.parameters()) / GIB
    batch = made_batch(config, len(splits.classes), device)
    seconds: list[float] = []
    while len(seconds) < 2 or (sum(seconds) < ENOUGH and len(seconds) < STEPS):
        started = time.perf_counter()
        stepper([batch]).gradient_norm.item()  # waits for the step
        seconds.append(time.perf_counter() - started)
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / GIB + reserve, median(seconds[1:])
    return peak_memory() / GIB + reserve, median(seconds[1:])


def made_batch(config: Experiment, num_classes: int, device: torch.device) -> Batch:
    """A batch of noise, as the loader collates it."""
    count, crop = config.train.batch_size, config.data.crop_size

    def view() -> dict[str, torch.Tensor]:
        extent = torch.tensor([0, crop, 0, crop]).expand(count, 4)
        return {"image": torch.randint(256, (count, 3, crop, crop), dtype=torch.uint8), "extent": extent}

    label = torch.randint(num_classes, (count, crop, crop), dtype=torch.uint8)
    sample: dict[str, Any] = {"labeled": {**view(), "label": label}}
    if config.method.uses_unlabeled:
        mask = torch.randint(2, (count, 1, crop, crop), dtype=torch.uint8)
        sample |= {"first": view(), "mask": mask, "other_mask": 1 - mask}
        if count % 2 or config.data.partner != "batch":
            sample["second"] = view()
        if config.data.strong or isinstance(config.method, UniMatch):
            sample["noise"] = torch.arange(count)
    if is_offline(config.method):
        for name, kinds in wanted_maps(config).items():
            if name in sample:
                sample[name]["maps"] = _made_maps(config, kinds, num_classes)
    return to_device(sample, device, AFTER_BURN_IN)


def _made_maps(config: Experiment, kinds: Sequence[str], num_classes: int) -> dict[str, dict[str, torch.Tensor]]:
    """What a store gives of every image, in noise."""
    count, crop = config.train.batch_size, config.data.crop_size
    maps: dict[str, dict[str, torch.Tensor]] = {"labels": {}, "confidence": {}, "coarse": {}}
    shapes = coarse_shapes(config, num_classes)
    for teacher, _, what in (kind.partition(".") for kind in kinds):
        if what in FULL:
            most = num_classes if what == "label" else 256
            maps[FULL[what]][teacher] = torch.randint(most, (count, crop, crop), dtype=torch.uint8)
        else:
            maps["coarse"][f"{teacher}.{what}"] = torch.randn(count, *shapes[what]).half()
    return maps
