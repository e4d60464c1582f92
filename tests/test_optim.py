"""Optimisers and schedules: parameter groups, rates of head and layers, warm-up, steps that are left out."""

import pytest
import torch
from helpers import read, train
from torch import nn

from mgd.__main__ import main
from mgd.config import Train, override
from mgd.engine.optim import make_optimizer, make_schedule, move_schedule, parameter_groups
from mgd.errors import UserError
from mgd.models import build_model
from mgd.models.normalise import IMAGENET_MEAN

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def vit():
    return build_model("timm:test_vit", 5, head="linear")


def rates(network, train):
    """Parameter name -> (lr, weight decay)."""
    names = {p: name for name, p in network.named_parameters()}
    groups = make_optimizer(network, train, CPU).param_groups
    return {names[p]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}


def test_published_sgd_has_two_groups_in_the_old_order(vit):
    groups = parameter_groups(vit, Train(weight_decay=0.1))
    decayed, others = ([p for p in vit.parameters() if (p.dim() > 1) is wide] for wide in (True, False))
    assert [[id(p) for p in group["params"]] for group in groups] == [[id(p) for p in g] for g in (decayed, others)]
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]


def test_adamw_decays_no_norm_no_bias_and_no_position_embedding(vit):
    found = rates(vit, Train(optimizer="adamw", lr=0.01, weight_decay=0.1))
    assert set(found) == {name for name, p in vit.named_parameters() if p.requires_grad}
    undecayed = {name for name, (_, decay) in found.items() if decay == 0}
    assert {"backbone.body.model.pos_embed", "head.norm.weight", "classifier.bias"} <= undecayed
    assert found["backbone.body.model.blocks.0.attn.qkv.weight"] == (0.01, 0.1)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_heads_rate_is_a_factor(vit, optimizer):
    found = rates(vit, Train(optimizer=optimizer, lr=0.01, head_lr=40.0))
    assert {lr for name, (lr, _) in found.items() if name.startswith("backbone.")} == {0.01}
    assert {lr for name, (lr, _) in found.items() if not name.startswith("backbone.")} == {0.4}


def test_what_a_method_trains_beside_its_networks_has_the_heads_rate(vit):
    objective = nn.ModuleDict({"student": vit, "projection": nn.Conv2d(3, 4, 1)})
    found = rates(objective, Train(optimizer="adamw", lr=0.01, head_lr=40.0, weight_decay=0.1))
    assert set(found) == {name for name, p in objective.named_parameters() if p.requires_grad}
    assert (found["projection.weight"], found["projection.bias"]) == ((0.4, 0.1), (0.4, 0.0))


def test_layers_before_the_last_learn_less_each(vit):
    train = Train(optimizer="adamw", lr=1.0, layer_decay=0.5)
    found = rates(vit, train)
    first, last = (found[f"backbone.body.model.blocks.{i}.attn.qkv.weight"][0] for i in (0, 5))
    assert first == last / 2**5
    assert found["classifier.weight"][0] == 1.0
    assert make_optimizer(vit, train, CPU).param_groups[0]["lr"] == 1.0  # what is logged


def test_layers_that_timm_does_not_tell_are_one_sentence():
    with pytest.raises(UserError, match=r"layer_decay=0\.5: timm tells no layers of mobilenet_v2; set it to 1"):
        parameter_groups(build_model("mobilenet_v2", 5, channels=16), Train(layer_decay=0.5))


@pytest.mark.parametrize("key", ["head_lr", "layer_decay"])
def test_a_rate_factor_of_0_is_one_sentence(key):
    from test_config import BASE

    with pytest.raises(UserError, match=rf"train\.{key}=0\.0 must be greater than 0"):
        override(BASE, [f"train.{key}=0"])


@pytest.mark.filterwarnings("error")
def test_a_schedule_that_is_moved_goes_on_as_one_that_got_there():
    rates = []
    for moved in (False, True):
        parameter = nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD([{"params": [parameter], "lr": 1.0}, {"params": [], "lr": 0.1}])
        schedule = make_schedule(optimizer, Train(warmup_iterations=2), 10)
        if moved:
            move_schedule(schedule, 5)
        for _ in range(1 if moved else 6):
            optimizer.step()
            schedule.step()
        rates.append((schedule.get_last_lr(), [group["lr"] for group in optimizer.param_groups], schedule.last_epoch))
    assert rates[0] == rates[1]


def test_warm_up_rises_to_the_poly_schedule():
    parameter = torch.nn.Parameter(torch.zeros(1))
    schedule = make_schedule(torch.optim.SGD([parameter], lr=1.0), Train(warmup_iterations=4, power=1.0), 10)
    found = []
    for _ in range(6):
        found.append(schedule.get_last_lr()[0])
        schedule.step()
    # (i + 1) / 4 at most 1, times 1 - i / 10
    assert found == pytest.approx([0.25, 0.5 * 0.9, 0.75 * 0.8, 0.7, 0.6, 0.5])


def test_adamw_trains_a_run_and_it_goes_on_to_the_same_weights(small_scenes, tmp_path):
    options = ["train.optimizer=adamw", "train.head_lr=10", "train.lr=0.001", "train.warmup_iterations=2"]
    options += ["train.max_iterations=4"]
    whole = read(train(tmp_path / "whole", small_scenes, *options) / "last.pt")["model"]
    parts = tmp_path / "parts"
    train(parts, small_scenes, *options, "run.save_every=2", "run.keep=0")
    assert all(torch.equal(whole[name], tensor) for name, tensor in read(parts / "run/last.pt")["model"].items())


def test_an_older_run_goes_on_with_imagenets_statistics_and_without_the_newer_keys(small_scenes, tmp_path):
    last = train(tmp_path, small_scenes) / "last.pt"
    content = read(last)
    for key in ("head", "decoder_stride", "mean", "std"):
        del content["arch"][key]
    del content["training"]["statistics"]
    for section, key in (
        ("model", "head"),
        ("model", "decoder_stride"),
        ("train", "head_lr"),
        ("train", "layer_decay"),
    ):
        del content["config"][section][key]
    torch.save(content, last)
    assert main(["train", str(tmp_path), "--resume"]) == 0  # it is at its end: nothing is trained
    content["iteration"] = 2
    torch.save(content, last)
    assert main(["train", str(tmp_path), "--resume"]) == 0
    assert read(last)["arch"]["mean"] == IMAGENET_MEAN
