"""What becomes of an export's classes: merged, dropped, ignored by name, and what a pixel without a region means."""

from dataclasses import dataclass
from typing import Literal

from mgd.data.classes import Classes, voc_color
from mgd.data.formats.export import IGNORE, Color, Export
from mgd.errors import UserError, first_few
from mgd.metrics import IGNORE_INDEX

BACKGROUND = "background"
UNTOLD = 254  # marks pixels of which nobody said what they mean; classes end below it


@dataclass(frozen=True, kw_only=True)
class Rules:
    """By class names of the export."""

    merge: tuple[str, ...] = ()  # NEW=OLD,OLD: these classes become one
    drop: tuple[str, ...] = ()  # as if nobody had drawn these
    ignore: tuple[str, ...] = ()  # these pixels become 255
    unmarked: Literal["", "background", "ignore"] = ""  # what a pixel is that no region covers


@dataclass(frozen=True)
class Values:
    """The classes of the data set that is made, and the label value of each name of the export."""

    classes: Classes
    of: dict[str, int]  # a dropped name is not in it
    unmarked: int  # `UNTOLD` where no pixel should be left


def values(export: Export, rules: Rules, order: Classes | None = None) -> Values:
    """Apply rules to an export's classes.

    Args:
        order: the classes that are made, where they shall be those of another data set.

    Raises:
        UserError: a rule names a class that the export lacks, or two rules the same; nobody says what unmarked pixels
            are; fewer than 2 classes are left, or too many.
    """
    merged = _merged(export, rules)
    for option, chosen in (("--drop", rules.drop), ("--ignore", rules.ignore)):
        _check_known(option, chosen, export)
    if twice := sorted(set(rules.drop) & set(rules.ignore) | (set(merged) & {*rules.drop, *rules.ignore})):
        raise UserError(f"{twice[0]} is in two of --merge, --drop and --ignore; keep it in one")
    if not rules.unmarked and (rules.drop or not export.covers):
        reason = f"{first_few(rules.drop)} is dropped" if export.covers else "the format does not say it"
        raise UserError(
            f"what is a pixel that no region covers ({reason})? Say --unmarked background: it shows no class and is "
            "learnt as background; or --unmarked ignore: nobody looked at it, no loss does either"
        )
    final = {name: merged.get(name, name).strip() for name in export.names}
    left = [final[name] for name in export.names if name not in {*rules.drop, *rules.ignore, IGNORE}]
    if "" in left:
        raise UserError(f"the export has a class without a name among {first_few(export.names)}; give it one")
    if rules.unmarked == BACKGROUND and BACKGROUND not in left:
        left.insert(0, BACKGROUND)
    names = tuple(dict.fromkeys(left))
    if order and (strange := [name for name in names if name not in order.names]):
        raise UserError(f"--classes does not name {strange[0]!r}; add it, or --merge, --drop or --ignore it")
    names = order.names if order else names
    if not 2 <= len(names) < UNTOLD:
        raise UserError(f"{len(names)} classes are left ({first_few(names)}); there must be 2 to {UNTOLD - 1}")
    of = {old: names.index(new) for old, new in final.items() if new in names and old not in rules.drop}
    of |= dict.fromkeys((IGNORE, *rules.ignore), IGNORE_INDEX)
    unmarked = {"": UNTOLD, "ignore": IGNORE_INDEX}.get(rules.unmarked)
    classes = order or Classes(names, _colors(names, final, export))
    return Values(classes, of, names.index(BACKGROUND) if unmarked is None else unmarked)


def _merged(export: Export, rules: Rules) -> dict[str, str]:
    """Old name -> new name."""
    merged: dict[str, str] = {}
    for rule in rules.merge:
        new, equals, olds = rule.partition("=")
        chosen = [old.strip() for old in olds.split(",") if old.strip()]
        if not equals or not new.strip() or not chosen:
            raise UserError(f"--merge {rule} is no rule; write NEW=OLD,OLD with names of classes")
        _check_known("--merge", chosen, export)
        if twice := [old for old in chosen if old in merged]:
            raise UserError(f"--merge puts {twice[0]} into {merged[twice[0]]} and into {new.strip()}; keep one")
        merged |= dict.fromkeys(chosen, new.strip())
    return merged


def _check_known(option: str, names: list[str] | tuple[str, ...], export: Export) -> None:
    if strange := [name for name in names if name not in export.names]:
        listed = ", ".join(export.names[:30])
        raise UserError(f"{option} names {strange[0]!r}, which is no class of the export; it has {listed}")


def _colors(names: tuple[str, ...], final: dict[str, str], export: Export) -> tuple[Color, ...]:
    """The export's colours where it has them, that of the first of merged classes; else VOC's, none of them twice."""
    known: dict[str, Color] = {}
    for name in export.names:
        if name in export.colors:
            known.setdefault(final[name], export.colors[name])
    free = (color for i in range(256) if (color := voc_color(i)) not in known.values())
    return tuple(known[name] if name in known else next(free) for name in names)
