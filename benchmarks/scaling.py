"""How time and memory grow: python benchmarks/scaling.py [AXIS ...] --json FILE --plot DIR

crop, batch, classes: a training step of CPS with a light MobileNetV2 on made-up images, one thread; seconds of a step,
and GiB at its peak above what the libraries take. processes: the same step, its batch shared by so many; both of one of
them. workers: samples of VOC's size (500x375 JPEG, crop 512, one labelled image and an unlabelled pair) from so many
loader processes; their seconds a sample, and MiB that a worker has for itself. names: a list of so many photos without
labels; seconds from the config to the first batch, and MiB that a worker has for itself after `--samples` samples drawn
from all over the list. Seconds are of CPU time, which stays right on a busy machine; the table tells the clock's too.

Every point has a process of its own. The photos of a long list are 1,000 files under many names: folders are links.
"""

import argparse
import math
import multiprocessing
import os
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from mgd.config import CPS, Data, Experiment, Model, Run, Train
from mgd.data.datasets import open_splits
from mgd.data.loaders import make_loader
from mgd.data.positions import PositionSampler
from mgd.data.samples import TrainingSamples
from mgd.engine.distributed import processes
from mgd.engine.fit import made_batch
from mgd.engine.loop import Trainer
from mgd.engine.resume import Wish
from mgd.engine.step import Stepper
from mgd.figures import new_figure, save_figure
from mgd.files import write_json
from mgd.objectives import build_objective

VALUES = {
    "crop": (128, 256, 384, 512),
    "batch": (2, 4, 8),
    "classes": (2, 21, 150),
    "processes": (1, 2),
    "workers": (1, 2),
    "names": (10_000, 100_000, 1_000_000),
}
FILES = 1000  # that a long list's names stand for
LABELED, CROP, BATCH, CLASSES = 64, 256, 4, 19


class Point(NamedTuple):
    """What one value of an axis took. Of steps memory is in GiB, of loaders in MiB."""

    seconds: float
    wall: float
    memory: float


def experiment(root: str, *, crop: int = CROP, batch: int = BATCH, backbone: str = "mobilenet_v2") -> Experiment:
    return Experiment(
        data=Data(root=root, classes="city", partition=1, unlabeled="unlabeled.txt", crop_size=crop, workers=1),
        model=Model(backbone=backbone, head="separable", pretrained=False),
        method=CPS(),
        train=Train(batch_size=batch, max_iterations=10**6, precision="fp32"),
        run=Run(dir=f"{root}/run", device="cpu"),
    )


def step(options: argparse.Namespace, *, crop: int = CROP, batch: int = BATCH, classes: int = CLASSES) -> Point:
    """A training step on one process, or its part of one under torch.distributed."""
    F.conv2d(torch.randn(1, 8, 64, 64), torch.randn(8, 8, 3, 3))  # the libraries' own memory
    before = kib("VmHWM", "status")
    config = experiment("", crop=crop, batch=batch, backbone=options.backbone)
    with processes("cpu") as team:
        own = replace(config, train=replace(config.train, batch_size=batch // team.world))
        stepper = Stepper(build_objective(own, classes), own.train, team, stop=10**6)
        images = made_batch(own, classes, team.device)
        stepper([images])  # the first sets things up
        found = [seconds(lambda: stepper([images])) for _ in range(options.steps)]
    cpu, wall = (median(values) for values in zip(*found, strict=True))
    return Point(cpu, wall, (kib("VmHWM", "status") - before) / 2**20)


def loading(options: argparse.Namespace, root: str, workers: int) -> Point:
    """Samples from loader processes."""
    config = experiment(root, crop=512, batch=8)
    samples = TrainingSamples(open_splits(config.data), config, together=8)
    count = max(1, options.samples // 80)
    sampler = PositionSampler(0, count + 16, batch_size=8, accumulate=1, rank=0, world=1)  # more than are taken
    batches = iter(make_loader(samples, sampler, workers=workers, device=torch.device("cpu"), batched=True))
    for _ in range(4):  # workers that are ahead are waited for
        next(batches)
    team = multiprocessing.active_children()
    before = sum(map(cpu_time, team))
    _, wall = seconds(lambda: [next(batches) for _ in range(count)])
    cpu = sum(map(cpu_time, team)) - before
    return Point(cpu / count / 8, wall / count / 8, max(map(own_memory, team)))


def starting(options: argparse.Namespace, root: str) -> Point:
    """From the config to the first batch of a run, and what its worker holds after many more."""
    config = experiment(root, crop=64, batch=8, backbone="timm:test_resnet")
    trainers: list[Trainer] = []
    with processes("cpu") as team:

        def start() -> Any:
            trainers.append(Trainer(config, team, Wish()))
            batches = iter(trainers[0].loader)
            next(batches)
            return batches

        batches: list[Any] = []
        cpu, wall = seconds(lambda: batches.append(start()))
        for _ in range(options.samples // 8):
            next(batches[0])
        return Point(cpu, wall, max(map(own_memory, multiprocessing.active_children())))


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """(CPU time of this process, wall time)."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


def kib(field: str, file: str, process: int | str = "self") -> int:
    """A field of /proc/<process>/<file>."""
    return int(Path(f"/proc/{process}/{file}").read_text().partition(f"{field}:")[2].split()[0])


def cpu_time(process: Any) -> float:
    """Seconds that another process has run."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def own_memory(process: Any) -> float:
    """MiB that a process shares with no other."""
    return sum(kib(f"Private_{kind}", "smaps_rollup", process.pid) for kind in ("Clean", "Dirty")) / 2**10


def made_list(root: Path, count: int, size: tuple[int, int]) -> str:
    """A data set of `count` photos without labels and a few with; returns its root."""
    rng = np.random.default_rng(0)
    (root / "p0").mkdir(parents=True)
    files = min(FILES, count)
    coarse = rng.integers(0, 256, (8, 12, 12, 3), dtype=np.uint8)
    photos = [cv2.imencode(".jpg", cv2.resize(one, size, interpolation=cv2.INTER_CUBIC))[1].tobytes() for one in coarse]
    for i in range(files):
        (root / f"p0/{i:04d}.jpg").write_bytes(photos[i % len(photos)])
    for k in range(1, -(-count // FILES)):
        (root / f"p{k}").symlink_to("p0")
    (root / "unlabeled.txt").write_text("".join(f"p{i // FILES}/{i % FILES:04d}.jpg\n" for i in range(count)))
    for i in range(2 * LABELED):
        (root / f"{i}.jpg").write_bytes(photos[i % len(photos)])
        cv2.imwrite(str(root / f"{i}.png"), np.full(size[::-1], i % CLASSES, np.uint8))
    lines = [f"{i}.jpg\t{i}.png\n" for i in range(2 * LABELED)]
    (root / "train.txt").write_text("".join(lines[:LABELED]))
    (root / "val.txt").write_text("".join(lines[LABELED:]))
    return str(root)


def measured(axis: str, value: int, options: argparse.Namespace) -> Point:
    """One point, in a process of its own (processes: in so many)."""
    if axis in ("crop", "batch", "classes"):
        return in_processes(1, step, options, **{axis: value})
    if axis == "processes":
        return in_processes(value, step, options)
    with tempfile.TemporaryDirectory() as folder:
        if axis == "workers":
            return in_processes(1, loading, options, made_list(Path(folder, "data"), 64, (500, 375)), value)
        return in_processes(1, starting, options, made_list(Path(folder, "data"), value, (64, 64)))


def in_processes(count: int, function: Callable[..., Point], *arguments: Any, **named: Any) -> Point:
    """What a function returns in the first of some fresh processes, which find each other as torchrun's do."""
    context, receivers, team = multiprocessing.get_context("spawn"), [], []
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(count)}
    for rank in range(count):
        receiver, sender = context.Pipe(duplex=False)
        environment = {**address, "RANK": str(rank), "LOCAL_RANK": str(rank)} if count > 1 else {}
        team.append(context.Process(target=_send, args=(sender, environment, function, arguments, named)))
        team[-1].start()
        sender.close()
        receivers.append(receiver)
    found = [receiver.recv() for receiver in receivers]
    for process in team:
        process.join()
    return found[0]


def _send(sender: Connection, environment: dict[str, str], function: Any, arguments: Any, named: Any) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    multiprocessing.set_start_method("fork", force=True)  # loaders' workers, as in a run on Linux
    sender.send(function(*arguments, **named))


def plot(found: dict[str, dict[int, Point]], file: Path) -> None:
    """A panel an axis: time from the left, memory from the right."""
    columns = min(3, len(found))
    rows = math.ceil(len(found) / columns)
    figure = new_figure(2.3 * columns, 1.75 * rows)
    for place, (axis, points) in enumerate(found.items()):
        left = figure.add_subplot(rows, columns, place + 1)
        right = left.twinx()
        loads, values = axis in ("workers", "names"), list(points)
        left.plot(values, [point.seconds for point in points.values()], "o-", color="tab:blue", markersize=4)
        right.plot(values, [point.memory for point in points.values()], "s--", color="tab:orange", markersize=4)
        if axis == "names":
            left.set_xscale("log")
        else:
            left.set_xticks(values)
        left.set_title(axis, fontsize=9)
        what = {"workers": "a sample", "names": "to start"}.get(axis, "a step")
        left.set_ylabel(f"CPU s {what}", fontsize=8)
        right.set_ylabel("MiB a worker" if loads else "GiB", fontsize=8)
        for side, color in ((left, "tab:blue"), (right, "tab:orange")):
            side.set_ylim(bottom=0, top=1.15 * side.get_ylim()[1])
            side.tick_params(labelsize=7)
            side.tick_params(axis="y", colors=color)
            side.yaxis.label.set_color(color)
    save_figure(figure, file)
    Image.open(file).quantize(64).save(file, optimize=True)  # a third of the size


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("axes", nargs="*", choices=[[], *VALUES], metavar="AXIS", help=f"of {', '.join(VALUES)}")
    parser.add_argument("--values", type=int, nargs="+", metavar="N", help="of the one axis that is named")
    parser.add_argument("--steps", type=int, default=3, help="that the median is of")
    parser.add_argument("--samples", type=int, default=2000, help="that a worker draws from a long list")
    parser.add_argument("--backbone", default="mobilenet_v2", help="of the steps")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="DIR", help="write scaling.png there")
    options = parser.parse_args()
    if options.values and len(options.axes) != 1:
        parser.error("--values needs one axis")
    found: dict[str, dict[int, Point]] = {}
    print(f"{'axis':<10} {'value':>9}  {'CPU s':>8}  {'wall s':>8}  memory")
    for axis in options.axes or VALUES:
        found[axis] = {}
        for value in options.values or VALUES[axis]:
            point = found[axis][value] = measured(axis, value, options)
            memory = f"{point.memory:.0f} MiB" if axis in ("workers", "names") else f"{point.memory:.2f} GiB"
            print(f"{axis:<10} {value:>9,}  {point.seconds:8.3f}  {point.wall:8.3f}  {memory}", flush=True)
    if options.json:
        write_json(options.json, {axis: {n: p._asdict() for n, p in points.items()} for axis, points in found.items()})
    if options.plot:
        plot(found, options.plot / "scaling.png")


if __name__ == "__main__":
    main()
