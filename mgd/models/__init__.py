"""Segmentation networks: the paper's, and light or other heads on any backbone of timm.

parts        backbone (what each is), backbones (by name), timm_backbone, pretrained (weights); heads, coarse_context
whole        network (backbone, head, classifier), normalise (uint8 photos with its own statistics)
inference    folding (copies with batch norm folded), photo (photos in, label maps out)
"""

from mgd.models.network import SegmentationNetwork, build_model

DeepLabV3Plus = SegmentationNetwork  # what code calls it that was written before there were other heads

__all__ = ["DeepLabV3Plus", "SegmentationNetwork", "build_model"]
