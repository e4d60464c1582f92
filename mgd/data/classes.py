"""Class names and colours: VOC, Cityscapes, CamVid, or a CSV file."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mgd.errors import UserError
from mgd.files import read_text, write_text
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
    reader = csv.DictReader(read_text(path).splitlines())
    if tuple(reader.fieldnames or ()) != COLUMNS:
        found = ",".join(reader.fieldnames or ())
        raise UserError(f"{path}: the header must be {','.join(COLUMNS)}, found {found}")
    rows = list(reader)
    names, colors = [], []
    for line, row in enumerate(rows, start=2):
        try:
            color = int(row["red"]), int(row["green"]), int(row["blue"])
            if int(row["index"]) != line - 2 or not all(0 <= value <= 255 for value in color):
                raise ValueError
        except (TypeError, ValueError):
            raise UserError(
                f"{path}, line {line}: expected index {line - 2}, a name and three values 0..255, found "
                f"{','.join(str(value) for value in row.values())}"
            ) from None
        names.append(row["name"])
        colors.append(color)
    if not 2 <= len(names) < IGNORE_INDEX:
        raise UserError(f"{path} lists {len(names)} classes; there must be 2 to {IGNORE_INDEX - 1}")
    return Classes(tuple(names), tuple(colors))


def write_classes(path: Path, names: Sequence[str], colors: Sequence[tuple[int, int, int]]) -> None:
    """Write the CSV file that `read_classes` reads."""
    rows: list[tuple[object, ...]] = [COLUMNS]
    rows += [(i, name, *color) for i, (name, color) in enumerate(zip(names, colors, strict=True))]
    write_text(path, "".join(",".join(map(str, row)) + "\n" for row in rows))


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
