"""Deep teacher T_D (CPS) on fashion photos, 1/8 labelled: DeepLabV3+ with ResNet-101.

Data:    90 of 717 photos with labels, 627 + 1,094 without; VOC's settings at crop 256, not in the paper
Cost:    7,310 iterations (1,721 unlabelled // 8 = 215 an epoch, 34 epochs) of 3.1 T multiply-accumulates
Score:   not yet measured with this code
Command: bash script.sh, with the data in DATA/fashion, or with data.root=../shared/fashion
"""

from dataclasses import replace

from mgd.config import Experiment, Model, family
from mgd.published import VOC_CPS, VOC_TRAIN

config = Experiment(
    data=replace(family(__file__).PHOTOS, partition=8, crop_size=256),
    model=Model(backbone="resnet101"),
    method=VOC_CPS,
    train=VOC_TRAIN,
)
