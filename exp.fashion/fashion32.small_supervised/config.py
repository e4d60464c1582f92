from mgd.config import *
config = Experiment(
  data=Data(root="../shared/fashion", partition=32, unlabeled="unlabeled.txt", classes="classes.csv", short_side=100, crop_size=96, workers=1),
  model=Model(backbone="timm:resnet10t", pretrained=False, channels=48),
  method=Supervised(),
  train=Train(batch_size=8, max_iterations=60, lr=0.05),
  evaluate=Evaluate(every=0),
)
