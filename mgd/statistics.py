"""Means, spreads, and differences of paired scores with the interval that holds them: Student's, or the bootstrap's."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

LEVEL = 0.95
RESAMPLES = 1000


class Spread(NamedTuple):
    """Scores of several seeds."""

    mean: float
    sd: float  # of the sample; NaN for one score
    runs: int


class Difference(NamedTuple):
    """Mean of paired differences; its interval is NaN where there are fewer than two pairs."""

    mean: float
    low: float
    high: float
    pairs: int

    @property
    def sign(self) -> int:
        """1 or -1 where the interval leaves 0 out on one side, else 0."""
        return int(self.low > 0) - int(self.high < 0)


def spread(scores: Sequence[float]) -> Spread:
    """Mean and standard deviation of one score or more."""
    sd = float(np.std(scores, ddof=1)) if len(scores) > 1 else math.nan
    return Spread(float(np.mean(scores)), sd, len(scores))


def paired_difference(scores: Sequence[float], reference: Sequence[float]) -> Difference:
    """Mean of `scores` - `reference`, pair by pair, and Student's 95 % interval of it; pairs with NaN are left out."""
    d = np.asarray(scores, dtype=float) - np.asarray(reference, dtype=float)
    d = d[~np.isnan(d)]
    if not len(d):
        return Difference(math.nan, math.nan, math.nan, 0)
    mean = float(d.mean())
    if len(d) < 2:
        return Difference(mean, math.nan, math.nan, len(d))
    reach = float(stats.t.ppf((1 + LEVEL) / 2, len(d) - 1) * d.std(ddof=1) / math.sqrt(len(d)))
    return Difference(mean, mean - reach, mean + reach, len(d))


def verdict(over_seeds: Difference, over_images: Difference) -> str:
    """What the two intervals allow to say: better or worse only where each leaves 0 out on the same side.

    With one seed the spread of seeds is not known, and with no scores of images theirs is not: nothing can be said.
    """
    if over_seeds.pairs < 2:
        return "one seed: cannot be told"
    if over_images.pairs < 2:
        return "no scores of images: cannot be told"
    if over_seeds.sign == over_images.sign != 0:
        return "better" if over_seeds.sign > 0 else "worse"
    return "not distinguishable"


def ious(confusion: np.ndarray) -> np.ndarray:
    """(...,K,K) counts, rows: label -> IoU (...,K); NaN for a class in neither label nor prediction."""
    hit = np.diagonal(confusion, axis1=-2, axis2=-1)
    union = confusion.sum(-1) + confusion.sum(-2) - hit
    return np.divide(hit, union, out=np.full(hit.shape, np.nan), where=union > 0)


def paired_bootstrap(first: np.ndarray, second: np.ndarray, *, counted: np.ndarray | None = None) -> list[Difference]:
    """Second minus first, 0..1, of every class's IoU and, last, of mIoU; NaN for a class that never occurs.

    Images are drawn with replacement, the same ones for both networks, and the scores of the drawn set compared.

    Args:
        first, second: (N,K,K) confusion matrices of the same N images.
        counted: (K,) bool, the classes of the mean; None: all.
    """
    count, classes = first.shape[:2]
    counted = np.ones(classes, bool) if counted is None else counted
    weights = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    sums = [(weights @ one.reshape(count, -1)).reshape(-1, classes, classes) for one in (first, second)]
    drawn = [_scores(one, counted) for one in sums]
    whole = [_scores(one.sum(0)[None], counted)[0] for one in (first, second)]
    differences, values = drawn[1] - drawn[0], whole[1] - whole[0]
    found = []
    for value, column in zip(values, differences.T, strict=True):
        known = column[~np.isnan(column)]
        low, high = np.percentile(known, [2.5, 97.5]) if len(known) else (np.nan, np.nan)
        found.append(Difference(float(value), float(low), float(high), count))
    return found


def _scores(confusion: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """(B,K,K) -> (B,K+1): the classes' IoU and the mean of those that are counted."""
    iou = ious(confusion.astype(np.float64))
    known = ~np.isnan(iou) & counted
    mean = np.where(known, iou, 0).sum(1) / np.maximum(known.sum(1), 1)
    return np.concatenate([iou, mean[:, None]], axis=1)
