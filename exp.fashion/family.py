"""What experiments on fashion photos share: the photos, and how small networks learn from them on a CPU."""

from dataclasses import replace

from mgd import small
from mgd.config import CPS, Data, Train

PHOTOS = Data(root="DATA/fashion", unlabeled="unlabeled.txt")
DATA = replace(small.DATA, root=PHOTOS.root, unlabeled=PHOTOS.unlabeled)
STUDENT, DEEP, WIDE, EVALUATE = small.STUDENT, small.DEEP, small.WIDE, small.EVALUATE
TEACHER = CPS(weight=0.5, burn_in_iterations=1200, rampup_iterations=600)
NAMES = "exp.fashion/fashion{partition}"
TAUGHT = small.student_of(f"{NAMES}.small_deep", f"{NAMES}.small_wide", labels=f"{NAMES}.small_supervised")
TRAIN = Train(batch_size=8, max_iterations=2000, lr=0.3)

# Heads compared on EfficientNet-Lite
LITE_DATA = replace(DATA, short_side=96, crop_size=80)
LITE0, LITE1, LITE2 = small.LITE0, small.LITE1, small.LITE2
LITE_TAUGHT = small.student_of(f"{NAMES}.lite2_deep", f"{NAMES}.lite1_wide")
LITE_TEACHER_TRAIN, LITE_TRAIN = small.LITE_TEACHER_TRAIN, small.LITE_TRAIN
