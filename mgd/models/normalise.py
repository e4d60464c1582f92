"""What every network does with uint8 photos: normalise them by its own mean and standard deviation; predict one."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mgd.data.images import load_image
from mgd.errors import UserError
from mgd.models.any_size import any_size
from mgd.models.photo import PhotoGraph

Statistics = tuple[float, float, float]  # RGB, of pixels scaled to 0..1

IMAGENET_MEAN: Statistics = (0.485, 0.456, 0.406)
IMAGENET_STD: Statistics = (0.229, 0.224, 0.225)


class NormalisingNetwork(nn.Module):
    """A network that knows the statistics that its images are normalised with.

    Attributes:
        mean, std: three numbers each, RGB, of pixels scaled to 0..1.
        short_side: what photos are shrunk to before it sees them, as in its training; 0: their own size.
    """

    mean: Statistics = IMAGENET_MEAN
    std: Statistics = IMAGENET_STD
    short_side: int = 0

    @torch.inference_mode()
    def predict(self, photo: str | Path | np.ndarray) -> np.ndarray:
        """Label map uint8 (H,W) of a photo: a file, or RGB uint8 (H,W,3). The whole image at once, in eval mode.

        Raises:
            UserError: the file is missing, broken, or has more than 8 bits a channel; the array is of another kind.
        """
        pixels = load_image(Path(photo)) if isinstance(photo, (str, Path)) else np.asarray(photo)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
            raise UserError(f"a photo must be RGB uint8 (H,W,3), found {pixels.dtype} {pixels.shape}; convert it")
        graph = PhotoGraph(self, short_side=self.short_side)
        was_training = self.training
        graph.eval()
        batch = torch.from_numpy(np.require(pixels, requirements=["C", "W"]))[None].to(graph.get_buffer("scale").device)
        with any_size(batch.device):
            label = graph(batch)[0].cpu().numpy()
        self.train(was_training)
        return label

    def normalise(self, image: Tensor, valid: Tensor | None = None) -> Tensor:
        """uint8 RGB (N,3,H,W) -> float32 as the network wants it; 0 where `valid` (N,H,W) is False (crop padding)."""
        return normalise(image, valid, mean=self.mean, std=self.std)


def normalise(image: Tensor, valid: Tensor | None = None, *, mean: Statistics, std: Statistics) -> Tensor:
    """uint8 RGB (N,3,H,W) -> float32, (x / 255 - mean) / std; 0 where `valid` (N,H,W) is False.

    Raises:
        UserError: other values than uint8, such as 0..1.
    """
    if image.dtype != torch.uint8:
        raise UserError(f"photos must be uint8, 0..255, found {image.dtype}; they are scaled here")
    scale, shift = _constants(image.device, mean, std)
    out = image.float() * scale + shift
    return out if valid is None else out * valid[:, None]


@lru_cache
def _constants(device: torch.device, mean: Statistics, std: Statistics) -> tuple[Tensor, Tensor]:
    """1 / (255 std) and -mean / std, (1,3,1,1): made once for each device, since the copy would wait for it."""
    m, s = (torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1) for values in (mean, std))
    return (1 / (255 * s)).float().to(device), (-m / s).float().to(device)
