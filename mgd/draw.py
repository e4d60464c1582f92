"""Pictures for people: photos beside label maps, sheets of panels with captions and the classes' colours."""

from collections.abc import Sequence

import cv2
import numpy as np
from torch import Tensor

from mgd.data.classes import Classes

MARGIN, CAPTION = 4, 22  # pixels
FONT = cv2.FONT_HERSHEY_SIMPLEX


def panels(image: Tensor, maps: Sequence[Tensor], classes: Classes) -> list[np.ndarray]:
    """(3,h,w) uint8 and label maps (H,W) -> RGB panels (H,W,3) of the photo and each map; ignored pixels are white."""
    height, width = maps[0].shape
    photo = cv2.resize(image.permute(1, 2, 0).numpy(), (width, height), interpolation=cv2.INTER_LINEAR)
    return [photo, *(classes.palette()[one.numpy()] for one in maps)]


def overlay(photo: np.ndarray, label: np.ndarray, classes: Classes) -> np.ndarray:
    """Blend a photo (H,W,3) with the colours of its label map (H,W); ignored pixels are left to the photo."""
    blended = (0.4 * photo + 0.6 * classes.palette()[label]).astype(np.uint8)
    return np.where((label < len(classes))[..., None], blended, photo)


def hatch(photo: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Draw diagonal stripes over the pixels (H,W) that no loss looks at."""
    rows, columns = np.ogrid[: where.shape[0], : where.shape[1]]
    stripes = np.where(((rows + columns) // 4 % 2).astype(bool)[..., None], np.uint8(255), np.uint8(110))
    return np.where(where[..., None], stripes, photo).astype(np.uint8)


def draw_sheet(rows: Sequence[Sequence[np.ndarray]], captions: Sequence[str], classes: Classes) -> np.ndarray:
    """Rows of equally many panels under captions, with the classes' colours below; small panels are drawn larger."""
    scale = max(1, round(200 / rows[0][0].shape[1]))
    enlarged = [[np.kron(panel, np.ones((scale, scale, 1), np.uint8)) for panel in row] for row in rows]
    column = max(panel.shape[1] for row in enlarged for panel in row)
    width = column * len(captions)
    header = np.full((CAPTION, width, 3), 255, np.uint8)
    for i, caption in enumerate(captions):
        cv2.putText(header, caption, (i * column + 4, CAPTION - 7), FONT, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    parts = [header]
    for row in enlarged:
        padded = [np.pad(p, [(0, 0), (0, column - p.shape[1]), (0, 0)], constant_values=255) for p in row]
        parts += [np.concatenate(padded, axis=1), np.full((MARGIN, width, 3), 255, np.uint8)]
    return np.concatenate([*parts, _legend(classes, width)])


def _legend(classes: Classes, width: int) -> np.ndarray:
    """Colour boxes with names, in as many lines as they need."""
    named = zip(classes.names, classes.colors, strict=True)
    cells = [(name, color, 30 + cv2.getTextSize(name, FONT, 0.4, 1)[0][0]) for name, color in named]
    lines: list[list[tuple[str, tuple[int, int, int], int]]] = [[]]
    for cell in cells:
        if lines[-1] and sum(c[2] for c in lines[-1]) + cell[2] > width:
            lines.append([])
        lines[-1].append(cell)
    legend = np.full((CAPTION * len(lines), width, 3), 255, np.uint8)
    for y, line in enumerate(lines):
        x = 4
        for name, color, cell_width in line:
            top = y * CAPTION + 5
            cv2.rectangle(legend, (x, top), (x + 14, top + 12), color, -1)
            cv2.rectangle(legend, (x, top), (x + 14, top + 12), (0, 0, 0), 1)
            cv2.putText(legend, name, (x + 18, top + 11), FONT, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
            x += cell_width
    return legend
