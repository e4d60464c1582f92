"""What can be wrong with an experiment's data, teachers and machine: found, all of it, before anything is trained."""

import hashlib
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from mgd.config import CPS, MGD, Data, Experiment
from mgd.data.datasets import Item, Splits, load_pair, open_splits
from mgd.errors import UserError
from mgd.metrics import IGNORE_INDEX
from mgd.models.deeplab import DeepLabV3Plus, build_model
from mgd.models.pretrained import find_weights
from mgd.objectives import find_teacher, load_teacher, teacher_paths

SHOWN = 5  # files or classes named in one finding
GIB = 2**30
# Images of the training and the validation list, and labelled ones of each partition (design of the experiments).
PUBLISHED = {
    "voc": (10582, 1449, {2: 5291, 4: 2646, 8: 1323, 16: 662}),
    "city": (2975, 500, {2: 1488, 4: 744, 8: 372, 16: 186}),
}


class Finding(NamedTuple):
    """One row of the table."""

    level: Literal["ok", "warning", "error"]
    subject: str
    text: str


class Inspected(NamedTuple):
    """What reading one item's files gave."""

    problem: str  # "" when there is none
    classes: np.ndarray  # (256,) bool, the label values that occur
    digest: bytes  # of the image file's content


def check(config: Experiment, *, progress: bool = True) -> list[Finding]:
    """Read every file of an experiment, on all cores, and look at all else that it needs."""
    try:
        splits = open_splits(config.data)
    except UserError as error:
        return [Finding("error", "lists", str(error)), *_teachers(config, 0)]
    sizes = f"{len(splits.labeled):,} labelled, {len(splits.unlabeled):,} unlabelled, {len(splits.val):,} validation"
    return [
        Finding("ok", "lists", f"{sizes} images; {splits.source}"),
        *quick_check(config, splits),
        *_files(config.data, splits, progress=progress),
        *_teachers(config, len(splits.classes)),
        *_weights(config),
        Finding("ok", "memory", _memory(config, len(splits.classes))),
    ]


def quick_check(config: Experiment, splits: Splits) -> list[Finding]:
    """What can be told without reading an image: done by every training run at its start."""
    return [*_counts(config.data, splits), *_names(splits), *_disk(config, len(splits.classes))]


def _counts(data: Data, splits: Splits) -> Iterator[Finding]:
    if data.classes not in PUBLISHED or data.partition not in PUBLISHED[data.classes][2]:
        return
    train, val, labeled = PUBLISHED[data.classes]
    found = {"labelled": len(splits.labeled), "validation": len(splits.val)}
    wanted = {"labelled": labeled[data.partition], "validation": val}
    if not data.unlabeled:
        found["training"], wanted["training"] = len(splits.labeled) + len(splits.unlabeled), train
    wrong = [
        f"{found[name]:,} {name} images, published {wanted[name]:,}" for name in found if found[name] != wanted[name]
    ]
    names = [item.name for item in splits.labeled]
    if wrong:
        yield Finding("warning", "counts", f"{'; '.join(wrong)}: scores cannot be held against the paper's")
    elif data.classes == "voc" and names != sorted(names):
        yield Finding("warning", "counts", "the published training list is sorted, this one is not: other labels")
    else:
        yield Finding("ok", "counts", "as published")


def _names(splits: Splits) -> Iterator[Finding]:
    """Images in two parts: by file an error where validation is concerned, by name alone a warning."""
    parts = {"labelled": splits.labeled, "unlabelled": splits.unlabeled, "validation": splits.val}
    for one, other in (("labelled", "unlabelled"), ("labelled", "validation"), ("unlabelled", "validation")):
        files = {item.image for item in parts[one]} & {item.image for item in parts[other]}
        names = {item.name for item in parts[one]} & {item.name for item in parts[other]}
        if files:
            level: Literal["warning", "error"] = "error" if other == "validation" else "warning"
            remedy = "take them out of one of the lists"
            yield Finding(level, "overlap", f"{_some(sorted(files))}: {one} and {other}; {remedy}")
        elif names:
            text = f"{_some(sorted(names))}: the names of {one} and of {other} images; are they the same photos?"
            yield Finding("warning", "overlap", text)


def _files(data: Data, splits: Splits, *, progress: bool) -> Iterator[Finding]:
    """Decode every image and label map, and compare contents."""
    parts = {"labelled": splits.labeled, "unlabelled": splits.unlabeled, "validation": splits.val}
    items = [(part, item) for part, chosen in parts.items() for item in chosen]
    problems: list[str] = []
    seen = {part: np.zeros(256, bool) for part in parts}
    where: dict[bytes, list[tuple[str, Path]]] = defaultdict(list)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        inspected = pool.map(partial(inspect, data, len(splits.classes)), (item for _, item in items), chunksize=16)
        bar = tqdm(
            zip(items, inspected, strict=True), "reading", len(items), unit="image", disable=not progress or None
        )
        for (part, item), one in bar:
            if one.problem:
                problems.append(one.problem)
                continue
            seen[part] |= one.classes
            where[one.digest].append((part, item.image))
    yield from (Finding("error", "files", problem) for problem in problems[:SHOWN])
    if len(problems) > SHOWN:
        yield Finding("error", "files", f"and {len(problems) - SHOWN:,} more files with such a problem")
    if not problems:
        yield Finding("ok", "files", f"{len(items):,} images and their labels decoded")
    for part in ("labelled", "validation"):
        if absent := [name for i, name in enumerate(splits.classes.names) if not seen[part][i]]:
            remedy = "choose another partition or scheme (mgd partition)" if part == "labelled" else "it has no score"
            yield Finding("warning", "classes", f"never seen in the {part} part: {_some(absent)}; {remedy}")
    yield from _twins(where)


def _twins(where: dict[bytes, list[tuple[str, Path]]]) -> Iterator[Finding]:
    """Files of the same content; the same file in two parts is told by `_names`."""
    twins = [sorted(set(places)) for places in where.values() if len({path for _, path in places}) > 1]
    across = [places for places in twins if len({part for part, _ in places}) > 1]
    bad = [places for places in across if any(part == "validation" for part, _ in places)]
    for level, chosen in (("error", bad), ("warning", [places for places in twins if places not in bad])):
        if chosen:
            pairs = [" = ".join(f"{path} ({part})" for part, path in places) for places in chosen]
            yield Finding(level, "twins", f"the same photo twice: {_some(pairs)}; keep one")  # type: ignore[arg-type]


def inspect(data: Data, num_classes: int, item: Item) -> Inspected:
    """Read an item's files as training does."""
    present = np.zeros(256, bool)
    try:
        _, label = load_pair(item, data, num_classes)
    except UserError as error:
        return Inspected(str(error), present, b"")
    if label is not None:
        present = np.bincount(label.ravel(), minlength=256) > 0
        present[IGNORE_INDEX] = False
        if not present.any():
            return Inspected(
                f"{item.label} has no pixel of a class: all is ignored; correct it or take it out", present, b""
            )
    return Inspected("", present, hashlib.blake2b(item.image.read_bytes(), digest_size=16).digest())


def _teachers(config: Experiment, num_classes: int) -> Iterator[Finding]:
    """The checkpoints that an MGD student learns from; 0 classes takes any."""
    if not isinstance(config.method, MGD):
        return
    for name, files in teacher_paths(config.method).items():
        try:
            network = load_teacher(config, name, num_classes)
        except UserError as error:
            yield Finding("error", f"{name} teacher", str(error))
        else:
            yield Finding("ok", f"{name} teacher", f"{network.arch['backbone']} from {find_teacher(files, name)}")


def _weights(config: Experiment) -> Iterator[Finding]:
    model = config.model
    if not model.pretrained:
        return
    backbone = _on_meta(config, 2).arch["backbone"]
    try:
        file = find_weights(backbone, model.weights_dir)
    except UserError as error:
        yield Finding("error", "ImageNet", str(error))
    else:
        text = f"weights of {backbone} from {file}" if file else f"no file for {backbone} in {model.weights_dir}"
        yield Finding("ok" if file else "warning", "ImageNet", text + ("" if file else ": they will be downloaded"))


def _disk(config: Experiment, num_classes: int) -> Iterator[Finding]:
    """A run holds last.pt and best.pt, and while it saves a second last.pt."""
    weights = 4 * sum(p.numel() for p in _on_meta(config, num_classes).parameters())
    trained = weights * (2 if isinstance(config.method, CPS) else 1)
    needed = 2 * (weights + 2 * trained) + weights  # a file: the student, the objective, its momentum
    folder = Path(config.run.dir).absolute()
    free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
    text = f"{needed / GIB:.1f} GiB for checkpoints in {config.run.dir}, {free / GIB:.1f} free"
    yield (
        Finding("ok", "disk", text) if free > needed else Finding("error", "disk", f"{text}: free some or set run.dir")
    )


def _memory(config: Experiment, num_classes: int) -> str:
    """An estimate for one process: networks, gradients, momentum, and what one forward keeps for its backward."""
    network = _on_meta(config, num_classes).train()
    own = list(network.parameters())
    weights = 4 * sum(p.numel() for p in own)
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    images = max(2, config.train.batch_size // config.train.accumulate)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network(torch.empty(images, 3, config.data.crop_size, config.data.crop_size, device="meta"))
    for parameter in own:
        kept.pop(parameter.untyped_storage()._cdata, None)
    activations = sum(storage.nbytes() for storage in kept.values())
    networks = 2 if isinstance(config.method, CPS) else 1
    total = 3 * weights * networks + activations
    return (
        f"about {total / GIB:.1f} GiB and a teacher's forward in a single fp32 process with {images} images at a time; "
        "train.accumulate=N divides it by almost N, bf16 by almost 2"
    )


def _on_meta(config: Experiment, num_classes: int) -> DeepLabV3Plus:
    """The network without memory behind it."""
    model = config.model
    with torch.device("meta"):
        return build_model(model.backbone, num_classes, channels=model.channels, output_stride=model.output_stride)


def _some(things: Iterable[object]) -> str:
    """The first few, and how many more."""
    named = list(map(str, things))
    more = f" and {len(named) - SHOWN:,} more" if len(named) > SHOWN else ""
    return ", ".join(named[:SHOWN]) + more


def table(findings: Iterable[Finding]) -> str:
    """One row a finding, and how many there are of each level."""
    findings = list(findings)
    rows = [f"{level:<8} {subject:<13} {text}" for level, subject, text in findings]
    counts = Counter(finding.level for finding in findings)
    return "\n".join([*rows, f"{counts['error']} errors, {counts['warning']} warnings"])
