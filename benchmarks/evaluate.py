"""How fast an image is evaluated, against the published evaluator re-enacted: python benchmarks/evaluate.py --json FILE

The published evaluation (its schedule written anew here, on the same network): the photo as a NumPy array is scaled by
OpenCV, padded, cut into windows of the training crop with a stride of 2/3; every window is normalised in NumPy, goes
through the network alone, and once more mirrored where flip is asked for; logits are added up on the device, brought to
the CPU, scaled back by OpenCV, added to a float64 array (H,W,K), and NumPy takes the argmax. Ours is `mgd.infer`.

Both score the same random photo of 2048x1024 with the same weights, 19 classes, crop 800, in turn; the figures are
medians over the pairs of published time / our time, in CPU time. "slide" holds ours with sliding windows against the
published evaluator, "whole" ours on the whole image against the same, "whole_of_whole" against the published schedule
in whole-image mode. "differing" is the share of pixels with another label, "clearly" of those whose two best scores
are more than 1e-3 apart: ties aside there are none.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor

from mgd.config import Evaluate
from mgd.files import write_json
from mgd.infer import predict_labels, predict_scores
from mgd.models import build_model
from mgd.models.folding import for_inference
from mgd.models.normalise import IMAGENET_MEAN, IMAGENET_STD

CLASSES = 19
T = TypeVar("T")


def normalised(window: np.ndarray) -> Tensor:
    """(H,W,3) uint8 -> (1,3,H,W)."""
    pixels = (window.astype(np.float32) / 255.0 - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]


def forward(network: torch.nn.Module, window: np.ndarray, flip: bool) -> Tensor:
    pixels = normalised(window)
    scores = network(pixels)[0]
    return scores + network(pixels.flip(-1))[0].flip(-1) if flip else scores


@torch.no_grad()
def published(network: torch.nn.Module, photo: np.ndarray, how: Evaluate) -> np.ndarray:
    """The label map (H,W); photos larger than the window."""
    height, width = photo.shape[:2]
    total = np.zeros((height, width, CLASSES))
    for scale in how.scales:
        scaled = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
        rows, columns = scaled.shape[:2]
        if how.mode == "whole":
            scores = forward(network, scaled, how.flip)
        else:
            crop, step = how.crop_size, math.ceil(how.crop_size * how.stride)
            scores = torch.zeros(CLASSES, rows, columns)
            for i in range(math.ceil((rows - crop) / step) + 1):
                for j in range(math.ceil((columns - crop) / step) + 1):
                    top, left = min(i * step, rows - crop), min(j * step, columns - crop)
                    window = scaled[top : top + crop, left : left + crop]
                    scores[:, top : top + crop, left : left + crop] += forward(network, window, how.flip)
        total += cv2.resize(scores.permute(1, 2, 0).numpy(), (width, height), interpolation=cv2.INTER_LINEAR)
    return total.argmax(2)


def timed(function: Callable[[], T]) -> tuple[float, T]:
    """(CPU time, what the function returns)."""
    start = time.process_time()
    found = function()
    return time.process_time() - start, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the ratios here")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 2048), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--crop", type=int, default=800)
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(options.threads)
    torch.manual_seed(0)
    network = build_model(options.backbone, CLASSES, channels=options.channels, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    network.eval()
    photo = np.random.default_rng(0).integers(0, 256, (*options.size, 3), dtype=np.uint8)
    photo = cv2.GaussianBlur(photo, (0, 0), 4)
    image = torch.from_numpy(photo).permute(2, 0, 1)
    slide = Evaluate(crop_size=options.crop, precision=options.precision)
    whole = Evaluate(mode="whole", precision=options.precision)
    fast = for_inference(network)  # once for a whole list
    ratios: dict[str, list[float]] = {"slide": [], "whole": [], "whole_of_whole": []}
    for _ in range(options.pairs):
        theirs = {how.mode: timed(lambda how=how: published(network, photo, how)) for how in (slide, whole)}
        ours = {how.mode: timed(lambda how=how: predict_labels(fast, image, how)) for how in (slide, whole)}
        ratios["slide"].append(theirs["slide"][0] / ours["slide"][0])
        ratios["whole"].append(theirs["slide"][0] / ours["whole"][0])
        ratios["whole_of_whole"].append(theirs["whole"][0] / ours["whole"][0])
    found = {name: round(statistics.median(values), 2) for name, values in ratios.items()}
    other = ours["slide"][1] != torch.from_numpy(theirs["slide"][1])
    found["differing"] = found["clearly"] = float(other.float().mean())
    if found["differing"]:  # the scores are computed for no other purpose
        best = predict_scores(fast, image, slide).topk(2, dim=0).values
        found["clearly"] = float((other & (best[0] - best[1] > 1e-3)).float().mean())
    print("times as fast as the published evaluator, medians of", options.pairs)
    for name, value in found.items():
        print(f"{name:<15} {value:.6g}")
    if options.json:
        write_json(options.json, found)


if __name__ == "__main__":
    main()
