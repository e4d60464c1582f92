"""DeepLabV3+ with the official code's parameter names: backbone, ASPP, decoder, classifier."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgd.errors import UserError
from mgd.models.backbones import build_backbone, canonical_name
from mgd.models.normalise import NormalisingNetwork

ASPP_RATES = (6, 12, 18)
LEAK = 0.01


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


class Head(nn.Module):
    """ASPP on the deep feature, joined with the reduced low-level feature at stride 4."""

    def __init__(self, low_channels: int, high_channels: int, low_reduced: int, channels: int) -> None:
        super().__init__()
        self.aspp = ASPP(high_channels, channels)
        self.reduce = nn.Sequential(
            nn.Conv2d(low_channels, low_reduced, 1, bias=False), nn.BatchNorm2d(low_reduced), nn.ReLU()
        )
        self.last_conv = nn.Sequential(
            nn.Conv2d(channels + low_reduced, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        context = upsample(self.aspp(high), low.shape[-2:])
        return self.last_conv(torch.cat([context, self.reduce(low)], dim=1))


class DeepLabV3Plus(NormalisingNetwork):
    """Images (N,3,H,W), normalised -> logits (N,K,H,W).

    Attributes:
        arch: the arguments of `build_model` that make this network again (plain values).
        num_classes: K.
        classes: the class names when known, else None; set by `mgd.student.load_student`.
    """

    def __init__(self, backbone: str, num_classes: int, *, channels: int, output_stride: int | None) -> None:
        super().__init__()
        name = canonical_name(backbone)
        self.arch: dict[str, Any] = {
            "backbone": name,
            "num_classes": num_classes,
            "channels": channels,
            "output_stride": output_stride,
        }
        self.num_classes = num_classes
        self.classes: tuple[str, ...] | None = None
        self.backbone = build_backbone(name, output_stride=output_stride)
        low, high, reduced = self.backbone.low_channels, self.backbone.high_channels, self.backbone.low_reduced
        self.head = Head(low, high, reduced, channels)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        nn.init.kaiming_normal_(self.classifier.weight, mode="fan_in", nonlinearity="relu")
        nn.init.zeros_(self.classifier.bias)  # type: ignore[arg-type]

    def feature(self, image: Tensor) -> Tensor:
        """Decoder feature (N,channels,H/4,W/4), rounded up: the input of the classifier."""
        return self.head(*self.backbone(image))

    def logits(self, feature: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
        """Logits (N,K,*size) of a decoder feature."""
        return upsample(self.classifier(feature), size)

    def forward(self, image: Tensor) -> Tensor:
        return self.logits(self.feature(image), image.shape[-2:])


def build_model(
    backbone: str, num_classes: int, *, channels: int = 256, output_stride: int | None = None
) -> DeepLabV3Plus:
    """Build a DeepLabV3+ with random weights; its state dict has the official names.

    Args:
        backbone: `resnet18`, `resnet50`, `resnet101`, `wide_resnet50_2` (alias `wresnet34`), `mobilenet_v2` (alias
            `mobilev2`) or `timm:<name>`.
        num_classes: K.
        channels: width of ASPP and decoder; 256 as published, less for small machines.
        output_stride: None takes the published one (16; MobileNetV2: 32).

    Raises:
        UserError: unknown backbone, or an output stride that it cannot have.
    """
    if num_classes < 2 or channels < 1:
        raise UserError(f"num_classes={num_classes}, channels={channels}: at least 2 classes and 1 channel are needed")
    return DeepLabV3Plus(backbone, num_classes, channels=channels, output_stride=output_stride)


def upsample(x: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    """Bilinear, `align_corners=True`, as everywhere in the official networks."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)
