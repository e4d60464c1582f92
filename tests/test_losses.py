"""What each loss promises: cases worked out by hand, gradients, ignored pixels, invariances."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mgd.losses import (
    cross_entropy,
    image_level_loss,
    ohem_cross_entropy,
    pixel_level_loss,
    region_level_loss,
)

IGNORED = 255


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def target(*shape: int, classes: int = 5, seed: int = 0) -> Tensor:
    """Labels with every seventh pixel ignored."""
    label = torch.randint(classes, shape, generator=torch.Generator().manual_seed(seed))
    label.flatten()[::7] = IGNORED
    return label


def left_half(n: int, height: int, width: int) -> Tensor:
    valid = torch.zeros(n, height, width, dtype=torch.bool)
    valid[:, :, : width // 2] = True
    return valid


LABEL = target(2, 14, 14)
LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "cross_entropy": lambda x: cross_entropy(x, LABEL),
    "ohem": lambda x: ohem_cross_entropy(x, LABEL, min_kept=50),
    "pixel": lambda x: pixel_level_loss(x, LABEL),
    "image": lambda x: image_level_loss(x, random(2, 5, 14, 14, seed=1)),
    "image, padded": lambda x: image_level_loss(x, random(2, 5, 14, 14, seed=1), valid=left_half(2, 14, 14)),
    "region": lambda x: region_level_loss(x, random(2, 8, 20, 20, seed=1)),
    "region, padded": lambda x: region_level_loss(x, random(2, 8, 20, 20, seed=1), valid=left_half(2, 56, 56)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_is_the_slope_of_the_loss(name: str) -> None:
    x, direction, step = random(2, 5, 14, 14), random(2, 5, 14, 14, seed=2), 1e-2
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(LOSSES[name](x), x)
    with torch.no_grad():
        # The step is along the gradient as well, so that the slope is not lost in float32's rounding.
        direction = direction / direction.norm() + 10 * gradient / gradient.norm()
        slope = (LOSSES[name](x + step * direction) - LOSSES[name](x - step * direction)).item() / (2 * step)
    assert slope == pytest.approx((gradient * direction).sum().item(), rel=2e-2)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_of_half_precision_inputs_are_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    x = random(2, 5, 14, 14).to(dtype)
    loss = LOSSES[name](x)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, LOSSES[name](x.float()))


def test_cross_entropy_of_one_pixel_by_hand() -> None:
    logits = torch.tensor([math.log(0.2), math.log(0.8)]).view(1, 2, 1, 1)
    assert cross_entropy(logits, torch.tensor([[[0]]])).item() == pytest.approx(-math.log(0.2))


def test_cross_entropy_is_the_mean_over_pixels_that_are_not_ignored() -> None:
    logits = torch.tensor([[[[math.log(0.2), 3.0]], [[math.log(0.8), -1.0]]]])
    assert cross_entropy(logits, torch.tensor([[[1, IGNORED]]])).item() == pytest.approx(-math.log(0.8))


def test_ohem_keeps_the_hard_pixels() -> None:
    probability = torch.tensor([0.1, 0.5, 0.8, 0.9])  # of the target
    logits = torch.stack([probability.log(), (1 - probability).log()]).view(1, 2, 1, 4)
    label = torch.zeros(1, 1, 4, dtype=torch.int64)
    kept_by_threshold = -(math.log(0.1) + math.log(0.5)) / 2
    kept_by_count = -(math.log(0.1) + math.log(0.5) + math.log(0.8)) / 3
    assert ohem_cross_entropy(logits, label, threshold=0.7, min_kept=1).item() == pytest.approx(kept_by_threshold)
    assert ohem_cross_entropy(logits, label, threshold=0.7, min_kept=0).item() == pytest.approx(kept_by_threshold)
    assert ohem_cross_entropy(logits, label, threshold=0.7, min_kept=3).item() == pytest.approx(kept_by_count)


def test_ohem_with_fewer_valid_pixels_than_it_keeps_is_cross_entropy() -> None:
    logits = random(2, 5, 14, 14)
    for min_kept in (len(LABEL.flatten()), 10**6):
        loss = ohem_cross_entropy(logits, LABEL, min_kept=min_kept)
        assert loss.item() == pytest.approx(cross_entropy(logits, LABEL).item())


@pytest.mark.parametrize("min_kept", [0, 50, 10**6])
def test_an_all_ignored_target_gives_loss_0_and_gradient_0(min_kept: int) -> None:
    nothing = torch.full((2, 14, 14), IGNORED)
    for loss_of in (cross_entropy, pixel_level_loss, lambda x, y: ohem_cross_entropy(x, y, min_kept=min_kept)):
        logits = random(2, 5, 14, 14).requires_grad_()
        loss = loss_of(logits, nothing)
        loss.backward()
        assert loss.item() == 0
        assert logits.grad is not None
        assert not logits.grad.any()


def test_image_level_loss_by_hand() -> None:
    student = torch.tensor([[[[1.0, 3.0]], [[0.0, 0.0]]], [[[0.0, 0.0]], [[5.0, 5.0]]]])  # means: (2,0), (0,5)
    teacher = torch.zeros(2, 2, 1, 2)
    assert image_level_loss(student, teacher).item() == pytest.approx((2 + 5) / 2)


def test_image_level_loss_does_not_depend_on_where_things_are() -> None:
    student, teacher = random(2, 5, 14, 14), random(2, 5, 14, 14, seed=1)
    moved = student.roll((3, 5), dims=(2, 3))
    torch.testing.assert_close(image_level_loss(moved, teacher), image_level_loss(student, teacher))


def test_region_level_loss_by_hand() -> None:
    # Two regions each: the student's are at right angles (cosine 0), the teacher's point the same way (cosine 1).
    student = torch.tensor([[[[1.0, 0.0]], [[0.0, 2.0]]]]).expand(1, 2, 2, 2)
    teacher = torch.ones(1, 3, 2, 2)
    # 4 regions in two columns; 8 of the 16 pairs are in different columns: each differs by 1.
    assert region_level_loss(student, teacher, grid=2).item() == pytest.approx(8 / 16)


def test_losses_are_zero_for_identical_inputs() -> None:
    x = random(2, 5, 21, 21)
    assert image_level_loss(x, x).item() == 0
    assert region_level_loss(x, x).item() == 0


def test_region_level_loss_compares_any_channel_count_and_size() -> None:
    teacher = random(2, 8, 14, 14)
    doubled = torch.cat([teacher, teacher], dim=1)  # other channels, same angles
    larger = teacher.repeat_interleave(3, dim=2).repeat_interleave(3, dim=3)  # other size, same regions
    mixed = torch.einsum("ncHW,cd->ndHW", teacher, torch.linalg.qr(random(8, 8, seed=3)).Q)  # turned
    for other in (doubled, larger, 7 * teacher, mixed):
        assert region_level_loss(other, teacher).item() == pytest.approx(0, abs=1e-12)


def test_an_all_zero_region_is_finite() -> None:
    feature = random(2, 5, 14, 14)
    feature[:, :, :2, :2] = 0
    feature.requires_grad_()
    loss = region_level_loss(feature, random(2, 5, 14, 14, seed=1))
    loss.backward()
    assert loss.isfinite()
    assert feature.grad is not None
    assert feature.grad.isfinite().all()


def test_what_is_in_the_padding_changes_no_loss() -> None:
    valid = left_half(2, 56, 56)
    small = left_half(2, 14, 14)
    student, teacher = random(2, 5, 14, 14), random(2, 5, 14, 14, seed=1)
    changed = torch.where(small[:, None], student, 1e3)
    assert torch.equal(image_level_loss(changed, teacher, valid=small), image_level_loss(student, teacher, valid=small))
    same = region_level_loss(student, teacher, valid=valid)
    torch.testing.assert_close(region_level_loss(changed, teacher, valid=valid), same)
    assert not torch.isclose(region_level_loss(student, teacher), same)


def test_pooling_only_the_image_is_pooling_a_crop_of_it() -> None:
    valid = left_half(2, 14, 14)
    student, teacher = random(2, 5, 14, 14), random(2, 5, 14, 14, seed=1)
    cropped = image_level_loss(student[..., :7], teacher[..., :7])
    torch.testing.assert_close(image_level_loss(student, teacher, valid=valid), cropped)


def test_all_valid_is_the_same_as_no_mask() -> None:
    valid = torch.ones(2, 56, 56, dtype=torch.bool)
    student, teacher = random(2, 5, 17, 25), random(2, 8, 14, 14, seed=1)
    torch.testing.assert_close(region_level_loss(student, teacher, valid=valid), region_level_loss(student, teacher))


def test_nothing_but_padding_gives_loss_0_and_gradient_0() -> None:
    student = random(2, 5, 14, 14).requires_grad_()
    for loss_of in (image_level_loss, region_level_loss):
        loss = loss_of(student, random(2, 5, 14, 14, seed=1), valid=torch.zeros(2, 14, 14, dtype=torch.bool))
        (gradient,) = torch.autograd.grad(loss, student)
        assert loss.item() == 0
        assert not gradient.any()


def test_the_image_level_loss_is_float32_under_autocast():
    """At the published crop a sum over pixels in fp16 would be infinite."""
    valid = torch.ones(1, 512, 512, dtype=torch.bool)
    student, teacher = torch.full((1, 2, 512, 512), 5.0), torch.full((1, 2, 512, 512), 3.0)
    with torch.autocast("cpu", torch.float16):
        loss = image_level_loss(student, teacher, valid=valid)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, torch.tensor(4.0))
