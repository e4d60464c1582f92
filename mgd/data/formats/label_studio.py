"""Label Studio's JSON export: tasks with brush strokes, polygons, rectangles and ellipses. A later region is on top.

https://labelstud.io/guide/export ("JSON"), https://labelstud.io/guide/predictions: coordinates are in percent.
"""

import base64
import math
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import quoteattr

import numpy as np

from mgd.data.classes import Classes
from mgd.data.formats import brush, shapes
from mgd.data.formats.export import (
    IGNORE,
    Export,
    Labelled,
    Photo,
    Photos,
    Reading,
    Region,
    Size,
    guess,
    need,
    photos_of,
    read_json,
    understood,
)
from mgd.data.images import IMAGE_SUFFIXES
from mgd.errors import UserError, first_few
from mgd.files import link, write_json, write_text

EXPECTED = "Label Studio's JSON export (not JSON-MIN): a list of tasks with data and annotations"
KINDS = ("brushlabels", "bitmasklabels", "polygonlabels", "rectanglelabels", "ellipselabels")  # regions with an area
UPLOADED = re.compile(r"[0-9a-f]{8}-(.+)")
NO_REGIONS = (  # but about the whole photo, or about other entries
    *("choices", "taxonomy", "textarea", "rating", "number", "datetime", "pairwise", "ranker", "relation"),
)


def read(source: Path, reading: Reading) -> Export:
    """The JSON file, or a folder with it. Photos are looked for beside it, in images/, or where `reading.images` says.

    Of several annotations of a task the last counts that was not cancelled; a task without one is unlabelled.

    Raises:
        UserError: another format, a photo is not found, a region without an area.
    """
    file = source if source.is_file() else _only_json(source)
    content = read_json(file, EXPECTED)
    with understood(file, EXPECTED):
        tasks = _tasks(file, content, reading.predictions)
        photos = tuple(_photos(file, tasks, reading))
        names = {_name(file, thing) for _, things in tasks for thing in things or []}
    return Export(tuple(sorted(names - {IGNORE})), photos, covers=False)


def _only_json(source: Path) -> Path:
    files = sorted(need(source, EXPECTED).glob("*.json"))
    if len(files) != 1:
        raise UserError(f"{source} has {len(files)} JSON files, expected one; name the file. {guess(source)}")
    return files[0]


def _tasks(file: Path, content: Any, predictions: bool) -> list[tuple[dict[str, Any], list[dict[str, Any]] | None]]:
    """(task, its regions that have an area); None where nobody looked at the photo."""
    if not isinstance(content, list):
        raise TypeError("no list of tasks")
    found = []
    for task in content:
        results = _results(task, predictions)
        found.append((task, results and [thing for thing in results if _has_area(file, task, thing)]))
    return found


def _photos(
    file: Path, tasks: Sequence[tuple[dict[str, Any], list[dict[str, Any]] | None]], reading: Reading
) -> Iterator[Photo]:
    photos = photos_of(reading, [file.parent / "images", file.parent], file)
    for task, things in tasks:
        address, number = _address(file, task, things or []), task.get("id")
        image = _find(photos, address)
        name = photos.name_of(image)
        if things is None:
            yield Photo(name, image, file, None)
            continue
        sizes = {(int(thing["original_height"]), int(thing["original_width"])) for thing in things}
        if len(sizes) > 1:
            raise UserError(f"{file}: task {number} has regions for photos of several sizes; export it again")
        yield Photo(name, image, file, partial(regions, file, number, things), next(iter(sizes), None))


def _address(file: Path, task: dict[str, Any], things: Sequence[dict[str, Any]]) -> str:
    """The photo's address as the task's data tell; of several images that which the regions are of, else `image`.

    Raises:
        UserError: there is none, or several that regions may be of.
    """
    what = f"{file}: task {task.get('id')}"
    found = {key: value for key, value in task["data"].items() if isinstance(value, str) and _is_address(value)}
    if not found:
        raise UserError(f"{what} names no image in its data, expected an address of one")
    drawn_on = {str(thing.get("to_name")) for thing in things}
    named = [key for key in (*drawn_on, "image") if key in found] or [*found]
    if len(drawn_on) > 1 or (len(found) > 1 and named[0] not in (*drawn_on, "image")):
        remedy = "make a task of each, or call the one that is annotated `image` in the task's data"
        raise UserError(f"{what} is of several images, {first_few(found.values())}; {remedy}")
    return found[named[0]]


def _is_address(text: str) -> bool:
    return PurePosixPath(urlsplit(text).path).suffix.lower() in IMAGE_SUFFIXES or "?d=" in text


def _find(photos: Photos, address: str) -> Path:
    """The photo at an address: of local files by the path below their root, else by the file's name.

    An uploaded file has eight hexadecimal digits and a dash before its name, which the photo at hand may lack.
    """
    parts = urlsplit(address)
    if local := parse_qs(parts.query).get("d"):
        return photos.find(local[0].lstrip("/"))
    name = PurePosixPath(unquote(parts.path)).name
    if "upload" in PurePosixPath(parts.path).parts and (uploaded := UPLOADED.fullmatch(name)):
        return photos.find(name, uploaded[1])
    return photos.find(name)


def _results(task: dict[str, Any], predictions: bool) -> list[dict[str, Any]] | None:
    """The regions of a task; None where nobody looked at it."""
    done = [one for one in task.get("annotations", task.get("completions", [])) if not one.get("was_cancelled")]
    if not done and predictions:
        done = task.get("predictions", [])
    return done[-1]["result"] if done else None


def _has_area(file: Path, task: dict[str, Any], thing: dict[str, Any]) -> bool:
    """Whether an entry is a region with an area; what is about the whole photo (choices, texts) is none."""
    if thing["type"] not in (*KINDS, *NO_REGIONS):
        raise UserError(
            f"{file}: task {task.get('id')} has a region of the type {thing['type']}, which has no area or no label; "
            "draw it with a brush or as a polygon, or remove it"
        )
    return thing["type"] in KINDS


def _name(file: Path, thing: dict[str, Any]) -> str:
    labels = thing["value"][thing["type"]]
    if len(labels) != 1:
        raise UserError(
            f"{file}: region {thing.get('id')} has {len(labels)} labels ({', '.join(labels)}), expected one"
        )
    return str(labels[0])


def regions(file: Path, task: Any, things: Sequence[dict[str, Any]], size: Size) -> Iterator[Region]:
    """Each region's mask. Raises UserError for one that does not fit the photo."""
    for thing in things:
        what = f"{file}: task {task}, region {thing.get('id')} ({_name(file, thing)})"
        with understood(file, EXPECTED):
            if thing.get("image_rotation"):
                raise UserError(f"{what} was drawn on a turned photo; turn it back, or turn the file")
            yield _name(file, thing), _mask(thing["type"], thing["value"], size, what)


def _mask(kind: str, value: dict[str, Any], size: Size, what: str) -> np.ndarray:
    height, width = size
    if kind == "brushlabels":
        return brush.decode(value["rle"], size, what=what)
    if kind == "bitmasklabels":  # a PNG in an address, drawn on nothing
        return shapes.decode_png(_content(value["imageDataURL"], what), what=what)
    if kind == "polygonlabels":
        return shapes.polygon([(x * width / 100, y * height / 100) for x, y in value["points"]], size, what=what)
    x, y = value["x"] * width / 100, value["y"] * height / 100
    if kind == "ellipselabels":
        if value.get("rotation"):
            raise UserError(f"{what} is a turned ellipse; draw it as a polygon")
        return shapes.ellipse(
            (x, y), (value["radiusX"] * width / 100, value["radiusY"] * height / 100), size, what=what
        )
    return shapes.polygon(_corners(value, (x, y), size), size, what=what)


def _content(address: str, what: str) -> bytes:
    """What an address holds that is its own content in base64."""
    head, _, content = address.partition(";base64,")
    try:
        if not head.startswith("data:"):
            raise ValueError("no data:...;base64,... address")
        return base64.b64decode(content, validate=True)
    except ValueError as error:
        raise UserError(f"{what} holds a mask that cannot be decoded ({error}); export it again") from error


def _corners(value: dict[str, Any], corner: tuple[float, float], size: Size) -> list[tuple[float, float]]:
    """Of a rectangle that is turned clockwise around its first corner."""
    wide, high = value["width"] * size[1] / 100, value["height"] * size[0] / 100
    angle = math.radians(value.get("rotation", 0))
    cos, sin = math.cos(angle), math.sin(angle)
    offsets = ((0.0, 0.0), (wide, 0.0), (wide, high), (0.0, high))
    return [(corner[0] + dx * cos - dy * sin, corner[1] + dx * sin + dy * cos) for dx, dy in offsets]


def write_one(out: Path, photo: Labelled, classes: Classes) -> dict[str, Any]:
    """Link the photo; returns its task, a brush region for each class, as a prediction to correct."""
    file = f"{photo.name}{photo.image.suffix}"
    link(photo.image, out / "images" / file)
    height, width = photo.label.shape
    results = [
        {
            "id": f"region{i}",
            "type": "brushlabels",
            "from_name": "label",
            "to_name": "image",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": {"format": "rle", "rle": brush.encode(mask), "brushlabels": [name]},
        }
        for i, (name, mask) in enumerate(photo.marked)
    ]
    address = f"/data/local-files/?d={quote(f'images/{file}')}"
    return {"data": {"image": address}, "predictions": [{"model_version": "mgd", "result": results}]}


def write_rest(out: Path, made: Sequence[dict[str, Any]], classes: Classes) -> str:
    """Write the tasks and the labelling interface. Returns how Label Studio takes them."""
    write_json(out / "tasks.json", list(made))
    labels = [
        f'    <Label value={quoteattr(name)} background="#{red:02x}{green:02x}{blue:02x}"/>'
        for name, (red, green, blue) in zip(classes.names, classes.colors, strict=True)
    ]
    labels.append(f'    <Label value="{IGNORE}" background="#e0e0c0"/>')
    lines = ['<Image name="image" value="$image"/>', '<BrushLabels name="label" toName="image">', *labels]
    lines = ["<View>", *(f"  {line}" if line[0] == "<" else line for line in lines), "  </BrushLabels>", "</View>"]
    write_text(out / "interface.xml", "\n".join(lines) + "\n")
    return (
        "in Label Studio: paste interface.xml as the labelling interface, serve the folder as local files "
        f"(LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={out.absolute()}), import tasks.json"
    )
