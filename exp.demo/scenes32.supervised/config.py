"""The demo's student on labels alone: what MGD is held against, on generated scenes, 1/32 labelled.

Data:    16 of 512 scenes with labels, 496 without, made by
         python exp.demo/scenes.py DATA/scenes --val 96
Cost:    450 iterations of 4 images at crop 64, about 2 minutes on a core
Score:   see README
Command: make demo, or bash script.sh
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
    run=shared.RUN,
)
