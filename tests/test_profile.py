"""What networks cost: the paper's ratios, the counts of parts, the Pareto front, the command."""

import json
import sys
from dataclasses import replace

import pytest
import torch
from helpers import write_config, write_network
from official import sentence

from mgd.__main__ import main
from mgd.deploy import profile as profiling
from mgd.deploy.profile import Macs, Profile, count, open_network, pareto_front, plot
from mgd.errors import UserError
from mgd.models import build_model

BLANK = Profile(
    name="",
    arch={},
    parameters=0,
    macs=Macs(backbone=0, head=0, whole=0),
    activations=0,
    latency_ms=None,
    timings=(),
    miou=None,
)


def scored(name, cost, miou):
    return replace(BLANK, name=name, macs=Macs(backbone=0, head=cost, whole=cost), miou=miou)


def backbone_macs(name):
    with torch.device("meta"):
        return count(build_model(name, 21), 512)[0].backbone


def test_the_papers_compression_ratios_are_those_of_its_backbones():
    deep, wide, student, light = map(backbone_macs, ("resnet101", "wide_resnet50_2", "resnet18", "mobilenet_v2"))
    assert deep / student == pytest.approx(3.4, abs=0.05)
    assert wide / student == pytest.approx(5.3, abs=0.05)
    # By convolutions alone; the paper prints 38.7 and 59.6.
    assert deep / light == pytest.approx(40.3, abs=0.05)
    assert wide / light == pytest.approx(62.3, abs=0.05)


def test_counts_are_those_of_a_convolution_worked_out_by_hand():
    network = build_model("timm:test_resnet", 5, channels=16, head="linear")
    macs, activations = count(network, 64)
    side = network.eval().feature(torch.zeros(1, 3, 64, 64)).shape[-1]
    assert macs.head == network.head.out_channels * 5 * side * side  # a 1x1 convolution to 5 classes
    assert macs.whole == macs.backbone + macs.head
    assert activations >= 4 * 5 * 64 * 64  # the logits at least


def test_memory_counts_what_is_alive_at_once():
    alive = profiling._Alive()
    with alive:
        first = torch.zeros(256)
        second = first + 1  # 2 KiB alive
        del first
        third = second.view(16, 16) * 2  # a view is no memory; again 2 KiB
    assert alive.peak == 2 * 256 * 4
    assert third.shape == (16, 16)


def test_the_pareto_front_leaves_out_what_a_cheaper_network_beats():
    found = [scored("a", 3, 0.5), scored("b", 1, 0.3), scored("c", 2, 0.2), scored("d", 3, 0.4), scored("e", 4, None)]
    assert [one.name for one in pareto_front(found)] == ["b", "a"]


def test_a_missing_matplotlib_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r"matplotlib is not installed .*pip install 'mgd\[report\]'"):
        plot([scored("a", 1, 0.5)], tmp_path / "x.png")


def test_the_picture_is_drawn(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'mgd[report]'")
    plot([scored("a", 3 * 10**9, 0.5), scored("b", 10**9, 0.3)], tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_an_experiments_network_is_profiled_with_its_own_classes(tmp_path, small_scenes):
    network, _ = open_network(str(write_config(tmp_path / "x", small_scenes)), 21)
    assert network.num_classes == 8


def test_a_backbone_an_experiment_and_a_checkpoint_are_profiled(tmp_path, capsys):
    file = write_network(tmp_path / "run/last.pt", num_classes=4)
    (tmp_path / "run/evaluation").mkdir()
    (tmp_path / "run/evaluation/last.json").write_text(json.dumps({"miou": 0.25}))
    config = write_config(tmp_path / "x", tmp_path)
    out = tmp_path / "found.json"
    arguments = ["timm:test_resnet/separable", str(config), str(file), "--size", "64", "--seconds", "0.01"]
    assert main(["profile", *arguments, "--modes", "eager", "--json", str(out)]) == 0
    content = json.loads(out.read_text())
    assert content["size"] == 64
    assert [one["miou"] for one in content["networks"]] == [None, None, 0.25]
    for one in content["networks"]:
        assert one["parameters"] > 0
        assert one["macs"]["backbone"] + one["macs"]["head"] == one["macs"]["whole"]
        assert one["latency_ms"] == one["timings"][0]["latency_ms"] > 0
    assert "timm:test_resnet/separable" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["resnet19"], "model.backbone='resnet19' is unknown"),
        (["resnet18/pspnet"], "model.head='pspnet' is unknown"),
        (["resnet18/separable/half"], "must be BACKBONE/HEAD/OUTPUT_STRIDE"),
        (["no.pt"], "no.pt is no experiment and no checkpoint"),
        (["timm:test_resnet", "model.head=lraspp"], "model.head=lraspp: timm:test_resnet is no experiment"),
        (["timm:test_resnet", "--modes", "fast"], "fast is no way to run a network"),
        (["timm:test_resnet", "--seconds", "0", "--plot", "x.png"], "no network has a score"),
        (["timm:test_resnet", "--size", "0"], "--size must be 1 or more"),
    ],
)
def test_what_cannot_be_profiled_is_one_sentence(arguments, words, capsys):
    assert words in sentence(capsys, "profile", *arguments)
