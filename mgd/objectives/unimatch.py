"""UniMatch (Yang et al., CVPR 2023; V2: TPAMI 2025): a weak view teaches two strong views and dropped features."""

import torch
from torch import Tensor

from mgd.config import UniMatch
from mgd.data.batch import Batch, Views
from mgd.data.photometric import channel_dropout
from mgd.models.network import SegmentationNetwork
from mgd.objectives.average import AverageTeacher
from mgd.objectives.base import (
    Objective,
    Pass,
    Terms,
    consistency_weight,
    mixed_label,
    pixel_losses,
    see,
    supervised_pass,
    thresholds,
)

RATE = 0.5  # of the dropped channels


class UniMatchObjective(Objective):
    """L = sup(S) + w (1/4 CE(S(strong_0)) + 1/4 CE(S(strong_1)) + 1/2 CE(S'(weak))), S' with dropped features.

    The strong views are CutMix images with masks of their own, with colour jitter, grey and blur. Pseudo-labels come
    from the weak views: of the student in eval mode, or of the average of its weights (`ema`, V2). `drop="weak"` drops
    channels of the weak view's feature; "complementary" (V2) drops each of them from one of the two strong views, which
    then are the whole consistency. Channels are dropped from the classifier's input, of whatever head that is.
    """

    config: UniMatch

    def __init__(self, student: SegmentationNetwork, config: UniMatch) -> None:
        super().__init__()
        self.student, self.config = student, config
        self.average = AverageTeacher(student, config.ema) if config.ema else None
        self.confidence = thresholds(config, ["teacher"], student.num_classes)

    @property
    def labellers(self) -> dict[str, SegmentationNetwork]:
        return {} if self.average is None else {"teacher": self.average.module}

    def weights(self, iteration: int) -> dict[str, float]:
        shares = {"strong_0": 0.25, "strong_1": 0.25, "dropped": 0.5}
        if self.config.drop == "complementary":
            shares = {"strong_0": 0.5, "strong_1": 0.5}
        weight = consistency_weight(self.config, iteration)
        return {name: share * weight for name, share in shares.items()}

    def passes(self, batch: Batch) -> list[Pass]:
        labeled = supervised_pass(self.student, batch.labeled, self.config.criterion, self.class_weights)
        if self.burns_in(batch.iteration):
            return [labeled]
        views = [batch.mixed(view) for view in (0, 1)]
        first, _, _ = batch.pair()
        counts = {f"strong_{i}": view.valid.sum() for i, view in enumerate(views)}
        if self.config.drop == "weak":
            counts["dropped"] = first.valid.sum()
        return [labeled, Pass(counts, lambda: self._consistency(batch, views))]

    def after_update(self, iteration: int) -> None:
        if self.average is not None:
            self.average.follow(self.student, iteration)

    def _consistency(self, batch: Batch, views: list[Views]) -> Terms:
        assert batch.noise is not None
        labels, (first, _, _) = self._labels(batch), batch.pair()
        kept = channel_dropout(batch.noise, self.student.classifier.in_channels, rate=RATE, stream=2)
        kept = kept.to(first.image.device, non_blocking=True)
        seen = [batch.hardened(view, i) for i, view in enumerate(views)]
        features = [self.student.feature(see(self.student, view)) for view in seen]
        if self.config.drop == "complementary":
            features = [features[0] * kept, features[1] * (1 / (1 - RATE) - kept)]
        terms = {
            f"strong_{i}": self._term(feature, label, view)
            for i, (feature, label, view) in enumerate(zip(features, labels, views, strict=False))
        }
        if self.config.drop == "weak":
            feature = self.student.feature(see(self.student, first)) * kept
            terms["dropped"] = self._term(feature, labels[2], first)
        return self.weighted(terms, batch.iteration)

    def _term(self, feature: Tensor, label: Tensor, views: Views) -> Tensor:
        """Cross-entropy with the pseudo-label; the mean over the valid pixels, unsure ones counting as 0."""
        (losses,) = pixel_losses(self.student, self.student.classifier(feature), [label])
        return losses.sum() / views.valid.sum().clamp(min=1)

    @torch.no_grad()
    def _labels(self, batch: Batch) -> list[Tensor]:
        """(N,H,W) uint8 pseudo-labels of both strong views and of the weak one."""
        network = self.student if self.average is None else self.average.module
        was_training = network.training
        network.eval()
        mask, other_mask = batch.pair()[2], batch.other_mask
        assert other_mask is not None
        masks = [mask, other_mask, torch.zeros_like(mask)]
        labels = mixed_label(network, batch, masks, confidence=self.confidence["teacher"])
        network.train(was_training)
        return labels
