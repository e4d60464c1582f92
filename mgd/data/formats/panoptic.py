"""COCO's panoptic format: a JSON with `segments_info` and PNGs whose colours are segments' ids; id 0 is void.

https://cocodataset.org/#format-data ("4. Panoptic Segmentation"): id = R + 256 G + 256^2 B.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mgd.data.formats.coco import images_by_id, open_photos, part_of_file, read_categories
from mgd.data.formats.export import (
    IGNORE,
    Export,
    Photo,
    Reading,
    Region,
    Size,
    guess,
    need,
    photo_name,
    read_json,
    understood,
)
from mgd.data.images import load_image
from mgd.errors import UserError

EXPECTED = "a COCO panoptic JSON with images, categories and annotations that have segments_info"


def read(source: Path, reading: Reading) -> Export:
    """A JSON file; its PNGs are in the folder of its name beside it (panoptic_val2017.json, panoptic_val2017/).

    Raises:
        UserError: another format, a segment of an unknown category, a PNG or photo is not found.
    """
    need(source, EXPECTED)
    if source.is_dir():
        raise UserError(f"{source} is a folder; expected {EXPECTED}; name that file, or: {guess(source)}")
    content = read_json(source, EXPECTED)
    with understood(source, EXPECTED):
        categories = read_categories(source, content)
        colors = {str(one["name"]): tuple(one["color"]) for one in content["categories"] if "color" in one}
        photos = tuple(_photos(source, content, categories, reading))
    return Export(tuple(dict.fromkeys(categories.values())), photos, covers=True, colors=colors)


def _photos(file: Path, content: dict[str, Any], categories: dict[int, str], reading: Reading) -> Iterator[Photo]:
    photos, images = open_photos(file, reading), images_by_id(file, content)
    for one in content["annotations"]:
        image = images[one["image_id"]]
        names = {0: IGNORE}
        for segment in one["segments_info"]:
            if segment["category_id"] not in categories:
                raise UserError(
                    f"{file}: segment {segment['id']} has the category {segment['category_id']}, which is not listed"
                )
            names[int(segment["id"])] = categories[segment["category_id"]]
        mask = need(file.with_suffix("") / one["file_name"], "the PNG of a panoptic annotation")
        size = int(image["height"]), int(image["width"])
        path, painter = image["file_name"], partial(regions, mask, names)
        yield Photo(photo_name(path), photos.find(path), mask, painter, size, part_of_file(file), file)


def regions(path: Path, names: dict[int, str], size: Size) -> Iterator[Region]:
    """Each segment; what no segment covers is ignored. Raises UserError when the PNG has a segment without a class."""
    red, green, blue = np.moveaxis(load_image(path).astype(np.int32), -1, 0)
    ids = red + 256 * green + 256**2 * blue
    for number in np.unique(ids):
        if int(number) not in names:
            raise UserError(f"{path} holds the segment {number}, which its JSON does not list; export both again")
        yield names[int(number)], ids == number
