"""Pictures for people: photos beside label maps, sheets of panels with captions and the classes' colours."""

from collections.abc import Sequence

import cv2
import numpy as np
from torch import Tensor

from mgd.data.classes import Classes
from mgd.data.transforms import resize

MARGIN, CAPTION = 4, 22  # pixels
ROWS = 256  # of a photo, that are blended at once
FONT = cv2.FONT_HERSHEY_SIMPLEX


def panels(image: Tensor, maps: Sequence[Tensor], classes: Classes) -> list[np.ndarray]:
    """(3,h,w) uint8 and label maps (H,W) -> RGB panels (H,W,3) of the photo and each map; ignored pixels are white."""
    height, width = maps[0].shape
    photo = cv2.resize(image.permute(1, 2, 0).numpy(), (width, height), interpolation=cv2.INTER_LINEAR)
    return [photo, *(classes.palette()[one.numpy()] for one in maps)]


def overlay(photo: np.ndarray, label: np.ndarray, classes: Classes) -> np.ndarray:
    """Blend a photo (H,W,3) with the colours of its label map (H,W); ignored pixels are left to the photo."""
    blended, palette = np.empty_like(photo), classes.palette()
    for top in range(0, len(photo), ROWS):  # so that large photos are not in memory several times as floats
        rows = slice(top, top + ROWS)
        colored = (0.4 * photo[rows] + 0.6 * palette[label[rows]]).astype(np.uint8)
        blended[rows] = np.where((label[rows] < len(classes))[..., None], colored, photo[rows])
    return blended


def panel(picture: np.ndarray, ignored: np.ndarray | None = None, *, width: int = 256) -> np.ndarray:
    """A picture (H,W,3), enlarged pixel by pixel or shrunk to `width`, for a sheet.

    Args:
        ignored: (H,W) bool, pixels that no loss looks at. They are hatched, last, so that stripes are equally wide.
    """
    height = round(picture.shape[0] * width / picture.shape[1])
    if picture.shape[1] > width:
        resized = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    else:
        resized = resize(picture, height, width, nearest=True)
    if ignored is None:
        return resized
    where = resize(ignored, height, width, nearest=True)
    y, x = np.ogrid[:height, :width]
    stripes = np.where(((y + x) // 4 % 2)[..., None] > 0, np.uint8(255), np.uint8(110))
    return np.where(where[..., None], stripes, resized)


def draw_sheet(
    rows: Sequence[Sequence[np.ndarray]], captions: Sequence[str], classes: Classes, *, texts: Sequence[str] = ()
) -> np.ndarray:
    """Rows of equally many panels of one width under captions, a text below each row; last the classes' colours."""
    column = rows[0][0].shape[1] + MARGIN
    width = column * len(captions)
    parts = [np.hstack([_strip(caption, column) for caption in captions])]
    for row, text in zip(rows, texts or [""] * len(rows), strict=True):
        parts.append(np.hstack([np.pad(one, [(0, 0), (0, MARGIN), (0, 0)], constant_values=255) for one in row]))
        parts.append(_strip(text, width)[: CAPTION if text else MARGIN])
    return np.concatenate([*parts, legend(classes, width)])


def _strip(text: str, width: int) -> np.ndarray:
    """A line of text on white, cut off where it is too long."""
    strip = np.full((CAPTION, width, 3), 255, np.uint8)
    cv2.putText(strip, text, (4, CAPTION - 7), FONT, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    return strip


def legend(classes: Classes, width: int) -> np.ndarray:
    """Colour boxes with names, in as many lines as they need."""
    named = [*zip(classes.names, classes.colors, strict=True)]
    cells = [(name, color, 30 + cv2.getTextSize(name, FONT, 0.4, 1)[0][0]) for name, color in named]
    lines: list[list[tuple[str, tuple[int, int, int], int]]] = [[]]
    for cell in cells:
        if lines[-1] and sum(c[2] for c in lines[-1]) + cell[2] > width:
            lines.append([])
        lines[-1].append(cell)
    strip = np.full((CAPTION * len(lines), width, 3), 255, np.uint8)
    for y, line in enumerate(lines):
        x = 4
        for name, color, cell_width in line:
            top = y * CAPTION + 5
            cv2.rectangle(strip, (x, top), (x + 14, top + 12), color, -1)
            cv2.rectangle(strip, (x, top), (x + 14, top + 12), (0, 0, 0), 1)
            cv2.putText(strip, name, (x + 18, top + 11), FONT, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
            x += cell_width
    return strip
