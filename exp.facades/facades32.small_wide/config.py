"""Small wide teacher T_W (CPS) on photos of facades, 1/32 labelled.

Data:    20 of 639 photos with labels, 619 without
Cost:    1,500 iterations of 8 images at crop 96, on a CPU; minutes not yet measured
Score:   not yet measured with this code
Command: bash script.sh, with the data in DATA/facades, or with data.root=../shared/facades
"""

from mgd.config import CPS, Data, Evaluate, Experiment, Model, Train

config = Experiment(
    data=Data(root="DATA/facades", partition=32, short_side=112, crop_size=96, workers=1),
    model=Model(backbone="timm:test_resnet", pretrained=False, channels=48),
    method=CPS(rampup_iterations=1200),
    train=Train(batch_size=8, max_iterations=1500, lr=0.05),
    evaluate=Evaluate(every=0),
)
