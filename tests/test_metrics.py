"""Test metrics against cases worked out by hand."""

import math

import pytest
import torch

from mgd.metrics import (
    boundary_counts,
    boundary_iou_per_class,
    confusion_matrix,
    dice_per_class,
    iou_per_class,
    mean_iou,
    pixel_accuracy,
)

LABEL = torch.tensor([[0, 0, 1, 1], [2, 2, 255, 255]])
PREDICTION = torch.tensor([[0, 1, 1, 1], [2, 0, 0, 3]])


def test_rows_of_the_confusion_matrix_are_labels_and_columns_predictions() -> None:
    expected = [[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    assert confusion_matrix(LABEL, PREDICTION, 4).tolist() == expected


def test_scores_of_a_case_worked_out_by_hand() -> None:
    confusion = confusion_matrix(LABEL, PREDICTION, 4)
    # class 0: 1 right, 2 in the label, 2 predicted; class 1: 2, 2, 3; class 2: 1, 2, 1; class 3 never occurs
    iou = iou_per_class(confusion).tolist()
    assert iou[:3] == pytest.approx([1 / 3, 2 / 3, 1 / 2])
    assert math.isnan(iou[3])
    assert mean_iou(confusion) == pytest.approx(0.5)
    assert pixel_accuracy(confusion) == pytest.approx(4 / 6)


def test_a_class_that_is_only_predicted_counts_as_zero() -> None:
    confusion = confusion_matrix(torch.zeros(4), torch.tensor([0, 0, 0, 1]), 2)
    assert iou_per_class(confusion).tolist() == [0.75, 0.0]
    assert mean_iou(confusion) == 0.375


def test_ignored_pixels_are_not_counted_whatever_is_predicted_there() -> None:
    for guess in (0, 3):
        prediction = torch.where(LABEL == 255, guess, PREDICTION)
        assert torch.equal(confusion_matrix(LABEL, prediction, 4), confusion_matrix(LABEL, PREDICTION, 4))
    assert confusion_matrix(torch.full((5,), 255), torch.zeros(5), 4).sum() == 0


def test_matrices_of_parts_add_up_to_that_of_the_whole() -> None:
    parts = sum(confusion_matrix(LABEL[i], PREDICTION[i], 4) for i in range(2))
    assert torch.equal(torch.as_tensor(parts), confusion_matrix(LABEL, PREDICTION, 4))


def test_uint8_labels_do_not_overflow() -> None:
    label = torch.full((3,), 20, dtype=torch.uint8)
    assert confusion_matrix(label, label, 21)[20, 20] == 3


def test_no_counted_pixel_gives_no_score() -> None:
    nothing = torch.zeros(3, 3, dtype=torch.int64)
    assert math.isnan(mean_iou(nothing))
    assert math.isnan(pixel_accuracy(nothing))


def test_dice_is_twice_the_intersection_over_both_areas() -> None:
    confusion = confusion_matrix(LABEL, PREDICTION, 4)
    dice = dice_per_class(confusion).tolist()
    assert dice[:3] == pytest.approx([2 * 1 / (2 + 2), 2 * 2 / (2 + 3), 2 * 1 / (2 + 1)])
    assert math.isnan(dice[3])


def test_counting_in_chunks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = confusion_matrix(LABEL, PREDICTION, 4)
    monkeypatch.setattr("mgd.metrics.CHUNK", 3)
    assert torch.equal(confusion_matrix(LABEL, PREDICTION, 4), whole)


def test_boundary_counts_of_a_case_worked_out_by_hand() -> None:
    # 9x12: a diagonal of 15, 2 % of it rounds to 0, so the least distance, 1 pixel, counts.
    label = torch.zeros(9, 12, dtype=torch.uint8)
    label[:, 6:] = 1
    own = 9 * 6 - 7 * 4  # each half less its inner 7x4: one pixel off the border and the contour
    assert boundary_counts(label, label, 2).tolist() == [[own, own]] * 3
    assert boundary_iou_per_class(boundary_counts(label, label, 2)).tolist() == [1.0, 1.0]
    prediction = torch.zeros(9, 12, dtype=torch.uint8)
    prediction[:, 8:] = 1  # 8 and 4 columns wide: 9*8 - 7*6 = 30 and 9*4 - 7*2 = 22 pixels
    # Both: of class 0 columns 0 (9), 5 (2: only the border rows are near in the prediction), rows 0 and 8 of columns
    # 1 to 4 (8); of class 1 column 11 (9), rows 0 and 8 of columns 8 to 10 (6), column 8's inner pixels are inside.
    counts = boundary_counts(label, prediction, 2)
    assert counts[1:].tolist() == [[own, own], [30, 22]]
    assert counts[0].tolist() == [9 + 2 + 8, 9 + 6]


def test_boundary_counts_leave_ignored_pixels_out_and_widen_with_the_image() -> None:
    label = torch.zeros(300, 400, dtype=torch.uint8)  # a diagonal of 500: 10 pixels
    assert boundary_counts(label, label, 2)[1].tolist() == [300 * 400 - 280 * 380, 0]
    label[:20] = 255
    ignored = boundary_counts(label, torch.zeros_like(label), 2)
    assert ignored[1, 0] == 280 * 400 - 260 * 380
    assert ignored[2, 0] == 280 * 400 - 270 * 380  # the prediction has no contour at the ignored strip
    assert math.isnan(boundary_iou_per_class(ignored)[1])
