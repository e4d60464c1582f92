"""What runs: told in the log, and put on record in the run's config.json."""

import json
import logging
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import timm
import torch
import torchvision

from mgd.config import Experiment, method_name, to_dict
from mgd.data.datasets import Splits
from mgd.engine.inputs import Inputs
from mgd.engine.optim import bf16_hint
from mgd.engine.resume import Stretch
from mgd.engine.step import Stepper
from mgd.errors import UserError
from mgd.files import read_text, write_json

log = logging.getLogger(__name__)


def describe(
    config: Experiment,
    splits: Splits,
    stepper: Stepper,
    *,
    start: int,
    epoch: int,
    refines_from: int,
    stretch: Stretch,
    inputs: Inputs,
) -> None:
    """Tell what runs, and put it on record.

    Args:
        start: the iteration that it goes on from.
        epoch: iterations in one.
        refines_from: the iteration from which on labels alone teach.
    """
    student, team = stepper.objective.student, stepper.team
    world, parts, batch = team.world, config.train.accumulate, config.train.batch_size
    parameters = sum(p.numel() for p in student.parameters()) / 1e6
    sizes = {"labelled": len(splits.labeled), "unlabelled": len(splits.unlabeled), "validation": len(splits.val)}
    log.info("%s: %s, %.1f M parameters", method_name(config.method), student.arch["backbone"], parameters)
    log.info("images: %s; %d classes", ", ".join(f"{n} {k}" for k, n in sizes.items()), len(splits.classes))
    log.info("partition: %s; sha256 of the labelled names %s", splits.source, splits.sha256[:12])
    log.info("batch: %d images / %d processes / %d parts = %d", batch, world, parts, batch // world // parts)
    device = "cpu" if team.device.type == "cpu" else f"{team.device} ({torch.cuda.get_device_name(team.device)})"
    log.info("device: %s, %s", device, str(stepper.precision).removeprefix("torch."))
    networks = [*stepper.networks, *stepper.objective.teachers.values()]
    if told := bf16_hint(networks, stepper.precision, team.device):
        log.info(told)
    log.info("iterations: %d, %d an epoch; folder: %s", stretch.stop, epoch, Path(config.run.dir))
    if refines_from < stretch.stop:
        log.info("of these the last %d on labels alone", stretch.stop - refines_from)
    facts: dict[str, Any] = {
        "images": sizes,
        "labeled_sha256": splits.sha256,
        "iterations": stretch.stop,
        "processes": world,
        "device": device,
    }
    if weights := stepper.objective.class_weights:
        facts["class_weights"] = dict(zip(splits.classes.names, weights, strict=True))
        log.info("class weights: %s", ", ".join(f"{k} {w:.3g}" for k, w in facts["class_weights"].items()))
    _record(config, start=start, stretch=stretch, inputs=inputs, **facts)


def _record(config: Experiment, *, start: int, **facts: Any) -> None:
    """Write config.json: the config as resolved, versions, git revision, command; what holds from iteration `start` on.

    A run that goes on with something changed, be it the versions alone, keeps what held before under "history".
    """
    file = Path(config.run.dir) / "config.json"
    libraries = {"torch": torch, "torchvision": torchvision, "timm": timm, "numpy": np, "opencv": cv2}
    versions = {"python": platform.python_version()} | {k: str(v.__version__) for k, v in libraries.items()}
    record: dict[str, Any] = {"start": start, "config": to_dict(config), "versions": versions, "git": _git_revision()}
    record = json.loads(json.dumps({**record, "command": sys.argv, **facts}))
    before = _previous_record(file) if start else {}
    history = before.pop("history", [])
    if before and {**record, "start": 0, "command": []} == {**before, "start": 0, "command": []}:
        record["start"] = before["start"]
    elif before:
        history = [*history, before]
    write_json(file, {**record, "history": history})


def _previous_record(file: Path) -> dict[str, Any]:
    """What config.json holds; nothing where it is gone. Raises UserError where it is no such file any more."""
    if not file.is_file():
        return {}
    try:
        return {"start": 0, **json.loads(read_text(file))}
    except (ValueError, TypeError) as error:
        raise UserError(f"{file} is not the record that a run writes ({error}); move it away, then --resume") from error


def _git_revision() -> str | None:
    """Revision of the code, with + where it was changed; None outside a repository."""
    try:
        git = ["git", "-C", str(Path(__file__).parent)]
        revision, changes = (
            subprocess.run([*git, *arguments], capture_output=True, text=True, check=True).stdout.strip()
            for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"])
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return revision + ("+" if changes else "")
