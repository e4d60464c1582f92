"""Small student (MGD) on fashion photos, 1/32 labelled.

Data:    23 of 717 photos with labels, 694 + 1,094 without
Cost:    2,000 iterations of 8 images at crop 64 on a CPU
Score:   26.47 mIoU on 144 photos, mean of seeds 0, 1, 2
Command: bash script.sh, with the data in DATA/fashion, or with data.root=../shared/fashion; before it the same in
         exp.fashion/fashion32.small_deep and .small_wide (and .small_supervised: teachers should beat it)
"""

from mgd.config import MGD, Data, Evaluate, Experiment, Model, Train

config = Experiment(
    data=Data(
        root="DATA/fashion",
        unlabeled="unlabeled.txt",
        partition=32,
        short_side=72,
        crop_size=64,
        scales=(0.75, 1.0, 1.25, 1.5),
        cache=True,
        workers=0,
    ),
    model=Model(backbone="timm:test_resnet", pretrained=False, channels=48),
    method=MGD(
        deep_teacher=("exp.fashion/fashion{partition}.small_deep/run/last.pt",),
        wide_teacher=("exp.fashion/fashion{partition}.small_wide/run/last.pt",),
        lambda_image=0.004,
        lambda_region=10.0,
        pixel_labeled=0.5,
        pixel_unlabeled=0.5,
        baseline="exp.fashion/fashion{partition}.small_supervised/run/evaluation/last.json",
    ),
    train=Train(batch_size=8, max_iterations=2000, lr=0.3),
    evaluate=Evaluate(every=0),
)
