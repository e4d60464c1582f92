"""Student (MGD) on fashion photos, 1/32 labelled: EfficientNet-Lite0 with the separable head.

Data:    23 of 717 photos with labels, 694 + 1,094 without
Cost:    300 iterations of 8 images at crop 80 on a CPU
Score:   24.19 mIoU on 144 photos (seeds 0, 1, 2: 23.68, 24.38, 24.51; teachers offline)
Command: bash script.sh, with the data in DATA/fashion and the weights in DATA/model-weight, or with
         data.root=../shared/fashion model.weights_dir=../shared/model-weight;
         before it the same in exp.fashion/fashion32.lite2_deep and .lite1_wide; labels alone: with method=supervised
         run.dir={experiment}/run-labels
"""

from dataclasses import replace

from mgd.config import Experiment, family

shared = family(__file__)  # ../family.py
config = Experiment(
    data=replace(shared.LITE_DATA, partition=32),
    model=replace(shared.LITE0, head="separable", channels=320),
    method=shared.LITE_TAUGHT,
    train=shared.LITE_TRAIN,
    evaluate=shared.EVALUATE,
)
