"""Writes an experiment family for a data set: two teachers and a student, each decision told beside what it decided."""

import json
import os
import re
import shlex
import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mgd.config import Data
from mgd.data.classes import read_classes
from mgd.data.datasets import Splits, load_pair, open_splits
from mgd.data.items import Item
from mgd.errors import UserError
from mgd.files import write_text
from mgd.parallel import in_order

ROOT = Path(__file__).resolve().parent.parent  # of the repository: its launch.sh trains what is written
LOOKED_AT = 200  # photos of which sizes and labels are read
STEP = 32  # crops are multiples of it
LARGEST = 512  # crop and short side, as published for VOC
EPOCHS = 34  # as published for VOC
SHORTEST, LONGEST = 4_000, 40_000  # iterations of a run
BATCH = 8

Decision = tuple[str, object, str]  # field, value, why
SCRIPT = """#!/usr/bin/env bash
# Trains the config.py beside this file, or goes on from its last.pt, then scores it: bash script.sh [key.sub=value ...]
# launch.sh tells what NGPUS, NNODES and the like in the environment do.
here=$(CDPATH= cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
exec bash LAUNCH "$here" "$@"
"""
RUN = """#!/usr/bin/env bash
# Trains both teachers, the student's network on labels alone to compare with, and the student; scores each.
#   bash run.sh [key.sub=value ...]                a run that was stopped goes on
#   RUN=run-seed1 bash run.sh train.seed=1         once more, in run folders of that name
set -euo pipefail
for argument in "$@"; do
    if [[ $argument == run.dir=* ]]; then
        echo "run.sh: four runs cannot share $argument; name the run folders of each: RUN=run2 bash run.sh" >&2
        exit 2
    fi
done
here=$(CDPATH= cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
run=${RUN:-run}
bash "$here/DEEP/script.sh" run.dir="{experiment}/$run" "$@"
bash "$here/WIDE/script.sh" run.dir="{experiment}/$run" "$@"
bash "$here/STUDENT/script.sh" method=supervised run.dir="{experiment}/$run-labels" "$@"
bash "$here/STUDENT/script.sh" run.dir="{experiment}/$run" method.deep_teacher="{experiment}/../DEEP/$run/last.pt" \\
    method.wide_teacher="{experiment}/../WIDE/$run/last.pt" \\
    method.baseline="{experiment}/$run-labels/evaluation/last.json" "$@"
"""
NETWORKS = {  # as experiments' folders call them: (what it is, backbone)
    "resnet101": ("Deep teacher T_D (CPS): DeepLabV3+ with ResNet-101", "resnet101"),
    "wresnet34": ("Wide teacher T_W (CPS): DeepLabV3+ with wide ResNet-50", "wide_resnet50_2"),
    "resnet18": ("Student (MGD): DeepLabV3+ with ResNet-18", "resnet18"),
}


@dataclass(frozen=True)
class Photos:
    """What a sample of the photos shows."""

    sizes: np.ndarray  # (N,2) width, height
    shares: np.ndarray  # (K,) of the labelled pixels


def write_family(folder: Path, root: Path, given: Mapping[str, object] | None = None) -> str:
    """Write FOLDER/family.py, FOLDER/<name><partition>.<network>/ for T_D, T_W and the student, and FOLDER/run.sh.

    Args:
        folder: must be new or empty; `exp.<name>` in the repository, or anywhere.
        root: the data set: train.txt and val.txt, or train/ and val/ with images/ and labels/ each; classes.csv; where
            there are such photos unlabeled/ or unlabeled.txt.
        given: fields of `Data` that are not looked up but as a person says.

    Returns:
        What was decided, and what to do next.

    Raises:
        UserError: the folder is not empty, the data set has no validation part, a label is broken.
    """
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty; name a new folder, such as exp.{root.name}")
    if strange := re.search(r"[^\w .+=()'@&-]", folder.name):
        raise UserError(f"{folder.name!r} has the sign {strange[0]!r} in it; use letters, digits, spaces and . _ -")
    mine: list[Decision] = [(field, value, "as told") for field, value in (given or {}).items()]
    data = _apply(Data(root=str(root), partition=1), mine)
    known = {field for field, *_ in mine}
    found = [one for one in _lists(root, data, known) if one[0] not in known]
    data = replace(_apply(data, found), root=str(root))
    splits = open_splits(data)
    photos = _look(splits, data)
    decided = [*found, *(one for one in _sizes(photos) if one[0] not in known), *mine]
    name = f"{folder.name.removeprefix('exp.')}{data.partition}"
    _write(folder, name, _family(folder.name, name, decided, splits, photos), splits)
    lines = [f"{field + ' = ' + repr(value):<40} {why}" for field, value, why in decided]
    deep, student = (shlex.quote(str(folder / _experiment(name, n))) for n in ("resnet101", "resnet18"))
    told = [f"3 experiments in {folder}"]
    if not torch.cuda.is_available():
        told.append(
            f"there is no GPU here, and teachers of this size take days without: python -m mgd fit {deep} tells how "
            "long; docs/students.md has smaller networks to name in the three config.py"
        )
    told.append(f"look first: python -m mgd check {student} --sheet sheet.png")
    return "\n".join([*lines, *told, f"then: bash {shlex.quote(str(folder / 'run.sh'))}"])


def _write(folder: Path, name: str, family: str, splits: Splits) -> None:
    write_text(folder / "family.py", family)
    for network in NETWORKS:
        write_text(folder / _experiment(name, network) / "config.py", _config(network, splits))
        write_text(folder / _experiment(name, network) / "script.sh", SCRIPT.replace("LAUNCH", _launch(folder)))
    networks = {"DEEP": "resnet101", "WIDE": "wresnet34", "STUDENT": "resnet18"}
    script = re.sub("|".join(networks), lambda word: _experiment(name, networks[word[0]]), RUN)
    write_text(folder / "run.sh", script)


def _apply(data: Data, decided: Sequence[Decision]) -> Data:
    values: dict[str, Any] = {name: value for name, value, _ in decided}
    return replace(data, **values)


def _lists(root: Path, data: Data, known: Collection[str]) -> list[Decision]:
    """Where the parts of the data set are, but for the fields that are `known`."""
    if not root.is_dir():
        raise UserError(f"--data {root}: no such folder; name the data set's")
    place = os.path.relpath(root, ROOT) if root.resolve().is_relative_to(ROOT) else str(root.resolve())
    decided: list[Decision] = [("root", place, "the data set")]
    for field, name in (("train_list", "train"), ("val_list", "val")):
        if field in known:
            continue
        if (root / f"{name}.txt").is_file():
            decided.append((field, f"{name}.txt", "the list that is there"))
        elif (root / name).is_dir():
            decided.append((field, name, "a folder of photos with their labels"))
        else:
            expected = f"{name}.txt, or {name}/ with images/ and labels/"
            raise UserError(f"{root} has no {expected}; mgd prepare labels makes lists and holds some photos out")
    bare = next((name for name in ("unlabeled", "unlabeled.txt") if (root / name).exists()), None)
    if bare:
        decided.append(("unlabeled", bare, "photos without labels"))
    elif data.partition == 1:
        why = "there are no photos without labels: those with labels are used once more, without them"
        train = next((value for field, value, _ in decided if field == "train_list"), data.train_list)
        decided.append(("unlabeled", train, why))
    classes = read_classes(data.classes, root)
    decided.append(("classes", data.classes, f"{len(classes)}: {', '.join(classes.names[:8])}"))
    decided.append(("partition", 1, "every label is used; 4 would hide three of four, to see what labels are worth"))
    return decided


def _look(splits: Splits, data: Data) -> Photos:
    """Sizes of photos and shares of classes, of a sample spread over the labelled photos."""
    step = -(-len(splits.labeled) // LOOKED_AT)
    chosen = splits.labeled[::step]
    counts = np.zeros(256, np.int64)
    sizes = []
    for size, pixels in in_order(_Look(data, len(splits.classes)), chosen):
        sizes.append(size)
        counts += pixels
    shares = counts[: len(splits.classes)] / max(1, counts[: len(splits.classes)].sum())
    return Photos(np.array(sizes), shares)


@dataclass(frozen=True)
class _Look:
    data: Data
    num_classes: int

    def __call__(self, item: Item) -> tuple[tuple[int, int], np.ndarray]:
        image, label = load_pair(item, self.data, self.num_classes)
        assert label is not None  # `open_splits` refuses a training list without labels
        return (image.shape[1], image.shape[0]), np.bincount(label.ravel(), minlength=256)


def _sizes(photos: Photos) -> list[Decision]:
    short = photos.sizes.min(axis=1)
    width, height = np.median(photos.sizes, axis=0).astype(int)
    seen = f"photos are {width}x{height} (median of {len(photos.sizes)})"
    if (middle := int(np.median(short))) > LARGEST:
        why = f"{seen}: shrunk to this short side, so that a crop shows most of one"
        return [("short_side", LARGEST, why), ("crop_size", LARGEST, "as published for VOC")]
    crop = max(STEP, middle // STEP * STEP)
    why = f"the largest multiple of {STEP} that fits into {middle}" if crop <= middle else "the smallest crop"
    return [("short_side", 0, f"{seen}, left as they are"), ("crop_size", crop, why)]


@dataclass(frozen=True)
class _Length:
    """How long a run is, and why."""

    batch: int
    iterations: int
    epochs: int  # between evaluations
    why: str


def _length(labeled: int, unlabeled: int) -> _Length:
    batch = min(BATCH, max(2, 1 << (labeled.bit_length() - 1)))
    whole = EPOCHS * unlabeled // batch
    iterations = min(LONGEST, max(SHORTEST, round(whole, -3)))
    why = f"{EPOCHS} epochs x {unlabeled:,} unlabelled / {batch} = {whole:,}, kept within {SHORTEST:,} to {LONGEST:,}"
    return _Length(batch, iterations, max(1, iterations // 10 * batch // max(1, unlabeled)), why)


def _family(title: str, name: str, decided: Sequence[Decision], splits: Splits, photos: Photos) -> str:
    """The text of family.py: all that was looked up from the data."""
    length = _length(len(splits.labeled), len(splits.unlabeled))
    shares = sorted(zip(photos.shares, splits.classes.names, strict=True), reverse=True)
    lines = [f"    {field}={_quoted(value)},  # {why}" for field, value, why in decided]
    return f'''"""What the experiments of {title} share, looked up from the data by `mgd new`.

Data:    {_counts(splits)}
Classes: {_wrapped([f"{100 * share:.1f} % {one}" for share, one in shares])}
"""

from mgd.config import MGD, Data, Evaluate, Train
from mgd.published import VOC_CPS

DATA = Data(
{chr(10).join(lines)}
)
TRAIN = Train(
    batch_size={length.batch},  # {"as published for VOC" if length.batch == BATCH else "no more than there are labels"}
    lr=0.0025,  # as published for VOC; T_W takes 0.001
    weight_decay=4e-4,  # as published for VOC
    max_iterations={length.iterations:_},  # {length.why}
)
TEACHER = VOC_CPS  # both teachers: cross pseudo supervision, as published
TAUGHT = MGD(  # the student; the weights of its losses are as published for VOC
    deep_teacher=("{{experiment}}/../{_experiment(name, "resnet101")}/run/last.pt",),
    wide_teacher=("{{experiment}}/../{_experiment(name, "wresnet34")}/run/last.pt",),
    baseline="{{experiment}}/run-labels/evaluation/last.json",  # run.sh trains the student on labels alone as well
)
EVALUATE = Evaluate(every={length.epochs})  # epochs: about ten times in a run
'''


def _config(network: str, splits: Splits) -> str:
    """The text of one config.py."""
    title, backbone = NETWORKS[network]
    length = _length(len(splits.labeled), len(splits.unlabeled))
    rate = "replace(shared.TRAIN, lr=0.001)" if network == "wresnet34" else "shared.TRAIN"
    imports = "from dataclasses import replace\n\n" if network == "wresnet34" else ""
    return f'''"""{title}.

Data:    {_counts(splits)}
Cost:    {length.iterations:,} iterations of {length.batch} images
Command: bash script.sh; bash ../run.sh trains the whole family
"""

{imports}from mgd.config import Experiment, Model, family

shared = family(__file__)  # ../family.py: what was looked up from the data, and why
config = Experiment(
    data=shared.DATA,
    model=Model(backbone="{backbone}"),
    method=shared.{"TAUGHT" if network == "resnet18" else "TEACHER"},
    train={rate},
    evaluate=shared.EVALUATE,
)
'''


def _counts(splits: Splits) -> str:
    parts = f"{len(splits.labeled):,} photos with labels, {len(splits.unlabeled):,} without"
    return f"{parts}, {len(splits.val):,} for validation"


def _experiment(name: str, network: str) -> str:
    return f"{name}.{network}_deeplabv3plus"


def _quoted(value: object) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _wrapped(texts: Sequence[str]) -> str:
    """Words for a docstring, in lines of at most 110 characters."""
    joined = ", ".join(text.replace("\\", "/").replace('"""', "") for text in texts)
    return "\n         ".join(textwrap.wrap(joined, 110))


def _launch(folder: Path) -> str:
    """launch.sh as a script in an experiment's folder calls it."""
    inside = folder.resolve().parent == ROOT
    return '"$here/../../launch.sh"' if inside else shlex.quote(str(ROOT / "launch.sh"))
