"""Segmentation networks: the paper's, and light or other heads on any backbone of timm."""

from mgd.models.network import SegmentationNetwork, build_model

DeepLabV3Plus = SegmentationNetwork  # what code calls it that was written before there were other heads

__all__ = ["DeepLabV3Plus", "SegmentationNetwork", "build_model"]
