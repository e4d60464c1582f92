"""The published settings (arXiv 2208.10169 and its released code), converted to totals that do not depend on GPUs.

The official code divides its averaged losses by the number of GPUs; its VOC scripts multiply lr by it, its Cityscapes
scripts do not. The learning rates here are what that comes to for the whole batch. lambda_image is per image (mean over
the batch); the official value, half of it, multiplies a sum over the 2 images of a GPU.
"""

from dataclasses import replace

from mgd.config import CPS, MGD, Criterion, Data, Experiment, Model, Supervised, Train
from mgd.data.datasets import OFFICIAL_LISTS
from mgd.errors import UserError

VOC = Data(
    root="DATA/pascal_voc",
    train_list="train_aug.txt",
    val_list="val.txt",
    partition_lists=OFFICIAL_LISTS["voc"],
    classes="voc",
    crop_size=512,
)
CITY = Data(
    root="DATA/city",
    train_list="config_new/train.txt",
    val_list="config_new/val.txt",
    partition_lists=OFFICIAL_LISTS["city"],
    classes="city",
    crop_size=800,
)

VOC_TRAIN = Train(batch_size=8, epochs=34, lr=0.0025, weight_decay=4e-4)
CITY_TRAIN = Train(batch_size=16, epochs=137, lr=0.0025, weight_decay=8e-4)
CITY_TEACHER_TRAIN = replace(CITY_TRAIN, batch_size=8)

OHEM = Criterion(kind="ohem", threshold=0.7, min_kept=50_000)

VOC_CPS = CPS(weight=1.0)
CITY_CPS = CPS(weight=5.0, criterion=OHEM)


def teacher_files(data: str, official: str, ours: str) -> tuple[str, ...]:
    """Where a student finds a teacher: the official file first, else the sibling experiment's run."""
    return (
        f"DATA/model-weight/teacher-{data}{{partition}}-{official}.pth",
        f"exp.{data}/{data}{{partition}}.{ours}_deeplabv3plus/run/last.pt",
    )


VOC_MGD = MGD(
    lambda_image=0.004,
    lambda_region=100.0,
    deep_teacher=teacher_files("voc", "resnet101", "resnet101"),
    wide_teacher=teacher_files("voc", "wideresnet34", "wresnet34"),
)
VOC_MGD_MOBILENET = replace(VOC_MGD, lambda_image=0.001, lambda_region=50.0)
CITY_MGD = MGD(
    lambda_image=0.002,
    lambda_region=100.0,
    criterion=OHEM,
    deep_teacher=teacher_files("city", "resnet101", "resnet101"),
    wide_teacher=teacher_files("city", "wideresnet34", "wresnet34"),
)
CITY_MGD_MOBILENET = replace(CITY_MGD, lambda_region=50.0)  # not published: ResNet-18's row, VOC's ratio


def experiment_for(backbone: str, num_classes: int, path: object) -> Experiment:
    """The evaluation that fits an official file: VOC for 21 classes, Cityscapes for 19.

    Raises:
        UserError: another class count.
    """
    data = {21: VOC, 19: CITY}.get(num_classes)
    if data is None:
        raise UserError(
            f"{path} has {num_classes} classes and no config in it; expected 21 (VOC) or 19 (Cityscapes). "
            "Name an experiment's config.py and --checkpoint"
        )
    return Experiment(data=data, model=Model(backbone=backbone, pretrained=False), method=Supervised())
