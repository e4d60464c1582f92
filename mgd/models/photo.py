"""A network with all around it inside: uint8 photos (N,H,W,3) in, label maps (N,H,W) out."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Output = Literal["labels", "logits", "labels+confidence"]
NAMES: dict[str, tuple[str, ...]] = {  # of what comes out
    "labels": ("label",),
    "logits": ("logits",),
    "labels+confidence": ("label", "confidence"),
}


def shrunk_size(size: Any, short_side: int) -> Any:
    """(height, width), numbers or a tracer's symbols, shrunk as `mgd.data.transforms.shrink` does; 0: as it is."""
    if not short_side:
        return size
    shortest = torch.sym_min(*size)
    side = torch.sym_min(shortest, short_side)
    # Rounded as Python's round does, a half to the even number, in the arithmetic that a tracer has.
    scaled = [length * side for length in size]
    return tuple((2 * one + shortest - 1 + one // shortest % 2) // (2 * shortest) for one in scaled)


class PhotoGraph(nn.Module):
    """Shrinking to the network's size, normalisation, upsampling and argmax around a network.

    Photos are shrunk to `short_side` (0: never) as they are for training, but by bilinear interpolation with
    antialiasing, which every runtime has.

    Args:
        network: normalised images (N,3,H,W) -> logits (N,K,H,W), with its own `mean` and `std`.
        output: what comes out; `NAMES` has the tensors' names.
    """

    def __init__(self, network: Any, *, short_side: int = 0, output: Output = "labels") -> None:
        super().__init__()
        self.network, self.short_side, self.output = network, short_side, output
        mean, std = (torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1) for v in (network.mean, network.std))
        device = next((p.device for p in network.parameters()), None)
        self.register_buffer("scale", (1 / (255 * std)).float().to(device))
        self.register_buffer("shift", (-mean / std).float().to(device))

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """uint8 RGB (N,H,W,3) -> label uint8 (N,H,W); or logits float32 (N,K,H,W); or (label, confidence 0..1)."""
        own_size: Any = (image.shape[1], image.shape[2])
        pixels = image.permute(0, 3, 1, 2).float()
        size = own_size
        if self.short_side:
            size = shrunk_size(own_size, self.short_side)
            pixels = F.interpolate(pixels, size=size, mode="bilinear", antialias=True)
        logits = self.network(pixels * self.get_buffer("scale") + self.get_buffer("shift")).float()
        if self.short_side:
            logits = F.interpolate(logits, size=own_size, mode="bilinear", align_corners=False)
        if self.output == "logits":
            return logits
        label = logits.argmax(dim=1).to(torch.uint8)
        return label if self.output == "labels" else (label, logits.softmax(dim=1).amax(dim=1))
