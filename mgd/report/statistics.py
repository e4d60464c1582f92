"""Are two networks different, or only on these images: paired bootstrap over images."""

from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000


@dataclass(frozen=True)
class Difference:
    """Second minus first, 0..1, with its 95 % interval; NaN where a class never occurs."""

    value: float
    low: float
    high: float

    @property
    def distinguishable(self) -> bool:
        """Whether 0 lies outside the interval."""
        return self.low > 0 or self.high < 0


def ious(confusion: np.ndarray) -> np.ndarray:
    """(...,K,K) counts, rows: label -> IoU (...,K); NaN for a class in neither label nor prediction."""
    hit = np.diagonal(confusion, axis1=-2, axis2=-1)
    union = confusion.sum(-1) + confusion.sum(-2) - hit
    return np.divide(hit, union, out=np.full(hit.shape, np.nan), where=union > 0)


def paired_bootstrap(first: np.ndarray, second: np.ndarray, *, seed: int = 0) -> list[Difference]:
    """Differences of every class's IoU and, last, of mIoU.

    Images are drawn with replacement, the same ones for both networks, and the scores of the drawn set compared.

    Args:
        first, second: (N,K,K) confusion matrices of the same N images.
    """
    count, classes = first.shape[:2]
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    drawn = [_scores((weights @ one.reshape(count, -1)).reshape(-1, classes, classes)) for one in (first, second)]
    whole = [_scores(one.sum(0)[None])[0] for one in (first, second)]
    differences, values = drawn[1] - drawn[0], whole[1] - whole[0]
    found = []
    for value, column in zip(values, differences.T, strict=True):
        known = column[~np.isnan(column)]
        low, high = np.percentile(known, [2.5, 97.5]) if len(known) else (np.nan, np.nan)
        found.append(Difference(float(value), float(low), float(high)))
    return found


def _scores(confusion: np.ndarray) -> np.ndarray:
    """(B,K,K) -> (B,K+1): the classes' IoU and their mean."""
    iou = ious(confusion.astype(np.float64))
    known = ~np.isnan(iou)
    mean = np.where(known, iou, 0).sum(1) / np.maximum(known.sum(1), 1)
    return np.concatenate([iou, mean[:, None]], axis=1)
