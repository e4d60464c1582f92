"""What experiments on photos of facades share: the photos, and how small networks learn from them on a CPU."""

from dataclasses import replace

from mgd import small
from mgd.config import CPS, Data, Train

PHOTOS = Data(root="DATA/facades")
DATA = replace(small.DATA, root=PHOTOS.root)
STUDENT, DEEP, WIDE, EVALUATE = small.STUDENT, small.DEEP, small.WIDE, small.EVALUATE
TEACHER = CPS(weight=0.5, burn_in_iterations=400, rampup_iterations=400)
NAMES = "exp.facades/facades{partition}"
TAUGHT = small.student_of(f"{NAMES}.small_deep", f"{NAMES}.small_wide", labels=f"{NAMES}.small_supervised")
TRAIN = Train(batch_size=4, max_iterations=1000, lr=0.04)

# Heads compared on EfficientNet-Lite
LITE_DATA = replace(DATA, short_side=96, crop_size=80)
LITE0, LITE1, LITE2 = small.LITE0, small.LITE1, small.LITE2
LITE_TAUGHT = small.student_of(f"{NAMES}.lite2_deep", f"{NAMES}.lite1_wide")
LITE_TEACHER_TRAIN, LITE_TRAIN = small.LITE_TEACHER_TRAIN, small.LITE_TRAIN
