"""How long a runner takes for a photo."""

import time

import numpy as np

from mgd.deploy.runtime import Runner


def latencies(runner: Runner, photos: np.ndarray, *, runs: int = 30, seconds: float = 5.0) -> np.ndarray:
    """Milliseconds a photo in each run after two for warming up; at least 3 runs, and no more after `seconds`.

    Args:
        photos: (N,H,W,3) uint8; a run takes all N.
    """
    for _ in range(2):
        runner.run(photos)
    found: list[float] = []
    until = time.perf_counter() + seconds
    while len(found) < runs and (len(found) < 3 or time.perf_counter() < until):
        start = time.perf_counter()
        runner.run(photos)
        found.append(1000 * (time.perf_counter() - start) / len(photos))
    return np.array(found)
