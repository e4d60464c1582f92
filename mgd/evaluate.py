"""Network x validation list -> report: per-class IoU, mIoU, pixel accuracy, pictures."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

from mgd.checkpoint import network_of, read, recognise
from mgd.config import Experiment, from_dict, load, override
from mgd.data.classes import Classes
from mgd.data.datasets import Item
from mgd.data.loaders import ValidationSamples, make_loader
from mgd.draw import panels
from mgd.errors import UserError
from mgd.files import write_json, write_png, write_text
from mgd.infer import predict_scores
from mgd.metrics import confusion_matrix, iou_per_class, mean_iou, pixel_accuracy
from mgd.models.deeplab import DeepLabV3Plus
from mgd.models.normalise import NormalisingNetwork
from mgd.published import experiment_for
from mgd.student import load_student


@dataclass(frozen=True)
class Report:
    """The scores of one network on one list. Shares are 0..1; NaN for a class that never occurs."""

    classes: Classes
    confusion: Tensor  # (K,K) int64; rows: label
    images: int

    @property
    def miou(self) -> float:
        return mean_iou(self.confusion)

    def table(self) -> str:
        """Per-class IoU, mIoU and pixel accuracy in percent, for a terminal."""
        width = max(len("pixel accuracy"), *map(len, self.classes.names))
        rows = [*zip(self.classes.names, iou_per_class(self.confusion).tolist(), strict=True)]
        rows += [("mIoU", self.miou), ("pixel accuracy", pixel_accuracy(self.confusion))]
        lines = [f"{name:<{width}}  {'  absent' if math.isnan(v) else f'{100 * v:8.2f}'}" for name, v in rows]
        lines.insert(-2, "-" * (width + 10))
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """JSON values; null for a class that never occurs."""
        iou = [None if math.isnan(v) else v for v in iou_per_class(self.confusion).tolist()]
        return {
            "miou": self.miou,
            "pixel_accuracy": pixel_accuracy(self.confusion),
            "iou": dict(zip(self.classes.names, iou, strict=True)),
            "images": self.images,
            "confusion": self.confusion.tolist(),
        }

    def write(self, folder: Path, name: str, **facts: Any) -> None:
        """Write <name>.json (with `facts` in it) and <name>.txt."""
        write_json(folder / f"{name}.json", facts | self.to_dict())
        write_text(folder / f"{name}.txt", self.table() + "\n")


class EveryNth(torch.utils.data.Sampler[int]):
    """The indices rank, rank + world, ...: every image counts once, for any number of processes."""

    def __init__(self, count: int, rank: int, world: int) -> None:
        self.indices = range(rank, count, world)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)


def evaluate(
    network: NormalisingNetwork,
    items: Sequence[Item],
    classes: Classes,
    config: Experiment,
    device: torch.device,
    *,
    pictures: Path | None = None,
    progress: str = "",
    heed: Callable[[], None] = lambda: None,
) -> Report:
    """Score a network; under torch.distributed the ranks share the images and all get the whole report.

    The network is put into eval mode and back. Labels keep their own size: scores are resized to it.

    Args:
        network: normalised images -> logits.
        pictures: folder for image | truth | prediction panels of the first `evaluate.pictures` images.
        progress: caption of a progress bar; "" shows none.
        heed: called before every image, as often on every rank; what it raises ends the evaluation.
    """
    how = replace(config.evaluate, crop_size=config.evaluate.crop_size or config.data.crop_size)
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    samples, share = ValidationSamples(list(items), config, len(classes)), EveryNth(len(items), rank, world)
    loaded = iter(make_loader(samples, share, workers=config.data.workers, device=device, batched=False))
    confusion = torch.zeros(len(classes), len(classes), dtype=torch.int64, device=device)
    was_training = network.training
    network.eval()
    turns = range(math.ceil(len(items) / world))
    for _ in tqdm(turns, desc=progress, unit="image", disable=None if progress else True, leave=False):
        heed()
        if (sample := next(loaded, None)) is None:  # other ranks have one image more
            break
        item = items[sample["index"]]
        label = sample["label"].to(device, non_blocking=True)
        scores = predict_scores(network, sample["image"].to(device, non_blocking=True), how, size=tuple(label.shape))
        if not torch.isfinite(scores).all():
            raise UserError(f"the network gives scores that are not finite on {item.image}; its weights are broken")
        prediction = scores.argmax(dim=0)
        confusion += confusion_matrix(label, prediction, len(classes))
        if pictures is not None and sample["index"] < how.pictures:
            row = panels(sample["image"], [label.cpu(), prediction.cpu()], classes)
            write_png(pictures / f"{item.name}.png", np.concatenate(row, axis=1))
    network.train(was_training)
    if world > 1:
        dist.all_reduce(confusion)
    return Report(classes, confusion.cpu(), len(items))


def open_target(
    target: str | Path, overrides: Sequence[str] = (), *, file: Path | None = None
) -> tuple[Experiment, DeepLabV3Plus, Path]:
    """What `evaluate` is asked for: (config, network in eval mode, its file).

    Args:
        target: a config.py or its folder (the run's last.pt is meant), or a checkpoint. A checkpoint without a
            config in it gets the published evaluation of VOC (21 classes) or Cityscapes (19).
        file: the checkpoint to take instead of the config's own.
    """
    if Path(target).suffix == ".py" or Path(target).is_dir():
        config = load(target, overrides)
        file = file or Path(config.run.dir) / "last.pt"
        if not file.is_file():
            script = Path(target).absolute().parent / "script.sh"
            raise UserError(f"{file} does not exist: train it first, bash {script}")
        return config, load_student(file), file
    file = Path(target)
    found = recognise(read(file), file)
    if found.config is not None:
        config = from_dict(found.config)
    else:
        config = experiment_for(found.arch["backbone"], found.arch["num_classes"], file)
    return override(config, overrides), network_of(found, file).eval(), file
