"""Student (MGD) on PASCAL VOC, 1/16 labelled: DeepLabV3+ with ResNet-18.

Paper:   PASCAL VOC, partition 1/16 (662 of 10,582 images with labels), ResNet-18
Cost:    42,160 iterations (9,920 unlabelled // 8 = 1,240 an epoch, 34 epochs) of 9.2 T multiply-accumulates
Score:   not yet measured with this code
Command: bash script.sh, after the same in exp.voc/voc16.resnet101_deeplabv3plus and
         exp.voc/voc16.wresnet34_deeplabv3plus or with the official teachers in DATA/model-weight
"""

from dataclasses import replace

from mgd.config import Experiment, Model
from mgd.published import VOC, VOC_MGD, VOC_TRAIN

config = Experiment(
    data=replace(VOC, partition=16),
    model=Model(backbone="resnet18"),
    method=VOC_MGD,
    train=VOC_TRAIN,
)
