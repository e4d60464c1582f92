"""Deep teacher T_D (CPS) on PASCAL VOC, 1/8 labelled: DINOv2's ViT-S with the linear head.

Paper:   not in it; partition 1/8 (1,323 of 10,582 images with labels); AdamW as UniMatch V2 sets it
Cost:    39,338 iterations (9,259 unlabelled // 8 = 1,157 an epoch, 34 epochs)
Score:   not yet measured with this code
Command: bash script.sh
"""

from dataclasses import replace

from mgd.config import Experiment, Model
from mgd.published import VOC, VOC_CPS, VOC_TRAIN

config = Experiment(
    data=replace(VOC, partition=8, crop_size=518),  # 37 patches of 14 pixels
    model=Model(backbone="timm:vit_small_patch14_dinov2", head="linear"),
    method=VOC_CPS,
    train=replace(VOC_TRAIN, optimizer="adamw", lr=5e-6, head_lr=40.0, weight_decay=0.01),
)
