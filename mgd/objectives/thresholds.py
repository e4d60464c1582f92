"""Thresholds on pseudo-labels that follow, class by class, how sure of it the network that labels is."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class AdaptiveThresholds(nn.Module):
    """Each class's threshold: that of `method.confidence`, times the class's mean confidence over the surest class's.

    The rule of FlexMatch (Zhang et al., NeurIPS 2021, section 3.1), whose measure of how far a class is learned, a
    count of sure samples in the whole data set, gives way to a running average like FreeMatch's (Wang et al., ICLR
    2023): of the confidence of the pixels that are labelled so. FreeMatch averages the class's probability over all
    samples, which over pixels would be the class's area.

    Attributes:
        learned: (K,), each class's mean confidence: 1/K at first, then a' = decay * a + (1 - decay) * the step's mean;
            left as it is by a step that labels nothing so. Part of the training state.
        seen: (2,K), of this step: the sum of the confidences, and of how many pixels. Added up over micro-batches here,
            over processes by whoever makes the step.
    """

    highest: Tensor
    learned: Tensor
    seen: Tensor

    def __init__(self, confidence: tuple[float, ...], num_classes: int, decay: float) -> None:
        """`confidence`: the threshold of the surest class, one for all classes or one for each."""
        super().__init__()
        self.decay = decay
        self.register_buffer("highest", torch.tensor(confidence).expand(num_classes).clone(), persistent=False)
        self.register_buffer("learned", torch.full((num_classes,), 1 / num_classes))
        self.register_buffer("seen", torch.zeros(2, num_classes), persistent=False)

    def forward(self) -> Tensor:
        """(K,): the thresholds of this step."""
        return self.highest * (self.learned / self.learned.max())

    @torch.no_grad()
    def sure(self, confidence: Tensor, label: Tensor, valid: Tensor) -> Tensor:
        """(N,H,W) of labels and their probabilities -> bool: where these reach the class's threshold.

        Takes note of the `valid` (N,H,W) ones whose probability is finite.
        """
        classes = torch.arange(len(self.learned), device=label.device)[:, None, None]
        for one, own, where in zip(confidence, label, valid, strict=True):
            held = (own == classes) & where & one.isfinite()  # one that is not would switch off all for good
            self.seen += torch.stack([torch.where(held, one, 0.0).sum(dim=(1, 2)), held.sum(dim=(1, 2))])
        return confidence >= self()[label]

    @torch.no_grad()
    def update(self) -> None:
        """Take in what a step has seen."""
        total, count = self.seen
        moved = self.decay * self.learned + (1 - self.decay) * total / count.clamp(min=1)
        self.learned.copy_(torch.where(count > 0, moved, self.learned))
        self.seen.zero_()


def threshold_values(module: nn.Module, classes: Sequence[str]) -> dict[str, float]:
    """threshold/<network that labels>/<class> -> what it is now, of all such thresholds in a module."""
    return {
        f"threshold/{name.rpartition('.')[2]}/{label}": value
        for name, one in module.named_modules()
        if isinstance(one, AdaptiveThresholds)
        for label, value in zip(classes, one().tolist(), strict=True)
    }
