"""The losses as pure functions, in the order of the paper's equations; their weights live in the configs.

Every mean runs over valid pixels only, every value is finite, and an input without a valid pixel gives loss 0 with
gradient 0. All are computed in float32, whatever the inputs' precision.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mgd.metrics import IGNORE_INDEX


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy over the pixels that are not `IGNORE_INDEX` (the supervised loss on VOC; paper section 3.1).

    Args:
        logits: (N,K,H,W), any float type.
        target: (N,H,W), integer, values 0..K-1 or 255.
    """
    total = F.cross_entropy(logits.float(), target.long(), ignore_index=IGNORE_INDEX, reduction="sum")
    return total / (target != IGNORE_INDEX).sum().clamp(min=1)


def ohem_cross_entropy(logits: Tensor, target: Tensor, *, threshold: float = 0.7, min_kept: int) -> Tensor:
    """Online hard example mining: mean cross-entropy over hard pixels (the supervised loss on Cityscapes).

    Kept are the valid pixels whose target has a softmax probability of at most max(`threshold`, the `min_kept`-th
    smallest such probability); with fewer than `min_kept` valid pixels all of them.

    Args:
        logits: (N,K,H,W). target: (N,H,W), integer, 255 is ignored.
        threshold: probability above which a pixel is easy.
        min_kept: pixels of the whole input to keep at least.
    """
    target = target.long()
    valid = target != IGNORE_INDEX
    loss = F.cross_entropy(logits.float(), target, ignore_index=IGNORE_INDEX, reduction="none")
    kept = valid
    if 0 < min_kept <= target.numel():
        # An ignored pixel has loss 0, hence probability 1: the last to be kept.
        probability = torch.exp(-loss.detach())
        smallest = torch.topk(probability.flatten(), min_kept, largest=False, sorted=True).values[-1]
        too_few = valid.sum() < min_kept
        kept = valid & (too_few | (probability <= smallest.clamp(min=threshold)))
    elif min_kept <= 0:
        kept = valid & (torch.exp(-loss.detach()) <= threshold)
    return (loss * kept).sum() / kept.sum().clamp(min=1)


def pixel_level_loss(student_logits: Tensor, pseudo_label: Tensor) -> Tensor:
    """Pixel-level consistency: cross-entropy with one teacher's hard pseudo-labels (paper section 3.4).

    Args:
        student_logits: (N,K,H,W). pseudo_label: (N,H,W), integer, 255 where there is no image (crop padding).
    """
    return cross_entropy(student_logits, pseudo_label)


def image_level_loss(student_logits: Tensor, teacher_logits: Tensor, *, valid: Tensor | None = None) -> Tensor:
    """Image-level semantic-sensitive loss: L1 distance of globally pooled logits (paper section 3.2).

    The sum over classes of the absolute difference, mean over images.

    Args:
        student_logits, teacher_logits: (N,K,H,W). valid: (N,H,W) bool, pixels that are pooled; None means all.
    """
    return (_global_pool(student_logits, valid) - _global_pool(teacher_logits, valid)).abs().sum(dim=1).mean()


def region_level_loss(
    student_feature: Tensor, teacher_feature: Tensor, *, grid: int = 7, valid: Tensor | None = None
) -> Tensor:
    """Region-level content-aware loss: mean squared difference of cosine self-similarities (paper section 3.3).

    Each feature is pooled to `grid` x `grid` regions; the (grid**2, grid**2) matrices of the cosines between the
    regions of one image are compared, so the two may have different channel counts and sizes. A region whose
    feature is zero has similarity 0 to all; a region without a valid pixel is left out of its image's mean. The loss
    is the mean over images.

    Args:
        student_feature: (N,C,h,w). teacher_feature: (N,C',h',w'). valid: (N,H,W) bool, any H and W; None means all.
    """
    student = self_similarity(_region_pool(student_feature, grid, valid))
    teacher = self_similarity(_region_pool(teacher_feature, grid, valid))
    squared = (student - teacher).square()
    if valid is None:
        return squared.mean()
    seen = F.adaptive_avg_pool2d(valid.float()[:, None], grid).flatten(1) > 0
    pairs = (seen[:, :, None] & seen[:, None, :]).float()
    return ((squared * pairs).sum(dim=(1, 2)) / pairs.sum(dim=(1, 2)).clamp(min=1)).mean()


def self_similarity(regions: Tensor) -> Tensor:
    """(N,C,R) -> (N,R,R): cosines between regions; 0, with gradient 0 or finite, where a region is all zero."""
    with torch.autocast(regions.device.type, enabled=False):
        squared_norm = regions.square().sum(dim=1, keepdim=True)
        # The norm of a zero vector has no gradient: replace it before the root, not after.
        unit = regions / torch.where(squared_norm > 0, squared_norm, 1.0).sqrt()
        return unit.transpose(1, 2) @ unit


def _global_pool(logits: Tensor, valid: Tensor | None) -> Tensor:
    """(N,K,H,W) -> (N,K): mean over the valid pixels."""
    if valid is None:
        return logits.float().mean(dim=(2, 3))
    weight = valid.float()
    # A sum, not a matrix product: autocast would run that in half precision.
    return (logits.float() * weight[:, None]).sum(dim=(2, 3)) / weight.sum(dim=(1, 2)).clamp(min=1)[:, None]


def _region_pool(feature: Tensor, grid: int, valid: Tensor | None) -> Tensor:
    """(N,C,h,w) -> (N,C,grid**2): mean over each region's valid part."""
    feature = feature.float()
    if valid is None:
        return F.adaptive_avg_pool2d(feature, grid).flatten(2)
    share = F.adaptive_avg_pool2d(valid.float()[:, None], (feature.shape[-2], feature.shape[-1]))
    pooled = F.adaptive_avg_pool2d(feature * share, grid) / F.adaptive_avg_pool2d(share, grid).clamp(min=1e-6)
    return pooled.flatten(2)
