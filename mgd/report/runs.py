"""What a run folder tells: its config, command, metrics and network."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mgd.deploy.source import Source, command_of, open_source
from mgd.errors import UserError
from mgd.files import read_text
from mgd.weights import checkpoint_file


@dataclass(frozen=True)
class Run:
    """A run that is reported on.

    Attributes:
        path: of the checkpoint.
        command: that trained it; "" where the folder does not tell.
        metrics: the lines of metrics.jsonl.
        facts: config.json: versions, git revision, images.
    """

    name: str
    path: Path
    source: Source
    command: str
    metrics: list[dict[str, Any]]
    facts: dict[str, Any]


def read_runs(texts: list[str]) -> list[Run]:
    """`FOLDER` or `NAME:FOLDER` each; a folder holds last.pt, or run/last.pt.

    Raises:
        UserError: a folder or its last.pt is missing, a file in it is damaged, a run is named twice, or two have one
            name.
    """
    runs = [_read(text) for text in texts]
    files = [run.path.resolve() for run in runs]
    if again := [run for run, file in zip(runs, files, strict=True) if files.count(file) > 1]:
        raise UserError(f"{again[0].path.parent} is named twice; name every run once")
    names = [run.name for run in runs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"two runs are called {twice[0]}; name them, such as first:{runs[0].path.parent}")
    return runs


def with_teachers(runs: Sequence[Run]) -> list[Run]:
    """The runs and the teachers that they were distilled from, as "NAME's T_D" and "NAME's T_W".

    Teachers come after the first run, which others are compared with, so that the last one stays the last. A teacher
    that is among the runs, or whose file is no longer there, is not added.
    """
    known = {run.path.resolve() for run in runs}
    found = []
    for run in runs:
        for role, path in teachers_of(run).items():
            if path.resolve() not in known:
                known.add(path.resolve())
                found.append(_open(f"{run.name}'s {role}", path))
    first = min(len(runs) - 1, 1)
    return [*runs[:first], *found, *runs[first:]]


def teachers_of(run: Run) -> dict[str, Path]:
    """Role -> checkpoint of the frozen teachers that a run's config names, as far as they are there."""
    method = run.source.config.method if run.source.config else None
    named = {role: getattr(method, key, ()) for role, key in (("T_D", "deep_teacher"), ("T_W", "wide_teacher"))}
    files = {role: filter(Path.is_file, map(checkpoint_file, paths)) for role, paths in named.items()}
    return {role: file for role, existing in files.items() if (file := next(existing, None))}


def _read(text: str) -> Run:
    name, separator, path = text.partition(":")
    folder = Path(path if separator else text)
    if not (folder / "last.pt").is_file() and (folder / "run" / "last.pt").is_file():
        folder = folder / "run"
    if not (folder / "last.pt").is_file():
        raise UserError(f"{folder} has no last.pt; name the folder of a run that was trained")
    whole = folder.resolve()
    given = whole.parent.name if whole.name == "run" else f"{whole.parent.name}/{whole.name}"
    return _open(name if separator else given, folder / "last.pt")


def _open(name: str, path: Path) -> Run:
    folder = path.parent
    facts_file, metrics_file = folder / "config.json", folder / "metrics.jsonl"
    try:
        facts = json.loads(read_text(facts_file)) if facts_file.is_file() else {}
        text = read_text(metrics_file) if metrics_file.is_file() else ""
        lines = text.split("\n")[:-1]  # a process that was killed may have left half a line behind them
        metrics = [json.loads(line) for line in lines if line.strip()]
        if strange := [one for one in (facts, *metrics) if not isinstance(one, dict)]:
            raise ValueError(f"{strange[0]!r:.40} is no object")
    except ValueError as error:
        raise UserError(f"a file in {folder} is damaged ({error}); expected config.json and metrics.jsonl") from error
    return Run(name, path, open_source(path), command_of(facts), metrics, facts)
