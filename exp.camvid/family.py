"""What experiments on CamVid share: the frames, and how small networks learn from them on a CPU."""

from dataclasses import replace

from mgd import small
from mgd.config import CPS, Train

DATA = replace(small.DATA, root="DATA/camvid", classes="camvid", ignore_values=(11,))
STUDENT, DEEP, WIDE, EVALUATE = small.STUDENT, small.DEEP, small.WIDE, small.EVALUATE
TEACHER = CPS(weight=0.5, burn_in_iterations=400, rampup_iterations=400)
NAMES = "exp.camvid/camvid{partition}"
TAUGHT = small.student_of(f"{NAMES}.small_deep", f"{NAMES}.small_wide", labels=f"{NAMES}.small_supervised")
TRAIN = Train(batch_size=4, max_iterations=1000, lr=0.04)
