"""Labels alone: what the small student is compared with, on photos of facades, 1/32 labelled.

Data:    20 of 639 photos
Cost:    1,000 iterations of 4 images at crop 64 on a CPU
Score:   not yet measured with this code
Command: bash script.sh, with the data in DATA/facades, or with data.root=../shared/facades
"""

from dataclasses import replace

from mgd.config import Experiment, Supervised, family

shared = family(__file__)  # ../family.py
config = Experiment(
    data=replace(shared.DATA, partition=32),
    model=shared.STUDENT,
    method=Supervised(),
    train=shared.TRAIN,
    evaluate=shared.EVALUATE,
)
