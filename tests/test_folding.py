"""The same numbers in less time: batch norm folded in copies for inference, the context convolved at stride 16."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from golden import network
from helpers import copy_of, differences
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mgd.engine.sync_batch_norm import synchronise
from mgd.models import build_model
from mgd.models.coarse_context import convolve_upsampled
from mgd.models.folding import fold_batch_norm, for_inference
from mgd.models.heads import upsample


def live(net: nn.Module) -> nn.Module:
    """Statistics and parameters of batch norm as after training."""
    generator = torch.Generator().manual_seed(0)
    for norm in norms(net):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.normal_(0, 0.1, generator=generator)
        norm.running_var.uniform_(0.5, 1.5, generator=generator)
        for parameter in (norm.weight, norm.bias):
            parameter.data.uniform_(0.5, 1.5, generator=generator)
    return net.eval()


def norms(net: nn.Module) -> Iterator[_BatchNorm]:
    return (module for module in net.modules() if isinstance(module, _BatchNorm))


def image(height: int = 65, width: int = 97) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


NETWORKS = ["resnet18", "mobilenet_v2", "resnet18_slim", "timm:test_resnet", "timm:mobilenetv3_small_050"]


@pytest.mark.parametrize("make", [fold_batch_norm, for_inference])
@pytest.mark.parametrize("backbone", NETWORKS)
def test_a_folded_network_gives_the_same_logits(backbone: str, make) -> None:
    torch.manual_seed(0)  # with some random weights rounding reaches 1e-5
    net = live(build_model(backbone, 5, channels=16))
    before = copy_of(net.state_dict())
    with torch.no_grad():
        expected, found = net(image()), make(net)(image())
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    assert differences(before, net.state_dict()) == []  # the network itself is left alone


def test_a_network_that_is_given_up_is_folded_itself() -> None:
    net = live(build_model("resnet18_slim", 5, channels=16))
    with torch.no_grad():
        expected = net(image())
        assert for_inference(net, in_place=True) is net
        assert (net(image()) - expected).abs().max() < 1e-5 * expected.abs().max()
    assert len([*norms(net)]) == 1


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v2"])
def test_of_the_papers_networks_one_batch_norm_is_left(backbone: str) -> None:
    folded = fold_batch_norm(network(backbone, channels=16))
    # It follows the sum of two convolutions.
    assert [name for name, m in folded.named_modules() if isinstance(m, _BatchNorm)] == ["head.aspp.red_bn"]


SIZES = [(64, 64), (33, 130), (161, 48)]


@pytest.mark.parametrize("size", SIZES)
def test_the_context_convolved_at_stride_16_is_the_upsampled_ones_convolution(size: tuple[int, int]) -> None:
    folded = fold_batch_norm(live(build_model("resnet18_slim", 5, channels=16)))
    with torch.no_grad():
        features = folded.backbone(image(*size))
        expected = folded.head(features)
        folded.head.coarse = True
        found = folded.head(features)
    assert 0 < (found - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("size", SIZES)
def test_its_gradients_are_those_of_the_upsampled_ones_convolution(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    height, width = (-(-side // 4) for side in size)
    shapes = [(2, 5, -(-height // 4), -(-width // 4)), (2, 3, height, width), (4, 8, 3, 3), (4,)]
    context, low, weight, bias = inputs = [torch.randn(*shape).double().requires_grad_() for shape in shapes]
    plain = F.conv2d(torch.cat([upsample(context, (height, width)), low], dim=1), weight, bias, padding=1)
    found, slope = convolve_upsampled(*inputs), torch.randn(plain.shape)
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-5)
    ours, theirs = (torch.autograd.grad((one * slope).sum(), inputs) for one in (found, plain))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)


def test_a_network_in_training_convolves_its_context_at_stride_16_and_an_export_as_published() -> None:
    net, seen = build_model("resnet18_slim", 5, channels=16), []
    net.head.last_conv[0].register_forward_hook(lambda *_: seen.append("plain"))
    net.train()(image())
    assert seen == []
    fold_batch_norm(net)(image())
    assert set(seen) == {"plain"}


def test_batch_norm_of_several_processes_is_folded_as_well() -> None:
    network = live(build_model("timm:test_resnet", 5, channels=16))
    alone, found = for_inference(network), for_inference(synchronise(network))
    assert len([*norms(found)]) == len([*norms(alone)])
    torch.testing.assert_close(found(image(64, 64)), alone(image(64, 64)))


class Twice(nn.Module):
    """A convolution whose output is also added: its batch norm must stay."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.norm(x) + x


class Shared(nn.Module):
    """A convolution that is called twice, with another batch norm each time."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.one, self.other = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.other(self.conv(self.one(self.conv(x))))


@pytest.mark.parametrize("kind", [Twice, Shared])
def test_what_cannot_be_folded_stays(kind: type[nn.Module]) -> None:
    net = live(kind())
    folded = fold_batch_norm(net)
    assert len(list(norms(folded))) == len(list(norms(net)))
    with torch.no_grad():
        assert torch.allclose(folded(image()), net(image()), atol=1e-5)


def test_a_worked_out_batch_norm_without_parameters() -> None:
    conv, norm = nn.Conv2d(3, 1, 1), nn.BatchNorm2d(1, affine=False, eps=1.0)  # older versions of torch refuse 0
    nn.init.constant_(conv.weight, 2.0)
    nn.init.constant_(conv.bias, 1.0)  # type: ignore[arg-type]
    norm.running_mean.fill_(3.0)  # type: ignore[union-attr]
    norm.running_var.fill_(3.0)  # type: ignore[union-attr]
    folded = fold_batch_norm(nn.Sequential(conv, norm))
    assert folded[0].weight.flatten().tolist() == [1.0, 1.0, 1.0]  # 2 / sqrt(3 + 1)
    assert folded[0].bias.tolist() == [-1.0]  # (1 - 3) / sqrt(3 + 1)
