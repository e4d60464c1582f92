"""What the sweeps of the comparison share: photos, networks, budgets, and the rows that are compared.

Every method gets the same photos, network, iterations and learning rate, and the same two teachers where it has any.
Settings were chosen on a part of the training photos, never on val.txt; RESULTS.md tells how.
"""

from collections.abc import Mapping
from dataclasses import replace

from mgd import small
from mgd.config import Experiment, Model, Supervised, Train
from mgd.study import Row, Sweep

DATA = replace(small.DATA, root="DATA/fashion", short_side=96, crop_size=80)
FASHION, FACADES = replace(DATA, unlabeled="unlabeled.txt"), replace(DATA, root="DATA/facades")
LITE = Experiment(  # ImageNet weights, as in the paper
    data=FASHION, model=small.LITE0, method=Supervised(), train=small.LITE_TRAIN, evaluate=small.EVALUATE
)
SCRATCH = replace(  # 0.4 M parameters at random: where distillation has most to give
    LITE,
    model=Model(backbone="timm:test_resnet", pretrained=False, head="lraspp", channels=128),
    train=Train(batch_size=8, max_iterations=600, lr=0.3, warmup_iterations=60),
)

# Whatever the student is: EfficientNet-Lites with ImageNet weights on labels alone, which CPS does not better with some
# twenty labels. One pair teaches all seeds.
TEACHER = (
    *("model.pretrained=true", "model.head=deeplabv3plus"),
    *("train.lr=0.1", "train.max_iterations=500", "train.warmup_iterations=0"),
)
TEACHERS = {
    "deep": Row(changes=(*TEACHER, "model.backbone=timm:tf_efficientnet_lite2", "model.channels=64"), seeds=(0,)),
    "wide": Row(changes=(*TEACHER, "model.backbone=timm:tf_efficientnet_lite1", "model.channels=128"), seeds=(0,)),
}
LONGER = "train.max_iterations=1500"


def longer(rows: Mapping[str, Row]) -> dict[str, Row]:
    """The same for 1,500 iterations."""
    return {f"{name} longer": replace(row, changes=(*row.changes, LONGER)) for name, row in rows.items()}


def taught(by: str = "") -> tuple[str, ...]:
    """The two teachers of a row; `by`: " longer" for those of 1,500 iterations."""
    teachers = (f"method.deep_teacher={{run:deep{by}}}/last.pt", f"method.wide_teacher={{run:wide{by}}}/last.pt")
    return (*teachers, "method.score_teachers=false")  # their own rows do


def offline(by: str = "", maps: str = "maps") -> tuple[str, ...]:
    """What the teachers see, stored once for all rows and seeds that have them."""
    return ("method.teachers=offline", f"method.teach.dir={{run:deep{by}}}/{maps}")


WEIGHTS = ("method.lambda_region=10", "method.pixel_labeled=0.25", "method.pixel_unlabeled=0.25")
MGD = ("method=mgd", *taught(), *WEIGHTS)
MGD_OFFLINE = (*MGD, *offline())
KD = ("method=kd", *taught())
KD_OFFLINE = (*KD, *offline(maps="maps-kd"))
CWD = ("method=cwd", *taught(), "method.weight_logits=0.9", "method.weight_feature=15")
CWD_OFFLINE = (*CWD, *offline(maps="maps-cwd"))
SOFT, NO_PIXEL = "method.soft=1", ("method.pixel_labeled=0", "method.pixel_unlabeled=0")
BALANCED = "method.criterion.class_weights=median_frequency"
OPTIONS = {  # today's, one at a time
    "+ strong": ("data.strong=true",),
    "+ averaged student": ("train.ema=0.99",),
    "+ class weights": (BALANCED,),
    "+ last stage": ("train.refine_iterations=200",),
    "+ confidence": ("method.confidence=0.8",),
    "+ thresholds by class": ("method.confidence=0.8", "method.confidence_ema=0.99"),
    "+ soft": ("method.soft=0.5", "method.teach.logits_stride=4", *offline(maps="maps-soft")),
}
RARE = {FASHION.root: "hair,footwear,bag,accessories", FACADES.root: "car,door"}  # of labelled pixels, 1 to 3 % each


def baselines(iterations: int) -> dict[str, Row]:
    """What the method is compared with; pseudo-labels of one's own begin in the middle of so many iterations."""
    late = (f"method.burn_in_iterations={iterations // 2}", f"method.rampup_iterations={iterations // 4}")
    return {
        "supervised": Row(),
        "mean teacher": Row(changes=("method=mean_teacher", "method.confidence=0.8", *late)),
        "cps": Row(changes=("method=cps", "method.weight=0.1", *late)),
        "unimatch": Row(changes=("method=unimatch", "method.ema=0.99", "method.confidence=0.8", *late)),
        "kd": Row(changes=KD),
        "cwd": Row(changes=CWD),
    }


def options(base: Experiment) -> dict[str, tuple[str, ...]]:
    """Today's options as changes of MGD."""
    rare = ("data.rare_crops=0.5", f"data.rare_classes={RARE[base.data.root]}")
    return OPTIONS | {"+ rare crops": rare}


def balanced(rows: Mapping[str, Row]) -> dict[str, Row]:
    """The same with class weights."""
    return {f"{name} + class weights": replace(row, changes=(*row.changes, BALANCED)) for name, row in rows.items()}


def comparison(base: Experiment) -> Sweep:
    """Every method at three partitions, three seeds each; the paper's method is what the others are held against."""
    few = {
        "mgd": Row(changes=MGD_OFFLINE),
        **baselines(base.train.max_iterations),
        **{"mgd online": Row(changes=MGD), "cwd offline": Row(changes=CWD_OFFLINE)},
    }
    # Offline, 1,500 iterations of MGD cost about what 600 of KD and CWD cost where teachers run in every step.
    stored = longer(
        {"mgd": few["mgd"], "kd offline": Row(changes=KD_OFFLINE), "cwd offline": few["cwd offline"]},
    )
    many = longer(baselines(1500) | {"mgd online": few["mgd online"]}) | stored
    under_longer = ("method=mgd", *taught(" longer"), *WEIGHTS, *offline(" longer"), LONGER)
    rows = {
        **few,
        **many,
        **balanced({"mgd": few["mgd"]}),
        **balanced({name: many[name] for name in ("supervised longer", "kd longer", "cwd longer", *stored)}),
        "mgd and teachers longer": Row(changes=under_longer),
        "all labels": Row(partitions=(1,)),
        "all labels longer": Row(changes=(LONGER,), partitions=(1,)),
        **TEACHERS,
        **longer(TEACHERS),
    }
    return Sweep(base=base, rows=rows, partitions=(32, 16, 8), seeds=(0, 1, 2), reference="mgd")


def search(base: Experiment) -> Sweep:
    """Weights of the methods that frozen teachers teach, scored on held-out training photos (hold_out.py)."""
    mgd = (*MGD_OFFLINE, "method.pixel_labeled=0.5", "method.pixel_unlabeled=0.5")  # what was varied
    cwd = ("method=cwd", *taught())
    views = ("method.teach.flip=true", "method.teach.scales=0.75,1,1.25", "method.teach.dir={run:deep}/maps-views")
    rows = {
        "supervised": Row(),
        "mgd": Row(changes=mgd),
        "mgd pixel=0.25": Row(changes=MGD_OFFLINE, seeds=(0, 1, 2)),  # what the options are added to
        "mgd pixel=1": Row(changes=(*mgd, "method.pixel_labeled=1", "method.pixel_unlabeled=1")),
        "mgd region=1": Row(changes=(*mgd, "method.lambda_region=1")),
        "mgd region=50": Row(changes=(*mgd, "method.lambda_region=50")),
        "mgd image=0.04": Row(changes=(*mgd, "method.lambda_image=0.04")),
        "mgd image=0.4": Row(changes=(*mgd, "method.lambda_image=0.4")),
        "mgd views": Row(changes=(*mgd, *views)),
        **{f"kd T={t}": Row(changes=(*KD, f"method.temperature={t}")) for t in (1, 2, 4)},
        **{
            f"cwd x{share}": Row(
                changes=(*cwd, f"method.weight_logits={3 * share:g}", f"method.weight_feature={50 * share:g}")
            )
            for share in (0.03, 0.1, 0.3)  # of the paper's weights
        },
        **{name: Row(changes=(*MGD_OFFLINE, *changes), seeds=(0, 1, 2)) for name, changes in options(base).items()},
        **longer(
            {
                "mgd": Row(changes=MGD_OFFLINE),
                "kd": Row(changes=KD),
                "mgd online + soft=1": Row(changes=(*MGD, SOFT)),
                "mgd online soft=1 alone": Row(changes=(*MGD, SOFT, *NO_PIXEL)),
            }
        ),
    }
    return Sweep(base=base, rows=rows | TEACHERS, partitions=(32,), seeds=(0,), reference="mgd")


def search_pretrained(base: Experiment) -> Sweep:
    """MGD's weights once more for a student that starts from ImageNet weights, scored on held-out training photos."""

    def pixel(weight: float) -> tuple[str, ...]:
        return f"method.pixel_labeled={weight}", f"method.pixel_unlabeled={weight}"

    changes = {
        "mgd": (),
        "mgd pixel=1": pixel(1),
        "mgd region=100": ("method.lambda_region=100",),
        "mgd region=1000": ("method.lambda_region=1000",),
        "mgd region=100 pixel=1": ("method.lambda_region=100", *pixel(1)),
    }
    rows = {"supervised": Row(), "cwd": Row(changes=CWD)}
    rows |= {name: Row(changes=(*MGD_OFFLINE, *change)) for name, change in changes.items()}
    return Sweep(base=base, rows=rows | TEACHERS, partitions=(32,), seeds=(0,), reference="mgd")


def ablation(base: Experiment) -> Sweep:
    """The parts of the method and each of today's options, one at a time."""
    parts = {
        "image": (*NO_PIXEL, "method.lambda_region=0"),
        "region": (*NO_PIXEL, "method.lambda_image=0"),
        "pixel": ("method.lambda_image=0", "method.lambda_region=0"),
        "image and region": NO_PIXEL,
        "image and pixel": ("method.lambda_region=0",),
        "region and pixel": ("method.lambda_image=0",),
        "deep teacher alone": ("method.wide_teacher=", "method.teach.dir={run:deep}/maps-deep"),
        "wide teacher alone": ("method.deep_teacher=", "method.teach.dir={run:deep}/maps-wide"),
        "teachers swapped": (
            *("method.deep_teacher={run:wide}/last.pt", "method.wide_teacher={run:deep}/last.pt"),
            "method.teach.dir={run:deep}/maps-swapped",
        ),
        "labelled alone": ("method.pixel_unlabeled=0", "method.lambda_image=0", "method.lambda_region=0"),
        "unlabelled alone": ("method.pixel_labeled=0",),
        **{f"lambda_image={value}": (f"method.lambda_image={value}",) for value in (0.001, 0.016, 0.1)},
        **{f"lambda_region={value}": (f"method.lambda_region={value}",) for value in (1, 50, 100)},
        **{f"grid={value}": (f"method.region_grid={value}",) for value in (3, 5, 10)},
        **options(base),
    }
    rows = {"mgd": Row(changes=MGD_OFFLINE), "supervised": Row()}
    rows |= {name: Row(changes=(*MGD_OFFLINE, *changes)) for name, changes in parts.items()}
    rows["online"] = Row(changes=MGD)
    return Sweep(base=base, rows=rows | TEACHERS, partitions=(16,), seeds=(0, 1, 2), reference="mgd")


FASHION_LITE, FACADES_LITE = comparison(LITE), comparison(replace(LITE, data=FACADES))
FASHION_SCRATCH, FACADES_SCRATCH = comparison(SCRATCH), comparison(replace(SCRATCH, data=FACADES))
FASHION_SEARCH, FACADES_SEARCH = search(SCRATCH), search(replace(SCRATCH, data=FACADES))
FASHION_LITE_SEARCH = search_pretrained(LITE)
FACADES_LITE_SEARCH = search_pretrained(replace(LITE, data=FACADES))
ABLATION = ablation(replace(SCRATCH, data=FACADES))
