"""From a sweep to its runs: each one's config and folder, what it waits for, and whether it is done."""

import json
import pprint
import re
from collections.abc import Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from mgd.config import MGD, Experiment, fill_in, load, override, to_dict
from mgd.data.datasets import open_splits
from mgd.engine.resume import differences
from mgd.errors import UserError, first_few
from mgd.files import write_text
from mgd.scores import scored_otherwise
from mgd.study.sweep import Row, Sweep

PLACE = re.compile(r"\{run:([^{}]*)\}")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a sweep."""

    row: str
    partition: int
    seed: int
    folder: Path  # of its config.py; the run is in run/ below
    config: Experiment
    waits_for: tuple[str, ...]  # names of cells

    @property
    def name(self) -> str:
        return cell_name(self.row, self.partition, self.seed)

    @property
    def report(self) -> Path:
        """The evaluation, which is the last thing that a run writes."""
        return self.folder / "run/evaluation/last.json"

    @property
    def is_done(self) -> bool:
        return self.report.is_file()

    @property
    def maps(self) -> Path | None:
        """Where its teachers leave what they say, with method.teachers="offline"; cells may share it."""
        method = fill_in(self.config, self.folder.resolve()).method
        return Path(method.teach.dir) if isinstance(method, MGD) and method.teachers == "offline" else None


def cell_name(row: str, partition: int, seed: int) -> str:
    """Name of a cell, and of its folder."""
    return f"{row}.p{partition}.s{seed}"


def plan(sweep: Sweep) -> list[Cell]:
    """The runs of a sweep, each after those that it waits for.

    Raises:
        UserError: a cell that no experiment can be, a run that the grid does not make, rows that wait for each other,
            a folder that holds a run with other settings.
    """
    cells = {}
    for name, row in sweep.rows.items():
        for partition in row.partitions or sweep.partitions or (sweep.base.data.partition,):
            for seed in row.seeds or sweep.seeds:
                cell = _cell(sweep, name, row, partition, seed)
                cells[cell.name] = cell
    for cell in cells.values():
        for other in cell.waits_for:
            if other not in cells:
                raise UserError(f"{cell.name} needs the run {other}, which the grid does not make; add it to the rows")
    try:
        order = TopologicalSorter({name: cell.waits_for for name, cell in cells.items()}).static_order()
        return [cells[name] for name in order]
    except CycleError as error:
        raise UserError(f"these runs wait for each other: {', '.join(error.args[1])}") from error


def check(cells: Sequence[Cell]) -> None:
    """Raise UserError where the data of a cell cannot be had, its folder holds a run with other settings, or the maps
    that it shares with another are not the same."""
    for data in {cell.config.data: None for cell in cells}:
        open_splits(data)
    _check_maps(cells)
    for cell in cells:
        if (cell.folder / "run").is_dir() and (cell.folder / "config.py").is_file():
            before, now = to_dict(load(cell.folder)), to_dict(fill_in(cell.config, cell.folder.resolve()))
            # The settings of the evaluation are no part of what is trained, but of the score.
            scored = differences({"evaluation": before["evaluate"]}, {"evaluation": now["evaluate"]})
            if changed := [text for _, text in (*differences(before, now), *scored)]:
                raise UserError(
                    f"{cell.folder} holds a run with another {first_few(changed)}; set it back, delete that folder, or "
                    "name another in Sweep(folder=...)"
                )


def _check_maps(cells: Sequence[Cell]) -> None:
    """Raise UserError where two cells would leave different teachers' maps in the same folder."""
    users: dict[Path, Cell] = {}
    for cell in cells:
        if cell.maps is None:
            continue
        other = users.setdefault(cell.maps, cell)
        own, found = _taught(cell.config), _taught(other.config)
        if changed := [key for key in own if own[key] != found[key]]:
            raise UserError(
                f"{other.name} and {cell.name} have the same method.teach.dir, {cell.maps}, with another "
                f"{first_few(changed)}: name another folder for one of them"
            )


def _taught(config: Experiment) -> dict[str, Any]:
    """The settings that decide what the teachers leave of which photos."""
    method, values, crop = config.method, to_dict(config), config.data.crop_size
    assert isinstance(method, MGD)
    facts = {f"method.{name}": values["method"][name] for name in ("deep_teacher", "wide_teacher")}
    teach = values["method"]["teach"] | {"dir": "", "crop_size": method.teach.crop_size or crop}
    teach |= {"feature_stride": method.feature_stride(crop), "stride": config.evaluate.stride}
    keys = ("root", "train_list", "train_folder", "partition_lists", "unlabeled", "classes", "short_side")
    return facts | {f"data.{key}": values["data"][key] for key in keys} | {"method.teach": teach}


def write_config(cell: Cell, sweep_file: str) -> Path:
    """Write the cell's config.py, which `mgd train` and `mgd evaluate` take as any other."""
    values = pprint.pformat(to_dict(cell.config), width=116, sort_dicts=False)
    text = (
        f'"""{cell.row}, 1/{cell.partition} labelled, seed {cell.seed}: written by mgd sweep {sweep_file}."""\n\n'
        f"from mgd.config import from_dict\n\nconfig = from_dict(\n{values}\n)\n"
    )
    path = cell.folder / "config.py"
    write_text(path, text)
    return path


def read_report(cell: Cell) -> dict[str, object]:
    """A finished cell's evaluation. Raises UserError where it is no evaluation's JSON, or one of other settings."""
    try:
        found = json.loads(cell.report.read_text())
        assert isinstance(found["miou"], float) or found["miou"] is None
        others = scored_otherwise(to_dict(cell.config), found["config"])
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise UserError(f"{cell.report} is not the JSON of an evaluation; delete it and sweep again") from error
    if others:
        raise UserError(f"{cell.report} is of another {first_few(others)} than the sweep; delete it and sweep again")
    return found


def _cell(sweep: Sweep, name: str, row: Row, partition: int, seed: int) -> Cell:
    waits_for: list[str] = []

    def run_of(match: re.Match[str]) -> str:
        other = match[1]
        if other not in sweep.rows:
            raise UserError(f"row {name}: {match[0]} is no row of the sweep; use one of {', '.join(sweep.rows)}")
        seeds = sweep.rows[other].seeds or sweep.seeds
        found = cell_name(other, partition, seeds[0] if len(seeds) == 1 else seed)
        waits_for.append(found)
        return str(Path(sweep.folder, found, "run"))

    changes = [PLACE.sub(run_of, change) for change in row.changes]
    own = [f"data.partition={partition}", f"train.seed={seed}", "run.dir={experiment}/run"]
    try:
        for key in ("data.partition", "train.seed", "run.dir"):
            if any(change.split("=")[0] == key for change in changes):
                raise UserError(f"{key} is not a change of a row: the sweep sets it")
        config = override(sweep.base, [*changes, *own])
    except UserError as error:
        raise UserError(f"row {name}: {error}") from error
    return Cell(
        row=name,
        partition=partition,
        seed=seed,
        folder=Path(sweep.folder, cell_name(name, partition, seed)),
        config=config,
        waits_for=tuple(dict.fromkeys(waits_for)),
    )
