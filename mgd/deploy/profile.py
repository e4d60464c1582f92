"""What networks cost: parameters, multiply-accumulates, activation memory, latency; and mIoU against cost."""

import json
import platform
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

from mgd.config import Model, load
from mgd.data.classes import read_classes
from mgd.errors import UserError
from mgd.figures import new_figure, save_figure, shown
from mgd.models.network import SegmentationNetwork
from mgd.objectives import build_network
from mgd.scores import scored_otherwise
from mgd.student import load_student
from mgd.weights import checkpoint_file, end_of

MODES = ("eager", "channels-last", "compile")


@dataclass(frozen=True, kw_only=True)
class Macs:
    """Multiply-accumulates of convolutions and matrix products, for one image."""

    backbone: int
    head: int  # with the classifier
    whole: int


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How long one forward of one image takes, in eval mode: the median of repeats."""

    mode: str
    device: str
    threads: int
    latency_ms: float
    images_per_second: float  # of batches of 4


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What one network costs.

    Attributes:
        activations: bytes that are alive at the peak of a forward without gradients, besides weights and input.
        latency_ms: of the first timing; None without any.
        miou: of the run's own evaluation, when it is there; 0..1.
    """

    name: str
    arch: dict[str, Any]
    parameters: int
    macs: Macs
    activations: int
    latency_ms: float | None
    timings: tuple[Timing, ...]
    miou: float | None


def open_network(target: str, classes: int, overrides: Sequence[str] = ()) -> tuple[SegmentationNetwork, float | None]:
    """The network that a target names, and its mIoU when that is at hand.

    Args:
        target: an experiment (folder or config.py), a checkpoint, or BACKBONE[/HEAD[/OUTPUT_STRIDE]].
        classes: of a network whose data set does not tell.
        overrides: key.sub=value, for experiments.

    Raises:
        UserError: it is none of these, or no experiment and `overrides` ask for another network.
    """
    path = Path(target)
    if (path / "config.py").is_file() or path.suffix == ".py":
        config = load(path, overrides)
        with suppress(UserError):  # the data set is not there
            classes = len(read_classes(config.data.classes, Path(config.data.root)))
        network = build_network(config.model, classes)
        return network, evaluated_miou(Path(config.run.dir) / "last.pt")
    if changes := [text for text in overrides if text.startswith("model.")]:
        raise UserError(
            f"{changes[0]}: {target} is no experiment, which alone can be changed; of a backbone write "
            "BACKBONE/HEAD/OUTPUT_STRIDE, such as resnet18/separable/32"
        )
    if (file := checkpoint_file(path)).is_file():
        return load_student(file), evaluated_miou(file)
    if path.exists() or path.suffix in (".pt", ".pth"):
        raise UserError(f"{target} is no experiment and no checkpoint; name a config.py, a file or a backbone")
    backbone, *rest = target.split("/")
    stride = rest[1] if len(rest) > 1 else "0"
    if len(rest) > 2 or not stride.isdecimal():
        raise UserError(f"{target} must be BACKBONE/HEAD/OUTPUT_STRIDE, such as resnet18/separable/32")
    head: Any = rest[0] if rest else "deeplabv3plus"
    return build_network(Model(backbone=backbone, head=head, output_stride=int(stride) or None), classes), None


def profile(
    name: str,
    network: SegmentationNetwork,
    *,
    size: int,
    modes: Sequence[str] = ("eager", "channels-last"),
    seconds: float = 1.0,
    miou: float | None = None,
) -> Profile:
    """Count and time a network on one image of `size` x `size`, for about `seconds` for each way of running it."""
    macs, activations = count(network, size)
    timings = tuple(time_network(network, size, modes=modes, seconds=seconds)) if seconds else ()
    return Profile(
        name=name,
        arch=network.arch,
        parameters=sum(p.numel() for p in network.parameters()),
        macs=macs,
        activations=activations,
        latency_ms=timings[0].latency_ms if timings else None,
        timings=timings,
        miou=miou,
    )


def count(network: SegmentationNetwork, size: int | tuple[int, int]) -> tuple[Macs, int]:
    """Multiply-accumulates and the peak of activations' bytes (fp32) of one image; nothing is computed for it.

    Args:
        size: of the image that the network sees, a side or (height, width).
    """
    height, width = (size, size) if isinstance(size, int) else size
    with torch.device("meta"):
        arch = {k: v for k, v in network.arch.items() if k not in ("mean", "std")}
        empty = SegmentationNetwork(arch.pop("backbone"), arch.pop("num_classes"), **arch).eval()
        image = torch.zeros(1, 3, height, width)
    counter, memory = FlopCounterMode(display=False, depth=2), _Alive()
    with torch.no_grad(), counter:
        empty(image)
    with torch.no_grad(), memory:
        empty(image)
    flops = {module: sum(by.values()) for module, by in counter.get_flop_counts().items()}
    whole, backbone = flops["Global"] // 2, flops[f"{type(empty).__name__}.backbone"] // 2
    return Macs(backbone=backbone, head=whole - backbone, whole=whole), memory.peak


class _Alive(TorchDispatchMode):
    """Bytes of the tensors that operations made and that are still held."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes, self.peak = 0, 0
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {t.untyped_storage()._cdata for t in torch.utils._pytree.tree_leaves(args) if isinstance(t, Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in given:  # not a view, not in place
                self._add(tensor.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        self._seen.add(storage)
        self.bytes += storage.nbytes()
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._free, storage.nbytes())

    def _free(self, size: int) -> None:
        self.bytes -= size


def time_network(network: nn.Module, size: int, *, modes: Sequence[str], seconds: float) -> Iterator[Timing]:
    """Time each mode with all threads and with one, and on a GPU where there is one; the network stays as it is.

    Raises:
        UserError: an unknown mode, or no compiler for `compile`.
    """
    if unknown := set(modes) - set(MODES):
        raise UserError(f"{', '.join(sorted(unknown))} is no way to run a network; use some of {', '.join(MODES)}")
    threads = torch.get_num_threads()
    places = [("cpu", threads), *([("cpu", 1)] if threads > 1 else [])]
    places += [("cuda", threads)] if torch.cuda.is_available() else []
    with _as_it_was(network):
        network.eval()
        for mode in modes:
            for device, count in places:
                network.to(device)
                layout = torch.channels_last if mode == "channels-last" else torch.contiguous_format
                network.to(memory_format=layout)
                run = torch.compile(network) if mode == "compile" else network
                one, four = (torch.zeros(n, 3, size, size, device=device).to(memory_format=layout) for n in (1, 4))
                took = [_median(run, images, count, seconds / 2) for images in (one, four)]
                yield Timing(
                    mode=mode,
                    device=device,
                    threads=count,
                    latency_ms=1000 * took[0],
                    images_per_second=4 / took[1],
                )


def _median(run: Any, images: Tensor, threads: int, seconds: float) -> float:
    """Seconds of a forward."""
    with torch.inference_mode():
        try:
            run(images)
        except (RuntimeError, torch._dynamo.exc.TorchDynamoException) as error:
            raise UserError(
                f"this way of running does not work here ({str(error).splitlines()[0]}); leave it out"
            ) from error
        timer = Timer("run(images)", globals={"run": run, "images": images}, num_threads=threads)
        return timer.blocked_autorange(min_run_time=seconds).median


@contextmanager
def _as_it_was(network: nn.Module) -> Iterator[None]:
    device, training = next(network.parameters()).device, network.training
    try:
        yield
    finally:
        network.to(device).to(memory_format=torch.contiguous_format).train(training)


def to_json(found: Sequence[Profile], size: int) -> dict[str, Any]:
    """Plain values, with the machine."""
    machine = {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    if torch.cuda.is_available():
        machine["gpu"] = torch.cuda.get_device_name()
    return {"size": size, "torch": torch.__version__, **machine, "networks": [asdict(one) for one in found]}


def table(found: Sequence[Profile]) -> str:
    """Markdown: a row a network; a column each way of running it (ms an image)."""
    ways = [f"{t.mode}, {t.device}, {t.threads} thr." for t in found[0].timings]
    header = ["network", "parameters M", "backbone G", "head G", "whole G", "activations MiB", *ways, "mIoU"]
    rows = [header, ["---"] * len(header)]
    for one in found:
        costs = [one.macs.backbone / 1e9, one.macs.head / 1e9, one.macs.whole / 1e9]
        rows.append(
            [
                one.name,
                f"{one.parameters / 1e6:.2f}",
                *(f"{cost:.2f}" for cost in costs),
                f"{one.activations / 2**20:.0f}",
                *(f"{t.latency_ms:.0f}" for t in one.timings),
                "-" if one.miou is None else f"{100 * one.miou:.1f}",
            ]
        )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def pareto_front(found: Sequence[Profile]) -> list[Profile]:
    """The scored networks that no cheaper or equally cheap one beats, from the cheapest."""
    front: list[Profile] = []
    for one in sorted((p for p in found if p.miou is not None), key=lambda p: (p.macs.whole, -(p.miou or 0))):
        if not front or (one.miou or 0) > (front[-1].miou or 0):
            front.append(one)
    return front


def plot(found: Sequence[Profile], out: Path) -> None:
    """Draw mIoU against multiply-accumulates, with the Pareto front.

    Raises:
        UserError: no network has a score, or matplotlib is not installed.
    """
    scored = [one for one in found if one.miou is not None]
    if not scored:
        raise UserError("no network has a score: evaluate the runs first (mgd evaluate), then name them")
    figure = new_figure(7, 4.5)
    axes = figure.subplots()
    front = pareto_front(scored)
    cost, score = (lambda one: one.macs.whole / 1e9), (lambda one: 100 * one.miou)
    axes.step([*map(cost, front)], [*map(score, front)], where="post", color="tab:green", label="Pareto front")
    for one in scored:
        best = one in front
        axes.plot(cost(one), score(one), "o" if best else "x", color="tab:green" if best else "tab:gray")
        axes.annotate(shown(one.name), (cost(one), score(one)), xytext=(5, 4), textcoords="offset points", fontsize=8)
    axes.set(xscale="log", xlabel="multiply-accumulates of the whole network (G)", ylabel="mIoU (%)")
    axes.margins(x=0.2, y=0.1)
    axes.grid(alpha=0.3, which="both")
    for which in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        which("{x:g}")
    axes.legend(loc="best")
    save_figure(figure, out)


def evaluated_miou(checkpoint: Path) -> float | None:
    """The mIoU (0..1) of the evaluation beside a run's checkpoint; None where none is of it and its config."""
    run, report = checkpoint.with_name("config.json"), checkpoint.parent / "evaluation" / f"{checkpoint.stem}.json"
    try:
        found, own = json.loads(report.read_text()), json.loads(run.read_text()) if run.is_file() else {}
        if "config" in found and "config" in own and scored_otherwise(own["config"], found["config"]):
            return None
        if "end" in found and found["end"] != end_of(checkpoint):  # the run has gone on since
            return None
        return float(found["miou"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
