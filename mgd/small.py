"""Small networks that learn on a CPU in minutes: what the experiments on scenes, CamVid, fashion and facades share."""

from dataclasses import replace

from mgd.config import MGD, Data, Evaluate, Model, Train

DATA = Data(root="", short_side=72, crop_size=64, scales=(0.75, 1.0, 1.25, 1.5), cache=True, workers=0)
STUDENT = Model(backbone="timm:test_resnet", pretrained=False, channels=48)
DEEP = Model(backbone="resnet18_slim", pretrained=False, channels=48)
WIDE = Model(backbone="timm:test_resnet", pretrained=False, channels=64)
EVALUATE = Evaluate(every=0)

# EfficientNet-Lite from ImageNet weights, to compare heads. With some twenty labels CPS from such weights does not beat
# labels alone, so these are what teachers are trained on.
LITE0, LITE1, LITE2 = (Model(backbone=f"timm:tf_efficientnet_lite{size}", channels=64) for size in (0, 1, 2))
LITE_TEACHER_TRAIN = Train(batch_size=8, max_iterations=500, lr=0.1)
LITE_TRAIN = replace(LITE_TEACHER_TRAIN, max_iterations=300)


def student_of(deep: str, wide: str, *, labels: str = "") -> MGD:
    """How a small student learns from two experiments' networks; `labels`: the one on labels alone, to beat."""
    return MGD(
        deep_teacher=(f"{deep}/run/last.pt",),
        wide_teacher=(f"{wide}/run/last.pt",),
        lambda_image=0.004,
        lambda_region=10.0,
        pixel_labeled=0.5,
        pixel_unlabeled=0.5,
        baseline=f"{labels}/run/evaluation/last.json" if labels else "",
    )
