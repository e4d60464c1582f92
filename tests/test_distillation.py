"""Mean teacher, KD and CWD: losses worked out by hand, terms against the equations, what learns and what never does."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_weighed, copy_of, differences
from test_losses import left_half, random
from test_objectives import SIZE, batch, learn, network, paper_mix, paper_valid, settled
from torch import Tensor

from mgd.config import CWD, KD, MeanTeacher
from mgd.distillation_losses import channel_wise_loss, pixel_kl_loss, squared_probability_loss
from mgd.models import SegmentationNetwork
from mgd.objectives.distill import CWDObjective, KDObjective
from mgd.objectives.mean_teacher import MeanTeacherObjective

VALID = left_half(2, 14, 14)
TARGET = random(2, 5, 14, 14, seed=1)
LOSSES: dict[str, Callable[..., Tensor]] = {
    "squared": lambda x, valid=VALID: squared_probability_loss(x, TARGET.softmax(1), valid=valid, counted=valid),
    "kl": lambda x, valid=VALID: pixel_kl_loss(x, TARGET, temperature=2.0, valid=valid),
    "channel-wise": lambda x, valid=VALID: channel_wise_loss(x, TARGET, valid=valid),
}
each_loss = pytest.mark.parametrize("name", LOSSES)

# Losses


def test_squared_probability_loss_by_hand() -> None:
    logits = torch.tensor([math.log(0.2), math.log(0.8)]).view(1, 2, 1, 1).expand(1, 2, 1, 4)
    target = torch.tensor([0.5, 0.5]).view(1, 2, 1, 1).expand(1, 2, 1, 4)
    valid = torch.tensor([[[True, True, True, False]]])
    counted = torch.tensor([[[True, False, False, False]]])
    # One of three valid pixels counts: (0.3^2 + 0.3^2) / 3.
    assert squared_probability_loss(logits, target, valid=valid, counted=counted).item() == pytest.approx(0.06)


def test_pixel_kl_loss_by_hand() -> None:
    student = torch.tensor([math.log(0.2), math.log(0.8)]).view(1, 2, 1, 1)
    teacher = torch.tensor([math.log(0.5), math.log(0.5)]).view(1, 2, 1, 1)
    one = torch.ones(1, 1, 1, dtype=torch.bool)
    expected = 0.5 * math.log(0.5 / 0.2) + 0.5 * math.log(0.5 / 0.8)
    assert pixel_kl_loss(student, teacher, valid=one).item() == pytest.approx(expected)
    # At T = 2 the student's odds of 4 become 2: probabilities 1/3 and 2/3; times T^2.
    expected = 4 * (0.5 * math.log(0.5 * 3) + 0.5 * math.log(0.5 * 3 / 2))
    assert pixel_kl_loss(student, teacher, temperature=2.0, valid=one).item() == pytest.approx(expected)


def test_channel_wise_loss_by_hand() -> None:
    # Two channels over two positions. Channel 0: student (1/5, 4/5), teacher (1/2, 1/2); channel 1: both uniform.
    student = torch.tensor([[[[math.log(0.2), math.log(0.8)]], [[7.0, 7.0]]]])
    teacher = torch.tensor([[[[3.0, 3.0]], [[0.0, 0.0]]]])
    all_valid = torch.ones(1, 1, 2, dtype=torch.bool)
    divergence = 0.5 * math.log(0.5 / 0.2) + 0.5 * math.log(0.5 / 0.8)
    found = channel_wise_loss(student, teacher, temperature=1.0, valid=all_valid)
    assert found.item() == pytest.approx(divergence / 2)
    # An image without a difference halves the mean over images.
    two = channel_wise_loss(
        torch.cat([student, teacher]), torch.cat([teacher, teacher]), temperature=1.0, valid=all_valid.expand(2, 1, 2)
    )
    assert two.item() == pytest.approx(divergence / 4)


def test_the_temperature_of_a_channel_divides_its_values_and_scales_the_loss_back() -> None:
    student, valid = random(2, 5, 14, 14), torch.ones(2, 14, 14, dtype=torch.bool)
    at_4 = channel_wise_loss(student, TARGET, temperature=4.0, valid=valid)
    assert at_4.item() == pytest.approx(
        16 * channel_wise_loss(student / 4, TARGET / 4, temperature=1.0, valid=valid).item()
    )


@each_loss
def test_a_student_that_answers_as_its_teacher_has_loss_0(name: str) -> None:
    assert LOSSES[name](TARGET).item() == pytest.approx(0, abs=1e-6)


@each_loss
def test_gradient_is_the_slope_of_the_loss(name: str) -> None:
    x, step = random(2, 5, 14, 14).requires_grad_(), 1e-2
    (gradient,) = torch.autograd.grad(LOSSES[name](x), x)
    with torch.no_grad():
        along = gradient / gradient.norm()
        slope = (LOSSES[name](x + step * along) - LOSSES[name](x - step * along)).item() / (2 * step)
    assert slope == pytest.approx((gradient * along).sum().item(), rel=2e-2)


@each_loss
def test_what_is_in_the_padding_changes_no_loss_and_gets_no_gradient(name: str) -> None:
    x = random(2, 5, 14, 14).requires_grad_()
    loss = LOSSES[name](x)
    (gradient,) = torch.autograd.grad(loss, x)
    assert torch.equal(LOSSES[name](torch.where(VALID[:, None], x, 100.0)), loss)
    assert not gradient[:, :, :, 7:].any()


@each_loss
def test_nothing_but_padding_gives_loss_0_and_gradient_0(name: str) -> None:
    x = random(2, 5, 14, 14).requires_grad_()
    loss = LOSSES[name](x, torch.zeros_like(VALID))
    (gradient,) = torch.autograd.grad(loss, x)
    assert loss.item() == 0
    assert not gradient.any()


@each_loss
def test_losses_of_half_precision_inputs_are_computed_in_float32(name: str) -> None:
    x = random(2, 5, 14, 14).bfloat16()
    assert LOSSES[name](x).dtype == torch.float32
    assert torch.equal(LOSSES[name](x), LOSSES[name](x.float()))


# Objectives

NAMES = {"deep_teacher": ("deep.pt",), "wide_teacher": ("wide.pt",)}


def frozen() -> dict[str, SegmentationNetwork]:
    return {"deep": settled(1), "wide": settled(2, channels=24)}


def kd(**options: float) -> KDObjective:
    return KDObjective(network(0), frozen(), KD(**NAMES, **options))


def cwd(**options: float) -> CWDObjective:
    student, teachers = network(0), frozen()
    torch.manual_seed(5)  # of the projection
    return CWDObjective(student, teachers, CWD(**NAMES, **options))


def mean_teacher(**options: Any) -> MeanTeacherObjective:
    return MeanTeacherObjective(network(0), MeanTeacher(**({"confidence": ()} | options)))


def supervised(student: SegmentationNetwork) -> Tensor:
    labeled = batch().labeled
    return F.cross_entropy(student(labeled.image), labeled.label, ignore_index=255)


def test_kd_is_its_equation() -> None:
    one, objective = batch(), kd(temperature=2.0, labeled=0.5, unlabeled=0.25)
    student, teachers = objective.student, objective.teachers.values()
    terms = objective(one)

    def expected(image: Tensor, valid: Tensor) -> Tensor:
        return sum(pixel_kl_loss(student(image), t(image), temperature=2.0, valid=valid) for t in teachers) / 2

    assert terms.keys() == {"supervised", "kd_labeled", "kd_unlabeled"}
    torch.testing.assert_close(terms["supervised"], supervised(student))
    torch.testing.assert_close(terms["kd_labeled"], 0.5 * expected(one.labeled.image, one.labeled.valid))
    torch.testing.assert_close(terms["kd_unlabeled"], 0.25 * expected(paper_mix(one), paper_valid(one)))


@pytest.mark.parametrize("picky", [[], ["student"], ["deep", "wide"]])
def test_cwd_is_its_equation(picky: list[str]) -> None:
    one, objective = batch(), cwd(weight_logits=3.0, weight_feature=50.0, unlabeled=0.25)
    for name, net in {"student": objective.student, **objective.teachers}.items():
        net.backbone.multiple = 64 if name in picky else 1  # it pads the images, which then teaches nothing
    student, (deep, wide) = objective.student, objective.teachers.values()
    terms, image, valid = objective(one), paper_mix(one), paper_valid(one)
    feature, of_deep, of_wide = (net.feature(image)[..., : SIZE // 4, : SIZE // 4] for net in (student, deep, wide))
    logits, features = (
        [
            channel_wise_loss(student.classifier(feature), teacher.classifier(seen), valid=valid)
            for teacher, seen in ((deep, of_deep), (wide, of_wide))
        ],
        [
            channel_wise_loss(feature, of_deep, valid=valid),
            channel_wise_loss(objective.projections["wide"](feature), of_wide, valid=valid),
        ],
    )
    assert terms.keys() == {"supervised"} | {
        f"{a}_{b}" for a in ("logits", "feature") for b in ("labeled", "unlabeled")
    }
    torch.testing.assert_close(terms["supervised"], supervised(student))
    torch.testing.assert_close(terms["logits_unlabeled"], 0.25 * 3 * sum(logits) / 2, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(terms["feature_unlabeled"], 0.25 * 50 * sum(features) / 2, rtol=1e-4, atol=1e-6)


def test_a_projection_is_made_where_widths_differ_learns_and_is_no_part_of_the_student() -> None:
    objective = cwd()
    assert set(objective.projections) == {"wide"}  # the deep teacher is as wide as the student
    before = copy_of(objective.projections.state_dict())
    learn(objective, steps=1)
    assert set(differences(before, objective.projections.state_dict())) == {"wide.weight", "wide.bias"}
    assert "projections.wide.weight" in objective.state_dict()
    assert not [name for name in objective.student.state_dict() if "projection" in name]
    assert not cwd(weight_feature=0.0).projections


@pytest.mark.parametrize("make", [kd, cwd])
def test_training_changes_no_bit_of_a_frozen_teacher(make: Callable[..., KDObjective | CWDObjective]) -> None:
    objective = make()
    before = {name: copy_of(teacher.state_dict()) for name, teacher in objective.teachers.items()}
    learn(objective, steps=2)
    assert all(differences(before[name], objective.teachers[name].state_dict()) == [] for name in before)


@pytest.mark.parametrize(
    ("make", "options", "expected"),
    [
        (kd, {"labeled": 0.0}, {"kd_unlabeled"}),
        (kd, {"unlabeled": 0.0}, {"kd_labeled"}),
        (kd, {"labeled": 0.0, "unlabeled": 0.0}, set()),
        (cwd, {"weight_feature": 0.0, "unlabeled": 0.0}, {"logits_labeled"}),
        (cwd, {"weight_logits": 0.0, "labeled": 0.0}, {"feature_unlabeled"}),
        (cwd, {"weight_logits": 0.0, "weight_feature": 0.0}, set()),
    ],
)
def test_a_weight_of_0_leaves_its_term_out(make: Callable[..., KDObjective], options: dict, expected: set) -> None:
    objective = make(**options)
    assert objective(batch()).keys() == {"supervised"} | expected
    assert all(p.grad is None for p in objective.parameters())
    sum(objective(batch()).values()).backward()
    assert all(p.grad is not None for p in objective.parameters())  # what DDP waits for


def test_terms_divided_by_their_weights_are_those_of_weights_of_1() -> None:
    made = (
        (kd(labeled=0.5, unlabeled=0.25), kd()),
        (
            cwd(weight_logits=3.0, weight_feature=0.2, labeled=0.5, unlabeled=2.0),
            cwd(weight_logits=1.0, weight_feature=1.0),
        ),
        (mean_teacher(weight=0.3, rampup_iterations=10), mean_teacher()),
    )
    for weighing, plain in made:
        assert_weighed(weighing, plain, batch(iteration=5))


def test_mean_teacher_is_its_equation() -> None:
    one, objective = batch(), mean_teacher(weight=1.5)
    teacher, student = settled(3), objective.student
    objective.average.module.load_state_dict(teacher.state_dict())
    terms, mask = objective.train()(one), one.mask
    with torch.no_grad():
        target = torch.where(mask, teacher(one.second.image).softmax(1), teacher(one.first.image).softmax(1))
    squared = (student(paper_mix(one)).softmax(1) - target).square().sum(1)
    assert terms.keys() == {"supervised", "consistency"}
    torch.testing.assert_close(terms["supervised"], supervised(student))
    torch.testing.assert_close(terms["consistency"], 1.5 * squared[paper_valid(one)].mean())


def test_pixels_of_which_the_teacher_is_not_sure_add_nothing_to_the_mean() -> None:
    one = batch()
    full, half = mean_teacher(), mean_teacher(confidence=(0.3,))
    target = full._target(one)
    assert 0 < (target.amax(1) >= 0.3).float().mean() < 1
    squared = (full.student(paper_mix(one)).softmax(1) - target).square().sum(1)
    counted = paper_valid(one) & (target.amax(1) >= 0.3)
    torch.testing.assert_close(half(one)["consistency"], squared[counted].sum() / paper_valid(one).sum())
    assert mean_teacher(confidence=(1.0,))(one)["consistency"].item() == 0


def test_the_mean_teacher_averages_weights_and_statistics_and_nothing_else_moves_it() -> None:
    objective = mean_teacher(decay=0.75)
    student, teacher = objective.student, objective.average.module
    expected = copy_of(student.state_dict())
    for t in range(5):
        learn(objective, steps=1)
        assert not teacher.training
        objective.after_update(t)
        decay = min(0.75, 1 - 1 / (t + 1))  # 0, 1/2, 2/3, 3/4, 3/4
        for name, value in student.state_dict().items():
            floating = value.is_floating_point()
            expected[name] = decay * expected[name] + (1 - decay) * value if floating else value.clone()
    for name, value in teacher.state_dict().items():
        torch.testing.assert_close(value, expected[name], msg=name)
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())


def test_the_mean_teacher_looks_at_an_image_once(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = batch()._replace(second=None)  # which is then the images' neighbours
    objective = mean_teacher()
    expected = objective(whole._replace(second=whole.pair()[1]))["consistency"]
    looks = []
    monkeypatch.setattr(
        type(objective.average), "logits", lambda self, views: looks.append(views) or self.module(views.image)
    )
    torch.testing.assert_close(objective(whole)["consistency"], expected)
    assert len(looks) == 1


def test_during_burn_in_the_mean_teacher_does_not_teach_and_its_ramp_up_starts_after_it() -> None:
    objective = mean_teacher(burn_in_iterations=5, rampup_iterations=10)
    assert set(objective(batch(iteration=4))) == {"supervised"}
    full = mean_teacher()(batch())["consistency"]
    torch.testing.assert_close(objective(batch(iteration=5))["consistency"], math.exp(-5) * full)


@pytest.mark.parametrize("make", [kd, cwd, mean_teacher])
def test_images_that_are_nothing_but_padding_give_terms_and_gradients_of_0(make: Callable[..., KDObjective]) -> None:
    objective = make()
    terms = objective(batch(padded=32))
    sum(terms.values()).backward()
    assert all(value.item() == 0 for value in terms.values())
    assert all(torch.isfinite(p.grad).all() for p in objective.parameters() if p.grad is not None)


@pytest.mark.parametrize("make", [kd, cwd, mean_teacher])
def test_going_part_by_part_gives_the_gradient_of_all_terms_together(make: Callable[..., KDObjective]) -> None:
    one, whole, parted = batch(), make(), make()
    sum(whole(one).values()).backward()
    for part in parted.passes(one):
        sum(part.terms().values()).backward()
    assert differences(whole.state_dict(), parted.state_dict()) == []  # running statistics
    for (name, expected), found in zip(whole.named_parameters(), parted.parameters(), strict=True):
        if expected.requires_grad:
            torch.testing.assert_close(found.grad, expected.grad, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("temperature", [1.0, 4.0, 16.0])
def test_channel_wise_distillation_is_about_half_the_variance_of_the_difference(temperature: float) -> None:
    torch.manual_seed(0)
    student, teacher = torch.zeros(2, 8, 32, 32), 0.5 * torch.randn(2, 8, 32, 32)
    valid = torch.ones(2, 32, 32, dtype=torch.bool)
    found = channel_wise_loss(student, teacher, temperature=temperature, valid=valid)
    assert found.item() == pytest.approx(0.5**2 / 2, rel=0.05)
