"""Student (MGD) on fashion photos, 1/8 labelled: DeepLabV3+ with ResNet-18.

Data:    90 of 717 photos with labels, 627 + 1,094 without; VOC's settings at crop 256, not in the paper
Cost:    7,310 iterations (1,721 unlabelled // 8 = 215 an epoch, 34 epochs) of 2.3 T multiply-accumulates
Score:   not yet measured with this code
Command: bash script.sh, with the data in DATA/fashion, or with data.root=../shared/fashion; before it the same in
         exp.fashion/fashion8.resnet101_deeplabv3plus and exp.fashion/fashion8.wresnet34_deeplabv3plus
"""

from dataclasses import replace

from mgd.config import Experiment, Model, family
from mgd.published import VOC_MGD, VOC_TRAIN

config = Experiment(
    data=replace(family(__file__).PHOTOS, partition=8, crop_size=256),
    model=Model(backbone="resnet18"),
    method=replace(
        VOC_MGD,
        deep_teacher=("exp.fashion/fashion{partition}.resnet101_deeplabv3plus/run/last.pt",),
        wide_teacher=("exp.fashion/fashion{partition}.wresnet34_deeplabv3plus/run/last.pt",),
    ),
    train=VOC_TRAIN,
)
