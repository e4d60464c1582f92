"""Files of other programs: read where one network fits, else told as what they are; none leads elsewhere."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import network
from helpers import CHANNELS, differences, read, write_network
from official import State, prefixed, write
from safetensors.torch import save_file

import mgd
from mgd.checkpoint import recognise
from mgd.errors import UserError
from mgd.tensors import flat_state, unwrapped


@pytest.fixture(scope="module")
def small() -> State:
    return network("mobilenet_v2", channels=CHANNELS).state_dict()


def compiled_inside(state: State) -> State:
    """Names of a network whose backbone alone went through torch.compile."""
    return {name.replace("backbone.", "backbone._orig_mod."): tensor for name, tensor in state.items()}


LAYOUTS: dict[str, Callable[[State], Any]] = {
    "net": lambda state: {"net": state},
    "student": lambda state: {"student": state, "epoch": 3},
    "model_state": lambda state: {"model_state": state, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}},
    "nested": lambda state: {"checkpoint": {"weights": state}},
    "network. in front": lambda state: prefixed(state, "network."),
    "state_dict, model. in front": lambda state: {"state_dict": prefixed(state, "model.")},
    "state_dict, beside a loss": lambda state: {"state_dict": prefixed(state, "net.") | {"loss.weight": torch.ones(3)}},
    "compiled": lambda state: {"model": prefixed(state, "_orig_mod.")},
    "compiled under DDP": lambda state: prefixed(state, "module._orig_mod."),
    "compiled inside": compiled_inside,
    "an average beside the model": lambda state: {"model": state, "ema": {k: t + 1 for k, t in state.items()}},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_one_network_that_fits_is_read(layout: str, small: State, tmp_path: Path) -> None:
    net = mgd.load_student(write(tmp_path / "x.pth", LAYOUTS[layout](small)))
    assert differences(net.state_dict(), small) == []


@pytest.mark.parametrize("name", ["x.safetensors", "x.pth"])
def test_safetensors_are_read_whatever_the_file_is_called(name: str, small: State, tmp_path: Path) -> None:
    save_file({key: tensor.contiguous() for key, tensor in small.items()}, tmp_path / name)
    assert differences(mgd.load_student(tmp_path / name).state_dict(), small) == []


@pytest.mark.parametrize("length", [0, 7, 60, 500])
def test_safetensors_that_are_cut_short_are_one_sentence(length: int, small: State, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in small.items()}, path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError, match=r"x\.safetensors is a truncated or damaged"):
        mgd.load_student(path)


def test_several_networks_in_a_file_are_named_with_what_they_are(small: State, tmp_path: Path) -> None:
    other = dict(small) | {"classifier.weight": torch.zeros(5, CHANNELS, 1, 1)}
    path = write(tmp_path / "x.pth", {"student": small, "teacher": prefixed(other, "module.")})
    told = r"2 networks: student \(mobilenet_v2, 21 classes\); teacher \(mobilenet_v2, 5 classes\)"
    with pytest.raises(UserError, match=told):
        mgd.load_student(path)


def test_a_file_without_a_network_is_told_as_what_it_is(small: State, tmp_path: Path) -> None:
    backbone = {name.removeprefix("backbone."): t for name, t in small.items() if name.startswith("backbone.")}
    path = write(tmp_path / "x.pth", {"weights": backbone, "epoch": 1})
    with pytest.raises(
        UserError, match=rf"{len(backbone)} tensors, first features.* \(a mobilenet_v2 backbone\) under"
    ):
        mgd.load_student(path)
    with pytest.raises(UserError, match=r"0 tensors \(keys epoch, config\)"):
        recognise({"epoch": 1, "config": {"lr": 0.1}}, "x.pth")


def test_flat_state_takes_the_usual_key_or_the_only_one() -> None:
    one, other = {"a": torch.ones(1)}, {"b": torch.ones(1)}
    assert flat_state(one) == one
    assert flat_state({"net": one}) == one
    assert flat_state({"net": other, "model": one}) == one
    assert flat_state({"net": other, "ema": one}) is None
    assert flat_state([1]) is None


def test_names_lose_wrappers_and_nothing_that_only_looks_like_one() -> None:
    assert unwrapped("module.backbone._orig_mod.conv1.weight") == "backbone.conv1.weight"
    assert unwrapped("submodule.weight") == "submodule.weight"


@pytest.mark.parametrize(
    "backbone", ["timm:hf-hub:timm/resnet18", "timm:hf_hub:a/b", "timm:local-dir:/x", "timm:a/b", "https://a.b/c", "/x"]
)
def test_a_backbone_in_a_file_never_leads_elsewhere(
    backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(*_: Any) -> None:
        raise AssertionError("a file made a connection")

    monkeypatch.setattr(socket.socket, "connect", connect)
    content = read(write_network(tmp_path / "x.pt", num_classes=5))
    content["arch"]["backbone"] = backbone
    path = write(tmp_path / "y.pt", content)
    with pytest.raises(UserError, match=r"y\.pt names the backbone .* leads elsewhere"):
        mgd.load_student(path)


@pytest.mark.parametrize("arch", [None, {}, {"backbone": 3}, {"backbone": "resnet18", "num_classes": 5, "width": 3}])
def test_an_architecture_that_cannot_be_built_is_one_sentence(arch: Any, tmp_path: Path) -> None:
    content = read(write_network(tmp_path / "x.pt", num_classes=5))
    path = write(tmp_path / "y.pt", content | {"arch": arch})
    with pytest.raises(UserError, match=r"y\.pt .*architecture"):
        mgd.load_student(path)
