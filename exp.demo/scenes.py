"""Draw a synthetic street-and-park segmentation set in PASCAL VOC layout, so that a demo needs no download.

python exp.demo/scenes.py DATA/scenes --val 96
"""

import argparse
import json
import sys
from pathlib import Path

import cv2
import numpy as np
from scenery import (
    CLASSES,
    CLOUDS,
    INDEX,
    KINDS,
    LEAVES,
    SKIES,
    SOILS,
    Pen,
    Scene,
    choose,
    noise,
)

from mgd.data.classes import write_classes
from mgd.errors import UserError
from mgd.files import write_bytes, write_json, write_lines, write_png

SPLITS = ("train_aug", "val")
PREFIX = "scene_"
DRAWING = 3  # raise it when drawing or naming changes: folders made the old way are then refused, not mixed in

BACKDROPS = ((), ("building",), ("tree",), ("building", "tree"))
FOREGROUND = ("building", "tree", *2 * ("tree", "car", "person", "animal", "sign"))


def background(rng: np.random.Generator, height: int, width: int) -> Scene:
    """Start a scene: sky with clouds over hilly ground that is meadow, sand, snow, road or paving."""
    image, label = np.zeros((height, width, 3), np.float32), np.zeros((height, width), np.uint8)
    horizon, sun = height * rng.uniform(0.25, 0.55), rng.uniform(-1, 1)
    scene = Scene(image, label, rng, horizon, sun, fog=rng.uniform(0, 0.3) ** 1.5, air=np.zeros(3, np.float32))
    rows = np.arange(height, dtype=np.float32)[:, None, None]
    image[:] = scene.colour(SKIES) + (scene.colour(SKIES) - scene.colour(SKIES)) * 0.7 * (1 - rows / horizon).clip(0)
    cloud = noise(rng, label.shape, height * rng.uniform(0.1, 0.4))[..., None] - rng.uniform(0.2, 0.9)
    image[:] += (scene.colour(CLOUDS) - image) * cloud.clip(0, 0.35) * 2
    scene.air[:] = image[int(horizon)].mean(axis=0)

    hills = noise(rng, (1, width), width * rng.uniform(0.1, 0.5)) * height * rng.uniform(0, 0.1)
    ground = rows[..., 0] >= horizon - hills
    near = ((rows[..., 0] - horizon) / (height - horizon)).clip(0.04)  # 0 at the horizon, 1 at our feet
    across = (np.arange(width) - width * rng.uniform(0.2, 0.8)) / height / near
    meadow = scene.material(SOILS, ("grain", "cloudy", "patches", "patches"), height * rng.uniform(0.02, 0.2))
    image[ground], label[ground] = meadow.at(ground), INDEX["ground"]
    if rng.random() < 0.5:
        road = ground & (np.abs(across + rng.uniform(-0.3, 0.3) / near) < rng.uniform(0.4, 1.0))
        image[road] = scene.material(SOILS[:2] + SOILS[4:6], ("cloudy", "grain"), 4).at(road)
        image[ground & (np.abs(across) < 0.04) & ((2 / near).astype(int) % 2 == 0)] = scene.colour(CLOUDS)
    elif rng.random() < 0.4:
        tiles = ground & (((across * 3).astype(int) + (3 / near).astype(int)) % 2 == 0)
        image[tiles] *= rng.uniform(0.75, 0.95)
    litter = ground & (noise(rng, label.shape, height * 0.03) > rng.uniform(0.95, 1.3))
    image[litter] = scene.colour(LEAVES + CLOUDS)  # leaves, stones or puddles: still ground
    return scene


def place(scene: Scene, name: str, depth: float, u: float) -> None:
    """Draw one object with its shadow, larger and lower in the picture the nearer it is."""
    (draw, heights, _), (height, width) = KINDS[name], scene.label.shape
    foot = (u * width, scene.horizon + (0.03 + 0.95 * depth) * (height - scene.horizon))
    size = height * (0.5 + 0.7 * depth) * scene.rng.uniform(*heights)
    shadow = np.zeros_like(scene.label)
    centre = (round(foot[0] - scene.sun * 0.35 * size), round(foot[1]))
    cv2.ellipse(shadow, centre, (round(0.6 * size), max(1, round(0.07 * size))), 0, 0, 360, 1, -1)
    scene.image[(shadow == 1) & (scene.label == INDEX["ground"])] *= 0.6
    draw(Pen(scene, name, foot=foot, size=size, depth=depth))


def photograph(scene: Scene) -> np.ndarray:
    """Return the 8-bit picture under a light, a colour cast, a blur and a noise of its own."""
    rng, (height, width) = scene.rng, scene.label.shape
    rows, columns = np.mgrid[-0.5 : 0.5 : height * 1j, -0.5 : 0.5 : width * 1j]
    slope = 1 + rng.uniform(-0.4, 0.4) * rows + rng.uniform(-0.4, 0.4) * columns
    cast = rng.uniform(0.8, 1.1) * (1 + rng.uniform(-0.05, 0.05) * np.array([1, 0, -1]))
    image = scene.image * (slope[..., None] * cast).astype(np.float32)
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.8) * (height / 96) ** 0.5)
    image += rng.standard_normal(image.shape, np.float32) * rng.uniform(0.01, 0.03)
    return (image.clip(0, 1) * 255).astype(np.uint8)


def draw_scene(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an RGB picture and its label: a backdrop at the horizon and two to seven objects, drawn far to near."""
    scene = background(rng, height, width)
    backdrop = choose(rng, BACKDROPS)
    objects = [(0.0, choose(rng, backdrop)) for _ in range(int(rng.integers(2, 8))) if backdrop]
    for _ in range(int(rng.integers(2, 6))):
        name = choose(rng, FOREGROUND)
        low, high = KINDS[name][2]
        objects.append((low + (high - low) * rng.random() ** 1.2, name))
    for depth, name in sorted(objects):
        place(scene, name, depth, rng.uniform(0, 1))
    return photograph(scene), scene.label


def generate_scenes(
    out: Path | str, *, train: int = 512, val: int = 64, height: int = 96, width: int = 128, seed: int = 0
) -> None:
    """Write the set under `out`; a folder finished with the same arguments is left as it is."""
    out, counts = Path(out), dict(zip(SPLITS, (train, val), strict=True))
    wanted = {"train": train, "val": val, "height": height, "width": width, "seed": seed, "drawing": DRAWING}
    if min(train, val, seed) < 0 or min(height, width) < 32:
        raise UserError(f"scenes need 32 pixels or more a side, and counts and seed of 0 or more; found {wanted}")
    if (mark := out / "scenes.json").exists():
        if (found := json.loads(mark.read_text())) == wanted:
            return
        raise UserError(f"{out} holds scenes made with {found}, not {wanted}: delete it or choose another folder")
    lists = [out / f"{split}.txt" for split in SPLITS]
    if any(path.exists() and not path.read_text().startswith(PREFIX) for path in lists):
        raise UserError(f"{out} holds a data set that is not made of scenes: choose another folder")

    for number, (split, count) in enumerate(counts.items()):
        kind = "val_" if split == "val" else ""  # no two scenes share a name
        names = [f"{PREFIX}{kind}{index:05d}" for index in range(count)]
        for index, name in enumerate(names):
            image, label = draw_scene(np.random.default_rng([seed, number, index]), height, width)
            picture = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
            write_bytes(out / split / "image" / f"{name}.jpg", picture.tobytes())
            write_png(out / split / "label" / f"{name}.png", label)
        write_lines(out / f"{split}.txt", names)
    write_classes(out / "classes.csv", *zip(*CLASSES, strict=True))
    write_json(mark, wanted)


def main() -> int:
    """The command line; bad input is a sentence and status 2."""
    parser = argparse.ArgumentParser(description="Draw street scenes with labels: a data set that needs no download.")
    parser.add_argument("out", type=Path, help="the data set's folder")
    parser.add_argument("--train", type=int, default=512, help="training images (default 512)")
    parser.add_argument("--val", type=int, default=64, help="validation images (default 64)")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--height", type=int, default=96)
    parser.add_argument("--seed", type=int, default=0)
    options = vars(parser.parse_args())
    try:
        generate_scenes(**options)
    except UserError as error:
        print(f"scenes: {error}", file=sys.stderr)
        return 2
    print(f"{options['train']} training and {options['val']} validation scenes in {options['out']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
