"""A training step: gradients of an objective's terms over the parts of a batch; an update where all are finite."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import get_total_norm

from mgd.config import Train
from mgd.data.batch import Batch
from mgd.engine.distributed import Processes, distribute, shares_of
from mgd.engine.optim import make_optimizer, make_schedule, move_schedule, pick_precision
from mgd.engine.sync_batch_norm import synchronise
from mgd.models.folding import PLAIN
from mgd.models.network import SegmentationNetwork
from mgd.objectives.base import Objective, Pass, Terms, total
from mgd.objectives.thresholds import AdaptiveThresholds


class Outcome(NamedTuple):
    """What a step computed, on the device: reading it waits for the step."""

    terms: Terms  # detached; their average over the processes is the mean over the batch
    gradient_norm: Tensor  # scalar; where it is not finite the weights were left as they were
    labels: Tensor  # scalar: labelled pixels of this process (OHEM: images with some); 0 is a step without labels


COMPILE: dict[str, Any] = {"fullgraph": True, "dynamic": False}  # the crop is fixed, and nothing breaks a graph


def compile_networks(objective: Objective) -> None:
    """torch.compile for backbone and head of every network of a step, in place; copies of them are not compiled."""
    own = [module for module in objective.modules() if isinstance(module, SegmentationNetwork)]
    for network in (*own, *objective.teachers.values()):
        for part in (network.backbone, network.head):
            part.compile(**COMPILE)


def keep_cast(networks: Iterable[SegmentationNetwork], dtype: torch.dtype) -> None:
    """Keep frozen networks' convolutions as autocast casts them in every step: less to do, and the same numbers."""
    for network in networks:
        for module in network.modules():
            if type(module) in PLAIN:
                module.to(dtype)


class Stepper:
    """Everything that training changes: the objective's weights, optimiser, schedule, loss scale, averaged weights."""

    def __init__(self, objective: Objective, train: Train, team: Processes, stop: int, *, start: int = 0) -> None:
        """`start` and `stop`: the iterations that the learning rate falls over."""
        if team.world > 1:
            synchronise(objective)
        self.objective = objective.to(team.device).to(memory_format=torch.channels_last)
        self.train, self.team = train, team
        self.precision = pick_precision(train.precision, team.device)
        self.optimizer = make_optimizer(self.objective, train, team.device)
        self.schedule = make_schedule(self.optimizer, train, stop, start=start)
        self.scaler = torch.amp.GradScaler(team.device.type, enabled=self.precision == torch.float16)
        # With this warm-up its decay after n iterations is 1 - 1 / n, a plain mean, until that reaches train.ema.
        warmup: dict[str, Any] = {"use_warmup": True, "warmup_power": 1.0}
        self.averaged = ModelEmaV3(self.objective.student, decay=train.ema, **warmup) if train.ema else None
        self.thresholds = [one for one in self.objective.modules() if isinstance(one, AdaptiveThresholds)]
        self._statistics = [b for b in self.objective.buffers() if b.is_floating_point()]  # of batch norm, thresholds
        self._casts_teachers = self.precision == torch.bfloat16
        if train.compile:
            compile_networks(self.objective)
        self.model = distribute(self.objective, team)
        self.model.train()

    @property
    def network(self) -> SegmentationNetwork:
        """The network that the run is for: the student, or its averaged weights."""
        return self.objective.student if self.averaged is None else self.averaged.module

    @property
    def networks(self) -> list[SegmentationNetwork]:
        """All that are trained, and the averaged one."""
        modules = [*self.objective.modules(), *([] if self.averaged is None else [self.averaged.module])]
        return [module for module in modules if isinstance(module, SegmentationNetwork)]

    @property
    def lr(self) -> float:
        return float(self.schedule.get_last_lr()[0])

    def __call__(self, parts: list[Batch]) -> Outcome:
        """One update from the micro-batches of this process. Nothing in it waits for the device."""
        if self._casts_teachers:  # not before the first step: they are scored in float32
            keep_cast(self.objective.teachers.values(), self.precision)
            self._casts_teachers = False
        before = self._flat_statistics()
        passes = [self.objective.due(part) for part in parts]
        counts = [{name: n for one in part for name, n in one.counts.items()} for part in passes]
        shares = shares_of(counts, self.team)
        computed: list[Terms] = []
        for i, part in enumerate(parts):
            # Gradients are averaged over the processes once, with the last micro-batch.
            wrapped = self.model if isinstance(self.model, DistributedDataParallel) and i < len(parts) - 1 else None
            with wrapped.no_sync() if wrapped is not None else contextlib.nullcontext():
                computed += self._backward(part, passes.pop(0), shares[i])  # what it holds is given up
        if self.objective.refines(parts[0]):  # DDP has filled these with zeros, which momentum would move on
            for parameter in self.objective.beside_the_student():
                parameter.grad = None
        norm = self._update()
        self._undo_statistics(before, norm.isfinite())
        for one in self.thresholds:
            if self.team.world > 1:
                dist.all_reduce(one.seen)
            one.update()
        self.objective.after_update(parts[0].iteration)
        if self.averaged is not None:
            self.averaged.update(self.objective.student, step=parts[0].iteration + 1)
        labels = torch.stack([count["supervised"] for count in counts]).sum()
        return Outcome(total(computed), norm, labels)

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
            held = self._set_aside() if self.model is self.objective else []
            self.scaler.scale(loss).backward()
            _add_gradients(held)
            yield {name: term.detach() for name, term in terms.items()}

    def _set_aside(self) -> list[tuple[nn.Parameter, Tensor]]:
        """The gradients so far, so that those to come are not added one by one: a launch for each weight."""
        held = [(p, p.grad) for p in self.objective.parameters() if p.grad is not None]
        for parameter, _ in held:
            parameter.grad = None
        return held

    def _update(self) -> Tensor:
        """Step unless a gradient is not finite, move the schedule on, and return the gradients' norm."""
        self.scaler.unscale_(self.optimizer)
        norm = get_total_norm([p.grad for p in self.objective.parameters() if p.grad is not None])
        finite = norm.isfinite()
        if self.scaler.is_enabled():
            self.scaler.step(self.optimizer)
            self.scaler.update()
        elif self.train.optimizer != "apex_fused_sgd":
            # torch's fused kernels look at it on the device.
            self.optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
            self.optimizer.step()
        elif finite:  # apex has no such switch: this waits for the device
            self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()
        return norm

    def _flat_statistics(self) -> Tensor:
        """A copy of all running statistics in one tensor: a launch or two, however many layers there are."""
        return torch.cat([statistic.flatten() for statistic in self._statistics])

    def _undo_statistics(self, before: Tensor, finite: Tensor) -> None:
        """Running statistics as before a step that is left out: its forward took in what was bad."""
        kept = torch.where(finite, self._flat_statistics(), before).split([s.numel() for s in self._statistics])
        torch._foreach_copy_(self._statistics, [k.view_as(s) for k, s in zip(kept, self._statistics, strict=True)])

    def state_dict(self) -> dict[str, Any]:
        """What a run that goes on needs; BN statistics are this process's."""
        state = {
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        return state if self.averaged is None else {**state, "averaged": self.averaged.module.state_dict()}

    def load_state_dict(self, state: dict[str, Any], iteration: int) -> None:
        """Take up what was trained until `iteration`; learning rate, momentum and decay are those of the config."""
        self.objective.load_state_dict(state["objective"])
        own = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state["optimizer"]["state"], "param_groups": own})
        move_schedule(self.schedule, iteration)
        self.scaler.load_state_dict(state["scaler"])
        if self.averaged is not None:
            self.averaged.module.load_state_dict(state["averaged"])


def _add_gradients(held: list[tuple[nn.Parameter, Tensor]]) -> None:
    """Add gradients that were set aside to their parameters' own."""
    again = [(p.grad, gradient) for p, gradient in held if p.grad is not None]
    for parameter, gradient in held:
        if parameter.grad is None:
            parameter.grad = gradient
    if again:
        torch._foreach_add_([new for new, _ in again], [old for _, old in again])
