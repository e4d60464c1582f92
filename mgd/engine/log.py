"""What a run tells: text log, metrics.jsonl, TensorBoard, progress bar."""

import errno
import json
import logging
import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from PIL import Image

from mgd.errors import UserError
from mgd.files import locked_by_another
from mgd.parallel import peak_memory
from mgd.progress import Progress

log = logging.getLogger(__name__)
FILE_ONLY = logging.DEBUG


class Lines(logging.Formatter):
    """Puts its level before what is no ordinary news."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        if record.levelno > logging.INFO:
            record.message = f"{record.levelname}: {record.message}"
        return super().formatMessage(record)


class TqdmHandler(logging.Handler):
    """Writes log lines above a progress bar instead of through it.

    A terminal that has been closed, or a pipe that nobody reads any more, ends no run: log.txt holds the lines.
    """

    def emit(self, record: logging.LogRecord) -> None:
        try:
            Progress.write(self.format(record), file=sys.stderr)
        except OSError as error:
            if error.errno not in (errno.EIO, errno.EPIPE):
                raise


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
    """Log to the run's log.txt as well, which keeps other processes from training there until `leave_file`.

    Raises:
        UserError: the folder cannot be written to, or another process trains there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(folder / "log.txt", encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UserError(f"run.dir={folder} cannot be written to ({error}); choose another run.dir") from error
    assert file.stream is not None  # it is opened above
    if locked_by_another(file.stream):
        file.close()
        raise UserError(f"run.dir={folder}: another process trains there; let it end, or choose another")
    logging.getLogger("mgd").addHandler(_formatted(file, "%(asctime)s %(message)s"))


def leave_file() -> None:
    """Log to no file any more, and let others train there."""
    logger = logging.getLogger("mgd")
    for handler in [one for one in logger.handlers if isinstance(one, logging.FileHandler)]:
        logger.removeHandler(handler)
        handler.close()


def _formatted(handler: logging.Handler, text: str) -> logging.Handler:
    handler.setFormatter(Lines(text))
    return handler


def _continue_jsonl(path: Path, size: int) -> TextIO:
    """Open for appending, without what a killed run had written after the state that is gone on from.

    Raises UserError where it cannot be written to.
    """
    try:
        if path.is_file():
            kept = path.read_bytes()[:size]
            os.truncate(path, kept.rfind(b"\n") + 1)  # whole lines, whatever has happened to the file
        return open(path, "a", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be written to ({error}); move it away, or make it writable") from error


def _board(folder: Path, start: int) -> Any:
    """TensorBoard's writer, which goes on after iteration `start`; None, which is told, where it is not installed.

    Raises UserError where the folder cannot be written to.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        log.info("no curves for TensorBoard (%s): pip install tensorboard; metrics.jsonl holds the same", error)
        return None
    try:
        return SummaryWriter(str(folder), purge_step=start + 1)
    except OSError as error:
        raise UserError(f"{folder} cannot be written to ({error}); move it away, or make it writable") from error


def _peak_memory(device: torch.device) -> float:
    """GiB that this process has held at most: of the GPU, or of the machine."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return peak_memory() / 2**30


class Meter:
    """The run's stream of metrics. Does nothing on processes other than the main one."""

    def __init__(
        self, folder: Path, device: torch.device, *, start: int, written: int, total: int, images: int, main: bool
    ) -> None:
        """Goes on at iteration `start`, after the first `written` bytes of metrics.jsonl."""
        self.main, self.images, self.device = main, images, device
        self.waited = 0.0  # seconds for data, since the last report
        self.last_time, self.last_step = time.perf_counter(), start
        self.total = total
        self.show_bar = main and sys.stderr.isatty()  # elsewhere (a file, a pipe) lines say the same
        self.bar = Progress(total=total, initial=start, unit="it", disable=not self.show_bar, dynamic_ncols=True)
        if main:
            self.file = _continue_jsonl(folder / "metrics.jsonl", written)
            self.board = _board(folder / "tensorboard", start)

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
        """Report the means since the last call, with lr, speed, memory and the time that is left."""
        if not self.main:
            return
        now = time.perf_counter()
        steps, seconds = step - self.last_step, now - self.last_time
        rate, each, wait = self.images * steps / seconds, seconds / steps, self.waited / steps
        self.last_time, self.last_step, self.waited, memory = now, step, 0.0, _peak_memory(self.device)
        told = {name.removeprefix("loss/"): value for name, value in values.items() if not name.startswith("raw/")}
        terms = (f"{name} {value:.4g}" for name, value in told.items())
        speed = f"{rate:.1f} images/s, {each:.3g} s/iteration with {wait:.2g} for data, {memory:.1f} GiB"
        shown = ", ".join([*terms, f"lr {lr:.2g}", speed])
        self.bar.set_postfix_str(shown)
        left = timedelta(seconds=round((self.total - step) * self.images / rate))
        # With a bar on the terminal the line goes to the file only.
        level = FILE_ONLY if self.show_bar else logging.INFO
        log.log(level, "iteration %d/%d: %s, %s left", step, self.total, shown, left)
        speeds = {"images_per_second": rate, "seconds_per_iteration": each, "data_seconds_per_iteration": wait}
        self.write(step, {**values, "lr": lr, **speeds, "peak_memory_gib": memory})

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count what happens inside as waiting for data."""
        since = time.perf_counter()
        yield
        self.waited += time.perf_counter() - since

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
        if self.board is not None:
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
            if self.board is not None:
                self.board.close()
