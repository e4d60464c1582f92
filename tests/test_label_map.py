"""Test label values that mean other classes, labels found by pattern, lists as other code bases write them."""

from pathlib import Path

import numpy as np
import pytest
from helpers import train, write_config, write_image

from mgd.__main__ import main
from mgd.config import Data
from mgd.data.datasets import open_splits, read_list
from mgd.data.folders import pairs_in
from mgd.data.images import load_label
from mgd.data.label_map import UNCLEAR, describe, value_table, with_ignored
from mgd.data.names import name_of, split_line
from mgd.errors import UserError

SHAPE = 6, 8
PHOTO = np.random.default_rng(0).integers(0, 256, (*SHAPE, 3), dtype=np.uint8)


def test_values_ranges_and_ignore_are_mapped_and_the_rest_stays() -> None:
    table = value_table(("1..3=0..2", "0=ignore", "9..11=7"))
    assert table[[0, 1, 2, 3, 9, 10, 11, 8, 254, 255]].tolist() == [255, 0, 1, 2, 7, 7, 7, 8, 254, 255]


def test_a_value_that_another_is_mapped_to_is_unclear_until_it_is_named() -> None:
    assert value_table(("255=1",))[[0, 1, 255]].tolist() == [0, UNCLEAR, 1]
    assert value_table(("255=1", "1=1"))[[0, 1, 255]].tolist() == [0, 1, 1]
    assert value_table(("0=1", "1=0"))[[0, 1]].tolist() == [1, 0]


def test_a_mapping_is_told_in_words() -> None:
    assert describe(("255=1", "0=ignore", "7=9"), ("sky", "road")) == "0 is ignored, 7 is no class, 255 is road"


@pytest.mark.parametrize("entry", ["1", "1=", "=1", "1..3=0..1", "256=1", "3..1=0", "a=1", "1=-1", "1=none"])
def test_what_is_no_mapping_is_refused(entry: str) -> None:
    with pytest.raises(UserError, match=f"label_map: '{entry}' is no mapping; write FROM=TO"):
        value_table((entry,))


def test_overlapping_mappings_are_refused() -> None:
    with pytest.raises(UserError, match=r"label_map: 3=ignore and 1..8=0..7 both say what 3 means; keep one"):
        value_table(("1..8=0..7", "3=ignore"))


def test_a_value_may_be_ignored_twice_but_not_mapped_as_well() -> None:
    assert with_ignored(("7=ignore",), (7, 255, 255)) == ("7=ignore", "255=ignore")
    with pytest.raises(UserError, match="255=ignore and 255=1 both say what 255 means"):
        value_table(with_ignored(("255=1",), (255,)))


def test_labels_are_mapped_when_they_are_read(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png", np.array([[0, 1, 2, 9, 255]], np.uint8))
    assert load_label(path, 2, (9,), ("1..2=0..1", "0=ignore")).tolist() == [[255, 0, 1, 255, 255]]
    with pytest.raises(UserError, match=r"holds the label value 0, 9, expected 0..1 or 255; .* must be named as well"):
        load_label(path, 2, (), ("1..2=0..1",))


# In an experiment


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """Photos with masks of 0 and 255 beside them."""
    root = tmp_path / "own"
    for part in ("train", "val"):
        for name in "abcd":
            write_image(root / f"{part}/x/{name}.png", PHOTO)
            write_image(
                root / f"{part}/x/{name}_mask.png", np.repeat(np.array([[0], [255]], np.uint8), 24).reshape(SHAPE)
            )
    (root / "classes.csv").write_text("index,name,red,green,blue\n0,background,0,0,0\n1,leaf,0,160,0\n")
    return root


CHOSEN = ["data.train_list=train", "data.val_list=val", "data.partition=1", "data.label_pattern={stem}_mask.png"]


def test_masks_of_0_and_255_beside_photos_are_checked_drawn_trained_on_and_evaluated(
    masks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = [*CHOSEN, "data.label_map=255=1", "evaluate.mode=whole"]
    train(tmp_path, masks, *chosen)
    assert main(["evaluate", str(tmp_path), *chosen]) == 0
    capsys.readouterr()
    main(["check", str(tmp_path), *chosen, "--sheet", str(tmp_path / "sheet.png")])
    told = capsys.readouterr().out
    assert "ok       label map     of the label values 255 is leaf; the others keep their number" in told
    assert "ok       classes       all 2 are seen in the labelled part" in told
    assert (tmp_path / "sheet.png").is_file()


def test_a_wrong_mapping_is_told_by_check_and_ends_a_run(
    masks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = [str(write_config(tmp_path, masks)), *CHOSEN, "data.label_map=255=1,255=0"]
    assert main(["check", *chosen]) == 1
    assert "label_map: 255=0 and 255=1 both say what 255 means" in capsys.readouterr().out
    assert main(["train", *chosen]) == 2
    assert "label_map: 255=0 and 255=1 both say" in capsys.readouterr().err


def test_labels_are_found_by_pattern_and_are_no_photos(masks: Path) -> None:
    pairs, problems = pairs_in(masks / "train", "{stem}_mask.png")
    assert pairs == [(masks / f"train/x/{name}.png", masks / f"train/x/{name}_mask.png") for name in "abcd"]
    assert not problems
    data = Data(root=str(masks), train_list="train", val_list="val", label_pattern="{stem}_mask.png", partition=1)
    assert [item.name for item in open_splits(data).labeled] == [f"train/x/{name}.png" for name in "abcd"]


def test_labels_among_unlabelled_photos_are_left_out(masks: Path) -> None:
    chosen = {"train_list": "train", "val_list": "val", "label_pattern": "{stem}_mask.png", "partition": 1}
    unlabeled = open_splits(Data(root=str(masks), unlabeled="train", **chosen)).unlabeled
    assert [item.name for item in unlabeled] == [f"train/x/{name}.png" for name in "abcd"]


def test_a_pattern_may_lead_into_another_folder(tmp_path: Path) -> None:
    write_image(tmp_path / "images/day/a.jpg", PHOTO)
    write_image(tmp_path / "labels/day/a_gt.png", PHOTO[..., 0])
    assert pairs_in(tmp_path, "{stem}_gt.png")[0] == [
        (tmp_path / "images/day/a.jpg", tmp_path / "labels/day/a_gt.png"),
    ]
    write_image(tmp_path / "p/photos/a.jpg", PHOTO)
    write_image(tmp_path / "p/masks/a.png", PHOTO[..., 0])
    assert pairs_in(tmp_path / "p", "../masks/{stem}.png")[0] == [
        (tmp_path / "p/photos/a.jpg", tmp_path / "p/masks/a.png"),
    ]


def test_photos_without_a_label_and_patterns_without_a_stem_are_refused(masks: Path) -> None:
    (masks / "train/x/b_mask.png").unlink()
    pairs, problems = pairs_in(masks / "train", "{stem}_mask.png")
    assert len(pairs) == 3
    assert "1 images have no label" in str(problems[0])
    assert "draw them (" in str(problems[0])
    with pytest.raises(UserError, match=r"data.label_pattern=_mask.png must hold \{stem\}"):
        pairs_in(masks / "train", "_mask.png")


# Lists


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("JPEGImages/a.jpg SegmentationClass/a.png", ("JPEGImages/a.jpg", "SegmentationClass/a.png")),
        ("my photos/a b.jpg my labels/a b.png", ("my photos/a b.jpg", "my labels/a b.png")),
        ("a b.jpg\tc d.png", ("a b.jpg", "c d.png")),
        ("a b.jpg", ("a b.jpg", "")),
        ("2007_000032", ("2007_000032", "")),
        ("/images/a.png\t/labels/a.png", ("/images/a.png", "/labels/a.png")),
    ],
)
def test_a_space_or_a_tab_is_between_image_and_label(line: str, parts: tuple[str, str]) -> None:
    assert split_line(line) == parts
    assert name_of(line) == parts[0].lstrip("/")


def test_a_line_that_can_be_cut_at_several_spaces_is_refused() -> None:
    with pytest.raises(UserError, match="at several spaces; put a tab between them"):
        split_line("a.jpg b.jpg c.png")


def test_lists_of_other_code_bases_are_read(tmp_path: Path) -> None:
    write_image(tmp_path / "JPEGImages/a.jpg", PHOTO)
    write_image(tmp_path / "SegmentationClass/a.png", PHOTO[..., 0])
    (tmp_path / "labeled.txt").write_text("JPEGImages/a.jpg SegmentationClass/a.png\n")
    (item,) = read_list(tmp_path / "labeled.txt", tmp_path, "", labels=True)
    assert (item.image, item.label) == (tmp_path / "JPEGImages/a.jpg", tmp_path / "SegmentationClass/a.png")
