"""JPEG and PNG files that hold nothing but ordinary 8-bit pixels: OpenCV decodes them in less time than Pillow."""

import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

PNG = b"\x89PNG\r\n\x1a\n"
LARGEST = 2**28  # pixels; what is larger is left to those who look closer
# Chunks of PNG that change no pixel and turn no image.
_HARMLESS = {b"IDAT", b"pHYs", b"tEXt", b"tIME", b"sRGB", b"gAMA", b"cHRM", b"iCCP", b"sBIT", b"bKGD"}
_SUB, _TRIED = 1, 4  # a filter of PNG's rows; so many are looked at before the others are inflated
_ADDED_UP = 2**23  # pixels whose sum an integral image holds
_FRAMES = {0xC0, 0xC1, 0xC2}  # of JPEG: baseline, extended and progressive, coded by Huffman
_WITHOUT_LENGTH = {0x01, 0xFF, *range(0xD0, 0xD9)}
_NO_PIXELS = re.compile(rb"\xff[^\x00\xd0-\xd7]")  # what ends coded pixels
_BETWEEN_SCANS = {0xC4, 0xDA}  # Huffman tables, the next scan


def decode_plain(path: Path, *, grey: bool = False) -> np.ndarray | None:
    """(H,W,3) uint8 RGB, or (H,W) of a grey PNG, as Pillow decodes it; None of a file that needs a closer look.

    That is whatever is no JPEG in YCbCr or grey and no grey or RGB PNG of 8 bits; has a palette, transparency or EXIF;
    is cut short, or cannot be read at all.

    Args:
        grey: of label maps; None of anything but a grey PNG.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            content = file.read()
    except OSError:
        return None
    channels = _channels_of_png(content) if content.startswith(PNG) else 0 if grey else _channels_of_jpeg(content)
    if not channels or (grey and channels != 1):
        return None
    if grey and (rows := _rows_of_differences(content)) is not None:
        return rows
    try:
        how = cv2.IMREAD_UNCHANGED if grey else cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
        return cv2.imdecode(np.frombuffer(content, np.uint8), how)
    except cv2.error:
        return None


def _channels_of_png(content: bytes) -> int:
    """1 or 3 where every chunk up to the last is there and harmless (PNG, chapter 5); else 0."""
    if len(content) < 33 or content[8:16] != b"\0\0\0\x0dIHDR":
        return 0
    width, height, bits, color, *methods = struct.unpack_from(">IIBBBBB", content, 16)
    if bits != 8 or color not in (0, 2) or any(methods) or not 0 < width * height <= LARGEST:
        return 0
    for kind, _, _ in _chunks(content):
        if kind == b"IEND":
            return 1 if color == 0 else 3
        if kind not in _HARMLESS:
            return 0
    return 0


def _chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(kind, where its data begins, where it ends) of the chunks of a PNG after the first."""
    place = 33
    while place + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        yield kind, place + 8, place + 8 + length
        place += 12 + length


def _rows_of_differences(content: bytes) -> np.ndarray | None:
    """(H,W) of a plain grey PNG all of whose rows tell how a pixel differs from the last (Sub), as OpenCV writes them.

    None of others, and of what is broken. libpng adds up byte by byte, which takes longer than inflating a label map;
    here it is an integral image, whose rows differ by the running sums.
    """
    width, height = struct.unpack_from(">II", content, 16)
    if width * height > _ADDED_UP:
        return None
    data = [(start, end) for kind, start, end in _chunks(content) if kind == b"IDAT"]
    for start, end in [(16, 29), *data]:
        if zlib.crc32(content[start - 4 : end]).to_bytes(4, "big") != content[end : end + 4]:
            return None
    inflater, stride = zlib.decompressobj(), 1 + width
    try:
        rows = inflater.decompress(b"".join(content[start:end] for start, end in data), _TRIED * stride)
        if rows[::stride].strip(bytes([_SUB])):
            return None
        rows += inflater.decompress(inflater.unconsumed_tail, max(1, height * stride + 1 - len(rows)))
    except zlib.error:
        return None
    if not inflater.eof or len(rows) != height * stride or rows[::stride].strip(bytes([_SUB])):
        return None
    sums = cv2.integral(np.frombuffer(rows, np.uint8).reshape(height, stride)[:, 1:]).astype(np.uint8)
    return sums[1:, 1:] - sums[:-1, 1:]


def _channels_of_jpeg(content: bytes) -> int:
    """1 or 3 where all markers up to the end are expected ones and ask for nothing more (ITU T.81, B.1); else 0."""
    if content[:2] != b"\xff\xd8":
        return 0
    place, channels, scans = 2, 0, 0
    while place + 4 <= len(content) and content[place] == 0xFF:
        marker = content[place + 1]
        if marker in _WITHOUT_LENGTH or (scans and marker not in _BETWEEN_SCANS):
            return 0
        (length,) = struct.unpack_from(">H", content, place + 2)
        segment = content[place + 4 : place + 2 + length]
        if marker == 0xDA:
            end = _NO_PIXELS.search(content, place + 2 + length)
            if end is None:
                return 0
            place, scans = end.start(), scans + 1
            if content[place:] == b"\xff\xd9":
                return channels
            continue
        if marker == 0xEE or (marker == 0xE1 and segment[:4] == b"Exif"):
            return 0
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if marker not in _FRAMES or len(segment) < 6:
                return 0
            bits, height, width, channels = struct.unpack_from(">BHHB", segment)
            parts = segment[6 : 6 + 3 * channels : 3]
            known = parts in (b"\x01\x02\x03", b"\x00\x01\x02") if channels == 3 else channels == 1
            if bits != 8 or not known or not 0 < width * height <= LARGEST:
                return 0
        place += 2 + length
    return 0
