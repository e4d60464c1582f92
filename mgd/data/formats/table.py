"""The formats by the names that --format takes."""

from mgd.data.formats import coco, coco_stuff, cvat, index, label_studio, labelme, panoptic, rgb, supervisely, yolo

READERS = {
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
WRITERS = {
    "cvat": (cvat.write_one, cvat.write_rest),
    "coco": (coco.write_one, coco.write_rest),
    "labelme": (labelme.write_one, labelme.write_rest),
    "label-studio": (label_studio.write_one, label_studio.write_rest),
}
