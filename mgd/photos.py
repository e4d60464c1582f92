"""The settings of the experiments on real photos that start from ImageNet weights and run on a CPU: EfficientNet-Lite.

They show what the choice of a head costs in accuracy: one backbone, the same teachers, budget and labels.
"""

from dataclasses import replace

from mgd.config import MGD, Data, Evaluate, Experiment, Model, Supervised, Train

FASHION = Data(
    root="DATA/fashion",
    unlabeled="unlabeled.txt",
    short_side=96,
    crop_size=80,
    scales=(0.75, 1.0, 1.25, 1.5),
    cache=True,
    workers=0,
)
FACADES = replace(FASHION, root="DATA/facades", unlabeled="")
DATA = {"fashion": FASHION, "facades": FACADES}

LITE0, LITE1, LITE2 = (Model(backbone=f"timm:tf_efficientnet_lite{size}", channels=64) for size in (0, 1, 2))
TEACHER_TRAIN = Train(batch_size=8, max_iterations=500, lr=0.1)
STUDENT_TRAIN = Train(batch_size=4, max_iterations=500, lr=0.05)
EVALUATE = Evaluate(every=0)  # at the end only


def teacher(data: str, partition: int, model: Model) -> Experiment:
    """A teacher on labels alone: with some twenty of them CPS from ImageNet weights does not beat that."""
    return Experiment(
        data=replace(DATA[data], partition=partition),
        model=model,
        method=Supervised(),
        train=TEACHER_TRAIN,
        evaluate=EVALUATE,
    )


def student(data: str, partition: int, model: Model) -> Experiment:
    """A student of the two teachers."""
    runs = f"exp.{data}/{data}{{partition}}."
    return Experiment(
        data=replace(DATA[data], partition=partition),
        model=model,
        method=MGD(
            deep_teacher=(f"{runs}lite2_deep/run/last.pt",),
            wide_teacher=(f"{runs}lite1_wide/run/last.pt",),
            lambda_image=0.004,
            lambda_region=10.0,
            pixel_labeled=0.5,
            pixel_unlabeled=0.5,
        ),
        train=STUDENT_TRAIN,
        evaluate=EVALUATE,
    )
