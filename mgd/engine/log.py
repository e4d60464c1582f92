"""What a run tells: text log, metrics.jsonl, TensorBoard, progress bar; and the record of what ran."""

import json
import logging
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

import cv2
import numpy as np
import timm
import torch
import torchvision
from PIL import Image
from tqdm import tqdm

from mgd.config import Experiment, to_dict
from mgd.errors import UserError
from mgd.files import write_json

log = logging.getLogger(__name__)
FILE_ONLY = logging.DEBUG


class TqdmHandler(logging.Handler):
    """Writes log lines above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def log_to_terminal(*, main: bool) -> None:
    """Begin logging; processes other than the main one tell errors only."""
    logger = logging.getLogger("mgd")
    logger.setLevel(logging.DEBUG if main else logging.ERROR)
    logger.propagate = False
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    terminal = _formatted(TqdmHandler(), "%(message)s")
    terminal.setLevel(logging.INFO)
    logger.addHandler(terminal)


def log_to_file(folder: Path) -> None:
    """Log to the run's log.txt as well. Raises UserError when the folder cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(folder / "log.txt")
    except OSError as error:
        raise UserError(f"run.dir={folder} cannot be written to ({error}); choose another run.dir") from error
    logging.getLogger("mgd").addHandler(_formatted(file, "%(asctime)s %(levelname)s %(message)s"))


def _formatted(handler: logging.Handler, text: str) -> logging.Handler:
    handler.setFormatter(logging.Formatter(text))
    return handler


def record_run(folder: Path, config: Experiment, **facts: Any) -> None:
    """Write config.json: the config as resolved, versions, git revision, machine."""
    libraries = {"torch": torch, "torchvision": torchvision, "timm": timm, "numpy": np, "opencv": cv2}
    versions = {"python": platform.python_version()} | {k: str(v.__version__) for k, v in libraries.items()}
    record = {"config": to_dict(config), "versions": versions, "git": _git_revision(), "command": sys.argv, **facts}
    write_json(folder / "config.json", record)


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


def _continue_jsonl(path: Path, size: int) -> TextIO:
    """Open for appending, without what a killed run had written after the state that is gone on from."""
    if path.is_file():
        kept = path.read_bytes()[:size]
        os.truncate(path, kept.rfind(b"\n") + 1)  # whole lines, whatever has happened to the file
    return open(path, "a", encoding="utf-8")


class Meter:
    """The run's stream of metrics. Does nothing on processes other than the main one."""

    def __init__(self, folder: Path, *, start: int, written: int, total: int, images: int, main: bool) -> None:
        """Goes on at iteration `start`, after the first `written` bytes of metrics.jsonl."""
        self.main, self.images = main, images
        self.last_time, self.last_step = time.perf_counter(), start
        self.total = total
        self.show_bar = main and sys.stderr.isatty()  # elsewhere (a file, a pipe) lines say the same
        self.bar = tqdm(total=total, initial=start, unit="it", disable=not self.show_bar, dynamic_ncols=True)
        if main:
            self.file = _continue_jsonl(folder / "metrics.jsonl", written)
            from torch.utils.tensorboard import SummaryWriter  # training alone needs it

            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)

    @property
    def written(self) -> int:
        """Bytes of metrics.jsonl that are on the disk for good."""
        if not self.main:
            return 0
        os.fsync(self.file.fileno())
        return os.fstat(self.file.fileno()).st_size

    def advance(self) -> None:
        self.bar.update()

    def train(self, step: int, values: dict[str, float], lr: float) -> None:
        """Report the means since the last call, with lr, speed and the time that is left."""
        if not self.main:
            return
        now = time.perf_counter()
        rate = self.images * (step - self.last_step) / (now - self.last_time)
        self.last_time, self.last_step = now, step
        terms = (f"{name.removeprefix('loss/')} {value:.4g}" for name, value in values.items())
        shown = ", ".join([*terms, f"lr {lr:.2g}", f"{rate:.1f} images/s"])
        self.bar.set_postfix_str(shown)
        left = timedelta(seconds=round((self.total - step) * self.images / rate))
        # With a bar on the terminal the line goes to the file only.
        level = FILE_ONLY if self.show_bar else logging.INFO
        log.log(level, "iteration %d/%d: %s, %s left", step, self.total, shown, left)
        self.write(step, {**values, "lr": lr, "images_per_second": rate})

    def write(self, step: int, values: dict[str, float]) -> None:
        """Add named values to metrics.jsonl and TensorBoard."""
        if not self.main:
            return
        finite = {k: (v if math.isfinite(v) else None) for k, v in values.items()}
        try:
            self.file.write(json.dumps({"step": step, **finite}) + "\n")
            self.file.flush()
        except OSError as error:
            raise UserError(f"{self.file.name} cannot be written ({error}); free space, then --resume") from error
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    def show(self, step: int, folder: Path) -> None:
        """Put the pictures of a folder into TensorBoard, under their names."""
        if not self.main or self.board is None:
            return
        for file in sorted(folder.rglob("*.png")):
            name = file.relative_to(folder).with_suffix("")
            self.board.add_image(f"validation/{name}", np.array(Image.open(file)), step, dataformats="HWC")

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave what happens inside (an evaluation, a save) out of images/s."""
        since = time.perf_counter()
        yield
        self.last_time += time.perf_counter() - since

    def close(self) -> None:
        self.bar.close()
        if self.main:
            self.file.close()
            self.board.close()
