"""Wide teacher T_W (CPS) on your own photos, all labels used: DeepLabV3+ with wide ResNet-50.

Data:    every pair of DATA/own/train with its label, the photos of DATA/own/unlabeled without
Cost:    10,000 iterations of 16.3 T multiply-accumulates: VOC's settings, with photos shrunk to 512 pixels
Score:   that of your data; the run's evaluation/last.txt has it, class by class
Command: bash script.sh, with the data in DATA/own (exp.own/README.md says how)
"""

from dataclasses import replace

from mgd.config import Data, Evaluate, Experiment, Model
from mgd.published import VOC_CPS, VOC_TRAIN

config = Experiment(
    data=Data(
        root="DATA/own",
        train_list="train",  # train/images with train/labels; a list file goes as well
        val_list="val",
        unlabeled="unlabeled",
        partition=1,  # all pairs are labelled; 8 would label every eighth
        short_side=512,
        crop_size=512,
    ),
    model=Model(backbone="wide_resnet50_2"),
    method=VOC_CPS,
    train=replace(VOC_TRAIN, max_iterations=10_000, lr=0.001),
    evaluate=Evaluate(every=20),
)
