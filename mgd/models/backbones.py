"""The backbones by name: the paper's four, a small one, and any of timm's."""

from collections.abc import Callable, Mapping
from typing import Any

import torchvision
from timm.models.resnet import BasicBlock, Bottleneck
from timm.models.resnet import ResNet as TimmResNet
from torch import Tensor, nn

from mgd.errors import UserError
from mgd.models.backbone import Backbone
from mgd.models.timm_backbone import TimmBackbone

ALIASES = {"wresnet34": "wide_resnet50_2", "mobilev2": "mobilenet_v2"}
TIMM_PREFIX = "timm:"
WIDTHS = (64, 128, 256, 512)  # of a ResNet's four stages


def canonical_name(name: str) -> str:
    """The backbone's one name: the official files call `wide_resnet50_2` "wresnet34" and `mobilenet_v2` "mobilev2"."""
    return ALIASES.get(name, name)


def build_backbone(name: str, *, output_stride: int | None = None) -> Backbone:
    """Build a backbone with random weights.

    Args:
        name: a key of `BACKBONES`, an alias of one, or `timm:<name>` for a model of timm.
        output_stride: 8, 16 or 32 as far as the backbone can; None takes the published one (16; MobileNetV2: 32), or
            what a model of timm has that takes none.

    Raises:
        UserError: the name is unknown, or the backbone cannot have this output stride.
    """
    name = canonical_name(name)
    if name.startswith(TIMM_PREFIX):
        return TimmBackbone(name.removeprefix(TIMM_PREFIX), output_stride=output_stride)
    if name not in BACKBONES:
        known = ", ".join([*BACKBONES, *ALIASES])
        raise UserError(f"model.backbone={name!r} is unknown; use one of {known}, or timm:<name> for a model of timm")
    return BACKBONES[name](output_stride)


def recognise_backbone(shape: Mapping[str, tuple[int, ...]]) -> str | None:
    """The backbone's name from its parameters' names and shapes; None when it is none of ours."""
    if shape.get("features.17.conv.2.weight") == (320, 960, 1, 1):
        return "mobilenet_v2"
    blocks = len({name.split(".")[1] for name in shape if name.startswith("layer3.")})
    width = shape.get("layer1.0.conv1.weight", (0,))[0]
    key = (blocks, "layer1.0.conv3.weight" in shape, width)
    return {
        (2, False, 64): "resnet18",
        (6, True, 64): "resnet50",
        (23, True, 64): "resnet101",
        (6, True, 128): "wide_resnet50_2",
    }.get(key)


class ResNet(TimmResNet, Backbone):
    """ResNet at output stride 16 or 32 as the official code dilates it, timm's parameter names.

    At 16 the stride of layer4 is removed and every 3x3 convolution of its i-th block has dilation 2**(i+1)
    (timm's own `output_stride` dilates otherwise).
    """

    def __init__(
        self, block: type[BasicBlock | Bottleneck], layers: tuple[int, ...], output_stride: int | None, **options: Any
    ) -> None:
        super().__init__(block, layers, num_classes=0, **options)  # type: ignore[arg-type]
        if output_stride not in (None, 16, 32):
            raise UserError(f"model.output_stride={output_stride} is not available for a ResNet; use 16 or 32")
        self.channels = tuple(block.expansion * width for width in options.get("channels", WIDTHS))
        self.strides = (4, 8, 16, output_stride or 16)
        if output_stride != 32:
            layer4: nn.Sequential = self.layer4  # type: ignore[assignment]
            for i, residual in enumerate(layer4):
                _dilate(residual, 2 ** (i + 1))
            for module in layer4.modules():
                if isinstance(module, nn.Conv2d):
                    module.stride = (1, 1)

    def forward(self, x: Tensor) -> list[Tensor]:  # type: ignore[override]
        for module in (self.conv1, self.bn1, self.act1, self.maxpool):
            x = module(x)
        features = []
        for module in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = module(x)  # type: ignore[operator]
            features.append(x)
        return features


class MobileNetV2(Backbone):
    """torchvision's MobileNetV2 up to its 320-channel block.

    Blocks 15 to 17 have dilation 2, 4, 8. The official network stays at output stride 32; at 16 block 14 loses its
    stride.
    """

    channels, low_reduced = (24, 32, 96, 320), 24

    def __init__(self, output_stride: int | None) -> None:
        super().__init__()
        if output_stride not in (None, 16, 32):
            raise UserError(f"model.output_stride={output_stride} is not available for mobilenet_v2; use 16 or 32")
        self.features = torchvision.models.mobilenet_v2(weights=None).features[:18]
        for i, block in enumerate((15, 16, 17)):
            _dilate(self.features[block], 2 ** (i + 1))
        self.strides = (4, 8, 16, output_stride or 32)
        if output_stride == 16:
            depthwise = self.features[14].conv[1][0]
            depthwise.stride = (1, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for first, last in ((0, 4), (4, 7), (7, 14), (14, 18)):
            x = self.features[first:last](x)
            features.append(x)
        return features


def _dilate(module: nn.Module, dilation: int) -> None:
    """Give every 3x3 convolution below `module` this dilation, keeping its output size."""
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3):
            conv.dilation = conv.padding = (dilation, dilation)


BACKBONES: dict[str, Callable[[int | None], Backbone]] = {
    "resnet18": lambda stride: ResNet(BasicBlock, (2, 2, 2, 2), stride, stem_type="deep", stem_width=32),
    "resnet50": lambda stride: ResNet(Bottleneck, (3, 4, 6, 3), stride, stem_type="deep", stem_width=64),
    "resnet101": lambda stride: ResNet(Bottleneck, (3, 4, 23, 3), stride, stem_type="deep", stem_width=64),
    "wide_resnet50_2": lambda stride: ResNet(Bottleneck, (3, 4, 6, 3), stride, base_width=128),
    "mobilenet_v2": MobileNetV2,
    # Ours, for small machines: ResNet-18 with half the width and less.
    "resnet18_slim": lambda stride: ResNet(
        BasicBlock, (2, 2, 2, 2), stride, stem_type="deep", stem_width=16, channels=(32, 48, 64, 96)
    ),
}
