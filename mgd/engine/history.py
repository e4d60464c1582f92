"""What steps computed and what images could not be read since the last report, and what must not pass in silence."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from mgd.config import CPS, Experiment
from mgd.data.samples import TrainingSamples
from mgd.engine.distributed import Processes
from mgd.engine.step import Outcome
from mgd.errors import UserError

log = logging.getLogger(__name__)
DIVERGED = 10.0  # nats a pixel of one network; a guess among 150 classes has 5


class History:
    """Collects outcomes on the device; `read` brings them over in one transfer, which waits for the steps."""

    def __init__(
        self,
        samples: TrainingSamples,
        config: Experiment,
        team: Processes,
        *,
        weights: Callable[[int], Mapping[str, float]],
    ) -> None:
        """`weights`: the objective's, of the terms at an iteration."""
        self.samples, self.config, self.team, self.weights = samples, config, team, weights
        # Since the run began: left out; replaced; without a labelled pixel on any process.
        self.counts = {"skipped_steps": 0, "broken_images": 0, "steps_without_labels": 0}
        self._in_a_row = 0
        self._diverged = False
        self._broken = 0  # on this process, since the last report
        self._logged: set[str] = set()
        self._steps: list[tuple[int, Outcome]] = []

    def note_broken(self, parts: Sequence[Mapping[str, Any]]) -> None:
        """Tell of images that `data.skip_broken` replaced, each once, on whichever process met it."""
        for complaint in (line for part in parts for text in part["broken"] for line in text.splitlines()):
            self._broken += 1
            if complaint not in self._logged:
                self._logged.add(complaint)
                log.error("%s (the next image of the list was taken in its place)", complaint)

    def add(self, iteration: int, outcome: Outcome) -> None:
        """Take in what step `iteration`, counted from 0, computed."""
        self._steps.append((iteration, outcome))

    def read(self) -> dict[str, float]:
        """Means since the last call over the steps that were made, and counts of what was left out.

        Every process must ask, and gets the same: the means and counts are those of all.

        Raises:
            UserError: more than `train.max_skipped` steps in a row had a loss or gradient that is not finite.
        """
        steps, self._steps = self._steps, []
        tensors = [
            value for _, (terms, norm, labels) in steps for value in (*terms.values(), norm, labels.to(norm.dtype))
        ]
        values = iter(self._over_processes(torch.stack(tensors)))
        made: list[dict[str, float]] = []
        raw: dict[str, list[float]] = {}
        for iteration, outcome in steps:
            losses = {name: next(values) for name in outcome.terms}
            norm, labels = next(values), next(values)
            if not labels:
                self._note_unlabeled(iteration)
            if math.isfinite(norm):
                self._in_a_row = 0
                made.append({**losses, "gradient_norm": norm})
                for name, weight in self.weights(iteration).items():
                    if name in losses and weight:
                        raw.setdefault(f"raw/{name}", []).append(losses[name] / weight)
            else:
                self._leave_out(iteration, losses)
        names = dict.fromkeys(name for step in made for name in step)
        losses = {name: sum(step.get(name, 0.0) for step in made) / len(made) for name in names}
        norms = {"gradient_norm": losses.pop("gradient_norm")} if made else {}
        self._note_divergence(losses.get("supervised", 0.0))
        return {
            "loss/total": sum(losses.values()) if made else math.nan,
            **{f"loss/{name}": value for name, value in losses.items()},
            **{name: sum(values) / len(values) for name, values in raw.items()},
            **norms,
            **{name: float(count) for name, count in self.counts.items() if count},
        }

    def _over_processes(self, values: torch.Tensor) -> list[float]:
        """Means over all processes; counts what they met that was broken."""
        values = torch.cat([values, values.new_full((1,), self._broken)])
        if self.team.world > 1:
            dist.all_reduce(values)
        *sums, broken = values.tolist()
        self.counts["broken_images"] += round(broken)
        self._broken = 0
        return [value / self.team.world for value in sums]

    def _names(self, iteration: int) -> list[list[str]]:
        """For each slot of a step's batch the images that it takes, the labelled one first."""
        first, size = iteration * self.config.train.batch_size, self.config.train.batch_size
        return [self.samples.names(position) for position in range(first, first + size)]

    def _note_unlabeled(self, iteration: int) -> None:
        """Count a step whose crops held no label; the first of a run is told."""
        if not self.counts["steps_without_labels"] and self.team.is_main:
            names = ", ".join(labeled for labeled, *_ in self._names(iteration))
            log.warning(
                "iteration %d: no pixel of %s has a label in the crops that were drawn; such steps learn "
                "nothing from labels and are counted as steps_without_labels",
                *(iteration + 1, names),
            )
        self.counts["steps_without_labels"] += 1

    def _note_divergence(self, supervised: float) -> None:
        """Tell once that the loss on labels is far above that of a guess."""
        networks = 2 if isinstance(self.config.method, CPS) else 1
        if supervised > networks * DIVERGED and not self._diverged and self.team.is_main:
            self._diverged = True
            log.warning(
                "the loss on labels is %.3g, far above that of a guess: training diverges. Train anew with a "
                "lower train.lr, or let it rise slowly with train.warmup_iterations",
                supervised,
            )

    def _leave_out(self, iteration: int, losses: Mapping[str, float]) -> None:
        """Tell of a step that changed nothing; end the run when there are too many."""
        self.counts["skipped_steps"] += 1
        self._in_a_row += 1
        train, folder = self.config.train, Path(self.config.run.dir)
        bad = [f"loss {name}" for name, value in losses.items() if not math.isfinite(value)] or ["the gradient"]
        if train.precision == "fp16" and bad == ["the gradient"] and self._in_a_row <= train.max_skipped:
            log.info("iteration %d: a gradient does not fit into fp16; the loss scale is lowered", iteration + 1)
            return
        if not self.team.is_main and self._in_a_row <= train.max_skipped:
            return  # the main process tells
        names = [name for one in self._names(iteration) for name in one]
        what = f"iteration {iteration + 1}: {', '.join(bad)} is not finite on the images {', '.join(names)}"
        if self._in_a_row > train.max_skipped:
            last = folder / "last.pt"
            good = f"{last} is the last good state" if last.exists() else "nothing was saved yet"
            raise UserError(
                f"{what}; {self._in_a_row} such steps in a row, none of which changed a weight. {good}; look at these "
                "images, or train anew with a lower train.lr or train.precision=fp32"
            )
        log.warning("%s; the step is left out", what)
