"""Test metrics against cases worked out by hand."""

import math

import pytest
import torch

from mgd.metrics import confusion_matrix, iou_per_class, mean_iou, pixel_accuracy

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
