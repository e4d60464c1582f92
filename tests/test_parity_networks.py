"""The four official networks: names, shapes, convolutions, and what they compute."""

import pytest
import torch
from golden import array, facts, image, needs_golden, network
from torch import Tensor, nn

from mgd.models import SegmentationNetwork, build_model
from mgd.models.heads import upsample

pytestmark = needs_golden

ALL = ("resnet18", "resnet101", "wide_resnet50_2", "mobilenet_v2")
RECORDED = ("resnet18", "resnet101")


def tolerance(backbone: str, mode: str) -> float:
    """10 times the recorded rounding of the official network in float32, at least 2e-6."""
    return max(2e-6, 10 * float(array(f"outputs_{backbone}", f"{mode}_max_abs_err_f32_vs_f64")))


def distance(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max())


def statistics(feature: Tensor) -> Tensor:
    """(N,C,h,w) -> (3,C): mean, population std, mean of the absolute value."""
    values = feature.transpose(0, 1).flatten(1)
    return torch.stack([values.mean(1), values.std(1, correction=0), values.abs().mean(1)])


@pytest.fixture(scope="module", params=ALL)
def empty(request: pytest.FixtureRequest) -> tuple[dict, SegmentationNetwork]:
    """The recorded facts and our network without memory for weights."""
    with torch.device("meta"):
        return facts(f"arch_{request.param}"), build_model(request.param, 21)


def test_names_and_shapes_are_the_official_ones(empty: tuple[dict, SegmentationNetwork]) -> None:
    recorded, net = empty
    ours = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    unused = recorded["params_never_used_in_forward"]
    assert ours == {name: tuple(shape) for name, shape in recorded["state_dict"] if name not in unused}


def test_parameter_counts_are_the_official_ones_without_imagenet_heads(empty: tuple[dict, SegmentationNetwork]) -> None:
    recorded, net = empty
    count = {
        part: sum(p.numel() for p in getattr(net, part).parameters()) for part in ("backbone", "head", "classifier")
    }
    heads = sum(recorded["params_never_used_in_forward"].values())
    assert count["backbone"] == recorded["params_backbone"] - heads
    assert count["head"] == recorded["params_head"]
    assert count["classifier"] == recorded["params_classifier"]
    assert sum(count.values()) == recorded["params_total"] - heads


def test_every_convolution_of_the_last_stage_is_the_official_one(empty: tuple[dict, SegmentationNetwork]) -> None:
    recorded, net = empty
    modules = dict(net.named_modules())
    for expected in recorded["convs_last_stage"]:
        conv = modules[expected["name"]]
        assert isinstance(conv, nn.Conv2d)
        found = {
            "name": expected["name"],
            "in_ch": conv.in_channels,
            "out_ch": conv.out_channels,
            "kernel": list(conv.kernel_size),
            "stride": list(conv.stride),
            "padding": list(conv.padding),
            "dilation": list(conv.dilation),
            "groups": conv.groups,
            "bias": conv.bias is not None,
        }
        assert found == expected


def test_the_last_stage_has_no_further_convolution(empty: tuple[dict, SegmentationNetwork]) -> None:
    recorded, net = empty
    names = [conv["name"] for conv in recorded["convs_last_stage"]]
    stages = {name[: name.index(".", len("backbone.features."))] for name in names if "features" in name}
    prefixes = tuple(f"{stage}." for stage in stages or {"backbone.layer4"})
    ours = [n for n, m in net.named_modules() if isinstance(m, nn.Conv2d) and n.startswith(prefixes)]
    assert sorted(ours) == sorted(names)


@pytest.mark.parametrize("size", ["1x3x65x97", "2x3x128x128"])
def test_features_have_the_official_shapes(empty: tuple[dict, SegmentationNetwork], size: str) -> None:
    recorded, net = empty
    expected = recorded["feature_shapes"][size]
    x = torch.empty(*map(int, size.split("x")), device="meta")
    low, *_, high = net.eval().backbone(x)
    assert [list(low.shape), list(high.shape)] == [expected["backbone"][0], expected["backbone"][-1]]
    assert list(net.head.aspp(high).shape) == expected["aspp"]
    assert list(net.feature(x).shape) == expected["v3plus"]
    assert list(net(x).shape) == expected["logits"]


@pytest.mark.parametrize("backbone", RECORDED)
def test_eval_outputs_are_the_official_ones(backbone: str) -> None:
    net, x = network(backbone), image()
    low = array(f"outputs_{backbone}", "eval_logits_low")
    with torch.no_grad():
        feature = net.feature(x)
        assert distance(net.classifier(feature), low) <= tolerance(backbone, "eval")
        assert distance(net(x), upsample(low, (65, 97))) <= tolerance(backbone, "eval")
    assert distance(statistics(feature), array(f"outputs_{backbone}", "eval_v3plus_stats")) <= 2e-6


@pytest.mark.parametrize("backbone", RECORDED)
def test_variant_b_outputs_are_the_official_ones(backbone: str) -> None:
    net = network(backbone, variant_b=True)
    with torch.no_grad():
        low = net.classifier(net.feature(image()))
    assert distance(low, array(f"outputs_{backbone}", "b_eval_logits_low")) <= tolerance(backbone, "b_eval")


@pytest.mark.parametrize("backbone", RECORDED)
def test_variant_b_outputs_of_a_large_image_are_the_official_ones(backbone: str) -> None:
    net = network(backbone, variant_b=True)
    with torch.no_grad():
        low = net.classifier(net.feature(image(large=True)))[:, :, ::4, ::4]
    assert distance(low, array(f"outputs_{backbone}", "b_eval_large_low_s4")) <= tolerance(backbone, "b_eval")


@pytest.mark.parametrize("backbone", RECORDED)
def test_train_outputs_and_running_statistics_are_the_official_ones(backbone: str) -> None:
    net = network(backbone).train()
    recorded = f"outputs_{backbone}"
    with torch.no_grad():
        feature = net.feature(image())
        low = net.classifier(feature)
    assert distance(low, array(recorded, "train_logits_low")) <= tolerance(backbone, "train")
    assert distance(statistics(feature), array(recorded, "train_v3plus_stats")) <= tolerance(backbone, "train")
    state = net.state_dict()
    for bn in ("backbone.bn1", "head.aspp.map_bn", "head.aspp.global_pooling_bn", "head.last_conv.4"):
        for kind in ("running_mean", "running_var"):
            expected = array(recorded, f"train_after1_{bn}.{kind}")
            assert distance(state[f"{bn}.{kind}"], expected) <= tolerance(backbone, "train")


def test_the_tolerance_would_notice_a_wrong_dilation_and_a_wrong_bn_eps() -> None:
    expected, x = array("outputs_resnet18", "eval_logits_low"), image()
    dilated, eps = network("resnet18"), network("resnet18")
    dilated.backbone.layer4[1].conv2.dilation = dilated.backbone.layer4[1].conv2.padding = (2, 2)
    for module in eps.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3
    with torch.no_grad():
        for wrong in (dilated, eps):
            assert distance(wrong.classifier(wrong.feature(x)), expected) > 10 * tolerance("resnet18", "eval")


def test_a_released_mobilenet_needs_output_stride_32() -> None:
    x = image(large=True)[:, :, :257, :385]
    published, finer = (
        network("mobilenet_v2", variant_b=True),
        network("mobilenet_v2", variant_b=True, output_stride=16),
    )
    assert published.state_dict().keys() == finer.state_dict().keys()
    with torch.no_grad():
        changed = (published(x).argmax(1) != finer(x).argmax(1)).float().mean()
    assert 0.45 < changed < 0.47  # docs/parity.md: 46 % of the pixels
