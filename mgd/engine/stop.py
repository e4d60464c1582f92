"""Pre-emption: SIGTERM, SIGUSR1 or SIGHUP asks a run to stop; all its processes stop at the same place."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from mgd.engine.distributed import Processes
from mgd.errors import Stopped

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
EVERY = 2.0  # seconds


@contextmanager
def handled(handler: Callable[[int, FrameType | None], None], *numbers: signal.Signals) -> Iterator[None]:
    """Let `handler` take these signals, but for those that are ignored, as SIGHUP is under nohup."""
    heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


class StopRequest:
    """Whether the run is to stop, as all its processes see it."""

    def __init__(self, team: Processes, *, at_most: int) -> None:
        """`at_most`: steps between two times that processes ask each other."""
        self.name = ""  # of the signal that came
        self.at_most = at_most
        self._pause, self._calls, self._since = 1, 0, time.perf_counter()  # until the next question
        wait = timedelta(seconds=team.timeout)
        # Over gloo, in host memory: nobody waits for a GPU.
        self._group: Any = dist.new_group(backend="gloo", timeout=wait) if team.world > 1 else None
        self._asked: tuple[Any, torch.Tensor] | None = None  # what is on its way, and the answer once it is there

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Note the signals instead of dying of them."""
        with handled(self._note, *SIGNALS):
            yield

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name

    def agreed(self) -> bool:
        """To be called by every process once a step, or once a validation image.

        Several processes ask each other about every EVERY seconds, by the slowest one's clock, and take the answer a
        step later, so that the question travels while a step is computed; it is the same on all.
        """
        if self._group is None:
            return bool(self.name)
        self._calls += 1
        if self._asked is not None:
            work, answer = self._asked
            work.wait()
            self._asked = None
            stops, seconds = answer.tolist()
            self._pause = max(1, min(self.at_most, int(EVERY / max(seconds, 1e-6))))
            if stops:
                return True
        if self._calls >= self._pause:
            now = time.perf_counter()
            answer = torch.tensor([float(bool(self.name)), (now - self._since) / self._calls])
            self._asked = dist.all_reduce(answer, dist.ReduceOp.MAX, group=self._group, async_op=True), answer
            self._since, self._calls = now, 0
        return False

    def leave(self) -> NoReturn:
        """Raise Stopped once all processes are here: the first that ends may end the job, and the main one saves."""
        if self._group is not None:
            dist.barrier(group=self._group)
        raise Stopped(f"stopped by {self.name or 'a signal to another process'}; --resume goes on")

    def stop_if_agreed(self) -> None:
        """Leave if it is agreed to: for where there is nothing to save."""
        if self.agreed():
            self.leave()

    def settle(self) -> None:
        """Wait for the last question, so that no process leaves the group while another asks."""
        if self._asked is not None:
            self._asked[0].wait()
            self._asked = None
