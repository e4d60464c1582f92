"""Pre-emption: SIGTERM or SIGUSR1 asks a run to stop; all its processes stop at the same place."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from mgd.engine.distributed import Processes
from mgd.errors import Stopped

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class StopRequest:
    """Whether the run is to stop, as all its processes see it."""

    def __init__(self, team: Processes) -> None:
        self.name = ""  # of the signal that came
        wait = timedelta(seconds=team.timeout)
        # Over gloo, in host memory: nobody waits for a GPU.
        self._group: Any = dist.new_group(backend="gloo", timeout=wait) if team.world > 1 else None
        self._asked: tuple[Any, torch.Tensor] | None = None  # what is on its way, and the answer once it is there

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Note the signals instead of dying of them."""
        before = {number: signal.signal(number, self._note) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name

    def agreed(self) -> bool:
        """To be asked by every process once a step, or once a validation image.

        With several processes the answer is about the step before, so that the question travels while a step is
        computed, and is the same on all.
        """
        if self._group is None:
            return bool(self.name)
        if self._asked is not None:
            work, flag = self._asked
            work.wait()
            if flag.item():
                self._asked = None
                return True
        flag = torch.tensor(int(bool(self.name)))
        work = dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._group, async_op=True)
        self._asked = work, flag
        return False

    def leave(self) -> NoReturn:
        """Raise Stopped once all processes are here: the first that ends may end the job, and the main one saves."""
        if self._group is not None:
            dist.barrier(group=self._group)
        raise Stopped(f"stopped by {self.name or 'a signal to another process'}")

    def heed(self) -> None:
        """Leave if it is agreed to: for where there is nothing to save."""
        if self.agreed():
            self.leave()

    def settle(self) -> None:
        """Wait for the last question, so that no process leaves the group while another asks."""
        if self._asked is not None:
            self._asked[0].wait()
            self._asked = None
