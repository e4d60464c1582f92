"""Optimiser, schedule and precision, as published."""

from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from mgd.config import Train
from mgd.errors import UserError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def make_optimizer(module: nn.Module, train: Train, device: torch.device) -> Optimizer:
    """SGD with momentum; weight decay on convolution (and linear) weights, none on biases and norms.

    Raises:
        UserError: apex's optimiser is asked for and cannot be had.
    """
    decayed = [p for p in module.parameters() if p.requires_grad and p.dim() > 1]
    others = [p for p in module.parameters() if p.requires_grad and p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": train.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if train.optimizer == "apex_fused_sgd":
        return _apex_sgd(device)(groups, lr=train.lr, momentum=train.momentum)
    optimizer = SGD(groups, lr=train.lr, momentum=train.momentum, fused=True)
    for parameter in (*decayed, *others):
        # What the first step would make; the fused kernel leaves memory as it finds it when that step is left out.
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def _apex_sgd(device: torch.device) -> Any:
    """The class FusedSGD of NVIDIA apex."""
    if device.type != "cuda":
        raise UserError("train.optimizer=apex_fused_sgd needs a GPU; use train.optimizer=sgd")
    try:
        from apex.optimizers import FusedSGD
    except ImportError as error:
        raise UserError(
            f"train.optimizer=apex_fused_sgd needs NVIDIA apex, which is not installed ({error}): build it from "
            "NVIDIA's repository (the package `apex` on PyPI is something else), or use train.optimizer=sgd, also fused"
        ) from error
    return FusedSGD


def make_schedule(optimizer: Optimizer, train: Train, stop: int, *, start: int = 0) -> LambdaLR:
    """lr * (1 - iteration/total)**power, stepped once an iteration, no warm-up; from iteration `start` to `stop`."""
    return LambdaLR(optimizer, lambda iteration: ((stop - iteration) / (stop - start)) ** train.power)


def move_schedule(schedule: LambdaLR, iteration: int) -> None:
    """Set the learning rates to those of an iteration."""
    schedule.last_epoch = iteration - 1
    schedule.step()


def pick_precision(precision: str, device: torch.device) -> torch.dtype:
    """The autocast type; float32 means no autocast.

    Raises:
        UserError: fp16 on a CPU, where there are no fp16 convolutions worth having.
    """
    if precision == "auto":
        return (
            torch.bfloat16
            if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
            else torch.float32
        )
    if precision == "fp16" and device.type == "cpu":
        raise UserError("train.precision=fp16 needs a GPU; use fp32 or bf16 on a CPU")
    return PRECISIONS[precision]
