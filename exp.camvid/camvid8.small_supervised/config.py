"""Labels alone: what the small student is compared with, on CamVid, 1/8 labelled.

Data:    46 of 367 frames; so alike that few labels say it all: this shows that it runs, not what is best
Cost:    1,500 iterations of 8 images at crop 96, on a CPU; minutes not yet measured
Score:   not yet measured with this code
Command: bash script.sh, with the data in DATA/camvid, or with data.root=../shared/camvid
"""

from mgd.config import Data, Evaluate, Experiment, Model, Supervised, Train

config = Experiment(
    data=Data(
        root="DATA/camvid", partition=8, classes="camvid", ignore_values=(11,), short_side=112, crop_size=96, workers=1
    ),
    model=Model(backbone="timm:test_resnet", pretrained=False, channels=48),
    method=Supervised(),
    train=Train(batch_size=8, max_iterations=1500, lr=0.05),
    evaluate=Evaluate(every=0),
)
