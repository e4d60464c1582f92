"""The training loop: it sums an objective's terms, steps, logs, evaluates and saves; it knows no loss."""

import contextlib
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from timm.layers import convert_sync_batchnorm
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from mgd import checkpoint
from mgd.check import Finding, quick_check
from mgd.config import Experiment, to_dict
from mgd.data.datasets import Splits, open_splits
from mgd.data.loaders import Batch, PositionSampler, TrainingSamples, make_loader, to_device
from mgd.engine.distributed import Processes, distribute, share_buffers, total_shares
from mgd.engine.log import Meter, log_to_file, record_run
from mgd.engine.optim import make_optimizer, make_schedule, pick_precision
from mgd.engine.resume import check_same_start, previous_state
from mgd.engine.teachers import score_teachers
from mgd.errors import UserError
from mgd.evaluate import evaluate
from mgd.objectives import build_objective
from mgd.objectives.base import Terms, add_terms

log = logging.getLogger(__name__)


def run_length(config: Experiment, splits: Splits) -> tuple[int, int]:
    """(iterations in an epoch, iterations in all). An epoch goes through the unlabelled images once."""
    # VOC 1/8: 9,259 unlabelled images // 8 = 1,157 iterations an epoch; x 34 epochs = 39,338
    epoch = max(1, len(splits.unlabeled or splits.labeled) // config.train.batch_size)
    return epoch, config.train.max_iterations or config.train.epochs * epoch


class Trainer:
    """One run of an experiment on one process."""

    def __init__(self, config: Experiment, team: Processes, *, resume: bool) -> None:
        self.config, self.team = config, team
        self.folder = Path(config.run.dir)
        self.splits = open_splits(config.data)
        if team.is_main:
            _report(quick_check(config, self.splits))
        self.epoch, self.total = run_length(config, self.splits)
        self._check_batch()
        self.precision = pick_precision(config.train.precision, team.device)
        previous = previous_state(self.folder, config, resume=resume)
        self.iteration = previous.progress[0] if previous is not None and previous.progress else 0
        check_same_start(self.iteration, self.folder)
        self.loader = self._make_loader()
        if team.is_main:
            log_to_file(self.folder)

        torch.manual_seed(config.train.seed)
        self.objective = build_objective(config, len(self.splits.classes))
        if team.world > 1 and team.device.type == "cuda":
            self.objective = convert_sync_batchnorm(self.objective)  # timm's: it keeps fused activations
        self.objective.to(team.device).to(memory_format=torch.channels_last)
        self.optimizer = make_optimizer(self.objective, config.train, team.device)
        self.schedule = make_schedule(self.optimizer, config.train, self.total)
        self.scaler = torch.amp.GradScaler(team.device.type, enabled=self.precision == torch.float16)
        self.best = -math.inf
        if previous is not None:
            self._restore(previous)

    def run(self) -> None:
        """Train from where the run stands to its end."""
        config, team = self.config, self.team
        if team.is_main:
            self._describe()
        if self.objective.teachers and self.iteration == 0:
            score_teachers(self.objective.teachers, config, self.splits, team.device, main=team.is_main)
        model = distribute(self.objective, team)
        model.train()
        meter = Meter(
            self.folder, start=self.iteration, total=self.total, images=config.train.batch_size, main=team.is_main
        )
        with contextlib.closing(meter):
            self._loop(model, meter)

    def _loop(self, model: nn.Module, meter: Meter) -> None:
        config, batches = self.config, iter(self.loader)
        losses: Terms = {}
        counted = 0
        while self.iteration < self.total:
            # Dropout and the like depend on the iteration alone, so that a resumed run draws the same.
            torch.manual_seed(config.train.seed + self.iteration * self.team.world + self.team.rank)
            lr = float(self.schedule.get_last_lr()[0])
            add_terms(losses, self._step(model, batches))
            self.iteration += 1
            counted += 1
            meter.advance()
            saves = self._saves_now()
            if saves or self.iteration % config.run.log_every == 0:  # no state is saved before its losses are checked
                means = dict(zip(losses, (torch.stack(list(losses.values())) / counted).tolist(), strict=True))
                self._check_finite(means, counted)
                meter.train(self.iteration, {"total": sum(means.values()), **means}, lr)
                losses, counted = {}, 0
            if saves:
                self._evaluate_and_save(meter)

    def _step(self, model: nn.Module, batches: Iterator[Any]) -> Terms:
        """One optimiser step; returns the terms, detached and still on the device."""
        sums: Terms = {}
        parts = [
            to_device(next(batches), self.team.device, self.iteration) for _ in range(self.config.train.accumulate)
        ]
        shares = total_shares([self.objective.counts(part) for part in parts], self.team)
        for i, (part, share) in enumerate(zip(parts, shares, strict=True), start=1):
            # Gradients are averaged over the processes once, with the last micro-batch.
            wrapped = model if isinstance(model, DistributedDataParallel) and i < len(parts) else None
            with wrapped.no_sync() if wrapped is not None else contextlib.nullcontext():
                for terms in self._backward(model, part, share):
                    add_terms(sums, terms)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        return sums

    def _backward(self, model: nn.Module, batch: Batch, share: Terms) -> Iterator[Terms]:
        """Yield groups of an objective's terms, times their share and detached, after their gradients have been added.

        A single process goes group by group, which holds fewer activations; DDP needs all terms in one forward.
        """
        groups = self.objective.parts(batch) if model is self.objective else _whole(model, batch)
        while True:
            # No cache of cast weights: one filled under no_grad (pseudo-labels) would cut the gradients that follow.
            enabled = self.precision != torch.float32
            with torch.autocast(self.team.device.type, self.precision, enabled=enabled, cache_enabled=False):
                terms = next(groups, None)
            if terms is None:
                return
            terms = {name: term * share.get(name, 1) / self.config.train.accumulate for name, term in terms.items()}
            self.scaler.scale(torch.stack(list(terms.values())).sum()).backward()
            yield {name: term.detach() for name, term in terms.items()}

    def _make_loader(self) -> DataLoader[Any]:
        """What is left of the run. Made before any network, since it refuses what cannot be trained on."""
        train = self.config.train
        sampler = PositionSampler(
            self.iteration,
            self.total,
            batch_size=train.batch_size,
            accumulate=train.accumulate,
            rank=self.team.rank,
            world=self.team.world,
        )
        samples = TrainingSamples(self.splits, self.config)
        workers = self.config.data.workers
        return make_loader(samples, sampler, workers=workers, device=self.team.device, batched=True)

    def _saves_now(self) -> bool:
        """At the ends of the run and of every epoch, and every so many iterations."""
        every = self.config.run.save_every
        return self.iteration == self.total or self.iteration % self.epoch == 0 or self.iteration % every == 0

    def _evaluate_and_save(self, meter: Meter) -> None:
        every, epoch_done = self.config.evaluate.every, self.iteration % self.epoch == 0
        meter.pause()
        if every and (self.iteration == self.total or (epoch_done and self.iteration // self.epoch % every == 0)):
            self._evaluate(meter)
        if self.team.is_main:
            self._save()
        meter.resume()

    def _evaluate(self, meter: Meter) -> None:
        caption = "evaluation" if self.team.is_main else ""
        splits = self.splits
        network = self.objective.student
        if self.team.world > 1:
            share_buffers(network)
        report = evaluate(network, splits.val, splits.classes, self.config, self.team.device, progress=caption)
        meter.write(self.iteration, {"miou": report.miou})
        log.info("iteration %d: mIoU %.2f", self.iteration, 100 * report.miou)
        if report.miou > self.best:
            self.best = report.miou
            if self.team.is_main:
                self._write("best.pt", miou=report.miou)

    def _save(self) -> None:
        training = {
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "best": self.best,
        }
        self._write("last.pt", training=training)

    def _write(self, name: str, **extra: Any) -> None:
        checkpoint.save(
            self.folder / name,
            self.objective.student,
            config=to_dict(self.config),
            classes=self.splits.classes.names,
            iteration=self.iteration,
            total=self.total,
            **extra,
        )

    def _restore(self, previous: checkpoint.Recognised) -> None:
        training = previous.extra["training"]
        self.objective.load_state_dict(training["objective"])
        self.optimizer.load_state_dict(training["optimizer"])
        self.schedule.load_state_dict(training["schedule"])
        self.scaler.load_state_dict(training["scaler"])
        self.best = training["best"]
        log.info("resumed %s at iteration %d of %d", self.folder / "last.pt", self.iteration, self.total)

    def _describe(self) -> None:
        """Tell what runs, and put it on record."""
        config, splits, student = self.config, self.splits, self.objective.student
        world, parts, batch = self.team.world, config.train.accumulate, config.train.batch_size
        parameters = sum(p.numel() for p in student.parameters()) / 1e6
        name = to_dict(config)["method"]["name"]
        sizes = {"labelled": len(splits.labeled), "unlabelled": len(splits.unlabeled), "validation": len(splits.val)}
        log.info("%s: %s, %.1f M parameters", name, student.arch["backbone"], parameters)
        log.info("images: %s; %d classes", ", ".join(f"{n} {k}" for k, n in sizes.items()), len(splits.classes))
        log.info("partition: %s; sha256 of the labelled names %s", splits.source, splits.sha256[:12])
        log.info("batch: %d images / %d processes / %d parts = %d", batch, world, parts, batch // world // parts)
        log.info("device: %s, %s", self.team.device, str(self.precision).removeprefix("torch."))
        log.info("iterations: %d, %d an epoch; folder: %s", self.total, self.epoch, self.folder)
        facts = {"images": sizes, "labeled_sha256": splits.sha256, "iterations": self.total, "processes": world}
        record_run(self.folder, config, **facts)

    def _check_batch(self) -> None:
        """BN of the pooled ASPP branch cannot normalise a single value."""
        train, team = self.config.train, self.team
        synchronised = team.world > 1 and team.device.type == "cuda"
        if train.batch_size == train.accumulate * team.world and not synchronised:
            raise UserError(
                f"train.batch_size={train.batch_size} / {team.world} processes / train.accumulate={train.accumulate} "
                "leaves 1 image in a forward pass, and batch norm needs 2; use a larger batch or less accumulation"
            )

    def _check_finite(self, means: dict[str, float], counted: int) -> None:
        """Weights are looked at too: they are what a gradient that is not finite, of any process, ends in."""
        bad = [f"loss {name}" for name, value in means.items() if not math.isfinite(value)]
        if not all(torch.stack([p.isfinite().all() for p in self.objective.parameters()]).tolist()):
            bad.append("a weight")
        if bad:
            span = f"iterations {self.iteration - counted + 1} to {self.iteration}"
            raise UserError(
                f"{', '.join(bad)} is not finite in {span}, none of which was saved to {self.folder}; train again with "
                "a lower train.lr or train.precision=fp32"
            )


def _report(findings: list[Finding]) -> None:
    """Log warnings; raise UserError at the first error."""
    for level, subject, text in findings:
        if level == "error":
            raise UserError(f"{subject}: {text}")
        if level == "warning":
            log.warning("WARNING: %s: %s", subject, text)


def _whole(model: nn.Module, batch: Batch) -> Iterator[Terms]:
    """All terms as one group; nothing is computed before it is asked for."""
    yield model(batch)
