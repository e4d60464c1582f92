"""Labels alone: what the small student is compared with, on CamVid, 1/8 labelled.

Data:    46 of 367 frames; so alike that few labels say it all: this shows that it runs, not what is best
Cost:    1,000 iterations of 4 images at crop 64 on a CPU
Score:   not yet measured with this code
Command: bash script.sh, with the data in DATA/camvid, or with data.root=../shared/camvid
"""

from mgd.config import Data, Evaluate, Experiment, Model, Supervised, Train

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
    method=Supervised(),
    train=Train(batch_size=4, max_iterations=1000, lr=0.04),
    evaluate=Evaluate(every=0),
)
