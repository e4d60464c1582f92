"""One run: an experiment's sections together, and what must hold between their values."""

from dataclasses import dataclass, field, replace

from mgd.config.methods import CPS, CWD, KD, MGD, MeanTeacher, Method, Taught, UniMatch, is_offline
from mgd.config.sections import Data, Evaluate, Model, Run, Train
from mgd.errors import UserError
from mgd.fields import check_ranges, check_types


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One run.

    In `run.dir` and in teachers' paths {experiment} is the folder of config.py and {partition} is data.partition.
    """

    data: Data
    model: Model
    method: Method
    train: Train = field(default_factory=Train)
    evaluate: Evaluate = field(default_factory=Evaluate)
    run: Run = field(default_factory=Run)

    def __post_init__(self) -> None:
        check_types(self, "")
        check_ranges(self, "")
        _check_values(self)

    @property
    def scoring(self) -> Evaluate:
        """`evaluate` with its window's side: the training crop where it names none."""
        return replace(self.evaluate, crop_size=self.evaluate.crop_size or self.data.crop_size)


def _check_values(c: Experiment) -> None:
    """What types and ranges cannot say."""
    if c.train.epochs <= 0 and not c.train.max_iterations:
        raise UserError(f"train.epochs={c.train.epochs} must be greater than 0, or set train.max_iterations")
    for key, scales in {"data.scales": c.data.scales, "evaluate.scales": c.evaluate.scales}.items():
        if not scales or min(scales) <= 0:
            raise UserError(f"{key}={scales} must hold numbers greater than 0, such as 0.75,1.0,1.25")
    if wrong := [value for value in c.data.ignore_values if not 0 <= value <= 255]:
        raise UserError(f"data.ignore_values={wrong[0]} is no value of a label map; they are 0..255")
    if c.train.seed >= 2**32:
        raise UserError(f"train.seed={c.train.seed} must be below {2**32}")
    if c.evaluate.stride > 1:
        raise UserError(f"evaluate.stride={c.evaluate.stride} must be at most 1: the windows would leave gaps")
    if c.train.layer_decay > 1:
        raise UserError(f"train.layer_decay={c.train.layer_decay} must be at most 1, such as 0.8")
    if c.train.ema >= 1:
        raise UserError(f"train.ema={c.train.ema} must be below 1, such as 0.999: the weights would never change")
    if c.train.batch_size % c.train.accumulate:
        raise UserError(
            f"train.batch_size={c.train.batch_size} does not divide by train.accumulate={c.train.accumulate}; "
            "choose a divisor"
        )
    if isinstance(c.method, MeanTeacher) and c.method.decay >= 1:
        raise UserError(f"method.decay={c.method.decay} must be below 1, such as 0.99: the teacher would never change")
    if isinstance(c.method, CPS | UniMatch) and c.method.ema >= 1:
        raise UserError(f"method.ema={c.method.ema} must be below 1, such as 0.996: the teacher would never change")
    if isinstance(c.method, MeanTeacher | CPS | UniMatch | MGD):
        _check_confidence(c.method)
    if c.data.rare_crops > 1:
        raise UserError(f"data.rare_crops={c.data.rare_crops} must be at most 1: it is a share of the crops")
    if c.data.rare_crops and not c.data.rare_classes:
        raise UserError(f"data.rare_crops={c.data.rare_crops} needs data.rare_classes: name the classes")
    if isinstance(c.method, Taught):
        _check_taught(c.method)


def _check_confidence(method: MeanTeacher | CPS | UniMatch | MGD) -> None:
    confidence, ema = method.confidence, method.confidence_ema
    if ema >= 1:
        raise UserError(f"method.confidence_ema={ema} must be below 1, such as 0.99: thresholds would never change")
    if ema and not confidence:
        raise UserError(f"method.confidence_ema={ema} needs method.confidence: the surest class's, such as 0.95")
    if any(not 0 <= value <= 1 for value in confidence):
        raise UserError(f"method.confidence={confidence} must hold probabilities, 0 to 1: one for all classes or each")


def _check_taught(method: Taught) -> None:
    if not method.deep_teacher and not method.wide_teacher:
        raise UserError("method.deep_teacher and method.wide_teacher are both empty; name a checkpoint for one")
    if is_offline(method) and isinstance(method, MGD) and method.teacher_norm == "batch":
        raise UserError("method.teachers=offline cannot have method.teacher_norm=batch: no teacher runs; use frozen")
    for key in ("feature_stride", "projection") if isinstance(method, KD) else ():
        if value := getattr(method.teach, key):
            raise UserError(f"method.teach.{key}={value} is of a feature, which KD does not store; leave it 0")
    if isinstance(method, CWD) and method.teach.logits_stride % 4:
        raise UserError(f"method.teach.logits_stride={method.teach.logits_stride} must be a multiple of 4 for CWD")
    if method.teach.feature_stride % 4:
        raise UserError(f"method.teach.feature_stride={method.teach.feature_stride} must be a multiple of 4, or 0")
    if not method.teach.scales or min(method.teach.scales) <= 0:
        raise UserError(f"method.teach.scales={method.teach.scales} must hold numbers greater than 0, such as 1.0")
