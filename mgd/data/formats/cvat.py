"""CVAT's "Segmentation mask 1.1" (PASCAL VOC's folders): labelmap.txt, SegmentationClass/, ImageSets/Segmentation/.

https://docs.cvat.ai/docs/dataset_management/formats/format-smask/
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mgd.data.classes import VOC_NAMES, Classes, voc_color
from mgd.data.formats import rgb
from mgd.data.formats.export import IGNORE, Color, Export, Labelled, Photo, Reading, need, part_of, photos_of
from mgd.data.formats.masks import mask_files
from mgd.errors import UserError
from mgd.files import read_lines, read_text, write_lines, write_png
from mgd.metrics import IGNORE_INDEX

SETS = Path("ImageSets") / "Segmentation"
VOID = (224, 224, 192)  # VOC's colour of object borders


def read(source: Path, reading: Reading) -> Export:
    """An unpacked export. Photos are in JPEGImages/ (exported with images), or where `reading.images` says.

    Raises:
        UserError: another tool's export, a broken labelmap.txt, a mask without a photo.
    """
    masks = need(source / "SegmentationClass", "an unpacked CVAT export, Segmentation mask 1.1")
    table = _labelmap(source / "labelmap.txt")
    photos = photos_of(reading, [source / "JPEGImages", source / "images"], masks)
    parts = {
        name.strip(): part_of(file.stem) for file in sorted((source / SETS).glob("*.txt")) for name in read_lines(file)
    }
    found = []
    for mask in mask_files(masks):
        name = mask.relative_to(masks).with_suffix("").as_posix()
        painter = partial(rgb.regions, mask, table, reading.tolerance)
        found.append(Photo(name, photos.find(name), mask, painter, part=parts.get(name, "")))
    colors = dict(table)
    return Export(tuple(colors), tuple(found), covers=True, colors=colors, table=table)


def _labelmap(path: Path) -> tuple[tuple[str, Color], ...]:
    """(name, colour) of every line `name:red,green,blue:parts:actions`; VOC's where there is no file."""
    if not path.is_file():
        return (*((name, voc_color(i)) for i, name in enumerate(VOC_NAMES)), (IGNORE, VOID))
    table: list[tuple[str, Color]] = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            name, numbers, *_ = line.split(":")
            red, green, blue = (int(value) for value in numbers.split(","))
        except ValueError:
            raise UserError(
                f"{path}, line {number}: expected name:red,green,blue:parts:actions, found {line!r}"
            ) from None
        if twice := [other for other, color in table if color == (red, green, blue) or other == name]:
            raise UserError(f"{path}, line {number}: {name} has the name or the colour of {twice[0]}; make them differ")
        table.append((name.strip(), (red, green, blue)))
    return tuple(table)


def write_one(out: Path, photo: Labelled, classes: Classes) -> str:
    """Write a photo's mask in the colours of `labelmap.txt`; ignored pixels have a label of their own."""
    palette = classes.palette()
    palette[IGNORE_INDEX] = _ignore_color(classes)
    write_png(out / "SegmentationClass" / f"{photo.name}.png", palette[photo.label])
    return photo.name


def write_rest(out: Path, made: Sequence[str], classes: Classes) -> str:
    """Write `labelmap.txt` and the list. Returns how CVAT takes it."""
    rows = [*zip(classes.names, classes.colors, strict=True), (IGNORE, _ignore_color(classes))]
    lines = [f"{name}:{','.join(map(str, color))}::" for name, color in rows]
    write_lines(out / "labelmap.txt", ["# label:color_rgb:parts:actions", *lines])
    write_lines(out / SETS / "default.txt", made)
    return "zip what is in the folder; in CVAT: Upload annotations, Segmentation mask 1.1 (the task needs these labels)"


def _ignore_color(classes: Classes) -> Color:
    """VOC's colour of void, or the next that no class has.

    Raises:
        UserError: two classes have one colour, or one a name that labelmap.txt cannot hold.
    """
    if strange := [name for name in classes.names if ":" in name or name.startswith("#")]:
        raise UserError(
            f"CVAT cannot read back a class called {strange[0]!r}, with a colon in it or # before it; rename it in "
            "classes.csv, or use another format"
        )
    if twice := [color for color in classes.colors if classes.colors.count(color) > 1]:
        named = [name for name, color in zip(classes.names, classes.colors, strict=True) if color == twice[0]]
        raise UserError(
            f"{' and '.join(named)} have the same colour {twice[0]}; make the colours of classes.csv differ"
        )
    free = (VOID, *(voc_color(i) for i in range(255, 0, -1)))
    return next(color for color in free if color not in classes.colors)
