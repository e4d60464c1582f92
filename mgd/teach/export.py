"""What stored teachers say of every photo as PNG files: a person's pre-annotations."""

from pathlib import Path

from PIL import Image

from mgd.config import Experiment
from mgd.data.datasets import Splits
from mgd.data.images import load_image
from mgd.data.maps import Maps
from mgd.data.transforms import resize
from mgd.files import atomic
from mgd.progress import Progress


def export(config: Experiment, splits: Splits, maps: Maps, folder: Path) -> int:
    """Write what the teachers say as a person's pre-annotations; returns how many photos.

    Of each teacher `<folder>/<teacher>/labels/<photo>.png`, class indices with the classes' colours as palette, and
    `<folder>/<teacher>/confidence/<photo>.png`, grey, 255 where it is certain; both of the photo's own size.
    """
    teachers = [kind.name.removesuffix(".label") for kind in maps.kinds if kind.name.endswith(".label")]
    palette = splits.classes.palette().tobytes()
    for index, name in enumerate(Progress(maps.contents.photos, unit="photo", desc="export", disable=None)):
        photo = maps.photo(index)
        height, width = photo.height, photo.width
        if config.data.short_side:
            height, width = load_image(Path(config.data.root) / name).shape[:2]
        for teacher in teachers:
            label = Image.fromarray(resize(maps.full(index, f"{teacher}.label"), height, width, nearest=True))
            label.putpalette(palette)
            confidence = Image.fromarray(resize(maps.full(index, f"{teacher}.confidence"), height, width))
            for what, image in (("labels", label), ("confidence", confidence)):
                path = folder / teacher / what / Path(name.lstrip("/")).with_suffix(".png")
                with atomic(path) as file:
                    image.save(file, format="PNG")
    return len(maps.contents.photos)
