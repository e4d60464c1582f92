"""From small archives with the real structure to what training opens: every label value, name and count."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import write_image
from PIL import Image
from scipy.io import savemat

from mgd.__main__ import main
from mgd.config import load
from mgd.data.datasets import open_splits
from mgd.data.images import load_label
from mgd.data.prepare.camvid import prepare_camvid
from mgd.data.prepare.ccp import prepare_ccp
from mgd.data.prepare.city import prepare_city
from mgd.data.prepare.labelmefacade import COLORS, prepare_labelmefacade
from mgd.data.prepare.voc import prepare_voc
from mgd.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
HEIGHT, WIDTH = 12, 16
TAGS = [row["tag"] for row in csv.DictReader((ROOT / "DATA/ccp_merge.csv").read_text().splitlines())]


def photo(path: Path, seed: int = 0) -> Path:
    return write_image(path, np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))


def values(*rows: int) -> np.ndarray:
    """A label map in stripes of these values."""
    return np.repeat(np.array(rows, np.uint8), HEIGHT * WIDTH // len(rows)).reshape(HEIGHT, WIDTH)


def read_png(path: Path) -> np.ndarray:
    image = Image.open(path)
    assert image.mode == "L"
    return np.array(image)


def write_list(path: Path, *names: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names))


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def splits(experiment: str, root: Path, *overrides: str):
    return open_splits(load(ROOT / experiment / "config.py", [f"data.root={root}", *overrides]).data)


# PASCAL VOC


@pytest.fixture
def voc(tmp_path: Path) -> tuple[Path, Path]:
    """VOC: a, b for training, v for validation. SBD: b, c, v with labels of its own, and d in its val list."""
    devkit, sbd = tmp_path / "VOCdevkit/VOC2012", tmp_path / "SBD/dataset"
    for name in "abv":
        photo(devkit / f"JPEGImages/{name}.jpg")
        write_image(devkit / f"SegmentationClass/{name}.png", values(0, 15, 255))
        colored = Image.open(devkit / f"SegmentationClass/{name}.png").convert("P")
        colored.putdata(values(0, 15, 255).ravel().tolist())
        colored.putpalette([(i * 37) % 256 for i in range(768)])
        colored.save(devkit / f"SegmentationClass/{name}.png")
    write_list(devkit / "ImageSets/Segmentation/train.txt", "b", "a")
    write_list(devkit / "ImageSets/Segmentation/val.txt", "v")
    for name in "bcdv":
        photo(sbd / f"img/{name}.jpg", seed=1)
        (sbd / "cls").mkdir(exist_ok=True)
        empty = np.zeros((20, 1), object)
        content = {"Boundaries": empty, "Segmentation": values(0, 7), "CategoriesPresent": 7}
        savemat(sbd / f"cls/{name}.mat", {"GTcls": content})
    write_list(sbd / "train.txt", "c", "b")
    write_list(sbd / "val.txt", "d", "v")
    return devkit, sbd


def test_voc_is_the_sorted_union_without_validation_and_its_own_labels_win(voc: tuple[Path, Path], tmp_path: Path):
    out = tmp_path / "out"
    told = prepare_voc(*voc, out)
    assert (out / "train_aug.txt").read_text().split() == ["a", "b", "c", "d"]
    assert (out / "val.txt").read_text().split() == ["v"]
    for name in "ab":
        assert np.array_equal(read_png(out / f"train_aug/label/{name}.png"), values(0, 15, 255))
    for name in "cd":
        assert np.array_equal(read_png(out / f"train_aug/label/{name}.png"), values(0, 7))
    assert np.array_equal(read_png(out / "val/label/v.png"), values(0, 15, 255))
    assert (out / "train_aug/image/b.jpg").read_bytes() == (voc[0] / "JPEGImages/b.jpg").read_bytes()
    assert (out / "train_aug/image/c.jpg").read_bytes() == (voc[1] / "img/c.jpg").read_bytes()
    assert "WARNING: 10,582 expected" in told
    assert "WARNING: 1,449 expected" in told


def test_voc_opens_as_the_published_experiments_do(voc: tuple[Path, Path], tmp_path: Path):
    prepare_voc(*voc, tmp_path / "out")
    parts = splits("exp.voc/voc2.resnet18_deeplabv3plus", tmp_path / "out")
    assert [item.image.stem for item in parts.labeled] == ["a", "c"]
    assert [item.image.stem for item in parts.unlabeled] == ["b", "d"]
    assert "subset_train_aug" in parts.source


def test_preparing_again_writes_no_image_or_label_and_a_missing_one_is_made(voc: tuple[Path, Path], tmp_path: Path):
    out = tmp_path / "out"
    prepare_voc(*voc, out)
    before = state(out / "train_aug")
    (out / "train_aug/label/c.png").unlink()
    prepare_voc(*voc, out)
    after = state(out / "train_aug")
    assert after.pop("label/c.png")[0] == before.pop("label/c.png")[0]
    assert after == before


def test_a_label_of_vocs_own_lists_that_is_missing_is_told_and_not_taken_from_sbd(
    voc: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    devkit, sbd = voc
    label = devkit / "SegmentationClass/v.png"
    label.unlink()  # SBD has one too, without borders
    assert main(["prepare", "voc", "--devkit", str(devkit), "--sbd", str(sbd), "--out", str(tmp_path / "out")]) == 2
    assert f"1 files are missing, first {label}" in capsys.readouterr().err


def test_a_photo_whose_archive_is_unpacked_again_is_linked_again(voc: tuple[Path, Path], tmp_path: Path):
    photo, made = voc[0] / "JPEGImages/b.jpg", tmp_path / "out/train_aug/image/b.jpg"
    whole = photo.read_bytes()
    photo.write_bytes(whole[:100])
    prepare_voc(*voc, tmp_path / "out")
    photo.unlink()
    photo.write_bytes(whole)
    prepare_voc(*voc, tmp_path / "out")
    assert made.read_bytes() == whole
    photo.unlink()  # who throws the archive away keeps what was made
    prepare_voc(*voc, tmp_path / "out")
    assert made.read_bytes() == whole


def test_a_label_that_was_corrected_is_kept(tmp_path: Path):
    source, out = tmp_path / "camvid", tmp_path / "out"
    for part in ("train", "val", "test"):
        photo(source / part / "a.png")
        write_image(source / f"{part}annot/a.png", values(0, 11))
        write_list(source / f"{part}.txt", f"/SegNet/CamVid/{part}/a.png /SegNet/CamVid/{part}annot/a.png")
    prepare_camvid(source, out)
    label = next((out / "labels/train").iterdir())
    label.unlink()
    write_image(label, np.full((30, 40), 3, np.uint8))
    corrected = label.read_bytes()
    prepare_camvid(source, out)
    assert label.read_bytes() == corrected


@pytest.mark.parametrize("part", ["labeled", "unlabeled"])
def test_a_partition_written_here_and_changed_by_hand_is_kept(voc: tuple[Path, Path], tmp_path: Path, part: str):
    prepare_voc(*voc, tmp_path / "out")
    own = tmp_path / f"out/subset_train_aug/train_aug_{part}_1-2.txt"
    own.write_text(own.read_text().splitlines()[0] + "\n")
    changed = own.read_text()
    assert f"{own} is kept" in prepare_voc(*voc, tmp_path / "out")
    assert own.read_text() == changed


def test_partitions_of_half_an_archive_are_made_anew_with_the_whole(voc: tuple[Path, Path], tmp_path: Path):
    names = voc[1] / "val.txt"
    whole = names.read_text()
    names.write_text("v\n")
    prepare_voc(*voc, tmp_path / "out")
    names.write_text(whole)
    told = prepare_voc(*voc, tmp_path / "out")
    assert "is kept" not in told
    listed = tmp_path / "out/subset_train_aug/train_aug_unlabeled_1-2.txt"
    assert listed.read_text().split() == ["b", "d"]


def test_a_list_of_the_users_own_is_kept_and_its_difference_told(voc: tuple[Path, Path], tmp_path: Path):
    own = tmp_path / "out/subset_train_aug/train_aug_labeled_1-2.txt"
    write_list(own, "a", "d")
    told = prepare_voc(*voc, tmp_path / "out")
    assert own.read_text() == "a\nd\n"
    assert f"WARNING: {own} is kept; it is not this partition: line 2 is 'd', not 'c'; delete it to have" in told


def test_what_is_missing_or_broken_is_named_and_what_was_made_stays(
    voc: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    devkit, sbd = voc
    command = ["prepare", "voc", "--devkit", str(devkit), "--sbd", str(sbd), "--out", str(tmp_path / "out")]
    (sbd / "cls/c.mat").write_bytes((sbd / "cls/c.mat").read_bytes()[:150])
    assert main(command) == 2
    assert f"{sbd}/cls/c.mat cannot be read as a MATLAB file" in capsys.readouterr().err
    (sbd / "cls/c.mat").unlink()
    assert main(command) == 2
    assert f"1 files are missing, first {sbd}/cls/c.mat" in capsys.readouterr().err
    assert not list(tmp_path.rglob(".*.tmp"))
    assert main([*command[:-1], str(tmp_path), "--sbd", str(tmp_path / "nothing")]) == 2
    assert f"{tmp_path}/nothing is no folder; expected SBD's" in capsys.readouterr().err


# Cityscapes

CITY = {"train": ("aachen_000000_000019", "bochum_000000_000313"), "val": ("lindau_000001_000019",)}


@pytest.fixture
def city(tmp_path: Path) -> tuple[Path, Path]:
    images, labels = tmp_path / "leftImg8bit", tmp_path / "gtFine"
    for part, names in (CITY | {"test": ("berlin_000000_000019",), "train_extra": ("bamberg_000000_000001",)}).items():
        for name in names:
            folder = name.split("_")[0]
            photo(images / part / folder / f"{name}_leftImg8bit.png")
            if part in CITY:
                write_image(labels / part / folder / f"{name}_gtFine_labelIds.png", values(7, 26, 33, 3))
    return images, labels


def test_city_is_flat_with_train_ids_and_lists(city: tuple[Path, Path], tmp_path: Path):
    told = prepare_city(*city, tmp_path / "out")
    label = tmp_path / "out/segmentation/train/aachen_000000_000019_gtFine.png"
    assert np.array_equal(read_png(label), values(0, 13, 18, 255))  # road, car, bicycle, out of roi
    lines = (tmp_path / "out/config_new/train.txt").read_text().splitlines()
    assert lines[0] == f"/images/train/{CITY['train'][0]}.png\t/segmentation/train/{CITY['train'][0]}_gtFine.png"
    extra = tmp_path / "out/config_new/train_extra.txt"
    assert extra.read_text() == "/images/train_extra/bamberg_000000_000001.png\n"
    assert "WARNING: 2,975 expected" in told
    unlabeled = "data.unlabeled=config_new/train_extra.txt"
    parts = splits("exp.city/city2.resnet18_deeplabv3plus", tmp_path / "out", unlabeled)
    assert [item.image.stem for item in parts.labeled] == ["aachen_000000_000019"]
    assert [item.image.stem for item in parts.unlabeled] == ["bochum_000000_000313", "bamberg_000000_000001"]
    assert [item.image.stem for item in parts.val] == list(CITY["val"])


def test_city_labels_are_drawn_from_polygons_where_there_are_no_ids(city: tuple[Path, Path], tmp_path: Path):
    def box(label: str, left: int, right: int, **more: int) -> dict:
        return {"label": label, "polygon": [[left, 0], [right, 0], [right, HEIGHT - 1], [left, HEIGHT - 1]], **more}

    ids = city[1] / "train/aachen/aachen_000000_000019_gtFine_labelIds.png"
    ids.unlink()
    things = [
        box("road", 0, 15),
        box("cargroup", 4, 7),  # a group counts as its class
        box("license plate", 4, 5),  # is not drawn
        box("polegroup", 8, 9),  # a label of its own, ignored
        box("person", 12, 15, deleted=1),
        box("sky", 14, 15),  # over the road: the later one is in front
    ]
    polygons = {"imgHeight": HEIGHT, "imgWidth": WIDTH, "objects": things}
    Path(str(ids).replace("labelIds.png", "polygons.json")).write_text(json.dumps(polygons))
    prepare_city(*city, tmp_path / "out")
    label = read_png(tmp_path / "out/segmentation/train/aachen_000000_000019_gtFine.png")
    assert label.shape == (HEIGHT, WIDTH)
    assert label[3].tolist() == [0] * 4 + [13] * 4 + [255] * 2 + [0] * 4 + [10] * 2


def test_broken_polygons_are_named(city: tuple[Path, Path], tmp_path: Path):
    ids = city[1] / "val/lindau/lindau_000001_000019_gtFine_labelIds.png"
    ids.unlink()
    polygons = Path(str(ids).replace("labelIds.png", "polygons.json"))
    polygons.write_text('{"imgHeight": 12}')
    with pytest.raises(UserError, match=f"{polygons} holds no Cityscapes polygons"):
        prepare_city(*city, tmp_path / "out")
    thing = {"label": "car", "polygon": [[1, 1]]}
    polygons.write_text(json.dumps({"imgHeight": HEIGHT, "imgWidth": WIDTH, "objects": [thing]}))
    with pytest.raises(UserError, match=r"polygons.json: object 0 \(car\) has 1 points, expected 3 or more"):
        prepare_city(*city, tmp_path / "out")


def refused(capsys: pytest.CaptureFixture[str], *command: object) -> str:
    """The sentence of a `prepare` that must refuse."""
    assert main(["prepare", *map(str, command)]) == 2
    return capsys.readouterr().err


def rename(folder: Path, old: str, new: str) -> None:
    for file in folder.rglob(f"*{old}"):
        file.rename(file.with_name(file.name.replace(old, new)))


def test_city_takes_train_ids_where_there_are_no_ids(city: tuple[Path, Path], tmp_path: Path):
    for file in city[1].rglob("*_labelIds.png"):
        write_image(file.with_name(file.name.replace("labelIds", "labelTrainIds")), values(0, 13, 18, 255))
        file.unlink()
    prepare_city(*city, tmp_path / "out")
    label = tmp_path / "out/segmentation/train/aachen_000000_000019_gtFine.png"
    assert np.array_equal(read_png(label), values(0, 13, 18, 255))


def test_city_train_ids_of_another_kind_are_refused(city: tuple[Path, Path], tmp_path: Path):
    rename(city[1], "labelIds.png", "labelTrainIds.png")  # ids up to 33 with the name of trainIds
    with pytest.raises(UserError, match=r"_gtFine_labelTrainIds.png holds the label value 26, 33, expected 0..18"):
        prepare_city(*city, tmp_path / "out")


def test_city_says_what_it_looked_for(city: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    images, labels = city
    out = tmp_path / "out"
    said = refused(capsys, "city", "--images", labels, "--labels", images, "--out", out)
    assert f"{labels}/train has no */*_leftImg8bit.png, which is how Cityscapes' photos" in said
    assert "found aachen/aachen_000000_000019_gtFine_labelIds.png" in said
    assert "are --images and --labels swapped?" in said
    command = ["city", "--images", images, "--labels", labels, "--out", out]
    rename(labels / "val", "labelIds.png", "color.png")
    said = refused(capsys, *command)
    assert f"{labels}/val has no label of 1 photos: lindau_000001_000019; looked for " in said
    assert all(kind in said for kind in ("_gtFine_labelIds.png", "_gtFine_labelTrainIds.png", "_gtFine_polygons.json"))
    rename(images, ".png", ".jpg")
    said = refused(capsys, *command)
    assert f"{images}/train has no */*_leftImg8bit.png" in said
    assert "found aachen/aachen_000000_000019_leftImg8bit.jpg, " in said
    assert "swapped" not in said
    assert not out.exists()


@pytest.mark.parametrize("part", ["train", "val"])
def test_city_without_a_part_is_refused(city: tuple[Path, Path], tmp_path: Path, part: str):
    shutil.rmtree(city[0] / part)
    with pytest.raises(UserError, match=f"leftImg8bit/{part} "):
        prepare_city(*city, tmp_path / "out")


@pytest.mark.parametrize("name", ["photos", "annotations/pixel-level"])
def test_ccp_says_what_it_looked_for(tmp_path: Path, name: str):
    for part, file in {"photos": "1.jpg", "annotations/pixel-level": "1.mat"}.items():
        (tmp_path / part).mkdir(parents=True)
        (tmp_path / part / (file if part != name else "1.png")).touch()
        (tmp_path / part / f"._{file}").touch()  # what a Mac leaves behind
    savemat(tmp_path / "label_list.mat", {"label_list": np.array(TAGS, object)[None]})
    with pytest.raises(UserError, match=rf"{tmp_path}/{name} has no \*\..*; found \._1\.\w+, 1.png"):
        prepare_ccp(tmp_path, ROOT / "DATA/ccp_merge.csv", tmp_path / "out")


def test_labelmefacade_says_what_it_looked_for(tmp_path: Path):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    with pytest.raises(UserError, match=rf"{tmp_path}/images has no \*.jpg, which is how the photos .* found no file"):
        prepare_labelmefacade(tmp_path, tmp_path / "out")


def test_camvid_and_voc_refuse_empty_lists(voc: tuple[Path, Path], tmp_path: Path):
    for part in ("train", "val", "test"):
        (tmp_path / f"{part}.txt").touch()
    with pytest.raises(UserError, match=f"{tmp_path}/train.txt is empty"):
        prepare_camvid(tmp_path, tmp_path / "out")
    write_list(voc[0] / "ImageSets/Segmentation/val.txt")
    with pytest.raises(UserError, match=r"Segmentation/val.txt is empty"):
        prepare_voc(*voc, tmp_path / "out")


def test_too_few_photos_to_hold_some_out_are_told(tmp_path: Path):
    photo(tmp_path / "images/0.jpg")
    write_image(tmp_path / "labels/0.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    with pytest.raises(UserError, match="--val-every 5 leaves none of 1 labelled images for validation"):
        prepare_labelmefacade(tmp_path, tmp_path / "out")


# The smaller ones


def test_camvid_opens_from_the_tutorials_lists(tmp_path: Path):
    source = tmp_path / "CamVid"
    for part in ("train", "val", "test"):
        names = [f"{part}{i}.png" for i in range(9 if part == "train" else 2)]
        for name in names:
            photo(source / part / name)
            write_image(source / f"{part}annot" / name, values(0, 10, 11))
        base = "/SegNet/CamVid"
        write_list(source / f"{part}.txt", *(f"{base}/{part}/{name} {base}/{part}annot/{name}" for name in names))
    told = prepare_camvid(source, tmp_path / "out")
    assert "WARNING: 367 expected" in told
    parts = splits("exp.camvid/camvid8.small_mgd", tmp_path / "out")
    assert [len(part) for part in (parts.labeled, parts.unlabeled, parts.val)] == [2, 7, 2]
    assert parts.labeled[0].label is not None
    assert np.array_equal(load_label(parts.labeled[0].label, 11, (11,)), values(0, 10, 255))


def test_ccp_tags_become_classes_and_photos_without_labels_are_unlabelled(tmp_path: Path):
    source = tmp_path / "ccp"
    for i in range(1, 12):
        photo(source / f"photos/{i:04d}.jpg", seed=i)
    annotations = source / "annotations/pixel-level"
    annotations.mkdir(parents=True)
    for i in range(1, 9):
        tags = values(TAGS.index("null"), TAGS.index("jeans"), TAGS.index("sneakers"))
        savemat(annotations / f"{i:04d}.mat", {"groundtruth": tags})
    savemat(source / "label_list.mat", {"label_list": np.array(TAGS, object)[None]})
    prepare_ccp(source, ROOT / "DATA/ccp_merge.csv", tmp_path / "out")
    parts = splits("exp.fashion/fashion8.resnet18_deeplabv3plus", tmp_path / "out")
    assert len(parts.classes) == 10
    assert [item.image.stem for item in parts.val] == ["0007"]
    assert [item.image.stem for item in parts.unlabeled[-3:]] == ["0009", "0010", "0011"]
    names = parts.classes.names
    expected = values(names.index("background"), names.index("trousers"), names.index("footwear"))
    assert parts.labeled[0].label is not None
    assert np.array_equal(read_png(parts.labeled[0].label), expected)
    other = tmp_path / "merge.csv"
    other.write_text((ROOT / "DATA/ccp_merge.csv").read_text().replace("jeans,trousers", "jeans,footwear"))
    with pytest.raises(UserError, match=f"{tmp_path}/out has labels made with another CSV than {other}"):
        prepare_ccp(source, other, tmp_path / "out")


def test_a_tag_without_a_class_is_named(tmp_path: Path):
    source = tmp_path / "ccp"
    photo(source / "photos/0001.jpg")
    (source / "annotations/pixel-level").mkdir(parents=True)
    savemat(source / "label_list.mat", {"label_list": np.array(["null", "kilt"], object)[None]})
    with pytest.raises(UserError, match="gives no class to 1 tags of the data set: kilt"):
        prepare_ccp(source, ROOT / "DATA/ccp_merge.csv", tmp_path / "out")


def test_labelmefacade_colours_become_indices_and_others_are_refused(tmp_path: Path):
    source, colors = tmp_path / "lmf", np.array([(0, 0, 0), *COLORS.values()], np.uint8)
    for i in range(10):
        photo(source / f"images/{i}.jpg")
        write_image(source / f"labels/{i}.png", colors[values(0, 1, 8)])
    prepare_labelmefacade(source, tmp_path / "out")
    parts = splits("exp.facades/facades32.small_mgd", tmp_path / "out")
    assert [item.image.stem for item in parts.val] == ["4", "9"]
    assert parts.labeled[0].label is not None
    assert np.array_equal(read_png(parts.labeled[0].label), values(255, 0, 7))
    write_image(source / "labels/3.png", np.full((HEIGHT, WIDTH, 3), 77, np.uint8))
    with pytest.raises(UserError, match=r"3.png: 192 pixels have the colour of no class, such as \(77, 77, 77\)"):
        prepare_labelmefacade(source, tmp_path / "other")
