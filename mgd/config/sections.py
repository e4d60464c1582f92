"""The sections of a config that every method shares: data, network, optimisation, evaluation, the run's folder."""

from dataclasses import dataclass
from typing import Literal

from mgd.fields import Count, NonNegative, PositiveFloat, PositiveInt


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
    partition_lists: str = ""  # pattern with {part} and {ratio} of lists; the official ones need not be there
    unlabeled: str = ""  # a list or a folder of photos without labels, added to the unlabelled part
    classes: str = "classes.csv"  # voc, city, camvid, or a CSV file below root: index,name,red,green,blue
    label_pattern: str = ""  # of the labels in a folder of photos, such as {stem}_mask.png; "": labels/ beside images/
    label_map: tuple[str, ...] = ()  # what label values mean: 255=1, 1..8=0..7, 0=ignore; others keep their number
    ignore_values: tuple[int, ...] = ()  # label values (0..255) that mean "unlabelled", besides 255
    short_side: Count = 0  # shrink photos to this short side when they are read; 0 keeps their size
    crop_size: PositiveInt = 512
    scales: tuple[float, ...] = (0.5, 0.75, 1.0, 1.5, 1.75, 2.0)
    partner: Literal["batch", "independent"] = "batch"  # CutMix: with the batch's neighbour, or an image of its own
    strong: bool = False  # colour jitter, grey and blur on the unlabelled images that a student sees, not its teachers
    rare_classes: tuple[str, ...] = ()  # classes that crops of labelled images shall hold ...
    rare_crops: NonNegative = 0.0  # ... in this share of them at least, as far as the images have them; 0: as they come
    skip_broken: bool = False  # train on the next image in place of one that cannot be read; each is told
    cache: bool = False  # keep decoded images in memory, for small data sets
    pack: Literal["auto", "on", "off"] = "auto"  # take photos that `mgd pack` decoded: if they are there; always; never
    pack_dir: str = "pack"  # the folder of those, below `root` or elsewhere
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
class Train:
    """Optimisation. `batch_size` and `lr` are those of all processes together."""

    batch_size: PositiveInt = 8  # labelled images in an iteration, and as many unlabelled pairs
    accumulate: PositiveInt = 1  # micro-batches that an iteration is split into, to save memory
    epochs: int = 34  # an epoch is unlabelled // batch_size iterations
    max_iterations: Count = 0  # when set: the length of the run, instead of epochs
    # Of these, the last so many train the student on labels alone; the schedule goes on through them. Published: none.
    refine_iterations: Count = 0
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
    compile: bool = False  # torch.compile for all networks: the first steps wait for it, the others are faster


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """How images are scored. The defaults are the published evaluation."""

    mode: Literal["slide", "whole"] = "slide"
    crop_size: Count = 0  # sliding window in pixels; 0 takes the training crop
    stride: PositiveFloat = 2 / 3  # window stride as a share of the window
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    precision: Literal["fp32", "bf16"] = "fp32"  # bf16: faster where the machine has it, near-ties may change
    window_batch: PositiveInt = 4  # windows in a forward pass on a GPU; a CPU takes one by one
    metrics: tuple[Literal["iou", "dice", "boundary_iou"], ...] = ("iou",)  # what the report tells of each class
    exclude: tuple[str, ...] = ()  # classes that the mean leaves out, such as background; both means are told
    every: Count = 1  # epochs between evaluations while training; 0: none
    pictures: Count = 8  # validation images to draw
    watch: Count = 0  # unlabelled photos whose hidden truth pseudo-labels are held against, at each; 0: none


@dataclass(frozen=True, kw_only=True)
class Run:
    """Where a run lives and how often it reports."""

    dir: str = "{experiment}/run"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    log_every: PositiveInt = 20  # iterations
    save_every: PositiveInt = 500  # iterations between writes of last.pt; every evaluation and the end write it too
    timeout: PositiveInt = 60  # seconds that a process waits for the others, beyond a step, before it gives them up
    keep: Count = 0  # snapshots: last.pt at the ends of the last so many epochs stays as iteration-<n>.pt
