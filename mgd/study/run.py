"""Trains the runs of a sweep, several at a time: each in a process of its own, after those that it waits for."""

import fcntl
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch

from mgd.engine.stop import SIGNALS, handled
from mgd.errors import Stopped, UserError
from mgd.files import write_text
from mgd.parallel import cores
from mgd.study.plan import Cell, read_report, write_config

log = logging.getLogger(__name__)
WAIT = 0.5  # seconds between two looks at a lock that is waited for


def run_all(cells: Sequence[Cell], sweep_file: str, *, jobs: int) -> dict[str, str]:
    """Train and score what is not done, `jobs` runs at a time; one that fails stops none but those that wait for it.

    Returns:
        Cell name -> why it has no score.

    Raises:
        Stopped: a signal asked for it; the runs have saved where they stand.
    """
    failed: dict[str, str] = {}
    left = [cell for cell in cells if not cell.is_done]
    log.info("%d runs: %d done, %d to train, %d at a time", len(cells), len(cells) - len(left), len(left), jobs)
    workers = Workers(sweep_file, jobs)
    going: dict[Future[str], Cell] = {}
    with ThreadPoolExecutor(jobs) as pool, workers.stopped_by_signals():
        while left or going:
            for cell in list(left):
                lost = [name for name in cell.waits_for if name in failed]
                if lost:
                    failed[cell.name] = f"waits for {lost[0]}, which has no result"
                    log.error("%s is left out: it %s", cell.name, failed[cell.name])
                elif len(going) == jobs or any(_is_open(name, left, going) for name in cell.waits_for):
                    continue
                else:
                    going[pool.submit(workers.run, cell)] = cell
                left.remove(cell)
            for future in wait(going, return_when=FIRST_COMPLETED).done:
                cell = going.pop(future)
                if problem := future.result():
                    failed[cell.name] = problem
                    log.error("%s failed: %s", cell.name, problem)
    return failed


def run_one(cell: Cell, cells: Sequence[Cell], sweep_file: str) -> None:
    """Train and score one cell in processes of its own, as a task of a job array does.

    Raises:
        UserError: one of the `cells` that it waits for has no result, perhaps half a teacher; or why it failed.
    """
    if cell.is_done:
        log.info("%s is done", cell.name)
        return
    if before := [one.name for one in cells if one.name in cell.waits_for and not one.is_done]:
        raise UserError(f"{cell.name} waits for {', '.join(before)}, which has no result; let that end first")
    workers = Workers(sweep_file, 1)
    with workers.stopped_by_signals():
        if problem := workers.run(cell):
            raise UserError(f"{cell.name} failed: {problem}")


class Workers:
    """The processes that train; no more than `jobs` at a time, which share the cores and the GPUs."""

    def __init__(self, sweep_file: str, jobs: int) -> None:
        self.sweep_file = sweep_file
        self.threads = max(1, cores() // jobs)
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        names = visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]
        self.gpus, self.slots = names[: torch.cuda.device_count()], SimpleQueue[int]()
        for slot in range(jobs):
            self.slots.put(slot)
        self.processes: set[subprocess.Popen[bytes]] = set()
        self.stopping = False

    def run(self, cell: Cell) -> str:
        """Train and score a cell; returns why there is no score, or ""."""
        slot, started = self.slots.get(), time.perf_counter()
        output = cell.folder / "output.txt"
        try:
            # What a sweep that was killed began goes on by itself.
            with locked(cell.folder, what="run", waits=lambda: not self.stopping) as lock:
                if cell.is_done:  # by whom we waited for
                    return ""
                cell.failure.unlink(missing_ok=True)
                config = str(write_config(cell, self.sweep_file))
                log.info("%s: started; its messages are in %s", cell.name, output)
                if cell.maps is not None:
                    # Another cell may be filling it, perhaps one of a sweep that was killed.
                    with locked(cell.maps, what="run", waits=lambda: not self.stopping) as maps:
                        self._do(["teach", config], output, slot, lock, maps)
                self._do(["train", config, "--resume"], output, slot, lock)
                self._do(["evaluate", config], output, slot, lock)
            took = timedelta(seconds=round(time.perf_counter() - started))
            miou = read_report(cell)["miou"]
            score = f"{100 * miou:.2f} mIoU" if isinstance(miou, float) else "no mIoU"
            log.info("%s: %s in %s", cell.name, score, took)
        except (UserError, OSError) as error:  # such as no memory for another process: the others go on
            if not self.stopping:
                with suppress(UserError):  # a full disk has been told
                    write_text(cell.failure, f"{error}\n")
            return str(error)
        finally:
            self.slots.put(slot)
        return ""

    def _do(self, command: list[str], output: Path, slot: int, *locks: int) -> None:
        """Run an mgd command; raises UserError where it ends with another status than 0."""
        if status := self._call(command, output, slot, *locks):
            raise UserError(f"mgd {command[0]} ended with status {status}: {_last_line(output)}")

    @contextmanager
    def stopped_by_signals(self) -> Iterator[None]:
        """SIGTERM and the like, and Ctrl-C, let every run save and end; then Stopped is raised, nothing is begun."""

        def stop(*_: object) -> None:
            if not self.stopping:
                self.stopping = True
                raise Stopped("stopped: every run has saved where it stands, and the same command goes on")

        with handled(stop, *SIGNALS, signal.SIGINT):
            try:
                yield
            except BaseException:
                self.stopping = True
                for process in list(self.processes):
                    process.terminate()
                for process in list(self.processes):
                    process.wait()
                raise

    def _call(self, command: list[str], output: Path, slot: int, *locks: int) -> int:
        """Run an mgd command; returns its status.

        It has a session of its own, so that a terminal's Ctrl-C reaches it through us alone, and holds the folders'
        locks as well: where we are killed, it goes on, and no second one may begin beside it.
        """
        if self.stopping:
            return -signal.SIGTERM
        with open(output, "ab") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "mgd", *command],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=self._environment(slot),
                pass_fds=locks,
                start_new_session=True,
            )
        self.processes.add(process)
        if self.stopping:  # since before the process could be told
            process.terminate()
        status = process.wait()
        self.processes.discard(process)
        return status

    def _environment(self, slot: int) -> dict[str, str]:
        """Cores and GPUs of a job. Threads that spin while they wait take the cores from the other jobs."""
        own = {"OMP_NUM_THREADS": str(self.threads), "OMP_WAIT_POLICY": "PASSIVE", **os.environ}
        if self.gpus:
            own["CUDA_VISIBLE_DEVICES"] = self.gpus[slot % len(self.gpus)]
        return own


@contextmanager
def locked(folder: Path, *, what: str, waits: Callable[[], bool] = lambda: False) -> Iterator[int]:
    """Keep another process out of a folder; yields the lock's file descriptor, to be passed on to a process in it.

    Args:
        waits: asked again and again while another process is in it, whether to go on waiting for that.

    Raises:
        UserError: another process is in it and is not waited for, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise UserError(f"{folder} cannot be written to ({error}); choose another folder in the sweep file") from error
    try:
        told = False
        while not _acquired(lock):
            if not waits():
                raise UserError(f"another {what} is at work in {folder}; wait for it, or stop it")
            if not told:
                log.info("waits for another %s that is at work in %s", what, folder)
            told = True
            time.sleep(WAIT)
        yield lock
    finally:
        os.close(lock)


def _acquired(lock: int) -> bool:
    """A file system without locks, such as some of clusters, keeps nobody out."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        log.debug("no lock can be had (%s): nothing keeps other processes out", error)
    return True


def _is_open(name: str, left: Sequence[Cell], going: Mapping[Any, Cell]) -> bool:
    return any(cell.name == name for cell in (*left, *going.values()))


def _last_line(output: Path) -> str:
    lines = output.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
