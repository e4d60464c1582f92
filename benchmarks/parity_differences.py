"""What our intended differences from the official code do to the numbers.

    PYTHONPATH=exp.demo python benchmarks/parity_differences.py

Trains two small networks on generated scenes (two minutes on one core), uses them as teacher and student, and prints
the figures of docs/parity.md. The size of an effect depends on data and networks; these are an order of magnitude.
"""

import copy
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scenes import generate_scenes
from torch import Tensor

from mgd.config import CPS, Data, Evaluate, Experiment, Model, Run, Supervised, Train
from mgd.data.batch import Batch, to_device
from mgd.data.datasets import open_splits
from mgd.data.loaders import collate
from mgd.data.samples import TrainingSamples
from mgd.data.transforms import augment
from mgd.engine.distributed import processes
from mgd.engine.loop import Trainer
from mgd.engine.resume import Wish
from mgd.evaluate import evaluate
from mgd.losses import image_level_loss, region_level_loss
from mgd.metrics import confusion_matrix, mean_iou
from mgd.models import SegmentationNetwork
from mgd.student import load_student


def experiment(root: Path, name: str, iterations: int) -> Experiment:
    return Experiment(
        data=Data(root=str(root), train_list="train_aug.txt", partition=2, crop_size=80, workers=0),
        model=Model(backbone="timm:test_resnet", pretrained=False, channels=32),
        method=Supervised(),
        train=Train(max_iterations=iterations, lr=0.05, precision="fp32"),
        evaluate=Evaluate(every=0),
        run=Run(dir=str(root / name), device="cpu"),
    )


def train(config: Experiment) -> SegmentationNetwork:
    with processes("cpu") as team:
        Trainer(config, team, Wish()).run()
    return load_student(Path(config.run.dir) / "last.pt")


def batches(config: Experiment, count: int, size: int) -> list[Batch]:
    """Training batches with unlabelled pairs; the augmentation is the published one."""
    config = replace(config, method=CPS())
    samples = TrainingSamples(open_splits(config.data), config)
    device = torch.device("cpu")
    return [to_device(collate([samples[i * size + k] for k in range(size)]), device, i) for i in range(count)]


@torch.no_grad()
def teacher_statistics(teacher: SegmentationNetwork, config: Experiment, size: int) -> None:
    """Labels of a teacher with its running statistics and with the batch's, against the truth of labelled crops."""
    num_classes = teacher.num_classes
    frozen, drifting = copy.deepcopy(teacher).eval(), copy.deepcopy(teacher).train()
    confusion = {"frozen": torch.zeros(num_classes, num_classes, dtype=torch.int64)}
    confusion["batch"] = confusion["frozen"].clone()
    changed = counted = 0
    for batch in batches(config, 256 // size, size):
        valid, truth = batch.labeled.valid, batch.labeled.label
        image = teacher.normalise(batch.labeled.image, valid)
        labels = {"frozen": frozen(image).argmax(1), "batch": drifting(image).argmax(1)}
        changed += int((labels["frozen"] != labels["batch"])[valid].sum())
        counted += int(valid.sum())
        for name, label in labels.items():
            assert truth is not None
            confusion[name] += confusion_matrix(truth, label, num_classes)
    scores = ", ".join(f"{name} {100 * mean_iou(matrix):.1f}" for name, matrix in confusion.items())
    print(f"teacher_norm, {size} images a batch: {100 * changed / counted:.1f} % of the labels change; mIoU {scores}")
    splits = open_splits(config.data)
    before, after = (
        evaluate(net, splits.val, splits.classes, config, torch.device("cpu")).miou for net in (frozen, drifting)
    )
    print(f"  validation mIoU with running statistics: {100 * before:.1f} before, {100 * after:.1f} after the drift")


@torch.no_grad()
def padding(student: SegmentationNetwork, teacher: SegmentationNetwork, config: Experiment) -> None:
    """Share of padding in crops, and what the losses are with it and without it."""
    rng = np.random.default_rng(0)
    photo = np.zeros((375, 500, 3), np.uint8)  # the usual size in VOC
    inside = []
    for _ in range(300):
        top, bottom, left, right = augment(photo, None, scales=config.data.scales, crop=512, rng=rng)[2].extent
        inside.append((bottom - top) * (right - left) / 512**2)
    print(f"padding: {100 * (1 - np.mean(inside)):.1f} % of the pixels of 512x512 crops of 500x375 photos")
    rows: dict[str, list[Tensor]] = {"image": [], "region": []}
    shares = []
    for batch in batches(config, 16, 8):
        mixed = batch.mixed()
        image, valid = student.normalise(mixed.image, mixed.valid), mixed.valid
        shares.append(1 - valid.float().mean())
        for name, loss, ours, theirs in (
            ("image", image_level_loss, student(image), teacher(image)),
            ("region", region_level_loss, student.feature(image), teacher.feature(image)),
        ):
            rows[name].append(torch.stack([loss(ours, theirs, valid=valid), loss(ours, theirs)]))
    print(f"  {100 * float(torch.stack(shares).mean()):.1f} % of the pixels of the crops used here")
    for name, values in rows.items():
        ignored, kept = torch.stack(values).mean(0).tolist()
        print(f"  {name}-level loss: {ignored:.4g} ignoring it, {kept:.4g} with it")


@torch.no_grad()
def same_partner(config: Experiment) -> None:
    """Share of pixels that CutMix takes from another image; 0 where both partners are the same crop."""
    masks = torch.stack([batch.mask.float().mean() for batch in batches(config, 64, 8) if batch.mask is not None])
    print(f"cutmix: {100 * float(masks.mean()):.1f} % of the pixels come from the partner")


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        generate_scenes(root, train=64, val=32, height=96, width=128)
        teacher = train(experiment(root, "teacher", 400))
        student = train(experiment(root, "student", 100))
        config = experiment(root, "teacher", 400)
        for size in (2, 8):
            teacher_statistics(teacher, config, size)
        padding(student, teacher, config)
        same_partner(config)


if __name__ == "__main__":
    main()
