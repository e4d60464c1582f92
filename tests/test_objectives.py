"""Test objectives: the terms against the equations, what learns and what never changes."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from helpers import BACKBONE, CHANNELS, assert_weighed, copy_of, differences
from torch import Tensor

from mgd.config import CPS, MGD, Criterion, Data, Experiment, Model, Supervised
from mgd.data.batch import Batch, Views
from mgd.data.cutmix import box_masks
from mgd.losses import image_level_loss, ohem_cross_entropy, region_level_loss
from mgd.models import SegmentationNetwork, build_model
from mgd.objectives import build_objective
from mgd.objectives.base import Objective, rampup
from mgd.objectives.cps import CPSObjective
from mgd.objectives.mgd import MGDObjective
from mgd.objectives.supervised import SupervisedObjective
from mgd.objectives.teaching import TeacherNetworks

CLASSES, SIZE = 5, 32
METHOD = MGD(deep_teacher=("deep.pt",), wide_teacher=("wide.pt",), lambda_image=0.1)
PEERS = CPS()


def network(seed: int, channels: int = 16) -> SegmentationNetwork:
    torch.manual_seed(seed)
    return build_model(BACKBONE, CLASSES, channels=channels)


def settled(seed: int, channels: int = 16) -> SegmentationNetwork:
    """A teacher: its running statistics are no longer those of a new network."""
    teacher = network(seed, channels).train()
    with torch.no_grad():
        for _ in range(3):
            teacher(torch.randn(4, 3, SIZE, SIZE))
    return teacher.eval()


def batch(*, padded: int = 8, iteration: int = 0, images: int = 2) -> Batch:
    """Random images whose last `padded` columns are crop padding; of the second, its last rows."""
    torch.manual_seed(11)
    valid = torch.ones(images, SIZE, SIZE, dtype=torch.bool)
    valid[:, :, SIZE - padded :] = False

    def views(valid: Tensor, label: Tensor | None = None) -> Views:
        return Views(torch.randn(images, 3, SIZE, SIZE) * valid[:, None], valid, label)

    label = torch.where(valid, torch.randint(0, CLASSES, valid.shape), 255)
    mask = torch.stack([torch.eye(SIZE, dtype=torch.bool).cumsum(dim=1).bool()[None]] * images)
    return Batch(views(valid, label), views(valid), views(valid.mT), mask, iteration)


def mgd(config: MGD = METHOD, **teachers: SegmentationNetwork) -> MGDObjective:
    networks = teachers or {"deep": settled(1), "wide": settled(2, channels=24)}
    return MGDObjective(network(0), TeacherNetworks(networks.items(), config), config)


def cps(config: CPS = PEERS) -> CPSObjective:
    return CPSObjective(network(0), network(1), config)


def learn(objective: Objective, steps: int = 3) -> None:
    """Training steps as the loop makes them."""
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.05, momentum=0.9)
    objective.train()
    for iteration in range(steps):
        torch.stack(list(objective(batch(iteration=iteration)).values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()


# Teachers


def test_training_changes_no_parameter_and_no_buffer_of_a_teacher_by_a_bit() -> None:
    objective = mgd()
    before = {name: copy_of(teacher.state_dict()) for name, teacher in objective.teachers.items()}
    student = copy_of(objective.student.state_dict())
    learn(objective)
    assert all(differences(before[name], objective.teachers[name].state_dict()) == [] for name in before)
    changed = differences(student, objective.student.state_dict())
    assert set(changed) == set(student)  # every tensor of the student has learned or counted


def test_teachers_that_use_batch_statistics_as_officially_drift_in_their_buffers_only() -> None:
    objective = mgd(replace(METHOD, teacher_norm="batch"))
    teacher = objective.teachers["deep"]
    before = copy_of(teacher.state_dict())
    learn(objective)
    changed = differences(before, teacher.state_dict())
    assert changed
    assert all(name.endswith(("running_mean", "running_var", "num_batches_tracked")) for name in changed)


def test_teachers_are_in_neither_the_parameters_nor_the_state_of_an_objective() -> None:
    objective = mgd()
    own = {id(parameter) for parameter in objective.student.parameters()}
    assert {id(parameter) for parameter in objective.parameters()} == own
    assert set(objective.state_dict()) == {f"student.{name}" for name in objective.student.state_dict()}
    assert all(id(module) not in map(id, objective.modules()) for module in objective.teachers.values())


def test_train_and_eval_do_not_reach_the_teachers() -> None:
    objective = mgd()
    for mode in (True, False):
        objective.train(mode)
        assert objective.student.training is mode
        assert not any(module.training for teacher in objective.teachers.values() for module in teacher.modules())


def test_teachers_move_with_their_objective() -> None:
    objective = mgd().double()
    for teacher in objective.teachers.values():
        assert {p.dtype for p in teacher.parameters()} == {torch.float64}
        assert {b.dtype for b in teacher.buffers() if b.is_floating_point()} == {torch.float64}
    objective.to("meta")
    assert all(p.is_meta for teacher in objective.teachers.values() for p in teacher.parameters())


def test_a_teacher_gets_no_gradient_and_the_student_gets_one_everywhere() -> None:
    objective = mgd()
    torch.stack(list(objective(batch()).values())).sum().backward()
    assert all(p.grad is None for teacher in objective.teachers.values() for p in teacher.parameters())
    assert all(p.grad is not None for p in objective.student.parameters())


# Terms


def test_supervised_terms_are_the_criterion_on_the_labels() -> None:
    one = batch()
    objective = SupervisedObjective(network(0), Supervised())
    terms = objective(one)
    expected = F.cross_entropy(objective.student(one.labeled.image), one.labeled.label, ignore_index=255)
    assert terms.keys() == {"supervised"}
    assert torch.allclose(terms["supervised"], expected)


def test_hard_examples_are_chosen_in_every_image_by_itself() -> None:
    one = batch(images=3)
    criterion = Criterion(kind="ohem", threshold=0.1, min_kept=40)
    objective = SupervisedObjective(network(0), Supervised(criterion=criterion))
    logits = objective.student(one.labeled.image)
    assert one.labeled.label is not None
    alone = [
        ohem_cross_entropy(logits[i : i + 1], one.labeled.label[i : i + 1], threshold=0.1, min_kept=40)
        for i in range(3)
    ]
    assert torch.allclose(objective(one)["supervised"], torch.stack(alone).mean())


def paper_label(teacher: SegmentationNetwork, one: Batch) -> Tensor:
    """argmax of the mixed logits, 255 in the padding, as the paper has it."""
    assert one.first is not None
    assert one.second is not None
    assert one.mask is not None
    mask = one.mask.float()
    with torch.no_grad():
        logits = teacher(one.first.image) * (1 - mask) + teacher(one.second.image) * mask
    return torch.where(paper_valid(one), logits.argmax(dim=1), 255)


def paper_valid(one: Batch) -> Tensor:
    """A pixel of the mix is valid where it is in the image that it comes from."""
    assert one.first is not None
    assert one.second is not None
    assert one.mask is not None
    return one.first.valid & ~one.mask[:, 0] | one.second.valid & one.mask[:, 0]


def paper_mix(one: Batch) -> Tensor:
    assert one.first is not None
    assert one.second is not None
    assert one.mask is not None
    return one.first.image * ~one.mask + one.second.image * one.mask


def test_cps_is_the_published_equation() -> None:
    one, objective = batch(), cps(CPS(weight=1.5))
    a, b = objective.student, objective.peer
    terms, mixed, label = objective(one), paper_mix(one), one.labeled.label

    def ce(logits: Tensor, target: Tensor | None) -> Tensor:
        return F.cross_entropy(logits, target, ignore_index=255)

    supervised = ce(a(one.labeled.image), label) + ce(b(one.labeled.image), label)
    crossed = ce(a(mixed), paper_label(b, one)) + ce(b(mixed), paper_label(a, one))
    assert terms.keys() == {"supervised", "cps"}
    assert torch.allclose(terms["supervised"], supervised, atol=1e-5)
    assert torch.allclose(terms["cps"], 1.5 * crossed, atol=1e-5)


def test_a_step_of_cps_counts_every_image_once_in_the_statistics_of_each_copy() -> None:
    objective = cps().train()
    objective(batch())
    for network in (objective.student, objective.peer):
        counted = {int(n) for name, n in network.state_dict().items() if name.endswith("num_batches_tracked")}
        assert counted == {4}  # labelled, u0, u1, mixed


def test_mgd_is_the_published_equation() -> None:
    one, objective = batch(), mgd(replace(METHOD, pixel_unlabeled=0.7, pixel_labeled=0.3, region_grid=5))
    student, teachers = objective.student, objective.teachers
    terms, mixed, valid = objective(one), paper_mix(one), paper_valid(one)

    def consistency(image: Tensor, labels: list[Tensor]) -> Tensor:
        return torch.stack([F.cross_entropy(student(image), label, ignore_index=255) for label in labels]).sum()

    with torch.no_grad():
        labels = [
            torch.where(one.labeled.valid, teacher(one.labeled.image).argmax(dim=1), 255)
            for teacher in teachers.values()
        ]
        deep, wide = teachers["deep"](mixed), teachers["wide"].feature(mixed)
    expected = {
        "supervised": F.cross_entropy(student(one.labeled.image), one.labeled.label, ignore_index=255),
        "pixel_labeled": 0.3 * consistency(one.labeled.image, labels),
        "pixel_unlabeled": 0.7 * consistency(mixed, [paper_label(teacher, one) for teacher in teachers.values()]),
        "image": 0.1 * image_level_loss(student(mixed), deep, valid=valid),
        "region": 100 * region_level_loss(student.feature(mixed), wide, grid=5, valid=valid),
    }
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.allclose(terms[name], value, rtol=1e-4, atol=1e-6), name


def test_pseudo_labels_of_cps_come_without_gradient() -> None:
    """Each copy's gradient is that of its own losses, the other's pseudo-labels being constants."""
    one, objective = batch(), cps()
    alone = copy.deepcopy(objective.student)
    label, mixed = paper_label(copy.deepcopy(objective.peer), one), paper_mix(one)
    torch.stack(list(objective(one).values())).sum().backward()
    for image, target in ((one.labeled.image, one.labeled.label), (mixed, label)):
        F.cross_entropy(alone(image), target, ignore_index=255).backward()
    for own, expected in zip(objective.student.parameters(), alone.parameters(), strict=True):
        assert own.grad is not None
        assert torch.allclose(own.grad, expected.grad, rtol=1e-3, atol=1e-5)
    assert all(p.grad is not None for p in objective.peer.parameters())


def test_the_two_copies_of_cps_start_from_different_weights() -> None:
    model = Model(backbone=BACKBONE, pretrained=False, channels=CHANNELS)
    objective = build_objective(Experiment(data=Data(root="x"), model=model, method=PEERS), CLASSES)
    assert isinstance(objective, CPSObjective)
    own, other = objective.student.state_dict(), objective.peer.state_dict()
    drawn = {name for name, weight in own.items() if weight.dim() > 1}
    assert drawn <= set(differences(own, other))


def test_both_copies_of_cps_learn() -> None:
    objective = cps()
    before = {name: copy_of(getattr(objective, name).state_dict()) for name in ("student", "peer")}
    learn(objective)
    for name, state in before.items():
        assert set(differences(state, getattr(objective, name).state_dict())) == set(state)


@pytest.mark.parametrize(
    ("weight", "term"),
    [
        ("pixel_labeled", "pixel_labeled"),
        ("pixel_unlabeled", "pixel_unlabeled"),
        ("lambda_image", "image"),
        ("lambda_region", "region"),
    ],
)
def test_a_term_of_weight_zero_is_absent_and_leaves_the_others_as_they_were(weight: str, term: str) -> None:
    one = batch()
    with_term, without = (mgd(config)(one) for config in (METHOD, replace(METHOD, **{weight: 0.0})))
    assert with_term.keys() - without.keys() == {term}
    assert all(torch.allclose(without[name], with_term[name]) for name in without)


def test_without_any_distillation_the_student_is_trained_on_labels_alone() -> None:
    nothing = replace(METHOD, pixel_labeled=0.0, pixel_unlabeled=0.0, lambda_image=0.0, lambda_region=0.0)
    assert mgd(nothing)(batch()).keys() == {"supervised"}


@pytest.mark.parametrize(("name", "own"), [("deep", "image"), ("wide", "region")])
def test_one_teacher_alone_gives_its_own_granularity_and_the_pixel_level(name: str, own: str) -> None:
    objective = mgd(METHOD, **{name: settled(1)})
    learn(objective, steps=1)
    assert objective(batch()).keys() == {"supervised", "pixel_labeled", "pixel_unlabeled", own}


@pytest.mark.parametrize("kind", ["supervised", "cps", "mgd"])
@pytest.mark.parametrize("criterion", [Criterion(), Criterion(kind="ohem", min_kept=20)])
def test_images_that_are_nothing_but_padding_give_finite_terms_and_gradients(kind: str, criterion: Criterion) -> None:
    objective: Objective = {
        "supervised": lambda: SupervisedObjective(network(0), Supervised(criterion=criterion)),
        "cps": lambda: cps(CPS(criterion=criterion)),
        "mgd": lambda: mgd(replace(METHOD, criterion=criterion)),
    }[kind]()
    terms = objective(batch(padded=SIZE))
    torch.stack(list(terms.values())).sum().backward()
    assert all(value.detach() == 0 for value in terms.values())
    assert all(torch.isfinite(p.grad).all() for p in objective.parameters() if p.grad is not None)


@pytest.mark.parametrize("make", [cps, mgd])
def test_going_part_by_part_gives_the_gradient_of_all_terms_together(make: Callable[[], Objective]) -> None:
    one, whole, parted = batch(), make(), make()
    torch.stack(list(whole(one).values())).sum().backward()
    for part in parted.passes(one):
        torch.stack(list(part.terms().values())).sum().backward()
    assert differences(whole.state_dict(), parted.state_dict()) == []  # running statistics
    for (name, expected), found in zip(whole.named_parameters(), parted.parameters(), strict=True):
        assert expected.grad is not None
        assert torch.allclose(found.grad, expected.grad, rtol=1e-3, atol=1e-5), name


# Weights


def test_terms_divided_by_their_weights_are_those_of_weights_of_1() -> None:
    own = {"pixel_labeled": 0.3, "pixel_unlabeled": 0.7, "lambda_image": 0.1, "lambda_region": 20.0, "soft": 0.5}
    made = (
        (cps(CPS(weight=0.3, burn_in_iterations=3, rampup_iterations=10)), cps()),
        (mgd(replace(METHOD, **own, rampup_iterations=8)), mgd(replace(METHOD, **dict.fromkeys(own, 1.0)))),
    )
    for weighing, plain in made:
        assert_weighed(weighing, plain, batch(iteration=5))


# Ramp-up


def test_ramp_up_rises_from_exp_minus_five_to_one() -> None:
    assert rampup(0, 100) == pytest.approx(math.exp(-5))
    assert rampup(50, 100) == pytest.approx(math.exp(-1.25))
    assert rampup(100, 100) == rampup(1000, 100) == 1.0
    values = [rampup(i, 100) for i in range(101)]
    assert values == sorted(values)


def test_without_ramp_up_the_weight_is_full_from_the_first_iteration() -> None:
    assert rampup(0, 0) == 1.0


def test_ramp_up_weighs_pseudo_labels_on_unlabelled_images_only() -> None:
    for make, ramped in ((cps, "cps"), (mgd, "pixel_unlabeled")):
        objective = make()
        full = objective(batch(iteration=5))
        objective.config = replace(objective.config, rampup_iterations=10)
        begun = objective(batch(iteration=5))
        for name in full:
            factor = math.exp(-1.25) if name == ramped else 1.0
            assert torch.allclose(begun[name], factor * full[name], rtol=1e-4), name


def test_a_mask_as_drawn_by_the_loader_mixes_as_well() -> None:
    import numpy as np

    one = batch()._replace(mask=torch.from_numpy(box_masks(2, SIZE, SIZE, generator=np.random.default_rng(0))).bool())
    assert all(torch.isfinite(term) for term in mgd()(one).values())


def test_during_burn_in_cps_learns_from_labels_alone_and_its_ramp_up_starts_after_it() -> None:
    objective = CPSObjective(network(0), network(1), CPS(burn_in_iterations=5, rampup_iterations=10))
    assert set(objective(batch(iteration=4))) == {"supervised"}
    full = CPSObjective(copy.deepcopy(objective.student), copy.deepcopy(objective.peer), CPS())(batch())["cps"]
    torch.testing.assert_close(objective(batch(iteration=5))["cps"], math.exp(-5) * full)


def test_a_cps_step_under_bf16_gives_every_weight_that_learns_in_fp32_a_gradient() -> None:
    """Casts that pseudo-labels made under no_grad must not be reused where gradients are needed."""
    with_gradient = []
    for enabled in (False, True):
        objective = CPSObjective(network(0), network(1), PEERS)
        for one in objective.passes(batch()):
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled, cache_enabled=False):
                terms = one.terms()
            sum(terms.values()).backward()
        named = objective.named_parameters()
        with_gradient.append({name for name, p in named if p.grad is not None and p.grad.abs().sum() > 0})
    assert with_gradient[0] == with_gradient[1]


def test_a_weight_whose_teacher_is_left_out_adds_no_term() -> None:
    objective = mgd(replace(METHOD, pixel_unlabeled=0.0, lambda_region=0.0), wide=settled(2))
    assert set(objective(batch())) == {"supervised", "pixel_labeled"}
    assert [set(one.terms()) for one in objective.passes(batch())] == [{"supervised", "pixel_labeled"}]
