"""Deep teacher T_D (CPS) on Cityscapes, 1/4 labelled: DeepLabV3+ with ResNet-101.

Paper:   Cityscapes, partition 1/4 (744 of 2,975 images with labels), T_D ResNet-101
Cost:    38,086 iterations (2,231 unlabelled // 8 = 278 an epoch, 137 epochs) of 29.9 T multiply-accumulates
Score:   not yet measured with this code
Command: bash script.sh
"""

from dataclasses import replace

from mgd.config import Experiment, Model
from mgd.published import CITY, CITY_CPS, CITY_TEACHER_TRAIN

config = Experiment(
    data=replace(CITY, partition=4),
    model=Model(backbone="resnet101"),
    method=CITY_CPS,
    train=CITY_TEACHER_TRAIN,
)
