"""ImageNet weights for a backbone: a file on the disk first, else the library's download."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.error import URLError

import timm
import torchvision
from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.utils import get_session
from torch import Tensor, nn

from mgd.errors import UserError
from mgd.models.backbones import TIMM_PREFIX
from mgd.models.timm_backbone import TimmBackbone
from mgd.weights import check_numbers

log = logging.getLogger(__name__)
State = dict[str, Tensor]

# Classification heads and what follows the features we use.
HEADS = ("fc.", "classifier.", "head.", "features.18.", "conv_head.", "bn2.", "norm_head.")
STEM = ("conv1.", "bn1.")


@dataclass(frozen=True)
class Source:
    """Where one backbone's weights come from."""

    files: tuple[str, ...]  # names looked for in the weights folder, in this order
    download: Callable[[], Mapping[str, Tensor]]
    note: str = ""
    hub: str = ""  # timm's name of the model, where Hugging Face has the weights


def _timm(files: tuple[str, ...], name: str, note: str = "") -> Source:
    return Source(files, lambda: timm.create_model(name, pretrained=True).state_dict(), note, hub=name)


SOURCES = {
    # timm has no ResNet-18 with this stem and strided shortcuts; resnet18d has the stem and every shape, and pools
    # before its shortcuts where this one strides.
    "resnet18": _timm(
        ("resnet18_v1c.pth", "resnet18.pth"),
        "resnet18d.ra2_in1k",
        "resnet18d's shortcuts pool before the 1x1 convolution, these stride: training has to adapt them",
    ),
    "resnet50": _timm(("resnet50_v1c.pth",), "resnet50s.gluon_in1k"),
    "resnet101": _timm(("resnet101_v1c.pth",), "resnet101s.gluon_in1k"),
    "wide_resnet50_2": _timm(("checkpoint-wres34.pth.tar", "wide_resnet50_2.pth"), "wide_resnet50_2.tv_in1k"),
    "mobilenet_v2": Source(
        ("mobilenet_v2.pth", "mobilenet_v2-b0353104.pth"),
        lambda: torchvision.models.mobilenet_v2(weights="IMAGENET1K_V1").state_dict(),
    ),
}


def load_imagenet(backbone: nn.Module, name: str, folder: str | Path, *, read: Callable[[Path], State | None]) -> str:
    """Load ImageNet weights into `backbone`, in place; what was loaded, renamed or skipped is logged by name.

    Args:
        name: canonical name of the backbone.
        folder: looked in first.
        read: file -> flat state dict, or None when there are no tensors in it.

    Returns:
        Where the weights came from.

    Raises:
        UserError: no file and no download, or the weights do not fit.
    """
    source, file = source_of(name), find_weights(name, folder)
    name = name.removeprefix(TIMM_PREFIX)
    if file is not None:
        state, origin, note = read(file), str(file), ""
        if state is None:
            raise UserError(f"{file} holds no tensors; expected ImageNet weights of {name}")
    else:
        state, origin, note = dict(_download(source, name, folder)), "the library's download", source.note
    check_numbers(state, origin)
    target = backbone.model if isinstance(backbone, TimmBackbone) else backbone
    _load(target, state, name=name, origin=origin, note=note)
    return origin


def source_of(name: str) -> Source:
    """Where the weights of a backbone (canonical name) come from. Raises UserError where nobody trained it."""
    if name.startswith(TIMM_PREFIX):
        model = name.removeprefix(TIMM_PREFIX)
        trained = partial(TimmBackbone, model, output_stride=None, pretrained=True)
        return Source((f"{model}.pth",), lambda: trained().model.state_dict(), hub=model)
    if name not in SOURCES:
        raise UserError(f"there are no ImageNet weights for {name}; set model.pretrained=False")
    return SOURCES[name]


def find_weights(name: str, folder: str | Path) -> Path | None:
    """The file of ImageNet weights in `folder` for a backbone (canonical name); None when there is none."""
    return next((path for path in (Path(folder) / f for f in source_of(name).files) if path.is_file()), None)


def _download(source: Source, name: str, folder: str | Path) -> Mapping[str, Tensor]:
    try:
        if source.hub:
            _ask_once(source.hub)
        return source.download()
    except (OSError, URLError, RuntimeError) as error:  # what the hubs raise without a network or a release
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"no ImageNet weights for {name}: {Path(folder).absolute()} has none of {', '.join(source.files)} and the "
            f"download failed ({reason}); put a file there, or set model.pretrained=False to train from scratch"
        ) from error


def _ask_once(model: str) -> None:
    """Raise OSError where a model of timm is not in the hub's cache and the hub does not answer.

    Else the hub's library would ask for two files, six times each, for 50 s, and tell of every time.
    """
    known = timm.get_pretrained_cfg(model)
    if known is None or not (repository := known.hf_hub_id):
        return
    files = known.hf_hub_filename or "model.safetensors", "pytorch_model.bin"
    if any(isinstance(try_to_load_from_cache(repository, file), str) for file in files):
        return
    try:
        get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception as error:  # of the HTTP library that this version of the hub's is built on
        raise OSError(f"{constants.ENDPOINT}: {error}") from error


def _load(backbone: nn.Module, state: State, *, name: str, origin: str, note: str) -> None:
    expected = backbone.state_dict()
    names = {key: _name_in(expected, key, state) for key in state}
    renamed = {names[key]: tensor for key, tensor in state.items()}
    fitting = {k: v for k, v in renamed.items() if k in expected and v.shape == expected[k].shape}
    skipped = sorted(k for k in renamed if k not in fitting)
    missing = sorted(k for k in expected if k not in fitting and not k.endswith("num_batches_tracked"))
    changed = sorted(k for k in state if k not in renamed)
    strange = [k for k in skipped if not k.startswith((*HEADS, *STEM))]
    lost = [k for k in missing if not k.startswith(STEM)]
    if lost or strange:
        raise UserError(
            f"{origin} does not fit {name}: {len(lost)} tensors are missing, such as {lost[:2]}, {len(strange)} "
            f"unknown, such as {strange[:2]}; use weights of this architecture or model.pretrained=False"
        )
    backbone.load_state_dict(fitting, strict=False)  # what is missing was checked above
    log.info("ImageNet weights of %s from %s: %d tensors loaded", name, origin, len(fitting))
    if changed:
        log.info("  renamed: %s", ", ".join(f"{k} -> {names[k]}" for k in changed))
    if skipped:
        log.info("  skipped: %s", ", ".join(skipped))
    if missing:
        log.warning("left at random, not in the file: %s", ", ".join(missing))
    if note:
        log.warning("%s", note)


def our_name(key: str, state: State) -> str:
    """Names in files of other projects -> ours."""
    key = key.removeprefix("module.").removeprefix("backbone.")
    if key.startswith("stem."):  # OpenMMLab: the last convolution's BN is part of its stem
        _, index, rest = key.split(".", 2)
        return f"bn1.{rest}" if index == "7" else f"conv1.{index}.{rest}"
    block, shortcut, rest = key.partition(".downsample.")
    if shortcut and any(k.endswith(f"{block}.downsample.2.weight") for k in state):
        index, parameter = rest.split(".", 1)  # a pooling comes first there
        return f"{block}.downsample.{int(index) - 1}.{parameter}"
    return key


def _name_in(expected: Mapping[str, Tensor], key: str, state: State) -> str:
    """What a file's tensor is called in the backbone.

    Some of timm's feature extractors call a stage `stages_0` that the classifier calls `stages.0`.
    """
    flat = key.replace(".", "_", 1)
    return flat if key not in expected and flat in expected else our_name(key, state)
