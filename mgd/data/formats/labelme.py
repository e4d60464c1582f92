"""labelme's JSON, one beside each photo: polygons, rectangles, circles, lines, points, masks. A later shape is on top.

https://github.com/wkentaro/labelme: `shapes` have `label`, `points` and `shape_type`; `__ignore__` is looked away from.
"""

import base64
import binascii
import math
from collections.abc import Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from mgd.data.classes import Classes
from mgd.data.formats import shapes
from mgd.data.formats.export import (
    IGNORE,
    Export,
    Labelled,
    Photo,
    Photos,
    Reading,
    Region,
    Size,
    class_name,
    guess,
    is_photo,
    need,
    photo_name,
    photos_of,
    read_json,
    understood,
)
from mgd.errors import UserError
from mgd.files import link, read_lines, write_json, write_lines
from mgd.parallel import in_order

BACKGROUND = "_background_"  # in labelme's own labels.txt: what nobody draws
EXPECTED = "a labelme JSON with shapes, imagePath, imageHeight and imageWidth"


def read(source: Path, reading: Reading) -> Export:
    """A folder of JSON files beside their photos; photos without one are unlabelled. labels.txt orders the classes.

    Raises:
        UserError: no JSON, another tool's, a photo is not found.
    """
    files = sorted(need(source, "a folder of labelme's JSON files").rglob("*.json"))
    if not files:
        raise UserError(f"{source} has no JSON file; expected one beside each photo; {guess(source)}")
    found: list[Photo] = []
    drawn: set[str] = set()
    photos = photos_of(reading, (), source) if reading.images else None  # one, which knows them all by name
    beside = cache(lambda folder: photos_of(reading, [folder], source))
    for file, (path, size, things) in zip(files, in_order(_read, files), strict=True):
        image = _image(file, path, source, photos or beside(file.parent))
        name = photo_name(file.relative_to(source).with_suffix("").as_posix())
        found.append(Photo(name, image, file, partial(regions, file, things, reading.line_width), size))
        drawn |= {thing["label"] for thing in things}
    labels = source / "labels.txt"
    ordered = [line.strip() for line in read_lines(labels)] if labels.is_file() else []
    ordered = [name for name in ordered if name not in ("", IGNORE) and (name in drawn or name != BACKGROUND)]
    names = tuple(ordered or sorted(drawn - {IGNORE}))
    if strange := sorted(drawn - {*names, IGNORE}):
        raise UserError(f"{labels} does not name {strange[0]}, which is drawn; add a line, or delete the file")
    return Export(names, (*found, *_bare(source, reading, found)), covers=False)


def _image(file: Path, path: str, source: Path, photos: Photos) -> Path:
    """The photo of a JSON file: where `photos` are, first in a folder as its own."""
    photos.source, inner = file, file.relative_to(source).parent
    near = (folder / inner / path for folder in photos.folders)
    return next(filter(Path.is_file, near), None) or photos.find(path)


def _read(file: Path) -> tuple[str, Size, list[dict[str, Any]]]:
    """(file name of the photo, size, shapes) without the photo that labelme puts into its files."""
    content = read_json(file, EXPECTED)
    with understood(file, EXPECTED):
        things = [
            {key: thing.get(key) for key in ("points", "shape_type", "mask")}
            | {"label": class_name(thing["label"], file)}
            for thing in content["shapes"]
        ]
        path = content["imagePath"].replace("\\", "/").rpartition("/")[2]
        return path, (int(content["imageHeight"]), int(content["imageWidth"])), things


def _bare(source: Path, reading: Reading, found: Sequence[Photo]) -> Iterator[Photo]:
    folder, known = reading.images or source, {photo.image for photo in found}
    for image in sorted(file for file in folder.rglob("*") if is_photo(file)):
        if image not in known:
            yield Photo(photo_name(image.relative_to(folder).as_posix()), image, image, None)


def regions(file: Path, things: Sequence[dict[str, Any]], line_width: float, size: Size) -> Iterator[Region]:
    """Each shape's mask. Raises UserError for a shape that does not fit the image or is of an unknown type."""
    for number, thing in enumerate(things, start=1):
        what = f"{file}: shape {number} ({thing['label']})"
        with understood(file, EXPECTED):
            yield thing["label"], _mask(thing, line_width, size, what)


def _mask(thing: dict[str, Any], line_width: float, size: Size, what: str) -> np.ndarray:
    kind, points = thing["shape_type"] or "polygon", thing["points"]
    if kind == "polygon":
        return shapes.polygon(points, size, what=what)
    if kind == "rectangle":
        return shapes.rectangle(points, size, what=what)
    if kind == "circle":
        centre, rim = shapes.of_two(points, what=what)
        return shapes.ellipse(centre, [math.dist(centre, rim)] * 2, size, what=what)
    if kind in ("line", "linestrip", "point"):
        return shapes.line(points, line_width, size, what=what)
    if kind == "mask":
        try:
            content = base64.b64decode(thing["mask"], validate=True)
        except binascii.Error as error:
            raise UserError(f"{what} holds a mask that cannot be decoded ({error}); save it again") from error
        return shapes.paste(shapes.decode_png(content, what=what), points[0], size, what=what)
    raise UserError(f"{what} is of the type {kind}, which has no area; draw it as a polygon or remove it")


def write_one(out: Path, photo: Labelled, classes: Classes) -> str:
    """Link the photo and write its JSON beside it, with a mask for each class (labelme 5.3 or newer)."""
    target = out / f"{photo.name}{photo.image.suffix}"
    link(photo.image, target)
    things = []
    for name, mask in photo.marked:
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        corners = [[int(columns[0]), int(rows[0])], [int(columns[-1]), int(rows[-1])]]
        patch = shapes.encode_png(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
        one = {"label": name, "points": corners, "group_id": None, "description": "", "shape_type": "mask"}
        things.append(one | {"flags": {}, "mask": patch})
    height, width = photo.label.shape
    content: dict[str, Any] = {"version": "5.5.0", "flags": {}, "shapes": things, "imagePath": target.name}
    content |= {"imageData": None, "imageHeight": height, "imageWidth": width}
    write_json(target.with_suffix(".json"), content)
    return photo.name


def write_rest(out: Path, made: Sequence[str], classes: Classes) -> str:
    """Returns how labelme takes it."""
    write_lines(out / "labels.txt", (IGNORE, *classes.names))
    return f"open the folder: labelme {out} --labels {out / 'labels.txt'}"
