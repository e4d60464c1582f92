"""Wide teacher T_W (labels alone) on photos of facades, 1/32 labelled: EfficientNet-Lite1 from ImageNet weights.

Data:    20 of 639 photos
Cost:    500 iterations of 8 images at crop 80 on a CPU
Score:   41.47 mIoU on 161 photos (seed 0)
Command: bash script.sh, with the data in DATA/facades and the weights in DATA/model-weight, or with
         data.root=../shared/facades model.weights_dir=../shared/model-weight
"""

from dataclasses import replace

from mgd.config import Experiment, Supervised, family

shared = family(__file__)  # ../family.py
config = Experiment(
    data=replace(shared.LITE_DATA, partition=32),
    model=replace(shared.LITE1, channels=128),
    method=Supervised(),
    train=shared.LITE_TEACHER_TRAIN,
    evaluate=shared.EVALUATE,
)
