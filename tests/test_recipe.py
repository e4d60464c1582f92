"""Today's options: strong augmentation, thresholds, averaged CPS teachers, soft labels, UniMatch, rare crops."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import broken_off, copy_of, differences, read, train, write_config
from test_class_weights import OBJECTIVES
from test_objectives import METHOD, SIZE, batch, cps, learn, mgd, network, paper_mix, paper_valid, settled
from torch import Tensor

from mgd.__main__ import main
from mgd.config import CPS, Criterion, Data, Experiment, Model, Supervised, UniMatch
from mgd.data.batch import Batch, Views
from mgd.data.cutmix import mix
from mgd.data.datasets import open_splits
from mgd.data.photometric import channel_dropout, strengthen
from mgd.data.samples import TrainingSamples
from mgd.distillation_losses import pixel_kl_loss
from mgd.errors import UserError
from mgd.objectives.base import Objective, hard_label, is_sure
from mgd.objectives.unimatch import UniMatchObjective

NOISE = torch.tensor([3, 4])

# Strong augmentation


def pictures(images: int = 2) -> Tensor:
    return torch.randint(256, (images, 3, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_what_happens_to_an_image_depends_on_its_own_number_and_the_view_alone() -> None:
    images = pictures()
    both = strengthen(images, NOISE)
    assert (both.dtype, both.shape) == (torch.uint8, images.shape)
    assert torch.equal(both[1:], strengthen(images[1:], NOISE[1:]))
    assert not torch.equal(both, strengthen(images, NOISE + 10))
    assert not torch.equal(both, strengthen(images, NOISE, view=1))
    assert torch.equal(images, pictures())


def test_images_are_strengthened_in_float32_wherever_that_is_done() -> None:
    many, noise = pictures(1).expand(40, -1, -1, -1), torch.arange(40)
    with torch.autocast("cpu", torch.bfloat16):
        strengthened = strengthen(many, noise)
    assert torch.equal(strengthened, strengthen(many, noise))


def test_shares_of_grey_and_changed_images_are_those_of_the_settings() -> None:
    many = strengthen(pictures(1).expand(400, -1, -1, -1), torch.arange(400))
    grey = ((many[:, 0] == many[:, 1]) & (many[:, 1] == many[:, 2])).flatten(1).all(dim=1)
    unchanged = (many == pictures(1)).flatten(1).all(dim=1)
    assert grey.float().mean().item() == pytest.approx(0.2, abs=0.07)
    assert unchanged.float().mean().item() == pytest.approx(0.2 * 0.8 * 0.5, abs=0.05)


def test_the_hue_is_among_what_changes() -> None:
    red = torch.tensor([200, 60, 60], dtype=torch.uint8)[:, None, None].expand(100, 3, 8, 8)
    green, blue = strengthen(red, torch.arange(100)).int()[:, 1:, 0, 0].unbind(dim=1)  # all else keeps them equal
    assert ((green - blue).abs() > 3).float().mean() > 0.4


def test_dropped_channels_depend_on_the_images_number_and_their_mean_is_1() -> None:
    kept = channel_dropout(torch.arange(50), 64, rate=0.5, stream=2)
    assert kept.shape == (50, 64, 1, 1)
    assert set(kept.unique().tolist()) == {0.0, 2.0}
    assert kept.mean().item() == pytest.approx(1.0, abs=0.05)
    assert torch.equal(kept[7:8], channel_dropout(torch.tensor([7]), 64, rate=0.5, stream=2))


def loud(**options: Any) -> Batch:
    """A batch of uint8 images with numbers of their own, as the loader makes it with data.strong."""
    one = batch(**options)

    def views(found: Views) -> Views:
        return found._replace(image=(found.image * 40 + 128).clamp(0, 255).byte())

    assert one.first is not None
    assert one.second is not None
    return one._replace(
        labeled=views(one.labeled), first=views(one.first), second=views(one.second), noise=NOISE, other_mask=~one.mask
    )


def test_only_what_the_student_sees_of_unlabelled_images_is_strengthened() -> None:
    one = loud()
    assert one.first is not None
    assert torch.equal(one.hardened(one.mixed()).image, strengthen(one.mixed().image, NOISE))
    plain = one._replace(noise=None)
    assert torch.equal(plain.hardened(plain.mixed()).image, plain.mixed().image)
    asked: list[Tensor] = []
    objective = mgd()
    teacher = objective.teachers["deep"]
    teacher.backbone.register_forward_pre_hook(lambda module, inputs: asked.append(inputs[0]))
    strong, weak = objective(one), objective(plain)
    half = len(asked) // 2
    assert all(torch.equal(a, b) for a, b in zip(asked[:half], asked[half:], strict=True))
    assert torch.equal(strong["supervised"], weak["supervised"])
    assert not torch.equal(strong["pixel_unlabeled"], weak["pixel_unlabeled"])


@pytest.mark.parametrize("name", ["mean_teacher", "cps", "kd", "cwd", "mgd"])
def test_every_method_strengthens_the_mixed_images_that_its_student_sees_and_no_others(name: str) -> None:
    objective, one, seen = OBJECTIVES[name](Criterion()).eval(), loud(), []
    taught = objective.labellers.get("teacher") or objective.labellers.get("deep")  # of CPS the peer is a student too
    if taught is not None:
        taught.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    strong = objective(one)
    half = len(seen)
    weak = objective(one._replace(noise=None))
    assert all(torch.equal(a, b) for a, b in zip(seen[:half], seen[half:], strict=True))
    for term in strong:
        labelled = term == "supervised" or term.endswith("_labeled")
        assert torch.equal(strong[term], weak[term]) == labelled, term


# Thresholds


def test_a_pixel_is_sure_where_its_probability_reaches_its_classes_threshold() -> None:
    p, label = torch.tensor([[[0.6, 0.6, 0.7]]]), torch.tensor([[[0, 1, 1]]])
    assert is_sure(p, label, (0.65,)).tolist() == [[[False, False, True]]]
    assert is_sure(p, label, (0.5, 0.65)).tolist() == [[[True, False, True]]]
    assert is_sure(p, label, ()).all()
    assert is_sure(torch.full((1, 1, 3), 0.5), label, (0.5,)).all()


def test_unsure_pseudo_labels_are_255() -> None:
    one, teacher = batch(), settled(1)
    with torch.no_grad():
        feature = teacher.feature(one.labeled.image)
        probability = teacher.logits(feature, (SIZE, SIZE)).softmax(dim=1)
    found = hard_label(teacher, feature, one.labeled.valid, confidence=(0.3,))
    expected = torch.where(one.labeled.valid & (probability.amax(1) >= 0.3), probability.argmax(1), 255)
    assert torch.equal(found.long(), expected)
    assert 0 < (found[one.labeled.valid] == 255).float().mean() < 1


def test_under_autocast_labels_come_from_logits_interpolated_in_float32() -> None:
    one, teacher = batch(), settled(1)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        feature = teacher.feature(one.labeled.image)
        coarse, found = teacher.classifier(feature), hard_label(teacher, feature, torch.ones_like(one.labeled.valid))
        assert teacher.logits(feature, (SIZE, SIZE)).dtype == torch.float32
    large = F.interpolate(coarse.float(), size=(SIZE, SIZE), mode="bilinear", align_corners=True)
    assert coarse.dtype == torch.bfloat16
    assert torch.equal(found.long(), large.argmax(1))


@pytest.mark.parametrize("kind", ["ce", "ohem"])
def test_unsure_pixels_count_as_0_in_the_mean_of_cps(kind: Any) -> None:
    one, objective = batch(), cps(CPS(confidence=(0.3,), criterion=Criterion(kind=kind, min_kept=10**6)))
    student, peer = objective.student.eval(), objective.peer.eval()
    expected = 0.0
    for network_, teacher in ((student, "peer"), (peer, "student")):
        label = objective._pseudo_label(teacher, one)
        loss = F.cross_entropy(network_(paper_mix(one)), label.long(), ignore_index=255, reduction="none")
        if kind == "ce":
            expected += loss.sum() / paper_valid(one).sum()
        else:  # of each image the mean over what is labelled
            expected += (loss.sum(dim=(1, 2)) / (label != 255).sum(dim=(1, 2)).clamp(min=1)).mean()
    torch.testing.assert_close(objective(one)["cps"], expected)


def test_unsure_pixels_count_as_0_in_the_mean_of_mgd() -> None:
    one, objective = batch(), mgd(replace(METHOD, confidence=(0.3,)))
    logits, expected = objective.student(paper_mix(one)), 0.0
    for teacher in objective.teachers.values():
        labels = [
            hard_label(teacher, teacher.feature(views.image), views.valid, confidence=(0.3,))
            for views in (one.first, one.second)
        ]
        label = mix(*labels, one.mask).long()
        expected += F.cross_entropy(logits, label, ignore_index=255, reduction="sum") / paper_valid(one).sum()
    torch.testing.assert_close(objective(one)["pixel_unlabeled"], expected)
    assert objective(one)["pixel_unlabeled"] < mgd()(one)["pixel_unlabeled"]


# CPS with averaged teachers, soft labels


def test_averaged_copies_of_cps_give_the_pseudo_labels_and_follow_their_own_copy() -> None:
    objective = cps(CPS(ema=0.9))
    assert len(objective.averages) == 2
    averages = [copy_of(average.module.state_dict()) for average in objective.averages]
    learn(objective, steps=2)
    assert all(differences(b, a.module.state_dict()) == [] for b, a in zip(averages, objective.averages, strict=True))
    one = batch()
    labels = [
        hard_label(average.module, average.module.feature(views.image), views.valid)
        for average in objective.averages
        for views in (one.first, one.second)
    ]
    labels = [mix(*labels[:2], one.mask), mix(*labels[2:], one.mask)]
    objective.eval()
    expected = F.cross_entropy(objective.student(paper_mix(one)), labels[1].long(), ignore_index=255)
    expected = expected + F.cross_entropy(objective.peer(paper_mix(one)), labels[0].long(), ignore_index=255)
    torch.testing.assert_close(objective(one)["cps"], expected)
    objective.after_update(0)
    for average, own in zip(objective.averages, (objective.student, objective.peer), strict=True):
        assert differences(average.module.state_dict(), own.state_dict()) == []


def test_soft_labels_are_the_kl_of_both_teachers_on_mixed_images() -> None:
    one, objective = batch(), mgd(replace(METHOD, soft=0.5))
    mixed, valid = paper_mix(one), paper_valid(one)
    logits = objective.student(mixed)
    expected = sum(pixel_kl_loss(logits, teacher(mixed), valid=valid) for teacher in objective.teachers.values()) / 2
    torch.testing.assert_close(objective(one)["soft"], 0.5 * expected)
    alone = mgd(replace(METHOD, soft=0.5, pixel_unlabeled=0.0, lambda_image=0.0, lambda_region=0.0))
    assert set(alone(one)) == {"supervised", "pixel_labeled", "soft"}


# UniMatch


def unimatch(**options: Any) -> UniMatchObjective:
    return UniMatchObjective(network(0), UniMatch(**({"confidence": (0.0,)} | options)))


@pytest.mark.parametrize("confidence", [0.0, 0.25])
def test_unimatch_is_its_equation(confidence: float) -> None:
    one, objective = loud(), unimatch(weight=2.0, confidence=(confidence,))
    student = objective.student.eval()
    terms = objective(one)
    first, second, mask = one.pair()
    said = [student(student.normalise(views.image, views.valid)).softmax(1).max(1) for views in (first, second)]
    labels = [torch.where(probability >= confidence, label, 255) for probability, label in said]
    assert bool((labels[0] == 255).any()) == (confidence > 0)
    assert bool((labels[0] < 255).any())
    kept = channel_dropout(NOISE, 16, rate=0.5, stream=2)

    def ce(feature: Tensor, label: Tensor, valid: Tensor) -> Tensor:
        logits = student.logits(feature, (SIZE, SIZE))
        total = F.cross_entropy(logits, torch.where(valid, label, 255), ignore_index=255, reduction="sum")
        return total / valid.sum()  # unsure pixels count as 0

    def see(views: Views) -> Tensor:
        return student.feature(student.normalise(views.image, views.valid))

    expected = {"dropped": 0.5 * ce(see(first) * kept, labels[0], first.valid)}
    for i, one_mask in enumerate((mask, one.other_mask)):
        view = one.hardened(one.mixed(i), i)
        expected[f"strong_{i}"] = 0.25 * ce(see(view), mix(*labels, one_mask), view.valid)
    assert terms.keys() == {"supervised", *expected}
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], 2 * value, msg=name)


def test_complementary_dropout_gives_every_channel_to_one_of_the_two_views() -> None:
    objective = unimatch(drop="complementary", ema=0.5)
    seen: list[Tensor] = []
    objective.student.classifier.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    assert set(objective.eval()(loud())) == {"supervised", "strong_0", "strong_1"}
    assert objective.weights(0) == {"strong_0": 0.5, "strong_1": 0.5}  # the whole consistency, as V2
    used = [(feature.abs().sum(dim=(2, 3)) > 0) for feature in seen[-2:]]
    assert not (used[0] & used[1]).any()
    assert (used[0] | used[1]).float().mean() > 0.9


def test_the_teacher_of_unimatch_is_the_student_in_eval_mode_or_its_average() -> None:
    one = loud()
    plain, averaged = unimatch(), unimatch(ema=0.9)
    assert plain.average is None
    before = copy_of(plain.student.state_dict())
    plain._labels(one)
    assert plain.student.training
    assert differences(before, plain.student.state_dict()) == []  # no running statistic has moved
    assert averaged.average is not None
    learned = copy.deepcopy(averaged.student.state_dict())
    averaged.student.load_state_dict(network(7).state_dict())
    expected = unimatch()
    expected.student.load_state_dict(learned)
    for own, other in zip(averaged._labels(one), expected._labels(one), strict=True):
        assert torch.equal(own, other)


@pytest.mark.parametrize("make", [unimatch, lambda: unimatch(drop="complementary", ema=0.9), lambda: cps(CPS(ema=0.9))])
def test_images_that_are_nothing_but_padding_give_terms_and_gradients_of_0(make: Callable[[], Objective]) -> None:
    objective = make()
    terms = objective(loud(padded=SIZE))
    sum(terms.values()).backward()
    assert all(value.item() == 0 for value in terms.values())
    assert all(torch.isfinite(p.grad).all() for p in objective.parameters() if p.grad is not None)


def test_during_burn_in_unimatch_learns_from_labels_alone() -> None:
    assert set(unimatch(burn_in_iterations=5)(loud(iteration=4))) == {"supervised"}


# Rare crops


def experiment(root: Path, **data: Any) -> Experiment:
    source = Data(root=str(root), train_list="train_aug.txt", partition=4, crop_size=16, scales=(1.0,), **data)
    return Experiment(data=source, model=Model(backbone="timm:test_resnet"), method=Supervised())


def test_crops_hold_a_rare_class_more_often_where_that_is_asked_for(small_scenes: Path) -> None:
    plain = experiment(small_scenes)
    splits = open_splits(plain.data)
    labels = [TrainingSamples(splits, plain)[i]["labeled"]["label"] for i in range(60)]
    shares = [float(np.mean([bool((label == k).any()) for label in labels])) for k in range(len(splits.classes))]
    rare = min((share, k) for k, share in enumerate(shares) if share > 0)[1]
    asked = experiment(small_scenes, rare_classes=(splits.classes.names[rare],), rare_crops=1.0)
    found = [TrainingSamples(splits, asked)[i]["labeled"]["label"] for i in range(60)]
    assert np.mean([bool((label == rare).any()) for label in found]) > shares[rare]
    again = TrainingSamples(splits, asked)[5]["labeled"]["label"]
    assert np.array_equal(again, found[5])  # the position alone decides


def test_options_that_are_off_draw_the_same_crops(small_scenes: Path) -> None:
    plain = experiment(small_scenes)
    named = experiment(small_scenes, rare_classes=("sky",))
    splits = open_splits(plain.data)
    for i in range(3):
        one, other = (TrainingSamples(splits, config)[i] for config in (plain, named))
        assert np.array_equal(one["labeled"]["image"], other["labeled"]["image"])
        assert "noise" not in one


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"rare_crops": 0.5}, "data.rare_crops=0.5 needs data.rare_classes"),
        ({"rare_crops": 1.5, "rare_classes": ("sky",)}, "data.rare_crops=1.5 must be at most 1"),
    ],
)
def test_rare_crops_that_cannot_be_are_refused(data: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        experiment(tmp_path, **data)


def test_a_rare_class_that_the_data_lacks_is_refused(small_scenes: Path) -> None:
    config = experiment(small_scenes, rare_classes=("unicorn",), rare_crops=0.5)
    with pytest.raises(UserError, match=r"data.rare_classes=unicorn is no class of the data; use some of"):
        TrainingSamples(open_splits(config.data), config)


@pytest.mark.parametrize("method", [CPS(confidence=(1.2,)), UniMatch(confidence=(-0.1,))])
def test_a_confidence_that_is_no_probability_is_refused(method: CPS | UniMatch) -> None:
    with pytest.raises(UserError, match="must hold probabilities"):
        Experiment(data=Data(root="x"), model=Model(backbone="resnet18"), method=method)


# Whole runs


@pytest.mark.parametrize(
    "options",
    [
        ["method=unimatch", "method.ema=0.9", "method.confidence=0"],
        ["method=cps", "method.ema=0.9", "method.confidence=0.1", "data.strong=true"],
    ],
    ids=["unimatch", "cps"],
)
def test_an_interrupted_run_with_averaged_teachers_ends_in_the_same_weights(
    small_scenes: Path, tmp_path: Path, options: list[str]
) -> None:
    whole = train(tmp_path / "whole", small_scenes, *options, "train.max_iterations=4")
    parts = tmp_path / "parts"
    command = ["train", str(write_config(parts, small_scenes)), *options, "train.max_iterations=4", "run.save_every=2"]
    with broken_off(at=2):
        assert main(command) == 130
    assert main([*command, "--resume"]) == 0
    states = [read(run / "last.pt")["training"]["objective"] for run in (whole, parts / "run")]
    assert any("average" in name for name in states[0])
    assert differences(*states) == []


def test_a_threshold_for_each_class_needs_as_many_as_there_are(
    small_scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from helpers import write_config

    from mgd.__main__ import main

    command = ["train", str(write_config(tmp_path, small_scenes)), "method=cps", "method.confidence=0.5,0.6"]
    assert main(command) == 2
    assert "method.confidence has 2 values, the data 8 classes" in capsys.readouterr().err
