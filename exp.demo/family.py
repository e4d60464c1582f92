"""What the demo's experiments share: the scenes, and how small networks learn from them on a CPU."""

from mgd.config import CPS, MGD, Data, Evaluate, Model, Run, Train

DATA = Data(
    root="DATA/scenes",
    train_list="train_aug.txt",
    short_side=64,
    crop_size=64,
    scales=(0.75, 1.0, 1.25, 1.5),
    cache=True,
    workers=0,
)
STUDENT = Model(backbone="timm:test_resnet", pretrained=False, channels=48)
DEEP = Model(backbone="resnet18_slim", pretrained=False, channels=48)
WIDE = Model(backbone="timm:test_resnet", pretrained=False, channels=64)
TEACHER = CPS(weight=0.5, burn_in_iterations=220, rampup_iterations=200)
TAUGHT = MGD(
    deep_teacher=("exp.demo/scenes{partition}.deep/run/last.pt",),
    wide_teacher=("exp.demo/scenes{partition}.wide/run/last.pt",),
    lambda_image=0.004,
    lambda_region=10.0,
    pixel_labeled=0.5,
    pixel_unlabeled=0.5,
    score_teachers=False,  # their own scripts did, a minute ago
)
TRAIN = Train(batch_size=4, max_iterations=450, lr=0.04)
EVALUATE = Evaluate(every=0)
RUN = Run(log_every=100)
