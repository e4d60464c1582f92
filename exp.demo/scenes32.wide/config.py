"""T_W of the demo: CPS, wide teacher, on generated scenes, 1/32 labelled.

Data:    16 of 512 scenes with labels, 496 without, made by
         python -m mgd prepare scenes --out DATA/scenes --val 96
Cost:    580 iterations of 4 images at crop 64, about 2 minutes on a core
Score:   see README
Command: make demo, or bash script.sh
"""

from mgd.config import CPS, Data, Evaluate, Experiment, Model, Run, Train

config = Experiment(
    data=Data(
        root="DATA/scenes",
        train_list="train_aug.txt",
        partition=32,
        short_side=64,
        crop_size=64,
        scales=(0.75, 1.0, 1.25, 1.5),
        cache=True,
        workers=0,
    ),
    model=Model(backbone="timm:test_resnet", pretrained=False, channels=64),
    method=CPS(weight=0.5, burn_in_iterations=220, rampup_iterations=200),
    train=Train(batch_size=4, max_iterations=580, lr=0.04),
    evaluate=Evaluate(every=0),
    run=Run(log_every=100),
)
