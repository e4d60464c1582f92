"""Any model of timm as a backbone: sizes, strides, statistics, weights, what is frozen and what is refused."""

from pathlib import Path

import pytest
import timm
import torch
import torch.distributed as dist
from test_mgd_step import CLASSES, WEIGHTS, batch
from torch.nn.parallel import DistributedDataParallel

from mgd.config import MGD, load
from mgd.data.batch import Views
from mgd.engine.optim import make_optimizer
from mgd.errors import UserError
from mgd.models import build_model, normalise
from mgd.models.pretrained import load_imagenet
from mgd.models.timm_backbone import explore
from mgd.objectives import build_network
from mgd.objectives.cps import CPSObjective
from mgd.objectives.mgd import MGDObjective

ROOT = Path(__file__).resolve().parent.parent
STATISTICS = {"student": (0.5, 0.5, 0.5), "deep": (0.4, 0.4, 0.4), "wide": (0.485, 0.456, 0.406)}


def vit(**options):
    torch.manual_seed(0)
    return build_model("timm:test_vit", CLASSES, channels=16, **{"head": "linear", **options})


@pytest.mark.parametrize("head", ["linear", "separable"])
def test_a_plain_transformer_takes_any_size_and_learns(head):
    network = vit(head=head)
    logits = network(torch.randn(2, 3, 41, 70))
    assert logits.shape == (2, CLASSES, 41, 70)
    logits.square().mean().backward()
    assert not [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]


def test_a_crop_that_does_not_divide_by_the_patch_is_padded_and_cut_again():
    network = vit().eval()
    image = torch.randn(1, 3, 41, 70)
    padded = torch.zeros(1, 3, 48, 80)
    padded[..., :41, :70] = image
    assert network.feature(image).shape[-2:] == (3, 5)  # 16-pixel patches
    assert torch.allclose(network(image), network(padded)[..., :41, :70], atol=1e-5)


def test_a_crop_smaller_than_a_patch_is_one_sentence():
    with pytest.raises(
        UserError, match=r"8x40 is smaller than a patch of timm:test_vit; use data\.crop_size of at least 16"
    ):
        vit()(torch.randn(1, 3, 8, 40))


def test_the_same_seed_gives_the_same_weights_whether_or_not_the_model_was_seen_before():
    first, second = vit().state_dict(), vit().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_the_head_does_not_reach_is_frozen_and_named():
    with torch.device("meta"):
        network = build_model("timm:hrnet_w18_small", 5, channels=16)
        network(torch.zeros(2, 3, 64, 64)).mean().backward()
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    assert len(network.unreached) == 45
    assert all(p.grad is not None for p in trained.values())
    assert len(trained) + 45 == len(list(network.parameters()))


def test_a_network_that_its_head_reaches_in_part_trains_under_ddp():
    network = build_model("timm:hrnet_w18_small", 5, channels=16)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        model = DistributedDataParallel(network)
        for _ in range(2):  # DDP tells in the second forward that a gradient of the first never came
            model(torch.randn(2, 3, 32, 32)).square().mean().backward()
    finally:
        dist.destroy_process_group()
    assert all(p.grad is not None for p in network.parameters() if p.requires_grad)


@pytest.mark.parametrize("backbone", ["resnet18", "timm:test_resnet"])
def test_of_a_network_that_is_reached_whole_nothing_is_frozen(backbone):
    with torch.device("meta"):
        network = build_model(backbone, 5, channels=16)
    assert network.unreached == ()
    assert all(p.requires_grad for p in network.parameters())


def test_a_model_without_dilation_says_what_stride_it_has():
    with torch.device("meta"):
        assert build_model("timm:efficientvit_b0", 5).backbone.strides == (4, 8, 16, 32)
        assert build_model("timm:efficientvit_b0", 5, output_stride=32).backbone.strides[-1] == 32
        with pytest.raises(
            UserError, match=r"output_stride=16 is not .* timm:efficientvit_b0, .* stride is 32; leave it"
        ):
            build_model("timm:efficientvit_b0", 5, output_stride=16)


def test_a_model_that_cannot_be_looked_at_says_so_and_not_that_sizes_are_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:  # as timm 1.0.29 does with efficientvit_b0
        raise RuntimeError("unsupported scalarType")

    explore.cache_clear()
    monkeypatch.setattr("timm.models._features.FeatureListNet.forward", refuse)
    with pytest.raises(UserError, match=r"resnet10t cannot be looked at .*\(unsupported scalarType\); use another"):
        build_model("timm:resnet10t", 5)


@pytest.mark.parametrize(
    ("name", "words"),
    [("levit_128s", "takes images of 224x224 only"), ("no_such_model", "cannot be built .*timm.list_models")],
)
def test_what_cannot_work_is_one_sentence(name, words):
    with pytest.raises(UserError, match=words) as caught:
        build_model(f"timm:{name}", 5)
    assert "\n" not in str(caught.value)


def test_a_transformers_file_is_loaded_whole(tmp_path):
    torch.manual_seed(1)
    weights = timm.create_model("test_vit", pretrained=False).state_dict()
    torch.save(weights, tmp_path / "test_vit.pth")
    network = vit()
    load_imagenet(network.backbone, "timm:test_vit", tmp_path, read=lambda path: torch.load(path, weights_only=True))
    loaded = network.backbone.model.state_dict()
    assert all(torch.equal(loaded[name], weights[name]) for name in loaded)
    assert {"norm.weight", "pos_embed", "patch_embed.proj.weight"} <= loaded.keys()


def test_a_student_and_two_teachers_of_three_statistics_each_see_their_own():
    torch.manual_seed(0)
    student = build_model("timm:test_resnet", CLASSES, channels=16)  # 0.5, timm's
    deep = vit(mean=STATISTICS["deep"])
    wide = build_model("resnet18_slim", CLASSES, channels=16)
    seen: dict[str, list[torch.Tensor]] = {"student": [], "deep": [], "wide": []}
    for name, network in {"student": student, "deep": deep, "wide": wide}.items():
        assert network.mean == STATISTICS[name]
        network.register_forward_pre_hook(lambda _, inputs, name=name: seen[name].append(inputs[0]))
    student.backbone.register_forward_pre_hook(lambda _, inputs: seen["student"].append(inputs[0]))
    deep.backbone.register_forward_pre_hook(lambda _, inputs: seen["deep"].append(inputs[0]))
    wide.backbone.register_forward_pre_hook(lambda _, inputs: seen["wide"].append(inputs[0]))
    raw = as_photos(batch())
    objective = MGDObjective(
        student, {"deep": deep, "wide": wide}, MGD(deep_teacher=("d",), wide_teacher=("w",), **WEIGHTS)
    )
    torch.stack(list(objective(raw).values())).sum().backward()
    labeled, mixed = raw.labeled, raw.mixed()
    for name, network in {"student": student, "deep": deep, "wide": wide}.items():
        for view in (labeled, mixed):
            expected = normalise.normalise(view.image, view.valid, mean=network.mean, std=network.std)
            assert any(holds(inputs, expected) for inputs in seen[name]), name


def as_photos(b):
    """The batch with uint8 images."""
    generator = torch.Generator().manual_seed(0)

    def photo(views: Views) -> Views:
        return views._replace(image=torch.randint(256, views.image.shape, generator=generator, dtype=torch.uint8))

    return b._replace(labeled=photo(b.labeled), first=photo(b.first), second=photo(b.second))


def holds(inputs, expected):
    """Whether a forward's images, cut to the size, hold these one after another."""
    cut = inputs[..., : expected.shape[-2], : expected.shape[-1]]
    return any(
        torch.allclose(cut[i : i + len(expected)], expected, atol=1e-6) for i in range(len(cut) - len(expected) + 1)
    )


def test_a_dinov2_teacher_and_a_convolutional_one_teach_a_light_student():
    folders = (ROOT / "exp.voc/voc8.mobilev2_dinov2", ROOT / "exp.voc/voc8.dinov2_teacher")
    student_config, teacher_config = map(load, folders)
    student, deep = (build_network(c.model, CLASSES) for c in (student_config, teacher_config))
    wide = build_model("resnet18_slim", CLASSES, channels=16)  # the config's T_W is wide ResNet-50
    teachers = {"deep": deep, "wide": wide}
    terms = MGDObjective(student, teachers, student_config.method)(as_photos(batch()))
    torch.stack(list(terms.values())).sum().backward()
    assert set(terms) == {"supervised", "pixel_labeled", "pixel_unlabeled", "image", "region"}
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in student.parameters())
    assert deep.backbone.multiple == 14


def test_a_dinov2_teacher_is_trained_by_two_copies_that_teach_each_other():
    config = load(ROOT / "exp.voc/voc8.dinov2_teacher")
    copies = [build_network(config.model, CLASSES) for _ in range(2)]
    terms = CPSObjective(copies[0], copies[1], config.method)(as_photos(batch()))
    torch.stack(list(terms.values())).sum().backward()
    assert set(terms) == {"supervised", "cps"}
    for network in copies:
        assert all(bool(p.grad.isfinite().all()) for p in network.parameters() if p.requires_grad)
    before = {name: p.detach().clone() for name, p in copies[0].named_parameters()}
    make_optimizer(copies[0], config.train, torch.device("cpu")).step()
    moved = {name for name, p in copies[0].named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name, p in copies[0].named_parameters() if p.requires_grad}
