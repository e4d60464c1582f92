"""DeepLabV3+ on the paper's four backbones or any of timm's."""

from mgd.models.deeplab import DeepLabV3Plus, build_model

__all__ = ["DeepLabV3Plus", "build_model"]
