"""The training loop: it asks for steps, logs, evaluates and saves; it knows no loss."""

import contextlib
import logging
import math
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from mgd import checkpoint
from mgd.check import Finding, quick_check
from mgd.config import Experiment, Train, to_dict
from mgd.data.balance import class_weights
from mgd.data.batch import to_device
from mgd.data.datasets import Splits, open_splits
from mgd.data.loaders import make_loader
from mgd.data.pack import open_pack
from mgd.data.positions import PositionSampler
from mgd.data.samples import TrainingSamples
from mgd.engine.distributed import Processes, share_buffers
from mgd.engine.history import History
from mgd.engine.inputs import inputs_of, same_validation
from mgd.engine.log import Meter, log_to_file
from mgd.engine.record import describe
from mgd.engine.resume import (
    Previous,
    Stretch,
    Wish,
    check_fits,
    check_same_start,
    keep_snapshot,
    previous_state,
    stretch_of,
)
from mgd.engine.step import Stepper
from mgd.engine.stop import StopRequest
from mgd.engine.teachers import score_teachers
from mgd.engine.watch import Watch
from mgd.errors import UserError
from mgd.evaluate import evaluate
from mgd.objectives import build_objective, open_maps
from mgd.objectives.thresholds import threshold_values
from mgd.scores import scored_otherwise

log = logging.getLogger(__name__)


def run_length(config: Experiment, splits: Splits) -> tuple[int, int]:
    """(iterations in an epoch, iterations in all). An epoch goes through the unlabelled images once."""
    # VOC 1/8: 9,259 unlabelled images // 8 = 1,157 iterations an epoch; x 34 epochs = 39,338
    epoch = max(1, len(splits.unlabeled or splits.labeled) // config.train.batch_size)
    return epoch, config.train.max_iterations or config.train.epochs * epoch


def refinement(train: Train, stretch: Stretch) -> int:
    """The iteration at which a last stage on labels alone begins; its end where there is none.

    Raises:
        UserError: nothing is left for what comes before it.
    """
    length = stretch.stop - stretch.start
    if train.refine_iterations >= length:
        raise UserError(
            f"train.refine_iterations={train.refine_iterations} leaves none of the {length} iterations to the method; "
            "use fewer, or method=supervised"
        )
    return stretch.stop - train.refine_iterations


class Trainer:
    """One run of an experiment on one process."""

    def __init__(self, config: Experiment, team: Processes, wish: Wish) -> None:
        """Raises UserError where the data, or what the run's folder holds, do not allow what is wished for."""
        self.config, self.team = config, team
        self.folder = Path(config.run.dir)
        self.splits = open_splits(config.data)
        findings = quick_check(config, self.splits) if team.is_main else []
        _refuse(findings)
        self.epoch, length = run_length(config, self.splits)
        self._check_batch()
        self.inputs = inputs_of(config, self.splits)
        if team.is_main:
            log_to_file(self.folder)  # keeps others out from before the state is read
        previous = previous_state(self.folder, config, self.inputs, wish)
        self.iteration = previous.iteration if previous is not None else 0
        self.stretch = stretch_of(previous, length, wish.more)
        self.total = self.stretch.stop
        self.refines_from = refinement(config.train, self.stretch)
        check_same_start(self.iteration, self.folder)
        together = config.train.batch_size // (config.train.accumulate * team.world)
        maps, pack = open_maps(config, self.splits), open_pack(config.data, self.splits)
        how: dict[str, Any] = {"together": together, "labels_alone_from": self.refines_from}
        self.samples = TrainingSamples(self.splits, config, maps=maps, pack=pack, **how)
        self.loader = self._make_loader()
        _warn(findings)

        torch.manual_seed(config.train.seed)
        objective = build_objective(config, len(self.splits.classes), classes=self.splits.classes.names)
        if config.method.criterion.class_weights == "median_frequency":
            objective.class_weights = class_weights(self.splits.labeled, config.data, len(self.splits.classes))
        self.stepper = Stepper(objective, config.train, team, self.total, start=self.stretch.start)
        self.history = History(self.samples, config, team, weights=objective.weights)
        self.watch = Watch(config, self.splits.classes, teachers=self.inputs["teachers"])
        self.stop = StopRequest(team, at_most=config.run.log_every)
        self.best, self.evaluation_due, self.written = -math.inf, False, 0
        if previous is not None:
            self._restore(previous)

    def run(self) -> None:
        """Train from where the run stands to its end.

        Raises:
            Stopped: a signal asked for it; what was trained is saved.
            UserError: what the data, the disk or the numbers do not allow.
        """
        config, team = self.config, self.team
        if team.is_main:
            place = {"start": self.iteration, "epoch": self.epoch, "refines_from": self.refines_from}
            describe(config, self.splits, self.stepper, **place, stretch=self.stretch, inputs=self.inputs)
        teachers, splits, stops = self.stepper.objective.teachers, self.splits, self.stop.stop_if_agreed
        position = {"start": self.iteration, "total": self.total, "written": self.written}
        meter = Meter(self.folder, team.device, **position, images=config.train.batch_size, main=team.is_main)
        with contextlib.closing(meter), self.stop.listening():
            with meter.paused():
                if self.iteration:  # the run may have ended between a save and what follows it
                    self._after_save(meter, evaluates=self.evaluation_due, keeps=self._plan()[2])
                elif teachers:
                    score_teachers(teachers, config, splits, team.device, main=team.is_main, before_image=stops)
            self._loop(meter)
            self.stop.settle()

    def _loop(self, meter: Meter) -> None:
        config, batches = self.config, iter(self.loader)
        while self.iteration < self.total:
            # Dropout and the like depend on the iteration alone, so that a resumed run draws the same.
            torch.manual_seed(config.train.seed + self.iteration * self.team.world + self.team.rank)
            lr = self.stepper.lr
            if self.iteration == self.refines_from:
                log.info("iteration %d: from here on the student learns from labels alone", self.iteration + 1)
            with meter.waiting():
                parts = [next(batches) for _ in range(config.train.accumulate)]
            self.history.note_broken(parts)
            outcome = self.stepper([to_device(part, self.team.device, self.iteration) for part in parts])
            self.history.add(self.iteration, outcome)
            self.iteration += 1
            meter.advance()
            stops, (saves, evaluates, keeps) = self.stop.agreed(), self._plan()
            if stops or saves or self.iteration % config.run.log_every == 0:
                values = self.history.read()  # no state is saved before its losses are checked
                values |= {"refining": 1.0} if self.iteration > self.refines_from else {}
                meter.train(self.iteration, values, lr)
            if saves or stops:
                self.evaluation_due = evaluates
                with meter.paused():
                    self._save(meter)
                    if stops:
                        self.stop.leave()
                    self._after_save(meter, evaluates=evaluates, keeps=keeps)

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
        workers = self.config.data.workers
        return make_loader(self.samples, sampler, workers=workers, device=self.team.device, batched=True)

    def _plan(self) -> tuple[bool, bool, bool]:
        """(saves, evaluates, keeps a snapshot): what is due after this iteration."""
        run, every = self.config.run, self.config.evaluate.every
        epochs, rest = divmod(self.iteration, self.epoch)
        ends = self.iteration == self.total
        keeps = bool(run.keep) and rest == 0
        evaluates = bool(every) and (ends or (rest == 0 and epochs % every == 0))
        return ends or keeps or evaluates or self.iteration % run.save_every == 0, evaluates, keeps

    def _after_save(self, meter: Meter, *, evaluates: bool, keeps: bool) -> None:
        """What a run that ends before it makes up for when it goes on."""
        if evaluates:
            self._evaluate(meter)
        if keeps and self.team.is_main:
            keep_snapshot(self.folder, self.iteration, self.config.run.keep)

    def _evaluate(self, meter: Meter) -> None:
        caption = "evaluation" if self.team.is_main else ""
        splits, network = self.splits, self.stepper.network
        if self.team.world > 1:
            share_buffers(network)
        what, device = (network, splits.val, splits.classes, self.config), self.team.device
        panels, stops = self.folder / "panels", self.stop.stop_if_agreed
        report = evaluate(*what, device, pictures=panels, progress=caption, before_image=stops)
        seen = {"student": network, **self.stepper.objective.labellers}
        thresholds = threshold_values(self.stepper.objective, splits.classes.names)
        values = self.watch.scores(report) | self.watch.pseudo_labels(seen, device, stops) | thresholds
        meter.write(self.iteration, values)
        meter.show(self.iteration, panels)
        self.watch.warn(report)
        log.info("iteration %d: mIoU %.2f", self.iteration, 100 * report.miou)
        if report.miou > self.best:
            self.best = report.miou
            self._write("best.pt", miou=report.miou)
        self.evaluation_due = False
        self._save(meter)

    def _save(self, meter: Meter) -> None:
        standing: dict[str, Any] = {"best": self.best, "evaluation_due": self.evaluation_due, "written": meter.written}
        standing |= {"counts": self.history.counts, "inputs": self.inputs, "stretch": tuple(self.stretch)}
        standing["statistics"] = [(network.mean, network.std) for network in self.stepper.networks]
        self._write("last.pt", training={**self.stepper.state_dict(), **standing})

    def _write(self, name: str, **extra: Any) -> None:
        if not self.team.is_main:
            return
        if not all(torch.stack([p.isfinite().all() for p in self.stepper.objective.parameters()]).tolist()):
            raise UserError(
                f"a weight is not finite after iteration {self.iteration}, though every gradient was: "
                f"{self.folder / name} is kept as it was; train again with a lower train.lr"
            )
        checkpoint.save(
            self.folder / name,
            self.stepper.network,
            config=to_dict(self.config),
            classes=self.splits.classes.names,
            colors=self.splits.classes.colors,
            iteration=self.iteration,
            total=self.total,
            **extra,
        )

    def _restore(self, previous: Previous) -> None:
        training = previous.training
        check_fits(self.folder / "last.pt", training["objective"], self.stepper.objective.state_dict())
        self.stepper.load_state_dict(training, self.iteration)
        networks = self.stepper.networks  # each goes on with the statistics that it began with; of an older run all ...
        known = [(previous.arch["mean"], previous.arch["std"])] * len(networks)  # ... with the student's
        for network, (mean, std) in zip(networks, training.get("statistics", known), strict=True):
            network.set_statistics(mean, std)
        self.evaluation_due, self.written = training["evaluation_due"], training["written"]
        self.history.counts |= training["counts"]
        scored_alike = not scored_otherwise(previous.config, to_dict(self.config))
        if scored_alike and same_validation(training["inputs"], self.inputs):
            self.best = training["best"]  # else it tells nothing about the scores to come
        log.info("resumed %s at iteration %d of %d", self.folder / "last.pt", self.iteration, self.total)
        if previous.changes:
            log.warning("goes on with changes that were accepted: %s", "; ".join(previous.changes))

    def _check_batch(self) -> None:
        """BN of the pooled ASPP branch cannot normalise a single value."""
        train, team = self.config.train, self.team
        if train.batch_size == train.accumulate and team.world == 1:
            raise UserError(
                f"train.batch_size={train.batch_size} / train.accumulate={train.accumulate} leaves 1 image in a "
                "forward pass, and batch norm needs 2; use a larger batch or less accumulation"
            )


def _refuse(findings: list[Finding]) -> None:
    """Raise UserError at the first error."""
    for level, subject, text in findings:
        if level == "error":
            raise UserError(f"{subject}: {text}")


def _warn(findings: list[Finding]) -> None:
    for level, subject, text in findings:
        if level == "warning":
            log.warning("%s: %s", subject, text)
