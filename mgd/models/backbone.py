"""What every backbone is: a network from images (N,3,H,W) to features, from the finest to the deepest."""

from collections.abc import Collection

from torch import Tensor, nn

from mgd.models.normalise import IMAGENET_MEAN, IMAGENET_STD, Statistics


class Backbone(nn.Module):
    """Images (N,3,H,W) -> features, from the finest to the deepest.

    Attributes:
        strides, channels: of each feature.
        low_reduced: width of the reduced low-level feature in the published decoder.
        multiple: images are padded to sides that this divides; 1: any size goes.
        mean, std: what the backbone's ImageNet weights were trained with.
    """

    strides: tuple[int, ...] = (4, 8, 16, 32)
    channels: tuple[int, ...]
    low_reduced: int = 48
    multiple: int = 1
    mean: Statistics = IMAGENET_MEAN
    std: Statistics = IMAGENET_STD

    def forward(self, x: Tensor) -> list[Tensor]:
        raise NotImplementedError

    def unreached(self, levels: Collection[int]) -> tuple[str, ...]:
        """Names of the parameters that these features do not depend on."""
        return ()
