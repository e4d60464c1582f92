"""Test what the demo set promises: its layout, its labels, and that making it again changes nothing."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from scenes import CLASSES, generate_scenes

from mgd.errors import UserError

SMALL = {"train": 8, "val": 4, "height": 48, "width": 64}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small finished set."""
    out = tmp_path_factory.mktemp("scenes")
    generate_scenes(out, **SMALL)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file under the folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def labels(folder: Path) -> list[np.ndarray]:
    """Return every label as stored."""
    return [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in sorted(folder.glob("*/label/*.png"))]


def test_same_seed_gives_identical_bytes_and_another_seed_does_not(scenes: Path, tmp_path: Path) -> None:
    generate_scenes(tmp_path / "again", **SMALL)
    generate_scenes(tmp_path / "other", **SMALL, seed=1)
    assert contents(tmp_path / "again") == contents(scenes)
    picture = "train_aug/image/scene_00000.jpg"
    assert contents(tmp_path / "other")[picture] != contents(scenes)[picture]


def test_a_scene_does_not_depend_on_how_many_there_are(scenes: Path, tmp_path: Path) -> None:
    generate_scenes(tmp_path, **SMALL | {"train": 2, "val": 1})
    few, many = contents(tmp_path), contents(scenes)
    assert all(few[name] == many[name] for name in few if "/" in name)


def test_lists_name_exactly_the_files_there(scenes: Path) -> None:
    for split, count in (("train_aug", 8), ("val", 4)):
        names = (scenes / f"{split}.txt").read_text().split()
        assert len(names) == count
        assert sorted(path.stem for path in (scenes / split / "image").iterdir()) == names
        assert sorted(path.stem for path in (scenes / split / "label").iterdir()) == names


def test_splits_hold_different_scenes(scenes: Path) -> None:
    files = contents(scenes)
    assert files["train_aug/label/scene_00000.png"] != files["val/label/scene_val_00000.png"]


def test_class_table_matches_the_constant(scenes: Path) -> None:
    header, *rows = (scenes / "classes.csv").read_text().splitlines()
    assert header == "index,name,red,green,blue"
    assert rows == [f"{index},{name},{r},{g},{b}" for index, (name, (r, g, b)) in enumerate(CLASSES)]


def test_labels_are_one_channel_of_the_asked_size_and_hold_only_known_classes(scenes: Path) -> None:
    for label in labels(scenes):
        assert label.shape == (48, 64)
        assert label.dtype == np.uint8
        assert label.max() < len(CLASSES)


def test_every_class_appears_in_a_quarter_of_the_scenes(tmp_path: Path) -> None:
    generate_scenes(tmp_path, train=40, val=0, height=48, width=64)
    present = np.array([np.bincount(label.ravel(), minlength=len(CLASSES)) > 0 for label in labels(tmp_path)])
    assert (present.mean(axis=0) >= 0.25).all()


def test_a_finished_folder_is_left_alone(scenes: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in scenes.rglob("*")}
    generate_scenes(scenes, **SMALL)
    assert {path: path.stat().st_mtime_ns for path in scenes.rglob("*")} == before


def test_other_arguments_on_a_finished_folder_are_refused(scenes: Path) -> None:
    with pytest.raises(UserError, match="delete it or choose another folder") as error:
        generate_scenes(scenes, **SMALL | {"seed": 7})
    assert str(scenes) in str(error.value)


def test_an_interrupted_generation_is_completed(scenes: Path, tmp_path: Path) -> None:
    generate_scenes(tmp_path, **SMALL)
    for name in ("scenes.json", "val.txt", "val/label/scene_val_00003.png"):
        (tmp_path / name).unlink()
    generate_scenes(tmp_path, **SMALL)
    assert contents(tmp_path) == contents(scenes)


def test_a_folder_with_another_data_set_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "train_aug.txt").write_text("2007_000032\n")
    with pytest.raises(UserError, match="not made of scenes"):
        generate_scenes(tmp_path, **SMALL)
    assert list(contents(tmp_path)) == ["train_aug.txt"]


@pytest.mark.parametrize("wrong", [{"train": -1}, {"height": 8}, {"seed": -1}])
def test_impossible_arguments_are_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(UserError, match="32 pixels"):
        generate_scenes(tmp_path, **SMALL | wrong)
