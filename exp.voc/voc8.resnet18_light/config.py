"""Light student (MGD) on PASCAL VOC, 1/8 labelled: ResNet-18 at output stride 32 with the separable head.

Paper:   PASCAL VOC, partition 1/8 (1,323 of 10,582 images with labels), ResNet-18, there with the published head
         at output stride 16
Cost:    39,338 iterations (9,259 unlabelled // 8 = 1,157 an epoch, 34 epochs) of 7.7 T multiply-accumulates
Score:   not yet measured with this code
Command: bash script.sh, after the same in exp.voc/voc8.resnet101_deeplabv3plus and
         exp.voc/voc8.wresnet34_deeplabv3plus or with the official teachers in DATA/model-weight
"""

from dataclasses import replace

from mgd.config import Experiment, Model
from mgd.published import VOC, VOC_MGD, VOC_TRAIN

config = Experiment(
    data=replace(VOC, partition=8),
    model=Model(backbone="resnet18", head="separable", output_stride=32),
    method=VOC_MGD,
    train=VOC_TRAIN,
)
