"""Any model of timm as a backbone: pyramids of features, and plain vision transformers."""

import math
from collections.abc import Collection
from functools import lru_cache
from typing import Any, NamedTuple

import timm
import torch
from timm.layers import Format
from timm.models._features import FeatureGetterNet
from torch import Tensor, nn

from mgd.errors import UserError
from mgd.models.backbone import Backbone

DEFAULT_STRIDE = 16  # where a model can dilate
LAST_BLOCKS = 2  # of a plain transformer: its deep feature, and one that a decoder may join
NOT_BUILT = (RuntimeError, TypeError, ValueError, KeyError, NotImplementedError, AssertionError, AttributeError)
# timm has no list of what each model accepts: the attempt is the only way to know.
WAYS: tuple[dict[str, Any], ...] = (
    {"strict_img_size": False, "features_only": True},  # windowed transformers
    {"dynamic_img_size": True, "num_classes": 0},  # plain ones: their features come from forward_intermediates
    {"features_only": True},
)


class TimmBackbone(Backbone):
    """A model of timm under its own parameter names.

    Raises:
        UserError: timm has no such model, it gives no features, or it cannot have this output stride.
    """

    def __init__(self, name: str, *, output_stride: int | None, pretrained: bool = False) -> None:
        super().__init__()
        facts = explore(name, output_stride)
        self._name, self._stride = name, output_stride
        self.body = build_body(name, output_stride, pretrained=pretrained)
        self.strides, self.channels, self.multiple = facts.strides, facts.channels, facts.multiple
        own = self.body.pretrained_cfg
        self.mean, self.std = tuple(own["mean"]), tuple(own["std"])

    def forward(self, x: Tensor) -> list[Tensor]:
        return _features(self.body, x)

    def unreached(self, levels: Collection[int]) -> tuple[str, ...]:
        reached = explore(self._name, self._stride).reached
        used = set().union(*(reached[level] for level in levels))
        return tuple(name for name, _ in self.body.named_parameters() if name not in used)

    @property
    def model(self) -> nn.Module:
        """timm's own module, whose parameter names are those of its files."""
        return self.body.model if isinstance(self.body, FeatureGetterNet) else self.body


class Facts(NamedTuple):
    """What a model of timm turned out to do."""

    strides: tuple[int, ...]
    channels: tuple[int, ...]
    multiple: int  # that the sides of its images must have
    reached: tuple[frozenset[str], ...]  # the parameters that each feature depends on


def build_body(name: str, output_stride: int | None, *, pretrained: bool = False) -> Any:
    """Images -> list of features. Raises UserError where timm cannot."""
    way = _find_way(name, output_stride)
    body: Any = timm.create_model(name, pretrained=pretrained, **way)
    if "features_only" in way:
        return body
    # The final norm too: whatever follows a transformer's last block has seen it with that.
    features: Any = FeatureGetterNet(body, out_indices=LAST_BLOCKS, norm=True)
    features.pretrained_cfg = body.pretrained_cfg
    return features


@lru_cache(maxsize=64)
def _find_way(name: str, output_stride: int | None) -> dict[str, Any]:
    """The options that timm builds a model with."""
    reason = ""
    for way in ({"output_stride": output_stride or DEFAULT_STRIDE, "features_only": True}, *WAYS):
        try:
            with torch.device("meta"):
                body = timm.create_model(name, pretrained=False, **way)
        except NOT_BUILT as error:
            reason = _first_line(error)
            continue
        if "features_only" in way or hasattr(body, "forward_intermediates"):
            return way
    raise UserError(f"model.backbone=timm:{name} cannot be built ({reason}); look the name up in timm.list_models()")


@lru_cache(maxsize=64)
def explore(name: str, output_stride: int | None) -> Facts:
    """Find out by running a copy without memory.

    Raises:
        UserError: it gives no features, takes images of one size only or none without memory, or has another output
            stride than the asked one.
    """
    with torch.device("meta"):
        body = build_body(name, output_stride).eval()
    multiple = next((m for m in _multiples(body) if _takes(body, m)), None)
    if multiple is None:
        size = body.pretrained_cfg.get("input_size", (3, 224, 224))[1:]
        if reason := _refusal(body, *size):
            raise UserError(
                f"model.backbone=timm:{name} cannot be looked at with timm {timm.__version__} ({reason}); use another, "
                "or another version of timm"
            )
        raise UserError(
            f"model.backbone=timm:{name} takes images of {size[0]}x{size[1]} only, and training crops and windows have "
            "other sizes; use another"
        )
    side = multiple * math.ceil(256 / multiple)
    features = _features(body, torch.zeros(1, 3, side, side, device="meta"))
    strides = tuple(round(side / f.shape[-1]) for f in features)
    if output_stride and strides[-1] != output_stride:
        raise UserError(
            f"model.output_stride={output_stride} is not available for timm:{name}, whose output stride is "
            f"{strides[-1]}; leave it out (none)"
        )
    names = {parameter: n for n, parameter in body.named_parameters()}
    reached = tuple(frozenset(names[p] for p in _leaves(feature) if p in names) for feature in features)
    return Facts(strides, tuple(f.shape[1] for f in features), multiple, reached)


def _multiples(body: Any) -> list[int]:
    """Candidates: any size, the patch or the finest and the coarsest stride, windows of 7 and 8 at the coarsest."""
    strides = body.feature_info.reduction()
    return [*sorted({1, strides[0], strides[-1]}), 7 * strides[-1], 8 * strides[-1]]


def _takes(body: Any, multiple: int) -> bool:
    """Whether sides of this multiple go, tried on a small and on a larger oblong."""
    for height, width in ((129, 193), (259, 323)):
        if _refusal(body, *(multiple * math.ceil(side / multiple) for side in (height, width))):
            return False
    return True


def _refusal(body: Any, height: int, width: int) -> str:
    """Why a body without memory does not take an image; "" where it does."""
    try:
        with torch.no_grad():
            body(torch.zeros(1, 3, height, width, device="meta"))
    except NOT_BUILT as error:
        return _first_line(error)
    return ""


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _features(body: Any, x: Tensor) -> list[Tensor]:
    features = body(x)
    last = getattr(body, "output_fmt", None) is Format.NHWC and not isinstance(body, FeatureGetterNet)
    return [feature.permute(0, 3, 1, 2) if last else feature for feature in features]


def _leaves(feature: Tensor) -> set[Tensor]:
    """The tensors that a result's gradient would reach."""
    found, seen, todo = set(), set(), [feature.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(node.variable)
        todo += [following for following, _ in node.next_functions]
    return found
