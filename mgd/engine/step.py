"""A training step: gradients of an objective's terms over the parts of a batch; an update where all are finite."""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from timm.layers import convert_sync_batchnorm
from timm.utils import ModelEmaV3
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import get_total_norm

from mgd.config import Train
from mgd.data.loaders import Batch
from mgd.engine.distributed import Processes, distribute, shares_of
from mgd.engine.optim import make_optimizer, make_schedule, pick_precision
from mgd.models.deeplab import DeepLabV3Plus
from mgd.objectives.base import Objective, Pass, Terms, total


class Outcome(NamedTuple):
    """What a step computed, on the device: reading it waits for the step."""

    terms: Terms  # detached; their average over the processes is the mean over the batch
    gradient_norm: Tensor  # scalar; where it is not finite the weights were left as they were


COMPILE: dict[str, Any] = {"fullgraph": True, "dynamic": False}  # the crop is fixed, and nothing breaks a graph


def compile_networks(objective: Objective) -> None:
    """torch.compile for backbone and head of every network of a step, in place; copies of them are not compiled."""
    own = [module for module in objective.modules() if isinstance(module, DeepLabV3Plus)]
    for network in (*own, *objective.teachers.values()):
        for part in (network.backbone, network.head):
            part.compile(**COMPILE)


class Stepper:
    """Everything that training changes: the objective's weights, optimiser, schedule, loss scale, averaged weights."""

    def __init__(self, objective: Objective, train: Train, team: Processes, total: int) -> None:
        if team.world > 1 and team.device.type == "cuda":
            objective = convert_sync_batchnorm(objective)  # timm's: it keeps fused activations
        self.objective = objective.to(team.device).to(memory_format=torch.channels_last)
        self.train, self.team = train, team
        self.precision = pick_precision(train.precision, team.device)
        self.optimizer = make_optimizer(self.objective, train, team.device)
        self.schedule = make_schedule(self.optimizer, train, total)
        self.scaler = torch.amp.GradScaler(team.device.type, enabled=self.precision == torch.float16)
        self.averaged = ModelEmaV3(self.objective.student, decay=train.ema, use_warmup=True) if train.ema else None
        self._statistics = [b for b in self.objective.buffers() if b.is_floating_point()]  # of batch norm
        self._before = [torch.empty_like(b) for b in self._statistics]
        if train.compile:
            compile_networks(self.objective)
        self.model = distribute(self.objective, team)
        self.model.train()

    @property
    def network(self) -> DeepLabV3Plus:
        """The network that the run is for: the student, or its averaged weights."""
        return self.objective.student if self.averaged is None else self.averaged.module

    @property
    def lr(self) -> float:
        return float(self.schedule.get_last_lr()[0])

    def __call__(self, parts: list[Batch]) -> Outcome:
        """One update from the micro-batches of this process. Nothing in it waits for the device."""
        if self._statistics:
            torch._foreach_copy_(self._before, self._statistics)
        passes = [self.objective.passes(part) for part in parts]
        counts = [{name: n for one in part for name, n in one.counts.items()} for part in passes]
        shares = shares_of(counts, self.team)
        computed: list[Terms] = []
        for i, part in enumerate(parts):
            # Gradients are averaged over the processes once, with the last micro-batch.
            wrapped = self.model if isinstance(self.model, DistributedDataParallel) and i < len(parts) - 1 else None
            with wrapped.no_sync() if wrapped is not None else contextlib.nullcontext():
                computed += self._backward(part, passes[i], shares[i])
        norm = self._update()
        self.objective.after_update(parts[0].iteration)
        if self.averaged is not None:
            self.averaged.update(self.objective.student, step=parts[0].iteration)
        return Outcome(total(computed), norm)

    def _backward(self, batch: Batch, passes: list[Pass], share: Terms) -> Iterator[Terms]:
        """Add the gradients of an objective's passes; yield their terms, times their share and detached.

        A single process goes pass by pass, which holds fewer activations; DDP needs all terms in one forward.
        """
        whole = [lambda: self.model(batch)]
        for compute in [one.terms for one in passes] if self.model is self.objective else whole:
            # No cache of cast weights: one filled under no_grad (pseudo-labels) would cut the gradients that follow.
            enabled = self.precision != torch.float32
            with torch.autocast(self.team.device.type, self.precision, enabled=enabled, cache_enabled=False):
                terms = {name: term * share[name] for name, term in compute().items()}
            loss = torch.stack(list(terms.values())).sum()
            # A loss that is not finite makes all gradients NaN, so that every process leaves the step out.
            loss = loss * torch.where(loss.isfinite(), 1.0, torch.nan)
            self.scaler.scale(loss).backward()
            yield {name: term.detach() for name, term in terms.items()}

    def _update(self) -> Tensor:
        """Step unless a gradient is not finite, move the schedule on, and return the gradients' norm."""
        self.scaler.unscale_(self.optimizer)
        norm = get_total_norm([p.grad for p in self.objective.parameters() if p.grad is not None])
        finite = norm.isfinite()
        if self.scaler.is_enabled():
            self.scaler.step(self.optimizer)
            self.scaler.update()
        elif self.train.optimizer == "sgd":
            # torch's fused kernels look at it on the device.
            self.optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
            self.optimizer.step()
        elif finite:  # apex has no such switch: this waits for the device
            self.optimizer.step()
        for statistic, before in zip(self._statistics, self._before, strict=True):
            statistic.copy_(torch.where(finite, statistic, before))  # the forward has taken in what made the step bad
        self.optimizer.zero_grad()
        self.schedule.step()
        return norm

    def state_dict(self) -> dict[str, Any]:
        """What a run that goes on needs; BN statistics are this process's."""
        state = {
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        return state if self.averaged is None else {**state, "averaged": self.averaged.module.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        if self.averaged is not None:
            self.averaged.module.load_state_dict(state["averaged"])
