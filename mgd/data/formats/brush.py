"""Label Studio's run-length code of brush strokes: the RGBA picture of the strokes, packed as thi.ng's rle-pack.

https://github.com/thi-ng/umbrella/tree/develop/packages/rle-pack. Bits, highest first: 32 how many values, 5 the bits
of a value less 1, four times 4 the bits of a length less 1. Then pieces: 1 whether it is a run, 2 which of the lengths,
the length less 1, and one value for a run, else as many values as it is long.
"""

from collections.abc import Sequence

import numpy as np

from mgd.errors import UserError

LENGTHS = (3, 4, 8, 16)  # bits of a length, as Label Studio writes them
OPAQUE = 128  # strokes have soft edges; from half on a pixel belongs to one


def decode(code: Sequence[int], size: tuple[int, int], *, what: str) -> np.ndarray:
    """(H,W) bool: where the strokes are opaque. Raises UserError when the code is broken or of another size."""
    height, width = size
    try:
        values = _unpack(np.asarray(code, np.uint8))
        return values.reshape(height, width, 4)[..., 3] >= OPAQUE
    except (ValueError, IndexError, OverflowError) as error:
        raise UserError(
            f"{what} is no brush stroke on an image of {width}x{height} ({error}); export it again"
        ) from None


def encode(mask: np.ndarray) -> list[int]:
    """(H,W) bool -> bytes: every channel is 255 where the mask is."""
    values = np.repeat(mask.ravel(), 4)
    edges = np.flatnonzero(np.diff(values, prepend=~values[:1], append=~values[-1:]))
    longest = 1 << LENGTHS[-1]
    bits = [f"{len(values):032b}", f"{7:05b}", *(f"{length - 1:04b}" for length in LENGTHS)]
    for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        for first in range(start, stop, longest):
            length = min(longest, stop - first)
            which = next(i for i, bits_of in enumerate(LENGTHS) if length <= 1 << bits_of)
            bits.append(f"1{which:02b}{length - 1:0{LENGTHS[which]}b}{255 * values[start]:08b}")
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))


def _unpack(code: np.ndarray) -> np.ndarray:
    """The values, uint8. Raises ValueError or IndexError when the code ends too soon."""
    bits = np.unpackbits(code)
    text = (bits + ord("0")).tobytes().decode()

    def number(start: int, count: int) -> int:
        return int(text[start : start + count], 2)

    total, word = number(0, 32), number(32, 5) + 1
    lengths = [number(37 + 4 * i, 4) + 1 for i in range(4)]
    if word != 8:
        raise ValueError(f"values of {word} bits, expected 8")
    pieces, found, at = list[np.ndarray](), 0, 53
    while found < total:
        run, which = text[at] == "1", number(at + 1, 2)
        length = number(at + 3, lengths[which]) + 1
        at += 3 + lengths[which]
        count = 1 if run else length
        if at + 8 * count > len(bits):
            raise ValueError("it ends too soon")
        values = np.packbits(bits[at : at + 8 * count])
        pieces.append(np.repeat(values, length) if run else values)
        at += 8 * count
        found += length
    return np.concatenate(pieces)
