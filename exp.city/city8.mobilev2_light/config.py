"""Light student (MGD) on Cityscapes, 1/8 labelled: MobileNetV2 with the separable head.

Paper:   Cityscapes, partition 1/8 (372 of 2,975 images with labels), MobileNetV2; its settings are not
         published: those of ResNet-18 with lambda_region 50; in the paper with the published head
Cost:    22,194 iterations (2,603 unlabelled // 16 = 162 an epoch, 137 epochs) of 35.3 T multiply-accumulates
Score:   not yet measured with this code
Command: bash script.sh, after the same in exp.city/city8.resnet101_deeplabv3plus and
         exp.city/city8.wresnet34_deeplabv3plus or with the official teachers in DATA/model-weight
"""

from dataclasses import replace

from mgd.config import Experiment, Model
from mgd.published import CITY, CITY_MGD_MOBILENET, CITY_TRAIN

config = Experiment(
    data=replace(CITY, partition=8),
    model=Model(backbone="mobilenet_v2", head="separable"),
    method=CITY_MGD_MOBILENET,
    train=CITY_TRAIN,
)
