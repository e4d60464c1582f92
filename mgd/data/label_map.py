"""Label values that mean other classes than their number: `255=1`, `1..8=0..7`, `0=ignore`."""

import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from mgd.errors import UserError
from mgd.metrics import IGNORE_INDEX

UNCLEAR = 254  # marks a value of which the mapping does not say what it means; classes end below it
_RANGE = re.compile(r"(\d+)(?:\.\.(\d+))?")


@lru_cache(maxsize=16)
def value_table(entries: Sequence[str]) -> np.ndarray:
    """(256,) uint8: what each value of a label map means.

    A value that is not named keeps its number; but where another value was mapped to that number it is unclear which of
    the two is meant (masks of 1..8 that become 0..7 and still hold 0), so it becomes `UNCLEAR` until it is named.

    Args:
        entries: a tuple of FROM=TO; both a number or a range of the same length, a range may go to one number, and TO
            may be "ignore".

    Raises:
        UserError: another form, a value outside 0..255, a value named twice.
    """
    table = np.arange(256, dtype=np.uint8)
    named: dict[int, str] = {}
    for entry in entries:
        for value, target in _pairs(entry):
            if value in named:
                raise UserError(f"label_map: {entry} and {named[value]} both say what {value} means; keep one of them")
            named[value] = entry
            table[value] = target
    targets = {int(table[value]) for value in named if table[value] != value} - {IGNORE_INDEX}
    table[sorted(targets - named.keys())] = UNCLEAR
    table.flags.writeable = False  # it is shared by those who ask for the same entries
    return table


def with_ignored(entries: Sequence[str], values: Sequence[int]) -> tuple[str, ...]:
    """A mapping that ignores some values as well; what is said twice counts once."""
    return tuple(dict.fromkeys((*entries, *(f"{value}=ignore" for value in values))))


def describe(entries: Sequence[str], names: Sequence[str]) -> str:
    """What a mapping does, in words: `0 is ignored, 1 is background`."""
    table = value_table(entries)
    values = sorted({value for entry in entries for value, _ in _pairs(entry)})
    meant = {value: names[table[value]] if table[value] < len(names) else "no class" for value in values}
    meant |= {value: "ignored" for value in values if table[value] == IGNORE_INDEX}
    return ", ".join(f"{value} is {meant[value]}" for value in values)


def _pairs(entry: str) -> list[tuple[int, int]]:
    source, equals, target = (part.strip() for part in entry.partition("="))
    sources = _values(source)
    targets = [IGNORE_INDEX] if target == "ignore" else _values(target)
    if not equals or not sources or not targets or len(targets) not in (1, len(sources)):
        raise UserError(
            f"label_map: {entry!r} is no mapping; write FROM=TO with values or ranges of the same length, such as "
            "255=1, 1..8=0..7 or 0=ignore"
        )
    return list(zip(sources, targets * (len(sources) // len(targets)), strict=True))


def _values(text: str) -> list[int]:
    """The values of `7` or `1..8`; none where it is neither or outside 0..255."""
    match = _RANGE.fullmatch(text)
    if match is None:
        return []
    first, last = int(match[1]), int(match[2] or match[1])
    return list(range(first, last + 1)) if last <= IGNORE_INDEX else []
