"""Segmentation heads: from a backbone's features to the feature that the classifier sees."""

import logging
from collections.abc import Callable

import torch
import torch.nn.functional as F
from timm.layers import ConvNormAct
from torch import Tensor, nn

from mgd.errors import UserError
from mgd.models.backbone import Backbone
from mgd.models.coarse_context import convolve_upsampled

log = logging.getLogger(__name__)

ASPP_RATES = (6, 12, 18)
LEAK = 0.01


class Head(nn.Module):
    """A backbone's features -> the feature (N,out_channels,h,w) that a 1x1 convolution classifies.

    Attributes:
        levels: the features that are used; the last is the deep one.
    """

    levels: tuple[int, ...]
    out_channels: int

    def forward(self, features: list[Tensor]) -> Tensor:
        raise NotImplementedError


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: four branches share one BN; global pooling is added, not concatenated."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.map_convs = nn.ModuleList(
            [nn.Conv2d(in_channels, channels, 1, bias=False)]
            + [nn.Conv2d(in_channels, channels, 3, padding=r, dilation=r, bias=False) for r in ASPP_RATES]
        )
        self.map_bn = nn.BatchNorm2d(4 * channels)
        self.global_pooling_conv = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.global_pooling_bn = nn.BatchNorm2d(channels)
        self.red_conv = nn.Conv2d(4 * channels, channels, 1, bias=False)
        self.pool_red_conv = nn.Conv2d(channels, channels, 1, bias=False)
        self.red_bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        branches = torch.cat([conv(x) for conv in self.map_convs], dim=1)
        out = self.red_conv(F.leaky_relu(self.map_bn(branches), LEAK))
        pooled = self.global_pooling_bn(self.global_pooling_conv(x.mean(dim=(2, 3), keepdim=True)))
        out = out + self.pool_red_conv(F.leaky_relu(pooled, LEAK))
        return F.leaky_relu(self.red_bn(out), LEAK)


class DeepLabV3PlusHead(Head):
    """The published head: ASPP on the deep feature, joined with the reduced low-level feature (stride 4).

    In training the context is convolved before it is upsampled, which takes 34 G multiply-accumulates in place of
    42.5 G for a ResNet-18 at 512x512.

    Attributes:
        coarse: so does it in eval mode; what is exported has the plain convolution.
    """

    coarse = False

    def __init__(self, backbone: Backbone, channels: int, decoder_stride: int | None) -> None:
        super().__init__()
        low = low_level(backbone, decoder_stride, 4)
        self.levels, self.out_channels = (low, len(backbone.channels) - 1), channels
        self.aspp = ASPP(backbone.channels[-1], channels)
        reduced = backbone.low_reduced
        self.reduce = nn.Sequential(
            nn.Conv2d(backbone.channels[low], reduced, 1, bias=False), nn.BatchNorm2d(reduced), nn.ReLU()
        )
        self.last_conv = nn.Sequential(
            nn.Conv2d(channels + reduced, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )
        initialise(self)

    def forward(self, features: list[Tensor]) -> Tensor:
        low, high = (features[level] for level in self.levels)
        context, low = self.aspp(high), self.reduce(low)
        first: nn.Conv2d = self.last_conv[0]  # type: ignore[assignment]
        if self.training or self.coarse:
            joined = convolve_upsampled(context, low, first.weight, first.bias)
        else:
            joined = first(torch.cat([upsample(context, low.shape[-2:]), low], dim=1))
        return self.last_conv[1:](joined)


class SeparableHead(Head):
    """DeepLabV3+ of depthwise-separable convolutions (Chen et al., ECCV 2018).

    ASPP is half as wide as `channels`, the decoder a quarter: 128 and 64 where the published head has 256.
    """

    def __init__(self, backbone: Backbone, channels: int, decoder_stride: int | None) -> None:
        super().__init__()
        low, deep = low_level(backbone, decoder_stride, 4), backbone.channels[-1]
        context, self.out_channels = max(1, channels // 2), max(1, channels // 4)
        self.levels, reduced = (low, len(backbone.channels) - 1), min(backbone.low_reduced, self.out_channels)
        self.branches = nn.ModuleList(
            [ConvNormAct(deep, context)] + [_separable(deep, context, dilation=rate) for rate in ASPP_RATES]
        )
        self.pool = ConvNormAct(deep, context)
        self.project = ConvNormAct(5 * context, context)
        self.reduce = ConvNormAct(backbone.channels[low], reduced)
        self.decoder = nn.Sequential(
            _separable(context + reduced, self.out_channels), _separable(self.out_channels, self.out_channels)
        )
        initialise(self)

    def forward(self, features: list[Tensor]) -> Tensor:
        low, high = (features[level] for level in self.levels)
        pooled = self.pool(high.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, *high.shape[-2:])
        context = self.project(torch.cat([*(branch(high) for branch in self.branches), pooled], dim=1))
        return self.decoder(torch.cat([upsample(context, low.shape[-2:]), self.reduce(low)], dim=1))


class LRASPPHead(Head):
    """Lite reduced ASPP (Howard et al., ICCV 2019): the deep feature, gated by its mean, beside the one at stride 8.

    Half as wide as `channels`. The paper classifies both features and adds the logits: one 1x1 convolution on their
    concatenation is the same, and the concatenation is what the region-level loss compares. Batch norm brings the
    backbone's own feature, which no activation bounds in some, to the scale of the other half.
    """

    def __init__(self, backbone: Backbone, channels: int, decoder_stride: int | None) -> None:
        super().__init__()
        low, deep, width = low_level(backbone, decoder_stride, 8), backbone.channels[-1], max(1, channels // 2)
        self.levels, self.out_channels = (low, len(backbone.channels) - 1), width + backbone.channels[low]
        self.context = ConvNormAct(deep, width)
        self.gate = nn.Conv2d(deep, width, 1, bias=False)
        self.low_norm = nn.BatchNorm2d(backbone.channels[low])
        initialise(self)

    def forward(self, features: list[Tensor]) -> Tensor:
        low, high = (features[level] for level in self.levels)
        context = self.context(high) * self.gate(high.mean(dim=(2, 3), keepdim=True)).sigmoid()
        return torch.cat([upsample(context, low.shape[-2:]), self.low_norm(low)], dim=1)


class LinearHead(Head):
    """Batch norm on the deep feature and nothing else: for transformers (as DINOv2 is probed, Oquab et al., 2024)."""

    def __init__(self, backbone: Backbone, channels: int, decoder_stride: int | None) -> None:
        super().__init__()
        if decoder_stride is not None:
            raise UserError(f"model.decoder_stride={decoder_stride}: model.head=linear has no decoder; leave it out")
        self.levels, self.out_channels = (len(backbone.channels) - 1,), backbone.channels[-1]
        self.norm = nn.BatchNorm2d(self.out_channels)

    def forward(self, features: list[Tensor]) -> Tensor:
        return self.norm(features[-1])


HEADS: dict[str, Callable[[Backbone, int, int | None], Head]] = {
    "deeplabv3plus": DeepLabV3PlusHead,
    "separable": SeparableHead,
    "lraspp": LRASPPHead,
    "linear": LinearHead,
}


def low_level(backbone: Backbone, asked: int | None, usual: int) -> int:
    """The feature that a decoder joins: of the asked stride, else of the usual one or the next that there is.

    Raises:
        UserError: the backbone has none.
    """
    strides = backbone.strides[:-1]
    wanted = asked or usual
    fitting = [stride for stride in strides if stride == wanted or (stride > wanted and asked is None)]
    if not fitting:
        there = f"strides {', '.join(map(str, strides))}" if strides else "no feature"
        remedy = "choose one of them" if asked else "use model.head=linear"
        raise UserError(
            f"model.decoder_stride={wanted} cannot be had: the backbone has {there} before its deep feature; {remedy}"
        )
    stride = min(fitting)
    if stride != wanted:
        log.info("the backbone has no feature at stride %d: the decoder joins the one at stride %d", wanted, stride)
    return len(strides) - 1 - strides[::-1].index(stride)


def initialise(module: nn.Module) -> None:
    """Kaiming normal, fan_in, ReLU; a depthwise convolution begins as the identity, which a few labels can build on."""
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d) and conv.groups == conv.in_channels > 1:
            nn.init.dirac_(conv.weight, groups=conv.groups)
        elif isinstance(conv, nn.Conv2d):
            nn.init.kaiming_normal_(conv.weight, mode="fan_in", nonlinearity="relu")


def upsample(x: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    """Bilinear, `align_corners=True`, as everywhere in the official networks."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


def _separable(in_channels: int, out_channels: int, *, dilation: int = 1) -> nn.Sequential:
    """A 3x3 convolution channel by channel, then a 1x1 with batch norm and ReLU.

    Nothing stands between the two: a ReLU there loses half of what few channels hold (docs/students.md).
    """
    window = nn.Conv2d(in_channels, in_channels, 3, padding=dilation, dilation=dilation, groups=in_channels, bias=False)
    return nn.Sequential(window, ConvNormAct(in_channels, out_channels))
