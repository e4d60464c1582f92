"""Whether, and how, a run may go on from the state that its folder holds."""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch.distributed as dist
from torch import Tensor

from mgd import checkpoint
from mgd.config import Experiment, completed, to_dict
from mgd.engine.inputs import Inputs, changes
from mgd.errors import UserError, first_few
from mgd.files import atomic
from mgd.weights import read

SNAPSHOT, SNAPSHOT_PATTERN = "iteration-{:07d}.pt", "iteration-*.pt"

# What a training state must hold beside the stepper's; one of an older version may not.
NEEDED = {"best", "evaluation_due", "written", "counts", "inputs", "stretch"}

# What may differ between a run and its resumption, since it is no part of what is trained; teachers and their maps
# are held against those of before by what is in them.
FREE_KEYS = (
    *("run", "evaluate", "data.root", "data.workers", "data.cache", "data.pack", "data.pack_dir", "model.weights_dir"),
    *("method.baseline", "method.score_teachers", "data.skip_broken", "train.max_skipped", "train.accumulate"),
    *("method.deep_teacher", "method.wide_teacher", "method.teach.dir", "model.init_from"),
)
# What may not even when it is asked for: the state would not fit.
FIXED_KEYS = (
    *("model", "method.name", "train.optimizer", "train.head_lr", "train.layer_decay", "train.ema", "train.precision"),
)
# What iterations that are added to a run may have of their own.
SCHEDULE_KEYS = ("train.lr", "train.power", "train.epochs", "train.max_iterations", "train.refine_iterations")


class Stretch(NamedTuple):
    """Iterations that one learning rate schedule runs over."""

    start: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class Wish:
    """How a run is to go on where its folder holds one."""

    resume: bool = False
    accept_changes: bool = False  # of data and settings
    more: int = 0  # iterations after its end, with a schedule of their own


class Previous(NamedTuple):
    """The state of a run that goes on."""

    iteration: int
    arch: dict[str, Any]
    training: dict[str, Any]
    config: dict[str, Any]
    changes: list[str]  # accepted ones, in words


def previous_state(folder: Path, config: Experiment, inputs: Inputs, wish: Wish) -> Previous | None:
    """The run to go on from; None when the folder has none.

    Raises:
        UserError: there is one and `wish` does not ask for it; there is none and iterations are to be added; its state
            does not fit, or it was trained with other settings or on other data and that is not accepted.
    """
    last = folder / "last.pt"
    if not last.exists():
        if wish.more:
            raise UserError(f"{last} does not exist: there is no run that could take {wish.more} iterations more")
        return None
    if not (wish.resume or wish.more or wish.accept_changes):
        raise UserError(f"{last} exists: go on with --resume, set another run.dir, or delete it to start anew")
    found = checkpoint.recognise(read(last), last)
    training = found.extra.get("training", {})
    if found.config is None or found.progress is None or not training.keys() >= NEEDED:
        raise UserError(f"{last} has no training state that can be gone on from; use another run.dir, or delete it")
    before = completed(found.config)
    settings = dict(differences(before, to_dict(config)))
    ended = found.progress[0] == found.progress[1]
    if ended and (wish.more or training["stretch"][0]):  # added iterations, made or to be made, have their own
        settings = {key: change for key, change in settings.items() if key not in SCHEDULE_KEYS}
    data = changes(training["inputs"], inputs)
    _refuse_what_does_not_fit(last, settings, training["inputs"], inputs)
    if settings and not wish.accept_changes:
        raise UserError(
            f"{last} was trained with another {first_few(settings.values())}; set it back, or use another run.dir, or "
            "go on all the same with --accept-changes"
        )
    if data and not wish.accept_changes:
        raise UserError(
            f"{last} was trained on other data: {'; '.join(data)}. Put back what it was trained on, or use another "
            "run.dir, or go on with what is there now with --accept-changes"
        )
    return Previous(found.progress[0], found.arch, training, before, [*settings.values(), *data])


def _refuse_what_does_not_fit(last: Path, settings: dict[str, str], old: Inputs, new: Inputs) -> None:
    fixed = [text for key, text in settings.items() if any(f"{key}.".startswith(f"{one}.") for one in FIXED_KEYS)]
    if fixed:
        raise UserError(f"{last} was trained with another {first_few(fixed)}; set it back, or use another run.dir")
    if len(old["classes"]) != len(new["classes"]):
        was, now = len(old["classes"]), len(new["classes"])
        raise UserError(
            f"{last} was trained for {was} classes, the data have {now} now, which its network does not fit; set "
            "data.classes back, or use another run.dir"
        )


def check_fits(file: Path, saved: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raise UserError where a state's tensors are not, by name and shape, those that these settings train."""
    names = sorted(saved.keys() | own.keys())
    if other := [n for n in names if n not in saved or n not in own or saved[n].shape != own[n].shape]:
        raise UserError(
            f"{file} does not fit what these settings train: {first_few(other)}; set them and the teachers back, or "
            "use another run.dir"
        )


def stretch_of(previous: Previous | None, length: int, more: int) -> Stretch:
    """The iterations that the learning rate falls over.

    Args:
        length: of a run from its beginning.
        more: iterations that are to be added. Asked for again while they are being made, they are not added twice.

    Raises:
        UserError: the run is not at its end yet, or beyond its new one.
    """
    if previous is None:
        return Stretch(0, length)
    iteration, stretch = previous.iteration, Stretch(*previous.training["stretch"])
    if more and iteration == stretch.stop:
        return Stretch(iteration, iteration + more)
    if more and not (stretch.start and stretch.stop == stretch.start + more):
        raise UserError(
            f"the run is at iteration {iteration} of {stretch.stop}: let it end with --resume, then ask for {more} more"
        )
    if stretch.start:
        return stretch
    if iteration > length:
        raise UserError(
            f"the run is at iteration {iteration} already, with these settings and data it has {length}; use a greater "
            "train.max_iterations or train.epochs"
        )
    return Stretch(0, length)


def keep_snapshot(folder: Path, iteration: int, keep: int) -> None:
    """Keep last.pt as iteration-<n>.pt, and of such files the last `keep`; to go back to one, copy it to last.pt."""
    if keep:
        with atomic(folder / SNAPSHOT.format(iteration)) as file, open(folder / "last.pt", "rb") as content:
            shutil.copyfileobj(content, file)  # no link: what is copied over last.pt would be in both
        for old in sorted(folder.glob(SNAPSHOT_PATTERN))[:-keep]:
            old.unlink()


def check_same_start(iteration: int, folder: Path) -> None:
    """Raise UserError where the processes of a run found it at different iterations."""
    if not dist.is_initialized():
        return
    found: list[int] = [0] * dist.get_world_size()
    dist.all_gather_object(found, iteration)
    if len(set(found)) > 1:
        raise UserError(f"the processes found {folder} at iterations {found}; all machines must share the run folder")


def differences(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """(key, key with both values) of what differs between two config dicts, apart from `FREE_KEYS`."""
    if key in FREE_KEYS:
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            yield from differences(old.get(name), new.get(name), f"{key}.{name}".lstrip("."))
        return
    same = list(old) == list(new) if isinstance(old, (list, tuple)) and isinstance(new, (list, tuple)) else old == new
    if not same:
        yield key, f"{key} ({old!r}, now {new!r})"
