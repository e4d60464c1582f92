"""What a run tells at an evaluation besides its mIoU: each class, lost ones, pseudo-labels where the truth is known."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from mgd.config import Evaluate, Experiment
from mgd.data.classes import Classes
from mgd.data.datasets import hidden_truth
from mgd.data.items import Items
from mgd.data.samples import ValidationSamples
from mgd.engine.teachers import scored_teachers
from mgd.evaluate import Report
from mgd.infer import predict_scores
from mgd.metrics import confusion_matrix, iou_per_class
from mgd.models.normalise import NormalisingNetwork
from mgd.objectives.base import is_sure

log = logging.getLogger(__name__)


class Watch:
    """Keeps an eye on a run; tells each warning once."""

    def __init__(self, config: Experiment, classes: Classes, *, teachers: Mapping[str, str]) -> None:
        """`teachers`: as in the run's inputs. Raises UserError where a photo of `evaluate.watch` has a broken label."""
        self.config, self.classes, self.warned = config, classes, set[str]()
        self.teachers = teachers
        items = hidden_truth(config.data) if config.evaluate.watch else Items.of(())
        places = np.linspace(0, len(items) - 1, min(config.evaluate.watch, len(items))).round().astype(int)
        self.samples = ValidationSamples(items.take(places), config, len(classes))
        for i in range(len(self.samples)):  # broken ones end all processes here, not one of them in an evaluation
            self.samples[i]
        if config.evaluate.watch and not items:
            log.warning("evaluate.watch: no unlabelled photo has a label on the disk, so none is watched")

    def scores(self, report: Report) -> dict[str, float]:
        """mIoU, and IoU of each class that occurs."""
        iou = zip(self.classes.names, iou_per_class(report.confusion).tolist(), strict=True)
        return {"miou": report.miou, **{f"iou/{name}": value for name, value in iou if value == value}}

    def warn(self, report: Report) -> None:
        """Of what must not pass in silence: lost classes, a teacher that its student has overtaken."""
        teachers = scored_teachers(Path(self.config.run.dir), self.teachers)
        for text in (*lost_classes(report), *overtaken(report.miou, teachers)):
            if text not in self.warned:
                self.warned.add(text)
                log.warning("%s", text)

    @torch.inference_mode()
    def pseudo_labels(
        self, networks: Mapping[str, NormalisingNetwork], device: torch.device, before_image: Callable[[], None]
    ) -> dict[str, float]:
        """How good the networks' pseudo-labels are on the photos whose truth is kept from training; ranks share these.

        Args:
            before_image: called before every photo, as often on every rank.

        Returns:
            For each network: pseudo/<network>/accuracy and coverage, the share of right ones among those that reach
            method.confidence, and the share that reaches it; the same by class of the pseudo-label; and
            pseudo/agreement/<a>-<b>, the share of pixels of which two say the same.
        """
        counts = Counts(len(self.classes), getattr(self.config.method, "confidence", ()))
        modes = {name: network.training for name, network in networks.items()}
        # As in training a network looks once; summed over scales and mirror images its logits would be too sure.
        how = Evaluate(mode="whole", precision=self.config.evaluate.precision)
        hows = {name: replace(how, precision="bf16") if _is_cast(net) else how for name, net in networks.items()}
        for network in networks.values():
            network.eval()
        rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        with torch.compiler.set_stance("force_eager"):  # compiled networks would be so anew for each photo's size
            for first in range(0, len(self.samples), world):
                before_image()
                if first + rank >= len(self.samples):
                    break
                sample = self.samples[first + rank]
                size = tuple(sample["label"].shape)
                image = sample["image"].to(device)
                scores = {name: predict_scores(net, image, hows[name], size=size) for name, net in networks.items()}
                scores = {name: one.cpu() for name, one in scores.items()}
                counts.add(sample["label"], scores)
        for name, network in networks.items():
            network.train(modes[name])
        counts.share()
        return counts.read(self.classes.names) if len(self.samples) else {}


def _is_cast(network: NormalisingNetwork) -> bool:
    """Whether it is kept as autocast wants it (`mgd.engine.step.keep_cast`)."""
    return any(parameter.dtype == torch.bfloat16 for parameter in network.parameters())


class Counts:
    """Pixels of pseudo-labels, right and wrong."""

    def __init__(self, num_classes: int, confidence: tuple[float, ...]) -> None:
        self.num_classes, self.confidence = num_classes, confidence
        self.everywhere: dict[str, Tensor] = {}  # network -> (K,K) int64; rows: truth
        self.sure: dict[str, Tensor] = {}
        self.same: dict[str, list[Tensor]] = {}

    def add(self, label: Tensor, scores: Mapping[str, Tensor]) -> None:
        """Count a photo: (H,W) truth, (K,H,W) logits of each network."""
        labels = {name: one.argmax(dim=0) for name, one in scores.items()}
        for name, one in scores.items():
            sure = is_sure(*one.softmax(dim=0).max(dim=0), self.confidence)
            for counts, truth in ((self.everywhere, label), (self.sure, torch.where(sure, label, 255))):
                found = confusion_matrix(truth, labels[name], self.num_classes)
                counts[name] = counts[name] + found if name in counts else found
        for a, b in combinations(labels, 2):
            self.same.setdefault(f"{a}-{b}", []).append((labels[a] == labels[b]).float().mean())

    def share(self) -> None:
        """Under torch.distributed: those of all ranks together, on every rank."""
        if not dist.is_initialized():
            return
        parts: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(parts, (self.everywhere, self.sure, self.same))
        self.everywhere, self.sure, self.same = parts[0]
        for everywhere, sure, same in parts[1:]:
            for mine, theirs in ((self.everywhere, everywhere), (self.sure, sure), (self.same, same)):
                for name, one in theirs.items():
                    mine[name] = mine[name] + one if name in mine else one

    def read(self, names: tuple[str, ...]) -> dict[str, float]:
        """As `Watch.pseudo_labels` tells."""
        values: dict[str, float] = {}
        for network, sure in self.sure.items():
            right, given, every = sure.diagonal(), sure.sum(dim=0), self.everywhere[network].sum(dim=0)
            values[f"pseudo/{network}/accuracy"] = float(right.sum() / given.sum())
            values[f"pseudo/{network}/coverage"] = float(given.sum() / every.sum())
            for i, name in enumerate(names):
                if every[i]:
                    values[f"pseudo/{network}/coverage/{name}"] = float(given[i] / every[i])
                if given[i]:
                    values[f"pseudo/{network}/accuracy/{name}"] = float(right[i] / given[i])
        return values | {f"pseudo/agreement/{pair}": float(torch.stack(s).mean()) for pair, s in self.same.items()}


def lost_classes(report: Report) -> list[str]:
    """A sentence where classes that the labels hold are never predicted."""
    in_labels, predicted = report.confusion.sum(dim=1).tolist(), report.confusion.sum(dim=0).tolist()
    pairs = zip(report.classes.names, in_labels, predicted, strict=True)
    lost = [name for name, label, guess in pairs if label and not guess]
    return [f"the student never predicts {', '.join(lost)}, which the validation labels hold"] if lost else []


def overtaken(miou: float, teachers: Mapping[str, float]) -> list[str]:
    """A sentence for each teacher whose score is below the student's `miou`."""
    return [
        f"the student has overtaken the {name} teacher ({100 * teacher:.2f} mIoU), which holds it back from now"
        for name, teacher in teachers.items()
        if teacher < miou
    ]
