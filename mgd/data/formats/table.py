"""The formats by the names that --format takes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mgd.data.classes import Classes
from mgd.data.formats import coco, coco_stuff, cvat, index, label_studio, labelme, panoptic, rgb, supervisely, yolo
from mgd.data.formats.export import Export, Labelled, Reading

READERS: dict[str, Callable[[Path, Reading], Export]] = {
    "index": index.read,
    "rgb": rgb.read,
    "cvat": cvat.read,
    "coco": coco.read,
    "coco-stuff": coco_stuff.read,
    "coco-panoptic": panoptic.read,
    "yolo": yolo.read,
    "labelme": labelme.read,
    "label-studio": label_studio.read,
    "supervisely": supervisely.read,
}
# For each photo in a worker, and for all of them at the end: returns how the tool takes it.
WRITERS: dict[str, tuple[Callable[[Path, Labelled, Classes], Any], Callable[[Path, list[Any], Classes], str]]] = {
    "cvat": (cvat.write_one, cvat.write_rest),
    "coco": (coco.write_one, coco.write_rest),
    "labelme": (labelme.write_one, labelme.write_rest),
    "label-studio": (label_studio.write_one, label_studio.write_rest),
}
