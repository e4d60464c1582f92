"""How a network learns: a dataclass for each method, with the published settings as defaults where there are any."""

from dataclasses import dataclass
from typing import ClassVar, Literal, TypeGuard

from mgd.fields import Count, NonNegative, PositiveFloat, PositiveInt


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """The supervised loss: cross-entropy, or online hard example mining."""

    kind: Literal["ce", "ohem"] = "ce"
    threshold: NonNegative = 0.7  # OHEM: a pixel with more probability than this is easy
    min_kept: Count = 50_000  # OHEM: pixels per image that are kept at least
    # In the term on labels, not on pseudo-labels; from the labelled part, as Eigen and Fergus, ICCV 2015.
    class_weights: Literal["none", "median_frequency"] = "none"


@dataclass(frozen=True, kw_only=True)
class Supervised:
    """Labels alone."""

    uses_unlabeled: ClassVar[bool] = False
    criterion: Criterion = Criterion()


@dataclass(frozen=True, kw_only=True)
class CPS:
    """Cross pseudo supervision with CutMix (Chen et al., CVPR 2021): how teachers are trained."""

    uses_unlabeled: ClassVar[bool] = True
    criterion: Criterion = Criterion()  # for labels and pseudo-labels
    weight: NonNegative = 1.0
    burn_in_iterations: Count = 0  # iterations on labels alone, at first; published: none
    rampup_iterations: Count = 0  # iterations over which `weight` then rises, exp(-5 (1 - t/T)^2); published: none
    confidence: tuple[float, ...] = ()  # see UniMatch; empty: every pixel teaches, as published
    confidence_ema: NonNegative = 0.0  # see UniMatch
    ema: NonNegative = 0.0  # decay of the average of each copy, which then gives its pseudo-labels; 0: the copy itself


@dataclass(frozen=True, kw_only=True)
class Teach:
    """What `mgd teach` leaves of frozen teachers for `method.teachers="offline"`, and how they look at a photo."""

    dir: str = "{experiment}/maps"
    crop_size: Count = 0  # sliding window in pixels; 0 takes the training crop
    scales: tuple[float, ...] = (1.0,)  # averaged in labels and logits; the feature is of the photo as it is
    flip: bool = False  # as scales
    logits_stride: PositiveInt = 8  # logits: means over cells of so many pixels; 4 keeps what a network has of them
    feature_stride: Count = 0  # decoder feature: a multiple of 4; 0: about a quarter of MGD's region's side, CWD: 4
    projection: Count = 0  # channels that the feature is projected to, at random; 0: its own
    values: Literal["fp16", "fp32"] = "fp16"  # of logits and feature in the store
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # of the teachers, as in train


@dataclass(frozen=True, kw_only=True)
class MGD:
    """Multi-granularity distillation: how students are trained.

    A teacher is a tuple of checkpoint files; the first that exists is taken. An empty tuple leaves that teacher out,
    and with it the terms that need it.
    """

    uses_unlabeled: ClassVar[bool] = True
    criterion: Criterion = Criterion()
    deep_teacher: tuple[str, ...] = ()  # T_D: image level, pixel level
    wide_teacher: tuple[str, ...] = ()  # T_W: region level, pixel level
    pixel_unlabeled: NonNegative = 1.0
    pixel_labeled: NonNegative = 1.0
    lambda_image: NonNegative = 0.004
    lambda_region: NonNegative = 100.0
    region_grid: PositiveInt = 7
    rampup_iterations: Count = 0  # as in CPS, for the pixel-level terms on unlabelled images
    confidence: tuple[float, ...] = ()  # see UniMatch; empty: every pixel of unlabelled images teaches, as published
    confidence_ema: NonNegative = 0.0  # see UniMatch
    soft: NonNegative = 0.0  # weight of the KL from the teachers' probabilities on unlabelled images; published: none
    teachers: Literal["online", "offline"] = "online"  # offline: what `mgd teach` left of them, no teacher runs
    teach: Teach = Teach()
    teacher_norm: Literal["frozen", "batch"] = "frozen"  # batch: batch statistics that drift, as the official code
    score_teachers: bool = True  # on the validation list, before they teach
    baseline: str = ""  # the evaluation (.json) of a run on labels alone: teachers should score higher

    @property
    def stored(self) -> dict[str, tuple[str, ...]]:
        """What `mgd teach` keeps of each teacher, beside its labels and how sure it is of them."""
        return {"deep": ("logits",), "wide": ("feature", "logits") if self.soft else ("feature",)}

    def feature_stride(self, crop: int) -> int:
        """Pixels of a cell of T_W's stored feature, for crops of this side."""
        # 512 pixels / 7 regions / 4 = 18.3 -> 16; 800: 28; 128: 4
        return self.teach.feature_stride or max(4, crop // (4 * self.region_grid) // 4 * 4)


@dataclass(frozen=True, kw_only=True)
class MeanTeacher:
    """Mean teacher with CutMix (Tarvainen and Valpola, NeurIPS 2017; French et al., BMVC 2020).

    The average of the student's own weights teaches it. `confidence` and `decay` are those of French et al.
    """

    uses_unlabeled: ClassVar[bool] = True
    criterion: Criterion = Criterion()
    weight: NonNegative = 1.0  # of the consistency
    decay: NonNegative = 0.99  # of the average that teaches
    confidence: tuple[float, ...] = (0.97,)  # see UniMatch
    confidence_ema: NonNegative = 0.0  # see UniMatch
    burn_in_iterations: Count = 0  # as in CPS
    rampup_iterations: Count = 0  # as in CPS


@dataclass(frozen=True, kw_only=True)
class UniMatch:
    """UniMatch: weak view to two strong views and to dropped features (Yang et al., CVPR 2023; V2: TPAMI 2025).

    `confidence` is one probability for all classes or one for each, in their order: pixels whose pseudo-label has less
    do not teach, and count as 0 in the mean. With `confidence_ema`, such as 0.99, that is the threshold of the surest
    class; others have less, in the proportion of their mean confidence, averaged over the steps with that decay
    (FlexMatch, NeurIPS 2021, with FreeMatch's average, ICLR 2023).
    """

    uses_unlabeled: ClassVar[bool] = True
    criterion: Criterion = Criterion()
    weight: NonNegative = 1.0  # of the consistency: half on the strong views, half on dropped features
    confidence: tuple[float, ...] = (0.95,)
    confidence_ema: NonNegative = 0.0
    ema: NonNegative = 0.0  # decay of the average that teaches; V2: 0.996; 0: the student itself, as V1
    drop: Literal["weak", "complementary"] = "weak"  # V1: dropout of a weak view; V2: of the two strong views
    burn_in_iterations: Count = 0  # as in CPS
    rampup_iterations: Count = 0  # as in CPS


@dataclass(frozen=True, kw_only=True)
class KD:
    """Knowledge distillation pixel by pixel (Hinton et al., 2015). Teachers are named as in MGD."""

    uses_unlabeled: ClassVar[bool] = True
    stored: ClassVar[dict[str, tuple[str, ...]]] = {"deep": ("logits",), "wide": ("logits",)}  # as in MGD
    criterion: Criterion = Criterion()
    deep_teacher: tuple[str, ...] = ()
    wide_teacher: tuple[str, ...] = ()
    temperature: PositiveFloat = 1.0
    labeled: NonNegative = 1.0  # weight of the distillation on labelled images
    unlabeled: NonNegative = 1.0  # on CutMix images
    teachers: Literal["online", "offline"] = "online"  # as in MGD
    teach: Teach = Teach(logits_stride=4)
    score_teachers: bool = True  # as in MGD
    baseline: str = ""  # as in MGD


@dataclass(frozen=True, kw_only=True)
class CWD:
    """Channel-wise distillation (Shu et al., ICCV 2021). Teachers as in MGD.

    Temperature and weights are the paper's, for students with ImageNet weights. A term of weight 1 is about half the
    variance over positions of student minus teacher: where a student from scratch is far from its teachers, 3 and 50
    leave the labels little say (docs/method.md).
    """

    uses_unlabeled: ClassVar[bool] = True
    criterion: Criterion = Criterion()
    deep_teacher: tuple[str, ...] = ()
    wide_teacher: tuple[str, ...] = ()
    temperature: PositiveFloat = 4.0
    weight_logits: NonNegative = 3.0
    weight_feature: NonNegative = 50.0
    labeled: NonNegative = 1.0  # weight of the distillation on labelled images
    unlabeled: NonNegative = 1.0  # on CutMix images
    teachers: Literal["online", "offline"] = "online"  # as in MGD
    teach: Teach = Teach(logits_stride=4)
    score_teachers: bool = True  # as in MGD
    baseline: str = ""  # as in MGD

    @property
    def stored(self) -> dict[str, tuple[str, ...]]:
        """As in MGD."""
        wanted = {"feature": self.weight_feature, "logits": self.weight_logits}
        return dict.fromkeys(("deep", "wide"), tuple(what for what, weight in wanted.items() if weight))

    def feature_stride(self, _: int = 0) -> int:
        """Pixels of a cell of a stored feature, for crops of any side."""
        return self.teach.feature_stride or 4


Taught = MGD | KD | CWD  # by frozen teachers, or what `mgd teach` left of them
Method = Supervised | MeanTeacher | CPS | UniMatch | KD | CWD | MGD
METHODS: dict[str, type[Method]] = {
    "supervised": Supervised,
    "mean_teacher": MeanTeacher,
    "cps": CPS,
    "unimatch": UniMatch,
    "kd": KD,
    "cwd": CWD,
    "mgd": MGD,
}


def burn_in(method: Method) -> int:
    """Iterations at the beginning in which labels alone teach."""
    return method.burn_in_iterations if isinstance(method, CPS | MeanTeacher | UniMatch) else 0


def is_offline(method: Method) -> TypeGuard[Taught]:
    """Whether its teachers are what `mgd teach` left of them."""
    return isinstance(method, Taught) and method.teachers == "offline"


def method_name(method: Method) -> str:
    """What `method=NAME` calls it."""
    return next(name for name, kind in METHODS.items() if type(method) is kind)
