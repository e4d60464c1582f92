"""Heads: what they cost, what they compute, what a file tells of them, and what is refused."""

import pytest
import torch
import torch.nn.functional as F
from helpers import read
from official import sentence
from torch.utils.flop_counter import FlopCounterMode

from mgd import load_student
from mgd.checkpoint import save
from mgd.errors import UserError
from mgd.models import build_model
from mgd.models.normalise import IMAGENET_MEAN, IMAGENET_STD

LIGHT = ("separable", "lraspp", "linear")


def small(head: str, **options):
    torch.manual_seed(0)
    return build_model("timm:test_resnet", 5, channels=16, head=head, **options)


@pytest.mark.parametrize(
    ("backbone", "options", "most"),
    [
        ("mobilenet_v2", {}, 2.0),
        ("resnet18", {"output_stride": 32}, 11.5),
        ("timm:mobilenetv3_small_100", {"output_stride": 32}, 1.0),
        ("timm:efficientvit_b0", {}, 1.0),
    ],
)
def test_a_separable_student_costs_at_most_as_many_g_multiply_accumulates(backbone, options, most):
    with torch.device("meta"):
        network, image = build_model(backbone, 21, head="separable", **options).eval(), torch.zeros(1, 3, 512, 512)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image)
    assert counter.get_total_flops() / 2 / 1e9 <= most


@pytest.mark.parametrize(
    ("head", "shape"), [("separable", (4, 13, 17)), ("lraspp", (56, 7, 9)), ("linear", (96, 4, 5))]
)
def test_a_head_gives_a_feature_and_logits(head, shape):
    # test_resnet: 48 channels at stride 8, 96 at 16; ASPP is 16 / 2, the decoder 16 / 4 wide
    network, image = small(head), torch.randn(2, 3, 50, 66)
    feature = network.feature(image)
    assert feature.shape[1:] == shape
    assert network.logits(feature, (50, 66)).shape == network(image).shape == (2, 5, 50, 66)


@pytest.mark.parametrize("head", LIGHT)
def test_every_parameter_of_a_light_network_gets_a_gradient(head):
    network = small(head)
    network(torch.randn(2, 3, 48, 48)).square().mean().backward()
    assert not [name for name, p in network.named_parameters() if p.grad is None]


def test_one_classifier_of_lraspps_feature_is_the_papers_sum_of_two():
    network = small("lraspp").eval()
    feature = network.feature(torch.randn(1, 3, 64, 64))
    weight, bias = network.classifier.weight, network.classifier.bias
    context, low = feature[:, :8], feature[:, 8:]
    both = F.conv2d(context, weight[:, :8]) + F.conv2d(low, weight[:, 8:], bias)
    assert torch.allclose(network.classifier(feature), both, atol=1e-5)


def test_lraspps_gate_without_a_weight_lets_half_of_the_context_through():
    network = small("lraspp").eval()
    torch.nn.init.zeros_(network.head.gate.weight)
    features = network.backbone(torch.randn(1, 3, 64, 64))
    low, high = (features[level] for level in network.head.levels)
    half = F.interpolate(network.head.context(high) / 2, size=low.shape[-2:], mode="bilinear", align_corners=True)
    assert torch.allclose(network.head(features)[:, :8], half, atol=1e-5)


def test_a_depthwise_convolution_starts_as_the_identity():
    head = build_model("timm:test_resnet", 5, head="separable").head
    depthwise = [m for m in head.modules() if isinstance(m, torch.nn.Conv2d) and m.groups == m.in_channels > 1]
    assert [m.dilation for m in depthwise] == [(6, 6), (12, 12), (18, 18), (1, 1), (1, 1)]
    for window in depthwise:
        x = torch.randn(1, window.in_channels, 5, 7)
        assert torch.equal(window(x), x)


@pytest.mark.parametrize("head", LIGHT)
def test_a_network_comes_back_from_its_file_with_head_and_statistics(head, tmp_path):
    network = small(head, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)).eval()
    save(tmp_path / "x.pt", network)
    again = load_student(tmp_path / "x.pt")
    assert again.arch == network.arch
    assert (again.mean, again.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    image = torch.randn(1, 3, 40, 40)
    assert torch.equal(again(image), network(image))


def test_a_file_older_than_heads_and_statistics_has_the_published_head_and_imagenets(tmp_path):
    network = small("deeplabv3plus")
    assert network.mean == (0.5, 0.5, 0.5)  # timm's, for a new network
    save(tmp_path / "x.pt", network)
    content = read(tmp_path / "x.pt")
    content["arch"] = {key: content["arch"][key] for key in ("backbone", "num_classes", "channels", "output_stride")}
    torch.save(content, tmp_path / "x.pt")
    again = load_student(tmp_path / "x.pt")
    assert again.arch["head"] == "deeplabv3plus"
    assert (again.mean, again.std) == (IMAGENET_MEAN, IMAGENET_STD)


@pytest.mark.parametrize("backbone", ["resnet18", "resnet101", "wide_resnet50_2", "mobilenet_v2"])
def test_the_published_networks_keep_imagenets_statistics(backbone):
    with torch.device("meta"):
        network = build_model(backbone, 21)
    assert (network.mean, network.std) == (IMAGENET_MEAN, IMAGENET_STD)


def test_a_file_of_one_head_loaded_as_another_is_one_sentence(tmp_path):
    save(tmp_path / "x.pt", small("separable"))
    content = read(tmp_path / "x.pt")
    content["arch"]["head"] = "lraspp"
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"does not fit timm:test_resnet with the head lraspp for 5 classes"):
        load_student(tmp_path / "x.pt")


def test_no_official_file_is_written_of_another_head(tmp_path, capsys):
    torch.manual_seed(0)
    save(tmp_path / "x.pt", build_model("resnet18", 5, channels=16, head="separable"))
    assert "'head': 'separable'" in sentence(capsys, "import", str(tmp_path / "x.pt"), "--to-official")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"head": "pspnet"}, "model.head='pspnet' is unknown; use one of deeplabv3plus, separable, lraspp, linear"),
        (
            {"head": "separable", "decoder_stride": 3},
            "model.decoder_stride=3 cannot be had: the backbone has",
        ),
        ({"head": "linear", "decoder_stride": 4}, "model.head=linear has no decoder"),
        ({"std": (1, 0, 1)}, "std=(1, 0, 1) must be three numbers, above 0"),
    ],
)
def test_what_cannot_be_built_is_one_sentence(options, words):
    with pytest.raises(UserError) as caught:
        build_model("timm:test_resnet", 5, **options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_decoder_at_stride_8_joins_the_feature_at_stride_8():
    assert small("separable", decoder_stride=8).feature(torch.randn(2, 3, 64, 64)).shape == (2, 4, 8, 8)


def test_a_separable_head_of_an_earlier_version_is_told_as_what_it_is(tmp_path):
    path = tmp_path / "x.pt"
    save(path, small("separable"))
    content = read(path)
    content["model"]["head.branches.1.0.bn.weight"] = torch.ones(1)
    torch.save(content, path)
    with pytest.raises(UserError, match=r"holds a separable head of an earlier version.*train it again"):
        load_student(path)
