"""Segmentation networks: the paper's, and light or other heads on any backbone of timm.

parts        backbone (what each is), backbones (by name), timm_backbone, pretrained (weights); heads, coarse_context
whole        network (backbone, head, classifier), normalise (uint8 photos with its own statistics)
inference    folding (copies with batch norm folded), any_size (on a GPU), photo (photos in, label maps out)
"""

from mgd.models.network import SegmentationNetwork, build_model

__all__ = ["SegmentationNetwork", "build_model"]
