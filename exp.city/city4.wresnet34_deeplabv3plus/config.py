"""Wide teacher T_W (CPS) on Cityscapes, 1/4 labelled: DeepLabV3+ with wide ResNet-50.

Paper:   Cityscapes, partition 1/4 (744 of 2,975 images with labels), T_W wide ResNet-50 (the official files call it
         "wresnet34")
Cost:    38,086 iterations (2,231 unlabelled // 8 = 278 an epoch, 137 epochs) of 39.9 T multiply-accumulates
Score:   not yet measured with this code
Command: bash script.sh
"""

from dataclasses import replace

from mgd.config import Experiment, Model
from mgd.published import CITY, CITY_CPS, CITY_TEACHER_TRAIN

config = Experiment(
    data=replace(CITY, partition=4),
    model=Model(backbone="wide_resnet50_2"),
    method=CITY_CPS,
    train=CITY_TEACHER_TRAIN,
)
