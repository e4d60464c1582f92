"""Training samples of ours against the published loader and against bare decoding: python benchmarks/loader.py

Photos of VOC's size (500x375 JPEG, crop 512) and of Cityscapes' (2048x1024 PNG, crop 800) are made; a sample is a
labelled photo and an unlabelled pair. The published loader is re-enacted from the behaviour of its released code:
Pillow decodes, OpenCV resizes the whole photo, it is normalised in float, padded, cropped and transposed, the label's
edges are detected (and thrown away), and the list of an epoch is built anew for every item. Bare decoding is OpenCV's
imread of as many files as a sample of ours takes; packed is ours from the store of `mgd pack`, in the page cache.

of_published: how many times as fast as the published loader; of_decoding: as a share of bare decoding's speed; packed:
how many times as fast as the published loader. All are of CPU time: of every sample the least of the rounds, since on a
busy machine whoever had the core in between leaves cold caches. In each round each loader has a process of its own, set
up as its workers are; the four take turns.
"""

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from mgd.config import CPS, Data, Experiment, Model
from mgd.data.datasets import Item, open_splits
from mgd.data.loaders import spare_time
from mgd.data.pack import open_pack
from mgd.data.packing import pack
from mgd.data.samples import TrainingSamples
from mgd.files import write_json

SETS = {
    "voc": ((375, 500), 512, "jpg", 5),
    "city": ((1024, 2048), 800, "png", 1),
}  # the last: how many times the samples
PHOTOS = 16
OURS = ("ours", "packed")
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def made_photos(root: Path, size: tuple[int, int], suffix: str, count: int) -> None:
    """Photos with edges and grain, and label maps with areas; the first quarter is labelled."""
    rng = np.random.default_rng(0)
    (root / "photos").mkdir(parents=True)
    lines = []
    for i in range(count):
        coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        photo = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC).astype(np.int16)
        photo = (photo + rng.integers(-3, 4, photo.shape)).clip(0, 255).astype(np.uint8)
        label = cv2.resize(rng.integers(0, 19, (12, 16), dtype=np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(root / f"photos/{i}.{suffix}"), photo)
        cv2.imwrite(str(root / f"photos/{i}_label.png"), label)
        lines.append(f"photos/{i}.{suffix}\tphotos/{i}_label.png\n")
    for name in ("train.txt", "val.txt"):
        (root / name).write_text("".join(lines))


def published(item: Item, names: list[str], crop: int, rng: np.random.Generator) -> np.ndarray:
    """One photo with its label, as the released code's `__getitem__` treats it."""
    sorted(names * 2)  # the list of an epoch, for one item
    image = np.array(Image.open(item.image).convert("RGB"))
    assert item.label is not None
    label = np.array(Image.open(item.label))
    cv2.dilate(cv2.Canny(label.astype(np.uint8), 5, 5), np.ones((3, 3)))
    if rng.random() >= 0.5:
        image, label = cv2.flip(image, 1), cv2.flip(label, 1)
    scale = rng.choice([0.5, 0.75, 1, 1.5, 1.75, 2.0])
    size = (int(image.shape[1] * scale), int(image.shape[0] * scale))
    image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    label = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST)
    normal = (image.astype(np.float32) / 255.0 - MEAN) / STD
    top, left = (int(rng.integers(max(0, side - crop) + 1)) for side in image.shape[:2])
    part, target = normal[top : top + crop, left : left + crop], label[top : top + crop, left : left + crop]
    missing = [crop - side for side in part.shape[:2]]
    pads = [(gap // 2, gap - gap // 2) for gap in missing]
    np.pad(target, pads, constant_values=255).astype(np.int64)
    return np.ascontiguousarray(np.pad(part, [*pads, (0, 0)]).transpose(2, 0, 1)).astype(np.float32)


def seconds(name: str, work: Callable[[int], object], count: int) -> np.ndarray:
    """(count,) CPU time of each sample, in a process of its own."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=measure, args=(name, work, count, sender))
    process.start()
    sender.close()  # else nobody would tell that it died
    found: np.ndarray = receiver.recv()
    process.join()
    return found


def measure(name: str, work: Callable[[int], object], count: int, sender: Connection) -> None:
    if name in OURS:
        spare_time()
    for position in range(PHOTOS // 4):  # what the first ones set up
        work(position)
    times = [time.process_time()]
    for position in range(count):
        work(position)
        times.append(time.process_time())
    sender.send(np.diff(times))


def works_of(root: Path, crop: int) -> dict[str, Callable[[int], object]]:
    """Loader -> what makes the sample of a position."""
    data = Data(root=str(root), classes="city", partition=4, crop_size=crop, partner="independent")
    config, splits = Experiment(data=data, model=Model(backbone="resnet18"), method=CPS()), open_splits(data)
    pack(data, splits)
    items = [
        Item(item.name, item.image, item.image.with_name(f"{item.image.stem}_label.png"))
        for item in (*splits.labeled, *splits.unlabeled)
    ]
    names = [str(item.image) for item in items]

    def theirs(position: int) -> None:
        rng = np.random.default_rng(position)
        for i in range(3):
            published(items[(position + i) % len(items)], names, crop, rng)

    def bare(position: int) -> None:
        for i in range(3):
            cv2.imread(str(items[(position + i) % len(items)].image))
        cv2.imread(str(items[position % len(items)].label), cv2.IMREAD_UNCHANGED)

    return {
        "ours": TrainingSamples(splits, config).__getitem__,
        "packed": TrainingSamples(splits, config, pack=open_pack(data, splits)).__getitem__,
        "published": theirs,
        "decoding": bare,
    }


def ratios(name: str, count: int, rounds: int) -> dict[str, float]:
    size, crop, suffix, times = SETS[name]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        made_photos(root, size, suffix, PHOTOS)
        works = works_of(root, crop)
        found = [{key: seconds(key, work, count * times) for key, work in works.items()} for _ in range(rounds)]
    each = {key: float(np.min([one[key] for one in found], axis=0).mean()) for key in works}
    for key, value in each.items():
        print(f"{name:<5} {key:<10} {1000 * value:8.1f} ms a sample")
    return {
        "of_published": each["published"] / each["ours"],
        "of_decoding": each["decoding"] / each["ours"],
        "packed": each["published"] / each["packed"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", type=int, default=8, help="in a round; of VOC five times as many")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    found = {name: ratios(name, options.samples, options.rounds) for name in SETS}
    for name, values in found.items():
        print(name, ", ".join(f"{key} {value:.2f}" for key, value in values.items()))
    if options.json:
        write_json(options.json, found)


if __name__ == "__main__":
    main()
