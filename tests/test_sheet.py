"""Test the contact sheet: each panel shows what the networks get, pixel by pixel; what no loss looks at is hatched."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import CROP, write_config

from mgd.__main__ import main
from mgd.config import Experiment, load
from mgd.data.datasets import Splits, open_splits
from mgd.data.samples import TrainingSamples
from mgd.draw import CAPTION, MARGIN, panel
from mgd.sheet import LABELED, UNLABELED, contact_sheet

WIDTH = 256  # of a panel: 8 pixels of the sheet for each of the 32 of a crop
COLUMNS = [*LABELED, *UNLABELED]


def opened(root: Path, tmp_path: Path, *overrides: str) -> tuple[Experiment, Splits]:
    config = load(write_config(tmp_path / "experiment", root), overrides)
    return config, open_splits(config.data)


def cell(sheet: np.ndarray, row: int, caption: str) -> np.ndarray:
    """The pixels of a crop in a panel of the sheet, the first of each 8x8."""
    top, left = CAPTION + row * (WIDTH + CAPTION), COLUMNS.index(caption) * (WIDTH + MARGIN)
    return sheet[top : top + WIDTH, left : left + WIDTH][:: WIDTH // CROP, :: WIDTH // CROP].astype(int)


def test_every_panel_is_what_the_networks_get(small_scenes: Path, tmp_path: Path) -> None:
    config, splits = opened(small_scenes, tmp_path, "method=cps")
    sheet, samples = contact_sheet(config, splits, rows=3), TrainingSamples(splits, config)
    for row in range(3):
        sample = samples[row]
        mask = sample["mask"][0].astype(bool)
        shown = {"labelled photo": "labeled", "unlabelled u0": "first", "unlabelled u1": "second"}
        photos = {name: sample[key]["image"].astype(int) for name, key in shown.items()}
        mixed = np.where(mask[..., None], photos["unlabelled u1"], photos["unlabelled u0"])
        seen = {name: inside(sample[key]["extent"].tolist()) for name, key in shown.items()}
        seen["mixed"] = np.where(mask, seen["unlabelled u1"], seen["unlabelled u0"])
        for name, photo in (photos | {"mixed": mixed}).items():
            difference = np.abs(cell(sheet, row, name) - photo).max(axis=2)
            assert difference[seen[name]].max() <= 1  # normalised and back
        assert np.array_equal(cell(sheet, row, "CutMix mask") > 0, np.repeat(mask[..., None], 3, axis=2))
        label = sample["labeled"]["label"]
        assert np.array_equal(cell(sheet, row, LABELED[1])[label != 255], splits.classes.palette()[label][label != 255])


def inside(extent: list[int]) -> np.ndarray:
    seen = np.zeros((CROP, CROP), bool)
    seen[extent[0] : extent[1], extent[2] : extent[3]] = True
    return seen


def test_crop_padding_and_ignored_pixels_are_hatched_and_nothing_else(small_scenes: Path, tmp_path: Path) -> None:
    config, splits = opened(small_scenes, tmp_path, "data.scales=0.5", "method=cps")  # 32x24 in a crop of 32
    sheet = contact_sheet(config, splits, rows=1)
    for column in range(len(COLUMNS)):
        shown = sheet[CAPTION : CAPTION + WIDTH, column * (WIDTH + MARGIN) :][:, :WIDTH]
        outside = np.concatenate([shown[:32], shown[-32:]])
        hatched = {tuple(color) for color in outside.reshape(-1, 3)} == {(110, 110, 110), (255, 255, 255)}
        assert hatched == (COLUMNS[column] != "CutMix mask")
        assert len({tuple(color) for color in shown[40:-40].reshape(-1, 3)}) != 2 or COLUMNS[column] == "CutMix mask"


def test_labels_alone_have_no_unlabelled_columns(small_scenes: Path, tmp_path: Path) -> None:
    assert contact_sheet(*opened(small_scenes, tmp_path), rows=2).shape[1] == len(LABELED) * (WIDTH + MARGIN)


def test_large_and_wide_pictures_are_shrunk_with_their_aspect() -> None:
    picture = np.zeros((100, 800, 3), np.uint8)
    ignored = np.zeros((100, 800), bool)
    ignored[:, 400:] = True
    shown = panel(picture, ignored)
    assert shown.shape == (32, 256, 3)
    assert not shown[:, :128].any()
    assert shown[:, 128:].all()


def test_check_writes_the_sheet_and_says_so_where_it_cannot(
    small_scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = str(write_config(tmp_path / "experiment", small_scenes)), tmp_path / "new/sheet.png"
    assert main(["check", config, "--sheet", str(out)]) == 0
    assert f"sheet: {out}" in capsys.readouterr().out
    assert cv2.imread(str(out)).shape[1] == len(LABELED) * (WIDTH + MARGIN)
    assert main(["check", config, f"data.val_list={tmp_path}/a.txt", "--sheet", str(tmp_path / "no.png")]) == 1
    assert f"no sheet: {tmp_path}/a.txt does not exist" in capsys.readouterr().out
    (tmp_path / "file").touch()
    assert main(["check", config, "--sheet", str(tmp_path / "file/sheet.png")]) == 1
    assert "no sheet: " in capsys.readouterr().out
