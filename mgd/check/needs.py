"""What a run needs besides its data: teachers, ImageNet weights, disk, memory."""

import contextlib
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from mgd.check.findings import Finding, Level
from mgd.config import CPS, Experiment, MeanTeacher, Taught, UniMatch, is_offline
from mgd.data.datasets import Splits
from mgd.data.items import Item
from mgd.data.loaders import SHARED_MEMORY, SHARED_MEMORY_REMEDY, shared_bytes
from mgd.data.pack import find_pack
from mgd.errors import UserError
from mgd.infer import windows_at_once
from mgd.models.network import SegmentationNetwork
from mgd.models.pretrained import find_weights
from mgd.objectives import build_network, find_teacher, load_teacher, open_maps, teacher_paths
from mgd.student import start_from

GIB = 2**30


def network(config: Experiment, num_classes: int) -> SegmentationNetwork:
    """The network that is trained, without memory behind it; with 2 classes where they are not known."""
    with torch.device("meta"):
        return build_network(config.model, num_classes or 2)


def teachers(config: Experiment, classes: Sequence[str]) -> tuple[list[Finding], list[SegmentationNetwork]]:
    """Load what a student learns from; no classes takes any. Those that run come back, without their memory."""
    found, networks = [], []
    if isinstance(config.method, Taught):
        for name, files in teacher_paths(config.method).items():
            try:
                teacher = load_teacher(config, name, len(classes), classes=classes)
                text = f"{teacher.arch['backbone']} from {find_teacher(files, name)}"
                found.append(Finding("ok", f"{name} teacher", text))
                if not is_offline(config.method):
                    networks.append(teacher.to("meta"))
            except UserError as error:
                level: Level = "warning" if error.kind == "untrained" else "error"
                found.append(Finding(level, f"{name} teacher", str(error)))
    return found, networks


def pack(config: Experiment, splits: Splits) -> Iterator[Finding]:
    """Photos that were decoded for good, where there are some or some are asked for."""
    store, problem = find_pack(config.data, splits)
    if problem:
        yield Finding("error" if config.data.pack == "on" else "warning", "pack", problem)
    elif store is not None:
        yield Finding("ok", "pack", f"the pixels of {len(store.contents.photos):,} photos in {store.folder}")


def maps(config: Experiment, splits: Splits) -> Iterator[Finding]:
    """What the teachers left of the photos, where a student learns from that alone."""
    try:
        store = open_maps(config, splits)
    except UserError as error:
        if error.kind != "untrained":  # told of the teacher
            yield Finding("error", "maps", str(error))
        return
    if store is not None:
        yield Finding("ok", "maps", f"the teachers' maps of {len(store.contents.photos):,} photos in {store.folder}")


def start(config: Experiment) -> Iterator[Finding]:
    """Weights to start from: a checkpoint's, ImageNet's."""
    model = config.model
    if model.init_from:
        try:
            start_from(network(config, 0).to_empty(device="cpu"), model.init_from)
            yield Finding("ok", "init_from", f"weights of {model.backbone} from {model.init_from}")
        except UserError as error:
            yield Finding("error", "init_from", str(error))
        if not isinstance(config.method, CPS):
            return  # nothing else is loaded
    if not model.pretrained:
        return
    try:
        file = find_weights(network(config, 0).arch["backbone"], model.weights_dir)
    except UserError as error:
        yield Finding("error", "ImageNet", str(error))
        return
    if file:
        yield Finding("ok", "ImageNet", f"weights of {model.backbone} from {file}")
    else:
        text = f"{model.weights_dir} has no weights of {model.backbone}, which will be downloaded; put them there"
        yield Finding("warning", "ImageNet", f"{text} where there is no network (names in DATA/README.md)")


def disk(config: Experiment, model: SegmentationNetwork) -> Finding:
    """A run holds last.pt (weights and momentum of all it trains), best.pt, snapshots, and one more while it writes."""
    trained = 2 if isinstance(config.method, CPS) else 1
    last = 2 * trained + bool(config.train.ema) + _averages(config)  # times the network's size
    needed = ((2 + config.run.keep) * last + 1) * _bytes(model)
    folder = Path(config.run.dir).absolute()
    free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
    free += sum(file.stat().st_size for file in folder.glob("*.pt"))  # a run that goes on writes over its own
    text = f"{needed / GIB:.2f} GiB for checkpoints in {config.run.dir}, {free / GIB:.1f} free"
    if free < needed:
        return Finding("error", "disk", f"{text}; free some or choose another run.dir")
    return Finding("ok", "disk", text)


def shared_memory(config: Experiment, num_classes: int) -> Iterator[Finding]:
    """Loader processes hand over their batches in /dev/shm, small in containers; nothing where there are none."""
    if not config.data.workers or not SHARED_MEMORY.is_dir():
        return
    here, everywhere = (int(os.environ.get(name, 1)) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))  # torchrun's
    needed, free = shared_bytes(config, num_classes) * here // everywhere, shutil.disk_usage(SHARED_MEMORY).free
    text = f"{needed / GIB:.2f} GiB for batches of loader processes in {SHARED_MEMORY}, {free / GIB:.2f} free"
    if free < needed:
        yield Finding("error", "shared memory", f"{text}; {SHARED_MEMORY_REMEDY}")
    else:
        yield Finding("ok", "shared memory", text)


def memory(config: Experiment, model: SegmentationNetwork, frozen: list[SegmentationNetwork], cached: int) -> Finding:
    """What one process of training holds at its peak, in fp32, estimated.

    Counted: weights, gradients and momentum of what is trained; averaged weights; the weights of teachers that run
    (`frozen`) and the largest layer of their forward; what is kept from a forward for its backward; logits and their
    gradient; the decoded images (`cached`), with `data.cache`. A single process keeps one forward of a step at a time,
    DDP keeps all.
    Not counted: PyTorch itself (0.8 GiB on a CPU), what a convolution needs while it runs, loader processes.
    Small runs on a CPU took 1.0 (labels alone), 1.3 (CPS) and 1.4 (MGD) times this.
    """
    gpus = torch.cuda.device_count() if config.run.device != "cpu" else 0
    processes, crop = max(1, gpus), config.data.crop_size
    images = max(2, config.train.batch_size // config.train.accumulate // processes)
    copies = 2 if isinstance(config.method, CPS) else 1
    forwards = copies * (1 + config.method.uses_unlabeled) if processes > 1 else 1
    needed = 3 * copies * _bytes(model) + forwards * _kept(model, images, crop)
    needed += (_averages(config) + bool(config.train.ema)) * _bytes(model)
    needed += sum(map(_bytes, frozen)) + max(
        (_passing(teacher, 3 * images, crop, crop) for teacher in frozen), default=0
    )
    needed += cached if config.data.cache else 0
    there = _memory(on_gpu=bool(gpus))
    text = (
        f"about {needed / GIB:.1f} GiB for {'a process' if processes == 1 else f'each of {processes} processes'} with "
        f"{images} images of {crop} pixels, in fp32 and besides PyTorch; {there / GIB:.1f} there"
    )
    if needed > there:
        return Finding("warning", "memory", f"{text}; use train.accumulate, or a smaller data.crop_size or batch")
    return Finding("ok", "memory", text)


def _memory(*, on_gpu: bool) -> int:
    """Bytes that a GPU has, or the machine."""
    return torch.cuda.mem_get_info()[1] if on_gpu else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _averages(config: Experiment) -> int:
    """Networks that are averages of those which learn, and teach."""
    method = config.method
    if isinstance(method, MeanTeacher):
        return 1
    return {CPS: 2, UniMatch: 1}.get(type(method), 0) if isinstance(method, CPS | UniMatch) and method.ema else 0


def largest(items: Iterable[Item], short_side: int) -> tuple[int, int]:
    """Height and width of the largest photo as a network gets it, from the files' headers; (0, 0) without any."""
    sizes = [(0, 0)]
    for item in items:
        with (
            contextlib.suppress(OSError, ValueError, SyntaxError, Image.DecompressionBombError),
            Image.open(item.image) as photo,
        ):
            shrunk = min(1.0, short_side / min(photo.size)) if short_side else 1.0
            sizes.append((round(photo.height * shrunk), round(photo.width * shrunk)))
    return max(sizes, key=math.prod)


def evaluation_memory(config: Experiment, model: SegmentationNetwork, size: tuple[int, int]) -> Finding:
    """What scoring one validation image of `size` (height, width; as the network gets it) holds at its peak, estimated.

    Counted: the photo and its scaled copy, a row of windows' scores at the largest scale twice, and the largest layer
    of a forward pass of a window (on a GPU of `evaluate.window_batch`; of the whole image in whole-image mode), in
    fp32. Not counted: PyTorch itself (0.7 GiB on a CPU) and a network's weights.
    """
    how = config.scoring
    crop, scale = how.crop_size, max(how.scales)
    on_gpu = config.run.device != "cpu" and torch.cuda.is_available()
    height, width = (max(1, round(side * scale)) for side in size)
    photos = 3 * (size[0] * size[1] + height * width) + 2 * size[0] * size[1]  # with the label and what is predicted
    if how.mode == "whole":
        needed = photos + 12 * height * width + _passing(model, 1, height, width)
    else:
        rows = min(crop, height) * max(crop, width)
        windows = windows_at_once(how, torch.device("cuda" if on_gpu else "cpu"))
        needed = photos + 2 * 4 * model.num_classes * rows + _passing(model, windows, crop, crop)
    there = _memory(on_gpu=on_gpu)
    text = (
        f"about {needed / GIB:.1f} GiB to score a validation image of {size[1]}x{size[0]} ({how.mode}), besides "
        f"PyTorch; {there / GIB:.1f} there"
    )
    if needed > there:
        remedy = "use evaluate.mode=slide, evaluate.window_batch=1 or a smaller evaluate.crop_size"
        return Finding("warning", "evaluation", f"{text}; {remedy}")
    return Finding("ok", "evaluation", text)


def _kept(model: SegmentationNetwork, images: int, crop: int) -> int:
    """Bytes that a forward and its loss keep for the backward, with the logits and their gradient."""
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = model.train()(torch.empty(images, 3, crop, crop, device="meta"))
        F.cross_entropy(logits, torch.empty(images, crop, crop, device="meta", dtype=torch.long))
    return sum(storage.nbytes() for storage in kept.values()) + 2 * logits.nbytes


def _passing(model: SegmentationNetwork, images: int, height: int, width: int) -> int:
    """Bytes of the largest layer's input and output, in a forward without gradients."""
    sizes: list[int] = []

    def see(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        sizes.append(sum(tensor.nbytes for tensor in (*inputs, output) if isinstance(tensor, torch.Tensor)))

    hooks = [m.register_forward_hook(see) for m in model.modules() if not list(m.children())]
    with torch.no_grad():
        model.eval()(torch.empty(images, 3, height, width, device="meta"))
    for hook in hooks:
        hook.remove()
    return max(sizes)


def _bytes(model: SegmentationNetwork) -> int:
    return sum(tensor.nbytes for tensor in model.state_dict().values())
