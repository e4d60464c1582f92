"""YOLO's segmentation labels: a text for each photo, `CLASS x1 y1 x2 y2 ...` as shares of its size, and data.yaml.

https://docs.ultralytics.com/datasets/segment/: a photo without a text, or with an empty one, shows no object.
"""

import os
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from mgd.data.folders import photos_in
from mgd.data.formats import shapes
from mgd.data.formats.export import (
    Export,
    Photo,
    Reading,
    Region,
    Size,
    class_name,
    guess,
    need,
    photo_name,
    understood,
)
from mgd.data.images import IMAGE_SUFFIXES
from mgd.errors import UserError
from mgd.files import read_lines, read_text

EXPECTED = "a data.yaml of YOLO with names and train"
PARTS = ("train", "val", "test")


def read(source: Path, reading: Reading) -> Export:
    """The folder of a data.yaml, or that file. Labels are in labels/, where photos are in images/.

    Raises:
        UserError: no data.yaml, another structure, no photos.
    """
    file = source if source.is_file() else need(source / "data.yaml", EXPECTED)
    try:
        content = yaml.safe_load(read_text(file))
    except yaml.YAMLError as error:
        raise UserError(f"{file} is no YAML ({error}); expected {EXPECTED}") from error
    with understood(file, EXPECTED):
        named = content["names"]
        names = tuple(class_name(named[i], file) for i in range(len(named)))
        base = Path(content.get("path") or ".")
        folders = {part: [os.path.normpath(one) for one in _folders(content.get(part))] for part in PARTS}
        if twice := [folder for folder, count in Counter(chain(*folders.values())).items() if count > 1]:
            raise UserError(
                f"{file} names {twice[0]} for two parts; give each photos of its own, or name it for train alone: one "
                "photo in --val-every is then held out"
            )
        photos = tuple(
            photo
            for part, listed in folders.items()
            for folder in listed
            for photo in _photos(file, base, folder, part, names)
        )
    if not photos:
        raise UserError(f"{file} names no photos; expected train: and val: in it")
    return Export(names, photos, covers=False)


def _folders(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value] if value else []


def _photos(file: Path, base: Path, folder: str, part: str, names: tuple[str, ...]) -> Iterator[Photo]:
    place = _find(file.parent, base, folder)
    images = photos_in(place) if place.is_dir() else _listed(place)
    for image in images:
        parts = list(image.with_suffix(".txt").parts)
        if "images" not in parts[:-1]:
            raise UserError(
                f"{image} is not below a folder images; YOLO has its label below labels in that one's place"
            )
        at = len(parts) - 1 - parts[::-1].index("images")
        label = Path(*parts[:at], "labels", *parts[at + 1 :])
        inner = Path(*image.parts[at + 1 :])
        name = inner if inner.parts[0] in ("train", "val", "valid", "test") else Path(part) / inner
        yield Photo(
            photo_name(name.as_posix()),
            image,
            label if label.is_file() else file,
            partial(regions, label, names),
            None,
            part,
        )


def _find(home: Path, base: Path, folder: str) -> Path:
    """A path of data.yaml: below `path`, or beside the file; exports often say ../train/images for train/images."""
    inside = Path(*[piece for piece in Path(folder).parts if piece != ".."])
    tried = [home / base / folder, home / folder, home / inside]
    if found := next((path for path in tried if path.exists()), None):
        return found
    raise UserError(
        f"{home / 'data.yaml'} names {folder}, which is not there (tried {tried[0]}, {tried[-1]}); correct it"
    )


def _listed(path: Path) -> list[Path]:
    images = [path.parent / line.strip() for line in read_lines(path)]
    if lost := [image for image in images if not image.is_file() or image.suffix.lower() not in IMAGE_SUFFIXES]:
        raise UserError(f"{path} names {lost[0]}, which is no photo; correct the list")
    return images


def regions(path: Path, names: tuple[str, ...], size: Size) -> Iterator[Region]:
    """Each line's polygon. Raises UserError for a box, an unknown class, a point outside the image."""
    lines = read_text(path).split("\n") if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        what = f"{path}, line {number}"
        try:
            place, *values = (float(text) for text in line.split())
        except ValueError:
            raise UserError(f"{what}: expected a class and coordinates, found {line!r}; {guess(path.parent)}") from None
        if place not in range(len(names)):
            raise UserError(f"{what} has the class {place:g}, data.yaml names 0 to {len(names) - 1}")
        if len(values) == 4:
            raise UserError(f"{what} is a box, not a polygon; export the data set for segmentation")
        if len(values) % 2:
            raise UserError(f"{what} has {len(values)} coordinates, an odd number; correct it")
        points = [(x * size[1], y * size[0]) for x, y in zip(values[::2], values[1::2], strict=True)]
        name = names[int(place)]
        yield name, shapes.polygon(points, size, what=f"{what} ({name})")
