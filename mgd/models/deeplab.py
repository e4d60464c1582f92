"""Names that modules outside this folder still import; gone as soon as they import mgd.models.network."""

from mgd.models.network import SegmentationNetwork as DeepLabV3Plus
from mgd.models.network import build_model

__all__ = ["DeepLabV3Plus", "build_model"]
