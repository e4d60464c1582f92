"""A data set of an annotation tool's export: images/, labels/ of class indices, classes.csv, lists; in parallel."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mgd.data.classes import write_classes
from mgd.data.formats.export import Export, Photo, Reading, Size, named_classes, need
from mgd.data.formats.rules import UNTOLD, Rules, Values, values
from mgd.data.formats.table import READERS
from mgd.data.images import is_turned, load_image, read_indices
from mgd.data.names import line_of
from mgd.data.prepare.jobs import hold_out
from mgd.errors import UserError, first_few
from mgd.files import is_linked, link, read_lines, read_text, write_lines, write_png, write_text
from mgd.metrics import IGNORE_INDEX
from mgd.parallel import in_order
from mgd.progress import Progress

RECORD = "prepared.json"  # how the labels were made, beside them
PARTS = ("train", "val", "test")


class Made(NamedTuple):
    """What became of one photo."""

    counts: np.ndarray | None  # (256,) pixels of each label value; None: it has no label
    new: bool
    error: str = ""  # why it was skipped


@dataclass(frozen=True)
class _Task:
    out: Path
    values: Values
    skip_broken: bool


def convert(
    source: Path,
    form: str,
    out: Path,
    *,
    reading: Reading | None = None,
    rules: Rules | None = None,
    val_every: int = 5,
    skip_broken: bool = False,
) -> str:
    """Make the data set of an export; what is made and has not changed since is not made again.

    A label takes over the time of the file that it was made from, which tells later whether that has changed. Photos
    that nobody looked at go into unlabeled/. Where the export has no validation part one labelled photo in `val_every`
    is held out; those that were so before stay.

    Args:
        form: a key of `READERS`.
        skip_broken: leave out photos that cannot be read or whose regions do not fit, and tell them.

    Returns:
        What was made: photos, pixels of each class, what was skipped and why.

    Raises:
        UserError: the export is not in the format, names of classes are wrong, a photo is broken, `out` holds labels
            that were made with other classes.
    """
    reading, rules = reading or Reading(), rules or Rules()
    need(source, "an export of an annotation tool")
    if out.resolve().is_relative_to(source.resolve()):
        raise UserError(f"--out {out} is in the export {source}; choose a folder beside it")
    if val_every < 2:
        raise UserError(f"--val-every {val_every} must be 2 or more: one photo in so many is for validation")
    export = READERS[form](source, reading)
    order = named_classes(reading.classes) if reading.classes and form != "index" else None  # there it names values
    chosen = values(export, rules, order)
    _check_names(source, export)
    _keep_record(out, form, reading, rules, chosen, export)
    made = _run(_Task(out, chosen, skip_broken), export.photos)
    good = [(photo, one) for photo, one in zip(export.photos, made, strict=True) if not one.error]
    if not good:
        raise UserError(f"{source} has no photo that can be taken, of {len(made)}: {made[0].error}")
    lists = _write_lists(out, [photo for photo, _ in good], val_every)
    write_classes(out / "classes.csv", chosen.classes.names, chosen.classes.colors)
    return _summary(out, chosen, made, lists)


def _check_names(source: Path, export: Export) -> None:
    twice = [name for name, count in Counter(photo.name for photo in export.photos).items() if count > 1]
    if twice:
        same = [photo for photo in export.photos if photo.name == twice[0]]
        images = first_few(photo.image for photo in same)
        if len({photo.image for photo in same}) == 1 < len({photo.source for photo in same}):
            raise UserError(f"{first_few(photo.source for photo in same)} both label {same[0].image}; name one of them")
        raise UserError(f"{source} has {len(twice)} names of several photos, first {twice[0]} ({images}); rename them")
    counts = Counter(photo.image for photo in export.photos)
    if shared := [image for image, count in counts.items() if count > 1]:  # found by the file's name alone
        names = first_few(photo.name for photo in export.photos if photo.image == shared[0])
        raise UserError(
            f"{source} has labels of {names}, for which there is one photo, {shared[0]}; see that all photos are "
            "there, in the folders that the export names"
        )
    if twins := [name for name, count in Counter(export.names).items() if count > 1]:
        raise UserError(f"{source} has {first_few(twins)} as the name of more than one class; make them differ")
    if not any(photo.regions for photo in export.photos):
        raise UserError(f"{source} has {len(export.photos)} photos and no label; export the annotations as well")


def _keep_record(out: Path, form: str, reading: Reading, rules: Rules, chosen: Values, export: Export) -> None:
    """See that labels which are there were made alike: they are not made again. The record is written first."""
    kept = ("label_map", "tolerance", "line_width", "predictions")
    record = {"format": form, **{key: asdict(reading)[key] for key in kept}, **asdict(rules)}
    record |= {"classes": dict(sorted(chosen.of.items()))}
    if export.table:
        record["colors"] = [f"{name}: {red} {green} {blue}" for name, (red, green, blue) in export.table]
    path = out / RECORD
    text = json.dumps(record, indent=1) + "\n"
    if path.is_file() and read_text(path) != text:
        if (out / "train.txt").exists():
            raise UserError(
                f"{out} has labels made with other options, classes or colours ({path.name} tells which); delete the "
                "folder or choose another --out"
            )
        shutil.rmtree(out / "labels", ignore_errors=True)  # of a run that ended too soon, to be told more
    if not path.is_file() and (out / "labels").exists():
        raise UserError(f"{out} has labels that were made by something else; choose another --out")
    write_text(path, text)


def _run(task: _Task, photos: Sequence[Photo]) -> list[Made]:
    made = in_order(partial(_make, task), photos)
    return list(Progress(made, "labels", len(photos), unit="photo", disable=None))


def _make(task: _Task, photo: Photo) -> Made:
    try:
        return _draw(task, photo)
    except UserError as error:
        if not task.skip_broken:
            raise
        return Made(None, False, str(error))


def _draw(task: _Task, photo: Photo) -> Made:
    if not photo.image.is_file():
        raise UserError(f"{photo.source} names {photo.name}, whose photo is not there; say where it is with --images")
    image = image_path(task.out, photo)
    if photo.regions is None:
        if new := not is_linked(photo.image, image):
            load_image(photo.image)
            link(photo.image, image)
        return Made(None, new)
    label = task.out / "labels" / f"{photo.name}.png"
    stamp = max(file.stat().st_mtime_ns for file in (photo.source, photo.key) if file)
    if label.is_file() and abs(label.stat().st_mtime_ns - stamp) < 10**7 and is_linked(photo.image, image):
        return Made(_count(read_indices(label)), False)
    found = label_map(photo, task.values)
    link(photo.image, image)
    if is_linked(photo.image, before := image_path(task.out, photo._replace(regions=None))):
        before.unlink()  # nobody had looked at it when this was made last
    write_png(label, found)
    os.utime(label, ns=(stamp, stamp))
    return Made(_count(found), True)


def label_map(photo: Photo, chosen: Values) -> np.ndarray:
    """Draw a photo's regions: (H,W) uint8, of the photo's size when upright.

    Raises:
        UserError: the photo or what was drawn cannot be read, they have different sizes, a pixel has no meaning.
    """
    height, width = load_image(photo.image).shape[:2]
    if photo.size not in (None, (height, width)):
        raise _other_size(photo, photo.size, (height, width))
    label = np.full((height, width), chosen.unmarked, np.uint8)
    assert photo.regions is not None
    for name, mask in photo.regions((height, width)):
        if mask.shape != label.shape:
            raise _other_size(photo, mask.shape, (height, width))
        if name in chosen.of:
            label[mask] = chosen.of[name]
    if untold := int((label == UNTOLD).sum()):
        raise UserError(f"{photo.source} has {untold} pixels without a class; say --unmarked background or ignore")
    return label


def _other_size(photo: Photo, found: tuple[int, ...] | None, size: Size) -> UserError:
    assert found is not None
    turned = " when upright as its EXIF says" if is_turned(photo.image) else ""
    return UserError(
        f"{photo.source} has labels of {found[1]}x{found[0]} for {photo.image}, which is {size[1]}x{size[0]}{turned}; "
        "see that the export is of these photos"
    )


def image_path(out: Path, photo: Photo) -> Path:
    """Where a photo goes in the data set."""
    folder = "unlabeled" if photo.regions is None else "images"
    return out / folder / f"{photo.name}{photo.image.suffix}"


def _count(label: np.ndarray) -> np.ndarray:
    return np.bincount(label.ravel(), minlength=256)


def _write_lists(out: Path, photos: Sequence[Photo], val_every: int) -> dict[str, int]:
    """Write train.txt, val.txt and, where there are such photos, test.txt and unlabeled.txt; returns their lengths."""
    lines: dict[str, list[str]] = {part: [] for part in PARTS}
    bare = []
    for photo in sorted(photos):
        image = image_path(out, photo).relative_to(out).as_posix()
        if photo.regions is None:
            bare.append(line_of(image))
        else:
            lines[photo.part or "train"].append(f"{image}\tlabels/{photo.name}.png")
    if not lines["val"]:
        before = set(read_lines(out / "val.txt")) if (out / "val.txt").is_file() else set()
        lines["val"] = [line for line in lines["train"] if line in before]
        rest = [line for line in lines["train"] if line not in before]
        every = val_every if lines["val"] else max(2, min(val_every, len(rest)))  # of few photos one is held out
        train, val = hold_out(rest, every) if len(rest) >= every else (rest, [])
        lines |= {"train": train, "val": sorted(lines["val"] + val)}
    lines["unlabeled"] = bare
    for part, found in lines.items():
        if found or part in ("train", "val"):
            write_lines(out / f"{part}.txt", found)
        else:
            (out / f"{part}.txt").unlink(missing_ok=True)
    return {part: len(found) for part, found in lines.items() if found or part in ("train", "val")}


def _summary(out: Path, chosen: Values, made: Sequence[Made], lists: dict[str, int]) -> str:
    skipped = [one.error for one in made if one.error]
    counted = [one.counts for one in made if one.counts is not None]
    pixels = np.sum(counted, axis=0) if counted else np.zeros(256, int)
    photos = np.sum([counts > 0 for counts in counted], axis=0) if counted else np.zeros(256, int)
    rows = [*enumerate(chosen.classes.names), (IGNORE_INDEX, "ignored")]
    lines = [f"{'value':>5}  {'class':<24}{'pixels':>15}{'percent':>9}{'photos':>8}"]
    for value, name in rows:
        share = 100 * pixels[value] / max(1, pixels.sum())
        lines.append(f"{value:>5}  {name:<24}{pixels[value]:>15,}{share:>9.2f}{photos[value]:>8,}")
    lines.append(", ".join(f"{part}.txt {count:,}" for part, count in lists.items()))
    new = sum(one.new for one in made)
    lines.append(f"{len(made) - len(skipped):,} photos, {new:,} of them made now, {len(skipped):,} skipped")
    lines += [f"skipped: {error}" for error in skipped]
    if absent := [name for name, count in zip(chosen.classes.names, photos, strict=False) if not count]:
        why = f"; {IGNORE_INDEX} is ignored: where it means a class, say so" if pixels[IGNORE_INDEX] else ""
        lines.append(f"WARNING: no photo shows {first_few(absent)}{why}")
    if not lists["train"]:
        lines.append(
            "WARNING: all labelled photos are of val or test by the names of their files or folders: none trains"
        )
    if not lists["val"]:
        lines.append("WARNING: no photo is left for validation; label more, or give val.txt one that nobody trains on")
    return "\n".join([*lines, f"in {out}"])
