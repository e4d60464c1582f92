"""Progress bars and lines above them that no process which dies can block."""

import os
import threading

from tqdm import tqdm


class Progress(tqdm):
    """tqdm with a lock of this process's own.

    The lock of tqdm itself is shared by all processes that come from one: who is killed while holding it, by the kernel
    for instance when memory runs out, leaves all others waiting for ever.
    """

    @classmethod
    def renew_lock(cls) -> None:
        cls.set_lock(threading.RLock())


Progress.renew_lock()
os.register_at_fork(after_in_child=Progress.renew_lock)  # a thread of the parent may have held it just then
