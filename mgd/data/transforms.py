"""Augmentation of an image together with its label map: pure functions of arrays and a generator."""

import cv2
import numpy as np

from mgd.metrics import IGNORE_INDEX


def augment(
    image: np.ndarray, label: np.ndarray | None, *, scales: tuple[float, ...], crop: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """The published augmentation: mirror with p 0.5, a scale drawn from `scales`, a random crop.

    Args:
        image: (H,W,3) uint8. label: (H,W) uint8 or None.

    Returns:
        image (crop,crop,3), label (crop,crop) or None, and the extent (top, bottom, left, right), int64, of what is
        image in the crop; the rest is padding: 0 in the image, 255 in the label.
    """
    if rng.random() < 0.5:
        image, label = image[:, ::-1], None if label is None else label[:, ::-1]
    scale = scales[rng.integers(len(scales))]
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    top, left = (int(rng.integers(max(0, side - crop) + 1)) for side in (height, width))
    image = _crop(resize(image, height, width), top, left, crop, fill=0)
    if label is not None:
        label = _crop(resize(label, height, width, nearest=True), top, left, crop, fill=IGNORE_INDEX)
    above, before = max(0, crop - height) // 2, max(0, crop - width) // 2
    extent = np.array([above, above + min(height, crop), before, before + min(width, crop)])
    return image, label, extent


def resize(array: np.ndarray, height: int, width: int, *, nearest: bool = False) -> np.ndarray:
    """(H,W) or (H,W,3) uint8 to the given size: bilinear, or nearest for label maps. Both keep things in their place.

    OpenCV's INTER_NEAREST does not: it takes the top left of the pixels that fall on one, which moves a label map by up
    to half a pixel against its photo.
    """
    if array.shape[:2] == (height, width):
        return array
    if nearest:
        return array[_nearest(array.shape[0], height)][:, _nearest(array.shape[1], width)]
    return cv2.resize(np.ascontiguousarray(array), (width, height), interpolation=cv2.INTER_LINEAR)


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


def _nearest(old: int, new: int) -> np.ndarray:
    """(new,) int64: the old pixel whose centre is nearest to that of each new one.

    Where two are as near (every pixel when a size is halved) they take turns: always the one or always the other would
    move the map.
    """
    centre = (2 * np.arange(new) + 1) * old  # in units of 1 / (2 * new) old pixels
    place, rest = np.divmod(centre, 2 * new)
    place[np.flatnonzero(rest == 0)[::2]] -= 1
    return place


def _crop(array: np.ndarray, top: int, left: int, crop: int, *, fill: int) -> np.ndarray:
    """Cut out (crop,crop); where the array is smaller it is centred, as in the official code."""
    part = array[top : top + crop, left : left + crop]
    missing_y, missing_x = crop - part.shape[0], crop - part.shape[1]
    pads = [(missing_y // 2, missing_y - missing_y // 2), (missing_x // 2, missing_x - missing_x // 2)]
    if array.ndim == 3:
        pads.append((0, 0))
    return np.pad(part, pads, constant_values=fill)
