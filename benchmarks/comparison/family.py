"""What the sweeps of the comparison share: photos, networks, budgets, and the rows that are compared.

Every method gets the same photos, network, iterations and learning rate. Settings are to be chosen on a part of the
training photos (data.train_list and data.val_list may name such parts), never on val.txt.
"""

from dataclasses import replace

from mgd.config import Data, Evaluate, Experiment, Model, Supervised, Train
from mgd.study import Row, Sweep

DATA = Data(root="DATA/fashion", short_side=96, crop_size=80, scales=(0.75, 1.0, 1.25, 1.5), cache=True, workers=0)
FASHION, FACADES = replace(DATA, unlabeled="unlabeled.txt"), replace(DATA, root="DATA/facades")
TRAIN = Train(batch_size=8, max_iterations=1000, lr=0.1)
LITE = Experiment(  # ImageNet weights, as in the paper
    data=FASHION,
    model=Model(backbone="timm:tf_efficientnet_lite0", channels=64),
    method=Supervised(),
    train=TRAIN,
    evaluate=Evaluate(every=0),
)
SCRATCH = replace(  # 0.6 M parameters at random: where distillation has most to give
    LITE,
    model=Model(backbone="timm:test_resnet", pretrained=False, channels=48),
    train=replace(TRAIN, lr=0.3),
)

TEACHER = ("method=cps", "method.weight=0.5", "method.burn_in_iterations=500", "method.rampup_iterations=300")
PRETRAINED = ("model.pretrained=true", "train.lr=0.1")  # whatever the student is
DEEP = (*TEACHER, *PRETRAINED, "model.backbone=timm:tf_efficientnet_lite2", "model.channels=96")
WIDE = (*TEACHER, *PRETRAINED, "model.backbone=timm:tf_efficientnet_lite1", "model.channels=192")
TAUGHT = (
    "method.deep_teacher={run:deep}/last.pt",
    "method.wide_teacher={run:wide}/last.pt",
    "method.baseline={run:supervised}/evaluation/last.json",
)
MGD = ("method=mgd", *TAUGHT, "method.lambda_region=10", "method.pixel_labeled=0.5", "method.pixel_unlabeled=0.5")
TODAY = ("data.strong=true", "method.confidence=0.8", "method.soft=0.5")

BASELINES = {
    "supervised": Row(),
    "mean teacher": Row(changes=("method=mean_teacher", "method.confidence=0.8", "method.burn_in_iterations=500")),
    "cps": Row(changes=TEACHER),
    "unimatch": Row(
        changes=("method=unimatch", "method.ema=0.99", "method.confidence=0.8", "method.burn_in_iterations=500")
    ),
    "kd": Row(changes=("method=kd", *TAUGHT)),
    "cwd": Row(changes=("method=cwd", *TAUGHT)),
}
TEACHERS = {"deep": Row(changes=DEEP), "wide": Row(changes=WIDE)}


def comparison(base: Experiment) -> Sweep:
    """Every method at three partitions, three seeds each; the paper's method is what the others are held against."""
    rows = {
        "mgd": Row(changes=MGD),
        "mgd today": Row(changes=(*MGD, *TODAY)),
        **BASELINES,
        "all labels": Row(partitions=(1,)),
        **TEACHERS,
    }
    return Sweep(base=base, rows=rows, partitions=(32, 16, 8), seeds=(0, 1, 2), reference="mgd")


def ablation(base: Experiment) -> Sweep:
    """The parts of the method and each of today's options, one at a time, at 1/16."""
    no_pixel = ("method.pixel_labeled=0", "method.pixel_unlabeled=0")
    parts = {
        "image": (*no_pixel, "method.lambda_region=0"),
        "region": (*no_pixel, "method.lambda_image=0"),
        "pixel": ("method.lambda_image=0", "method.lambda_region=0"),
        "image and region": no_pixel,
        "image and pixel": ("method.lambda_region=0",),
        "region and pixel": ("method.lambda_image=0",),
        "deep teacher alone": ("method.wide_teacher=",),
        "wide teacher alone": ("method.deep_teacher=",),
        "teachers swapped": ("method.deep_teacher={run:wide}/last.pt", "method.wide_teacher={run:deep}/last.pt"),
        "labelled alone": ("method.pixel_unlabeled=0", "method.lambda_image=0", "method.lambda_region=0"),
        "unlabelled alone": ("method.pixel_labeled=0",),
        **{f"lambda_image={value}": (f"method.lambda_image={value}",) for value in (0.001, 0.016, 0.1)},
        **{f"lambda_region={value}": (f"method.lambda_region={value}",) for value in (1, 50, 100)},
        **{f"grid={value}": (f"method.region_grid={value}",) for value in (3, 5, 10)},
        **{f"+ {option.split('.')[1].split('=')[0]}": (option,) for option in TODAY},
        "+ averaged student": ("train.ema=0.99",),
    }
    rows = {"mgd": Row(changes=MGD), "supervised": Row()}
    rows |= {name: Row(changes=(*MGD, *changes)) for name, changes in parts.items()}
    return Sweep(base=base, rows=rows | TEACHERS, partitions=(16,), seeds=(0, 1, 2), reference="mgd")


FASHION_LITE, FACADES_LITE = comparison(LITE), comparison(replace(LITE, data=FACADES))
FASHION_SCRATCH, FACADES_SCRATCH = comparison(SCRATCH), comparison(replace(SCRATCH, data=FACADES))
ABLATION = ablation(LITE)
