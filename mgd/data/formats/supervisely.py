"""Supervisely's project: meta.json, and in each data set img/ and ann/IMAGE.json with polygons, bitmaps, rectangles.

https://docs.supervisely.com/customization-and-integration/00_ann_format_navi: coordinates are pixels, a point is the
whole pixel, so that outlines belong to what they enclose. A later object lies on top.
"""

import base64
import binascii
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mgd.data.formats import shapes
from mgd.data.formats.export import (
    Color,
    Export,
    Photo,
    Reading,
    Region,
    Size,
    need,
    part_of,
    photo_name,
    read_json,
    understood,
)
from mgd.errors import UserError

EXPECTED = "a Supervisely project with meta.json and DATASET/ann/IMAGE.json"


def read(source: Path, reading: Reading) -> Export:
    """A project's folder.

    Raises:
        UserError: no meta.json, an annotation without its photo, another structure.
    """
    meta = need(source / "meta.json", EXPECTED)
    content = read_json(meta, EXPECTED)
    with understood(meta, EXPECTED):
        colors = {str(one["title"]): _color(one["color"]) for one in content["classes"]}
    photos = []
    for file in sorted({*source.glob("*/ann/*.json"), *source.glob("**/ann/*.json")}):  # ** follows no link
        base = file.parent.parent
        inner = base.relative_to(source).as_posix().replace("/datasets/", "/")  # where a data set's own ones lie
        image = (reading.images / inner if reading.images else base / "img") / file.stem
        need(image, f"the photo of {file}")
        name, painter = photo_name(f"{inner}/{image.name}"), partial(regions, file, tuple(colors))
        photos.append(Photo(name, image, file, painter, part=part_of(inner.partition("/")[0])))
    if not photos:
        raise UserError(f"{source} has no DATASET/ann/*.json; expected {EXPECTED}")
    return Export(tuple(colors), tuple(photos), covers=False, colors=colors)


def _color(text: str) -> Color:
    red, green, blue = bytes.fromhex(text.lstrip("#"))
    return red, green, blue


def regions(file: Path, names: tuple[str, ...], size: Size) -> Iterator[Region]:
    """Each object's mask. Raises UserError for one that does not fit the photo, or of an unknown class or type."""
    content = read_json(file, EXPECTED)
    with understood(file, EXPECTED):
        told = content["size"]["height"], content["size"]["width"]
        if told != size:
            raise UserError(
                f"{file} is for a photo of {told[1]}x{told[0]}, the photo is {size[1]}x{size[0]}; pair them anew"
            )
        for number, thing in enumerate(content["objects"], start=1):
            name = thing["classTitle"]
            what = f"{file}: object {number} ({name})"
            if name not in names:
                raise UserError(f"{what} has a class that meta.json does not list; export the project again")
            yield name, _mask(thing, size, what)


def _mask(thing: dict[str, Any], size: Size, what: str) -> np.ndarray:
    kind = thing["geometryType"]
    if kind == "bitmap":
        try:
            content = zlib.decompress(base64.b64decode(thing["bitmap"]["data"]))
        except (binascii.Error, zlib.error) as error:
            raise UserError(f"{what} holds a bitmap that cannot be decoded ({error}); export it again") from error
        return shapes.paste(shapes.decode_png(content, what=what), thing["bitmap"]["origin"], size, what=what)
    if kind not in ("polygon", "rectangle"):
        raise UserError(
            f"{what} is of the type {kind}, which has no area; draw it as a polygon or bitmap, or remove it"
        )
    outline = thing["points"]["exterior"]
    if kind == "rectangle":
        (x1, y1), (x2, y2) = outline
        outline = [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]
    if len(outline) < 3:
        raise UserError(f"{what} has {len(outline)} points, expected 3 or more; draw it again or remove it")
    mask = np.zeros(size, np.uint8)
    for points, value in ((outline, 1), *((hole, 0) for hole in thing["points"]["interior"])):
        shapes.check_inside(points, size, what=what)
        cv2.fillPoly(mask, [np.array(points).round().astype(np.int32)], value)
    return mask.astype(bool)
