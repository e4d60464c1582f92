"""From a sweep to its runs: each one's config and folder, what it waits for, and whether it is done."""

import json
import pprint
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import chain
from pathlib import Path
from typing import Any

from mgd.check import needs
from mgd.config import KD, Experiment, Taught, fill_in, is_offline, load, override, to_dict
from mgd.data.datasets import Splits, open_splits
from mgd.data.samples import TrainingSamples
from mgd.engine.inputs import VALIDATION, Inputs, changes, data_of
from mgd.engine.resume import differences
from mgd.errors import UserError, first_few
from mgd.files import read_text, write_text
from mgd.objectives import find_teacher, teacher_paths
from mgd.scores import check_excluded, scored_otherwise
from mgd.study.sweep import FIXED, Row, Sweep
from mgd.weights import checkpoint_file, end_of

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
    def failure(self) -> Path:
        """A text that says why it ended without a score when it was tried last."""
        return self.folder / "failed.txt"

    @property
    def maps(self) -> Path | None:
        """Where its teachers leave what they say, with method.teachers="offline"; cells may share it."""
        method = fill_in(self.config, self.folder.resolve()).method
        return Path(method.teach.dir) if is_offline(method) else None


def cell_name(row: str, partition: int, seed: int) -> str:
    """Name of a cell, and of its folder."""
    return f"{row}.p{partition}.s{seed}"


def plan(sweep: Sweep) -> list[Cell]:
    """The runs of a sweep, each after those that it waits for.

    Raises:
        UserError: a cell that no experiment can be, a run that the grid does not make, rows that wait for each other.
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
    """Raise UserError where a cell cannot be trained, or its folder or maps hold what is of other settings."""
    for data in {cell.config.data: None for cell in cells}:
        splits, mine = open_splits(data), [cell for cell in cells if cell.config.data == data]
        for cell in mine:
            if not cell.is_done:
                with _named(cell):
                    _check_needs(cell, splits)
        if done := [cell for cell in mine if cell.is_done]:
            _check_data(done, data_of(splits))
    _check_order(cells)
    for cell in {cell.config.model: cell for cell in cells if not cell.is_done}.values():
        with _named(cell):
            needs.network(cell.config, 0)
    _check_maps(cells)
    check_folders(cells)


def check_folders(cells: Sequence[Cell]) -> None:
    """Raise UserError where the folder of a cell holds a run with other settings, teachers or photos than its like."""
    for data in {cell.config.data: None for cell in cells}:
        _check_data([cell for cell in cells if cell.config.data == data and cell.is_done])
    for cell in cells:
        if (cell.folder / "run").is_dir() and (cell.folder / "config.py").is_file():
            before, now = to_dict(load(cell.folder)), to_dict(fill_in(cell.config, cell.folder.resolve()))
            found = (*differences(before, now), *differences(_learned_and_scored(before), _learned_and_scored(now)))
            if changed := [text for _, text in found]:
                raise UserError(
                    f"{cell.folder} holds a run with another {first_few(changed)}; set it back, delete that folder, or "
                    "name another in Sweep(folder=...)"
                )
        if cell.is_done:
            read_report(cell)
            _check_teachers(cell)


def _check_data(cells: Sequence[Cell], now: Inputs | None = None) -> None:
    """Raise UserError where finished cells of one data config are of other photos than each other, or than `now`."""
    for cell in cells:
        if (before := _inputs(cell)) is None:
            continue
        now = before if now is None else now
        if found := changes(before | {"teachers": {}}, now | {"teachers": {}}):
            raise UserError(
                f"{cell.folder} holds a run on other data: {'; '.join(found)}; put them back, delete that folder, or "
                "name another in Sweep(folder=...)"
            )


def _check_teachers(cell: Cell) -> None:
    """Raise UserError where a finished cell's teacher is there and another than it learned from."""
    config, before = fill_in(cell.config, cell.folder.resolve()), _inputs(cell)
    if before is None or not isinstance(config.method, Taught):
        return
    for name, files in teacher_paths(config.method).items():
        file = next(filter(Path.is_file, map(checkpoint_file, files)), None)
        if file is not None and name in before["teachers"] and end_of(file) != before["teachers"][name]:
            raise UserError(
                f"{cell.folder} was taught by another {name} teacher than {file} is now; delete that folder, to train "
                "it anew, or put the teacher back"
            )


def _check_order(cells: Sequence[Cell]) -> None:
    """Raise UserError where a cell is done and one that it learned from is not: what that becomes did not teach it."""
    by_name = {cell.name: cell for cell in cells}
    for cell in filter(lambda one: one.is_done, cells):
        taught = (_inputs(cell) or {}).get("teachers", {}).values()
        method, init = cell.config.method, cell.config.model.init_from
        files = chain([init], *teacher_paths(method).values()) if isinstance(method, Taught) else [init]
        learned = {Path(file).parent for file in files}
        for other in (by_name[name] for name in cell.waits_for):
            if other.is_done or other.folder / "run" not in learned:
                continue
            file = other.folder / "run/last.pt"
            if not (file.is_file() and end_of(file) in taught):  # else it is only to be scored again
                raise UserError(
                    f"{other.name} is to be trained, and {cell.name}, which learned from it, is done; delete "
                    f"{cell.folder}, to train it anew, or put {other.folder} back"
                )


def _inputs(cell: Cell) -> Inputs | None:
    """What a cell's run was trained on, by its own record; None where there is none."""
    try:
        found = json.loads((cell.folder / "run/config.json").read_text())["inputs"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, dict) else None


def _learned_and_scored(config: dict[str, Any]) -> dict[str, Any]:
    """What a run that goes on may have changed, but a score depends on.

    Of files that are learned from the run and the name count: folders may be moved.
    """
    files = {key: config["method"].get(key, ()) for key in ("deep_teacher", "wide_teacher")}
    files["init_from"] = [config["model"]["init_from"]]
    learned = {key: ["/".join(Path(file).parts[-3:]) for file in names] for key, names in files.items()}
    return {"evaluation": config["evaluate"], **learned}


@contextmanager
def _named(cell: Cell) -> Iterator[None]:
    """An error says which cell it is of."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{cell.name}: {error}") from error


def _check_needs(cell: Cell, splits: Splits) -> None:
    """Raise UserError where training would not begin: photos, classes or a teacher that no cell makes are missing."""
    config, made = fill_in(cell.config, cell.folder.resolve()), {cell.folder.parent / n / "run" for n in cell.waits_for}
    TrainingSamples(splits, config)
    check_excluded(config.evaluate.exclude, splits.classes)
    for name, files in teacher_paths(config.method).items() if isinstance(config.method, Taught) else ():
        if not made.intersection(Path(file).parent for file in files):
            find_teacher(files, name)


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
    assert is_offline(method)
    facts = {f"method.{name}": values["method"][name] for name in ("deep_teacher", "wide_teacher")}
    teach = values["method"]["teach"] | {"dir": "", "crop_size": method.teach.crop_size or crop}
    teach |= {"stride": config.evaluate.stride, "stored": method.stored}
    if not isinstance(method, KD):
        teach["feature_stride"] = method.feature_stride(crop)
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


def why_failed(cell: Cell) -> str:
    """Why a cell has no score, when it was tried last; "" where it has one, or nobody knows."""
    return read_text(cell.failure).strip() if cell.failure.is_file() and not cell.is_done else ""


def read_report(cell: Cell) -> dict[str, object]:
    """A finished cell's evaluation.

    Raises:
        UserError: it is no evaluation's JSON, or one of other settings, of another checkpoint than the cell's, where
            that is still there, or of other photos.
    """
    try:
        found = json.loads(cell.report.read_text())
        assert isinstance(found["miou"], float) or found["miou"] is None
        others = scored_otherwise(to_dict(cell.config), found["config"])
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise UserError(f"{cell.report} is not the JSON of an evaluation; delete it and sweep again") from error
    if others:
        raise UserError(f"{cell.report} is of another {first_few(others)} than the sweep; delete it and sweep again")
    checkpoint, trained = cell.folder / "run/last.pt", _inputs(cell) or {}
    if "end" in found and checkpoint.is_file() and end_of(checkpoint) != found["end"]:
        raise UserError(f"{cell.report} is of another checkpoint than {checkpoint} is now; delete it and sweep again")
    if VALIDATION in found and VALIDATION in trained and found[VALIDATION] != trained[VALIDATION]:
        raise UserError(f"{cell.report} is of other {VALIDATION} than the sweep's; delete it and sweep again")
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
        for key in FIXED:
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
