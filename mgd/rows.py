"""Bilinear resizing of an image's rows as they are asked for, so that the whole is never held."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class Resized:
    """Rows of `source` (anything with `size` and `rows`) in another size: those of `F.interpolate`, up to rounding.

    Args:
        size: height and width.
        align_corners: as in `F.interpolate`; False is also what OpenCV does.
    """

    def __init__(self, source: Any, size: tuple[int, int], *, align_corners: bool = False) -> None:
        self.source, self.size, self.align_corners = source, size, align_corners

    def rows(self, start: int, stop: int) -> Tensor:
        """(K, stop - start, width)."""
        height, last = self.size[0], self.source.size[0] - 1
        wanted = torch.arange(start, stop, dtype=torch.float64)
        if self.align_corners:
            place = wanted * (last / max(1, height - 1))
        else:
            place = ((wanted + 0.5) * ((last + 1) / height) - 0.5).clamp(0, last)
        above = place.floor().long().clamp(max=last)
        below = (above + 1).clamp(max=last)
        first = int(above[0])
        source = self.source.rows(first, int(below[-1]) + 1)
        across = F.interpolate(
            source[None],
            size=(source.shape[1], self.size[1]),
            mode="bilinear",
            align_corners=self.align_corners,
        )[0]
        share = (place - above).to(across).view(1, -1, 1)
        upper, lower = (across.index_select(1, (row - first).to(across.device)) for row in (above, below))
        return torch.lerp(upper, lower, share)
