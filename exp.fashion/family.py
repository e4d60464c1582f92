"""What experiments on fashion photos share: the photos, and how small networks learn from them on a CPU."""

from dataclasses import replace

from mgd.config import CPS, MGD, Data, Evaluate, Model, Train

PHOTOS = Data(root="DATA/fashion", unlabeled="unlabeled.txt")
DATA = replace(PHOTOS, short_side=72, crop_size=64, scales=(0.75, 1.0, 1.25, 1.5), cache=True, workers=0)
STUDENT = Model(backbone="timm:test_resnet", pretrained=False, channels=48)
DEEP = Model(backbone="resnet18_slim", pretrained=False, channels=48)
WIDE = Model(backbone="timm:test_resnet", pretrained=False, channels=64)
TEACHER = CPS(weight=0.5, burn_in_iterations=1200, rampup_iterations=600)
TAUGHT = MGD(
    deep_teacher=("exp.fashion/fashion{partition}.small_deep/run/last.pt",),
    wide_teacher=("exp.fashion/fashion{partition}.small_wide/run/last.pt",),
    lambda_image=0.004,
    lambda_region=10.0,
    pixel_labeled=0.5,
    pixel_unlabeled=0.5,
    baseline="exp.fashion/fashion{partition}.small_supervised/run/evaluation/last.json",
)
TRAIN = Train(batch_size=8, max_iterations=2000, lr=0.3)
EVALUATE = Evaluate(every=0)

# Heads compared: EfficientNet-Lite from ImageNet weights. With some twenty labels CPS from such weights does not beat
# labels alone, so these are what teachers are trained on.
LITE_DATA = replace(DATA, short_side=96, crop_size=80)
LITE0, LITE1, LITE2 = (Model(backbone=f"timm:tf_efficientnet_lite{size}", channels=64) for size in (0, 1, 2))
LITE_TAUGHT = replace(
    TAUGHT,
    deep_teacher=("exp.fashion/fashion{partition}.lite2_deep/run/last.pt",),
    wide_teacher=("exp.fashion/fashion{partition}.lite1_wide/run/last.pt",),
    baseline="",
)
LITE_TEACHER_TRAIN = Train(batch_size=8, max_iterations=500, lr=0.1)
LITE_TRAIN = replace(LITE_TEACHER_TRAIN, max_iterations=300)
