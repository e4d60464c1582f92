"""COCO-Stuff's pixel maps ("stuffthingmaps"): grey PNGs of a category's id less 1, 255 unlabelled; labels.txt.

https://github.com/nightrome/cocostuff: labels.txt has a line `ID: NAME` for each category, 0 is "unlabeled".
"""

from functools import partial
from pathlib import Path

from mgd.data.formats import index
from mgd.data.formats.export import Export, Photo, Photos, Reading, guess, need, photos_of
from mgd.data.formats.masks import mask_files
from mgd.data.label_map import value_table
from mgd.errors import UserError
from mgd.files import read_text

PARTS = ("train", "val")


def read(source: Path, reading: Reading) -> Export:
    """A folder with labels.txt and the maps below it; photos have the same paths below `reading.images`.

    Raises:
        UserError: no labels.txt, a broken line in it, a map without a photo.
    """
    names = _names(need(source / "labels.txt", "the list of COCO-Stuff's categories, ID: NAME"))
    photos = photos_of(reading, [source / "images", source.parent / "images"], source)
    table, found = value_table(()), []
    for mask in mask_files(source):
        path = mask.relative_to(source)
        if reading.images is None and path.parts[0] == "images":
            continue
        name = path.with_suffix("").as_posix()
        part = next((part for part in PARTS if path.parts[0].startswith(part)), "")
        image = _jpg(photos, name) or photos.find(name)
        found.append(Photo(name, image, mask, partial(index.regions, mask, table, names), part=part))
    return Export(names, tuple(found), covers=True)


def _jpg(photos: Photos, name: str) -> Path | None:
    """The photo of the same path: names repeat in COCO's train2017 and val2017."""
    return next((file for folder in photos.folders if (file := folder / f"{name}.jpg").is_file()), None)


def _names(path: Path) -> tuple[str, ...]:
    """Names by value: a line's id less 1."""
    found: list[str] = []
    for number, line in enumerate(read_text(path).splitlines()):
        key, colon, name = line.partition(":")
        if not colon or key.strip() != str(number):
            expected = f"expected `{number}: NAME`, found {line!r}"
            raise UserError(f"{path}, line {number + 1}: {expected}; {guess(path.parent)}")
        found.append(name.strip())
    return tuple(found[1:])
