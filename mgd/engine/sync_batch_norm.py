"""Batch norm over the images of all processes: one all-reduce forward, one backward, and no wait for the device.

torch's own reads a mask of the processes that have images in every layer of every forward, which waits for a GPU, and
does not run over gloo. Here every process has as many images, as the loader sees to.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


class SyncBatchNorm2d(nn.BatchNorm2d):
    """Takes a batch norm's place, with its parameters, buffers, names and what timm's does after it."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        assert norm.affine
        assert norm.track_running_stats
        assert norm.momentum is not None
        super().__init__(norm.num_features, norm.eps, norm.momentum, device="meta")
        self._parameters, self._buffers = norm._parameters, norm._buffers
        self.train(norm.training)
        # timm's norm layers hold a dropout and an activation.
        self.drop, self.act = (getattr(norm, name, nn.Identity()) for name in ("drop", "act"))

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(self._normalise(x) if self.training else super().forward(x)))

    def _normalise(self, x: Tensor) -> Tensor:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked += 1
        if _has_kernels(x):
            running = self.running_mean, self.running_var, self.momentum
            return _NormaliseByKernels.apply(x, self.weight, self.bias, *running, self.eps)
        with torch.no_grad():
            mean, variance, count = _statistics(x)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        return _Normalise.apply(x, self.weight, self.bias, mean, variance, self.eps)


class _Normalise(torch.autograd.Function):
    """(N,C,H,W) normalised with statistics of all processes, whose dependence on x is in the backward."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, (variance + eps).rsqrt())
        return F.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse = ctx.saved_tensors
        centred = x.float() - _of_channels(mean)
        sums = torch.stack([gradient.sum(_OTHERS, dtype=torch.float32), (gradient * centred).sum(_OTHERS)])
        sums[1] *= inverse
        own = sums.clone()  # gradients of weights are averaged by DDP
        dist.all_reduce(sums)
        along, turned = sums / (x.numel() / x.shape[1] * dist.get_world_size())
        # w / s * (g - mean(g) - y * mean(g y)), with y = (x - m) / s
        scale = weight * inverse
        result = torch.addcmul(_of_channels(-scale * along), centred, _of_channels(-scale * turned * inverse))
        result.addcmul_(gradient.float(), _of_channels(scale))
        return result.to(x.dtype), own[1].to(weight.dtype), own[0].to(weight.dtype), None, None, None


class _NormaliseByKernels(torch.autograd.Function):
    """The same by the kernels of torch's own SyncBatchNorm: under half the launches, no float32 copies in between."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        momentum: float,
        eps: float,
    ) -> Tensor:
        x = _dense(x)
        own = torch.stack(torch.batch_norm_stats(x, eps))
        every = own.new_zeros(dist.get_world_size(), *own.shape)
        every[dist.get_rank()] = own
        dist.all_reduce(every)
        means, inverses = every.unbind(dim=1)
        counts = own.new_full((len(every),), x.numel() // x.shape[1])
        running = running_mean, running_var, momentum  # brought up to date
        mean, inverse = torch.batch_norm_gather_stats_with_counts(x, means, inverses, *running, eps, counts)
        ctx.save_for_backward(x, weight, mean, inverse, counts.int())
        return torch.batch_norm_elemt(x, weight, bias, mean, inverse, eps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse, counts = ctx.saved_tensors
        gradient = _dense(gradient)
        along, turned, of_weight, of_bias = torch.batch_norm_backward_reduce(
            gradient, x, mean, inverse, weight, True, True, True
        )
        sums = torch.stack([along, turned])
        dist.all_reduce(sums)
        result = torch.batch_norm_backward_elemt(gradient, x, mean, inverse, weight, sums[0], sums[1], counts)
        return result, of_weight, of_bias, None, None, None, None


def _has_kernels(x: Tensor) -> bool:
    """They are for a GPU, and no compiler knows them: it makes its own of the other function."""
    return x.is_cuda and not torch.compiler.is_compiling()


def _dense(x: Tensor) -> Tensor:
    """(N,C,H,W) in one of the two layouts that the kernels read."""
    return x if x.is_contiguous(memory_format=torch.channels_last) else x.contiguous()


_OTHERS = (0, 2, 3)  # what a channel's statistics run over


def _of_channels(values: Tensor) -> Tensor:
    return values[None, :, None, None]


def _statistics(x: Tensor) -> tuple[Tensor, Tensor, float]:
    """Mean and variance of the channels over all processes, float32, and how many values each runs over.

    In float64 sums of squares lose nothing to the squared mean.
    """
    variance, mean = torch.var_mean(x.float(), _OTHERS, correction=0)
    mean = mean.double()
    moments = torch.stack([mean, variance.double() + mean.square()])
    dist.all_reduce(moments)
    moments /= dist.get_world_size()
    count = x.numel() / x.shape[1] * dist.get_world_size()
    return moments[0].float(), (moments[1] - moments[0].square()).clamp(min=0).float(), count


def synchronise(module: nn.Module) -> nn.Module:
    """Put `SyncBatchNorm2d` in the place of every 2-d batch norm, in place; returns the module."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, SyncBatchNorm2d(child))
        else:
            synchronise(child)
    return module
