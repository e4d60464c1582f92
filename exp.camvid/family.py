"""What experiments on CamVid share: the frames, and how small networks learn from them on a CPU."""

from mgd.config import CPS, MGD, Data, Evaluate, Model, Train

DATA = Data(
    root="DATA/camvid",
    classes="camvid",
    ignore_values=(11,),
    short_side=72,
    crop_size=64,
    scales=(0.75, 1.0, 1.25, 1.5),
    cache=True,
    workers=0,
)
STUDENT = Model(backbone="timm:test_resnet", pretrained=False, channels=48)
DEEP = Model(backbone="resnet18_slim", pretrained=False, channels=48)
WIDE = Model(backbone="timm:test_resnet", pretrained=False, channels=64)
TEACHER = CPS(weight=0.5, burn_in_iterations=400, rampup_iterations=400)
TAUGHT = MGD(
    deep_teacher=("exp.camvid/camvid{partition}.small_deep/run/last.pt",),
    wide_teacher=("exp.camvid/camvid{partition}.small_wide/run/last.pt",),
    lambda_image=0.004,
    lambda_region=10.0,
    pixel_labeled=0.5,
    pixel_unlabeled=0.5,
    baseline="exp.camvid/camvid{partition}.small_supervised/run/evaluation/last.json",
)
TRAIN = Train(batch_size=4, max_iterations=1000, lr=0.04)
EVALUATE = Evaluate(every=0)
