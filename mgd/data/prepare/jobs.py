"""Making the files of a data set: in parallel, each whole or not at all, and only those that are not there yet."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mgd.data.partitions import is_as_written, write_partition
from mgd.errors import UserError, first_few
from mgd.files import is_linked, read_lines
from mgd.parallel import in_order
from mgd.progress import Progress

RATIOS = (2, 4, 8, 16)


class Job(NamedTuple):
    """One file to make; `make(source, target)` writes it atomically, so that a target that is there is whole."""

    make: Callable[[Path, Path], None]
    source: Path
    target: Path
    photo: bool = False  # it is linked; one that is not so any more is of an archive that was unpacked again since


def run_jobs(jobs: Iterable[Job], caption: str) -> None:
    """Make every target that is not there yet, on all cores; what was made before an error or Ctrl-C stays.

    Raises:
        UserError: two jobs have one target, a source is missing, or one cannot be read: the first of them, by name.
    """
    jobs = list(jobs)
    twice = [target for target, count in Counter(job.target for job in jobs).items() if count > 1]
    if twice:
        raise UserError(f"{twice[0]} would be made from {sum(job.target == twice[0] for job in jobs)} sources")
    todo = [job for job in jobs if not _is_made(job)]
    if missing := [job.source for job in todo if not job.source.is_file()]:
        raise UserError(f"{len(missing)} files are missing, first {missing[0]}; unpack the archive again, whole")
    progress = Progress(total=len(jobs), initial=len(jobs) - len(todo), desc=caption, unit="file", disable=None)
    with progress:
        for _ in in_order(_make, todo):
            progress.update()


def _is_made(job: Job) -> bool:
    """Whether the target is there, and of a photo that it is the one that the archive has now."""
    if not job.target.exists():
        return False
    if not job.photo or not job.source.is_file():
        return True
    return is_linked(job.source, job.target)


def _make(job: Job) -> None:
    job.make(job.source, job.target)


def read_mat(path: Path, key: str) -> np.ndarray:
    """The variable `key` of a MATLAB file. Raises UserError when the file is broken or has no such variable."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        return loadmat(path, variable_names=[key])[key]
    except KeyError:
        raise UserError(f"{path} has no variable {key!r}; expected the data set's own .mat file") from None
    except (OSError, ValueError, TypeError, MatReadError, NotImplementedError) as error:
        raise UserError(f"{path} cannot be read as a MATLAB file ({error}); unpack it again") from error


def read_names(path: Path) -> list[str]:
    """The lines of a list. Raises UserError when it is missing or empty."""
    if not path.is_file():
        raise UserError(f"{path.absolute()} does not exist; is this the folder that the archive unpacks to?")
    if not (lines := [line.strip() for line in read_lines(path)]):
        raise UserError(f"{path.absolute()} is empty; unpack the archive again")
    return lines


def find(folder: Path, pattern: str, what: str) -> list[Path]:
    """The files of a folder whose paths in it fit `pattern`, sorted, without hidden ones, which systems leave.

    Raises:
        UserError: there is none; it says what was looked for, and what is there.
    """
    found = sorted(file for file in folder.glob(pattern) if not file.name.startswith("."))
    if not found:
        there = first_few(sorted(file.relative_to(folder) for file in folder.rglob("*") if file.is_file())) or "no file"
        raise UserError(f"{folder.absolute()} has no {pattern}, which is how {what} are called; found {there}")
    return found


def need_folder(path: Path, what: str) -> Path:
    """`path`, which must be a folder."""
    if not path.is_dir():
        raise UserError(f"{path.absolute()} is no folder; expected {what}")
    return path


def write_partitions(pattern: Path, lines: Sequence[str]) -> str:
    """Write the published partitions of a list; returns a warning for each that is there already and differs.

    One that was written here, of fewer photos perhaps, and that nobody has changed is written anew.
    """
    told = [
        write_partition(
            pattern,
            lines,
            range(0, len(lines), ratio),
            ratio=ratio,
            scheme="stride",
            seed=0,
            force=is_as_written(pattern, ratio, "stride"),
        )
        for ratio in RATIOS
    ]
    kept = (line for line in told if line.startswith("WARNING"))
    return "\n".join(f"{line}; delete it to have the published one" for line in kept)


def hold_out(names: Sequence[str], every: int) -> tuple[list[str], list[str]]:
    """(training, validation): every `every`-th name is for validation, where a data set has no split of its own."""
    if every < 2:
        raise UserError(f"--val-every {every} must be 2 or more: one image in so many is for validation")
    if len(names) < every:
        raise UserError(
            f"--val-every {every} leaves none of {len(names)} labelled images for validation; use a smaller one"
        )
    return [name for i, name in enumerate(names) if (i + 1) % every], list(names[every - 1 :: every])


def summary(out: Path, counts: Mapping[str, tuple[int, int | None]], warnings: str = "") -> str:
    """A table of what was made; `counts` has the number found and, where the data set has one, the number expected."""
    lines = []
    for name, (found, expected) in counts.items():
        note = "" if expected is None else "as published" if found == expected else f"WARNING: {expected:,} expected"
        lines.append(f"{name:<24}{found:>8,}  {note}".rstrip())
    return "\n".join([*lines, *warnings.splitlines(), f"in {out}"])
