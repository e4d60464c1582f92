"""Small wide teacher T_W (CPS) on CamVid, 1/8 labelled.

Data:    46 of 367 frames with labels, 321 without; so alike that few labels say it all: this shows that it runs, not
         what is best
Cost:    1,000 iterations of 4 images at crop 64 on a CPU
Score:   not yet measured with this code
Command: bash script.sh, with the data in DATA/camvid, or with data.root=../shared/camvid
"""

from dataclasses import replace

from mgd.config import Experiment, family

shared = family(__file__)  # ../family.py
config = Experiment(
    data=replace(shared.DATA, partition=8),
    model=shared.WIDE,
    method=shared.TEACHER,
    train=shared.TRAIN,
    evaluate=shared.EVALUATE,
)
