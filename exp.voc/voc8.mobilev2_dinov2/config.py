"""Light student (MGD) on PASCAL VOC, 1/8 labelled: MobileNetV2 under a transformer (T_D) and a convolutional T_W.

Paper:   partition 1/8 (1,323 of 10,582 images with labels), MobileNetV2's settings; head and T_D are others
Cost:    39,338 iterations (9,259 unlabelled // 8 = 1,157 an epoch, 34 epochs)
Score:   not yet measured with this code
Command: bash script.sh, after the same in exp.voc/voc8.dinov2_teacher and exp.voc/voc8.wresnet34_deeplabv3plus or with
         the official T_W in DATA/model-weight
"""

from dataclasses import replace

from mgd.config import Experiment, Model
from mgd.published import VOC, VOC_MGD_MOBILENET, VOC_TRAIN

config = Experiment(
    data=replace(VOC, partition=8),
    model=Model(backbone="mobilenet_v2", head="separable"),
    method=replace(VOC_MGD_MOBILENET, deep_teacher=("exp.voc/voc{partition}.dinov2_teacher/run/last.pt",)),
    train=replace(VOC_TRAIN, lr=0.0035),
)
