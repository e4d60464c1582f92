"""Labels alone: what the small student is compared with, on fashion photos, 1/32 labelled.

Data:    23 of 717 photos
Cost:    1,500 iterations of 8 images at crop 96, on a CPU; minutes not yet measured
Score:   not yet measured with this code
Command: bash script.sh, with the data in DATA/fashion, or with data.root=../shared/fashion
"""

from mgd.config import Data, Evaluate, Experiment, Model, Supervised, Train

config = Experiment(
    data=Data(root="DATA/fashion", partition=32, unlabeled="unlabeled.txt", short_side=100, crop_size=96, workers=1),
    model=Model(backbone="timm:test_resnet", pretrained=False, channels=48),
    method=Supervised(),
    train=Train(batch_size=8, max_iterations=1500, lr=0.05),
    evaluate=Evaluate(every=0),
)
