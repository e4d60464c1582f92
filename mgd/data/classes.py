"""Class names and colours: VOC, Cityscapes, CamVid, or a CSV file."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mgd.data.names import one_form
from mgd.errors import UserError, first_few
from mgd.files import csv_text, read_text, write_text
from mgd.metrics import IGNORE_INDEX

COLUMNS = ("index", "name", "red", "green", "blue")


@dataclass(frozen=True)
class Classes:
    """Names and RGB colours, in the order of the label values."""

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]

    def __len__(self) -> int:
        return len(self.names)

    def palette(self) -> np.ndarray:
        """(256,3) uint8: class colours; white for `IGNORE_INDEX` so that it differs from VOC's black background."""
        table = np.zeros((256, 3), np.uint8)
        table[: len(self)] = self.colors
        table[IGNORE_INDEX] = 255
        return table


def read_classes(name: str, root: Path) -> Classes:
    """The built-in classes of that name, else those of the CSV file `root/name`.

    Raises:
        UserError: neither exists, or the file's header, numbering or colours are wrong.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    path = root / name
    if not path.is_file():
        raise UserError(
            f"{path} does not exist: data.classes must be one of {', '.join(BUILT_IN)} or a CSV file below data.root "
            f"with the header {','.join(COLUMNS)}"
        )
    header, *rows = _rows(path) or [[]]
    if [cell.lower() for cell in header] != [*COLUMNS]:
        remedy = "; separate them by commas" if len(header) == 1 and re.search("[;\t|]", header[0]) else ""
        raise UserError(f"{path}: the header must be {','.join(COLUMNS)}, found {','.join(header)}{remedy}")
    names, colors = [], []
    for place, row in enumerate(rows):
        try:
            index, name, *values = row
            color = tuple(map(int, values))
            if int(index) != place or not name or len(color) != 3 or not all(0 <= value <= 255 for value in color):
                raise ValueError
        except ValueError:
            expected = f"expected index {place}, a name and three values 0..255"
            raise UserError(f"{path}, line {place + 2}: {expected}, found {','.join(row)}") from None
        names.append(name)
        colors.append((color[0], color[1], color[2]))
    if not 2 <= len(names) < IGNORE_INDEX:
        raise UserError(f"{path} lists {len(names)} classes; there must be 2 to {IGNORE_INDEX - 1}")
    _refuse_twins(names, path)
    return Classes(tuple(names), tuple(colors))


def write_classes(path: Path, names: Sequence[str], colors: Sequence[tuple[int, int, int]]) -> None:
    """Write the CSV file that `read_classes` reads. Raises UserError where two classes have one name."""
    _refuse_twins(names, path)
    rows = ((i, name, *color) for i, (name, color) in enumerate(zip(names, colors, strict=True)))
    write_text(path, csv_text([COLUMNS, *rows]))


def _rows(path: Path) -> list[list[str]]:
    """The rows of a CSV file that are not blank, without the empty cells that spreadsheets write behind a row."""
    try:
        rows = [[one_form(cell.strip()) for cell in row] for row in csv.reader(io.StringIO(read_text(path)))]
    except csv.Error as error:
        raise UserError(f"{path} cannot be read as CSV ({error}); expected the header {','.join(COLUMNS)}") from error
    for row in rows:
        while row and not row[-1]:
            row.pop()
    return [row for row in rows if row]


def _refuse_twins(names: Sequence[str], path: Path) -> None:
    """Scores are told by name: of two classes of one name, one would be lost."""
    if twins := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise UserError(f"{path}: {first_few(twins)} is the name of more than one class; give each a name of its own")


def voc_color(index: int) -> tuple[int, int, int]:
    """VOC's colour map: the index's bits, dealt to red, green and blue from the top bit down."""
    color = [0, 0, 0]
    for bit in range(8):
        color[bit % 3] |= (index >> bit & 1) << (7 - bit // 3)
    return color[0], color[1], color[2]


VOC_NAMES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)

BUILT_IN = {
    "voc": Classes(VOC_NAMES, tuple(voc_color(i) for i in range(21))),
    "city": Classes(
        (
            *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"),
            *("terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
        ),
        (
            *((128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153)),
            *((250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60)),
            *((255, 0, 0), (0, 0, 142), (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32)),
        ),
    ),
    "camvid": Classes(
        (
            *("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian"),
            "bicyclist",
        ),
        (
            *((128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0)),
            *((192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192)),
        ),
    ),
}
