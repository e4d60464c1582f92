"""Cityscapes from the downloaded archives: flat folders, trainIds, lists."""

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from mgd.data.classes import BUILT_IN
from mgd.data.images import load_label, read_indices
from mgd.data.prepare.jobs import Job, find, need_folder, run_jobs, summary, write_partitions
from mgd.errors import UserError, first_few
from mgd.files import link, read_text, write_lines, write_png
from mgd.metrics import IGNORE_INDEX

# The labels of cityscapesScripts in the order of their ids, 0 to 33; a trainId is a place among the 19 classes.
LABELS = (
    *("unlabeled", "ego vehicle", "rectification border", "out of roi", "static", "dynamic", "ground", "road"),
    *("sidewalk", "parking", "rail track", "building", "wall", "fence", "guard rail", "bridge", "tunnel", "pole"),
    *("polegroup", "traffic light", "traffic sign", "vegetation", "terrain", "sky", "person", "rider", "car"),
    *("truck", "bus", "caravan", "trailer", "train", "motorcycle", "bicycle"),
)
NOT_DRAWN = ("license plate", "deleted")  # of the polygons: the first has id -1, the second was taken back
TRAIN_IDS = {name: i for i, name in enumerate(BUILT_IN["city"].names)}
OF_ID = np.full(256, IGNORE_INDEX, np.uint8)
OF_ID[: len(LABELS)] = [TRAIN_IDS.get(name, IGNORE_INDEX) for name in LABELS]
COUNTS = {"train": 2975, "val": 500, "test": 1525}
LABELED = ("train", "val")  # the test images' labels are not public
IMAGE = "_leftImg8bit.png"
IDS, TRAIN_IDS_DRAWN, POLYGONS = "_gtFine_labelIds.png", "_gtFine_labelTrainIds.png", "_gtFine_polygons.json"


def prepare_city(images: Path, labels: Path, out: Path) -> str:
    """Make DATA/city: labels from the labelIds, else the labelTrainIds, else drawn from the polygons.

    The test images, whose labels are not public, and those of train_extra, when they are there, get lists of images
    alone: `data.unlabeled=config_new/train_extra.txt` adds the latter to the unlabelled part.

    Args:
        images: leftImg8bit, with train, val and test. labels: gtFine.

    Returns:
        What was made, against the published counts.

    Raises:
        UserError: a folder, its photos or a label is missing, a file is broken.
    """
    need_folder(images / "train", "leftImg8bit with train, val and test")
    need_folder(labels / "train", "gtFine with train and val")
    found = {part: _photos(images / part, needed=part in LABELED) for part in (*COUNTS, "train_extra")}
    jobs = [
        Job(link, photo, out / "images" / part / f"{name}.png", photo=True)
        for part, photos in found.items()
        for name, photo in photos.items()
    ]
    for part in LABELED:
        jobs += _label_jobs(found[part], labels / part, out / "segmentation" / part)
    run_jobs(jobs, "Cityscapes")
    lists, warnings = out / "config_new", ""
    for part, photos in found.items():
        lines = [f"/images/{part}/{name}.png" for name in photos]
        if part in LABELED:
            lines = [f"/images/{part}/{name}.png\t/segmentation/{part}/{name}_gtFine.png" for name in photos]
        if photos:
            write_lines(lists / f"{part}.txt", lines)
        if part == "train":
            warnings = write_partitions(lists / "subset_train" / "train_aug_{part}_1-{ratio}.txt", lines)
    counts = {f"{part} images": (len(photos), COUNTS.get(part)) for part, photos in found.items() if photos}
    return summary(out, counts, warnings)


def _photos(folder: Path, *, needed: bool) -> dict[str, Path]:
    """Name (aachen_000000_000019) -> file, sorted; empty where none is there and none is needed."""
    try:
        photos = find(folder, f"*/*{IMAGE}", "Cityscapes' photos, a folder for each city,")
    except UserError as error:
        if not needed:
            return {}
        swapped = any(folder.glob("*/*_gtFine_*"))
        raise UserError(f"{error}{'; are --images and --labels swapped?' if swapped else ''}") from error
    return {file.name.removesuffix(IMAGE): file for file in photos}


def _label_jobs(photos: dict[str, Path], labels: Path, out: Path) -> list[Job]:
    """How to make every photo's label from the first kind of file that is there."""
    kinds = {IDS: _from_ids, TRAIN_IDS_DRAWN: _from_train_ids, POLYGONS: _from_polygons}
    jobs, bare = [], []
    for name, photo in photos.items():
        files = {labels / photo.parent.name / f"{name}{kind}": make for kind, make in kinds.items()}
        file = next((file for file in files if file.is_file()), None)
        if file is None:
            bare.append(name)
        else:
            jobs.append(Job(files[file], file, out / f"{name}_gtFine.png"))
    if bare:
        looked = ", ".join(f"*/NAME{kind}" for kind in kinds)
        raise UserError(
            f"{labels.absolute()} has no label of {len(bare):,} photos: {first_few(bare)}; looked for {looked}"
        )
    return jobs


def _from_train_ids(source: Path, target: Path) -> None:
    write_png(target, load_label(source, len(BUILT_IN["city"])))


def _from_ids(source: Path, target: Path) -> None:
    write_png(target, OF_ID[read_indices(source)])


def _from_polygons(source: Path, target: Path) -> None:
    try:
        content = json.loads(read_text(source))
        label = Image.new("L", (content["imgWidth"], content["imgHeight"]), IGNORE_INDEX)
        pen = ImageDraw.Draw(label)
        for number, thing in enumerate(content["objects"]):
            if (name := thing["label"]) not in NOT_DRAWN and not thing.get("deleted"):
                if len(thing["polygon"]) < 2:
                    told = f"object {number} ({name}) has {len(thing['polygon'])} points"
                    raise UserError(f"{source}: {told}, expected 3 or more; correct or remove it")
                single = name if name in LABELS else name.removesuffix("group")
                pen.polygon([tuple(point) for point in thing["polygon"]], fill=TRAIN_IDS.get(single, IGNORE_INDEX))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{source} holds no Cityscapes polygons ({error!r}); unpack it again") from error
    write_png(target, np.asarray(label))
