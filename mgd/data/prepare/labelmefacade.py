"""LabelMeFacade: its coloured labels as indices of 8 classes."""

from pathlib import Path

import cv2
import numpy as np

from mgd.data.classes import write_classes
from mgd.data.formats.masks import color_codes
from mgd.data.prepare.jobs import Job, find, hold_out, need_folder, run_jobs, summary
from mgd.errors import UserError
from mgd.files import link, write_lines, write_png
from mgd.metrics import IGNORE_INDEX

# The data set's colours (Froehlich, Rodner and Denzler, ICPR 2010); "various" (black) is ignored.
COLORS = {
    "building": (128, 0, 0),
    "car": (128, 0, 128),
    "door": (128, 128, 0),
    "pavement": (128, 128, 128),
    "road": (128, 64, 0),
    "sky": (0, 128, 128),
    "vegetation": (0, 128, 0),
    "window": (0, 0, 128),
}
VARIOUS = (0, 0, 0)


def prepare_labelmefacade(source: Path, out: Path, *, val_every: int = 5) -> str:
    """Make DATA/facades.

    Args:
        source: the data set's repository, with images and labels.
        val_every: one photo in so many is for validation.

    Returns:
        What was made, against the published count.

    Raises:
        UserError: a folder or file is missing or broken, a label holds a colour of no class.
    """
    photos = find(need_folder(source / "images", "the photos of LabelMeFacade"), "*.jpg", "the photos")
    labels = need_folder(source / "labels", "the coloured labels of LabelMeFacade")
    names = [photo.stem for photo in photos]
    jobs = [Job(link, photo, out / "images" / photo.name, photo=True) for photo in photos]
    jobs += [Job(_convert, labels / f"{name}.png", out / "labels" / f"{name}.png") for name in names]
    run_jobs(jobs, "LabelMeFacade")
    train, val = hold_out(names, val_every)
    for part, chosen in {"train": train, "val": val}.items():
        write_lines(out / f"{part}.txt", [f"images/{name}.jpg\tlabels/{name}.png" for name in chosen])
    write_classes(out / "classes.csv", list(COLORS), list(COLORS.values()))
    counts = {"photos": (len(names), 945), "  for training": (len(train), None), "  for validation": (len(val), None)}
    return summary(out, counts)


def _convert(source: Path, target: Path) -> None:
    image = cv2.imread(str(source), cv2.IMREAD_COLOR)
    if image is None:
        raise UserError(f"{source} cannot be decoded; unpack it again")
    found = color_codes(image[..., ::-1])
    label = np.full(found.shape, IGNORE_INDEX, np.uint8)
    for index, color in enumerate(COLORS.values()):
        label[found == color_codes(color)] = index
    if (strange := (label == IGNORE_INDEX) & (found != color_codes(VARIOUS))).any():
        rgb = tuple(image[strange][0, ::-1].tolist())
        raise UserError(
            f"{source}: {strange.sum()} pixels have the colour of no class, such as {rgb}; use the data set's own PNGs"
        )
    write_png(target, label)
