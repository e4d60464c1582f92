"""The official losses and one official iteration: values to 1e-5 relative, gradients to 1e-6 absolute."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden import array, facts, needs_golden
from torch import Tensor, nn

from mgd.config import MGD
from mgd.data.batch import Batch, Views
from mgd.data.cutmix import box_masks, mix
from mgd.losses import (
    cross_entropy,
    image_level_loss,
    ohem_cross_entropy,
    pixel_level_loss,
    region_level_loss,
    self_similarity,
)
from mgd.models.network import SegmentationNetwork
from mgd.objectives.mgd import MGDObjective
from mgd.objectives.teaching import TeacherNetworks

pytestmark = needs_golden

stored = partial(array, "losses")
same_gradient = partial(torch.testing.assert_close, rtol=0, atol=1e-6)
STUDENT, WIDE, DEEP = 1, 2, 3  # how the recorded names number the networks
OHEM_CASES = ("thresh_binds", "min_kept_binds", "ignore_thresh_binds")


def value(name: str) -> float:
    """A recorded value of the iteration."""
    return facts("losses")["mgd"]["values"][name]


def leaf(name: str) -> Tensor:
    return stored(name).requires_grad_()


def gradient(loss: Tensor, *inputs: Tensor) -> Tensor:
    return torch.autograd.grad(loss, inputs)[0]


def pseudo_label(network: int) -> Tensor:
    """What ps_X of the method's equations is for the recorded logits."""
    return mix(stored(f"mgd_u0_{network}").argmax(1), stored(f"mgd_u1_{network}").argmax(1), stored("mgd_mask"))


def test_cosine_self_similarity_has_the_official_values_and_gradient() -> None:
    p = leaf("cos_p")
    found = self_similarity(p)
    torch.testing.assert_close(found, stored("cos_pp"), rtol=1e-5, atol=1e-6)
    same_gradient(gradient((found * stored("cos_w")).sum(), p), stored("cos_grad_p_of_sum_w_pp"))


def test_cosines_between_two_sets_of_regions_have_the_official_values() -> None:
    both = torch.cat([stored("cos_p"), stored("cos_q")], dim=2)
    torch.testing.assert_close(self_similarity(both)[:, :49, 49:], stored("cos_pq"), rtol=1e-5, atol=1e-6)


def test_an_all_zero_region_is_finite_where_the_official_value_is_nan() -> None:
    assert facts("losses")["cosine"]["nan_count_with_one_zero_column"] > 0
    p = stored("cos_p")
    p[0, :, 3] = 0
    p.requires_grad_()
    found = self_similarity(p)
    assert found.isfinite().all()
    assert gradient(found.sum(), p).isfinite().all()


@pytest.mark.parametrize("feature", [1, 2])
def test_region_similarities_of_the_iteration_are_the_official_ones(feature: int) -> None:
    regions = F.adaptive_avg_pool2d(stored(f"mgd_f{feature}"), 7).flatten(2)
    torch.testing.assert_close(self_similarity(regions), stored(f"mgd_self_sim_{feature}"), rtol=1e-5, atol=1e-6)


def test_the_recorded_mask_is_ours_for_the_same_random_numbers() -> None:
    ours = torch.from_numpy(box_masks(2, 9, 13, generator=np.random.RandomState(7)))
    assert torch.equal(ours.float(), stored("mgd_mask"))


@pytest.mark.parametrize("seed", [0, 1])
def test_cutmix_masks_are_bit_for_bit_the_official_ones(seed: int) -> None:
    ours = torch.from_numpy(box_masks(4, 64, 96, generator=np.random.RandomState(seed)))
    assert torch.equal(ours, array("cutmix", f"mask_{seed}"))


@pytest.mark.parametrize("network", [STUDENT, WIDE, DEEP])
def test_pseudo_labels_are_the_official_ones(network: int) -> None:
    assert torch.equal(pseudo_label(network), stored(f"mgd_ps_label_{network}").long())
    mixed = mix(stored(f"mgd_u0_{network}"), stored(f"mgd_u1_{network}"), stored("mgd_mask"))
    assert torch.equal(pseudo_label(network), mixed.argmax(1))


@pytest.mark.parametrize(("network", "recorded"), [(STUDENT, "l"), (WIDE, "r"), (DEEP, "3")])
def test_labels_predicted_for_labelled_images_are_the_official_ones(network: int, recorded: str) -> None:
    assert torch.equal(stored(f"mgd_sup_{network}").argmax(1), stored(f"mgd_max_{recorded}").long())


@pytest.mark.parametrize("teacher", [WIDE, DEEP])
def test_pixel_level_terms_have_the_official_values(teacher: int) -> None:
    unlabeled = pixel_level_loss(stored("mgd_mix_1"), pseudo_label(teacher))
    assert unlabeled.item() == pytest.approx(value(f"ce_mix1_vs_ps{teacher}"), rel=1e-5)
    labeled = pixel_level_loss(stored("mgd_sup_1"), stored(f"mgd_sup_{teacher}").argmax(1))
    assert labeled.item() == pytest.approx(value(f"ce_sup1_vs_argmax_sup{teacher}"), rel=1e-5)


def test_pixel_level_terms_without_gradient_are_the_rest_of_the_official_sums() -> None:
    for teacher, name in ((WIDE, "consist_loss1"), (DEEP, "consist_loss2")):
        ours = pixel_level_loss(stored("mgd_mix_1"), pseudo_label(teacher))
        constant = pixel_level_loss(stored(f"mgd_mix_{teacher}"), pseudo_label(STUDENT))
        assert (ours + constant).item() == pytest.approx(value(name), rel=1e-5)


def test_pixel_level_gradients_are_the_official_ones() -> None:
    mixed, labeled = leaf("mgd_mix_1"), leaf("mgd_sup_1")
    unlabeled_terms = sum(pixel_level_loss(mixed, pseudo_label(teacher)) for teacher in (WIDE, DEEP))
    same_gradient(gradient(unlabeled_terms, mixed), stored("mgd_grad_consist_u__mix_1"))
    labeled_terms = sum(pixel_level_loss(labeled, stored(f"mgd_sup_{t}").argmax(1)) for t in (WIDE, DEEP))
    same_gradient(gradient(labeled_terms, labeled), stored("mgd_grad_consist_s__sup_1"))


def test_image_level_loss_is_the_official_one_per_image() -> None:
    mixed = leaf("mgd_mix_1")
    loss = image_level_loss(mixed, stored("mgd_mix_3"))
    assert len(mixed) * loss.item() == pytest.approx(value("sem_sens_unweighted"), rel=1e-5)
    assert 0.004 * loss.item() == pytest.approx(value("sem_sens_loss"), rel=1e-5)  # 0.002 x sum over 2 images
    same_gradient(gradient(0.004 * loss, mixed), stored("mgd_grad_sem__mix_1"))


def test_region_level_loss_is_the_official_one() -> None:
    feature = leaf("mgd_f1")
    loss = region_level_loss(feature, stored("mgd_f2"))
    assert loss.item() == pytest.approx(value("content_unweighted"), rel=1e-5)
    assert 100 * loss.item() == pytest.approx(value("content_loss"), rel=1e-5)
    same_gradient(gradient(100 * loss, feature), stored("mgd_grad_content__f1"))


def test_supervised_loss_is_the_official_one() -> None:
    logits = leaf("mgd_sup_1")
    loss = cross_entropy(logits, stored("mgd_gts"))
    assert loss.item() == pytest.approx(value("loss_sup"), rel=1e-5)
    same_gradient(gradient(loss, logits), stored("mgd_grad_sup__sup_1"))


@pytest.mark.parametrize("case", OHEM_CASES)
def test_ohem_has_the_official_value_and_gradient(case: str) -> None:
    recorded, logits = facts("losses")["ohem"][case], leaf(f"ohem_{case}_pred")
    loss = ohem_cross_entropy(
        logits, stored(f"ohem_{case}_target"), threshold=recorded["thresh"], min_kept=recorded["min_kept"]
    )
    assert loss.item() == pytest.approx(recorded["loss"], rel=1e-5)
    found = gradient(loss, logits)
    same_gradient(found, stored(f"ohem_{case}_grad"))
    assert int((found.abs().sum(1) > 0).sum()) == recorded["n_pixels_with_grad"]


def test_ohem_of_an_all_ignored_target_is_zero_where_the_official_value_is_nan() -> None:
    logits = leaf("ohem_thresh_binds_pred")
    loss = ohem_cross_entropy(logits, torch.full_like(stored("ohem_thresh_binds_target"), 255), min_kept=20)
    assert loss.item() == 0
    assert not gradient(loss, logits).any()


class Recorded(nn.Module):
    """A network whose outputs are the recorded tensors; its inputs are told apart by the values in them."""

    KEYS = ((-1.0, "sup"), (0.0, "u0"), (1.0, "u1"), (0.5, "mix"))

    def __init__(self, number: int, feature: str = "") -> None:
        super().__init__()
        self.num_classes = leaf(f"mgd_sup_{number}").shape[1]
        self.outputs = {key: leaf(f"mgd_{name}_{number}") for key, name in self.KEYS}
        self.features = {key: torch.empty(0) for key, _ in self.KEYS}
        if feature:
            self.features[0.5] = leaf(feature)

    def forward(self, image: Tensor) -> Tensor:
        return self.classifier(self.feature(image))

    def feature(self, image: Tensor) -> Tensor:
        low, high = image.aminmax()
        return self.features[float((low + high) / 2)]

    enlarge = SegmentationNetwork.enlarge

    def padded(self, height: int, width: int) -> tuple[int, int]:
        return height, width

    def over_image(self, feature: Tensor, size: torch.Size) -> Tensor:
        return feature

    def classifier(self, feature: Tensor) -> Tensor:
        """Of the input's size already, (9,13)."""
        return next(self.outputs[key] for key, own in self.features.items() if own is feature)


def views(filled: float, label: Tensor | None = None) -> Views:
    return Views(torch.full((2, 3, 9, 13), filled), torch.ones(2, 9, 13, dtype=torch.bool), label)


def test_one_official_iteration_through_our_objective() -> None:
    student, wide, deep = Recorded(STUDENT, "mgd_f1"), Recorded(WIDE, "mgd_f2"), Recorded(DEEP)
    batch = Batch(views(-1.0, stored("mgd_gts").long()), views(0.0), views(1.0), stored("mgd_mask").bool(), 0)
    config = MGD(lambda_image=0.004, lambda_region=100.0, teacher_norm="batch")  # as officially
    objective = MGDObjective(student, TeacherNetworks({"deep": deep, "wide": wide}.items(), config), config)
    terms = objective(batch)
    total = torch.stack(list(terms.values())).sum()
    without_gradient = [key for key in facts("losses")["mgd"]["values"] if key.endswith("(no grad)")]
    official = value("loss") - value("loss_sup_r") - value("loss_sup_3") - sum(map(value, without_gradient))
    assert total.item() == pytest.approx(official, rel=1e-5)
    assert terms["image"].item() == pytest.approx(value("sem_sens_loss"), rel=1e-5)
    assert terms["region"].item() == pytest.approx(value("content_loss"), rel=1e-5)
    mixed, labeled, feature = student.outputs[0.5], student.outputs[-1.0], student.features[0.5]
    found = dict(zip(("mix_1", "sup_1", "f1"), torch.autograd.grad(total, (mixed, labeled, feature)), strict=True))
    for name, recorded in facts("losses")["mgd"]["grads"].items():
        if name.startswith("total__"):
            ours = found[name.removeprefix("total__")]
            assert ours.norm().item() == pytest.approx(recorded["l2"], rel=1e-5)
            assert ours.abs().max().item() == pytest.approx(recorded["absmax"], rel=1e-5)
    same_gradient(found["sup_1"], stored("mgd_grad_sup__sup_1") + stored("mgd_grad_consist_s__sup_1"))
    same_gradient(found["mix_1"], stored("mgd_grad_sem__mix_1") + stored("mgd_grad_consist_u__mix_1"))
    same_gradient(found["f1"], stored("mgd_grad_content__f1"))
