"""Whether a run may go on from the state that its folder holds."""

import shutil
from pathlib import Path
from typing import Any

import torch.distributed as dist

from mgd import checkpoint
from mgd.config import Experiment, from_dict, to_dict
from mgd.errors import UserError
from mgd.files import atomic

SNAPSHOT, SNAPSHOT_PATTERN = "iteration-{:07d}.pt", "iteration-*.pt"

# What a training state must hold beside the stepper's; one of an older version may not.
NEEDED = {"best", "evaluation_due", "written", "counts"}

# What may differ between a run and its resumption, since it is no part of what is trained.
FREE_KEYS = (
    *("run", "evaluate", "data.root", "data.workers", "data.cache", "model.weights_dir"),
    *("method.baseline", "method.score_teachers", "data.skip_broken", "train.max_skipped", "train.accumulate"),
)


def previous_state(folder: Path, config: Experiment, *, resume: bool) -> checkpoint.Recognised | None:
    """The run to go on from; None when the folder has none.

    Raises:
        UserError: there is one and `resume` is not asked for, or it was trained with other settings.
    """
    last = folder / "last.pt"
    if not last.exists():
        return None
    if not resume:
        raise UserError(f"{last} exists: go on with --resume, set another run.dir, or delete it to start anew")
    found = checkpoint.recognise(checkpoint.read(last), last)
    if found.config is None or not found.extra.get("training", {}).keys() >= NEEDED:
        raise UserError(f"{last} has no training state that can be gone on from; use another run.dir, or delete it")
    if (key := first_difference(_completed(found.config), to_dict(config))) is not None:
        raise UserError(f"{last} was trained with another {key}; set it back, or use another run.dir")
    return found


def _completed(config: dict[str, Any]) -> dict[str, Any]:
    """A run's config with the keys that are newer than it, at their defaults."""
    try:
        return to_dict(from_dict(config))
    except UserError:  # a key that is no more: told as a difference
        return config


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


def first_difference(old: Any, new: Any, key: str = "") -> str | None:
    """The first key, with both values, in which two config dicts differ apart from `FREE_KEYS`; None when in none."""
    if key in FREE_KEYS:
        return None
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            inner = first_difference(old.get(name), new.get(name), f"{key}.{name}".lstrip("."))
            if inner is not None:
                return inner
        return None
    same = list(old) == list(new) if isinstance(old, (list, tuple)) and isinstance(new, (list, tuple)) else old == new
    return None if same else f"{key} ({old!r}, now {new!r})"
