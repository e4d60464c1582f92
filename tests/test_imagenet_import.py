"""Files of ImageNet weights become what `model.pretrained` finds and takes."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import network
from helpers import differences, read
from official import State, prefixed, sentence, write

from mgd.__main__ import main
from mgd.errors import UserError
from mgd.models import build_model
from mgd.models.pretrained import load_imagenet
from mgd.tensors import flat_state
from mgd.weights import read as read_checkpoint

BACKBONE_WRAPPINGS: dict[str, Callable[[State], Any]] = {
    "bare": lambda state: state,
    "state_dict, module": lambda state: {"state_dict": prefixed(state, "module."), "epoch": 90, "best_acc1": 70.0},
    "model, branch1": lambda state: {"model": prefixed(state, "branch1.")},
    "module.branch1.backbone": lambda state: prefixed(state, "module.branch1.backbone."),
}


@pytest.mark.parametrize("wrapping", BACKBONE_WRAPPINGS)
@pytest.mark.parametrize(("backbone", "file"), [("resnet18", "resnet18_v1c.pth"), ("mobilenet_v2", "mobilenet_v2.pth")])
def test_imagenet_weights_become_a_file_that_pretrained_finds(
    wrapping: str, backbone: str, file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = network(backbone)
    weights = net.backbone.state_dict()
    head = {"resnet18": "fc.weight", "mobilenet_v2": "classifier.1.weight"}[backbone]
    path = write(tmp_path / "download.pth.tar", BACKBONE_WRAPPINGS[wrapping]({**weights, head: torch.ones(1000, 8)}))
    assert main(["import", str(path)]) == 0
    out = capsys.readouterr().out
    assert f"recognised  {backbone}, a backbone without a segmentation head\n" in out
    assert f"matched     {len(weights)}\n" in out
    assert f"unused      {head}" in out
    assert differences(read(tmp_path / file), weights) == []
    fresh = build_model(backbone, 21)
    origin = load_imagenet(fresh.backbone, backbone, tmp_path, read=lambda p: flat_state(read_checkpoint(p)))
    assert origin == str(tmp_path / file)
    assert differences(fresh.backbone.state_dict(), weights) == []


def test_imagenet_weights_without_the_stem_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = network("resnet18").backbone.state_dict()
    weights = {name: tensor for name, tensor in weights.items() if not name.startswith("conv1.")}
    said = sentence(capsys, "import", str(write(tmp_path / "r.pth", weights)))
    assert "lacks" in said
    assert "conv1.0.weight" in said


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (lambda tensor: tensor * torch.nan, "has values that are not finite: layer1.0.conv1.weight; use another file"),
        (lambda tensor: tensor.to(torch.int8), "has int8 where weights are expected: layer1.0.conv1.weight"),
    ],
)
def test_weights_that_are_no_finite_numbers_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], broken: Callable[[torch.Tensor], torch.Tensor], told: str
) -> None:
    net = network("resnet18")
    weights = net.backbone.state_dict()
    weights["layer1.0.conv1.weight"] = broken(weights["layer1.0.conv1.weight"])
    assert told in sentence(capsys, "import", str(write(tmp_path / "resnet18_v1c.pth", weights)))
    with pytest.raises(UserError, match=re.escape(told)):
        load_imagenet(net.backbone, "resnet18", tmp_path, read=lambda file: weights)
