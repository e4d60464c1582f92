"""Photos and label maps from files: decoded fully, 8 bits a channel, or refused in one sentence."""

import re
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, PngImagePlugin, TiffImagePlugin

from mgd.data.label_map import UNCLEAR, value_table, with_ignored
from mgd.data.plain import decode_plain
from mgd.errors import UserError
from mgd.metrics import IGNORE_INDEX

# The 8-bit formats of OpenCV; Pillow reads them all.
IMAGE_SUFFIXES = {
    *(".avif", ".bmp", ".dib", ".gif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm"),
    *(".ras", ".sr", ".tif", ".tiff", ".webp"),
}
# What label maps may be: formats, and compressions inside TIFF, that keep every value.
LOSSLESS = ("BMP", "DIB", "GIF", "PNG", "PPM", "SUN", "TIFF")
LOSSLESS_IN_TIFF = {
    *("raw", "tiff_raw_16", "packbits", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "lzma", "zstd"),
    *("tiff_ccitt", "group3", "group4", "tiff_thunderscan"),
}
_SUBFILE, _PHOTOMETRIC, _SAMPLES = 254, 262, 277  # tags of TIFF 6.0
_LIMITING = threading.Lock()
_LIMITED: list[dict[tuple[ModuleType, str], int]] = []  # the limits of each file that is being decoded
_PILLOWS: dict[tuple[ModuleType, str], Any] = {}  # its limits as they were
_SMALLER, _MASK = 1, 4  # bits of 254: what belongs to another page
_BANDS = (
    "expected grey, or red, green and blue, with or without alpha; write the bands to train on as an 8-bit RGB file, "
    "such as with gdal_translate -b 1 -b 2 -b 3"
)
BROKEN = (  # what Pillow raises
    *(OSError, SyntaxError, ValueError, EOFError, OverflowError, struct.error, Image.DecompressionBombError),
)
OPAQUE = 255  # alpha
LARGE = 178_956_970  # pixels; Pillow's own limit
PIXELS_A_BYTE = 2000  # in a file; deflate, which PNG and TIFF use, reaches 1,032 bytes


def load_image(path: Path, *, opaque: bool = False) -> np.ndarray:
    """RGB uint8 (H,W,3), turned upright where the camera wrote down how it was held (EXIF), as OpenCV does.

    Args:
        opaque: of masks: refuse a pixel that is transparent, whose colour nobody sees, but a black one, which is clear.

    Raises:
        UserError: the file is missing, truncated, no image, or has more than 8 bits a channel or other channels than
            grey or red, green and blue, with or without alpha.
    """
    if (plain := decode_plain(path)) is not None:
        return plain
    image, _ = _decode(path, upright=True)
    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"):
        raise UserError(f"{path} is a {image.mode} image; {_BANDS}", kind="format")
    if opaque and image.has_transparency_data:
        rgba = np.array(image.convert("RGBA"))
        if rgba[rgba[..., 3] != OPAQUE, :3].any():
            remedy = "fill them with the colour of a class, and save it without alpha"
            raise UserError(f"{path} has pixels that are transparent, so they have no colour; {remedy}", kind="format")
    return np.array(image.convert("RGB"))  # a copy: torch wants arrays that it may write to


def is_turned(path: Path) -> bool:
    """Whether `load_image` turns an image, which can be read, to be upright."""
    with _limits_for(path), Image.open(path) as image:
        return image.getexif().get(ExifTags.Base.Orientation) in range(2, 9)


def read_indices(path: Path) -> np.ndarray:
    """(H,W) uint8: the values of a grey image, or the indices of one with a palette.

    Raises:
        UserError: the file is missing, truncated, no image, or not a single 8-bit channel without loss.
    """
    if (plain := decode_plain(path, grey=True)) is not None:
        return plain
    image, bits = _decode(path, upright=False)
    compression, found = image.info.get("compression"), ""
    if image.format not in LOSSLESS:
        found = f"is a {image.format} file, which changes values"
    elif image.format == "TIFF" and compression not in LOSSLESS_IN_TIFF:
        found = f"is a TIFF file with {compression} compression, which changes values"
    elif image.mode not in ("L", "P"):
        found = "has 1 bit a pixel" if image.mode == "1" else f"is an image of mode {image.mode}"
    elif image.mode == "L" and bits < 8:
        found = f"has values of {bits} bits, which are spread over 0..255 when they are read"
    elif isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(_PHOTOMETRIC) == 0:
        found = "says that 0 is white, for which 0..255 is read as 255..0"
    if found:
        remedy = "; mgd prepare labels --format rgb makes such maps" if image.mode in ("RGB", "RGBA") else ""
        raise UserError(
            f"{path} {found}; expected a label map: an 8-bit PNG of class indices, one channel or palette{remedy}",
            kind="format",
        )
    return np.array(image)  # a copy: torch wants arrays that it may write to


def load_label(
    path: Path, num_classes: int, ignore_values: tuple[int, ...] = (), label_map: tuple[str, ...] = ()
) -> np.ndarray:
    """Label map uint8 (H,W), values 0..num_classes-1 and 255. `ignore_values` become 255, others what `label_map` says.

    Raises:
        UserError: as `read_indices`, or when it holds a value that is no class.
    """
    table, values = _class_table(num_classes, ignore_values, label_map), read_indices(path)
    if not ignore_values and not label_map and (values + 1).max() <= num_classes:  # 255 + 1 is 0 in uint8
        return values
    label = cv2.LUT(values, table)
    if (label == UNCLEAR).any():
        wrong = sorted(set(np.unique(values)) - set(np.flatnonzero(table != UNCLEAR)))
        mapped = "a value that another one is mapped to must be named as well, " if label_map else ""
        raise UserError(
            f"{path} holds the label value {', '.join(map(str, wrong[:5]))}, expected 0..{num_classes - 1} or "
            f"{IGNORE_INDEX}; correct the labels, data.classes, or say what it means in data.label_map ({mapped}"
            f"such as {wrong[0]}=0) or name it in data.ignore_values{_hint(values, table)}",
            kind="values",
        )
    return label


@lru_cache(maxsize=16)
def _class_table(num_classes: int, ignore_values: tuple[int, ...], label_map: tuple[str, ...]) -> np.ndarray:
    """(256,) uint8: the class of each value, 255, or `UNCLEAR` where it is none."""
    table = value_table(with_ignored(label_map, ignore_values)).copy()
    table[(table >= num_classes) & (table != IGNORE_INDEX)] = UNCLEAR
    return table


def _hint(values: np.ndarray, table: np.ndarray) -> str:
    """What a label's numbers seem to be in place of 0, 1, 2, ..., for the end of a sentence."""
    found = [int(value) for value in np.unique(values) if table[value] != IGNORE_INDEX]
    num_classes = int((table < UNCLEAR).sum())
    if found[0] >= 1 and found[-1] == num_classes:
        mapping = f"data.label_map=1..{num_classes}=0..{num_classes - 1}"
        return f". They seem to be counted from 1: subtract 1, so that they are 0..{num_classes - 1} ({mapping})"
    if table[IGNORE_INDEX] == IGNORE_INDEX in values and len(found) < num_classes:  # 255 is then the brightest shade
        found.append(IGNORE_INDEX)
    if 1 < len(found) <= num_classes:
        return f". They seem to be shades: write 0, 1, ... in place of {', '.join(map(str, found[:5]))}"
    return ""


def read_palette(path: Path) -> np.ndarray | None:
    """(n,3) uint8: the colours of an image with a palette; None where it has none."""
    with _limits_for(path), Image.open(path) as image:
        colors = image.getpalette("RGB") if image.mode == "P" else None
    return None if colors is None else np.array(colors, np.uint8).reshape(-1, 3)


def _decode(path: Path, *, upright: bool) -> tuple[ImageFile.ImageFile, int]:
    """(image, bits a channel in the file); decoded fully, so that a truncated file fails here."""
    try:
        with _limits_for(path):
            image = Image.open(path)
            bits, bands = _bits(image, path), _bands(image)
            multiplied, pages = "RGBa" in _packing(image), _pages(image)
            image.load()
        if upright:
            ImageOps.exif_transpose(image, in_place=True)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; put it there or take it out of the list", kind="missing") from None
    except MemoryError:
        raise UserError(f"{path} does not fit into this machine's memory; cut it into tiles", kind="memory") from None
    except BROKEN as error:
        if (bands := _bands_of_tiff(path)) > 1:  # Pillow only says that it cannot identify the file
            raise UserError(f"{path} has {bands} bands and cannot be read; {_BANDS}", kind="format") from error
        raise UserError(
            f"{path} cannot be decoded ({error}); replace the file or take it out of the list", kind="unreadable"
        ) from error
    if bits > 8:
        raise UserError(f"{path} has {bits} bits a channel, expected 8; convert it", kind="depth")
    if pages > 1:
        raise UserError(f"{path} holds {pages} images, expected one; write each as a file of its own", kind="format")
    if bands == 2:
        raise UserError(f"{path} has 2 bands; {_BANDS}", kind="format")
    # Pillow has divided the colours by the fourth band.
    if multiplied and image.getchannel("A").getextrema()[0] != OPAQUE:
        raise UserError(f"{path} has 4 bands, the last called a premultiplied alpha; {_BANDS}", kind="format")
    return image, bits


@contextmanager
def _limits_for(path: Path) -> Iterator[None]:
    """Pillow's limits are for files from strangers; these are the user's own, and large ones are not broken.

    A broken head may still claim more pixels than memory holds: more than the file's bytes could say are refused.
    """
    limits: dict[tuple[ModuleType, str], int] = {
        (Image, "MAX_IMAGE_PIXELS"): max(LARGE, PIXELS_A_BYTE * path.stat().st_size),
        (PngImagePlugin, "MAX_TEXT_CHUNK"): 2**30,
        (PngImagePlugin, "MAX_TEXT_MEMORY"): 2**30,
    }
    with _LIMITING:  # they are the process's: of several threads the largest hold, until the last has decoded
        if not _LIMITED:
            _PILLOWS.update({key: getattr(*key) for key in limits})
        _LIMITED.append(limits)
        for key in limits:
            setattr(*key, max(one[key] for one in _LIMITED))
    try:
        yield
    finally:
        with _LIMITING:
            _LIMITED.remove(limits)
            if not _LIMITED:
                for key, value in _PILLOWS.items():
                    setattr(*key, value)


def _packing(image: ImageFile.ImageFile) -> str:
    """How the decoder will unpack the file's values."""
    return " ".join(str(tile[3]) for tile in image.tile)


def _bands(image: ImageFile.ImageFile) -> int:
    """Samples a pixel of a TIFF file, whatever Pillow makes of them; 0 in other formats."""
    return int(image.tag_v2.get(_SAMPLES, 1)) if isinstance(image, TiffImagePlugin.TiffImageFile) else 0


def _pages(image: ImageFile.ImageFile) -> int:
    """Images in a file; the first is decoded. A TIFF file's masks and smaller copies, and what phones add, are none."""
    count = 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))
    if count == 1 or not isinstance(image, TiffImagePlugin.TiffImageFile):
        return count
    own = 0
    for page in reversed(range(count)):  # it ends at the first page, which is then decoded
        image.seek(page)
        own += not int(image.tag_v2.get(_SUBFILE, 0)) & (_SMALLER | _MASK)
    return own


def _bands_of_tiff(path: Path) -> int:
    """How many samples a pixel has by the head of a TIFF file; 0 where that cannot be told."""
    try:
        with open(path, "rb") as file:
            head = file.read(8)
            if head[:2] not in (b"II", b"MM"):
                return 0
            directory = TiffImagePlugin.ImageFileDirectory_v2(head + (file.read(8) if 43 in head[2:4] else b""))
            file.seek(directory.next)
            directory.load(file)
            return int(directory.get(_SAMPLES, 1))
    except (*BROKEN, TypeError, KeyError):
        return 0


def _bits(image: ImageFile.ImageFile, path: Path) -> int:
    """Bits a channel in the file; 8 only where values are read as they are, less where they are spread over 0..255.

    Pillow's mode does not tell: it opens 16-bit colours as 8-bit ones, silently.
    """
    raw = _packing(image)
    if image.mode == "F":
        return 32
    if re.search(r"\bI;32", raw):
        return 32
    if image.mode.startswith("I") or re.search(r";16[BLN]", raw):
        return 16
    if image.format == "PPM" and (highest := re.search(r", (\d+)\)", raw)):
        bits = int(highest[1]).bit_length()
        return bits if bits > 8 or highest[1] == "255" else min(bits, 7)
    if image.format == "JPEG2000":
        size = (head := path.read_bytes()[:4096]).find(b"\xff\x51")  # the marker SIZ, ISO/IEC 15444-1, A.5.1
        return (head[size + 40] & 0x7F) + 1
    grey = re.search(r"\bL;([24])", raw)
    return int(grey[1]) if grey else 8
