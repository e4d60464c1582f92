"""What the code computes is what it did when the official values were met (tests/reference.py says how)."""

import json

import pytest
import torch
from reference import (
    BACKBONES,
    FILE,
    cases,
    evaluation_scores,
    label_map,
    losses,
    masks,
    metrics,
    names_digest,
    outputs,
    some,
)
from torch import Tensor, nn

from mgd.models import build_model

REFERENCE = json.loads(FILE.read_text())
CASES = ("eval", "variant b", "train")


@pytest.fixture(scope="module")
def scores() -> Tensor:
    return evaluation_scores()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_names_shapes_and_parameter_counts_are_the_recorded_ones(backbone: str) -> None:
    with torch.device("meta"):
        net = build_model(backbone, 21)
    assert names_digest(net) == REFERENCE["networks"][backbone]["names"]
    assert sum(p.numel() for p in net.parameters()) == REFERENCE["networks"][backbone]["parameters"]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_outputs_and_running_statistics_are_the_recorded_ones(backbone: str, case: str) -> None:
    recorded = REFERENCE["networks"][backbone]
    make, shape = next((make, shape) for name, make, shape in cases(backbone) if name == case)
    found = outputs(make(), shape)
    assert found.keys() == recorded[case].keys()
    for name, values in found.items():
        assert values == pytest.approx(recorded[case][name], rel=0, abs=recorded["tolerances"][case]), name


@pytest.mark.parametrize("name", ["backbone.layer4.0.conv2", "backbone.layer4.1.conv1", "head.aspp.map_convs.3"])
def test_the_tolerance_would_notice_a_wrong_dilation(name: str) -> None:
    recorded = REFERENCE["networks"]["resnet18"]
    make, shape = next((make, shape) for case, make, shape in cases("resnet18") if case == "variant b")
    net = make()
    conv = net.get_submodule(name)
    assert isinstance(conv, nn.Conv2d)
    conv.dilation = conv.padding = (conv.dilation[0] - 1,) * 2
    found = outputs(net, shape)["logits"]
    off = max(abs(ours - theirs) for ours, theirs in zip(found, recorded["variant b"]["logits"], strict=True))
    assert off > 10 * recorded["tolerances"]["variant b"]


def test_losses_and_their_gradients_are_the_recorded_ones() -> None:
    found = losses()
    assert found.keys() == REFERENCE["losses"].keys()
    for name, numbers in found.items():
        recorded = REFERENCE["losses"][name]
        assert numbers["value"] == pytest.approx(recorded["value"], rel=1e-5, abs=1e-6), name
        assert numbers["norm"] == pytest.approx(recorded["norm"], rel=1e-5), name
        assert numbers["gradient"] == pytest.approx(recorded["gradient"], rel=1e-5, abs=1e-6), name


def test_a_cutmix_mask_is_the_recorded_one() -> None:
    assert masks() == REFERENCE["mask"]


def test_summed_scores_of_sliding_windows_are_the_recorded_ones(scores: Tensor) -> None:
    assert some(scores, 150) == pytest.approx(REFERENCE["evaluation"]["scores"], rel=0, abs=1e-3)


def test_the_label_map_is_the_recorded_one_except_at_ties(scores: Tensor) -> None:
    found, recorded = ("".join(rows) for rows in (label_map(scores), REFERENCE["evaluation"]["labels"]))
    assert len(found) == len(recorded) == 25 * 38
    sure = [pair for pair in zip(found, recorded, strict=True) if "-" not in pair]
    assert len(sure) > 0.98 * len(found)
    assert all(ours == theirs for ours, theirs in sure)


def test_confusion_matrix_and_scores_are_the_recorded_ones() -> None:
    found, recorded = metrics(), REFERENCE["evaluation"]["metrics"]
    assert found["confusion"] == recorded["confusion"]
    assert found["iou"] == recorded["iou"]
    assert found["iou"][4] is None  # a class that is nowhere
    assert (found["mean"], found["accuracy"]) == pytest.approx((recorded["mean"], recorded["accuracy"]), abs=1e-15)
