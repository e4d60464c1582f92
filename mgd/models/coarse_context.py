"""The decoder of DeepLabV3+ with its context convolved before it is upsampled: the same sums in another order."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init

from mgd.models.heads import DeepLabV3PlusHead, Head


class CoarseContextHead(Head):
    """A head (in eval mode, batch norm folded) whose first 3x3 convolution takes its context at stride 16.

    A convolution and an upsampling are both linear: conv3x3(upsample(x)) is the sum over the nine taps of
    shift(upsample(conv1x1(x))), and conv1x1 is made for a sixteenth of the pixels. Upsampling and shifting along one
    side are one matrix. At 512x512 and 256 channels the context's convolution takes 1.3 G multiply-accumulates in
    place of 9.7 G; a student with a ResNet-18 takes 34 G in place of 42.5 G.
    """

    def __init__(self, head: DeepLabV3PlusHead) -> None:
        super().__init__()
        conv = head.last_conv[0]
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(head.last_conv[1], nn.Identity)  # its batch norm is folded
        self.aspp, self.reduce, self.rest = head.aspp, head.reduce, head.last_conv[1:]
        low_channels = next(m.out_channels for m in head.reduce if isinstance(m, nn.Conv2d))
        channels = conv.in_channels - low_channels
        self.levels, self.out_channels = head.levels, conv.out_channels
        self.low = _convolution(conv.weight[:, channels:], conv.bias)
        taps = conv.weight[:, :channels].permute(3, 2, 0, 1)  # (column, row, out, in)
        self.taps = _convolution(taps.reshape(-1, channels, 1, 1), None)

    def forward(self, features: list[Tensor]) -> Tensor:
        low, high = (features[level] for level in self.levels)
        height, width = low.shape[-2:]
        return self.rest(self.low(self.reduce(low)) + self._context(self.aspp(high), height, width))

    def _context(self, context: Tensor, height: int, width: int) -> Tensor:
        """(N,C,h,w) -> (N,C',height,width), channels last: upsampled, then convolved."""
        taps, channels = self.taps(context), self.out_channels
        count, _, rows, columns = taps.shape
        across = _shifted_upsampling(columns, width, taps)
        lines = across @ taps.permute(0, 2, 3, 1).reshape(count * rows, columns * 3, 3 * channels)
        lines = lines.view(count, rows, width, 3, channels).transpose(2, 3).reshape(count, rows * 3, width * channels)
        down = _shifted_upsampling(rows, height, taps)
        return (down @ lines).view(count, height, width, channels).permute(0, 3, 1, 2)


def _convolution(weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """A convolution with this weight that keeps the image's size; it draws no random numbers."""
    outs, ins, side, _ = weight.shape
    conv = skip_init(nn.Conv2d, ins, outs, side, padding=side // 2, bias=bias is not None)
    conv.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    conv.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)
    return conv


def _shifted_upsampling(short: int, long: int, like: Tensor) -> Tensor:
    """(long, short * 3): row i holds, for taps -1, 0, 1, how pixel i + tap of the upsampled side is interpolated.

    Bilinear, `align_corners=True`; zeros beyond the border, as a convolution pads.
    """
    identity = torch.eye(short, device=like.device)[None]
    weights = F.interpolate(identity, size=long, mode="linear", align_corners=True)[0].T
    padded = F.pad(weights, (0, 0, 1, 1))
    shifted = torch.stack([padded[tap : tap + long] for tap in range(3)], dim=2)
    return shifted.reshape(long, 3 * short).to(like.dtype)
