"""Every run's label maps on one validation list: confusion matrices of each image, agreement, small pictures."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch

from mgd.config import Evaluate, Experiment
from mgd.data.classes import Classes
from mgd.data.datasets import open_val
from mgd.data.samples import ValidationSamples
from mgd.data.transforms import resize
from mgd.errors import UserError
from mgd.infer import predict_labels
from mgd.metrics import confusion_matrix
from mgd.models.folding import for_inference
from mgd.models.network import SegmentationNetwork
from mgd.progress import Progress
from mgd.report.runs import Run
from mgd.statistics import ious

WIDTH = 320  # pixels of the pictures in the report


@dataclass(frozen=True)
class Predictions:
    """What all runs say about N images.

    Attributes:
        confusions: (R,N,K,K), rows: label.
        agreements: (R,R,K,K) pixels by two runs' labels, over all images.
        photos: N RGB pictures of `WIDTH`.
        maps: N times truth and each run's label map, of the picture's size.
    """

    classes: Classes
    names: tuple[str, ...]
    confusions: np.ndarray
    agreements: np.ndarray
    photos: list[np.ndarray]
    maps: list[list[np.ndarray]]
    excluded: tuple[str, ...] = ()  # classes that means leave out: the first run's `evaluate.exclude`

    @property
    def counted(self) -> np.ndarray:
        """(K,) bool: the classes of the means."""
        return np.array([name not in self.excluded for name in self.classes.names])

    def miou(self, confusion: np.ndarray) -> float:
        """0..1 of (K,K) counts; NaN where no class of the mean occurs."""
        known = ious(confusion)[self.counted]
        return float(known[~np.isnan(known)].mean()) if not np.isnan(known).all() else math.nan

    def worst_first(self) -> list[int]:
        """Images in order of the last run's mean IoU over the classes that an image has."""
        scores = np.nan_to_num([self.miou(one) for one in self.confusions[-1]], nan=2.0)
        return np.argsort(scores, kind="stable").tolist()


def predict_all(runs: Sequence[Run], device: torch.device, *, progress: str = "") -> Predictions:
    """Predict the first run's validation list with every run, each in the way that its config says.

    Raises:
        UserError: no config, other classes than the first run's, or a file of the list that cannot be read.
    """
    config = runs[0].source.config
    if config is None:
        raise UserError(f"{runs[0].path} does not say what data it was trained on; name a run of this program first")
    classes, items = runs[0].source.classes, open_val(config.data)
    for run in runs:
        if run.source.classes.names != classes.names:
            raise UserError(f"{run.name} and {runs[0].name} have other classes; report runs on the same data together")
    count, size = len(classes), (len(runs), len(items))
    confusions = np.zeros((*size, count, count), np.int64)
    agreements = np.zeros((len(runs), len(runs), count, count), np.int64)
    photos, maps = [], []
    configs = [_config(run, config) for run in runs]
    samples = [ValidationSamples(items, own, count) for own in configs]
    networks = [for_inference(run.source.network).to(device) for run in runs]
    for n in Progress(range(len(items)), desc=progress, unit="image", disable=None if progress else True):
        labels = []
        for r, run in enumerate(runs):
            truth, label, photo = _predict(run.name, networks[r], samples[r][n], configs[r].scoring, device)
            confusions[r, n] = confusion_matrix(truth, label, count).numpy()
            labels.append(label)
        for r, one in enumerate(labels):
            for s, other in enumerate(labels):
                agreements[r, s] += confusion_matrix(one, other, count).numpy()
        small = (WIDTH, max(1, round(truth.shape[0] * WIDTH / truth.shape[1])))
        photos.append(cv2.resize(photo, small, interpolation=cv2.INTER_AREA))
        both = (truth, *labels)
        maps.append([resize(one.numpy(), small[1], small[0], nearest=True) for one in both])
    names = tuple(item.name for item in items)
    return Predictions(classes, names, confusions, agreements, photos, maps, config.evaluate.exclude)


def _config(run: Run, first: Experiment) -> Experiment:
    """The run's own way to score, on the first run's data."""
    own = run.source.config or replace(first, evaluate=Evaluate(mode="whole"))
    return replace(own, data=replace(first.data, short_side=own.data.short_side, crop_size=own.data.crop_size))


def _predict(
    name: str, network: SegmentationNetwork, sample: dict[str, Any], how: Evaluate, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """(truth, label, photo) of one validation image, uint8 maps of the truth's size."""
    image, truth = sample["image"], sample["label"]
    try:
        label = predict_labels(network, image.to(device), how, size=(truth.shape[0], truth.shape[1]))
    except FloatingPointError as error:
        raise UserError(f"{name} gives scores that are not finite; its training has failed") from error
    return truth, label.cpu(), image.permute(1, 2, 0).numpy()
