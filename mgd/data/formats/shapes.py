"""Masks of what people draw: polygons, rectangles, ellipses, lines, run-length codes.

Coordinates are those of the picture's plane: (0,0) is the corner of the first pixel, whose centre is at (0.5, 0.5). A
pixel belongs to a shape when its centre lies inside. Polygons are filled by pycocotools, as COCO's own tools do.
"""

import base64
import io
import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from mgd.data.images import BROKEN
from mgd.errors import UserError

Points = Sequence[Sequence[float]]  # x, y
SLACK = 1.0  # pixels that a point may lie outside the image: tools round


def polygon(points: Points, size: tuple[int, int], *, what: str) -> np.ndarray:
    """(H,W) bool of a polygon by the even-odd rule, so that an outline that doubles back leaves holes.

    Args:
        what: the polygon in words, for messages.

    Raises:
        UserError: fewer than 3 points, a point outside the image, no pycocotools.
    """
    return any_of([points], size, what=what)


def any_of(polygons: Sequence[Points], size: tuple[int, int], *, what: str) -> np.ndarray:
    """(H,W) bool: the pixels of one polygon or another. Raises UserError as `polygon` does."""
    coco = pycocotools()
    for points in polygons:
        if len(points) < 3:
            raise UserError(f"{what} has {len(points)} points, expected 3 or more; draw it again or remove it")
        check_inside(points, size, what=what)
    flat = [[float(value) for point in points for value in point] for points in polygons]
    return coco.decode(coco.merge(coco.frPyObjects(flat, *size))).astype(bool)


def rectangle(corners: Points, size: tuple[int, int], *, what: str) -> np.ndarray:
    """(H,W) bool of the rectangle between two opposite corners."""
    check_inside(corners, size, what=what)
    (x1, y1), (x2, y2) = of_two(corners, what=what)
    y, x = _centres(size)
    return (min(x1, x2) <= x) & (x < max(x1, x2)) & (min(y1, y2) <= y) & (y < max(y1, y2))


def of_two(points: Points, *, what: str) -> Points:
    """`points`, which must be two."""
    if len(points) != 2:
        raise UserError(f"{what} has {len(points)} points, expected 2; draw it again or remove it")
    return points


def ellipse(centre: Sequence[float], radii: Sequence[float], size: tuple[int, int], *, what: str) -> np.ndarray:
    """(H,W) bool of an upright ellipse, whose rim may reach over the image's."""
    check_inside([centre], size, what=what)
    if min(radii) <= 0:
        raise UserError(f"{what} has a radius of {min(radii):g} pixels, expected more than 0; draw it again")
    y, x = _centres(size)
    return ((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2 <= 1


def line(points: Points, width: float, size: tuple[int, int], *, what: str) -> np.ndarray:
    """(H,W) bool of a line through points, with round ends; of one point a disc."""
    check_inside(points, size, what=what)
    y, x = _centres(size)
    mask = np.zeros(size, bool)
    for (x1, y1), (x2, y2) in zip(points[:-1] or points, points[1:] or points, strict=True):
        length = (x2 - x1) ** 2 + (y2 - y1) ** 2
        along = np.clip(((x - x1) * (x2 - x1) + (y - y1) * (y2 - y1)) / length, 0, 1) if length else 0.0
        mask |= (x - x1 - along * (x2 - x1)) ** 2 + (y - y1 - along * (y2 - y1)) ** 2 <= (width / 2) ** 2
    return mask


def rle(code: dict[str, Any], size: tuple[int, int], *, what: str) -> np.ndarray:
    """(H,W) bool of COCO's run-length code: counts as a list, or compressed into a text.

    Raises:
        UserError: it is of another size than the image, or broken.
    """
    coco = pycocotools()
    height, width = code["size"]
    if (height, width) != tuple(size):
        raise UserError(f"{what} is a mask of {width}x{height} on an image of {size[1]}x{size[0]}; export it again")
    counts = code["counts"] if isinstance(code["counts"], list) else _runs(code["counts"], what)
    if sum(counts) != height * width or min(counts, default=0) < 0:  # pycocotools would leave the rest to chance
        raise UserError(f"{what} has runs of {sum(counts)} pixels, expected {height * width}; export it again")
    return coco.decode(coco.frPyObjects({"size": [height, width], "counts": counts}, height, width)).astype(bool)


def _runs(text: str, what: str) -> list[int]:
    """The counts of a compressed run-length code: 5 bits a sign, from the low ones up, and the sign of the number.

    From the fourth on each is told by its difference from the one before the last.
    """
    counts: list[int] = []
    value = shift = 0
    for sign in text.encode():
        bits = sign - 48
        if not 0 <= bits < 64:
            raise UserError(f"{what} is a broken run-length code; export it again")
        value, shift = value | (bits & 31) << shift, shift + 5
        if bits & 32:  # more to come
            continue
        value -= (bits >> 4 & 1) << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    if shift:
        raise UserError(f"{what} is a broken run-length code; export it again")
    return counts


def to_rle(mask: np.ndarray) -> dict[str, Any]:
    """(H,W) bool -> COCO's compressed run-length code, for JSON."""
    code = pycocotools().encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": code["counts"].decode()}


def paste(patch: np.ndarray, corner: Sequence[float], size: tuple[int, int], *, what: str) -> np.ndarray:
    """(H,W) bool with a smaller mask (h,w) at its corner x, y. Raises UserError when it reaches out of the image."""
    left, top = (math.floor(value) for value in corner)
    bottom, right = top + patch.shape[0], left + patch.shape[1]
    check_inside([(left, top), (right, bottom)], size, what=what)
    mask = np.zeros(size, bool)
    inside = patch[max(0, -top) : patch.shape[0] - max(0, bottom - size[0])]
    inside = inside[:, max(0, -left) : patch.shape[1] - max(0, right - size[1])]
    mask[max(0, top) : max(0, top) + inside.shape[0], max(0, left) : max(0, left) + inside.shape[1]] = inside
    return mask


def decode_png(content: bytes, *, what: str) -> np.ndarray:
    """(H,W) bool of a small picture: where it is opaque when it has an alpha channel, else where it is not 0."""
    try:
        image = Image.open(io.BytesIO(content))
        image.load()
    except BROKEN as error:
        raise UserError(f"{what} holds a mask that cannot be decoded ({error}); export it again") from error
    if image.mode in ("RGBA", "LA") or "transparency" in image.info:
        return np.asarray(image.convert("RGBA"))[..., 3] > 0
    return np.asarray(image.convert("L") if image.mode not in ("L", "P", "1") else image).astype(bool)


def encode_png(mask: np.ndarray) -> str:
    """(h,w) bool -> base64 of a grey PNG of 0 and 255."""
    file = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def check_inside(points: Points, size: tuple[int, int], *, what: str) -> None:
    """Raise UserError when a point is no number or outside the image by more than what tools round."""
    height, width = size
    for x, y in points:
        inside = -SLACK <= x <= width + SLACK and -SLACK <= y <= height + SLACK
        if not inside:  # nor is NaN
            raise UserError(
                f"{what} has the point ({x:g}, {y:g}), outside its image of {width}x{height} pixels; "
                "correct it, or see that the export is of these photos"
            )


def pycocotools() -> ModuleType:
    """`pycocotools.mask`. Raises UserError when it is not installed."""
    try:
        from pycocotools import mask
    except ImportError:
        raise UserError("polygons and run-length codes need pycocotools: pip install pycocotools") from None
    return mask


def _centres(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(H,1) y and (1,W) x of the pixels' centres."""
    y, x = np.ogrid[: size[0], : size[1]]
    return y + 0.5, x + 0.5
