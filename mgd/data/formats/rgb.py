"""RGB masks: a colour for each class, from a table that is given, or learnt from the masks for a person to fill in."""

import csv
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mgd.data.formats.export import Color, Export, Photo, Reading, Region, Size
from mgd.data.formats.masks import by_value, color_codes, mask_files, paired
from mgd.data.images import load_image
from mgd.errors import UserError
from mgd.files import csv_text, read_text, write_text
from mgd.parallel import in_order

COLUMNS = ["name", "red", "green", "blue"]
LEARNT = [*COLUMNS, "percent", "note"]
NOISE = 24  # a colour no further than this, in each channel, from a far more frequent one is taken for its noise
SHOWN = 254  # colours in a learnt table; more are no classes


def read(source: Path, reading: Reading) -> Export:
    """A folder with images/ and labels/ (or as `masks.paired` says) and a colour table.

    Raises:
        UserError: there is no table (then what to do), or it is wrong; a mask or photo has no partner.
    """
    if reading.colors is None:
        raise UserError(
            f"--format rgb needs a colour table: learn one with `mgd prepare colors {source} --out colors.csv`"
        )
    table = read_table(reading.colors)
    photos = tuple(
        Photo(name, image, mask, partial(regions, mask, table, reading.tolerance))
        for name, image, mask in paired(source, reading)
    )
    colors: dict[str, Color] = {}
    for name, color in table:
        colors.setdefault(name, color)
    return Export(tuple(colors), photos, covers=True, colors=colors, table=table)


def read_table(path: Path) -> tuple[tuple[str, Color], ...]:
    """(name, colour) of a CSV file with the columns name, red, green, blue; several colours may have one name.

    Raises:
        UserError: no such file, a column or name is missing, a colour stands twice or is none.
    """
    reader = csv.DictReader(read_text(path).splitlines())
    if lost := [column for column in COLUMNS if column not in (reader.fieldnames or ())]:
        raise UserError(f"{path} has no column {', '.join(lost)}; expected {','.join(COLUMNS)} in the first line")
    table: list[tuple[str, Color]] = []
    for line, row in enumerate(reader, start=2):
        try:
            color = int(row["red"]), int(row["green"]), int(row["blue"])
            if not all(0 <= value <= 255 for value in color):
                raise ValueError
        except (TypeError, ValueError):
            raise UserError(f"{path}, line {line}: expected three values 0..255, found {row}") from None
        if not (name := (row["name"] or "").strip()):
            raise UserError(f"{path}, line {line}: the colour {color} has no name; fill it in, or __ignore__")
        if color in (other for _, other in table):
            raise UserError(f"{path}, line {line}: the colour {color} stands there twice; keep one line")
        table.append((name, color))
    if not table:
        raise UserError(f"{path} has no colour; expected a line for each class")
    return tuple(table)


def regions(path: Path, table: tuple[tuple[str, Color], ...], tolerance: int, size: Size) -> Iterator[Region]:
    """The classes of an RGB mask.

    Args:
        tolerance: a colour this far off in every channel is still its class's, the nearest one.

    Raises:
        UserError: a pixel has the colour of no class, or is transparent.
    """
    mask = load_image(path, opaque=True)
    codes, inverse = np.unique(color_codes(mask), return_inverse=True)
    colors = np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=-1)
    distance = np.abs(colors[:, None] - np.array([color for _, color in table])[None]).max(axis=-1)
    nearest, off = distance.argmin(axis=1), distance.min(axis=1)
    if (strange := off > tolerance).any():
        count = int(np.isin(inverse, np.flatnonzero(strange)).sum())
        worst = np.flatnonzero(strange)[0]
        name, color = table[nearest[worst]]
        raise UserError(
            f"{path}: {count:,} pixels have the colour of no class, such as {tuple(map(int, colors[worst]))}; the "
            f"nearest is {name} {color}, {off[worst]} off: add a line to the table, or allow noise with --tolerance "
            f"{off.max()}"
        )
    names = tuple(dict.fromkeys(name for name, _ in table))
    places = np.array([names.index(name) for name, _ in table])
    return by_value(places[nearest][inverse].reshape(mask.shape[:2]), names)


def learn_table(source: Path, out: Path) -> str:
    """Write the colours of a folder of masks as a table to fill in; returns it, for a person to read.

    Colours that look like noise of another (JPEG, or edges that were smoothed) are left out of the table and told.

    Args:
        source: a folder of masks, or one that has labels/.

    Raises:
        UserError: no masks, a broken one, more colours than classes can be; the table is there already.
    """
    if out.exists():
        raise UserError(f"{out} is there already; fill in its names, or delete it")
    counts: Counter[int] = Counter()
    for codes, pixels in in_order(_colors, mask_files(source / "labels" if (source / "labels").is_dir() else source)):
        counts.update(dict(zip(codes.tolist(), pixels.tolist(), strict=True)))
    total, kept, noise = sum(counts.values()), list[int](), Counter[int]()
    for code, count in counts.most_common():
        near = next((one for one in kept if _near(one, code) and counts[one] > 20 * count), None)
        if near is None:
            kept.append(code)
        else:
            noise[near] += count
    if len(kept) > SHOWN:
        raise UserError(f"{source} has {len(kept):,} colours; expected masks with one colour for each class, as PNG")
    rows: list[list[Any]] = [LEARNT]
    for code in kept:
        note = f"and {noise[code]:,} pixels of nearly this colour: use --tolerance {NOISE}" if noise[code] else ""
        rows.append(["", *_rgb(code), f"{100 * counts[code] / total:.3f}", note])
    write_text(out, text := csv_text(rows))
    return f"{text}{out}: {len(kept)} colours; give each a name (or __ignore__), then --format rgb --colors {out}"


def _colors(path: Path) -> tuple[np.ndarray, np.ndarray]:
    return np.unique(color_codes(load_image(path, opaque=True)), return_counts=True)


def _near(one: int, other: int) -> bool:
    return all(abs(a - b) <= NOISE for a, b in zip(_rgb(one), _rgb(other), strict=True))


def _rgb(code: int) -> Color:
    return code >> 16, code >> 8 & 255, code & 255
