"""Training crops: what is decoded and resized for a crop alone is what the whole photo would give."""

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mgd.data.images import load_image, read_indices
from mgd.data.plain import PNG, decode_plain
from mgd.data.transforms import cut, draw_geometry, needed
from mgd.errors import UserError

SIZES = [(375, 500), (333, 500), (256, 512), (97, 131), (64, 48), (101, 7)]
SCALES = (0.5, 0.75, 1.0, 1.5, 1.75, 2.0, 1.3)


def photo(height: int, width: int, *, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Noise: neighbours differ by as much as they can."""
    shape = (height, width, 3) if channels == 3 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("crop", [32, 120])
def test_a_crop_resized_alone_is_the_crop_of_the_resized_photo(size: tuple[int, int], crop: int) -> None:
    image, rng = photo(*size), np.random.default_rng(1)
    for _ in range(40):
        geometry = draw_geometry(*size, scales=SCALES, crop=crop, rng=rng)
        flip, height, width, top, left, _ = geometry
        turned = np.ascontiguousarray(image[:, ::-1]) if flip else image
        whole = turned
        if size != (height, width):
            whole = cv2.resize(turned, (width, height), interpolation=cv2.INTER_LINEAR)
        above, below, before, after = geometry.extent
        expected = np.zeros((crop, crop, 3), np.uint8)
        expected[above:below, before:after] = whole[top : top + crop, left : left + crop]
        difference = np.abs(cut(image, geometry, fill=0).astype(int) - expected)
        assert difference.max() <= 1, geometry
        assert (difference > 0).mean() < 0.01, geometry  # one value in a hundred may be rounded the other way


def test_a_crop_reads_only_what_it_needs() -> None:
    # Cityscapes, twice as large: 800 new pixels are 400 old ones, and a neighbour on each side.
    part = needed(2048, 4096, 1000, 800)
    assert (part.first, part.last, part.scaled, part.start) == (499, 901, 804, 2)
    # Mirrored, the same part counts from the other end.
    assert needed(2048, 4096, 1000, 800, flip=True)[:2] == (2048 - 901, 2048 - 499)


def test_a_crop_is_never_in_the_photos_memory() -> None:
    image, rng = photo(64, 48), np.random.default_rng(1)
    for _ in range(60):
        geometry = draw_geometry(64, 48, scales=(1.0, 1.3), crop=32, rng=rng)
        for nearest in (False, True):
            array = image[..., 0] if nearest else image
            assert not np.may_share_memory(cut(array, geometry, fill=0, nearest=nearest), image)


def encoded(image: np.ndarray, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, form, **options)
    return buffer.getvalue()


def smooth(height: int, width: int, **options: int) -> np.ndarray:
    small = photo(height // 8 + 1, width // 8 + 1, **options)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def opencv_png(values: np.ndarray) -> bytes:
    """Every row of it has filter 1 (Sub)."""
    return cv2.imencode(".png", values)[1].tobytes()


def png(height: int, width: int, rows: bytes) -> bytes:
    """A grey PNG of rows that begin with their filter."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return PNG + b"".join(parts)


@pytest.mark.parametrize("size", [(48, 64), (37, 53)])
@pytest.mark.parametrize(
    ("form", "channels", "options"),
    [
        *[("JPEG", 3, {"subsampling": sampling, "quality": 85}) for sampling in (0, 1, 2)],
        ("JPEG", 3, {"progressive": True}),
        ("JPEG", 1, {}),
        ("PNG", 3, {}),
        ("PNG", 1, {}),
    ],
)
def test_the_fast_decoder_gives_the_pixels_of_the_thorough_one(
    size: tuple[int, int], form: str, channels: int, options: dict[str, object], tmp_path: Path
) -> None:
    path = tmp_path / "photo"
    path.write_bytes(encoded(smooth(*size, channels=channels), form, **options))
    fast = decode_plain(path)
    assert fast is not None
    with Image.open(path) as image:
        assert np.array_equal(fast, np.array(image.convert("RGB")))
    assert (decode_plain(path, grey=True) is not None) == (form == "PNG" and channels == 1)


def test_what_is_not_plain_is_left_to_the_thorough_decoder(tmp_path: Path) -> None:
    image, path = Image.fromarray(smooth(40, 56)), tmp_path / "photo"
    turned = Image.Exif()
    turned[274] = 6
    cases = [
        ("JPEG", image, {"exif": turned}),
        ("JPEG", image.convert("CMYK"), {}),
        ("PNG", image.convert("P"), {}),
        ("PNG", image.convert("RGBA"), {}),
        ("PNG", Image.fromarray(photo(9, 9, channels=1).astype(np.uint16)), {}),
        ("PNG", image.convert("1"), {}),
        ("BMP", image, {}),
    ]
    for form, content, options in cases:
        content.save(path, form, **options)
        assert decode_plain(path) is None, (form, content.mode)
    assert decode_plain(tmp_path / "none") is None


@pytest.mark.parametrize("form", ["JPEG", "PNG", "label"])
def test_a_damaged_file_is_never_read_otherwise_than_by_the_thorough_decoder(form: str, tmp_path: Path) -> None:
    path, rng, grey = tmp_path / "photo", np.random.default_rng(0), form == "label"
    whole = opencv_png(smooth(24, 40, channels=1)) if grey else encoded(smooth(24, 40), form)
    for place in rng.integers(0, len(whole), 400):
        damaged = bytearray(whole)
        damaged[place] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        fast = decode_plain(path, grey=grey)
        if fast is None:
            continue
        try:
            with Image.open(path) as image:
                image.load()
                slow = np.array(image.convert("L" if grey else "RGB"))
        except Exception as error:  # whatever Pillow makes of it
            pytest.fail(f"byte {place}: read, though {error}")
        assert np.array_equal(fast, slow), f"byte {place}"


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (2, 7), (4, 5), (5, 1), (375, 500), (601, 13)])
def test_label_maps_of_opencv_are_what_it_reads(size: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "label.png"
    for values in (photo(*size, channels=1), np.full(size, 255, np.uint8)):
        path.write_bytes(opencv_png(values))
        assert np.array_equal(read_indices(path), values)


@pytest.mark.parametrize("kept", [4, 5, 19, 20])
def test_label_maps_with_other_filters_further_down_are_read(kept: int, tmp_path: Path) -> None:
    values, path = photo(20, 30, channels=1), tmp_path / "label.png"
    differences = np.diff(values, axis=1, prepend=np.zeros((20, 1), np.uint8))  # filter 1 of PNG; 0: the values
    rows = [bytes([i < kept]) + (differences if i < kept else values)[i].tobytes() for i in range(20)]
    path.write_bytes(png(20, 30, b"".join(rows)))
    assert np.array_equal(read_indices(path), values)


@pytest.mark.parametrize("count", [3, 19, 20, 21])
def test_label_maps_with_a_row_too_few_are_left_to_the_thorough_decoder(count: int, tmp_path: Path) -> None:
    path = tmp_path / "label.png"
    path.write_bytes(png(20, 30, bytes([1, *[0] * 30]) * count))
    assert (decode_plain(path, grey=True) is None) == (count < 20)


def test_label_maps_are_read_by_either(tmp_path: Path) -> None:
    values, path = photo(30, 40, channels=1) % 19, tmp_path / "label.png"
    path.write_bytes(encoded(values, "PNG"))
    assert np.array_equal(read_indices(path), values)
    path.write_bytes(encoded(smooth(30, 40), "PNG"))
    with pytest.raises(UserError, match=r"mode RGB; expected a label map.*--format rgb"):
        read_indices(path)
    assert load_image(path).shape == (30, 40, 3)
