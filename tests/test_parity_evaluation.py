"""The official evaluation: sliding windows, label map, confusion matrix, IoU."""

import numpy as np
import pytest
import torch
from golden import array, needs_golden, network
from torch import Tensor

from mgd.config import Evaluate
from mgd.infer import predict_scores
from mgd.metrics import confusion_matrix, iou_per_class, mean_iou, pixel_accuracy

pytestmark = needs_golden


def recorded(key: str) -> Tensor:
    return array("evaluation", key)


@pytest.fixture(scope="module")
def scores() -> Tensor:
    """(21,100,150): ours for the recorded image."""
    image = recorded("image").permute(2, 0, 1)
    return predict_scores(network("resnet18", variant_b=True), image, Evaluate(crop_size=64))


@pytest.mark.parametrize("window_batch", [1, 4, 100])
def test_label_map_is_the_official_one_except_at_ties(window_batch: int) -> None:
    how = Evaluate(crop_size=64, window_batch=window_batch)
    scores = predict_scores(network("resnet18", variant_b=True), recorded("image").permute(2, 0, 1), how)
    best = scores.topk(2, dim=0).values
    clear = best[0] - best[1] > 1e-3
    assert torch.equal(scores.argmax(0)[clear], recorded("b_s1_flip0_pred").long()[clear])
    assert clear.float().mean() > 0.99


def test_summed_scores_are_the_official_ones(scores: Tensor) -> None:
    expected = recorded("b_s1_flip0_scores_s4").permute(2, 0, 1)
    torch.testing.assert_close(scores[:, ::4, ::4], expected, rtol=0, atol=1e-3)
    sums = recorded("b_s1_flip0_scores_chan_sum")
    torch.testing.assert_close(scores.double().sum((1, 2)), sums, rtol=0, atol=1e-3 * 100 * 150)


def test_confusion_matrix_is_exactly_the_official_one() -> None:
    found = confusion_matrix(recorded("metric_label"), recorded("metric_pred"), 21)
    assert torch.equal(found, recorded("metric_hist"))
    assert int(found.sum()) == int(recorded("metric_labeled"))
    assert int(found.diagonal().sum()) == int(recorded("metric_correct"))


def test_iou_and_accuracy_are_the_official_ones() -> None:
    confusion = recorded("metric_hist")
    iou, expected = iou_per_class(confusion).numpy(), recorded("metric_iu").numpy()
    np.testing.assert_array_equal(iou, expected)
    assert mean_iou(confusion) == pytest.approx(float(recorded("metric_mean_IU")), abs=1e-15)  # the order of summing
    assert pixel_accuracy(confusion) == float(recorded("metric_pixel_acc"))


def test_the_absent_class_is_nan_and_left_out_of_the_mean() -> None:
    iou = iou_per_class(recorded("metric_hist"))
    assert int(iou.isnan().sum()) == 1
    assert mean_iou(recorded("metric_hist")) == pytest.approx(float(iou[~iou.isnan()].mean()), abs=1e-15)
