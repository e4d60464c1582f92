"""What a sweep file defines, and how it is read."""

import re
import runpy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mgd.config import Experiment, override
from mgd.errors import UserError

NAME = re.compile(r"[\w.+=][\w.+=-]*( [\w.+=-]+)*")  # a row's name is the name of a folder
FIXED = {"data.partition": "partitions", "train.seed": "seeds", "run.dir": "folder"}  # what a sweep sets, and by what


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the table: the base experiment with changes.

    In a change, {run:NAME} is the run folder of row NAME with the same partition and seed (of a row with one seed, that
    one); it is trained before: `method.deep_teacher={run:deep}/last.pt`, and
    `method.baseline={run:supervised}/evaluation/last.json`.
    """

    changes: tuple[str, ...] = ()  # such as method=cps, train.lr=0.1
    partitions: tuple[int, ...] = ()  # empty: those of the sweep
    seeds: tuple[int, ...] = ()  # empty: those of the sweep


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A grid: rows x partitions x seeds."""

    base: Experiment
    rows: Mapping[str, Row]  # name -> what is different
    partitions: tuple[int, ...] = ()  # empty: that of the base
    seeds: tuple[int, ...] = (0,)
    reference: str = ""  # the row that the others are held against; "": the first
    folder: str = "{sweep}/runs"  # of the runs and tables; {sweep} is the folder of the sweep file

    def __post_init__(self) -> None:
        if not isinstance(self.base, Experiment):
            raise UserError(f"base must be an Experiment, found {type(self.base).__name__}")
        if not self.rows:
            raise UserError("rows is empty; name one, such as rows={'supervised': Row()}")
        for name, row in self.rows.items():
            if not isinstance(name, str) or not NAME.fullmatch(name):
                raise UserError(f"row {name!r} cannot be the name of a folder; use letters, digits and . _ + - =")
            if not isinstance(row, Row):
                raise UserError(f"row {name} is {type(row).__name__}; write Row(changes=(...))")
            if isinstance(row.changes, str):
                raise UserError(f"row {name}: changes is a text; write changes=({row.changes!r},)")
            if wrong := [change for change in row.changes if not isinstance(change, str)]:
                text = f"row {name}: {wrong[0]!r} is no text such as 'train.lr=0.1'"
                raise UserError(f"{text}; write * before a tuple of changes")
            _check_numbers(f"row {name}: ", partitions=row.partitions, seeds=row.seeds)
        if self.reference and self.reference not in self.rows:
            raise UserError(f"reference={self.reference!r} is not a row; use one of {', '.join(self.rows)}")
        if not self.seeds:
            raise UserError("seeds is empty; name one, such as seeds=(0,)")
        _check_numbers("", partitions=self.partitions, seeds=self.seeds)


def load_sweep(path: str | Path, overrides: Sequence[str] = ()) -> Sweep:
    """Read `sweep` from a sweep file, apply overrides to its base, and fill in {sweep}.

    Raises:
        UserError: no such file, broken Python, an unknown key, a value that no sweep has.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist; name a sweep file, a Python file with sweep = Sweep(...)")
    try:
        sweep = runpy.run_path(str(path)).get("sweep")
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except Exception as error:  # a sweep file is a person's Python: whatever it raises is a mistake in it
        raise UserError(f"{path} cannot be read as a sweep: {type(error).__name__}: {error}") from error
    if not isinstance(sweep, Sweep):
        raise UserError(f"{path} must define `sweep = Sweep(...)`, found {type(sweep).__name__}")
    for key in (text.partition("=")[0] for text in overrides):
        if key in FIXED and (key != "data.partition" or sweep.partitions):
            raise UserError(f"{key} is not a change of the base: the sweep sets it; change its {FIXED[key]} in {path}")
    folder = sweep.folder.replace("{sweep}", str(path.parent))
    return replace(sweep, base=override(sweep.base, overrides), folder=folder)


def _check_numbers(where: str, **values: Any) -> None:
    """Raise UserError where a value is no tuple of different whole numbers."""
    for key, numbers in values.items():
        least = {"partitions": 1, "seeds": 0}[key]
        whole = isinstance(numbers, tuple) and all(type(n) is int and n >= least for n in numbers)
        if not whole or len(set(numbers)) < len(numbers):
            raise UserError(f"{where}{key}={numbers!r} must be different whole numbers from {least} on, such as (1, 2)")
