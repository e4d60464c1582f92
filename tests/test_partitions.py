"""Choosing what is labelled: the published stride, random, balanced; the lists and their hash."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import train, write_config, write_image

from mgd.__main__ import main
from mgd.config import load
from mgd.data.datasets import open_splits, split
from mgd.data.names import digest
from mgd.data.partitions import balanced_places, random_places


@pytest.mark.parametrize(("ratio", "voc", "city"), [(2, 5291, 1488), (4, 2646, 744), (8, 1323, 372), (16, 662, 186)])
def test_the_published_partitions_have_the_published_sizes(ratio: int, voc: int, city: int) -> None:
    assert len(split(range(10582), ratio)[0]) == voc
    assert len(split(range(2975), ratio)[0]) == city


def test_random_places_are_as_many_all_different_and_the_seeds_own() -> None:
    places = random_places(100, 8, seed=0)
    assert len(set(places)) == len(range(0, 100, 8))
    assert places == random_places(100, 8, seed=0) == sorted(places)
    assert places != random_places(100, 8, seed=1)


def test_balanced_places_hold_a_class_that_the_stride_misses() -> None:
    pixels = np.tile([900, 100, 0], (64, 1))
    pixels[5] = [900, 50, 50]  # the only image with class 2
    assert 5 not in range(0, 64, 8)
    places = balanced_places(pixels, 8, seed=0)
    assert 5 in places
    assert len(places) == 8
    assert places == balanced_places(pixels, 8, seed=0)


def test_balanced_places_take_a_second_class_before_more_of_the_first() -> None:
    # sqrt(0.5) + sqrt(0.4) = 1.34 of both classes is worth more than sqrt(0.5 + 0.5) = 1 of one
    places = balanced_places(np.array([[50, 0], [50, 0], [0, 40], [0, 30], [0, 30]]), 3, seed=0)
    assert places in ([0, 2], [1, 2])


def test_an_image_that_holds_nearly_all_is_taken_once() -> None:
    assert balanced_places(np.array([[90, 90], [5, 5], [4, 4]]), 2, seed=0) == [0, 1]


def partition(root: Path, *arguments: str) -> int:
    return main(["partition", str(root / "train_aug.txt"), "--ratio", "4", *arguments])


@pytest.fixture
def root(small_scenes: Path, tmp_path: Path) -> Path:
    """The scenes, with a folder for lists of one's own."""
    out = tmp_path / "data"
    out.mkdir()
    for path in small_scenes.iterdir():
        (out / path.name).symlink_to(path)
    return out


@pytest.mark.parametrize("scheme", ["stride", "random", "balanced"])
def test_training_takes_the_written_lists_and_records_their_hash(root: Path, tmp_path: Path, scheme: str) -> None:
    assert partition(root, "--scheme", scheme) == 0
    record = json.loads((root / "subset_train_aug/train_aug_labeled_1-4.json").read_text())
    lists = "data.partition_lists=subset_train_aug/train_aug_{part}_1-{ratio}.txt"
    run = train(tmp_path, root, "train.max_iterations=1", lists)
    assert json.loads((run / "config.json").read_text())["labeled_sha256"] == record["sha256"]
    names = (root / "subset_train_aug/train_aug_labeled_1-4.txt").read_text().split()
    others = (root / "subset_train_aug/train_aug_unlabeled_1-4.txt").read_text().split()
    assert record["sha256"] == digest(names)
    assert len(names) == 3
    assert sorted(names + others) == (root / "train_aug.txt").read_text().split()


def test_stride_is_what_a_run_takes_without_lists(root: Path, tmp_path: Path) -> None:
    config = load(write_config(tmp_path, root)).data
    derived = open_splits(config).sha256
    assert partition(root) == 0
    assert json.loads((root / "subset_train_aug/train_aug_labeled_1-4.json").read_text())["sha256"] == derived


def test_lists_that_differ_are_kept_unless_forced(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert partition(root, "--scheme", "random") == 0
    chosen = root / "subset_train_aug/train_aug_labeled_1-4.txt"
    before = chosen.read_text()
    assert partition(root) == 0
    assert f"WARNING: {chosen} is kept; it is not this partition: line " in capsys.readouterr().out
    assert chosen.read_text() == before
    assert partition(root, "--force") == 0
    assert chosen.read_text().split() == (root / "train_aug.txt").read_text().split()[::4]


def test_lists_that_are_equal_but_for_line_ends_are_left_as_they_are(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert partition(root) == 0
    own = root / "subset_train_aug/train_aug_labeled_1-4.txt"
    own.write_bytes(own.read_bytes().replace(b"\n", b"\r\n").rstrip())
    before = own.read_bytes()
    capsys.readouterr()
    assert partition(root) == 0
    assert "WARNING" not in capsys.readouterr().out
    assert own.read_bytes() == before


def test_labels_that_moved_are_followed(root: Path) -> None:
    own, training = root / "subset_train_aug/train_aug_labeled_1-4.txt", root / "train_aug.txt"
    names = training.read_text().split()
    training.unlink()  # a link to another test's
    (root / "corrected").symlink_to((root / "train_aug").resolve())
    for folder in ("train_aug", "corrected"):
        lines = [f"train_aug/image/{name}.jpg\t{folder}/label/{name}.png" for name in names]
        training.write_text("".join(f"{line}\n" for line in lines))
        assert partition(root) == 0
        assert own.read_text().splitlines() == lines[::4]


def test_a_ratio_below_one_is_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["partition", str(root / "train_aug.txt"), "--ratio", "0"]) == 2
    assert "must be 1 or more" in capsys.readouterr().err


@pytest.mark.parametrize(("value", "words"), [(0, "nothing but 0"), (255, "no value")])
def test_labels_of_one_class_are_not_balanced(
    tmp_path: Path, value: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(4):
        write_image(tmp_path / f"{i}.png", np.zeros((4, 4, 3), np.uint8))
        write_image(tmp_path / f"l{i}.png", np.full((4, 4), value, np.uint8))
    (tmp_path / "train.txt").write_text("".join(f"{i}.png\tl{i}.png\n" for i in range(4)))
    assert main(["partition", str(tmp_path / "train.txt"), "--ratio", "2", "--scheme", "balanced"]) == 2
    assert f"the labels hold {words}, so nothing can be balanced" in capsys.readouterr().err
    assert not (tmp_path / "subset_train").exists()


def test_balancing_looks_at_labels_through_their_mapping(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(6):
        write_image(tmp_path / f"{i}.png", np.zeros((4, 4, 3), np.uint8))
        write_image(tmp_path / f"l{i}.png", np.full((4, 4), 255 if i == 5 else 0, np.uint8))  # the rare class
    (tmp_path / "train.txt").write_text("".join(f"{i}.png\tl{i}.png\n" for i in range(6)))
    command = ["partition", str(tmp_path / "train.txt"), "--ratio", "6", "--scheme", "balanced"]
    assert main(command) == 2
    assert "--label-map 255=1" in capsys.readouterr().err
    assert main([*command, "--label-map", "255=1,0=0"]) == 0
    assert "5.png" in (tmp_path / "subset_train/train_aug_labeled_1-6.txt").read_text()
    assert main([*command, "--label-map", "0..9"]) == 2
    assert "'0..9' is no mapping" in capsys.readouterr().err


def test_a_folder_may_have_braces_in_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "set{1} {part}"
    folder.mkdir()
    for i in range(2):
        write_image(folder / f"{i}.png", np.zeros((4, 4, 3), np.uint8))
    (folder / "train.txt").write_text("0.png\t0.png\n1.png\t1.png\n")
    assert main(["partition", str(folder / "train.txt"), "--ratio", "2"]) == 0
    assert (folder / "subset_train/train_aug_labeled_1-2.txt").read_text() == "0.png\t0.png\n"


def test_a_seed_below_0_is_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert partition(root, "--scheme", "random", "--seed", "-1") == 2
    assert "--seed -1 must not be negative" in capsys.readouterr().err


def test_labels_beside_their_photos_are_found_by_their_pattern(tmp_path: Path) -> None:
    for name in "abcd":
        write_image(tmp_path / f"mine/{name}.png", np.zeros((8, 8, 3), np.uint8))
        write_image(tmp_path / f"mine/{name}_mask.png", np.full((8, 8), ord(name) % 2, np.uint8))
    options = ["--root", str(tmp_path), "--ratio", "2", "--scheme", "balanced"]
    pattern = ["--label-pattern", "{stem}_mask.png"]
    assert main(["partition", str(tmp_path / "mine"), *options, *pattern]) == 0
    lines = (tmp_path / "subset_mine/train_aug_labeled_1-2.txt").read_text().splitlines()
    assert len(lines) == 2
    assert all(line == f"mine/{line[5]}.png\tmine/{line[5]}_mask.png" for line in lines)
