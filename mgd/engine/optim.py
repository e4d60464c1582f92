"""Optimiser, schedule and precision; the defaults are the published ones."""

from collections.abc import Iterable, Iterator
from typing import Any

import timm.optim
import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from mgd.config import Train
from mgd.errors import UserError
from mgd.models.network import SegmentationNetwork
from mgd.models.timm_backbone import TimmBackbone

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def make_optimizer(module: nn.Module, train: Train, device: torch.device) -> Optimizer:
    """SGD with momentum, or AdamW; weight decay on convolution (and linear) weights, none on biases and norms.

    Raises:
        UserError: apex's optimiser is asked for and cannot be had, or layers of a backbone that timm has none for.
    """
    groups = parameter_groups(module, train)
    if train.optimizer == "adamw":
        return AdamW(groups, lr=train.lr, fused=True)
    if train.optimizer == "apex_fused_sgd":
        return _apex_sgd(device)(groups, lr=train.lr, momentum=train.momentum)
    optimizer = SGD(groups, lr=train.lr, momentum=train.momentum, fused=True)
    for parameter in (parameter for group in groups for parameter in group["params"]):
        # What the first step would make; the fused kernel leaves memory as it finds it when that step is left out.
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def parameter_groups(module: nn.Module, train: Train) -> list[dict[str, Any]]:
    """What is trained, with its weight decay and learning rate; the first group has the backbone's full rate.

    As published two groups; with another rate for the head or for early layers, or AdamW, those of each network, and of
    what a method trains beside them with the head's rate.
    """
    if train.optimizer != "adamw" and train.head_lr == train.layer_decay == 1:
        return _two_groups(module.parameters(), train)
    networks = [network for network in module.modules() if isinstance(network, SegmentationNetwork)]
    own = {id(parameter) for network in networks for parameter in network.parameters()}
    beside = _two_groups((p for p in module.parameters() if id(p) not in own), train)  # such as CWD's projections
    groups = [group for network in networks for group in _groups_of(network, train)]
    groups += [{**group, "lr": train.lr * train.head_lr} for group in beside]
    return [group for group in groups if group["params"]]


def _two_groups(parameters: Iterable[nn.Parameter], train: Train) -> list[dict[str, Any]]:
    """Weights with decay, biases and norms without."""
    trained = [p for p in parameters if p.requires_grad]
    decayed, others = [p for p in trained if p.dim() > 1], [p for p in trained if p.dim() <= 1]
    return [{"params": decayed, "weight_decay": train.weight_decay}, {"params": others, "weight_decay": 0.0}]


def _groups_of(network: SegmentationNetwork, train: Train) -> Iterator[dict[str, Any]]:
    """The backbone's groups as timm makes them, from its last layer to its first, then the head's."""
    backbone: Any = network.backbone.model if isinstance(network.backbone, TimmBackbone) else network.backbone
    kept: set[str] = getattr(backbone, "no_weight_decay", set)()  # position embeddings and the like
    decay: dict[str, Any] = {"weight_decay": train.weight_decay, "no_weight_decay_list": kept}
    if train.layer_decay == 1:
        groups = timm.optim.param_groups_weight_decay(backbone, **decay)[::-1]
    elif hasattr(backbone, "group_matcher"):
        groups = timm.optim.param_groups_layer_decay(backbone, layer_decay=train.layer_decay, **decay)[::-1]
    else:
        name = network.arch["backbone"]
        raise UserError(f"train.layer_decay={train.layer_decay}: timm tells no layers of {name}; set it to 1")
    for group in groups:
        yield {**group, "lr": train.lr * group.pop("lr_scale", 1.0)}
    for part in (network.head, network.classifier):
        for group in timm.optim.param_groups_weight_decay(part, weight_decay=train.weight_decay):
            yield {**group, "lr": train.lr * train.head_lr}


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
    """lr * (1 - t)**power, t from 0 at iteration `start` to 1 at `stop`; at first times a part that grows to 1."""

    def factor(iteration: int) -> float:
        warm = min(1.0, (iteration - start + 1) / max(1, train.warmup_iterations))
        return warm * ((stop - iteration) / (stop - start)) ** train.power

    return LambdaLR(optimizer, factor)


def move_schedule(schedule: LambdaLR, iteration: int) -> None:
    """Set the learning rates to those of an iteration; its own step would warn that no update came before it."""
    rates = [base * factor(iteration) for base, factor in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)]
    for group, rate in zip(schedule.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    schedule.load_state_dict(schedule.state_dict() | {"last_epoch": iteration, "_last_lr": rates})


def pick_precision(precision: str, device: torch.device) -> torch.dtype:
    """The autocast type; float32 means no autocast.

    Raises:
        UserError: fp16 on a CPU, where there are no fp16 convolutions worth having.
    """
    if precision == "auto":
        has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_bf16 else torch.float32
    if precision == "fp16" and device.type == "cpu":
        raise UserError("train.precision=fp16 needs a GPU; use fp32 or bf16 on a CPU")
    return PRECISIONS[precision]


def bf16_hint(networks: Iterable[SegmentationNetwork], precision: torch.dtype, device: torch.device) -> str:
    """A sentence where training in bf16 would be faster on this CPU; "" where it would not, or runs in it.

    Measured: dense convolutions take about half the time with AVX512-BF16 or AMX, networks with depthwise ones as much.
    """
    names = dict.fromkeys(net.arch["backbone"] for net in networks if _is_of_dense_convolutions(net.backbone))
    if not names or precision != torch.float32 or device.type != "cpu" or not _multiplies_in_bf16():
        return ""
    return f"this CPU multiplies in bf16: train.precision=bf16 takes about half the time for {' and '.join(names)}"


def _multiplies_in_bf16() -> bool:
    """Whether the CPU has instructions for it; False where torch is too old to tell."""
    has: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def _is_of_dense_convolutions(backbone: nn.Module) -> bool:
    """Whether its weights are mostly convolutions', none of which is split into groups."""
    convs = [module for module in backbone.modules() if isinstance(module, nn.Conv2d)]
    weights = sum(conv.weight.numel() for conv in convs)
    return 2 * weights > sum(p.numel() for p in backbone.parameters()) and all(conv.groups == 1 for conv in convs)
