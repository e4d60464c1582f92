"""Photos and label maps from files: decoded fully, 8 bits a channel, or refused in one sentence."""

import re
import struct
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps

from mgd.data.label_map import UNCLEAR, value_table
from mgd.errors import UserError
from mgd.metrics import IGNORE_INDEX

# The 8-bit formats of OpenCV; Pillow reads them all.
IMAGE_SUFFIXES = {
    *(".avif", ".bmp", ".dib", ".gif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm"),
    *(".ras", ".sr", ".tif", ".tiff", ".webp"),
}
LOSSY = ("JPEG", "MPO", "JPEG2000")  # formats whose grey values are not those that were written
BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)  # what Pillow raises


def load_image(path: Path) -> np.ndarray:
    """RGB uint8 (H,W,3), turned upright where the camera wrote down how it was held (EXIF), as OpenCV does.

    Raises:
        UserError: the file is missing, truncated, no image, or has more than 8 bits a channel.
    """
    image, _ = _decode(path, upright=True)
    return np.array(image.convert("RGB"))  # a copy: torch wants arrays that it may write to


def read_indices(path: Path) -> np.ndarray:
    """(H,W) uint8: the values of a grey image, or the indices of one with a palette.

    Raises:
        UserError: the file is missing, truncated, no image, or not a single 8-bit channel without loss.
    """
    image, bits = _decode(path, upright=False)
    found = ""
    if image.mode not in ("L", "P"):
        found = f"is a {image.mode} image"
    elif image.format in LOSSY:
        found = f"is a {image.format} file, which changes values"
    elif image.mode == "L" and bits < 8:
        found = f"has {bits} bits a pixel, which are spread over 0..255 when they are read"
    if found:
        raise UserError(
            f"{path} {found}; expected a label map: an 8-bit PNG of class indices, one channel or palette",
            kind="format",
        )
    return np.asarray(image)


def load_label(
    path: Path, num_classes: int, ignore_values: tuple[int, ...] = (), label_map: tuple[str, ...] = ()
) -> np.ndarray:
    """Label map uint8 (H,W), values 0..num_classes-1 and 255. `ignore_values` become 255, others what `label_map` says.

    Raises:
        UserError: as `read_indices`, or when it holds a value that is no class.
    """
    table = value_table((*label_map, *(f"{value}=ignore" for value in ignore_values))).copy()
    table[(table >= num_classes) & (table != IGNORE_INDEX)] = UNCLEAR
    values = read_indices(path)
    label = table[values]
    if (label == UNCLEAR).any():
        wrong = sorted(set(np.unique(values)) - set(np.flatnonzero(table != UNCLEAR)))
        mapped = "a value that another one is mapped to must be named as well, " if label_map else ""
        raise UserError(
            f"{path} holds the label value {', '.join(map(str, wrong[:5]))}, expected 0..{num_classes - 1} or "
            f"{IGNORE_INDEX}; correct the labels, data.classes, or say what it means in data.label_map ({mapped}"
            f"such as {wrong[0]}=0) or data.ignore_values",
            kind="values",
        )
    return label


def read_palette(path: Path) -> np.ndarray | None:
    """(n,3) uint8: the colours of an image with a palette; None where it has none."""
    with Image.open(path) as image:
        colors = image.getpalette("RGB") if image.mode == "P" else None
    return None if colors is None else np.array(colors, np.uint8).reshape(-1, 3)


def _decode(path: Path, *, upright: bool) -> tuple[Image.Image, int]:
    """(image, bits a channel in the file); decoded fully, so that a truncated file fails here."""
    try:
        image = Image.open(path)
        bits = _bits(image, path)
        image.load()
        if upright:
            ImageOps.exif_transpose(image, in_place=True)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; put it there or take it out of the list", kind="missing") from None
    except BROKEN as error:
        raise UserError(
            f"{path} cannot be decoded ({error}); replace the file or take it out of the list", kind="unreadable"
        ) from error
    if bits > 8:
        raise UserError(f"{path} has {bits} bits a channel, expected 8; convert it", kind="depth")
    return image, bits


def _bits(image: ImageFile.ImageFile, path: Path) -> int:
    """Bits a channel in the file. Pillow's mode does not tell: it opens 16-bit colours as 8-bit ones, silently."""
    raw = " ".join(str(tile[3]) for tile in image.tile)  # how the decoder will unpack the file's values
    if image.mode == "F":
        return 32
    if image.mode.startswith("I") or re.search(r";16[BLN]", raw):
        return 16
    if image.format == "PPM" and (highest := re.search(r", (\d+)\)", raw)):
        return int(highest[1]).bit_length()
    if image.format == "JPEG2000":
        size = (head := path.read_bytes()[:4096]).find(b"\xff\x51")  # the marker SIZ, ISO/IEC 15444-1, A.5.1
        return (head[size + 40] & 0x7F) + 1
    grey = re.search(r"\bL;([24])", raw)
    return int(grey[1]) if grey else 8
