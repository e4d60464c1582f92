"""The official evaluation: sliding windows, label map, confusion matrix, IoU."""

import math

import cv2
import numpy as np
import pytest
import torch
from golden import array, needs_golden, network
from torch import Tensor

from mgd.config import Evaluate
from mgd.infer import predict_labels, predict_scores
from mgd.metrics import confusion_matrix, iou_per_class, mean_iou, pixel_accuracy
from mgd.models import SegmentationNetwork
from mgd.models.folding import for_inference

pytestmark = needs_golden


def recorded(key: str) -> Tensor:
    return array("evaluation", key)


@pytest.fixture(scope="module")
def scores() -> Tensor:
    """(21,100,150): ours for the recorded image."""
    image = recorded("image").permute(2, 0, 1)
    return predict_scores(network("resnet18", variant_b=True), image, Evaluate(crop_size=64))


@pytest.mark.parametrize("window_batch", [1, 4, 100])
def test_label_map_is_the_official_one_except_at_ties(window_batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mgd.infer.windows_at_once", lambda how, _: how.window_batch)  # as on a GPU
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


def official_scores(net: SegmentationNetwork, photo: np.ndarray, how: Evaluate) -> np.ndarray:
    """(H,W,K) by the official steps: scaled as uint8, windows one by one, mirrored apart, sums scaled back."""
    height, width = photo.shape[:2]
    total = np.zeros((height, width, net.num_classes))
    for scale in how.scales:
        scaled = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
        rows, columns, crop, step = *scaled.shape[:2], how.crop_size, math.ceil(how.crop_size * how.stride)
        scores = torch.zeros(net.num_classes, rows, columns)
        for i, j in np.ndindex(math.ceil((rows - crop) / step) + 1, math.ceil((columns - crop) / step) + 1):
            top, left = min(i * step, rows - crop), min(j * step, columns - crop)
            window = torch.from_numpy(scaled[top : top + crop, left : left + crop]).permute(2, 0, 1)[None]
            with torch.no_grad():
                one, mirrored = net(net.normalise(window)), net(net.normalise(window).flip(-1)).flip(-1)
            scores[:, top : top + crop, left : left + crop] += one[0] + (mirrored[0] if how.flip else 0)
        total += cv2.resize(scores.permute(1, 2, 0).numpy(), (width, height), interpolation=cv2.INTER_LINEAR)
    return total


@pytest.mark.parametrize("scales", [(1.0,), (0.75, 1.0, 1.25)])
def test_scales_and_flip_give_the_official_label_map_except_at_ties(scales: tuple[float, ...]) -> None:
    net, image = network("resnet18", variant_b=True), recorded("image")
    how = Evaluate(crop_size=64, scales=scales, flip=True)
    expected = torch.from_numpy(official_scores(net, image.numpy(), how))
    best = expected.topk(2, dim=2).values
    clear = best[..., 0] - best[..., 1] > 1e-3
    found = predict_labels(for_inference(net), image.permute(2, 0, 1), how).long()
    assert torch.equal(found[clear], expected.argmax(2)[clear])
    assert clear.float().mean() > 0.99
