"""One full step of multi-granularity distillation against a plain restatement of its equations."""

import copy
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mgd.config import MGD, Criterion
from mgd.data.batch import Batch, Views
from mgd.models import SegmentationNetwork, build_model
from mgd.objectives.mgd import MGDObjective
from mgd.objectives.teaching import TeacherNetworks

CLASSES, SIZE, GRID = 5, 56, 7
WEIGHTS = {"pixel_unlabeled": 0.9, "pixel_labeled": 1.1, "lambda_image": 0.004, "lambda_region": 100.0}
Norm = Literal["frozen", "batch"]


def small_network(seed: int, channels: int = 16) -> SegmentationNetwork:
    torch.manual_seed(seed)
    return build_model("timm:test_resnet", CLASSES, channels=channels, output_stride=16)


@pytest.fixture
def networks() -> dict[str, SegmentationNetwork]:
    return {"student": small_network(0), "deep": small_network(1, 24), "wide": small_network(2, 32)}


def views(seed: int, *, padded: int, label: bool = False) -> Views:
    """Two images whose last `padded` columns are padding."""
    generator = torch.Generator().manual_seed(seed)
    valid = torch.ones(2, SIZE, SIZE, dtype=torch.bool)
    valid[:, :, SIZE - padded :] = False
    image = torch.randn(2, 3, SIZE, SIZE, generator=generator) * valid[:, None]
    truth = torch.randint(CLASSES, (2, SIZE, SIZE), generator=generator)
    return Views(image, valid, torch.where(valid, truth, 255) if label else None)


def batch(*, padded: int = 8) -> Batch:
    mask = torch.zeros(2, 1, SIZE, SIZE, dtype=torch.bool)
    mask[0, :, 8:40, 16:56] = True
    mask[1, :, :24] = True
    return Batch(views(1, padded=padded, label=True), views(2, padded=padded), views(3, padded=0), mask, 0)


def ce(logits: Tensor, label: Tensor) -> Tensor:
    """Mean of -log p over the pixels that are not 255."""
    log_p = logits.log_softmax(1).transpose(0, 1).flatten(1)
    flat = label.flatten()
    counted = flat != 255
    return -log_p[:, counted].gather(0, flat[counted][None]).mean()


def similarity(feature: Tensor, valid: Tensor) -> Tensor:
    """(C,h,w), (h,w) -> (R,R): cosines of the regions that hold image; the regions are equal squares here."""
    side = feature.shape[-1] // GRID
    regions = []
    for y in range(0, GRID * side, side):
        for x in range(0, GRID * side, side):
            inside = valid[y : y + side, x : x + side]
            if inside.any():
                regions.append(feature[:, y : y + side, x : x + side][:, inside].mean(1))
    unit = F.normalize(torch.stack(regions), dim=1)
    return unit @ unit.T


def restated(
    student: SegmentationNetwork, deep: SegmentationNetwork, wide: SegmentationNetwork, b: Batch
) -> dict[str, Tensor]:
    """The method's equations, image by image; the padding here is whole regions of the 7x7 grid."""
    u0, u1, labeled = b.first, b.second, b.labeled
    assert u0 is not None
    assert u1 is not None
    assert labeled.label is not None
    m = b.mask.float()
    mixed = u0.image * (1 - m) + u1.image * m
    valid = torch.where(b.mask[:, 0], u1.valid, u0.valid)
    logits_x, logits_mix, feature = student(labeled.image), student(mixed), student.feature(mixed)
    pixel_x, pixel_mix = torch.zeros(()), torch.zeros(())
    with torch.no_grad():
        pooled_deep, feature_wide = deep(mixed), wide.feature(mixed)
    for teacher in (wide, deep):
        with torch.no_grad():
            ps = (teacher(u0.image) * (1 - m) + teacher(u1.image) * m).argmax(1).masked_fill(~valid, 255)
            ps_x = teacher(labeled.image).argmax(1).masked_fill(~labeled.valid, 255)
        pixel_mix, pixel_x = pixel_mix + ce(logits_mix, ps), pixel_x + ce(logits_x, ps_x)
    image, region = torch.zeros(()), torch.zeros(())
    # What a network saw of the padding up to sizes that its backbone takes is no part of the image.
    feature, feature_wide = (cells[..., : SIZE // 4, : SIZE // 4] for cells in (feature, feature_wide))
    small = valid[:, ::4, ::4]
    for n in range(len(mixed)):
        pooled = [z[n][:, valid[n]].mean(1) for z in (logits_mix, pooled_deep)]
        image = image + (pooled[0] - pooled[1]).abs().sum() / len(mixed)
        squared = (similarity(feature[n], small[n]) - similarity(feature_wide[n], small[n])) ** 2
        region = region + squared.mean() / len(mixed)
    return {
        "supervised": ce(logits_x, labeled.label),
        "pixel_labeled": WEIGHTS["pixel_labeled"] * pixel_x,
        "pixel_unlabeled": WEIGHTS["pixel_unlabeled"] * pixel_mix,
        "image": WEIGHTS["lambda_image"] * image,
        "region": WEIGHTS["lambda_region"] * region,
    }


def objective(networks: dict[str, SegmentationNetwork], norm: Norm = "frozen", **changes: float) -> MGDObjective:
    teachers = {name: networks[name] for name in ("deep", "wide")}
    config = MGD(teacher_norm=norm, **(WEIGHTS | changes))
    return MGDObjective(networks["student"], TeacherNetworks(teachers.items(), config), config).train()


@pytest.mark.parametrize("norm", ["frozen", "batch"])
@pytest.mark.parametrize("padded", [0, 8])
@pytest.mark.parametrize("picky", [[], ["student"], ["wide", "deep"]])
def test_terms_and_gradients_are_those_of_the_equations(
    networks: dict[str, SegmentationNetwork], norm: Norm, padded: int, picky: list[str]
) -> None:
    for name in picky:
        networks[name].backbone.multiple = 32  # 56 pixels become 64
    theirs = {name: copy.deepcopy(net).train(name == "student" or norm == "batch") for name, net in networks.items()}
    expected = restated(**theirs, b=batch(padded=padded))
    terms = objective(networks, norm)(batch(padded=padded))
    assert terms.keys() == expected.keys()
    for name, term in terms.items():
        torch.testing.assert_close(term, expected[name], rtol=1e-5, atol=1e-6, msg=f"{name} {term} {expected[name]}")
    sum(terms.values()).backward()
    sum(expected.values()).backward()
    for (name, ours), restated_ in zip(
        networks["student"].named_parameters(), theirs["student"].parameters(), strict=True
    ):
        torch.testing.assert_close(ours.grad, restated_.grad, rtol=1e-3, atol=1e-5, msg=name)


def test_a_frozen_teacher_stays_bit_for_bit_the_same(networks: dict[str, SegmentationNetwork]) -> None:
    model = objective(networks)
    before = {name: copy.deepcopy(teacher.state_dict()) for name, teacher in model.teachers.items()}
    sum(model(batch()).values()).backward()
    for name, state in before.items():
        after = model.teachers[name].state_dict()
        assert all(torch.equal(after[key], state[key]) for key in state)
        assert all(p.grad is None for p in model.teachers[name].parameters())
        assert not any(module.training for module in model.teachers[name].modules())


def test_batch_norm_of_a_teacher_drifts_with_teacher_norm_batch_and_nothing_else(
    networks: dict[str, SegmentationNetwork],
) -> None:
    before = {n: copy.deepcopy(networks[n].state_dict()) for n in ("deep", "wide")}
    sum(objective(networks, "batch")(batch()).values()).backward()
    for name, state in before.items():
        after = networks[name].state_dict()
        changed = {key.rsplit(".", 1)[1] for key in state if not torch.equal(after[key], state[key])}
        assert changed == {"running_mean", "running_var", "num_batches_tracked"}


def test_evaluating_the_student_between_steps_leaves_the_teachers_mode(
    networks: dict[str, SegmentationNetwork],
) -> None:
    for norm in ("frozen", "batch"):
        model = objective(networks, norm)
        model.eval()
        model.train()
        assert all(net.training == (norm == "batch") for net in model.teachers.values())


def test_the_student_that_is_its_teacher_has_image_and_region_loss_0() -> None:
    student = small_network(0)
    networks = {"student": student, "deep": copy.deepcopy(student), "wide": copy.deepcopy(student)}
    terms = objective(networks, "batch")(batch())
    assert terms["image"].item() == 0
    assert terms["region"].item() == 0


@pytest.mark.parametrize(("weight", "term"), [(key, key.removeprefix("lambda_")) for key in WEIGHTS])
def test_a_weight_of_0_leaves_its_term_out_and_the_others_alone(
    networks: dict[str, SegmentationNetwork], weight: str, term: str
) -> None:
    whole = objective(networks)(batch())
    without = objective(networks, **{weight: 0.0})(batch())
    assert whole.keys() - without.keys() == {term}
    for name, value in without.items():
        torch.testing.assert_close(value, whole[name])


def test_one_teacher_alone_gives_its_terms(networks: dict[str, SegmentationNetwork]) -> None:
    both = {"supervised", "pixel_labeled", "pixel_unlabeled"}
    for name, own in (("deep", "image"), ("wide", "region")):
        config = MGD(**WEIGHTS)
        teaching = TeacherNetworks({name: networks[name]}.items(), config)
        model = MGDObjective(networks["student"], teaching, config).train()
        assert model(batch()).keys() == both | {own}


def test_supervised_term_is_ohem_where_the_config_says_so(networks: dict[str, SegmentationNetwork]) -> None:
    teachers = {name: networks[name] for name in ("deep", "wide")}
    config = MGD(criterion=Criterion(kind="ohem", threshold=0.0, min_kept=10), **WEIGHTS)
    terms = MGDObjective(networks["student"], TeacherNetworks(teachers.items(), config), config).train()(
        batch(padded=0)
    )
    plain = objective(networks)(batch(padded=0))
    assert terms["supervised"] > plain["supervised"]  # the hardest 20 pixels only
    torch.testing.assert_close(terms["pixel_labeled"], plain["pixel_labeled"])
