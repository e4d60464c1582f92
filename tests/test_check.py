"""Test `mgd check`: every defect of data, teachers and machine is found, with its file and a remedy; all at once."""

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import train, write_config, write_image, write_network
from PIL import Image

import mgd.check.needs
import mgd.parallel
from mgd.__main__ import main
from mgd.check import Finding, check, labels, lists, quick_check, table
from mgd.config import load
from mgd.data.classes import read_classes
from mgd.data.datasets import open_splits

FIRST, SECOND, THIRD = "scene_00000", "scene_00004", "scene_00008"  # the labelled part at 1/4
Damage = Callable[[Path, str], Path]  # of a named pair; returns the file that the finding must name


@pytest.fixture
def data(small_scenes: Path, tmp_path: Path) -> Path:
    """A copy of the scenes that a test may damage."""
    return Path(shutil.copytree(small_scenes, tmp_path / "data"))


def findings(data: Path, *overrides: str) -> list[Finding]:
    folder = data.parent / "experiment"
    return check(load(write_config(folder, data), overrides), progress=False)


def one(found: list[Finding], level: str, subject: str) -> str:
    """The text of the only finding of this kind."""
    texts = [finding.text for finding in found if finding[:2] == (level, subject)]
    assert len(texts) == 1, table(found)
    return texts[0]


def errors(found: list[Finding]) -> set[str]:
    return {finding.subject for finding in found if finding.level == "error"}


def image(data: Path, name: str) -> Path:
    return data / f"train_aug/image/{name}.jpg"


def label(data: Path, name: str) -> Path:
    return data / f"train_aug/label/{name}.png"


def add_line(path: Path, line: str) -> Path:
    path.write_text(path.read_text() + f"{line}\n")
    return path


# Data that are well


def test_whole_data_have_no_error_and_every_subject_is_told(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(write_config(data.parent / "experiment", data))]) == 0
    out = capsys.readouterr().out
    assert "3 labelled, 9 unlabelled, 3 validation images; one in 4 of" in out
    assert "15 of 15 images, and their labels, decoded" in out
    for subject in ("lists", "overlap", "files", "classes", "twins", "disk", "memory"):
        assert f" {subject} " in out
    assert "0 errors, " in out.splitlines()[-1]


def test_nothing_is_written(data: Path) -> None:
    before = sorted(data.rglob("*"))
    findings(data)
    assert sorted(data.rglob("*")) == before
    assert not (data.parent / "experiment/run").exists()


# One defect each


def lose(data: Path, name: str) -> Path:
    image(data, name).unlink()
    return image(data, name)


def cut(data: Path, name: str) -> Path:
    path = image(data, name)
    path.write_bytes(path.read_bytes()[:-200])
    return path


def cut_label(data: Path, name: str) -> Path:
    path = label(data, name)
    path.write_bytes(path.read_bytes()[:-60])
    return path


def deepen(data: Path, name: str) -> Path:
    """A 16-bit colour PNG, which Pillow opens as an 8-bit one without a word."""
    path = image(data, name)
    path.write_bytes(cv2.imencode(".png", np.full((48, 64, 3), 700, np.uint16))[1].tobytes())
    return path


def deepen_label(data: Path, name: str) -> Path:
    write_image(label(data, name), np.ones((48, 64), np.uint16))
    return label(data, name)


def grow(data: Path, name: str) -> Path:
    write_image(label(data, name), np.zeros((49, 64), np.uint8))
    return label(data, name)


def recolor(data: Path, name: str) -> Path:
    """What a quantiser makes of a picture in class colours: few indices, in an order of its own."""
    path, colors = label(data, name), read_classes("classes.csv", data).palette()
    Image.fromarray(colors[np.array(Image.open(path))]).quantize(8).save(path)
    return path


def paint(data: Path, name: str) -> Path:
    path, colors = label(data, name), read_classes("classes.csv", data).palette()
    write_image(path, colors[np.array(Image.open(path))])
    return path


def grey(data: Path, name: str) -> Path:
    path, colors = label(data, name), read_classes("classes.csv", data).palette()
    Image.fromarray(colors[np.array(Image.open(path))]).convert("L").save(path)
    return path


def blank(data: Path, name: str) -> Path:
    write_image(label(data, name), np.full((48, 64), 255, np.uint8))
    return label(data, name)


def leak(data: Path, name: str) -> Path:
    shutil.copy(data / "val/image/scene_val_00001.jpg", image(data, name))
    return image(data, name)


DEFECTS: list[tuple[Damage, str, str]] = [
    (lose, "missing", "put them there or take them out"),
    (cut, "unreadable", "replace the file"),
    (cut_label, "unreadable", "replace the file"),
    (deepen, "depth", "16 bits a channel, expected 8; convert it"),
    (deepen_label, "depth", "16 bits a channel, expected 8; convert it"),
    (grow, "size", "is 64x49 but its image"),
    (recolor, "palette", "write class indices"),
    (paint, "format", "an image of mode RGB; expected a label map: an 8-bit PNG"),
    (grey, "values", "expected 0..7 or 255; correct the labels"),
    (blank, "empty", "has no pixel of a class; correct it"),
    (leak, "twins", "keep it in one"),
]


@pytest.mark.parametrize(("damage", "subject", "remedy"), DEFECTS, ids=[damage.__name__ for damage, *_ in DEFECTS])
def test_a_defect_is_an_error_with_its_file_and_a_remedy(
    data: Path, damage: Damage, subject: str, remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = damage(data, FIRST)
    assert main(["check", str(write_config(data.parent / "experiment", data))]) == 1
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("error ")]
    assert len(rows) == 1
    assert rows[0].split()[1] == subject
    assert str(path) in rows[0]
    assert remedy in rows[0]


def test_one_defect_of_each_kind_all_found_at_once(data: Path, tmp_path: Path) -> None:
    files = {damage(data, f"scene_{i:05}"): subject for i, (damage, subject, _) in enumerate(DEFECTS)}
    (data / "photos.txt").write_text("val/image/scene_val_00002.jpg\n")
    files |= {data / "val/image/scene_val_00002.jpg": "overlap", tmp_path / "lost.pt": "deep teacher"}
    wanted = ["data.unlabeled=photos.txt", "method=mgd", f"method.deep_teacher={tmp_path}/lost.pt"]
    found = findings(data, "data.partition=1", "model.backbone=resnet19", *wanted)
    for file, subject in files.items():
        assert [f for f in found if f[:2] == ("error", subject) and str(file) in f.text], (subject, table(found))
    assert errors(found) == {*files.values(), "network", "unlabelled"}  # a single photo makes no CutMix pair


def test_all_missing_files_are_counted_and_the_first_named(data: Path) -> None:
    for i in range(7):
        image(data, f"scene_{i:05}").unlink()
    (data / "val/label/scene_val_00002.png").unlink()
    found = [finding.text for finding in findings(data) if finding.subject == "missing"]
    assert len(found) == 2
    assert f"names 7 files that do not exist: {image(data, FIRST)}, " in found[0]
    assert " and 2 more; " in found[0]
    assert f"{data}/val/label/scene_val_00002.png; " in found[1]


def test_many_defects_of_a_kind_are_counted_and_hide_no_other_kind(data: Path) -> None:
    for i in range(8):
        image(data, f"scene_{i:05}").write_bytes(b"no image")
    write_image(data / "val/label/scene_val_00002.png", np.full((48, 64), 99, np.uint8))
    found = findings(data)
    unreadable = [finding.text for finding in found if finding.subject == "unreadable"]
    assert len(unreadable) == 6
    assert unreadable[-1] == "and 3 more files of this kind"
    assert "scene_val_00002.png holds the label value 99" in one(found, "error", "values")
    assert one(found, "ok", "files").startswith("6 of 15 images")


def test_a_broken_list_does_not_hide_the_rest(data: Path) -> None:
    (data / "train_aug.txt").unlink()
    (data / "classes.csv").unlink()
    (data / "val/label/scene_val_00000.png").write_bytes(b"")
    texts = [finding.text for finding in findings(data) if finding.level == "error"]
    assert [Path(text.split()[0]).name for text in texts] == ["classes.csv", "train_aug.txt", "scene_val_00000.png"]


def test_a_missing_folder_is_one_error(data: Path) -> None:
    found = findings(data, "data.root=/nowhere")
    assert "put the data there or set data.root" in one(found, "error", "data")
    assert len(errors(found)) == 1


def test_a_palette_of_the_classes_own_colours_or_of_others_is_well(data: Path) -> None:
    colors = read_classes("classes.csv", data).palette()
    for name, palette in {FIRST: colors, SECOND: 255 - colors // 2}.items():
        drawn = Image.open(label(data, name))
        drawn.putpalette(palette.ravel().tolist())
        drawn.save(label(data, name))
        assert Image.open(label(data, name)).mode == "P"
    assert not errors(findings(data))


# Classes, overlaps, order


def test_classes_that_no_label_shows_are_named(data: Path) -> None:
    for name in (FIRST, SECOND, THIRD):
        write_image(label(data, name), np.full((48, 64), 1, np.uint8))
    text = one([f for f in findings(data) if "labelled part" in f.text], "warning", "classes")
    assert "never seen in the labelled part: sky, building, tree, car, person and 2 more; label some" in text


def write_labels(data: Path, of: Callable[[np.ndarray], np.ndarray], classes: int) -> None:
    """Two classes or more, and labels that are a function of 0 and 1: the upper half and the lower."""
    half = np.repeat(np.array([0, 1], np.uint8), 24)[:, None].repeat(64, axis=1)
    for path in data.glob("*/label/*.png"):
        write_image(path, of(half).astype(np.uint8))
    rows = "".join(f"{i},class{i},{i},0,0\n" for i in range(classes))
    (data / "classes.csv").write_text(f"index,name,red,green,blue\n{rows}")


MEANT = "255 is ignored, and no pixel is of class 1 (class1): where 255 means class1, write 1 in its place"
VALUES: list[tuple[Callable[[np.ndarray], np.ndarray], int, str, str]] = [
    (lambda half: 255 * half, 2, "0 (50.0 %), 255 (50.0 %, ignored)", MEANT),
    (lambda half: np.where(half == 1, 255, np.arange(64) // 32), 3, "0 (25.0 %), 1 (25.0 %), 255", "class 2 (class2)"),
    (lambda half: half + 1, 3, "1 (50.0 %), 2 (50.0 %)", "counted from 1, subtract 1"),
    (lambda half: 0 * half, 2, "0 (100.0 %)", "nothing else but class0; correct them"),
    (lambda half: 0 * half + 255, 2, "255 (100.0 %, ignored)", "no pixel of them has a class"),
    (lambda half: np.where(np.arange(64) < 40, 255, half), 2, "255 (62.5 %, ignored)", "see that so much shall"),
]


@pytest.mark.parametrize(("of", "classes", "held", "remedy"), VALUES)
def test_training_tells_labels_that_are_not_what_they_seem_meant_to_be(
    data: Path, of: Callable[[np.ndarray], np.ndarray], classes: int, held: str, remedy: str
) -> None:
    write_labels(data, of, classes)
    config = load(write_config(data.parent / "experiment", data))
    found = [f for f in quick_check(config, open_splits(config.data)) if f.subject == "labels"]
    assert [finding.level for finding in found] == ["warning", "warning"]
    for finding, part in zip(found, ("labelled", "validation"), strict=True):
        assert finding.text.startswith(f"the first 3 labels of the {part} part hold the values ")
        assert held in finding.text
        assert remedy in finding.text


def test_check_tells_what_labels_hold_and_does_not_advise_to_label_more_of_what_is_ignored(data: Path) -> None:
    write_labels(data, lambda half: 255 * half, 2)
    rows = [finding.text for finding in findings(data) if finding.subject in ("labels", "classes")]
    for part, (row, unseen) in zip(("labelled", "validation"), (rows[:2], rows[2:]), strict=True):
        assert row.startswith(
            f"the labels of the {part} part hold the values 0 (50.0 %), 255 (50.0 %, ignored); 255 is"
        )
        assert unseen == f"never seen in the {part} part: class1; see the row above"


def test_ignored_values_are_told_as_they_are_in_the_file(data: Path) -> None:
    write_labels(data, lambda half: np.where(np.arange(64) < 16, 7, half), 2)
    text = next(f.text for f in findings(data, "data.ignore_values=7") if f.subject == "labels")
    assert text.endswith("0 (37.5 %), 1 (37.5 %), 7 (25.0 %, ignored)")


def test_an_ignored_value_that_is_a_class_is_told_as_such(data: Path) -> None:
    write_labels(data, lambda half: half, 2)
    config = load(write_config(data.parent / "experiment", data), ["data.ignore_values=1"])
    texts = [f.text for f in quick_check(config, open_splits(config.data)) if f.level == "warning"]
    assert len(texts) == 2
    assert all("0 (50.0 %), 1 (50.0 %, ignored); 1 is class 1 (class1) and is ignored" in text for text in texts)


def test_what_is_ignored_is_told_however_many_classes_there_are(data: Path) -> None:
    write_labels(data, lambda half: 0 * half + np.where(np.arange(64) < 32, np.arange(64) // 2, 255), 16)
    text = next(f.text for f in findings(data) if f.subject == "labels")
    assert "0 (3.1 %), 1 (3.1 %), 2 (3.1 %), 3 (3.1 %), 4 (3.1 %) and 11 more, 255 (50.0 %, ignored)" in text


def test_good_labels_are_no_warning_at_the_start_of_a_training(data: Path) -> None:
    config = load(write_config(data.parent / "experiment", data))
    assert not [f for f in quick_check(config, open_splits(config.data)) if f.subject == "labels"]


def test_a_training_looks_at_a_bounded_number_of_labels(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, limit = [], 2
    monkeypatch.setattr(labels, "FIRST", limit)
    monkeypatch.setattr(labels, "read_indices", lambda path: read.append(path) or np.zeros((2, 2), np.uint8))
    config = load(write_config(data.parent / "experiment", data), ["data.partition=1"])
    quick_check(config, open_splits(config.data))
    assert len(read) == 2 * limit


def test_labels_that_cannot_be_read_are_left_to_training(data: Path) -> None:
    cut_label(data, FIRST)
    config = load(write_config(data.parent / "experiment", data))
    assert not errors(quick_check(config, open_splits(config.data)))


@pytest.mark.parametrize(
    ("values", "hint"),
    [
        ([1, 2, 8], "They seem to be counted from 1: subtract 1, so that they are 0..7 (data.label_map=1..8=0..7)"),
        ([0, 128, 255], "They seem to be shades: write 0, 1, ... in place of 0, 128, 255"),
        ([0, 100, 200], "They seem to be shades: write 0, 1, ... in place of 0, 100, 200"),
    ],
)
def test_what_numbers_of_no_class_seem_to_be_is_hinted_at(data: Path, values: list[int], hint: str) -> None:
    write_image(label(data, FIRST), np.resize(np.array(values, np.uint8), (48, 64)))
    assert one(findings(data), "error", "values").endswith(hint)


def test_what_is_left_out_of_folders_is_told_by_reason_with_its_number(data: Path) -> None:
    pool = data / "pool"
    for name in ("a.jpg", ".ipynb_checkpoints/a-checkpoint.jpg", "@eaDir/a.jpg", "b.jpg"):
        (pool / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(image(data, FIRST), pool / name)
    for i in range(7):
        (pool / f"gone{i}.jpg").symlink_to(data / "nowhere.jpg")
    (pool / "notes.txt").touch()
    found = [finding for finding in findings(data, "data.unlabeled=pool") if finding.subject == "folder"]
    assert {finding.level for finding in found} == {"warning"}
    strange, hidden, dead = sorted(finding.text for finding in found)
    assert dead.startswith(f"7 left out, since they are links to nothing: {pool}/gone0.jpg, ")
    assert dead.endswith(" and 2 more; mend or remove the links")
    assert hidden.startswith(
        f"2 left out, since they are hidden, or lie in what a system or a program made: {pool}/.ip"
    )
    assert strange.startswith(f"1 left out, since their names are not those of images: {pool}/notes.txt; convert")


def test_what_systems_leave_in_folders_is_no_warning(data: Path) -> None:
    (data / "pool").mkdir()
    for name in ("a.jpg", "b.jpg"):
        shutil.copy(image(data, FIRST), data / "pool" / name)
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (data / "pool" / name).touch()
    assert "3 left out, since they are hidden" in one(findings(data, "data.unlabeled=pool"), "ok", "folder")


def test_a_file_in_two_parts_is_an_error_with_validation_and_a_warning_else(data: Path) -> None:
    (data / "more.txt").write_text("val/image/scene_val_00001.jpg\ntrain_aug/image/scene_00000.jpg\n")
    found = findings(data, "data.unlabeled=more.txt")
    val, own = data / "val/image/scene_val_00001.jpg", image(data, FIRST)
    assert one(found, "error", "overlap") == f"unlabelled and validation: {val}; take them out of one of the lists"
    assert one(found, "warning", "overlap") == f"labelled and unlabelled: {own}; take them out of one of the lists"


@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
def test_a_file_is_the_same_under_the_name_of_a_link(data: Path, link: Callable[[Path, Path], None]) -> None:
    (data / "pool").mkdir()
    link(data / "pool/linked.jpg", data / "val/image/scene_val_00001.jpg")
    config = load(write_config(data.parent / "experiment", data), ["data.unlabeled=pool"])
    text = one(quick_check(config, open_splits(config.data)), "error", "overlap")
    assert text.startswith(f"unlabelled and validation: {data}/pool/linked.jpg; ")


def test_one_label_for_several_images_is_a_warning(data: Path) -> None:
    images = [f"train_aug/image/scene_{i:05d}.jpg" for i in range(2)]
    (data / "train_aug.txt").write_text("".join(f"{image}\ttrain_aug/label/scene_00000.png\n" for image in images))
    text = one(findings(data, "data.partition=1"), "warning", "overlap")
    assert text == f"the label of more than one image: {label(data, FIRST)}; name each image's own"


@pytest.mark.parametrize("exclude", ["nothing of this name", ",".join(f"class{i}" for i in range(2))])
def test_a_mean_over_no_class_is_told_before_anything_is_trained(data: Path, exclude: str) -> None:
    write_labels(data, lambda half: half, 2)
    config = load(write_config(data.parent / "experiment", data), [f"evaluate.exclude={exclude}"])
    assert "evaluate.exclude=" in one(quick_check(config, open_splits(config.data)), "error", "exclude")


def test_a_name_in_two_parts_is_a_warning(data: Path) -> None:
    add_line(data / "val.txt", FIRST)
    for kind, suffix in {"image": "jpg", "label": "png"}.items():
        shutil.copy(data / f"val/{kind}/scene_val_00000.{suffix}", data / f"val/{kind}/{FIRST}.{suffix}")
    text = one(findings(data), "warning", "overlap")
    assert text.startswith(f"names of labelled and of validation images: {FIRST}; ")


def test_a_line_twice_is_a_warning(data: Path) -> None:
    add_line(data / "val.txt", "scene_val_00001")
    text = one(findings(data), "warning", "overlap")
    assert text.startswith(f"twice in the validation part: {data}/val/image/scene_val_00001.jpg; ")


def test_the_same_content_twice_in_a_part_is_a_warning(data: Path) -> None:
    shutil.copy(image(data, "scene_00001"), image(data, "scene_00002"))
    text = one(findings(data), "warning", "twins")
    assert f"{image(data, 'scene_00001')} (unlabelled) = {image(data, 'scene_00002')} (unlabelled)" in text


def test_other_counts_and_another_order_than_published_are_warnings(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "3 labelled images, published 2,646; " in one(findings(data, "data.classes=voc"), "warning", "counts")
    monkeypatch.setitem(lists.PUBLISHED, "voc", (12, 3, {4: 3}))
    assert one(findings(data, "data.classes=voc"), "ok", "counts").endswith("as published")
    (data / "train_aug.txt").write_text("".join(f"scene_{i:05}\n" for i in reversed(range(12))))
    text = one(findings(data, "data.classes=voc"), "warning", "order")
    assert "the published list is sorted, here line 1 is 'scene_00011', not 'scene_00003'" in text


OWN = "data.partition_lists=subset_train_aug/train_aug_{part}_1-{ratio}.txt"


def test_the_users_own_partition_is_held_against_the_stride(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["partition", str(data / "train_aug.txt"), "--ratio", "4"]) == 0
    assert "one in 4 of" in one(findings(data, OWN), "ok", "partition")
    own = data / "subset_train_aug/train_aug_labeled_1-4.txt"
    own.with_suffix(".json").unlink()
    own.write_text(own.read_text().replace(SECOND, "scene_00005"))
    text = one(findings(data, OWN), "warning", "partition")
    one_in_4 = f"{own} is not one in 4 of {data}/train_aug.txt: "
    expected = f"{one_in_4}line 2 is '{image(data, 'scene_00005')}', not '{image(data, SECOND)}'"
    assert text.startswith(expected)
    train(data.parent / "experiment", data, OWN, "train.max_iterations=1")  # training tells it too
    assert expected in (data.parent / "experiment/run/log.txt").read_text() + capsys.readouterr().err


def test_an_unlabelled_list_of_the_users_own_is_held_against_the_stride_too(data: Path) -> None:
    assert main(["partition", str(data / "train_aug.txt"), "--ratio", "4"]) == 0
    own = data / "subset_train_aug/train_aug_unlabeled_1-4.txt"
    add_line(own, "scene_00001")
    assert f"{own} is not one in 4 of" in one(findings(data, OWN), "warning", "partition")
    (data / "train_aug.txt").unlink()
    assert "cannot be held against the training list" in one(findings(data, OWN), "warning", "partition")


def test_a_recorded_partition_of_another_scheme_is_well_until_its_list_changes(data: Path) -> None:
    assert main(["partition", str(data / "train_aug.txt"), "--ratio", "4", "--scheme", "random", "--seed", "3"]) == 0
    assert one(findings(data, OWN), "ok", "partition").endswith("random, seed 3, as recorded")
    own = data / "subset_train_aug/train_aug_labeled_1-4.txt"
    own.write_text("\n".join(reversed(own.read_text().split())) + "\n")
    found = [finding.text for finding in findings(data, OWN) if finding.subject == "partition"]
    assert len(found) == 1
    assert f"{own} is not the list that train_aug_labeled_1-4.json records; " in found[0]
    own.with_suffix(".json").write_text("[]")
    assert "is no record of a partition" in one(findings(data, OWN), "warning", "partition")


# What a run needs


def test_too_few_unlabelled_images_are_an_error(data: Path) -> None:
    text = one(findings(data, "data.partition=1", "method=cps"), "error", "unlabelled")
    assert "leaves 0 unlabelled images" in text


def test_teachers_are_loaded_and_their_classes_counted(data: Path, tmp_path: Path) -> None:
    good, other = write_network(tmp_path / "a.pt", num_classes=8), write_network(tmp_path / "b.pt", num_classes=5)
    teach = ["method=mgd", f"method.deep_teacher={good}"]
    found = findings(data, *teach, f"method.wide_teacher={other}")
    assert str(good) in one(found, "ok", "deep teacher")
    assert f"{other} was trained for 5 classes, the data set has 8" in one(found, "error", "wide teacher")
    other.write_bytes(good.read_bytes()[:1000])
    assert str(other) in one(findings(data, *teach, f"method.wide_teacher={other}"), "error", "wide teacher")
    other.unlink()
    assert "put one there" in one(findings(data, *teach, f"method.wide_teacher={other}"), "error", "wide teacher")


def test_a_teacher_that_an_experiment_will_train_is_a_warning_with_its_command(data: Path, tmp_path: Path) -> None:
    script = tmp_path / "deep/script.sh"
    script.parent.mkdir()
    script.write_text("")
    for teachers in ("online", "offline"):
        method = ["method=mgd", f"method.deep_teacher={tmp_path}/deep/run/last.pt", f"method.teachers={teachers}"]
        found = findings(data, *method)
        assert f"train it first: bash {script}" in one(found, "warning", "deep teacher")
        assert errors(found) == set()


def test_imagenet_weights_are_looked_for(data: Path, tmp_path: Path) -> None:
    wants = ["model.pretrained=true", "model.backbone=resnet18", f"model.weights_dir={tmp_path}"]
    assert f"{tmp_path} has no weights of resnet18" in one(findings(data, *wants), "warning", "ImageNet")
    (tmp_path / "resnet18_v1c.pth").touch()
    assert f"{tmp_path}/resnet18_v1c.pth" in one(findings(data, *wants), "ok", "ImageNet")


def test_an_unknown_backbone_is_an_error_beside_the_others(data: Path) -> None:
    lose(data, FIRST)
    assert errors(findings(data, "model.backbone=resnet19")) == {"missing", "network"}


def test_a_full_disk_is_an_error_that_stops_training_too(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = shutil.disk_usage(data)._replace(free=1000)
    monkeypatch.setattr(mgd.check.needs.shutil, "disk_usage", lambda path: usage)
    assert "free some or choose another run.dir" in one(findings(data), "error", "disk")
    assert main(["train", str(data.parent / "experiment")]) == 2
    assert "mgd train: disk: " in capsys.readouterr().err
    assert not (data.parent / "experiment/run").exists()


def test_the_disk_that_is_asked_for_is_what_checkpoints_take(data: Path) -> None:
    config = load(write_config(data.parent / "experiment", data))
    network = mgd.check.needs.network(config, 8)
    written = (train(data.parent / "experiment", data) / "last.pt").stat().st_size
    assert written == pytest.approx(2 * mgd.check.needs._bytes(network), rel=0.25)  # weights and momentum


def test_more_memory_than_there_is_is_a_warning(data: Path) -> None:
    one(findings(data), "ok", "memory")
    assert "use train.accumulate" in one(findings(data, "data.crop_size=60000"), "warning", "memory")


def test_findings_come_in_the_order_of_the_lists_whatever_the_cores(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (THIRD, SECOND, FIRST):
        image(data, name).write_bytes(b"")
    monkeypatch.setattr(mgd.parallel, "cores", lambda: 3)
    found = [finding.text.split()[0] for finding in findings(data) if finding.level == "error"]
    assert found == [str(image(data, name)) for name in (FIRST, SECOND, THIRD)]
