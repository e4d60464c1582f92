"""COCO's instances JSON: polygons, run-length codes, crowds. A later annotation lies on top.

https://cocodataset.org/#format-data
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mgd.data.classes import Classes
from mgd.data.formats import shapes
from mgd.data.formats.export import (
    Export,
    Labelled,
    Photo,
    Photos,
    Reading,
    Region,
    Size,
    class_name,
    guess,
    need,
    part_of,
    photo_name,
    photos_of,
    read_json,
    understood,
)
from mgd.errors import UserError
from mgd.files import link, write_json

EXPECTED = "a COCO JSON with images, annotations and categories"


def read(source: Path, reading: Reading) -> Export:
    """A JSON file, or a folder with some, each of which is a part of the data set (instances_train2017.json).

    Raises:
        UserError: no such file, another format, an annotation of an unknown image or category, a photo is not found.
    """
    files = [source] if source.is_file() else sorted(need(source, EXPECTED).rglob("*.json"))
    names: list[str] = []
    photos: list[Photo] = []
    used = 0
    for file in files:
        content = read_json(file, EXPECTED)
        if file != source and not _is_coco(content):
            continue
        used += 1
        with understood(file, EXPECTED):
            categories = read_categories(file, content)
            names += [name for name in categories.values() if name not in names]
            photos += _photos(file, content, categories, reading)
    if not used:
        raise UserError(f"{source} has no such file; expected {EXPECTED}; {guess(source)}")
    return Export(tuple(names), tuple(photos), covers=False)


def read_categories(file: Path, content: dict[str, Any]) -> dict[int, str]:
    """id -> name, in the order of ids."""
    found = {int(one["id"]): class_name(one["name"], file) for one in content["categories"]}
    if len(found) < len(content["categories"]):
        raise UserError(f"{file} has two categories of one id; export it again")
    return dict(sorted(found.items()))


def images_by_id(file: Path, content: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """The entries of images. Raises UserError where two have one id, as in files that were put together."""
    found = {image["id"]: image for image in content["images"]}
    if twice := [image for image in content["images"] if found[image["id"]] is not image]:
        first, last = twice[0]["file_name"], found[twice[0]["id"]]["file_name"]
        raise UserError(f"{file} has two images of the id {twice[0]['id']}, {first} and {last}; export it again")
    return found


def open_photos(file: Path, reading: Reading) -> Photos:
    """Where the photos of a JSON file are looked for: beside it, in images/, in a folder of the split's name."""
    split = file.stem.rpartition("_")[2]  # instances_train2017 -> train2017
    bases = [file.parent, file.parent.parent] if file.parent.name == "annotations" else [file.parent]
    inner = [split, f"images/{split}", "images", "."]
    return photos_of(reading, [base / path for base in bases for path in inner], file)


def part_of_file(file: Path) -> str:
    """train, val, test, or "": by the file's name, or its folder's."""
    return part_of(file.stem) or part_of(file.parent.name)


def _is_coco(content: Any) -> bool:
    return isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys()


def _photos(file: Path, content: dict[str, Any], categories: dict[int, str], reading: Reading) -> Iterator[Photo]:
    drawn: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for thing in content["annotations"]:
        if "segments_info" in thing:
            raise UserError(f"{file} has panoptic segments; expected polygons or run-length codes; {guess(file)}")
        if thing["category_id"] not in categories:
            raise UserError(
                f"{file}: annotation {thing['id']} has the category {thing['category_id']}, which is not listed"
            )
        drawn[thing["image_id"]].append(thing)
    if lost := sorted(drawn.keys() - images_by_id(file, content).keys()):
        raise UserError(f"{file} has annotations of image {lost[0]}, which is not listed; export it again")
    photos, part = open_photos(file, reading), part_of_file(file)
    for image in content["images"]:
        things = [
            (int(one["id"]), categories[one["category_id"]], one.get("segmentation")) for one in drawn[image["id"]]
        ]
        yield Photo(
            photo_name(image["file_name"]),
            photos.find(image["file_name"]),
            file,
            partial(regions, file, things),
            (int(image["height"]), int(image["width"])),
            part,
        )


def regions(file: Path, things: Sequence[tuple[int, str, Any]], size: Size) -> Iterator[Region]:
    """Each annotation's mask, a crowd's as well: the pixels of a crowd of people are people.

    Raises:
        UserError: an annotation without a shape, or with one that does not fit the image.
    """
    for number, name, shape in things:
        what = f"{file}: annotation {number} ({name})"
        with understood(file, EXPECTED):
            if not shape:
                raise UserError(f"{what} is a box without a segmentation; draw its outline or remove it")
            if isinstance(shape, dict):
                yield name, shapes.rle(shape, size, what=what)
            else:
                if any(not isinstance(flat, list) or len(flat) % 2 for flat in shape):
                    raise UserError(f"{what} has no list of polygons, each x1, y1, x2, y2, ...; export it again")
                outlines = [list(zip(flat[::2], flat[1::2], strict=True)) for flat in shape]
                yield name, shapes.any_of(outlines, size, what=what)


def write_one(out: Path, photo: Labelled, classes: Classes) -> dict[str, Any]:
    """Link the photo; returns its name, size and masks."""
    file = f"{photo.name}{photo.image.suffix}"
    link(photo.image, out / "images" / file)
    height, width = photo.label.shape
    masks = [(name, shapes.to_rle(mask), int(mask.sum()), _box(mask)) for name, mask in photo.marked]
    return {"file_name": file, "height": height, "width": width, "masks": masks}


def write_rest(out: Path, made: Sequence[dict[str, Any]], classes: Classes) -> str:
    """Write the JSON, with a mask for each class of a photo. Returns how CVAT takes it."""
    drawn = {name for image in made for name, *_ in image["masks"]}
    names = [*classes.names, *sorted(drawn - set(classes.names))]
    images, annotations = [], list[dict[str, Any]]()
    for i, image in enumerate(made, start=1):
        images.append({"id": i, **{key: image[key] for key in ("file_name", "height", "width")}})
        for name, code, area, box in image["masks"]:
            one = {"id": len(annotations) + 1, "image_id": i, "category_id": names.index(name) + 1}
            annotations.append(one | {"segmentation": code, "area": area, "bbox": box, "iscrowd": 1})
    categories = [{"id": i, "name": name, "supercategory": ""} for i, name in enumerate(names, start=1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_json(out / "annotations" / "instances_default.json", content)
    return "a tool that reads COCO takes annotations/instances_default.json; in CVAT: Upload annotations, COCO 1.0"


def _box(mask: Any) -> list[int]:
    """x, y, width, height of a mask's extent."""
    rows, columns = mask.any(axis=1).nonzero()[0], mask.any(axis=0).nonzero()[0]
    return [int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)]
