"""A segmentation network: backbone, head, classifier, and what its images are normalised with."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgd.errors import UserError
from mgd.models.backbones import build_backbone, canonical_name
from mgd.models.heads import HEADS, initialise, upsample
from mgd.models.normalise import NormalisingNetwork


class SegmentationNetwork(NormalisingNetwork):
    """Images (N,3,H,W), normalised -> logits (N,K,H,W).

    Attributes:
        arch: the arguments of `build_model` that make this network again (plain values).
        num_classes: K.
        classes: the class names when known, else None; set by `mgd.checkpoint.network_of`.
        unreached: names of the parameters that the head does not use; they are frozen.
    """

    def __init__(
        self,
        backbone: str,
        num_classes: int,
        *,
        channels: int,
        output_stride: int | None,
        head: str,
        decoder_stride: int | None,
    ) -> None:
        super().__init__()
        name = canonical_name(backbone)
        self.arch: dict[str, Any] = {
            "backbone": name,
            "num_classes": num_classes,
            "channels": channels,
            "output_stride": output_stride,
            "head": head,
            "decoder_stride": decoder_stride,
        }
        self.num_classes = num_classes
        self.classes: tuple[str, ...] | None = None
        self.backbone = build_backbone(name, output_stride=output_stride)
        self.head = HEADS[head](self.backbone, channels, decoder_stride)
        self.classifier = nn.Conv2d(self.head.out_channels, num_classes, 1)
        initialise(self.classifier)
        nn.init.zeros_(self.classifier.bias)  # type: ignore[arg-type]
        self.set_statistics(self.backbone.mean, self.backbone.std)
        self.unreached = self.backbone.unreached(self.head.levels)
        frozen = {f"body.{parameter}" for parameter in self.unreached}
        for parameter_name, parameter in self.backbone.named_parameters():
            if parameter_name in frozen:
                parameter.requires_grad_(False)

    def set_statistics(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Normalise with these: three numbers each, RGB, of pixels scaled to 0..1."""
        for name, values in (("mean", mean), ("std", std)):
            if len(values) != 3 or (name == "std" and min(values) <= 0):
                raise UserError(f"{name}={values} must be three numbers{', above 0' if name == 'std' else ''}")
        self.mean, self.std = (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])
        self.arch |= {"mean": self.mean, "std": self.std}

    def feature(self, image: Tensor) -> Tensor:
        """The classifier's input (N,C,h,w); of the published head (N,channels,H/4,W/4), rounded up.

        Where the backbone takes only some sizes the image is padded, at the right and below, with 0, its mean colour.

        Raises:
            UserError: the image is smaller than a patch of the backbone.
        """
        height, width = image.shape[-2:]
        if self.backbone.multiple > 1:
            patch = self.backbone.strides[0]
            if min(height, width) < patch:
                raise UserError(
                    f"an image or crop of {height}x{width} is smaller than a patch of {self.arch['backbone']}; use "
                    f"data.crop_size of at least {patch}"
                )
            padded = self.padded(height, width)
            image = F.pad(image, (0, padded[1] - width, 0, padded[0] - height))
        return self.head(self.backbone(image))

    def logits(self, feature: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
        """Logits (N,K,*size) of a feature; what the image was padded with is cut off."""
        return self.enlarge(self.classifier(feature), size)

    def enlarge(self, logits: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
        """What the classifier made of a feature -> logits (N,K,*size); what the image was padded with is cut off.

        In float32 under autocast too, as in the losses: interpolated in bfloat16 classes tie near their borders, and
        the first one of the list would have all such pixels.
        """
        height, width = size
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return upsample(logits, self.padded(height, width))[..., :height, :width]

    def over_image(self, feature: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
        """The cells of a feature, or of what the classifier makes of it, that lie over an image of this size (H,W).

        All of them, unless the image was padded.
        """
        sides = zip(feature.shape[-2:], size, self.padded(*size), strict=True)
        height, width = (-(-cells * own // padded) for cells, own, padded in sides)
        return feature[..., :height, :width]

    def forward(self, image: Tensor) -> Tensor:
        return self.logits(self.feature(image), image.shape[-2:])

    def padded(self, height: int, width: int) -> tuple[int, int]:
        """What an image of this size is padded to before the backbone gets it, at the right and below."""
        multiple = self.backbone.multiple
        if multiple == 1:  # an export of dynamic size has one thing less to reason about
            return height, width
        return -(-height // multiple) * multiple, -(-width // multiple) * multiple


def build_model(
    backbone: str,
    num_classes: int,
    *,
    channels: int = 256,
    output_stride: int | None = None,
    head: str = "deeplabv3plus",
    decoder_stride: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> SegmentationNetwork:
    """Build a network with random weights; the state dict of a published one has the official names.

    Args:
        backbone: `resnet18`, `resnet50`, `resnet101`, `wide_resnet50_2` (alias `wresnet34`), `mobilenet_v2` (alias
            `mobilev2`) or `timm:<name>`.
        num_classes: K.
        channels: width of ASPP and decoder; 256 as published, less for small machines. The light heads take a half of
            it, and a quarter in the decoder.
        output_stride: None takes the published one (16; MobileNetV2: 32); of timm 16 where the model can, else what it
            has.
        head: `deeplabv3plus` as published, `separable`, `lraspp` or `linear`.
        decoder_stride: of the feature that the decoder joins; None: 4, of `lraspp` 8, or the next that there is.
        mean, std: what images are normalised with; None: what the backbone's ImageNet weights were trained with.

    Raises:
        UserError: unknown backbone or head, a stride that the backbone does not have.
    """
    if num_classes < 2 or channels < 1:
        raise UserError(f"num_classes={num_classes}, channels={channels}: at least 2 classes and 1 channel are needed")
    if head not in HEADS:
        raise UserError(f"model.head={head!r} is unknown; use one of {', '.join(HEADS)}")
    options = {"channels": channels, "output_stride": output_stride, "decoder_stride": decoder_stride}
    network = SegmentationNetwork(backbone, num_classes, head=head, **options)  # type: ignore[arg-type]
    network.set_statistics(mean or network.mean, std or network.std)
    return network
