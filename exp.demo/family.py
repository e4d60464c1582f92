"""What the demo's experiments share: the scenes, and how small networks learn from them on a CPU."""

from dataclasses import replace

from mgd import small
from mgd.config import CPS, Run, Train

DATA = replace(small.DATA, root="DATA/scenes", train_list="train_aug.txt", short_side=64)
STUDENT, DEEP, WIDE, EVALUATE = small.STUDENT, small.DEEP, small.WIDE, small.EVALUATE
TEACHER = CPS(weight=0.5, burn_in_iterations=220, rampup_iterations=200)
TAUGHT = replace(
    small.student_of("exp.demo/scenes{partition}.deep", "exp.demo/scenes{partition}.wide"),
    score_teachers=False,  # their own scripts did, a minute ago
)
TRAIN = Train(batch_size=4, max_iterations=450, lr=0.04)
RUN = Run(log_every=100)
