"""ImageNet weights: which file is taken, what is renamed, what is refused."""

import logging

import pytest
import torch

import mgd.models.pretrained as pretrained
from mgd.errors import UserError
from mgd.models.backbones import build_backbone
from mgd.models.pretrained import load_imagenet
from mgd.tensors import flat_state
from mgd.weights import read


def load(name, folder):
    torch.manual_seed(1)
    backbone = build_backbone(name)
    load_imagenet(backbone, name, folder, read=lambda path: flat_state(read(path)))
    return backbone.state_dict()


def equal(state, other):
    return all(torch.equal(state[name], other[name]) for name in other)


@pytest.fixture
def weights():
    torch.manual_seed(0)
    return {
        k: torch.randn_like(v) if v.is_floating_point() else v
        for k, v in build_backbone("resnet18").state_dict().items()
    }


def test_a_file_in_the_weights_folder_is_loaded_whole(tmp_path, weights):
    torch.save(weights, tmp_path / "resnet18_v1c.pth")
    assert equal(load("resnet18", tmp_path), weights)


@pytest.mark.parametrize("wrap", [lambda s: {"state_dict": s}, lambda s: {f"module.{k}": v for k, v in s.items()}])
def test_nested_and_prefixed_files_are_loaded(tmp_path, weights, wrap):
    torch.save(wrap(weights), tmp_path / "resnet18_v1c.pth")
    assert equal(load("resnet18", tmp_path), weights)


def test_openmmlab_stem_names_are_renamed(tmp_path, weights):
    def theirs(name):
        if name.startswith("conv1."):
            return "stem." + name.removeprefix("conv1.")
        return "stem.7." + name.removeprefix("bn1.") if name.startswith("bn1.") else name

    torch.save({theirs(name): tensor for name, tensor in weights.items()}, tmp_path / "resnet18_v1c.pth")
    assert equal(load("resnet18", tmp_path), weights)


def test_shortcuts_behind_a_pooling_are_renamed(tmp_path, weights):
    def theirs(name):
        return name.replace("downsample.1.", "downsample.2.").replace("downsample.0.", "downsample.1.")

    torch.save({theirs(name): tensor for name, tensor in weights.items()}, tmp_path / "resnet18_v1c.pth")
    assert equal(load("resnet18", tmp_path), weights)


def test_a_classification_head_is_skipped_and_told_by_name(tmp_path, weights, caplog):
    torch.save({**weights, "fc.weight": torch.zeros(1000, 512)}, tmp_path / "resnet18_v1c.pth")
    with caplog.at_level(logging.INFO, logger="mgd"):
        logging.getLogger("mgd").propagate = True
        load("resnet18", tmp_path)
    assert "skipped: fc.weight" in caplog.text


def test_a_file_with_a_7x7_stem_leaves_the_stem_at_random_and_says_so(tmp_path, weights, caplog):
    plain = {k: v for k, v in weights.items() if not k.startswith(("conv1.", "bn1."))}
    torch.save({**plain, "conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "resnet18_v1c.pth")
    with caplog.at_level(logging.WARNING, logger="mgd"):
        logging.getLogger("mgd").propagate = True
        state = load("resnet18", tmp_path)
    assert equal(state, plain)
    assert "conv1.0.weight" in caplog.text


def test_weights_of_another_architecture_are_refused_naming_the_file(tmp_path, weights):
    torch.save(weights, tmp_path / "resnet101_v1c.pth")
    with pytest.raises(UserError, match=r"resnet101_v1c\.pth does not fit resnet101.*pretrained=False"):
        load("resnet101", tmp_path)


def test_without_file_and_network_both_remedies_are_named(tmp_path, monkeypatch):
    def offline():
        raise OSError("no route to host")

    source = pretrained.SOURCES["resnet18"]
    monkeypatch.setitem(pretrained.SOURCES, "resnet18", pretrained.Source(source.files, offline))
    with pytest.raises(UserError, match=r"resnet18_v1c\.pth.*no route to host.*model\.pretrained=False"):
        load("resnet18", tmp_path)


def test_without_a_network_the_hub_is_asked_once_and_no_further(tmp_path, monkeypatch):
    class Nobody:
        def head(self, url, *, timeout):
            raise TimeoutError("nobody there")

    monkeypatch.setattr(pretrained, "get_session", Nobody)
    monkeypatch.setattr(pretrained, "try_to_load_from_cache", lambda repository, file: None)
    monkeypatch.setattr("timm.create_model", None)
    with pytest.raises(UserError, match=r"huggingface.co: nobody there.*model\.pretrained=False"):
        load("resnet18", tmp_path)
    weights = build_backbone("resnet18")  # what is cached needs no network
    monkeypatch.setattr(pretrained, "try_to_load_from_cache", lambda repository, file: file)
    monkeypatch.setattr("timm.create_model", lambda name, pretrained: weights)
    assert equal(load("resnet18", tmp_path), weights.state_dict())


def test_every_download_has_the_names_and_shapes_of_its_backbone(monkeypatch):
    """The library's own architecture stands in for its download: same names, same shapes."""
    import timm
    import torchvision

    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: create(name, pretrained=False))
    mobilenet = torchvision.models.mobilenet_v2
    monkeypatch.setattr(torchvision.models, "mobilenet_v2", lambda weights: mobilenet(weights=None))
    with torch.device("meta"):
        for name, source in pretrained.SOURCES.items():
            backbone = build_backbone(name)
            pretrained._load(backbone, dict(source.download()), name=name, origin="download", note="")


def test_a_timm_file_whose_stages_are_named_with_dots_fits_a_flattened_extractor(tmp_path):
    import timm

    torch.manual_seed(0)
    weights = timm.create_model("convnext_atto", pretrained=False).state_dict()
    torch.save(weights, tmp_path / "convnext_atto.pth")
    backbone = build_backbone("timm:convnext_atto", output_stride=32)
    load_imagenet(backbone, "timm:convnext_atto", tmp_path, read=lambda path: flat_state(read(path)))
    assert torch.equal(
        backbone.body.state_dict()["stages_0.blocks.0.conv_dw.weight"], weights["stages.0.blocks.0.conv_dw.weight"]
    )


def test_a_backbone_that_nobody_trained_on_imagenet_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no ImageNet weights for resnet18_slim; set model\.pretrained=False"):
        load("resnet18_slim", tmp_path)
