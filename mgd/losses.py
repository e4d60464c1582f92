"""The losses as pure functions, in the order of the paper's equations; their weights live in the configs.

Every mean runs over valid pixels only, every value is finite, and an input without a valid pixel gives loss 0 with
gradient 0. All are computed in float32, whatever the inputs' precision.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mgd.metrics import IGNORE_INDEX

# Values of full-resolution logits that are held at a time, at least an image's: 32 MiB; on a GPU 256 MiB, since each
# chunk is some fifteen launches, which take longer than what they launch.
CHUNK, GPU_CHUNK = 2**23, 2**26


def pixel_cross_entropy(logits: Tensor, targets: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Every pixel's cross-entropy with each of several label maps: one softmax serves them all.

    Logits are upsampled a few images at a time, in the forward and again in the backward, so that memory holds neither
    full-resolution logits nor their gradient.

    Args:
        logits: (N,K,h,w), any float type; where h and w are not the targets', they are upsampled as in the networks.
        targets: (N,H,W) each, integer, values 0..K-1 or 255.

    Returns:
        (N,H,W) float32 for each target; 0 where it is 255.
    """
    return _PixelCrossEntropy.apply(logits, *targets)


class _PixelCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, *targets: Tensor) -> tuple[Tensor, ...]:
        shape = targets[0].shape
        losses = tuple(logits.new_empty(shape, dtype=torch.float32) for _ in targets)
        normaliser = logits.new_empty(shape, dtype=torch.float32)  # log sum exp
        for part in chunks(logits, shape):
            large = _upsample(logits[part], shape)
            normaliser[part] = large.logsumexp(dim=1)
            for loss, target in zip(losses, targets, strict=True):
                index, valid = _index(target[part])
                own = large.gather(1, index[:, None])[:, 0]
                loss[part] = (normaliser[part] - own) * valid
        ctx.save_for_backward(logits, normaliser, *targets)
        return losses

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        logits, normaliser, *targets = ctx.saved_tensors
        shape = targets[0].shape
        result = torch.empty_like(logits)
        for part in chunks(logits, shape):
            pairs = [_index(target[part]) for target in targets]
            weights = [gradient[part] * valid for gradient, (_, valid) in zip(gradients, pairs, strict=True)]
            # d/dlogits of the sum over targets of weight * (log sum exp - own logit)
            slope = (_upsample(logits[part], shape) - normaliser[part][:, None]).exp_()
            slope *= torch.stack(weights).sum(dim=0)[:, None]
            for (index, _), weight in zip(pairs, weights, strict=True):
                slope.scatter_add_(1, index[:, None], -weight[:, None])
            if logits.shape[-2:] != shape[1:]:
                own = [slope.shape[0], *logits.shape[1:]]
                slope = torch.ops.aten.upsample_bilinear2d_backward(slope, shape[1:], own, True)
            result[part] = slope.to(logits.dtype)
        return result, *[None for _ in targets]


def chunks(logits: Tensor, shape: torch.Size) -> list[slice]:
    """Slices of the batch whose logits, upsampled to (N,H,W), have `CHUNK` values or are one image's."""
    values = GPU_CHUNK if logits.is_cuda else CHUNK
    images = max(1, values // (logits.shape[1] * shape[1] * shape[2]))
    return [slice(i, i + images) for i in range(0, shape[0], images)]


def _upsample(logits: Tensor, shape: torch.Size) -> Tensor:
    """To (n,K,H,W) float32, contiguous: bilinear, `align_corners=True`."""
    logits = logits.float().contiguous()
    if logits.shape[-2:] == shape[1:]:
        return logits
    return F.interpolate(logits, size=shape[1:], mode="bilinear", align_corners=True)


def _index(target: Tensor) -> tuple[Tensor, Tensor]:
    """(class, 0 where there is none, int64; whether there is one)."""
    valid = target != IGNORE_INDEX
    return torch.where(valid, target, 0).long(), valid


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy over the pixels that are not `IGNORE_INDEX` (the supervised loss on VOC; paper section 3.1).

    Args:
        logits: (N,K,h,w), any float type and size. target: (N,H,W), integer, values 0..K-1 or 255.
    """
    (losses,) = pixel_cross_entropy(logits, [target])
    return mean_of_valid(losses, target)


def mean_of_valid(losses: Tensor, target: Tensor) -> Tensor:
    """The mean of (N,H,W) losses, 0 where the target is 255, over the other pixels."""
    return losses.sum() / (target != IGNORE_INDEX).sum().clamp(min=1)


def ohem_cross_entropy(logits: Tensor, target: Tensor, *, threshold: float = 0.7, min_kept: int) -> Tensor:
    """Online hard example mining: mean cross-entropy over hard pixels (the supervised loss on Cityscapes).

    Kept are the valid pixels whose target has a softmax probability of at most max(`threshold`, the `min_kept`-th
    smallest such probability); with fewer than `min_kept` valid pixels all of them.

    Args:
        logits: (N,K,h,w). target: (N,H,W), integer, 255 is ignored.
        threshold: probability above which a pixel is easy.
        min_kept: pixels of the whole input to keep at least.
    """
    (losses,) = pixel_cross_entropy(logits, [target])
    return mean_of_hard(losses.flatten()[None], target.flatten()[None], threshold=threshold, min_kept=min_kept)[0]


def mean_of_hard(
    losses: Tensor, target: Tensor, *, threshold: float, min_kept: int, weights: tuple[float, ...] = ()
) -> Tensor:
    """(N,...) losses and their target -> (N,): of each row the mean over its hard pixels, as `ohem_cross_entropy`.

    Which ones are hard does not depend on their classes' weights. These average to 1 over all labelled pixels, not over
    the hard ones, which rare classes are most of: the mean is divided by the weights of those that are kept.
    """
    weight = weigh(torch.ones_like(losses), target, weights).flatten(1) if weights else None
    losses, valid = losses.flatten(1), target.flatten(1) != IGNORE_INDEX
    # An ignored pixel has loss 0, hence probability 1: the last to be kept.
    probability = torch.exp(-losses.detach())
    kept = valid
    if 0 < min_kept <= losses.shape[1]:
        smallest = torch.topk(probability, min_kept, dim=1, largest=False, sorted=True).values[:, -1:]
        too_few = valid.sum(dim=1, keepdim=True) < min_kept
        kept = valid & (too_few | (probability <= smallest.clamp(min=threshold)))
    elif min_kept <= 0:
        kept = valid & (probability <= threshold)
    if weight is None:
        return (losses * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1)
    return (losses * weight * kept).sum(dim=1) / (weight * kept).sum(dim=1).clamp(min=1e-6)


def weigh(losses: Tensor, target: Tensor, weights: tuple[float, ...]) -> Tensor:
    """Losses, of any shape and 0 where the target is 255, times the weights of their classes, where there are any."""
    return losses * _on_device(weights, losses.device)[_index(target)[0]] if weights else losses


@lru_cache(maxsize=32)
def _on_device(weights: tuple[float, ...], device: torch.device) -> Tensor:
    """(K,) float32, sent to the device once: a transfer in every step would make it wait."""
    return torch.tensor(weights, device=device)


def pixel_level_loss(student_logits: Tensor, pseudo_label: Tensor) -> Tensor:
    """Pixel-level consistency: cross-entropy with one teacher's hard pseudo-labels (paper section 3.4).

    Args:
        student_logits: (N,K,h,w). pseudo_label: (N,H,W), integer, 255 where there is no image (crop padding).
    """
    return cross_entropy(student_logits, pseudo_label)


def image_level_loss(student_logits: Tensor, teacher_logits: Tensor, *, valid: Tensor | None = None) -> Tensor:
    """Image-level semantic-sensitive loss: L1 distance of globally pooled logits (paper section 3.2).

    The sum over classes of the absolute difference, mean over images.

    Args:
        student_logits, teacher_logits: (N,K,h,w) each, or (N,K) where they are pooled already; of logits that are not
            of `valid`'s size their upsampling is pooled.
        valid: (N,H,W) bool, pixels that are pooled; None means all.
    """
    return (global_pool(student_logits, valid) - global_pool(teacher_logits, valid)).abs().sum(dim=1).mean()


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


def global_pool(logits: Tensor, valid: Tensor | None) -> Tensor:
    """(N,K,h,w) -> (N,K): the mean of the upsampled logits over the valid pixels, without upsampling them.

    The upsampling is linear: a pixel's weight goes to the cells that it is made of, in their shares.

    Args:
        valid: (N,H,W), bool or the pixels' weights; None means all of h and w. (N,K) logits are returned as they are.
    """
    if logits.dim() == 2:
        return logits.float()
    if valid is None:
        return logits.float().mean(dim=(2, 3))
    weight = valid.float()
    with torch.autocast(logits.device.type, enabled=False):  # in half precision the sums would be wrong
        if logits.shape[-2:] != valid.shape[-2:]:
            (h, w), (height, width) = logits.shape[-2:], valid.shape[-2:]
            rows, columns = _shares(h, height, logits.device), _shares(w, width, logits.device)
            weight = rows @ weight @ columns.mT
        total = (logits.float() * weight[:, None]).sum(dim=(2, 3))
        return total / weight.sum(dim=(1, 2)).clamp(min=1)[:, None]


@lru_cache(maxsize=32)
def _shares(cells: int, pixels: int, device: torch.device) -> Tensor:
    """(cells, pixels): how much of each cell is in each pixel of an upsampled line; made once for a size."""
    return F.interpolate(torch.eye(cells, device=device)[None], size=pixels, mode="linear", align_corners=True)[0]


def _region_pool(feature: Tensor, grid: int, valid: Tensor | None) -> Tensor:
    """(N,C,h,w) -> (N,C,grid**2): mean over each region's valid part."""
    # On a GPU torch's pooling of a feature that is channels last takes ten times as long.
    layout = torch.contiguous_format if feature.is_cuda else torch.preserve_format
    feature = feature.to(torch.float32, memory_format=layout)
    if valid is None:
        return F.adaptive_avg_pool2d(feature, grid).flatten(2)
    share = F.adaptive_avg_pool2d(valid.float()[:, None], (feature.shape[-2], feature.shape[-1]))
    pooled = F.adaptive_avg_pool2d(feature * share, grid) / F.adaptive_avg_pool2d(share, grid).clamp(min=1e-6)
    return pooled.flatten(2)
