"""What a run folder tells: its config, command, metrics and network."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mgd.deploy.source import Source, command_of, open_source
from mgd.errors import UserError
from mgd.files import read_text


@dataclass(frozen=True)
class Run:
    """A run that is reported on.

    Attributes:
        command: that trained it; "" where the folder does not tell.
        metrics: the lines of metrics.jsonl.
        facts: config.json: versions, git revision, images.
    """

    name: str
    folder: Path
    source: Source
    command: str
    metrics: list[dict[str, Any]]
    facts: dict[str, Any]


def read_runs(texts: list[str]) -> list[Run]:
    """`FOLDER` or `NAME:FOLDER` each; a folder holds last.pt, or run/last.pt.

    Raises:
        UserError: a folder or its last.pt is missing, a file in it is damaged, or two runs have one name.
    """
    runs = [_read(text) for text in texts]
    names = [run.name for run in runs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"two runs are called {twice[0]}; name them, such as first:{runs[0].folder}")
    return runs


def _read(text: str) -> Run:
    name, separator, path = text.partition(":")
    folder = Path(path if separator else text)
    if not (folder / "last.pt").is_file() and (folder / "run" / "last.pt").is_file():
        folder = folder / "run"
    if not (folder / "last.pt").is_file():
        raise UserError(f"{folder} has no last.pt; name the folder of a run that was trained")
    facts_file, metrics_file = folder / "config.json", folder / "metrics.jsonl"
    try:
        facts = json.loads(read_text(facts_file)) if facts_file.is_file() else {}
        lines = read_text(metrics_file).splitlines() if metrics_file.is_file() else []
        metrics = [json.loads(line) for line in lines if line.strip()]
    except ValueError as error:
        raise UserError(f"a file in {folder} is damaged ({error}); expected config.json and metrics.jsonl") from error
    whole = folder.resolve()
    given = whole.parent.name if whole.name == "run" else f"{whole.parent.name}/{whole.name}"
    source = open_source(folder / "last.pt")
    return Run(name if separator else given, folder, source, command_of(facts), metrics, facts)
