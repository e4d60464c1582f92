"""Student (MGD) on PASCAL VOC, 1/4 labelled: DeepLabV3+ with MobileNetV2.

Paper:   PASCAL VOC, partition 1/4 (2,646 of 10,582 images with labels), MobileNetV2
Cost:    33,728 iterations (7,936 unlabelled // 8 = 992 an epoch, 34 epochs) of 8.2 T multiply-accumulates
Score:   not yet measured with this code
Command: bash script.sh, after the same in exp.voc/voc4.resnet101_deeplabv3plus and
         exp.voc/voc4.wresnet34_deeplabv3plus or with the official teachers in DATA/model-weight
"""

from dataclasses import replace

from mgd.config import Experiment, Model
from mgd.published import VOC, VOC_MGD_MOBILENET, VOC_TRAIN

config = Experiment(
    data=replace(VOC, partition=4),
    model=Model(backbone="mobilenet_v2"),
    method=VOC_MGD_MOBILENET,
    train=replace(VOC_TRAIN, lr=0.0035),
)
