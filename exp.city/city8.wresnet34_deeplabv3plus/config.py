"""Wide teacher T_W (CPS) on Cityscapes, 1/8 labelled: DeepLabV3+ with wide ResNet-50.

Paper:   Cityscapes, partition 1/8 (372 of 2,975 images with labels), T_W wide ResNet-50 (the official files call it
         "wresnet34")
Cost:    44,525 iterations (2,603 unlabelled // 8 = 325 an epoch, 137 epochs) of 39.9 T multiply-accumulates
Score:   not yet measured with this code
Command: bash script.sh
"""

from dataclasses import replace

from mgd.config import Experiment, Model
from mgd.published import CITY, CITY_CPS, CITY_TEACHER_TRAIN

config = Experiment(
    data=replace(CITY, partition=8),
    model=Model(backbone="wide_resnet50_2"),
    method=CITY_CPS,
    train=CITY_TEACHER_TRAIN,
)
