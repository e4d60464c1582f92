"""Which models of timm work as a backbone, and at which output stride: writes the table of docs/backbones.md.

    python benchmarks/backbones.py [NAME ...]

Each is built with random weights and runs forward, backward and the region-level loss on two images of 97x129.
"""

import sys
import warnings
from pathlib import Path

import torch

from mgd.errors import UserError
from mgd.losses import region_level_loss
from mgd.models import build_model

NAMES = (
    *("mobilenetv3_small_100", "mobilenetv3_large_100", "mobilenetv4_conv_small", "mobilenetv4_hybrid_medium"),
    *("tf_efficientnet_lite0", "convnext_tiny", "convnext_tiny.dinov3_lvd1689m", "fastvit_t8", "repvit_m1"),
    *("edgenext_small", "efficientvit_b0", "mambaout_femto", "pvt_v2_b0", "swin_tiny_patch4_window7_224"),
    *("swinv2_tiny_window8_256", "maxvit_tiny_tf_224", "hrnet_w18_small", "vit_tiny_patch16_224"),
    *("vit_small_patch14_dinov2", "vit_small_patch16_dinov3", "eva02_small_patch14_224"),
    *("levit_128s", "beit_base_patch16_224", "hiera_tiny_224"),
)
PAGE = Path(__file__).resolve().parent.parent / "docs/backbones.md"
START, END = "<!-- table: python benchmarks/backbones.py -->", "<!-- end -->"
HEADER = ("`timm:` name", "head", "strides", "sides", "mean", "frozen", "forward, backward, region loss")


def row(name: str) -> tuple[str, ...]:
    """What one model does."""
    torch.manual_seed(0)
    try:
        plain = build_model(f"timm:{name}", 5, head="linear").backbone
        head = "linear" if len(set(plain.strides)) == 1 else "separable"
        network = build_model(f"timm:{name}", 5, head=head)
    except UserError as error:
        return (f"`{name}`", "-", "-", "-", "-", "-", str(error))
    images = torch.randn(2, 3, 97, 129)
    feature = network.feature(images)
    logits = network.logits(feature, (97, 129))
    loss = logits.square().mean() + region_level_loss(feature, torch.randn(2, 8, 25, 33))
    loss.backward()
    trained = [p for p in network.parameters() if p.requires_grad]
    works = logits.shape == (2, 5, 97, 129) and all(p.grad is not None and p.grad.isfinite().all() for p in trained)
    sides = "any" if plain.multiple == 1 else f"padded to {plain.multiple}n"
    mean = ", ".join(f"{value:.3g}" for value in network.mean)
    strides = ", ".join(map(str, plain.strides))
    return (f"`{name}`", head, strides, sides, mean, str(len(network.unreached)), "yes" if works else "**no**")


def main(names: list[str]) -> None:
    """Print the table; with the whole list also write it into the page."""
    warnings.filterwarnings("ignore")
    rows = [HEADER, ("---",) * len(HEADER), *(row(name) for name in names or NAMES)]
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in rows)
    print(table)
    if not names:
        before, _, rest = PAGE.read_text().partition(START)
        PAGE.write_text(f"{before}{START}\n{table}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main(sys.argv[1:])
