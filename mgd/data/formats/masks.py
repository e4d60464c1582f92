"""What the formats share whose labels are pictures, one for each photo: pairing them, and masks from their values."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from mgd.data.folders import IMAGES, LABELS, pairs_in
from mgd.data.formats.export import Color, Reading, is_photo, photo_name, photos_of
from mgd.errors import UserError

Pairs = Iterable[tuple[str, Path, Path]]  # name, photo, mask


def paired(source: Path, reading: Reading) -> Pairs:
    """(name, photo, mask) of an export: a folder with images/ and labels/, masks beside photos, or --images.

    Raises:
        UserError: a mask has no photo or a photo no mask.
    """
    if reading.images is None:
        pairs, problems = pairs_in(source, reading.label_pattern)
        if problems:
            raise problems[0]
        base = source / IMAGES if (source / IMAGES).is_dir() else source
        return [(photo_name(image.relative_to(base).as_posix()), image, mask) for image, mask in pairs]
    photos, base = photos_of(reading, (), source), source / LABELS if (source / LABELS).is_dir() else source
    masks = {mask.relative_to(base).with_suffix("").as_posix(): mask for mask in mask_files(base)}
    return [(name, photos.find(name), mask) for name, mask in masks.items()]


def mask_files(folder: Path) -> list[Path]:
    """The pictures below a folder of masks, in order of name. Raises UserError when there is none."""
    if found := sorted(file for file in folder.rglob("*") if is_photo(file)):
        return found
    raise UserError(f"{folder} has no masks; name the folder that holds them")


def by_value(values: np.ndarray, names: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Regions of an array (H,W) of places in `names`."""
    for value in np.unique(values):
        yield names[value], values == value


def color_codes(colors: Color | Sequence[Color] | np.ndarray) -> np.ndarray:
    """RGB (...,3) -> one number each, int32."""
    red, green, blue = np.moveaxis(np.asarray(colors, np.int32), -1, 0)
    return red << 16 | green << 8 | blue
