"""Augmentation of an image together with its label map: pure functions of arrays and a generator."""

import math
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

from mgd.metrics import IGNORE_INDEX


class Geometry(NamedTuple):
    """Where a crop lies in a photo that is mirrored, then scaled: what happens to all that belongs to the photo."""

    flip: bool
    height: int  # of the scaled photo, in pixels; like the next three
    width: int
    top: int  # first row and column of the crop; 0 where the scaled photo is smaller than the crop
    left: int
    crop: int

    @property
    def extent(self) -> tuple[int, int, int, int]:
        """(top, bottom, left, right) in the crop of what is photo; the rest is padding, the same on both sides."""
        above, before = max(0, self.crop - self.height) // 2, max(0, self.crop - self.width) // 2
        return above, above + min(self.height, self.crop), before, before + min(self.width, self.crop)


def draw_geometry(
    height: int, width: int, *, scales: tuple[float, ...], crop: int, rng: np.random.Generator
) -> Geometry:
    """The published augmentation of a (height, width) photo: mirror with p 0.5, a scale of `scales`, a random crop."""
    flip = rng.random() < 0.5
    scale = scales[rng.integers(len(scales))]
    height, width = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (int(rng.integers(max(0, side - crop) + 1)) for side in (height, width))
    return Geometry(flip, height, width, top, left, crop)


def cut(array: np.ndarray, geometry: Geometry, *, fill: int, nearest: bool = False) -> np.ndarray:
    """The crop (crop,crop) or (crop,crop,3) of a photo, or of a label map (`nearest`); `fill` where there is none.

    No more of the photo is read than the crop needs. The crop is in memory of its own, perhaps with a margin.
    """
    flip, height, width, top, left, crop = geometry
    above, below, before, after = geometry.extent
    out = np.empty((crop, crop, *array.shape[2:]), array.dtype)
    inside = out[above:below, before:after]
    if inside.shape != out.shape:
        out.fill(fill)
    if nearest:
        rows, columns = _nearest(array.shape[0], height), _nearest(array.shape[1], width)
        columns = array.shape[1] - 1 - columns if flip else columns
        _gather(array, rows[top : top + crop], columns[left : left + crop], inside)
        return out
    down = needed(array.shape[0], height, top, crop)
    across = needed(array.shape[1], width, left, crop, flip=flip)
    part, size = array[down.first : down.last, across.first : across.last], (down.scaled, across.scaled)
    into = inside if size == inside.shape[:2] else None  # where nothing is cut off, it is put there at once
    if flip:
        part = cv2.flip(part, 1, dst=into if size == part.shape[:2] else None)
    if size != part.shape[:2]:
        part = cv2.resize(part, size[::-1], dst=into, interpolation=cv2.INTER_LINEAR)
    elif not flip:
        inside[:] = part
    if into is not None:
        return out
    part = part[down.start : down.start + crop, across.start : across.start + crop]
    if part.shape == out.shape:
        return part
    inside[:] = part
    return out


class Needed(NamedTuple):
    """Along one side: the part of a photo that a crop is made of, which resized alone gives what the whole would."""

    first: int  # and the one after the last, in pixels of the photo
    last: int
    scaled: int  # its length when it is resized
    start: int  # of the crop in the resized part


def needed(side: int, scaled: int, start: int, crop: int, *, flip: bool = False) -> Needed:
    """The part that a crop beginning at `start` of a side needs that is mirrored, then resized to `scaled`.

    Old and new pixels meet every side / gcd old ones: a part that begins and ends there keeps ratio and phase.
    One such period more at both ends has the neighbours that interpolation looks at.
    """
    if side == scaled:
        stop = min(start + crop, side)
        return Needed(*((side - stop, side - start) if flip else (start, stop)), stop - start, 0)
    periods = math.gcd(side, scaled)
    old, new = side // periods, scaled // periods
    first = max(0, start // new - 1)
    last = min(periods, -(-min(start + crop, scaled) // new) + 1)
    pixels = (side - last * old, side - first * old) if flip else (first * old, last * old)
    return Needed(*pixels, (last - first) * new, start - first * new)


def augment(
    image: np.ndarray, label: np.ndarray | None, *, scales: tuple[float, ...], crop: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray | None, Geometry]:
    """The published augmentation of an image (H,W,3) uint8 and its label map (H,W) uint8 or None.

    Returns:
        image (crop,crop,3), 0 in the padding; label (crop,crop) or None, 255 in the padding; what was done to both.
    """
    geometry = draw_geometry(*image.shape[:2], scales=scales, crop=crop, rng=rng)
    cut_label = None if label is None else cut(label, geometry, fill=IGNORE_INDEX, nearest=True)
    return cut(image, geometry, fill=0), cut_label, geometry


def resize(array: np.ndarray, height: int, width: int, *, nearest: bool = False) -> np.ndarray:
    """(H,W) or (H,W,3) uint8 to the given size: bilinear, or nearest for label maps. Both keep things in their place.

    OpenCV's INTER_NEAREST does not: it takes the top left of the pixels that fall on one, which moves a label map by up
    to half a pixel against its photo.
    """
    if array.shape[:2] == (height, width):
        return array
    if nearest:
        return array[_nearest(array.shape[0], height)][:, _nearest(array.shape[1], width)]
    return cv2.resize(array, (width, height), interpolation=cv2.INTER_LINEAR)


def shrink(array: np.ndarray, short_side: int, *, nearest: bool = False) -> np.ndarray:
    """Shrink to this short side, keeping the aspect; unchanged when `short_side` is 0 or not smaller.

    A pixel of a photo becomes the mean of what it covers, one of a label map (`nearest`) the value at its centre.
    """
    shortest = min(array.shape[:2])
    if not 0 < short_side < shortest:
        return array
    height, width = (round(side * short_side / shortest) for side in array.shape[:2])
    if nearest:
        return resize(array, height, width, nearest=True)
    return cv2.resize(array, (width, height), interpolation=cv2.INTER_AREA)


@lru_cache(maxsize=64)  # photos of a data set have few sizes
def _nearest(old: int, new: int) -> np.ndarray:
    """(new,) int64: the old pixel whose centre is nearest to that of each new one.

    Where two are as near (every pixel when a size is halved) they take turns: always the one or always the other would
    move the map.
    """
    centre = (2 * np.arange(new) + 1) * old  # in units of 1 / (2 * new) old pixels
    place, rest = np.divmod(centre, 2 * new)
    place[np.flatnonzero(rest == 0)[::2]] -= 1
    place.flags.writeable = False  # it is shared by those who ask for the same sizes
    return place


def _gather(array: np.ndarray, rows: np.ndarray, columns: np.ndarray, into: np.ndarray) -> None:
    """`array[rows][:, columns]` of (H,W) uint8. Both are taken as rows: rows are copied whole, columns by the pixel."""
    cv2.transpose(cv2.transpose(array.take(rows, axis=0)).take(columns, axis=0), dst=into)
