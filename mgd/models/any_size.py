"""Images of many sizes on a GPU, without a wait at each new one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


@contextmanager
def any_size(device: torch.device) -> Iterator[None]:
    """What networks look at photos in: convolutions neither try what is fastest at a size nor are compiled for it.

    cuDNN tries (`cudnn.benchmark`) every convolution anew for every size, which pays where all images are crops of one.
    """
    if device.type != "cuda":
        yield
        return
    cudnn, tries = torch.backends.cudnn, torch.backends.cudnn.benchmark
    cudnn.benchmark = False
    try:
        with DepthwiseByTorch():
            yield
    finally:
        cudnn.benchmark = tries


class DepthwiseByTorch(TorchFunctionMode):
    """Inside it depthwise convolutions run by PyTorch's own kernel, not by cuDNN's.

    cuDNN, from 9.10 on, compiles a depthwise convolution for every shape it meets (github.com/NVIDIA/cudnn-frontend,
    issue 1066): a MobileNetV2 takes more than a second for each photo of another size.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.conv2d or not _is_depthwise(*args, **(kwargs or {})):
            return func(*args, **(kwargs or {}))
        cudnn, enabled = torch.backends.cudnn, torch.backends.cudnn.enabled
        cudnn.enabled = False
        try:
            return func(*args, **(kwargs or {}))
        finally:
            cudnn.enabled = enabled


def _is_depthwise(input: Tensor, weight: Tensor, *_: Any, **__: Any) -> bool:
    """Whether there is a filter of one channel for each channel of the input (N,C,H,W)."""
    return input.shape[-3] > 1 and weight.shape[1] == 1
