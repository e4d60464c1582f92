"""Wide teacher T_W (labels alone) on fashion photos, 1/32 labelled: EfficientNet-Lite1 from ImageNet weights.

Data:    23 of 717 photos
Cost:    500 iterations of 8 images at crop 80 on a CPU
Score:   27.38 mIoU on 144 photos (seed 0)
Command: bash script.sh, with the data in DATA/fashion and the weights in DATA/model-weight, or with
         data.root=../shared/fashion model.weights_dir=../shared/model-weight
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
