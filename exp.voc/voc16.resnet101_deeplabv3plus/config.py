"""Deep teacher T_D (CPS) on PASCAL VOC, 1/16 labelled: DeepLabV3+ with ResNet-101.

Paper:   PASCAL VOC, partition 1/16 (662 of 10,582 images with labels), T_D ResNet-101
Cost:    42,160 iterations (9,920 unlabelled // 8 = 1,240 an epoch, 34 epochs) of 12.2 T multiply-accumulates
Score:   not yet measured with this code
Command: bash script.sh
"""

from dataclasses import replace

from mgd.config import Experiment, Model
from mgd.published import VOC, VOC_CPS, VOC_TRAIN

config = Experiment(
    data=replace(VOC, partition=16),
    model=Model(backbone="resnet101"),
    method=VOC_CPS,
    train=VOC_TRAIN,
)
