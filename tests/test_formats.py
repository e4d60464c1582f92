"""Test labels as annotation tools write them: from exports in their documented form to pixels worked out by hand."""

import base64
import io
import json
import os
import re
import shlex
import shutil
import sys
import unicodedata
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import write_image
from PIL import Image

from mgd.__main__ import main
from mgd.config import Data
from mgd.data.datasets import open_splits, read_list
from mgd.data.formats import shapes
from mgd.data.formats.back import export_labels
from mgd.data.formats.brush import decode, encode
from mgd.data.formats.convert import convert
from mgd.data.formats.export import IGNORE, Export, Reading, part_of
from mgd.data.formats.label_studio import regions
from mgd.data.formats.rgb import learn_table
from mgd.data.formats.rules import Rules, values
from mgd.data.formats.table import READERS, WRITERS
from mgd.data.images import read_indices
from mgd.errors import UserError
from mgd.files import link

pytest.importorskip("pycocotools", reason="polygons and run-length codes need it")
ROOT = Path(__file__).resolve().parent.parent
HEIGHT, WIDTH = 12, 16
SIZE = HEIGHT, WIDTH
NAMES = "abcde"  # five photos: the last is for validation
LEAF, BLIGHT = [(2, 1), (6, 1), (6, 4), (2, 4)], [(5, 2), (9, 2), (9, 5), (5, 5)]  # the second lies on top
PICTURE = np.zeros(SIZE, np.uint8)
PICTURE[1:4, 2:6] = 1
PICTURE[2:5, 5:9] = 2
COLORS = [(0, 0, 0), (0, 160, 0), (200, 60, 0)]
CLASSES = "index,name,red,green,blue\n0,background,0,0,0\n1,leaf,0,160,0\n2,blight,200,60,0\n"


def photo(path: Path) -> Path:
    seed = sum(path.name.encode())
    return write_image(path, np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8))


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def flat(points: list[tuple[int, int]]) -> list[int]:
    return [value for point in points for value in point]


def prepare(source: Path, form: str, out: Path, *options: str) -> int:
    return main(["prepare", "labels", str(source), "--format", form, "--out", str(out), *options])


def label(out: Path, name: str = "a") -> np.ndarray:
    return read_indices(out / f"labels/{name}.png")


def class_names(out: Path) -> list[str]:
    return [line.split(",")[1] for line in (out / "classes.csv").read_text().splitlines()[1:]]


# An export of each tool: the same picture on five photos. Returns the source and the options.

Fixture = tuple[Path, list[str]]


def index_masks(folder: Path) -> Fixture:
    """Values 1, 2, 3 and 0 for what is not labelled; 1 is the background."""
    for name in NAMES:
        photo(folder / f"images/{name}.jpg")
        write_image(folder / f"labels/{name}.png", PICTURE + 1)
    return folder, ["--classes", "background,leaf,blight", "--map", "1..3=0..2,0=ignore"]


def rgb_masks(folder: Path) -> Fixture:
    for name in NAMES:
        photo(folder / f"images/{name}.jpg")
        write_image(folder / f"labels/{name}.png", np.array(COLORS, np.uint8)[PICTURE])
    rows = [f"{name},{','.join(map(str, color))}\n" for name, color in zip(LABELS, COLORS, strict=True)]
    (folder / "colors.csv").write_text("name,red,green,blue\n" + "".join(rows))
    return folder, ["--colors", str(folder / "colors.csv")]


LABELS = ["background", "leaf", "blight"]


def cvat_masks(folder: Path) -> Fixture:
    lines = [f"{name}:{','.join(map(str, color))}::\n" for name, color in zip(LABELS, COLORS, strict=True)]
    (folder / "ImageSets/Segmentation").mkdir(parents=True)
    (folder / "labelmap.txt").write_text("# label:color_rgb:parts:actions\n" + "".join(lines))
    (folder / "ImageSets/Segmentation/default.txt").write_text("".join(f"{name}\n" for name in NAMES))
    for name in NAMES:
        photo(folder / f"JPEGImages/{name}.jpg")
        write_image(folder / f"SegmentationClass/{name}.png", np.array(COLORS, np.uint8)[PICTURE])
        write_image(folder / f"SegmentationObject/{name}.png", np.array(COLORS, np.uint8)[PICTURE])
    return folder, []


def coco_images(folder: Path) -> list[dict[str, Any]]:
    for name in NAMES:
        photo(folder / f"images/{name}.jpg")
    return [{"id": i, "file_name": f"{name}.jpg", "height": 12, "width": 16} for i, name in enumerate(NAMES, start=1)]


CATEGORIES = [{"id": 7, "name": "blight", "supercategory": ""}, {"id": 3, "name": "leaf", "supercategory": ""}]


def coco_json(folder: Path) -> Fixture:
    """The leaf as a polygon, the blight in turn as polygon, run-length code (down the columns) and compressed code."""
    images, size = coco_images(folder), [HEIGHT, WIDTH]
    runs = [5 * 12 + 2, 3, 9, 3, 9, 3, 9, 3, 7 + 7 * 12]  # 3 pixels in each of 4 columns
    codes = [
        {"iscrowd": 0, "segmentation": [flat(BLIGHT)]},
        {"iscrowd": 1, "segmentation": {"size": size, "counts": runs}},
        {"iscrowd": 1, "segmentation": shapes.to_rle(PICTURE == 2)},
    ]
    things = []
    for i in range(1, 6):
        leaf = {"id": 10 * i, "category_id": 3, "segmentation": [flat(LEAF)], "iscrowd": 0}
        things += [one | {"image_id": i} for one in (leaf, {"id": 10 * i + 1, "category_id": 7, **codes[i % 3]})]
    content = {"info": {}, "licenses": [], "images": images, "annotations": things, "categories": CATEGORIES}
    write_json(folder / "annotations/instances_default.json", content)
    return folder, ["--unmarked", "background"]


def coco_panoptic(folder: Path) -> Fixture:
    """Segment 1 is background, 300 = (44, 1, 0) leaf, 65536 = (0, 0, 1) blight."""
    images = coco_images(folder)
    things, colors = [], np.array([(1, 0, 0), (44, 1, 0), (0, 0, 1)], np.uint8)
    for image in images:
        name = Path(image["file_name"]).stem
        write_image(folder / f"annotations/panoptic_default/{name}.png", colors[PICTURE])
        segments = [{"id": i, "category_id": c, "iscrowd": 0} for i, c in ((1, 1), (300, 3), (65536, 7))]
        things.append({"image_id": image["id"], "file_name": f"{name}.png", "segments_info": segments})
    categories = [{"id": 1, "name": "background", "isthing": 0, "color": [0, 0, 0]}, *CATEGORIES]
    content = {"images": images, "annotations": things, "categories": categories}
    return write_json(folder / "annotations/panoptic_default.json", content), []


def coco_stuff(folder: Path) -> Fixture:
    """Values are ids less 1."""
    (folder / "maps/train2017").mkdir(parents=True)
    (folder / "maps/labels.txt").write_text("0: unlabeled\n1: background\n2: leaf\n3: blight\n")
    for name in NAMES:
        photo(folder / f"images/train2017/{name}.jpg")
        write_image(folder / f"maps/train2017/{name}.png", PICTURE)
    return folder / "maps", []


def yolo_text(folder: Path) -> Fixture:
    folder.mkdir()
    (folder / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames:\n  0: leaf\n  1: blight\n")
    for name in NAMES:
        part = "val" if name == "e" else "train"
        photo(folder / f"images/{part}/{name}.jpg")
        lines = [
            " ".join([str(i), *(str(v / (WIDTH, HEIGHT)[j % 2]) for j, v in enumerate(flat(points)))])
            for i, points in enumerate((LEAF, BLIGHT))
        ]
        path = folder / f"labels/{part}/{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines))
    return folder, ["--unmarked", "background"]


def labelme_content(image: str, things: list[dict[str, Any]]) -> dict[str, Any]:
    told = {"imagePath": image, "imageData": None, "imageHeight": HEIGHT, "imageWidth": WIDTH}
    return {"version": "5.4.1", "flags": {}, "shapes": things, **told}


def labelme_json(folder: Path) -> Fixture:
    for name in NAMES:
        photo(folder / f"{name}.jpg")
        things = [
            {"label": "leaf", "points": LEAF, "group_id": None, "shape_type": "polygon", "flags": {}},
            {"label": "blight", "points": BLIGHT[::2], "group_id": None, "shape_type": "rectangle", "flags": {}},
        ]
        write_json(folder / f"{name}.json", labelme_content(f"{name}.jpg", things))
    (folder / "labels.txt").write_text("__ignore__\nleaf\nblight\n")
    return folder, ["--unmarked", "background"]


def studio_region(kind: str, value: dict[str, Any], name: str, number: int = 0) -> dict[str, Any]:
    told = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0, "from_name": "label"}
    return told | {"id": f"r{number}", "type": kind, "to_name": "image", "value": value | {kind: [name]}}


def label_studio_json(folder: Path) -> Fixture:
    """The leaf as a polygon in percent, the blight as brush strokes."""
    tasks = []
    for i, name in enumerate(NAMES):
        photo(folder / f"images/{name}.jpg")
        points = [[100 * x / WIDTH, 100 * y / HEIGHT] for x, y in LEAF]
        result = [
            studio_region("polygonlabels", {"points": points, "closed": True}, "leaf"),
            studio_region("brushlabels", {"format": "rle", "rle": encode(PICTURE == 2)}, "blight"),
            {"type": "choices", "from_name": "ok", "to_name": "image", "value": {"choices": ["yes"]}},
        ]
        annotations = [{"id": 1, "was_cancelled": True, "result": []}, {"id": 2, "result": result}]
        tasks.append({"id": i, "data": {"image": f"/data/upload/1/0a1b2c3d-{name}.jpg"}, "annotations": annotations})
    write_json(folder / "project-1-at-2026.json", tasks)
    return folder, ["--unmarked", "background", "--classes", "background,leaf,blight"]


def supervisely_json(folder: Path) -> Fixture:
    """Points are whole pixels, so that an outline belongs to its polygon; the blight is a bitmap."""
    classes = [("leaf", "polygon", "#00A000"), ("blight", "bitmap", "#C83C00")]
    listed = [{"title": title, "shape": shape, "color": color} for title, shape, color in classes]
    write_json(folder / "meta.json", {"classes": listed, "tags": []})
    file = io.BytesIO()
    Image.fromarray(np.full((3, 4), 255, np.uint8)).save(file, "PNG")
    data = base64.b64encode(zlib.compress(file.getvalue())).decode()
    outline = {"exterior": [[2, 1], [5, 1], [5, 3], [2, 3]], "interior": []}
    things = [
        {"classTitle": "leaf", "geometryType": "polygon", "points": outline, "tags": []},
        {"classTitle": "blight", "geometryType": "bitmap", "bitmap": {"data": data, "origin": [5, 2]}, "tags": []},
    ]
    for name in NAMES:
        photo(folder / f"ds0/img/{name}.jpg")
        size = {"height": HEIGHT, "width": WIDTH}
        write_json(
            folder / f"ds0/ann/{name}.jpg.json", {"description": "", "tags": [], "size": size, "objects": things}
        )
    return folder, ["--unmarked", "background"]


EXPORTS: dict[str, Callable[[Path], Fixture]] = {
    "index": index_masks,
    "rgb": rgb_masks,
    "cvat": cvat_masks,
    "coco": coco_json,
    "coco-stuff": coco_stuff,
    "coco-panoptic": coco_panoptic,
    "yolo": yolo_text,
    "labelme": labelme_json,
    "label-studio": label_studio_json,
    "supervisely": supervisely_json,
}
PREFIX = {"coco-stuff": "train2017/", "yolo": "train/", "supervisely": "ds0/"}  # of photos' names
every_format = pytest.mark.parametrize("form", EXPORTS)


def test_every_format_has_a_fixture() -> None:
    assert set(EXPORTS) == set(READERS)


def readme_command(form: str) -> list[str]:
    """The arguments of a format's line in exp.own/README.md, without `python -m mgd`."""
    lines = [line for line in (ROOT / "exp.own/README.md").read_text().splitlines() if f"--format {form} " in line]
    return next(line for line in lines if line.startswith("python -m mgd prepare labels")).split()[3:]


def name_colors(table: Path) -> None:
    """Fill in what a person would."""
    names = {",".join(map(str, color)): name for color, name in zip(COLORS, LABELS, strict=True)}
    header, *rows = table.read_text().splitlines()
    named = [names[",".join(row.split(",")[1:4])] + row for row in rows]
    table.write_text("\n".join([header, *named]))


@every_format
def test_an_export_becomes_these_pixels_and_trains_a_student_as_the_readme_says(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    EXPORTS[form](tmp_path / "export")
    monkeypatch.chdir(tmp_path)
    out, prefix = Path("DATA/own"), PREFIX.get(form, "")
    if form == "rgb":
        assert main(["prepare", "colors", "export", "--out", "colors.csv"]) == 0
        name_colors(Path("colors.csv"))
    assert main(readme_command(form)) == 0
    told = capsys.readouterr().out
    assert "train.txt 4, val.txt 1" in told
    assert "5 photos, 5 of them made now, 0 skipped" in told
    assert sorted(class_names(out)) == sorted(LABELS)
    for name in NAMES:
        part = prefix.replace("train", "val") if form == "yolo" and name == "e" else prefix
        found = np.array(class_names(out))[label(out, part + name)]
        assert np.array_equal(found, np.array(LABELS)[PICTURE]), name
    assert f"{class_names(out).index('leaf'):>5}  leaf {50:>34}     5.21       5" in told
    assert main(["new", "exp.leaves", "--data", str(out)]) == 0
    student = "exp.leaves/leaves1.resnet18_deeplabv3plus"
    tiny = ["method=supervised", "model.backbone=timm:test_resnet", "model.pretrained=false", "model.channels=16"]
    tiny += ["train.max_iterations=2", "data.workers=0", "evaluate.mode=whole", "evaluate.every=0"]
    assert main(["train", student, *tiny]) == 0
    assert main(["evaluate", student, *tiny]) == 0
    assert "blight" in capsys.readouterr().out


# What is made, and made once


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(file): (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.rglob("*.png")}


def test_a_second_time_nothing_is_made_and_what_was_corrected_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, options = labelme_json(tmp_path / "export")
    prepare(source, "labelme", tmp_path / "out", *options)
    before = state(tmp_path / "out")
    capsys.readouterr()
    prepare(source, "labelme", tmp_path / "out", *options)
    assert state(tmp_path / "out") == before
    assert "5 photos, 0 of them made now" in capsys.readouterr().out
    corrected = json.loads((source / "b.json").read_text())
    corrected["shapes"].pop()
    write_json(source / "b.json", corrected)
    prepare(source, "labelme", tmp_path / "out", *options)
    assert "5 photos, 1 of them made now" in capsys.readouterr().out
    assert set(np.unique(label(tmp_path / "out", "b"))) == {0, 1}


def test_photos_held_out_before_stay_when_more_are_labelled(tmp_path: Path) -> None:
    source, options = labelme_json(tmp_path / "export")
    prepare(source, "labelme", tmp_path / "out", *options)
    before = (tmp_path / "out/val.txt").read_text()
    for name in ("0", "1", "2"):  # come first in order of name
        photo(source / f"{name}.jpg")
        content = json.loads((source / "a.json").read_text()) | {"imagePath": f"{name}.jpg"}
        write_json(source / f"{name}.json", content)
    prepare(source, "labelme", tmp_path / "out", *options)
    assert before.strip() in (tmp_path / "out/val.txt").read_text()
    lists = [(tmp_path / f"out/{part}.txt").read_text().splitlines() for part in ("train", "val")]
    assert sum(map(len, lists)) == 8
    assert not set(lists[0]) & set(lists[1])


def test_a_photo_that_took_the_place_of_another_of_its_size_is_taken_over(tmp_path: Path) -> None:
    source, options = index_masks(tmp_path / "export")
    for name in NAMES:
        Image.fromarray(np.full((*SIZE, 3), 9, np.uint8)).save(source / f"images/{name}.bmp")
        (source / f"images/{name}.jpg").unlink()
    assert prepare(source, "index", tmp_path / "out", *options) == 0
    (source / "images/a.bmp").unlink()
    Image.fromarray(np.full((*SIZE, 3), 200, np.uint8)).save(source / "images/a.bmp")
    os.utime(source / "images/a.bmp", (0, 0))
    assert prepare(source, "index", tmp_path / "out", *options) == 0
    assert (tmp_path / "out/images/a.bmp").read_bytes() == (source / "images/a.bmp").read_bytes()


def test_a_copy_is_known_again_and_not_made_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("another file system")

    monkeypatch.setattr(os, "link", refuse)
    source, options = index_masks(tmp_path / "export")
    os.utime(source / "images/a.jpg", (10**9, 10**9))
    assert prepare(source, "index", tmp_path / "out", *options) == 0
    assert prepare(source, "index", tmp_path / "out", *options) == 0
    assert "5 photos, 0 of them made now" in capsys.readouterr().out


def test_options_with_several_values_may_be_repeated(tmp_path: Path) -> None:
    source, _ = index_masks(tmp_path / "export")
    options = ["--classes", "background,leaf,blight,stem", "--map", "1..3=0..2", "--map", "0=ignore"]
    assert prepare(source, "index", tmp_path / "out", *options, "--ignore", "leaf", "--ignore", "blight") == 0
    assert class_names(tmp_path / "out") == ["background", "stem"]
    assert np.array_equal(label(tmp_path / "out"), np.where(PICTURE, 255, 0))


def test_a_comma_in_a_folders_name_makes_no_classes_of_it(tmp_path: Path) -> None:
    source, options = index_masks(tmp_path / "leaves, 2024")
    (source / "classes.csv").write_text(CLASSES)
    assert prepare(source, "index", tmp_path / "out", *options[2:]) == 0
    assert class_names(tmp_path / "out") == LABELS
    assert prepare(source, "index", tmp_path / "more", "--classes", str(source / "classes.csv"), *options[2:]) == 0
    assert class_names(tmp_path / "more") == LABELS


def test_a_photos_name_in_another_form_of_unicode_is_found(tmp_path: Path) -> None:
    source, options = coco_json(tmp_path / "export")
    composed, apart = (unicodedata.normalize(form, "é.jpg") for form in ("NFC", "NFD"))
    (source / "images/a.jpg").rename(source / f"images/{apart}")
    edit_json(source / COCO_FILE, lambda c: c["images"][0].update(file_name=composed))
    assert prepare(source, "coco", tmp_path / "out", *options) == 0
    assert np.array_equal(label(tmp_path / "out", composed[:-4]), PICTURE)


def test_only_an_uploaded_file_has_a_prefix_before_its_name(tmp_path: Path) -> None:
    source, options = label_studio_json(tmp_path / "export")
    task = tmp_path / "export/project-1-at-2026.json"
    change(task, "/data/upload/1/0a1b2c3d-b.jpg", "/data/local-files/?d=images/20240101-b.jpg")
    assert prepare(source, "label-studio", tmp_path / "out", *options) == 2  # b.jpg is another photo
    photo(source / "images/20240101-b.jpg")
    assert prepare(source, "label-studio", tmp_path / "out", *options) == 0
    assert (tmp_path / "out/labels/20240101-b.png").exists()


def test_of_several_images_of_a_task_the_one_that_is_drawn_on_counts(tmp_path: Path) -> None:
    source, options = label_studio_json(tmp_path / "export")

    def two(tasks: Any) -> None:
        tasks[1]["data"] = {"preview": "a.jpg", "photo": "b.jpg"}
        for thing in tasks[1]["annotations"][1]["result"]:
            thing["to_name"] = "photo"

    edit_json(source / "project-1-at-2026.json", two)
    assert prepare(source, "label-studio", tmp_path / "out", *options) == 0
    assert np.array_equal(label(tmp_path / "out", "b"), PICTURE)


def test_clear_pixels_of_a_mask_are_black(tmp_path: Path) -> None:
    source, options = rgb_masks(tmp_path / "export")
    mask = np.dstack([np.array(COLORS, np.uint8)[PICTURE], np.where(PICTURE, 255, 0).astype(np.uint8)])
    Image.fromarray(mask).save(source / "labels/b.png")
    assert prepare(source, "rgb", tmp_path / "out", *options) == 0
    assert np.array_equal(label(tmp_path / "out", "b"), PICTURE)


def test_spaces_before_further_suffixes_cut_no_name(tmp_path: Path) -> None:
    source, options = labelme_json(tmp_path / "export")
    names = ["IMG 1.jpg", "IMG 1.jpg (2).jpg", "IMG 1.jpg 3.jpg"]
    for name in names:
        photo(source / name)
    assert prepare(source, "labelme", tmp_path / "out", *options) == 0
    out = tmp_path / "out"
    expected = sorted(f"unlabeled/{name}" for name in names)
    assert sorted(item.name for item in read_list(out / "unlabeled.txt", out, "", labels=False)) == expected
    splits = open_splits(Data(root=str(out), unlabeled="unlabeled", partition=1))
    assert sorted(item.name for item in splits.unlabeled) == expected


def test_cvat_gets_no_class_that_it_could_not_give_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, _ = index_masks(tmp_path / "in")
    for name in ("road: wet", "#1 weed"):
        (source / "classes.csv").write_text(CLASSES.replace("leaf", name) + "3,other,1,1,1\n")
        arguments = ["prepare", "export-labels", str(source), "--format", "cvat", "--out", str(tmp_path / "tool")]
        assert main(arguments) == 2
        assert f"CVAT cannot read back a class called {name!r}" in capsys.readouterr().err


def test_other_options_in_the_same_folder_are_refused(tmp_path: Path) -> None:
    source, options = labelme_json(tmp_path / "export")
    prepare(source, "labelme", tmp_path / "out", *options)
    with pytest.raises(UserError, match=r"out has labels made with other options, classes or .* \(prepared.json tells"):
        convert(source, "labelme", tmp_path / "out", rules=Rules(unmarked="ignore"))


def test_photos_that_nobody_looked_at_are_the_unlabelled_ones(tmp_path: Path) -> None:
    source, options = labelme_json(tmp_path / "export")
    photo(source / "later/f.jpg")
    prepare(source, "labelme", tmp_path / "out", *options)
    assert (tmp_path / "out/unlabeled.txt").read_text() == "unlabeled/later/f.jpg\n"
    assert (tmp_path / "out/unlabeled/later/f.jpg").is_file()


def test_a_photo_that_is_labelled_later_is_no_unlabelled_one_any_more(tmp_path: Path) -> None:
    source, options = labelme_json(tmp_path / "export")
    kept = (source / "b.json").read_text()
    (source / "b.json").unlink()
    prepare(source, "labelme", tmp_path / "out", *options)
    assert (tmp_path / "out/unlabeled/b.jpg").is_file()
    (source / "b.json").write_text(kept)
    prepare(source, "labelme", tmp_path / "out", *options)
    assert not (tmp_path / "out/unlabeled/b.jpg").exists()
    assert not (tmp_path / "out/unlabeled.txt").exists()
    assert (tmp_path / "out/images/b.jpg").is_file()
    assert (source / "b.jpg").is_file()


def test_what_was_missing_can_be_told_after_a_run_that_ended_for_it(tmp_path: Path) -> None:
    source, _ = index_masks(tmp_path / "export")
    classes = ["--classes", "background,leaf,blight"]
    assert prepare(source, "index", tmp_path / "out", *classes, "--map", "1..2=0..1") == 2  # what is 3?
    assert prepare(source, "index", tmp_path / "out", *classes, "--map", "1..3=0..2,0=ignore") == 0
    assert np.array_equal(label(tmp_path / "out"), PICTURE)


def test_a_data_set_in_the_export_itself_is_refused(tmp_path: Path) -> None:
    source, _ = labelme_json(tmp_path / "export")
    with pytest.raises(UserError, match=r"out is in the export .*; choose a folder beside it"):
        convert(source, "labelme", source / "out", rules=Rules(unmarked="ignore"))


def test_paths_of_windows_are_found_and_a_photo_has_one_label(tmp_path: Path) -> None:
    source, options = coco_json(tmp_path / "export")
    file = source / "annotations/instances_default.json"
    content = json.loads(file.read_text())
    (source / "images/x").mkdir()
    (source / "images/a.jpg").rename(source / "images/x/a.jpg")
    content["images"][0]["file_name"] = "x\\a.jpg"
    write_json(file, content)
    prepare(source, "coco", tmp_path / "out", *options)
    assert (tmp_path / "out/images/x/a.jpg").is_file()
    content["images"][1]["file_name"] = "y\\a.jpg"  # that folder is not there, and a.jpg is another photo
    write_json(file, content)
    with pytest.raises(UserError, match=r"names y/a.jpg, which is not in .*\(there is .*x/a\.jpg, in another folder\)"):
        convert(source, "coco", tmp_path / "other", rules=Rules(unmarked="background"))
    content["images"][0]["file_name"], content["images"][1]["file_name"] = "a.jpg", "far/x/a.jpg"
    write_json(file, content)
    with pytest.raises(UserError, match=r"labels of a, far/x/a, for which there is one photo, .*x/a\.jpg; see"):
        convert(source, "coco", tmp_path / "other", rules=Rules(unmarked="background"))


def test_photos_of_the_data_set_itself_stay_when_its_labels_are_corrected(tmp_path: Path) -> None:
    source, options = coco_json(tmp_path / "export")
    prepare(source, "coco", tmp_path / "out", *options)
    before = {file.name: file.read_bytes() for file in (tmp_path / "out/images").iterdir()}
    shutil.rmtree(source / "images")
    file = source / COCO_FILE
    os.utime(file, (0, 0))  # another time than the labels have
    assert prepare(source, "coco", tmp_path / "out", *options, "--images", str(tmp_path / "out/images")) == 0
    assert {file.name: file.read_bytes() for file in (tmp_path / "out/images").iterdir()} == before


def test_of_photos_that_are_links_the_content_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, options = coco_json(tmp_path / "export")
    (source / "blobs").mkdir()
    for name in NAMES:
        (source / f"images/{name}.jpg").rename(source / f"blobs/{name}")
        (source / f"images/{name}.jpg").symlink_to(f"../blobs/{name}")
    for new in (5, 0):
        assert prepare(source, "coco", tmp_path / "far/away/out", *options) == 0
        assert f"5 photos, {new} of them made now" in capsys.readouterr().out
    for name in NAMES:
        made = tmp_path / f"far/away/out/images/{name}.jpg"
        assert not made.is_symlink()
        assert made.read_bytes() == (source / f"blobs/{name}").read_bytes()


def test_corrected_meanings_of_masks_are_not_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, _ = rgb_masks(tmp_path / "rgb")
    table = "name,red,green,blue\nbackground,0,0,0\nleaf,0,160,0\nblight,200,60,0\n"
    (tmp_path / "colors.csv").write_text(table)
    assert prepare(source, "rgb", tmp_path / "out", "--colors", str(tmp_path / "colors.csv")) == 0
    (tmp_path / "colors.csv").write_text(table.replace("leaf", "x").replace("blight", "leaf").replace("x", "blight"))
    assert prepare(source, "rgb", tmp_path / "out", "--colors", str(tmp_path / "colors.csv")) == 2
    assert "made with other options, classes or colours" in capsys.readouterr().err
    file, _ = coco_panoptic(tmp_path / "panoptic")
    os.utime(file, (2e9, 2e9))
    assert prepare(file, "coco-panoptic", tmp_path / "other") == 0
    edit_json(file, lambda c: c["annotations"][0]["segments_info"][1].update(category_id=7))
    os.utime(file, (2e9 + 9, 2e9 + 9))
    assert prepare(file, "coco-panoptic", tmp_path / "other") == 0
    assert label(tmp_path / "other").max() == class_names(tmp_path / "other").index("blight")
    assert class_names(tmp_path / "other")[label(tmp_path / "other")[1, 2]] == "blight"


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("instances_val2017", "val"),
        ("Validation", "val"),
        ("Train", "train"),
        ("test", "test"),
        ("testset", "test"),
        *((name, "") for name in ("labels_latest", "interval", "default", "strain")),
    ],
)
def test_parts_are_told_by_words_of_their_own(name: str, part: str) -> None:
    assert part_of(name) == part


def test_that_nothing_is_left_to_train_on_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, options = coco_json(tmp_path / "export")
    (source / COCO_FILE).rename(source / "annotations/instances_val2017.json")
    assert prepare(source, "coco", tmp_path / "out", *options) == 0
    assert "WARNING: all labelled photos are of val or test by the names" in capsys.readouterr().out


def test_photos_of_another_folder_are_found_where_jsons_lie(tmp_path: Path) -> None:
    """Frames of two sequences have the same names."""
    source, options = labelme_json(tmp_path / "export")
    for name in NAMES:
        photo(tmp_path / f"photos/one/{name}.jpg")
        photo(tmp_path / f"photos/two/{name}.jpg").write_bytes((source / f"{name}.jpg").read_bytes())
        (source / f"{name}.jpg").unlink()
        (source / "two").mkdir(exist_ok=True)
        (source / f"{name}.json").rename(source / f"two/{name}.json")
    (source / "labels.txt").write_text("__ignore__\n_background_\nleaf\nblight\n")
    assert prepare(source, "labelme", tmp_path / "out", *options, "--images", str(tmp_path / "photos")) == 0
    assert os.path.samefile(tmp_path / "photos/two/a.jpg", tmp_path / "out/images/two/a.jpg")
    assert class_names(tmp_path / "out") == LABELS


def test_with_images_a_json_in_a_folder_of_its_own_finds_its_photo_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, options = labelme_json(tmp_path / "export")
    (source / "anns").mkdir()
    (tmp_path / "photos/site").mkdir(parents=True)
    for name in NAMES:
        (source / f"{name}.json").rename(source / f"anns/{name}.json")
        (source / f"{name}.jpg").rename(tmp_path / f"photos/site/{name}.jpg")
    images = ["--images", str(tmp_path / "photos")]
    assert prepare(source, "labelme", tmp_path / "out", *options, *images) == 0
    assert np.array_equal(label(tmp_path / "out", "anns/a"), np.where(PICTURE == 2, 2, PICTURE))
    (tmp_path / "photos/site/b.jpg").unlink()
    capsys.readouterr()
    assert prepare(source, "labelme", tmp_path / "other", *options, *images) == 2
    assert "b.json names b.jpg, which is not in" in capsys.readouterr().err


def test_a_file_that_cannot_be_linked_leaves_its_source_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jpg").write_bytes(b"a photo")
    (tmp_path / "out/b.jpg").mkdir(parents=True)  # nothing can take its place
    with pytest.raises(UserError, match="cannot be written"):
        link(tmp_path / "a.jpg", tmp_path / "out/b.jpg")
    assert (tmp_path / "a.jpg").read_bytes() == b"a photo"
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["b.jpg"]
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("no links here")))
    link(tmp_path / "a.jpg", tmp_path / "out/c.jpg")
    assert (tmp_path / "out/c.jpg").read_bytes() == b"a photo"


def test_a_project_of_supervisely_has_data_sets_in_data_sets(tmp_path: Path) -> None:
    source, options = supervisely_json(tmp_path / "export")
    shutil.copytree(source / "ds0", source / "ds0/datasets/inner")
    shutil.move(source / "ds0", tmp_path / "far")
    (source / "ds0").symlink_to(tmp_path / "far")
    (source / "ds1").mkdir()
    shutil.copytree(tmp_path / "far/img", source / "ds1/img")
    shutil.copytree(tmp_path / "far/ann", source / "ds1/ann")
    shutil.copytree(tmp_path / "far/datasets", source / "ds1/datasets")
    assert prepare(source, "supervisely", tmp_path / "out", *options) == 0
    assert np.array_equal(label(tmp_path / "out", "ds1/inner/a"), label(tmp_path / "out", "ds0/a"))


def test_bitmasks_of_label_studio_are_read(tmp_path: Path) -> None:
    source, options = label_studio_json(tmp_path / "export")
    picture = np.zeros((*SIZE, 4), np.uint8)
    picture[PICTURE == 2, 3] = 255  # black on nothing
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "PNG")
    address = f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"

    def edit(tasks: Any) -> None:
        tasks[0]["data"] = {"note": "plot no. 7", **tasks[0]["data"]}
        tasks[0]["annotations"][1]["result"][1] = studio_region("bitmasklabels", {"imageDataURL": address}, "blight")

    edit_json(source / "project-1-at-2026.json", edit)
    assert prepare(source, "label-studio", tmp_path / "out", *options) == 0
    assert np.array_equal(label(tmp_path / "out"), PICTURE)
    with pytest.raises(UserError, match="holds a mask that cannot be decoded"):
        list(regions(source, 1, [studio_region("bitmasklabels", {"imageDataURL": "a.png"}, "leaf")], SIZE))


def test_classes_that_no_photo_shows_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        photo(tmp_path / f"export/images/{name}.jpg")
        write_image(tmp_path / f"export/labels/{name}.png", np.where(PICTURE, 255, 0).astype(np.uint8))
    prepare(tmp_path / "export", "index", tmp_path / "out", "--classes", "background,leaf")
    assert "WARNING: no photo shows leaf; 255 is ignored: where it means a class, say so" in capsys.readouterr().out
    prepare(tmp_path / "export", "index", tmp_path / "mapped", "--classes", "background,leaf", "--map", "255=1")
    assert "WARNING" not in capsys.readouterr().out


def test_a_photo_without_an_object_is_background_where_unmarked_pixels_are(tmp_path: Path) -> None:
    source, options = yolo_text(tmp_path / "export")
    (source / "labels/train/a.txt").unlink()
    prepare(source, "yolo", tmp_path / "out", *options)
    assert not label(tmp_path / "out", "train/a").any()


# Rules


def test_classes_are_merged_dropped_and_ignored_by_name(tmp_path: Path) -> None:
    source, _ = labelme_json(tmp_path / "export")
    for i, (rules, expected) in enumerate(
        (
            (["--unmarked", "background", "--merge", "plant=leaf,blight"], np.minimum(PICTURE, 1)),
            (["--unmarked", "background", "--drop", "blight"], None),
            (["--unmarked", "background", "--ignore", "blight"], np.where(PICTURE == 2, 255, PICTURE)),
            (["--unmarked", "ignore"], np.choose(PICTURE, [255, 0, 1]).astype(np.uint8)),
        )
    ):
        prepare(source, "labelme", tmp_path / str(i), *rules)
        if expected is None:  # what lies below a dropped region is seen
            expected = np.zeros_like(PICTURE)
            expected[1:4, 2:6] = 1
        assert np.array_equal(label(tmp_path / str(i)), expected), rules
    assert class_names(tmp_path / "0") == ["background", "plant"]
    assert class_names(tmp_path / "3") == ["leaf", "blight"]


THREE = Export(("a", "b", "c"), (), covers=False)


@pytest.mark.parametrize(
    ("rules", "text"),
    [
        (Rules(), r"what is a pixel that no region covers \(the format does not say it\)\? Say --unmarked background"),
        (Rules(unmarked="ignore", drop=("d",)), "--drop names 'd', which is no class of the export; it has a, b, c"),
        (Rules(unmarked="ignore", merge=("x=a,d",)), "--merge names 'd', which is no class"),
        (Rules(unmarked="ignore", merge=("x",)), "--merge x is no rule; write NEW=OLD,OLD"),
        (Rules(unmarked="ignore", merge=("x=a,b", "y=b")), "--merge puts b into x and into y; keep one"),
        (Rules(unmarked="ignore", drop=("a",), ignore=("a",)), "a is in two of --merge, --drop and --ignore"),
        (Rules(unmarked="ignore", merge=("x=a,b",), drop=("a",)), "a is in two of --merge"),
        (Rules(unmarked="ignore", merge=("x=a,b,c",)), r"1 classes are left \(x\); there must be 2"),
    ],
)
def test_rules_that_cannot_be_are_refused(rules: Rules, text: str) -> None:
    with pytest.raises(UserError, match=text):
        values(THREE, rules)


def test_a_merged_class_may_have_an_old_name_and_keeps_the_first_place() -> None:
    found = values(THREE, Rules(unmarked="background", merge=("b=a,b",)))
    assert found.classes.names == ("background", "b", "c")
    assert found.of == {"a": 1, "b": 1, "c": 2, IGNORE: 255}


# Shapes


def test_a_pixel_belongs_to_a_shape_when_its_centre_is_inside() -> None:
    triangle = shapes.polygon([(0, 0), (4, 0), (0, 4)], (4, 4), what="")
    assert triangle.astype(int).tolist() == [[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    circle = shapes.ellipse((2, 2), (1.6, 1.6), (4, 4), what="")  # centres at 0.71 and at 1.58 from (2, 2); 2.12 is out
    assert circle.astype(int).tolist() == [[0, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 1, 0]]
    line = shapes.line([(0.5, 1.5), (3.5, 1.5)], 2, (4, 4), what="")  # one pixel above and below
    assert line.astype(int).tolist() == [[1] * 4, [1] * 4, [1] * 4, [0] * 4]
    assert shapes.line([(1.5, 1.5)], 2, (3, 3), what="").astype(int).tolist() == [[0, 1, 0], [1, 1, 1], [0, 1, 0]]


def test_an_outline_that_doubles_back_leaves_a_hole() -> None:
    ring = [(0, 0), (4, 0), (4, 4), (0, 4), (0, 0), (1, 1), (1, 3), (3, 3), (3, 1), (1, 1)]
    expected = [[1, 1, 1, 1], [1, 0, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1]]
    assert shapes.polygon(ring, (4, 4), what="").astype(int).tolist() == expected


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_compressed_run_length_codes_come_back_as_they_were(share: float) -> None:
    mask = np.random.default_rng(0).random((70, 90)) < share
    assert np.array_equal(shapes.rle(shapes.to_rle(mask), mask.shape, what=""), mask)


def test_run_length_codes_run_down_the_columns() -> None:
    assert shapes.rle({"size": [2, 3], "counts": [1, 2, 3]}, (2, 3), what="").tolist() == [
        [False, True, False],
        [True, False, False],
    ]


def test_brush_strokes_are_read_with_runs_and_with_single_values() -> None:
    """Two pixels in a row, the second opaque, as a run of 4 zeros and then four values of their own."""
    bits = f"{8:032b}{7:05b}" + "".join(f"{n - 1:04b}" for n in (3, 4, 8, 16))
    bits += "1" + "00" + f"{3:03b}" + f"{0:08b}"  # a run of 4
    bits += "0" + "00" + f"{3:03b}" + "".join(f"{value:08b}" for value in (255, 0, 7, 200))
    code = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")
    assert decode(list(code), (1, 2), what="").tolist() == [[False, True]]
    with pytest.raises(UserError, match="it is no brush stroke on an image of 2x1"):
        decode(list(code[:-3]), (1, 2), what="it")
    with pytest.raises(UserError, match="it is no brush stroke on an image of 3x1"):
        decode(list(code), (1, 3), what="it")


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (200, 300)])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_brush_strokes_come_back_as_they_were(size: tuple[int, int], share: float) -> None:
    mask = np.random.default_rng(0).random(size) < share
    assert np.array_equal(decode(encode(mask), size, what=""), mask)


@pytest.mark.parametrize("kind", ["circle", "line", "linestrip", "point", "mask"])
def test_labelme_draws_every_type_that_has_an_area(kind: str, tmp_path: Path) -> None:
    points = {"circle": [(5, 5), (5, 8)], "point": [(5, 5)], "mask": [(3, 4), (4, 5)]}
    patch = shapes.encode_png(np.array([[True, False], [True, True]]))
    thing = {"label": "x", "points": points.get(kind, [(2, 5), (10, 5)]), "shape_type": kind, "mask": patch}
    photo(tmp_path / "a.jpg")
    write_json(tmp_path / "a.json", labelme_content("a.jpg", [thing]))
    export = READERS["labelme"](tmp_path, Reading(line_width=4))
    assert export.photos[0].regions is not None
    ((name, mask),) = export.photos[0].regions(SIZE)
    # A circle of radius 3: pi r^2 = 28.3, its pixels 32. Lines: 8 x 4 and round ends; a point: a disc of 4.
    assert (name, int(mask.sum())) == ("x", {"circle": 32, "point": 12, "mask": 3}.get(kind, 8 * 4 + 12))


# Colours


def test_colours_are_learnt_with_their_share_and_noise_is_told(tmp_path: Path) -> None:
    mask = np.array(COLORS, np.uint8)[PICTURE]
    mask[0, 0] = (3, 2, 0)  # nearly black
    write_image(tmp_path / "masks/a.png", mask)
    told = learn_table(tmp_path / "masks", tmp_path / "colors.csv")
    lines = (tmp_path / "colors.csv").read_text().splitlines()
    assert lines[0] == "name,red,green,blue,percent,note"
    pixels = [12 * 16 - 1 - 10 - 12, 12, 10]  # the blight hides 2 of the leaf's 12
    assert lines[1] == f",0,0,0,{100 * pixels[0] / 192:.3f},and 1 pixels of nearly this colour: use --tolerance 24"
    assert lines[2:] == [f",200,60,0,{100 * 12 / 192:.3f},", f",0,160,0,{100 * 10 / 192:.3f},"]
    assert "3 colours; give each a name" in told
    with pytest.raises(UserError, match="is there already"):
        learn_table(tmp_path / "masks", tmp_path / "colors.csv")


def test_colours_off_their_class_are_refused_until_noise_is_allowed(tmp_path: Path) -> None:
    source, options = rgb_masks(tmp_path / "export")
    mask = np.array(COLORS, np.uint8)[PICTURE]
    mask[1, 2] = (4, 150, 9)
    write_image(source / "labels/a.png", mask)
    reading = Reading(colors=source / "colors.csv")
    text = (
        r"1 pixels have the colour of no class, such as \(4, 150, 9\); the nearest is leaf \(0, 160, 0\), 10 off: add"
    )
    with pytest.raises(UserError, match=text):
        convert(source, "rgb", tmp_path / "out", reading=reading)
    assert prepare(source, "rgb", tmp_path / "noise", *options, "--tolerance", "10") == 0
    assert np.array_equal(label(tmp_path / "noise"), PICTURE)


def test_cvat_without_a_labelmap_has_vocs_colours(tmp_path: Path) -> None:
    source, _ = cvat_masks(tmp_path / "export")
    (source / "labelmap.txt").unlink()
    for name in NAMES:
        colors = np.array([(0, 0, 0), (128, 0, 0), (224, 224, 192)], np.uint8)
        write_image(source / f"SegmentationClass/{name}.png", colors[PICTURE])
    prepare(source, "cvat", tmp_path / "out")
    assert np.array_equal(label(tmp_path / "out"), np.choose(PICTURE, [0, 1, 255]))
    assert len(class_names(tmp_path / "out")) == 21


# Back to the tools


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("names", [("background", "leaf", "blight"), ("sky", "road", "car & van")])
def test_label_maps_come_back_from_each_tool_without_a_pixel_changed(
    form: str, names: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng, maps = np.random.default_rng(3), {}
    for name in ("a", "b", "day/c", "d+e & f#1 %41"):
        photo(tmp_path / f"in/images/{name}.jpg")
        maps[name] = rng.choice(np.array([0, 1, 2, 255], np.uint8), SIZE)
    maps["b"] = np.full(SIZE, 1, np.uint8)  # one class alone; the last occurs nowhere
    for drawn in maps.values():
        drawn[drawn == 2] = 0
    for name, drawn in maps.items():
        write_image(tmp_path / f"in/labels/{name}.png", drawn)
    rows = "".join(f"{i},{name},{i},{2 * i},9\n" for i, name in enumerate(names))
    (tmp_path / "in/classes.csv").write_text("index,name,red,green,blue\n" + rows)
    tool = tmp_path / "to correct"
    arguments = ["prepare", "export-labels", str(tmp_path / "in"), "--format", form, "--out", str(tool)]
    assert main(arguments) == 0
    back = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("back: "))
    options = shlex.split(back.split(f"--format {form} ")[1].replace(" --out DIR", ""))
    source = tool / "tasks.json" if form == "label-studio" else tool
    options += ["--predictions"] if form == "label-studio" else []
    options += ["--images", str(tmp_path / "in/images")] if form == "cvat" else []
    assert prepare(source, form, tmp_path / "out", *options) == 0
    assert class_names(tmp_path / "out") == list(names)
    for name, drawn in maps.items():
        assert np.array_equal(label(tmp_path / "out", name), drawn), name


def test_corrected_labels_are_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "tool").mkdir()
    (tmp_path / "tool/a.json").write_text("{}")
    with pytest.raises(UserError, match="tool is not empty; choose another --out"):
        export_labels(tmp_path, "labelme", tmp_path / "tool")


# Bad input: one sentence each, and no list is written


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def small_photo(source: Path, name: str) -> None:
    write_image(next(source.rglob(f"{name}.jpg")), np.zeros((HEIGHT, WIDTH - 1, 3), np.uint8))


def edit_json(path: Path, edit: Callable[[Any], Any]) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


COCO_FILE = "annotations/instances_default.json"


def annotation(**changes: Any) -> Callable[[Path], None]:
    """Change the first annotation of `coco_json`."""
    return lambda source: edit_json(source / COCO_FILE, lambda content: content["annotations"][0].update(changes))


BAD: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "a polygon outside": (
        "coco",
        annotation(segmentation=[[0, 0, 9, 0, 9, 40]]),
        r"annotation 10 \(leaf\) has the point \(9, 40\), outside its image of 16x12 pixels",
    ),
    "a polygon of two points": (
        "coco",
        annotation(segmentation=[[0, 0, 9, 0]]),
        r"annotation 10 \(leaf\) has 2 points, expected 3 or more",
    ),
    "a box alone": (
        "coco",
        annotation(segmentation=[]),
        r"annotation 10 \(leaf\) is a box without a segmentation",
    ),
    "a mask of another size": (
        "coco",
        annotation(segmentation={"size": [2, 2], "counts": [4]}),
        r"annotation 10 \(leaf\) is a mask of 2x2 on an image of 16x12",
    ),
    "runs that are too short": (
        "coco",
        annotation(segmentation={"size": [12, 16], "counts": [4]}),
        r"annotation 10 \(leaf\) has runs of 4 pixels, expected 192",
    ),
    "a compressed code of nothing": (
        "coco",
        annotation(segmentation={"size": [12, 16], "counts": ""}),
        r"annotation 10 \(leaf\) has runs of 0 pixels, expected 192",
    ),
    "a compressed code that ends too soon": (
        "coco",
        annotation(segmentation={"size": [12, 16], "counts": shapes.to_rle(PICTURE == 1)["counts"][:-3]}),
        r"annotation 10 \(leaf\) (has runs of \d+ pixels, expected 192|is a broken run-length code)",
    ),
    "a compressed code with a foreign sign": (
        "coco",
        annotation(segmentation={"size": [12, 16], "counts": "!"}),
        r"annotation 10 \(leaf\) is a broken run-length code",
    ),
    "two images of one id": (
        "coco",
        lambda source: edit_json(source / COCO_FILE, lambda c: c["images"][1].update(id=c["images"][0]["id"])),
        "has two images of the id 1, a.jpg and b.jpg; export it again",
    ),
    "a flat outline": (
        "coco",
        annotation(segmentation=[0, 0, 9, 0, 9, 9]),
        r"annotation 10 \(leaf\) has no list of polygons, each x1, y1, x2, y2",
    ),
    "an outline of five numbers": (
        "coco",
        annotation(segmentation=[[0, 0, 9, 0, 9]]),
        r"annotation 10 \(leaf\) has no list of polygons, each x1, y1, x2, y2",
    ),
    "a class called null": (
        "coco",
        lambda source: edit_json(source / COCO_FILE, lambda c: c["categories"][0].update(name=None)),
        r"instances_default.json has a class without a name \(null\)",
    ),
    "a shape called null": (
        "labelme",
        lambda source: edit_json(source / "b.json", lambda c: c["shapes"][0].update(label=None)),
        r"b.json has a class without a name \(null\)",
    ),
    "a rectangle of four points": (
        "labelme",
        lambda source: edit_json(source / "b.json", lambda c: c["shapes"][1].update(points=LEAF)),
        r"shape 2 \(blight\) has 4 points, expected 2",
    ),
    "a circle of three points": (
        "labelme",
        lambda source: edit_json(
            source / "b.json", lambda c: c["shapes"][1].update(points=LEAF[:3], shape_type="circle")
        ),
        r"shape 2 \(blight\) has 3 points, expected 2",
    ),
    "two classes of one name": (
        "yolo",
        lambda source: change(source / "data.yaml", "1: blight", "1: leaf"),
        "has leaf as the name of more than one class",
    ),
    "a folder for two parts, spelled otherwise": (
        "yolo",
        lambda source: change(source / "data.yaml", "images/val", "./images/train/"),
        "data.yaml names images/train for two parts; give each photos of its own",
    ),
    "a task of two images": (
        "label-studio",
        lambda source: edit_json(
            source / "project-1-at-2026.json", lambda c: c[1].update(data={"left": "images/a.jpg", "right": "b.jpg"})
        ),
        "task 1 is of several images, images/a.jpg, b.jpg; make a task of each",
    ),
    "regions of two images": (
        "label-studio",
        lambda source: edit_json(
            source / "project-1-at-2026.json", lambda c: c[1]["annotations"][1]["result"][1].update(to_name="right")
        ),
        "task 1 is of several images, /data/upload/1/0a1b2c3d-b.jpg; make a task of each",
    ),
    "a mask with transparent pixels": (
        "rgb",
        lambda source: Image.new("RGBA", SIZE[::-1], (0, 160, 0, 9)).save(source / "labels/b.png"),
        "b.png has pixels that are transparent, so they have no colour; fill them",
    ),
    "a class without a name": (
        "coco",
        lambda source: edit_json(source / COCO_FILE, lambda c: c["categories"][0].update(name=" ")),
        "the export has a class without a name among",
    ),
    "two files that label the same photos": (
        "coco",
        lambda source: shutil.copy(source / COCO_FILE, source / "annotations/more.json"),
        r"instances_default.json, .*more.json both label .*a.jpg; name one of them",
    ),
    "a folder for two parts": (
        "yolo",
        lambda source: change(source / "data.yaml", "images/val", "images/train"),
        "data.yaml names images/train for two parts; give each photos of its own",
    ),
    "an unknown category": (
        "coco",
        annotation(category_id=99),
        "annotation 10 has the category 99, which is not listed",
    ),
    "an image that is not there": (
        "coco",
        lambda source: (source / "images/b.jpg").unlink(),
        r"instances_default.json names b.jpg, which is not in .*; say where the photos are: --images",
    ),
    "a photo of another size": (
        "coco",
        lambda source: small_photo(source, "b"),
        r"instances_default.json has labels of 16x12 for .*b.jpg, which is 15x12; see that the export",
    ),
    "a path that leads out": (
        "coco",
        lambda source: edit_json(source / COCO_FILE, lambda c: c["images"][0].update(file_name="../images/a.jpg")),
        r"is called '../images/a.jpg', expected a path below the export's folder",
    ),
    "two sizes of mask and photo": (
        "index",
        lambda source: small_photo(source, "b"),
        r"b.png has labels of 16x12 for .*15x12",
    ),
    "a value without a name": (
        "index",
        lambda source: write_image(source / "labels/b.png", np.full(SIZE, 9, np.uint8)),
        r"b.png holds the value 9, which is none of the 3 classes; map it \(--map 9=ignore\)",
    ),
    "a mask without a photo": ("index", lambda source: (source / "images/b.jpg").unlink(), "1 labels have no image"),
    "a truncated mask": (
        "index",
        lambda source: (source / "labels/b.png").write_bytes((source / "labels/b.png").read_bytes()[:60]),
        "b.png cannot be decoded",
    ),
    "a truncated photo": (
        "labelme",
        lambda source: (source / "b.jpg").write_bytes((source / "b.jpg").read_bytes()[:200]),
        "b.jpg cannot be decoded",
    ),
    "a colour of no class": (
        "cvat",
        lambda source: write_image(source / "SegmentationClass/b.png", np.full((*SIZE, 3), 99, np.uint8)),
        r"b.png: 192 pixels have the colour of no class, such as \(99, 99, 99\)",
    ),
    "a broken labelmap": (
        "cvat",
        lambda source: change(source / "labelmap.txt", "leaf:0,160,0", "leaf:0,160"),
        r"labelmap.txt, line 3: expected name:red,green,blue:parts:actions, found 'leaf:0,160::'",
    ),
    "a segment that is not listed": (
        "coco-panoptic",
        lambda source: edit_json(source, lambda c: c["annotations"][1]["segments_info"].pop()),
        "b.png holds the segment 65536, which its JSON does not list",
    ),
    "a box of yolo": (
        "yolo",
        lambda source: (source / "labels/train/b.txt").write_text("0 0.5 0.5 0.2 0.2"),
        "b.txt, line 1 is a box, not a polygon; export the data set for segmentation",
    ),
    "a class that data.yaml lacks": (
        "yolo",
        lambda source: (source / "labels/train/b.txt").write_text("2 0 0 1 0 1 1"),
        "b.txt, line 1 has the class 2, data.yaml names 0 to 1",
    ),
    "a point outside in yolo": (
        "yolo",
        lambda source: (source / "labels/train/b.txt").write_text("1 0 0 1.2 0 1 1"),
        r"b.txt, line 1 \(blight\) has the point \(19.2, 0\), outside its image",
    ),
    "a class that labels.txt lacks": (
        "labelme",
        lambda source: change(source / "labels.txt", "blight\n", ""),
        "labels.txt does not name blight, which is drawn",
    ),
    "a type without an area": (
        "labelme",
        lambda source: change(source / "b.json", "polygon", "cuboid"),
        r"shape 1 \(leaf\) is of the type cuboid, which has no area",
    ),
    "a turned photo": (
        "label-studio",
        lambda source: change(source / "project-1-at-2026.json", '"image_rotation": 0', '"image_rotation": 90'),
        r"task 0, region r0 \(leaf\) was drawn on a turned photo",
    ),
    "a key point": (
        "label-studio",
        lambda source: change(source / "project-1-at-2026.json", '"type": "polygonlabels"', '"type": "keypointlabels"'),
        "task 0 has a region of the type keypointlabels, which has no area or no label",
    ),
    "a region of a type to come": (
        "label-studio",
        lambda source: change(source / "project-1-at-2026.json", '"type": "polygonlabels"', '"type": "splinelabels"'),
        "task 0 has a region of the type splinelabels, which has no area or no label",
    ),
    "a broken brush stroke": (
        "label-studio",
        lambda source: change(source / "project-1-at-2026.json", '"rle": [0, 0, 3, 0', '"rle": [0, 0, 4, 0'),
        r"task 0, region r0 \(blight\) is no brush stroke on an image of 16x12",
    ),
    "a class that meta.json lacks": (
        "supervisely",
        lambda source: change(source / "ds0/ann/b.jpg.json", '"classTitle": "leaf"', '"classTitle": "tree"'),
        r"object 1 \(tree\) has a class that meta.json does not list",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_ends_in_a_sentence_and_no_list(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    form, spoil, text = BAD[case]
    source, options = EXPORTS[form](tmp_path / "export")
    spoil(tmp_path / "export" if source.is_dir() else source)
    out = tmp_path / "out"
    assert prepare(source, form, out, *options) == 2
    told = capsys.readouterr().err
    assert re.search(text, told), told
    assert len(told.splitlines()) == 1
    assert not [file for file in out.glob("*") if file.suffix in (".txt", ".csv")]
    assert not list(out.rglob("*.tmp"))


@pytest.mark.parametrize(
    "case", ["a polygon outside", "a truncated photo", "a truncated mask", "a point outside in yolo"]
)
def test_what_is_broken_is_skipped_and_counted_when_asked(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    form, spoil, text = BAD[case]
    source, options = EXPORTS[form](tmp_path / "export")
    spoil(source)
    assert prepare(source, form, tmp_path / "out", *options, "--skip-broken") == 0
    told = capsys.readouterr().out
    assert "4 photos, 4 of them made now, 1 skipped" in told
    assert re.search(f"skipped: .*{text}", told)
    lists = "".join((tmp_path / f"out/{part}.txt").read_text() for part in ("train", "val"))
    assert len(lists.splitlines()) == 4


@pytest.mark.parametrize("form", ["coco", "coco-panoptic", "labelme", "label-studio", "cvat"])
def test_a_photo_that_is_not_there_is_skipped_when_asked(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, options = EXPORTS[form](tmp_path / "export")
    next((tmp_path / "export").rglob("b.jpg")).unlink()
    assert prepare(source, form, tmp_path / "out", *options) == 2
    assert "b" in capsys.readouterr().err
    assert prepare(source, form, tmp_path / "out", *options, "--skip-broken") == 0
    told = capsys.readouterr().out
    assert "4 photos, 4 of them made now, 1 skipped" in told
    assert re.search(r"skipped: .* names b, whose photo is not there; say where it is with --images", told), told
    shutil.rmtree(tmp_path / "out")
    for file in (tmp_path / "export").rglob("*.jpg"):
        file.unlink()
    assert prepare(source, form, tmp_path / "out", *options, "--skip-broken") == 2


@pytest.mark.parametrize(
    ("form", "named"), [(a, b) for a in EXPORTS for b in EXPORTS if a != b and b not in ("index", "rgb")]
)
def test_an_export_of_another_tool_than_named_is_told(
    form: str, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, _ = EXPORTS[form](tmp_path / "export")
    assert prepare(source, named, tmp_path / "out", "--unmarked", "ignore") == 2
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1
    assert "expected" in told
    likely = {"index", "rgb", "coco-stuff"}  # folders of masks have no file that tells
    assert f"it looks like --format {form}" in told or form in likely, told
    assert not (tmp_path / "out").exists()


def test_pycocotools_missing_is_told_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(UserError, match="need pycocotools: pip install pycocotools"):
        shapes.polygon([(0, 0), (1, 0), (1, 1)], (2, 2), what="")
