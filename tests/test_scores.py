"""What a report tells: notes, means without classes, other metrics, scores of images; JSON that any parser reads."""

import csv
import io
import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mgd.config import Data, Experiment, Model, Supervised, to_dict
from mgd.data.classes import Classes
from mgd.errors import UserError
from mgd.files import below, write_json
from mgd.scores import ImageScores, Report, check_excluded, scored_otherwise

CLASSES = Classes(("red", "green", "blue", "grey"), ((200, 30, 30), (30, 200, 30), (30, 30, 200), (220, 220, 220)))
NAN = float("nan")
# red and green are labelled, blue is only predicted, grey never occurs; green is never predicted
CONFUSION = torch.tensor([[4, 0, 1, 0], [2, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
REPORT = Report(CLASSES, CONFUSION, 3)


def strict(path: Path) -> Any:
    """JSON without the words that only Python knows."""

    def refuse(word: str) -> None:
        raise ValueError(word)

    return json.loads(path.read_text(), parse_constant=refuse)


def rows(report: Report) -> dict[str, list[str]]:
    return {line[:14].strip(): line[14:].split(maxsplit=len(report.metrics)) for line in report.table().splitlines()}


def test_a_class_in_no_label_is_told_apart_from_one_that_is_never_predicted(tmp_path: Path) -> None:
    table = rows(REPORT)
    assert table["red"] == ["57.14"]
    assert table["green"] == ["0.00", "never predicted"]
    assert table["blue"] == ["0.00", "in no label"]
    assert table["grey"] == ["absent"]
    REPORT.write(tmp_path, "x")
    found = strict(tmp_path / "x.json")
    assert found["not_in_labels"] == ["blue", "grey"]
    assert found["never_predicted"] == ["green", "grey"]
    assert found["iou"]["grey"] is None


def test_excluded_classes_are_left_out_of_the_mean_and_both_means_are_told() -> None:
    report = replace(REPORT, excluded=("green", "blue"))
    assert report.miou == pytest.approx(4 / 7)
    assert report.mean("iou", of_all=True) == REPORT.miou == pytest.approx(4 / 21)
    table = rows(report)
    assert table["mIoU"] == ["57.14", "without green, blue"]
    assert table["mIoU of all"] == ["19.05"]
    told = report.to_dict()
    assert (told["miou"], told["means_of_all"]["iou"]) == (report.miou, REPORT.miou)
    assert told["excluded"] == ["green", "blue"]


def test_excluded_classes_are_left_out_of_the_mean_of_images_too() -> None:
    image = ImageScores("a", (0.5, 0.1, float("nan"), 0.7), 0.8)
    report = replace(REPORT, excluded=("green",), per_image=(image,))
    assert report.images_csv().splitlines()[1].startswith("a,60.00,80.00,50.00,10.00,")


@pytest.mark.parametrize(("names", "words"), [(("sky",), "no class of the data"), (CLASSES.names, "leaves no class")])
def test_an_exclusion_that_cannot_be_is_refused(names: tuple[str, ...], words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_excluded(names, CLASSES)


def test_metrics_that_are_asked_for_have_a_column_each() -> None:
    boundary = torch.tensor([[1, 0, 0, 0], [2, 1, 0, 0], [3, 0, 1, 0]])
    report = replace(REPORT, metrics=("iou", "dice", "boundary_iou"), boundary=boundary)
    table = rows(report)
    assert table["red"] == ["57.14", "72.73", "25.00"]  # 4/7, 8/11, 1/(2+3-1)
    assert table["mean"] == ["19.05", "24.24", "8.33"]
    assert report.to_dict()["dice"]["red"] == pytest.approx(8 / 11)
    assert report.to_dict()["means"]["boundary_iou"] == pytest.approx(0.25 / 3)


def test_scores_of_images_are_a_row_each_and_empty_where_there_is_none(tmp_path: Path) -> None:
    images = (ImageScores("a/1, left", (0.5, 0.25, NAN, NAN), 0.75), ImageScores("b", (NAN,) * 4, NAN))
    replace(REPORT, per_image=images).write(tmp_path, "x")
    found = list(csv.reader(io.StringIO((tmp_path / "x-images.csv").read_text())))
    assert found[0] == ["image", "mIoU", "pixel accuracy", *CLASSES.names]
    assert found[1] == ["a/1, left", "37.50", "75.00", "50.00", "25.00", "", ""]
    assert found[2] == ["b", "", "", "", "", "", ""]


def test_a_report_without_a_score_is_valid_json(tmp_path: Path) -> None:
    empty = Report(CLASSES, torch.zeros(4, 4, dtype=torch.int64), 2)
    assert empty.is_empty
    assert not REPORT.is_empty
    empty.write(tmp_path, "x")
    found = strict(tmp_path / "x.json")
    assert (found["miou"], found["pixel_accuracy"], found["means"]["iou"]) == (None, None, None)


def test_a_report_that_is_cut_off_has_no_json_which_would_say_that_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise UserError("the disk is full")

    monkeypatch.setattr("mgd.scores.write_text", full)
    with pytest.raises(UserError):
        replace(REPORT, per_image=(ImageScores("a", (NAN,) * 4, NAN),)).write(tmp_path, "x")
    assert list(tmp_path.iterdir()) == []


def test_no_json_holds_a_number_that_json_does_not_know(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": NAN, "b": [float("inf"), (1.5, -float("inf"))], "c": {"d": NAN}})
    assert strict(tmp_path / "x.json") == {"a": None, "b": [None, [1.5, None]], "c": {"d": None}}


def test_files_are_written_below_their_folder_only(tmp_path: Path) -> None:
    assert below(tmp_path, "seqA/0001.b", ".png") == tmp_path / "seqA/0001.b.png"
    assert below(tmp_path, "a/../b", ".png").resolve() == tmp_path / "b.png"
    for name in ("../x", "a/../../x", "/etc/x", ""):
        with pytest.raises(UserError, match="would be written outside"):
            below(tmp_path, name, ".png")


def test_scores_are_of_other_settings_where_what_counts_differs() -> None:
    own = to_dict(Experiment(data=Data(root="x", crop_size=64), model=Model(backbone="resnet18"), method=Supervised()))
    older = deepcopy(own)
    del older["evaluate"]["exclude"], older["data"]["label_map"]
    assert scored_otherwise(own, older) == []  # keys that are newer than a report are at their defaults
    other = deepcopy(own)
    other["data"]["crop_size"] = 96
    assert scored_otherwise(own, other) == ["evaluate.crop_size=96"]  # of the windows
    other["evaluate"]["crop_size"] = 64
    assert scored_otherwise(own, other) == []
    for one in (own, other):
        one["evaluate"]["mode"] = "whole"
    other["evaluate"] |= {"crop_size": 32, "stride": 0.5}
    assert scored_otherwise(own, other) == []  # there are no windows
