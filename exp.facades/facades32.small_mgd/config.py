"""Small student (MGD) on photos of facades, 1/32 labelled.

Data:    20 of 639 photos with labels, 619 without
Cost:    1,000 iterations of 4 images at crop 64 on a CPU
Score:   not yet measured with this code
Command: bash script.sh, with the data in DATA/facades, or with data.root=../shared/facades; before it the same in
         exp.facades/facades32.small_deep and .small_wide (and .small_supervised: teachers should beat it)
"""

from mgd.config import MGD, Data, Evaluate, Experiment, Model, Train

config = Experiment(
    data=Data(
        root="DATA/facades",
        partition=32,
        short_side=72,
        crop_size=64,
        scales=(0.75, 1.0, 1.25, 1.5),
        cache=True,
        workers=0,
    ),
    model=Model(backbone="timm:test_resnet", pretrained=False, channels=48),
    method=MGD(
        deep_teacher=("exp.facades/facades{partition}.small_deep/run/last.pt",),
        wide_teacher=("exp.facades/facades{partition}.small_wide/run/last.pt",),
        lambda_image=0.004,
        lambda_region=10.0,
        pixel_labeled=0.5,
        pixel_unlabeled=0.5,
        baseline="exp.facades/facades{partition}.small_supervised/run/evaluation/last.json",
    ),
    train=Train(batch_size=4, max_iterations=1000, lr=0.04),
    evaluate=Evaluate(every=0),
)
