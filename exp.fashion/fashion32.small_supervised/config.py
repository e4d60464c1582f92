"""Labels alone: what the small student is compared with, on fashion photos, 1/32 labelled.

Data:    23 of 717 photos
Cost:    2,000 iterations of 8 images at crop 64 on a CPU
Score:   24.90 mIoU on 144 photos, mean of seeds 0, 1, 2
Command: bash script.sh, with the data in DATA/fashion, or with data.root=../shared/fashion
"""

from mgd.config import Data, Evaluate, Experiment, Model, Supervised, Train

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
    method=Supervised(),
    train=Train(batch_size=8, max_iterations=2000, lr=0.3),
    evaluate=Evaluate(every=0),
)
