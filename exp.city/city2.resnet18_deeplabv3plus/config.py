"""Student (MGD) on Cityscapes, 1/2 labelled: DeepLabV3+ with ResNet-18.

Paper:   Cityscapes, partition 1/2 (1,488 of 2,975 images with labels), ResNet-18
Cost:    12,604 iterations (1,487 unlabelled // 16 = 92 an epoch, 137 epochs) of 44.8 T multiply-accumulates
Score:   not yet measured with this code
Command: bash script.sh, after the same in exp.city/city2.resnet101_deeplabv3plus and
         exp.city/city2.wresnet34_deeplabv3plus or with the official teachers in DATA/model-weight
"""

from dataclasses import replace

from mgd.config import Experiment, Model
from mgd.published import CITY, CITY_MGD, CITY_TRAIN

config = Experiment(
    data=replace(CITY, partition=2),
    model=Model(backbone="resnet18"),
    method=CITY_MGD,
    train=CITY_TRAIN,
)
