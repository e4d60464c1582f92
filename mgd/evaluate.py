"""Network x validation list -> report, counted image by image; pictures on the way."""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from mgd.checkpoint import config_of, recognise
from mgd.config import Evaluate, Experiment, Model, load, override
from mgd.data.classes import Classes
from mgd.data.items import Item
from mgd.data.loaders import make_loader
from mgd.data.samples import ValidationSamples
from mgd.draw import panels
from mgd.errors import UserError, is_out_of_memory, no_memory
from mgd.files import below, write_png
from mgd.infer import predict_labels
from mgd.metrics import boundary_counts, confusion_matrix, iou_per_class
from mgd.models.backbones import canonical_name
from mgd.models.folding import for_inference
from mgd.models.network import SegmentationNetwork
from mgd.models.normalise import NormalisingNetwork
from mgd.progress import Progress
from mgd.published import experiment_for
from mgd.scores import ImageScores, Report, check_excluded
from mgd.student import load_student, student_in
from mgd.weights import checkpoint_file, read

log = logging.getLogger(__name__)


def evaluate(
    network: NormalisingNetwork,
    items: Sequence[Item],
    classes: Classes,
    config: Experiment,
    device: torch.device,
    *,
    pictures: Path | None = None,
    per_image: bool = False,
    progress: str = "",
    before_image: Callable[[], None] = lambda: None,
) -> Report:
    """Score a network; under torch.distributed the ranks share the images and all get the whole report.

    A copy made for inference is scored; the network stays as it is. Labels keep their own size: scores are resized to
    it. Where no label holds a pixel that counts, a warning says so, and the scores are NaN.

    Args:
        network: normalised images -> logits, on `device`.
        pictures: folder for image | truth | prediction panels of the first `evaluate.pictures` images.
        per_image: keep every image's scores too.
        progress: caption of a progress bar; "" shows none.
        before_image: called before every image, as often on every rank; what it raises ends the evaluation.

    Raises:
        UserError: an image or label cannot be read or does not fit into memory, scores that are not finite, or
            `evaluate.exclude` names no class.
    """
    how = config.scoring
    check_excluded(how.exclude, classes)
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    samples, share = ValidationSamples(items, config, len(classes)), range(rank, len(items), world)
    loaded = iter(make_loader(samples, share, workers=config.data.workers, device=device, batched=False))
    counts = Counts(len(classes), device, boundary="boundary_iou" in how.metrics, per_image=per_image)
    fast = for_inference(network)
    turns = range(math.ceil(len(items) / world))
    for _ in Progress(turns, desc=progress, unit="image", disable=None if progress else True, leave=False):
        before_image()
        if (sample := next(loaded, None)) is None:  # other ranks have one image more
            break
        item, label = items[sample["index"]], sample["label"].to(device, non_blocking=True)
        prediction = _predict(fast, sample["image"].to(device, non_blocking=True), how, item, label.shape)
        counts.add(sample["index"], label, prediction)
        if pictures is not None and sample["index"] < how.pictures:
            row = panels(sample["image"], [label.cpu(), prediction.cpu()], classes)
            write_png(below(pictures, item.name.removesuffix(".png"), ".png"), np.concatenate(row, axis=1))
    counts.share()
    report = Report(
        classes,
        counts.confusion.cpu(),
        len(items),
        metrics=how.metrics,
        excluded=how.exclude,
        boundary=None if counts.boundary is None else counts.boundary.cpu(),
        per_image=tuple(ImageScores(items[i].name, *scores) for i, scores in counts.of_images()),
    )
    if report.is_empty and rank == 0:
        log.warning(
            "the labels of the %d validation images are ignored everywhere (255, data.ignore_values), so "
            "there is no score; see what values they hold with mgd check",
            len(items),
        )
    return report


def _predict(network: NormalisingNetwork, image: Tensor, how: Evaluate, item: Item, size: Sequence[int]) -> Tensor:
    """(*size) uint8; what goes wrong names the image."""
    try:
        return predict_labels(network, image, how, size=(size[0], size[1]))
    except FloatingPointError as error:
        text = f"the network gives scores that are not finite on {item.image}; its weights are broken"
        raise UserError(text) from error
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        remedy = "use evaluate.mode=slide, evaluate.window_batch=1 or a smaller evaluate.crop_size, or cut it up"
        what = f"{item.image} ({size[1]}x{size[0]})"
        raise UserError(no_memory(error, remedy, what=what)) from error


class Counts:
    """What is counted on the way, on the device."""

    def __init__(self, num_classes: int, device: torch.device, *, boundary: bool, per_image: bool) -> None:
        self.num_classes = num_classes
        self.confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)
        self.boundary = torch.zeros(3, num_classes, dtype=torch.int64, device=device) if boundary else None
        self.images: dict[int, Tensor] | None = {} if per_image else None

    def add(self, index: int, label: Tensor, prediction: Tensor) -> None:
        """Count an image's (H,W) uint8 maps."""
        confusion = confusion_matrix(label, prediction, self.num_classes)
        self.confusion += confusion
        if self.boundary is not None:
            self.boundary += boundary_counts(label, prediction, self.num_classes)
        if self.images is not None:
            right = confusion.diagonal().sum() / confusion.sum()
            self.images[index] = torch.cat([iou_per_class(confusion), right.double().view(1)])

    def share(self) -> None:
        """Under torch.distributed: those of all ranks together, on every rank."""
        if not dist.is_initialized():
            return
        for counts in (self.confusion, self.boundary):
            if counts is not None:
                dist.all_reduce(counts)
        if self.images is not None:
            parts: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(parts, {index: scores.cpu() for index, scores in self.images.items()})
            self.images = {index: scores for part in parts for index, scores in part.items()}

    def of_images(self) -> Iterator[tuple[int, tuple[tuple[float, ...], float]]]:
        """(index, (IoU of each class, pixel accuracy)) of every image, in the list's order."""
        for index, scores in sorted((self.images or {}).items()):
            *iou, accuracy = scores.tolist()
            yield index, (tuple(iou), accuracy)


def open_target(
    target: str | Path, overrides: Sequence[str] = (), *, file: Path | None = None
) -> tuple[Experiment, SegmentationNetwork, Path]:
    """What `evaluate` is asked for: (config, network in eval mode, its file).

    Args:
        target: a config.py or its folder (the run's last.pt is meant), or a checkpoint. A checkpoint without a
            config in it gets the published evaluation of VOC (21 classes) or Cityscapes (19).
        file: the checkpoint to take instead of the config's own.

    Raises:
        UserError: no such file, no network in it, `file` beside a checkpoint, or an override that asks for another
            network than the file's.
    """
    checkpoint = checkpoint_file(target)
    if Path(target).suffix == ".py" or Path(target, "config.py").is_file() or checkpoint.is_dir():
        config = load(target, overrides)
        file = checkpoint_file(file or Path(config.run.dir) / "last.pt")
        if not file.is_file():
            script = (Path(target) if Path(target).is_dir() else Path(target).parent).absolute() / "script.sh"
            raise UserError(f"{file} does not exist: train it first, bash {script}")
        network = load_student(file)
        check_network(network, config.model, overrides, file)
        return config, network, file
    if file is not None:
        raise UserError(f"{target} is a checkpoint, {file} another: name one of the two, or an experiment's config")
    found = recognise(read(checkpoint), checkpoint)
    own = config_of(found, checkpoint)
    config = own or experiment_for(found.arch["backbone"], found.arch["num_classes"], checkpoint)
    config, network = override(config, overrides), student_in(found, checkpoint)
    check_network(network, config.model, overrides, checkpoint)
    return config, network, checkpoint


def check_network(network: SegmentationNetwork, asked: Model, overrides: Sequence[str], file: Path) -> None:
    """Raise UserError where an override names another network than the file's: it would have no effect."""
    keys, strides = {text.partition("=")[0] for text in overrides}, network.backbone.strides
    held = {name: network.arch[name] for name in ("backbone", "head", "channels")}
    held |= {"output_stride": strides[-1], "decoder_stride": strides[network.head.levels[0]]}
    for name, own in held.items():
        value = getattr(asked, name)
        same = value is None or (canonical_name(value) if name == "backbone" else value) == own
        if f"model.{name}" in keys and not same:
            raise UserError(
                f"model.{name}={value}: {file} holds a network with {name} {own}, and a file is scored as it is; leave "
                "that change out, or name another file"
            )
