"""Label maps back to an annotation tool, as pre-annotations to correct."""

import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mgd.data.classes import Classes, read_classes, write_classes
from mgd.data.formats.export import IGNORE, Labelled, Photos, Region
from mgd.data.formats.masks import mask_files
from mgd.data.formats.rules import BACKGROUND
from mgd.data.formats.table import WRITERS
from mgd.data.images import load_image, load_label
from mgd.errors import UserError
from mgd.metrics import IGNORE_INDEX
from mgd.parallel import in_order
from mgd.progress import Progress


class _Task(NamedTuple):
    out: Path
    form: str
    classes: Classes


def export_labels(folder: Path, form: str, out: Path, *, images: Path | None = None, classes: str = "") -> str:
    """Write the label maps of a folder in a tool's format; `convert` reads them back without a pixel changed.

    Tools that draw regions get one for each class of a photo. Where the first class is called background it is left
    undrawn and ignored pixels are a region `__ignore__`; else ignored pixels are left undrawn.

    Args:
        folder: holds the label maps, in labels/ or itself, named as their photos.
        form: a key of `WRITERS`.
        out: a new folder.
        images: the photos' folder; None: images/ in `folder`.
        classes: as `data.classes`; "": classes.csv in `folder`.

    Returns:
        What was written, how the tool takes it, and how it is read back.

    Raises:
        UserError: no label maps, one without its photo or of another size, `out` is not empty.
    """
    check_empty(out)
    named = read_classes(classes or "classes.csv", folder)
    base = folder / "labels" if (folder / "labels").is_dir() else folder
    photos = Photos([images or folder / "images"], base)
    pairs = [(_name(mask, base), mask) for mask in mask_files(base)]
    found = [(name, photos.find(name), mask) for name, mask in pairs]
    made = in_order(partial(_write, _Task(out, form, named)), found)
    done = list(Progress(made, "export", len(found), unit="photo", disable=None))
    return write_rest(out, form, done, named)


def check_empty(out: Path) -> None:
    """Raise UserError where the folder that label maps go to has something in it."""
    if out.exists() and any(out.iterdir()):
        raise UserError(
            f"{out} is not empty; choose another --out, so that corrected labels there are not written over"
        )


def write_one(out: Path, form: str, name: str, image: Path, label: np.ndarray, classes: Classes) -> Any:
    """Write one photo's label map (H,W) in a tool's format; returns what `write_rest` wants to know of it."""
    return WRITERS[form][0](out, Labelled(name, image, label, marked(label, classes)), classes)


def write_rest(out: Path, form: str, made: list[Any], classes: Classes) -> str:
    """Write what stands once for all photos. Returns how the tool takes them, and how they are read back."""
    write_classes(out / "classes.csv", classes.names, classes.colors)
    told = WRITERS[form][1](out, made, classes)
    unmarked = BACKGROUND if _leaves_background(classes) else "ignore"
    table = shlex.quote(str(out / "classes.csv"))
    back = f"--format {form} {'' if form == 'cvat' else f'--unmarked {unmarked} '}--classes {table}"
    return f"{len(made):,} label maps in {out}; {told}\nback: mgd prepare labels EXPORT {back} --out DIR"


def _name(mask: Path, base: Path) -> str:
    return mask.relative_to(base).with_suffix("").as_posix()


def _write(task: _Task, pair: tuple[str, Path, Path]) -> Any:
    name, image, mask = pair
    label = load_label(mask, len(task.classes))
    size = load_image(image).shape[:2]
    if size != label.shape:
        found = f"{mask} is {label.shape[1]}x{label.shape[0]}, its photo {image} {size[1]}x{size[0]}"
        raise UserError(f"{found}; write label maps in the photos' size")
    return write_one(task.out, task.form, name, image, label, task.classes)


def marked(label: np.ndarray, classes: Classes) -> list[Region]:
    """The regions that a tool gets: the others' pixels are what --unmarked says."""
    background = _leaves_background(classes)
    names: Sequence[tuple[int, str]] = [*enumerate(classes.names)]
    drawn = [*names[1:], (IGNORE_INDEX, IGNORE)] if background else names
    return [(name, label == value) for value, name in drawn if (label == value).any()]


def _leaves_background(classes: Classes) -> bool:
    return classes.names[0] == BACKGROUND
