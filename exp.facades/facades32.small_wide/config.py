"""Small wide teacher T_W (CPS) on photos of facades, 1/32 labelled.

Data:    20 of 639 photos with labels, 619 without
Cost:    1,000 iterations of 4 images at crop 64 on a CPU
Score:   not yet measured with this code
Command: bash script.sh, with the data in DATA/facades, or with data.root=../shared/facades
"""

from mgd.config import CPS, Data, Evaluate, Experiment, Model, Train

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
    model=Model(backbone="timm:test_resnet", pretrained=False, channels=64),
    method=CPS(weight=0.5, burn_in_iterations=400, rampup_iterations=400),
    train=Train(batch_size=4, max_iterations=1000, lr=0.04),
    evaluate=Evaluate(every=0),
)
