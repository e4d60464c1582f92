"""Test data: lists, partitions, labels, augmentation, CutMix pairs, sampling, what reaches the device."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
import pytest
import torch
from helpers import write_image
from torch.utils._pytree import tree_leaves
from torch.utils.data import default_collate

from mgd.config import CPS, Data, Experiment, Model, Supervised, Train, override
from mgd.data.batch import to_device
from mgd.data.classes import BUILT_IN, Classes, read_classes
from mgd.data.cutmix import box_masks, mix
from mgd.data.datasets import Item, Splits, open_splits, open_val, read_list, split
from mgd.data.images import load_image, load_label
from mgd.data.loaders import PREFETCH, collate, make_loader, shared_bytes
from mgd.data.names import name_of
from mgd.data.positions import LABELED, PARTNER, UNLABELED, PositionSampler, draw
from mgd.data.samples import TrainingSamples, ValidationSamples
from mgd.data.transforms import augment, draw_geometry, resize, shrink
from mgd.errors import UserError
from mgd.models.normalise import NormalisingNetwork
from mgd.published import CITY, VOC

SCALES = (0.5, 0.75, 1.0, 1.5, 1.75, 2.0)
CPU = torch.device("cpu")


def write_pair(image: Path, label: Path) -> None:
    write_image(image, np.full((6, 8, 3), 90, np.uint8))
    write_image(label, np.zeros((6, 8), np.uint8))


def write_voc(root: Path, names: list[str], val: list[str]) -> None:
    """Bare names, in the folders of VOC's layout."""
    root.mkdir(exist_ok=True)
    for folder, part in (("train_aug", names), ("val", val)):
        (root / f"{folder}.txt").write_text("".join(f"{name}\n" for name in part))
        for name in part:
            write_pair(root / folder / "image" / f"{name}.jpg", root / folder / "label" / f"{name}.png")


def names(items: list[Item]) -> list[str]:
    return [item.name for item in items]


# Lists


def test_bare_names_stand_for_the_folders_of_voc(tmp_path: Path) -> None:
    write_voc(tmp_path, ["a", "b"], ["c"])
    items = read_list(tmp_path / "train_aug.txt", tmp_path, "train_aug", labels=True)
    folder = tmp_path / "train_aug"
    assert items == [Item(n, folder / "image" / f"{n}.jpg", folder / "label" / f"{n}.png") for n in ("a", "b")]


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_line_may_name_image_and_label_with_or_without_the_slash_of_cityscapes(tmp_path: Path, slash: str) -> None:
    write_pair(tmp_path / "images/train/a.png", tmp_path / "segmentation/train/a_gt.png")
    (tmp_path / "list.txt").write_text(f"{slash}images/train/a.png\t{slash}segmentation/train/a_gt.png\r\n\n")
    items = read_list(tmp_path / "list.txt", tmp_path, "unused", labels=True)
    assert items == [
        Item("images/train/a.png", tmp_path / "images/train/a.png", tmp_path / "segmentation/train/a_gt.png")
    ]


def test_a_line_may_name_an_image_alone_where_no_label_is_asked_for(tmp_path: Path) -> None:
    write_image(tmp_path / "photos/a.JPEG", np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "list.txt").write_text("photos/a.JPEG\n")
    assert read_list(tmp_path / "list.txt", tmp_path, "", labels=False)[0].label is None
    with pytest.raises(UserError, match=r"list.txt: photos/a.JPEG has no label; write image<TAB>label"):
        read_list(tmp_path / "list.txt", tmp_path, "", labels=True)


def test_the_published_layouts_are_read_as_they_are(tmp_path: Path) -> None:
    write_voc(tmp_path / "voc", ["a", "b", "c", "d"], ["e"])
    voc = open_splits(replace(VOC, root=str(tmp_path / "voc"), partition=2))
    assert [names(part) for part in (voc.labeled, voc.unlabeled, voc.val)] == [["a", "c"], ["b", "d"], ["e"]]
    assert len(voc.classes) == 21

    city = tmp_path / "city"
    (city / "config_new").mkdir(parents=True)
    for part, some in {"train": "pqrs", "val": "t"}.items():
        pairs = [(f"images/{part}/{n}.png", f"segmentation/{part}/{n}_gtFine.png") for n in some]
        (city / f"config_new/{part}.txt").write_text("".join(f"/{i}\t/{s}\n" for i, s in pairs))
        for image, label in pairs:
            write_pair(city / image, city / label)
    found = open_splits(replace(CITY, root=str(city), partition=4))
    assert [names(part) for part in (found.labeled, found.unlabeled, found.val)] == [
        [f"images/{part}/{name}.png" for name in some]
        for part, some in (("train", "p"), ("train", "qrs"), ("val", "t"))
    ]
    assert len(found.classes) == 19


WINDOWS = {"utf-8-sig": "\r\n", "utf-16": "\r\n", "utf-16-le": "\n", "utf-16-be": "\r\n", "utf-32": "\n", "utf-8": "\r"}


@pytest.mark.parametrize("encoding", WINDOWS)
def test_lists_and_class_tables_of_windows_programs_are_read(tmp_path: Path, encoding: str) -> None:
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""  # the others write it by themselves

    def write(name: str, *lines: str) -> None:
        text = mark + "".join(f"{line}{WINDOWS[encoding]}" for line in lines)
        (tmp_path / name).write_bytes(text.encode(encoding))

    for name in "ab":
        write_pair(tmp_path / f"{name}.png", tmp_path / f"l{name}.png")
    write("list.txt", "a.png\tla.png", "", "b.png\tlb.png")
    write("classes.csv", "Index, Name,red,green,blue,", "0,sky,1,2,3,,", '1,"tree, dead",4,5,6', ",,,,")
    items = read_list(tmp_path / "list.txt", tmp_path, "", labels=True)
    assert items == [Item(f"{n}.png", tmp_path / f"{n}.png", tmp_path / f"l{n}.png") for n in "ab"]
    assert read_classes("classes.csv", tmp_path) == Classes(("sky", "tree, dead"), ((1, 2, 3), (4, 5, 6)))


@pytest.mark.parametrize("sign", ["\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"])
def test_newlines_alone_end_a_line(tmp_path: Path, sign: str) -> None:
    write_pair(tmp_path / f"a{sign}b.png", tmp_path / f"l{sign}b.png")
    (tmp_path / "list.txt").write_text(f"a{sign}b.png\tl{sign}b.png\n")
    items = read_list(tmp_path / "list.txt", tmp_path, "", labels=True)
    assert items == [Item(f"a{sign}b.png", tmp_path / f"a{sign}b.png", tmp_path / f"l{sign}b.png")]
    (tmp_path / "classes.csv").write_text(f"index,name,red,green,blue\n0,a{sign}b,1,2,3\n1,c,4,5,6\n")
    assert read_classes("classes.csv", tmp_path).names == (f"a{sign}b", "c")


def test_absolute_paths_are_taken_where_nothing_below_the_root_is_meant(tmp_path: Path) -> None:
    root, other = tmp_path / "root", tmp_path / "elsewhere"
    write_pair(other / "a.png", other / "la.png")
    write_pair(root / "b.png", root / "lb.png")
    (root / "list.txt").write_text(f"{other}/a.png\t{other}/la.png\n/b.png\t{root}/lb.png\n")
    items = read_list(root / "list.txt", root, "", labels=True)
    assert [(item.image, item.label) for item in items] == [
        (other / "a.png", other / "la.png"),
        (root / "b.png", root / "lb.png"),
    ]
    assert names(items) == [f"{other}/a.png"[1:], "b.png"]


@pytest.mark.parametrize("listed", ["NFC", "NFD"])
@pytest.mark.parametrize("stored", ["NFC", "NFD"])
def test_two_forms_of_one_unicode_name_are_one(tmp_path: Path, listed: str, stored: str) -> None:
    def form(kind: str) -> str:
        return normalize(kind, "é/größe")

    write_pair(tmp_path / f"{form(stored)}.png", tmp_path / f"{form(stored)} l.png")
    write_pair(tmp_path / f"part/image/{form(stored)}.jpg", tmp_path / f"part/label/{form(stored)}.png")
    (tmp_path / "list.txt").write_text(f"{form(listed)}.png\t{form(listed)} l.png\n{form(listed)}\n")
    items = read_list(tmp_path / "list.txt", tmp_path, "part", labels=True)
    assert names(items) == ["é/größe.png", "é/größe"]
    assert items[0].image == tmp_path / f"{form(stored)}.png"
    assert items[1].label == tmp_path / f"part/label/{form(stored)}.png"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("a.png;la.png", "a semicolon between image and label; expected a tab"),
        ("a.png, la.png", "a comma between image and label; expected a tab"),
        ("images\\a.png\tla.png", "backslashes; write /"),
    ],
)
def test_a_list_of_another_kind_is_hinted_at(tmp_path: Path, line: str, words: str) -> None:
    write_pair(tmp_path / "a.png", tmp_path / "la.png")
    (tmp_path / "list.txt").write_text(f"{line}\n")
    with pytest.raises(UserError, match=f"list.txt.* The first line has {words}"):
        read_list(tmp_path / "list.txt", tmp_path, "", labels=True)


# Names


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("2007_000032", "2007_000032"),
        ("images/seqA/0001.png\tlabels/seqA/0001.png", "images/seqA/0001.png"),
        ("/images/train/a.b.png\t/segmentation/train/a.png", "images/train/a.b.png"),
        ("images/./x/../a.jpg", "images/a.jpg"),
        ("../../../x", "__/__/__/x"),
        ("images/../../a.jpg", "__/a.jpg"),
        ("//a.jpg", "a.jpg"),
        ("e\u0301.jpg", "\xe9.jpg"),
    ],
)
def test_a_name_is_the_path_below_the_root_and_leads_out_of_no_folder(line: str, name: str) -> None:
    assert name_of(line) == name


def test_a_folder_and_a_list_of_its_files_give_the_same_names_and_hash(tmp_path: Path) -> None:
    for name in ("seqA/0001", "seqB/0001"):
        write_pair(tmp_path / f"train/images/{name}.png", tmp_path / f"train/labels/{name}.png")
    lines = [f"train/images/{n}.png\ttrain/labels/{n}.png\n" for n in ("seqA/0001", "seqB/0001")]
    (tmp_path / "list.txt").write_text("".join(lines))
    (tmp_path / "first.txt").write_text(lines[0])
    (tmp_path / "second.txt").write_text(lines[1])
    (tmp_path / "classes.csv").write_text("index,name,red,green,blue\n0,a,1,2,3\n1,b,4,5,6\n")

    def opened(part: str) -> Splits:
        return open_splits(Data(root=str(tmp_path), train_list=part, val_list=part, partition=1))

    assert names(opened("train").labeled) == ["train/images/seqA/0001.png", "train/images/seqB/0001.png"]
    assert opened("train").labeled == opened("list.txt").labeled
    assert opened("train").sha256 == opened("list.txt").sha256
    assert opened("first.txt").sha256 != opened("second.txt").sha256


# Partitions


@pytest.mark.parametrize(
    ("total", "ratio", "labeled"),
    [
        *((10_582, ratio, count) for ratio, count in {16: 662, 8: 1323, 4: 2646, 2: 5291}.items()),
        *((2_975, ratio, count) for ratio, count in {16: 186, 8: 372, 4: 744, 2: 1488}.items()),
    ],
)
def test_partitions_have_the_published_sizes(total: int, ratio: int, labeled: int) -> None:
    few, many = split(range(total), ratio)
    assert (len(few), len(many)) == (labeled, total - labeled)


@pytest.mark.parametrize("ratio", [1, 3, 5, 50])
def test_a_partition_takes_every_rth_name_and_keeps_the_order(ratio: int) -> None:
    some = [f"n{i:02}" for i in range(17)]
    labeled, unlabeled = split(some, ratio)
    assert labeled == some[::ratio]
    assert unlabeled == sorted(set(some) - set(labeled))


def test_the_users_own_partition_lists_are_used_when_they_are_there(tmp_path: Path) -> None:
    write_voc(tmp_path, list("abcdef"), ["v"])
    data = replace(VOC, root=str(tmp_path), partition=3)
    assert names(open_splits(data).labeled) == ["a", "d"]
    folder = tmp_path / "subset_train_aug"
    folder.mkdir()
    (folder / "train_aug_labeled_1-3.txt").write_text("f\nb\n")
    (folder / "train_aug_unlabeled_1-3.txt").write_text("e\na\n")
    splits = open_splits(data)
    assert (names(splits.labeled), names(splits.unlabeled)) == (["f", "b"], ["e", "a"])
    assert names(open_splits(replace(data, partition=2)).labeled) == ["a", "c", "e"]


def test_lists_that_are_named_and_not_there_are_refused_but_for_the_official_ones(tmp_path: Path) -> None:
    write_voc(tmp_path, list("abcd"), ["v"])
    (tmp_path / "classes.csv").write_text("index,name,red,green,blue\n0,a,0,0,0\n1,b,1,1,1\n")
    lists = "x/{part}_1-{ratio}.txt"
    data = replace(VOC, root=str(tmp_path), partition=2, partition_lists=lists)
    told = (
        r"x/labeled_1-2\.txt nor .*x/unlabeled_1-2\.txt exists; make them with mgd partition .*train_aug\.txt --ratio 2"
    )
    for classes in ("voc", "classes.csv"):
        with pytest.raises(UserError, match=told):
            open_splits(replace(data, classes=classes))
    assert names(open_splits(replace(data, partition_lists="")).labeled) == ["a", "c"]


def test_unlabelled_photos_come_from_a_list_or_a_folder_and_are_added(tmp_path: Path) -> None:
    write_voc(tmp_path, ["a", "b"], ["v"])
    for name in ("z.jpg", "deep/y.png"):
        write_image(tmp_path / "photos" / name, np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "photos/notes.txt").write_text("no photo")
    (tmp_path / "unlabeled.txt").write_text("photos/z.jpg\n")
    data = replace(VOC, root=str(tmp_path), partition=2)
    assert names(open_splits(replace(data, unlabeled="unlabeled.txt")).unlabeled) == ["b", "photos/z.jpg"]
    photos = names(open_splits(replace(data, unlabeled="photos")).unlabeled)
    assert photos == ["b", "photos/deep/y.png", "photos/z.jpg"]


def test_the_unlabelled_part_has_no_labels_whatever_is_on_the_disk(small_scenes: Path) -> None:
    splits = open_splits(Data(root=str(small_scenes), train_list="train_aug.txt", partition=4))
    assert all(item.label is None for item in splits.unlabeled)
    assert all(item.label is not None for item in splits.labeled)


# Files


def test_a_palette_png_gives_its_indices(tmp_path: Path) -> None:
    from PIL import Image

    values = np.array([[0, 3], [255, 1]], np.uint8)
    picture = Image.fromarray(values, mode="P")
    picture.putpalette([7 * i % 256 for i in range(768)])
    picture.save(tmp_path / "label.png")
    assert np.array_equal(load_label(tmp_path / "label.png", 4), values)


def test_ignored_values_become_255_and_others_are_refused(tmp_path: Path) -> None:
    path = write_image(tmp_path / "label.png", np.array([[0, 11], [2, 30]], np.uint8))
    assert load_label(path, 3, (11, 30)).tolist() == [[0, 255], [2, 255]]
    with pytest.raises(UserError, match=r"label.png holds the label value 30, expected 0..2 or 255.*ignore_values"):
        load_label(path, 3, (11,))


def test_grey_and_transparent_images_become_rgb(tmp_path: Path) -> None:
    grey = write_image(tmp_path / "grey.png", np.full((2, 3), 7, np.uint8))
    clear = write_image(tmp_path / "clear.png", np.full((2, 3, 4), (1, 2, 3, 0), np.uint8))
    assert np.array_equal(load_image(grey), np.full((2, 3, 3), 7))
    assert np.array_equal(load_image(clear), np.broadcast_to((1, 2, 3), (2, 3, 3)))


def test_sixteen_bit_images_are_refused(tmp_path: Path) -> None:
    path = write_image(tmp_path / "deep.png", np.full((2, 3), 700, np.uint16))
    with pytest.raises(UserError, match=r"deep.png has 16 bits a channel, expected 8"):
        load_image(path)


def test_a_class_table_is_read_from_csv(tmp_path: Path) -> None:
    (tmp_path / "classes.csv").write_text("index,name,red,green,blue\n0,sky,1,2,3\n1,tree,4,5,6\n")
    classes = read_classes("classes.csv", tmp_path)
    assert classes == Classes(("sky", "tree"), ((1, 2, 3), (4, 5, 6)))
    assert classes.palette()[[0, 1, 255]].tolist() == [[1, 2, 3], [4, 5, 6], [255, 255, 255]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name,index\n", "the header must be index,name,red,green,blue"),
        ("index,name,red,green,blue\n0,sky,1,2,3\n2,tree,4,5,6\n", "line 3: expected index 1"),
        ("index,name,red,green,blue\n0,sky,1,2,300\n", "line 2: expected index 0.*0..255"),
        ("index,name,red,green,blue\n0,sky,1,2,3\n", "lists 1 classes"),
        ("index;name;red;green;blue\n0;sky;1;2;3\n", "found index;name;red;green;blue; separate them by commas"),
        ("index,name,red,green,blue\n0,a,1,2,3\n1,a,4,5,6\n", "a is the name of more than one class; give each"),
        ("index,name,red,green,blue\n0,\xe9,1,2,3\n1,e\u0301,4,5,6\n", "\xe9 is the name of more than one class"),
        ("index,name,red,green,blue\n0,,1,2,3\n1,b,4,5,6\n", "line 2: expected index 0, a name"),
        ("index,name,red,green,blue\n0,a,1,2,3,7\n1,b,4,5,6\n", "line 2: .*found 0,a,1,2,3,7"),
    ],
)
def test_a_wrong_class_table_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "classes.csv").write_text(text)
    with pytest.raises(UserError, match=words):
        read_classes("classes.csv", tmp_path)


def test_built_in_palettes_are_the_published_ones() -> None:
    voc, city = BUILT_IN["voc"], BUILT_IN["city"]
    assert voc.colors[:4] == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0))
    assert voc.colors[20] == (0, 64, 128)
    assert city.colors[city.names.index("person")] == (220, 20, 60)


@pytest.mark.parametrize(("short", "size"), [(0, (40, 60)), (20, (20, 30)), (40, (40, 60)), (50, (40, 60))])
def test_photos_shrink_to_a_short_side_and_never_grow(short: int, size: tuple[int, int]) -> None:
    assert shrink(np.zeros((40, 60, 3), np.uint8), short).shape[:2] == size
    assert shrink(np.zeros((60, 40, 3), np.uint8), short).shape[:2] == size[::-1]


@pytest.mark.parametrize("scale", [0.25, 0.3, 0.41, 0.5, 0.62, 0.75, 1.25, *SCALES])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_label_map_keeps_its_place_at_every_scale(scale: float, axis: int) -> None:
    """A ramp tells where a pixel came from: its mean is the ramp's middle, and no pixel is off by more than a half."""
    ramp = np.arange(60, dtype=np.uint8)
    size = round(60 * scale)
    label = np.tile(ramp, (4, 1)) if axis else np.tile(ramp[:, None], (1, 4))
    found = resize(label, *((4, size) if axis else (size, 4)), nearest=True)
    line = found[0] if axis else found[:, 0]
    off = line - ((np.arange(size) + 0.5) * 60 / size - 0.5)
    assert np.abs(off).max() <= 0.5
    assert abs(off.mean()) < 0.6 / min(size, 60)  # of ties at most one is left alone
    photo = resize(4 * label, *found.shape) / 4  # four times, since fractions are rounded
    assert abs((photo - found).mean()) < 0.1  # and its photo lies where it lies


@pytest.mark.parametrize("short_side", [25, 30, 37, 45, 60, 75, 99])
def test_shrunk_labels_lie_on_their_shrunk_photos(short_side: int) -> None:
    rows, columns = np.mgrid[:100, :120].astype(np.uint8)
    for ramp in (rows, columns):
        photo = shrink(np.repeat(2 * ramp[..., None], 3, axis=2), short_side)[..., 0] / 2
        label = shrink(ramp, short_side, nearest=True)
        assert photo.shape == label.shape
        assert abs((photo - label).mean()) < 0.1  # OpenCV's nearest: 0.25 to 2 pixels
        assert np.abs(photo - label).max() <= 1


def test_halving_a_label_map_takes_turns_between_the_pixels_that_are_as_near() -> None:
    assert resize(np.arange(8, dtype=np.uint8)[None], 1, 4, nearest=True).tolist() == [[0, 3, 4, 7]]
    assert resize(np.arange(4, dtype=np.uint8)[None], 1, 8, nearest=True).tolist() == [[0, 0, 1, 1, 2, 2, 3, 3]]
    assert resize(np.arange(4, dtype=np.uint8)[None], 1, 6, nearest=True).tolist() == [[0, 0, 1, 2, 3, 3]]


@pytest.mark.parametrize("scale", SCALES)
def test_training_samples_have_labels_that_lie_on_their_images(scale: float) -> None:
    """Photo and label are one ramp, down or across; over many crops, none is ahead of the other."""
    rows, columns = np.mgrid[:60, :60].astype(np.uint8)
    for ramp in (rows, columns):
        off = []
        for seed in range(8):
            rng = np.random.default_rng(seed)
            picture = np.repeat(4 * ramp[..., None], 3, axis=2)
            image, label, geometry = augment(picture, ramp, scales=(scale,), crop=40, rng=rng)
            top, bottom, left, right = geometry.extent
            assert label is not None
            inside = slice(top, bottom), slice(left, right)
            off.append((image[..., 0] / 4 - label)[inside].mean())
        assert abs(np.mean(off)) < 0.06
        assert np.abs(off).max() < 0.15


# Augmentation


def checkerboard(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """An image whose red tells the label's column of 8 pixels, and whose green tells the row."""
    rows, columns = np.arange(height)[:, None] // 8, np.arange(width)[None] // 8
    image = np.stack(np.broadcast_arrays(20 * (columns + 1), 20 * (rows + 1), 77), axis=2).astype(np.uint8)
    return image, (8 * rows + columns).astype(np.uint8)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("crop", [24, 80])
def test_image_and_label_stay_aligned_and_the_extent_marks_the_image(scale: float, crop: int) -> None:
    whole = checkerboard(48, 56)
    for seed in range(6):
        rng = np.random.default_rng(seed)
        image, label, geometry = augment(*whole, scales=(scale,), crop=crop, rng=rng)
        assert label is not None
        assert (image.shape, label.shape) == ((crop, crop, 3), (crop, crop))
        top, bottom, left, right = geometry.extent
        inside = np.zeros((crop, crop), bool)
        inside[top:bottom, left:right] = True
        assert np.array_equal(image.any(axis=2), inside)  # no pixel of the picture is black
        assert np.array_equal(label != 255, inside)
        assert inside.sum() == min(crop, round(48 * scale)) * min(crop, round(56 * scale))
        colour = np.stack([20 * (label % 8 + 1.0), 20 * (label // 8 + 1.0)], axis=2)
        off = np.abs(image[..., :2] - colour)[inside]
        assert off.max() <= 20  # bilinear mixes neighbours at the borders of squares
        assert (off <= 1).mean() > 0.5


def test_an_image_without_label_is_augmented_like_one_with() -> None:
    image, label = checkerboard(48, 56)
    with_label = augment(image, label, scales=SCALES, crop=32, rng=np.random.default_rng(3))
    without = augment(image, None, scales=SCALES, crop=32, rng=np.random.default_rng(3))
    assert np.array_equal(with_label[0], without[0])
    assert without[1] is None


def test_half_are_mirrored_and_every_scale_is_drawn_as_often() -> None:
    image, label = checkerboard(40, 56)
    rng, seen = np.random.default_rng(0), Counter()
    for _ in range(600):
        found, _, geometry = augment(image, label, scales=SCALES, crop=120, rng=rng)
        top, bottom, left, right = geometry.extent
        mirrored = bool(found[top, left, 0] > found[top, right - 1, 0])
        seen[mirrored, (bottom - top) / 40] += 1
    assert {scale for _, scale in seen} == set(SCALES)
    assert 250 < sum(count for (mirrored, _), count in seen.items() if mirrored) < 350
    for scale in SCALES:
        assert 65 < seen[True, scale] + seen[False, scale] < 135


def test_crops_reach_every_part_of_the_image() -> None:
    image, label = checkerboard(40, 56)
    seen = np.zeros(64, bool)
    for seed in range(60):
        _, found, _ = augment(image, label, scales=(1.0,), crop=16, rng=np.random.default_rng(seed))
        seen[found.ravel()] = True
    assert set(np.flatnonzero(seen)) == set(label.ravel())


@pytest.mark.parametrize(("height", "width"), [(33, 40), (40, 33)])
def test_the_first_and_the_last_offset_of_a_crop_are_drawn_as_often_as_any(height: int, width: int) -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_geometry(height, width, scales=(1.0,), crop=32, rng=rng) for _ in range(900)]
    for side, offsets in ((height, [one.top for one in drawn]), (width, [one.left for one in drawn])):
        times = Counter(offsets)
        assert sorted(times) == list(range(side - 32 + 1))
        assert min(times.values()) > 0.6 * 900 / (side - 32 + 1)


# CutMix


def test_every_position_has_a_mask_of_its_own_whatever_the_epoch(small_scenes: Path) -> None:
    samples = samples_of(experiment(small_scenes, CPS()))
    masks = [samples[position]["mask"] for position in (*range(12), 9 * 10**6)]
    assert len({mask.tobytes() for mask in masks}) == 13
    assert np.array_equal(samples[3]["mask"], masks[3])


def test_masks_are_binary_differ_and_take_between_a_tenth_and_a_half() -> None:
    masks = box_masks(64, 32, 48, generator=np.random.default_rng(0))
    assert masks.shape == (64, 1, 32, 48)
    assert set(np.unique(masks)) == {0, 1}
    assert len({mask.tobytes() for mask in masks}) == 64
    share = masks.mean(axis=(1, 2, 3))
    # Three boxes of 1/12 to 1/6 each; where two overlap the mask is 0 again.
    assert share.max() <= 0.55
    assert 0.2 < share.mean() < 0.4


def test_mixing_takes_the_second_where_the_mask_is_one() -> None:
    first, second = torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)
    mask = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)) > 0.5
    assert torch.equal(mix(first, second, mask), mask.float().expand(2, 3, 4, 4))
    assert torch.equal(mix(first[:, 0], second[:, 0], mask), mask[:, 0].float())


# Sampling


@pytest.mark.parametrize("stream", [LABELED, UNLABELED, PARTNER])
@pytest.mark.parametrize("count", [2, 3, 7, 50])
def test_every_image_occurs_once_in_every_epoch_of_every_stream(stream: int, count: int) -> None:
    for epoch in range(4):
        drawn = [draw(5, stream, epoch * count + place, count) for place in range(count)]
        assert sorted(drawn) == list(range(count))


def test_the_order_changes_with_the_epoch_the_seed_and_the_stream() -> None:
    def order(seed: int, stream: int, epoch: int) -> list[int]:
        return [draw(seed, stream, 50 * epoch + place, 50) for place in range(50)]

    orders = [order(0, LABELED, 0), order(0, LABELED, 1), order(1, LABELED, 0), order(0, UNLABELED, 0)]
    assert all(one != other for i, one in enumerate(orders) for other in orders[:i])


@pytest.mark.parametrize("count", [2, 3, 7, 50])
def test_the_two_images_of_a_cutmix_pair_always_differ(count: int) -> None:
    for position in range(6 * count):
        assert draw(1, UNLABELED, position, count) != draw(1, PARTNER, position, count)


def test_cutmix_partners_are_others_in_other_epochs() -> None:
    pairs = [{(draw(0, UNLABELED, p, 20), draw(0, PARTNER, p, 20)) for p in range(20 * e, 20 * e + 20)} for e in (0, 1)]
    assert len(pairs[0] & pairs[1]) < 10


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_ranks_and_micro_batches_split_every_iteration_without_overlap(world: int, accumulate: int) -> None:
    size = 24
    samplers = [
        PositionSampler(3, 8, batch_size=size, accumulate=accumulate, rank=rank, world=world) for rank in range(world)
    ]
    batches = [list(sampler) for sampler in samplers]
    assert all(len(one) == len(sampler) == 5 * accumulate for one, sampler in zip(batches, samplers, strict=True))
    for step, iteration in enumerate(range(3, 8)):
        parts = [batch for one in batches for batch in one[step * accumulate : (step + 1) * accumulate]]
        assert all(len(part) == size // (world * accumulate) for part in parts)
        assert sorted(position for part in parts for position in part) == list(
            range(size * iteration, size * (iteration + 1))
        )


def test_a_run_that_goes_on_from_the_middle_gets_the_same_positions() -> None:
    def positions(start: int) -> list[list[int]]:
        return list(PositionSampler(start, 9, batch_size=4, accumulate=2, rank=0, world=1))

    assert positions(5) == positions(0)[5 * 2 :]


@pytest.mark.parametrize(("size", "remedy"), [(6, "use 4 or 8"), (3, "use 4")])
def test_a_batch_that_does_not_divide_is_refused_with_sizes_that_do(size: int, remedy: str) -> None:
    with pytest.raises(UserError, match=rf"train.batch_size={size} does not divide among 4 processes .* {remedy}$"):
        PositionSampler(0, 1, batch_size=size, accumulate=1, rank=0, world=4)


def experiment(root: Path, method: Any, **data: Any) -> Experiment:
    options = {"train_list": "train_aug.txt", "partition": 4, "crop_size": 32} | data
    return Experiment(
        data=Data(root=str(root), **options),
        model=Model(backbone="resnet18"),
        method=method,
        train=Train(batch_size=4),
    )


def samples_of(config: Experiment) -> TrainingSamples:
    return TrainingSamples(open_splits(config.data), config)


def flat(sample: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(sample, dict):
        return {prefix: sample}
    return {k: v for name, value in sample.items() for k, v in flat(value, f"{prefix}.{name}").items()}


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores
def test_samples_are_the_same_for_any_number_of_workers(small_scenes: Path) -> None:
    samples = samples_of(experiment(small_scenes, CPS()))

    def batches(workers: int) -> list[dict[str, Any]]:
        sampler = PositionSampler(0, 5, batch_size=4, accumulate=1, rank=0, world=1)
        return [flat(b) for b in make_loader(samples, sampler, workers=workers, device=CPU, batched=True)]

    alone = batches(0)
    assert len(alone) == 5
    for workers in (1, 3):
        for one, other in zip(alone, batches(workers), strict=True):
            assert one.keys() == other.keys()
            tensors = [name for name in one if isinstance(one[name], torch.Tensor)]
            assert len(tensors) >= 6
            assert all(torch.equal(one[name], other[name]) for name in tensors)


def test_a_sample_changes_with_the_epoch_and_with_the_seed(small_scenes: Path) -> None:
    config = experiment(small_scenes, Supervised(), partition=12)  # a single labelled image
    samples = samples_of(config)
    other = samples_of(replace(config, train=replace(config.train, seed=1)))
    first = samples[0]["labeled"]["image"]
    assert np.array_equal(first, samples[0]["labeled"]["image"])
    assert not np.array_equal(first, samples[1]["labeled"]["image"])
    assert not np.array_equal(first, other[0]["labeled"]["image"])


def test_the_images_of_a_position_are_named(small_scenes: Path) -> None:
    splits = open_splits(experiment(small_scenes, CPS()).data)
    samples = samples_of(experiment(small_scenes, CPS()))
    for position in range(20):
        labeled, first, second = samples.names(position)
        assert labeled in names(splits.labeled)
        assert {first, second} <= set(names(splits.unlabeled))
        assert first != second


def test_labels_alone_load_no_unlabelled_image(small_scenes: Path) -> None:
    assert samples_of(experiment(small_scenes, Supervised()))[0].keys() == {"labeled", "broken"}


def test_a_single_unlabelled_image_is_refused_for_cutmix(small_scenes: Path) -> None:
    splits = open_splits(experiment(small_scenes, CPS()).data)
    lonely = Splits(splits.classes, splits.labeled, splits.unlabeled[:1], splits.val)
    with pytest.raises(UserError, match=r"data.partition=4 leaves 1 unlabelled images.*method=supervised"):
        TrainingSamples(lonely, experiment(small_scenes, CPS()))


@pytest.mark.parametrize("cache", [False, True])
def test_training_photos_and_labels_shrink_to_the_short_side(small_scenes: Path, cache: bool) -> None:
    samples = samples_of(
        experiment(small_scenes, Supervised(), short_side=24, cache=cache, crop_size=64, scales=(1.0,))
    )
    for _ in range(2):
        view = samples[0]["labeled"]
        assert view["extent"].tolist() == [20, 44, 16, 48]  # 24x32 of a scene of 48x64, in the middle of 64x64
        assert int((view["label"] != 255).sum()) <= 24 * 32


def test_validation_keeps_the_labels_own_size_when_photos_shrink(small_scenes: Path) -> None:
    config = experiment(small_scenes, Supervised(), short_side=24)
    sample = ValidationSamples(open_val(config.data), config, 8)[1]
    assert sample["image"].shape == (3, 24, 32)
    assert sample["label"].shape == (48, 64)


# On the device


def test_what_reaches_the_device_is_uint8_and_normalised_it_is_zero_in_the_padding(small_scenes: Path) -> None:
    samples = samples_of(experiment(small_scenes, CPS(), crop_size=56, scales=(0.5, 1.0)))
    sampler = PositionSampler(0, 1, batch_size=6, accumulate=1, rank=0, world=1)
    raw = next(iter(make_loader(samples, sampler, workers=0, device=CPU, batched=True)))
    batch = to_device(raw, CPU, 7)
    assert batch.iteration == 7
    network = NormalisingNetwork()
    network.mean, network.std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)
    mean, std = torch.tensor(network.mean), torch.tensor(network.std)
    first, second, mask = batch.pair()
    for name, views in {"labeled": batch.labeled, "first": first, "second": second}.items():
        assert torch.equal(views.image, raw[name]["image"])
        assert views.image.dtype == torch.uint8
        normalised = network.normalise(views.image, views.valid)
        plain = (raw[name]["image"] / 255 - mean[:, None, None]) / std[:, None, None]
        for image, valid, expected, (top, bottom, left, right) in zip(
            normalised, views.valid, plain, raw[name]["extent"].tolist(), strict=True
        ):
            part = (slice(None), slice(top, bottom), slice(left, right))
            assert torch.allclose(image[part], expected[part], atol=1e-5)
            assert valid[part[1:]].all()
            assert int(valid.sum()) == (bottom - top) * (right - left) < 56 * 56
            assert not image[:, ~valid].any()
    assert batch.labeled.label is not None
    assert batch.labeled.label.dtype == torch.int64
    assert torch.equal(batch.labeled.label, raw["labeled"]["label"].long())
    assert (batch.labeled.label[~batch.labeled.valid] == 255).all()
    assert torch.equal(mask, raw["mask"] == 1)
    mixed = batch.mixed()
    assert torch.equal(mixed.image, torch.where(mask, second.image, first.image))
    assert torch.equal(mixed.valid, torch.where(mask[:, 0], second.valid, first.valid))


def test_collated_images_are_those_of_the_samples_channels_last(small_scenes: Path) -> None:
    samples = samples_of(experiment(small_scenes, CPS(), crop_size=56, scales=(0.5, 1.0)))
    chosen = [samples[position] for position in range(3)]
    found, expected = collate(chosen), default_collate(chosen)
    assert found.keys() == expected.keys()
    for name in ("labeled", "first", "second"):
        assert found[name].keys() == expected[name].keys()
        for key, values in expected[name].items():
            assert torch.equal(found[name][key], values.permute(0, 3, 1, 2) if key == "image" else values)
        assert found[name]["image"].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found["mask"], expected["mask"])


def test_labels_alone_make_a_batch_without_unlabelled_views(small_scenes: Path) -> None:
    samples = samples_of(experiment(small_scenes, Supervised()))
    sampler = PositionSampler(0, 1, batch_size=2, accumulate=1, rank=0, world=1)
    batch = to_device(next(iter(make_loader(samples, sampler, workers=0, device=CPU, batched=True))), CPU, 0)
    assert (batch.first, batch.second, batch.mask) == (None, None, None)


@pytest.mark.parametrize("method", ["supervised", "cps", "unimatch"])
def test_shared_memory_is_planned_for_all_of_a_sample(small_scenes: Path, method: str) -> None:
    data = Data(root=str(small_scenes), train_list="train_aug.txt", partition=4, crop_size=32, workers=1)
    base = Experiment(data=data, model=Model(backbone="resnet18"), method=Supervised(), train=Train(batch_size=1))
    config = override(base, [f"method={method}", "data.partner=independent"])
    sample = TrainingSamples(open_splits(data), config)[0]
    pixels = sum(leaf.nbytes for leaf in tree_leaves(sample) if isinstance(leaf, np.ndarray) and leaf.ndim > 1)
    assert shared_bytes(config, 8) == PREFETCH * pixels
