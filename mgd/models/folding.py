"""Networks made for inference: batch norm folded into the convolutions that it follows, a decoder that does less.

Which batch norm follows which convolutions is seen in a forward pass, so that any network can be folded, timm's too.
"""

import copy
from collections import Counter
from typing import Any, TypeVar

import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mgd.models.heads import DeepLabV3PlusHead
from mgd.models.network import SegmentationNetwork

Network = TypeVar("Network", bound=nn.Module)
PLAIN = (nn.Conv2d, Conv2dSame)  # their weight is what they convolve with; subclasses may make it from another
SEEN = 64  # side in pixels of the image that the pass looks at


def for_inference(network: Network, *, in_place: bool = False) -> Network:
    """A copy in eval mode that gives the same logits, up to rounding, in less time: folded, channels last.

    The decoder of a DeepLabV3+ convolves its context before it upsamples it. `in_place`: as in `fold_batch_norm`.
    """
    fast = fold_batch_norm(network, in_place=in_place)
    if isinstance(fast, SegmentationNetwork) and isinstance(fast.head, DeepLabV3PlusHead):
        fast.head.coarse = True
    return fast.to(memory_format=torch.channels_last)


@torch.no_grad()
def fold_batch_norm(network: Network, *, in_place: bool = False) -> Network:
    """A copy in eval mode whose batch norms are part of the convolutions before them.

    A batch norm stays where anything but itself reads what it reads, where no plain convolution made that, or where
    either is called more than once. Logits are equal up to rounding (1e-5 of their size in float32).

    Args:
        network: images (N,3,H,W), normalised -> tensor, for any H and W.
        in_place: change the network itself, which nothing else needs: no second copy of its weights is held. Else it is
            left as it is.
    """
    folded = (network if in_place else copy.deepcopy(network)).eval()
    pairs = _pairs(folded)
    gone: dict[nn.Module, nn.Module] = {}
    for norm, convs in pairs:
        _fold(norm, convs)
        # timm's norm layers hold a dropout, which is nothing here, and an activation.
        activation = getattr(norm, "act", None)
        gone[norm] = nn.Identity().eval() if activation is None else activation
    for parent in list(folded.modules()):
        for name, child in parent.named_children():
            if child in gone:
                setattr(parent, name, gone[child])
    return folded


class _Reads(TorchDispatchMode):
    """Counts how often every tensor is read, and remembers what concatenations are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[int] = Counter()
        self.parts: dict[int, list[int]] = {}
        self._kept: list[Any] = []  # so that no two tensors have one id

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self._kept += [args, result]
        self.count.update(id(leaf) for leaf in tree_leaves(args) if isinstance(leaf, Tensor))
        if func is torch.ops.aten.cat.default and (len(args) == 1 or args[1] == 1):
            self.parts[id(result)] = [id(part) for part in args[0]]
        return result


def _pairs(network: nn.Module) -> list[tuple[_BatchNorm, list[nn.Conv2d]]]:
    """Every batch norm that can be folded, with the convolutions whose outputs it reads, in the order of channels."""
    made: dict[int, nn.Conv2d] = {}
    read: list[tuple[_BatchNorm, int]] = []
    calls: Counter[nn.Module] = Counter()

    def after_conv(module: nn.Module, _: Any, output: Tensor) -> None:
        calls[module] += 1
        made[id(output)] = module  # type: ignore[assignment]

    def before_norm(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        calls[module] += 1
        read.append((module, id(inputs[0])))  # type: ignore[arg-type]

    modules = list(network.modules())
    hooks = [m.register_forward_hook(after_conv) for m in modules if type(m) in PLAIN]
    hooks += [m.register_forward_pre_hook(before_norm) for m in modules if isinstance(m, _BatchNorm)]
    like = next(network.parameters(), torch.empty(0))
    try:
        with _Reads() as reads:
            network(torch.zeros(1, 3, SEEN, SEEN, device=like.device, dtype=like.dtype))
    finally:
        for hook in hooks:
            hook.remove()
    pairs = []
    for norm, source in read:
        parts = reads.parts.get(source, [source])
        convs = [made[part] for part in parts if part in made]
        once = all(reads.count[tensor] == 1 for tensor in {source, *parts})
        once &= all(calls[module] == 1 for module in (norm, *convs))
        if len(convs) == len(parts) and once and norm.running_var is not None:
            pairs.append((norm, convs))
    return pairs


def _fold(norm: _BatchNorm, convs: list[nn.Conv2d]) -> None:
    """Scale and shift the convolutions' outputs as the batch norm does with its running statistics; in float64."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    sizes = [conv.out_channels for conv in convs]
    for conv, own, its_shift in zip(convs, scale.split(sizes), shift.split(sizes), strict=True):
        bias = its_shift if conv.bias is None else its_shift + conv.bias.double() * own
        conv.bias = nn.Parameter(bias.to(conv.weight.dtype), requires_grad=False)
        conv.weight.data = (conv.weight.double() * own.view(-1, 1, 1, 1)).to(conv.weight.dtype)
