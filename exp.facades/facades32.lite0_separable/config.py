"""Student (MGD) on photos of facades, 1/32 labelled: EfficientNet-Lite0 with the separable head.

Data:    20 of 639 photos with labels, 619 without
Cost:    300 iterations of 8 images at crop 80 on a CPU
Score:   40.58 mIoU on 161 photos (seeds 0, 1, 2: 40.45, 40.23, 41.07; teachers offline)
Command: bash script.sh, with the data in DATA/facades and the weights in DATA/model-weight, or with
         data.root=../shared/facades model.weights_dir=../shared/model-weight;
         before it the same in exp.facades/facades32.lite2_deep and .lite1_wide; labels alone: with method=supervised
         run.dir={experiment}/run-labels
"""

from dataclasses import replace

from mgd.config import Experiment, family

shared = family(__file__)  # ../family.py
config = Experiment(
    data=replace(shared.LITE_DATA, partition=32),
    model=replace(shared.LITE0, head="separable", channels=256),
    method=shared.LITE_TAUGHT,
    train=shared.LITE_TRAIN,
    evaluate=shared.EVALUATE,
)
