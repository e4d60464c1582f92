"""What an experiment is: frozen dataclasses, read from a config.py, changed by `key.sub=value`."""

import dataclasses
import runpy
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from mgd.errors import UserError
from mgd.fields import Count, NonNegative, PositiveFloat, PositiveInt, check_ranges, check_types, hints, parse


@dataclass(frozen=True, kw_only=True)
class Data:
    """Which images, which of them with labels, and how training samples are cut out of them.

    A list has one entry a line: `image<TAB>label`, or an image alone, both relative to `root`; or a bare name, which
    stands for `<folder>/image/<name>.jpg` and `<folder>/label/<name>.png`. A folder that holds images/ and labels/
    stands for the list of its pairs, which have the same path below these but for the suffix.
    """

    root: str
    train_list: str = "train.txt"  # or a folder of pairs
    val_list: str = "val.txt"
    train_folder: str = "train_aug"  # for lists of bare names
    val_folder: str = "val"
    partition: PositiveInt = 8  # 1/partition of the training list is labelled
    partition_lists: str = ""  # pattern with {part} and {ratio}; such lists are used when they are there
    unlabeled: str = ""  # a list or a folder of photos without labels, added to the unlabelled part
    classes: str = "classes.csv"  # voc, city, camvid, or a CSV file below root: index,name,red,green,blue
    label_pattern: str = ""  # of the labels in a folder of photos, such as {stem}_mask.png; "": labels/ beside images/
    label_map: tuple[str, ...] = ()  # what label values mean: 255=1, 1..8=0..7, 0=ignore; others keep their number
    ignore_values: tuple[int, ...] = ()  # label values (0..255) that mean "unlabelled", besides 255
    short_side: Count = 0  # shrink photos to this short side when they are read; 0 keeps their size
    crop_size: PositiveInt = 512
    scales: tuple[float, ...] = (0.5, 0.75, 1.0, 1.5, 1.75, 2.0)
    skip_broken: bool = False  # train on the next image in place of one that cannot be read; each is told
    cache: bool = False  # keep decoded images in memory, for small data sets
    workers: Count = 4  # loader processes for each training process


@dataclass(frozen=True, kw_only=True)
class Model:
    """The network that is trained."""

    backbone: str
    pretrained: bool = True  # start from ImageNet weights
    init_from: str = ""  # or the student from this checkpoint: what fits of it by name and shape, the rest is told
    head: Literal["deeplabv3plus", "separable", "lraspp", "linear"] = "deeplabv3plus"
    channels: PositiveInt = 256  # width of the published ASPP and decoder; light heads take a half, a quarter of it
    output_stride: int | None = None  # None: the published one (16; MobileNetV2: 32), or what a model of timm has
    decoder_stride: int | None = None  # of the feature that the decoder joins; None: 4 (lraspp: 8) or the next
    weights_dir: str = "DATA/model-weight"  # where ImageNet weights are looked for before they are downloaded


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """The supervised loss: cross-entropy, or online hard example mining."""

    kind: Literal["ce", "ohem"] = "ce"
    threshold: NonNegative = 0.7  # OHEM: a pixel with more probability than this is easy
    min_kept: Count = 50_000  # OHEM: pixels per image that are kept at least


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
    teacher_norm: Literal["frozen", "batch"] = "frozen"  # batch: batch statistics that drift, as the official code
    score_teachers: bool = True  # on the validation list, before they teach
    baseline: str = ""  # the evaluation (.json) of a run on labels alone: teachers should score higher


Method = Supervised | CPS | MGD
METHODS: dict[str, type[Method]] = {"supervised": Supervised, "cps": CPS, "mgd": MGD}


@dataclass(frozen=True, kw_only=True)
class Train:
    """Optimisation. `batch_size` and `lr` are those of all processes together."""

    batch_size: PositiveInt = 8  # labelled images in an iteration, and as many unlabelled pairs
    accumulate: PositiveInt = 1  # micro-batches that an iteration is split into, to save memory
    epochs: int = 34  # an epoch is unlabelled // batch_size iterations
    max_iterations: Count = 0  # when set: the length of the run, instead of epochs
    lr: PositiveFloat = 0.0025
    power: NonNegative = 0.9  # of the poly schedule
    momentum: NonNegative = 0.9
    weight_decay: NonNegative = 4e-4  # on convolution weights only
    optimizer: Literal["sgd", "adamw", "apex_fused_sgd"] = "sgd"  # torch's, fused; or NVIDIA apex's, when installed
    head_lr: PositiveFloat = 1.0  # head's and classifier's lr, as a factor of `lr`; such as 40 on a transformer
    layer_decay: PositiveFloat = 1.0  # factor of lr from each layer of a backbone to the one before, such as 0.8
    warmup_iterations: Count = 0  # iterations over which lr rises to its value on the poly schedule; published: none
    # Decay of averaged weights, such as 0.999, which are then what is scored; 0: none. The first 1 / (1 - ema)
    # iterations count alike: nothing of the weights that a run starts from stays.
    ema: NonNegative = 0.0
    max_skipped: Count = 10  # steps in a row left out for a loss or gradient that is not finite, before the run ends
    seed: Count = 0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # auto: fp32 on a CPU, bf16 on a GPU that has it


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """How images are scored. The defaults are the published evaluation."""

    mode: Literal["slide", "whole"] = "slide"
    crop_size: Count = 0  # sliding window in pixels; 0 takes the training crop
    stride: PositiveFloat = 2 / 3  # window stride as a share of the window
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    precision: Literal["fp32", "bf16"] = "fp32"  # bf16: faster where the machine has it, near-ties may change
    window_batch: PositiveInt = 4  # windows in a forward pass
    metrics: tuple[Literal["iou", "dice", "boundary_iou"], ...] = ("iou",)  # what the report tells of each class
    exclude: tuple[str, ...] = ()  # classes that the mean leaves out, such as background; both means are told
    every: Count = 1  # epochs between evaluations while training; 0: none
    pictures: Count = 8  # validation images to draw


@dataclass(frozen=True, kw_only=True)
class Run:
    """Where a run lives and how often it reports."""

    dir: str = "{experiment}/run"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    log_every: PositiveInt = 20  # iterations
    save_every: PositiveInt = 500  # iterations between writes of last.pt; every evaluation and the end write it too
    timeout: PositiveInt = 60  # seconds that a process waits for the others, beyond a step, before it gives them up
    keep: Count = 0  # snapshots: last.pt at the ends of the last so many epochs stays as iteration-<n>.pt


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


def load(path: str | Path, overrides: typing.Sequence[str] = ()) -> Experiment:
    """Read `config` from a config.py, apply overrides such as `train.lr=0.01`, fill in the placeholders.

    Raises:
        UserError: no such file, broken Python, an unknown key, a wrong type, an impossible combination.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "config.py"
    if not path.is_file():
        raise UserError(f"{path} does not exist; name an experiment's config.py")
    try:
        config = runpy.run_path(str(path)).get("config")
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except Exception as error:  # config.py is a person's Python: whatever it raises is a mistake in it
        raise UserError(f"{path} cannot be read as a config: {type(error).__name__}: {error}") from error
    if not isinstance(config, Experiment):
        raise UserError(f"{path} must define `config = Experiment(...)`, found {type(config).__name__}")
    return _fill_in(override(config, overrides), path.resolve().parent)


def family(config_file: str) -> types.SimpleNamespace:
    """The settings that experiments share: the names of family.py in the folder above; a config.py says `__file__`."""
    names = runpy.run_path(str(Path(config_file).resolve().parent.parent / "family.py"))
    return types.SimpleNamespace(**{name: value for name, value in names.items() if name.isupper()})


def override(config: Experiment, overrides: typing.Sequence[str]) -> Experiment:
    """Apply `key.sub=value` in turn; `method=supervised|cps|mgd` switches the method to that one's defaults.

    Values are checked together, after the last one.
    """
    values = to_dict(config)
    for text in overrides:
        key, separator, value = text.partition("=")
        if not separator:
            raise UserError(f"{text!r} is not an override; write key.sub=value, such as train.lr=0.01")
        if key == "method":
            kind = METHODS.get(value)
            if kind is None:
                raise UserError(f"method={value} is unknown; use {', '.join(METHODS)}")
            criterion = values["method"]["criterion"]
            values["method"] = {"name": value, **_plain(kind()), "criterion": criterion}
            continue
        _set(values, key, value)
    return from_dict(values)


def to_dict(config: Experiment) -> dict[str, Any]:
    """Plain nested dict, as stored in checkpoints and `config.json`; `method.name` tells the method's type."""
    names = {kind: name for name, kind in METHODS.items()}
    values = _plain(config)
    values["method"] = {"name": names[type(config.method)], **values["method"]}
    return values


def from_dict(values: dict[str, Any]) -> Experiment:
    """The inverse of `to_dict`. Raises UserError where a key or value does not fit."""
    values = dict(values)
    method = dict(values["method"])
    kind = METHODS.get(method.pop("name"))
    if kind is None:
        raise UserError(f"method.name={values['method']['name']!r} is unknown; use {', '.join(METHODS)}")
    return Experiment(**{k: _build(_section(k, kind), method if k == "method" else v, k) for k, v in values.items()})


def _section(key: str, method: type[Method]) -> type:
    if key == "method":
        return method
    kind = typing.get_type_hints(Experiment).get(key)
    if kind is None:
        raise UserError(f"{key} is not a section of a config; use {', '.join(typing.get_type_hints(Experiment))}")
    return kind


def _build(kind: type, values: dict[str, Any], path: str) -> Any:
    known = hints(kind)
    for key in values:
        if key not in known:
            raise UserError(f"{path}.{key} is not a key; use one of {', '.join(f'{path}.{k}' for k in known)}")
    return kind(
        **{
            k: _build(known[k], v, f"{path}.{k}") if dataclasses.is_dataclass(known[k]) else _tuples(v)
            for k, v in values.items()
        }
    )


def _set(values: dict[str, Any], key: str, text: str) -> None:
    """Parse `text` as the type of `key` and store it."""
    *sections, last = key.split(".")
    kind: Any = Experiment
    for i, part in enumerate([*sections, last]):
        if not dataclasses.is_dataclass(kind):
            raise UserError(f"{key} is not a key of this config; {'.'.join(sections[:i])} has no keys below it")
        known = hints(kind)
        if part not in known:
            prefix = "".join(f"{s}." for s in [*sections, last][:i])
            raise UserError(f"{key} is not a key of this config; use one of {', '.join(prefix + k for k in known)}")
        kind = METHODS[values["method"]["name"]] if (i, part) == (0, "method") else known[part]
    if dataclasses.is_dataclass(kind):
        raise UserError(f"{key} is a section; set one of {', '.join(f'{key}.{k}' for k in hints(kind))}")
    for part in sections:
        values = values[part]
    values[last] = parse(text, kind, key)


def _check_values(c: Experiment) -> None:
    """What types and ranges cannot say."""
    if c.train.epochs <= 0 and not c.train.max_iterations:
        raise UserError(f"train.epochs={c.train.epochs} must be greater than 0, or set train.max_iterations")
    for key, scales in {"data.scales": c.data.scales, "evaluate.scales": c.evaluate.scales}.items():
        if not scales or min(scales) <= 0:
            raise UserError(f"{key}={scales} must hold numbers greater than 0, such as 0.75,1.0,1.25")
    if wrong := [value for value in c.data.ignore_values if not 0 <= value <= 255]:
        raise UserError(f"data.ignore_values={wrong[0]} is no value of a label map; they are 0..255")
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
    if isinstance(c.method, MGD) and not c.method.deep_teacher and not c.method.wide_teacher:
        raise UserError("method.deep_teacher and method.wide_teacher are both empty; name a checkpoint for one")


def _fill_in(config: Experiment, folder: Path) -> Experiment:
    """Replace {experiment} and {partition} in the paths that may hold them."""

    def fill(text: str) -> str:
        return text.replace("{experiment}", str(folder)).replace("{partition}", str(config.data.partition))

    method = config.method
    if isinstance(method, MGD):
        method = dataclasses.replace(
            method,
            deep_teacher=tuple(map(fill, method.deep_teacher)),
            wide_teacher=tuple(map(fill, method.wide_teacher)),
            baseline=fill(method.baseline),
        )
    model = dataclasses.replace(config.model, init_from=fill(config.model.init_from))
    run = dataclasses.replace(config.run, dir=fill(config.run.dir))
    return dataclasses.replace(config, model=model, method=method, run=run)


def _plain(value: Any) -> dict[str, Any]:
    return dataclasses.asdict(value)


def _tuples(value: Any) -> Any:
    """JSON has lists only."""
    return tuple(value) if isinstance(value, list) else value
