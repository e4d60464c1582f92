"""Small student (MGD) on CamVid, 1/8 labelled.

Data:    46 of 367 frames with labels, 321 without; so alike that few labels say it all: this shows that it runs, not
         what is best
Cost:    1,000 iterations of 4 images at crop 64 on a CPU
Score:   not yet measured with this code
Command: bash script.sh, with the data in DATA/camvid, or with data.root=../shared/camvid; before it the same in
         exp.camvid/camvid8.small_deep and .small_wide (and .small_supervised: teachers should beat it)
"""

from mgd.config import MGD, Data, Evaluate, Experiment, Model, Train

config = Experiment(
    data=Data(
        root="DATA/camvid",
        classes="camvid",
        ignore_values=(11,),
        partition=8,
        short_side=72,
        crop_size=64,
        scales=(0.75, 1.0, 1.25, 1.5),
        cache=True,
        workers=0,
    ),
    model=Model(backbone="timm:test_resnet", pretrained=False, channels=48),
    method=MGD(
        deep_teacher=("exp.camvid/camvid{partition}.small_deep/run/last.pt",),
        wide_teacher=("exp.camvid/camvid{partition}.small_wide/run/last.pt",),
        lambda_image=0.004,
        lambda_region=10.0,
        pixel_labeled=0.5,
        pixel_unlabeled=0.5,
        baseline="exp.camvid/camvid{partition}.small_supervised/run/evaluation/last.json",
    ),
    train=Train(batch_size=4, max_iterations=1000, lr=0.04),
    evaluate=Evaluate(every=0),
)
