"""Segmentation networks: the paper's, and light or other heads on any backbone of timm."""

from mgd.models.deeplab import DeepLabV3Plus, build_model

__all__ = ["DeepLabV3Plus", "build_model"]
