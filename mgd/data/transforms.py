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
    """(H,W) or (H,W,3) uint8 to the given size: bilinear, or nearest for label maps."""
    if array.shape[:2] == (height, width):
        return array
    method = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
    return cv2.resize(np.ascontiguousarray(array), (width, height), interpolation=method)


def shrink(array: np.ndarray, short_side: int, *, nearest: bool = False) -> np.ndarray:
    """Shrink to this short side, keeping the aspect; unchanged when `short_side` is 0 or not smaller."""
    shortest = min(array.shape[:2])
    if not 0 < short_side < shortest:
        return array
    width, height = (round(side * short_side / shortest) for side in array.shape[1::-1])
    method = cv2.INTER_NEAREST if nearest else cv2.INTER_AREA
    return cv2.resize(array, (width, height), interpolation=method)


def _crop(array: np.ndarray, top: int, left: int, crop: int, *, fill: int) -> np.ndarray:
    """Cut out (crop,crop); where the array is smaller it is centred, as in the official code."""
    part = array[top : top + crop, left : left + crop]
    missing_y, missing_x = crop - part.shape[0], crop - part.shape[1]
    pads = [(missing_y // 2, missing_y - missing_y // 2), (missing_x // 2, missing_x - missing_x // 2)]
    if array.ndim == 3:
        pads.append((0, 0))
    return np.pad(part, pads, constant_values=fill)
