"""Wide teacher T_W (CPS) on PASCAL VOC, 1/4 labelled: DeepLabV3+ with wide ResNet-50.

Paper:   PASCAL VOC, partition 1/4 (2,646 of 10,582 images with labels), T_W wide ResNet-50 (the official files call
         it "wresnet34")
Cost:    33,728 iterations (7,936 unlabelled // 8 = 992 an epoch, 34 epochs) of 16.3 T multiply-accumulates
Score:   not yet measured with this code
Command: bash script.sh
"""

from dataclasses import replace

from mgd.config import Experiment, Model
from mgd.published import VOC, VOC_CPS, VOC_TRAIN

config = Experiment(
    data=replace(VOC, partition=4),
    model=Model(backbone="wide_resnet50_2"),
    method=VOC_CPS,
    train=replace(VOC_TRAIN, lr=0.001),
)
