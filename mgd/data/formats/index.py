"""Index masks: one channel or a palette, each value a class, as named or mapped (`1..8=0..7`, `0=ignore`)."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from mgd.data.classes import Classes, read_classes
from mgd.data.formats.export import IGNORE, Export, Photo, Reading, Region, Size, named_classes
from mgd.data.formats.masks import by_value, paired
from mgd.data.images import read_indices
from mgd.data.label_map import UNCLEAR, value_table
from mgd.errors import UserError
from mgd.metrics import IGNORE_INDEX


def read(source: Path, reading: Reading) -> Export:
    """A folder with images/ and labels/ (or as `masks.paired` says), and its classes.csv or `reading.classes`.

    Raises:
        UserError: a mask or photo has no partner, the values have no names, a mapping is wrong.
    """
    table = value_table(reading.label_map)
    classes = _named(source, reading)
    names = classes.names
    photos = tuple(
        Photo(name, image, mask, partial(regions, mask, table, names)) for name, image, mask in paired(source, reading)
    )
    return Export(names, photos, covers=True, colors=dict(zip(names, classes.colors, strict=True)))


def regions(path: Path, table: np.ndarray, names: tuple[str, ...], size: Size) -> Iterator[Region]:
    """The classes of an index mask. Raises UserError when it holds a value that is none."""
    found = read_indices(path)
    values = table[found]
    if (unclear := values == UNCLEAR).any():
        value = found[unclear][0]
        raise UserError(
            f"{path} holds {value}, which the mapping leaves as it is although it maps another value to {value}; "
            f"say {value}={value} or {value}=ignore as well"
        )
    if (strange := (values >= len(names)) & (values != IGNORE_INDEX)).any():
        raise UserError(
            f"{path} holds the value {found[strange][0]}, which is none of the {len(names)} classes; map it "
            f"(--map {found[strange][0]}=ignore), or name it with --classes"
        )
    places = np.where(values == IGNORE_INDEX, len(names), values)
    return by_value(places, (*names, IGNORE))


def _named(source: Path, reading: Reading) -> Classes:
    if not reading.classes and not (source / "classes.csv").is_file():
        raise UserError(
            f"{source} has no classes.csv; name the values from 0 up: --classes background,leaf, or a CSV file"
        )
    return named_classes(reading.classes) if reading.classes else read_classes("classes.csv", source)
