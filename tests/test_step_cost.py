"""What a step saves: waits, full-resolution logits, images seen twice; and that its numbers stay what they were."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import BACKBONE
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mgd import losses
from mgd.config import CPS, MGD, Criterion, Data, Experiment, Model, Supervised, Train
from mgd.data.batch import Batch, to_device
from mgd.data.datasets import open_splits
from mgd.data.loaders import collate
from mgd.data.positions import UNLABELED, draw
from mgd.data.samples import TrainingSamples
from mgd.engine import step
from mgd.engine.distributed import Processes
from mgd.engine.fit import made_batch
from mgd.engine.step import Stepper
from mgd.losses import global_pool, mean_of_hard, ohem_cross_entropy, pixel_cross_entropy
from mgd.models import build_model
from mgd.objectives.base import Objective
from mgd.objectives.cps import CPSObjective
from mgd.objectives.mgd import MGDObjective
from mgd.objectives.supervised import SupervisedObjective
from mgd.objectives.teaching import StoredTeaching, TeacherNetworks

CPU = torch.device("cpu")
CLASSES, SIZE = 7, 48
FILES = {"deep_teacher": ("deep.pt",), "wide_teacher": ("wide.pt",)}
OHEM = Criterion(kind="ohem", min_kept=50)
METHODS = {
    "supervised": Supervised(criterion=OHEM),
    "cps": CPS(),
    "mgd": MGD(**FILES, criterion=OHEM),
    "mgd-offline": MGD(**FILES, teachers="offline", teach=replace(MGD().teach, projection=12)),
}


def network(seed: int) -> Any:
    torch.manual_seed(seed)
    return build_model(BACKBONE, CLASSES, channels=16)


def experiment(name: str) -> Experiment:
    return Experiment(
        data=Data(root="", crop_size=SIZE),
        model=Model(backbone=BACKBONE),
        method=METHODS[name],
        train=Train(batch_size=2),
    )


def objective(name: str) -> Objective:
    method = METHODS[name]
    if isinstance(method, MGD):
        teaching = StoredTeaching(method, ("deep", "wide")) if "offline" in name else None
        networks = {"deep": network(1), "wide": network(2)}
        return MGDObjective(network(0), teaching or TeacherNetworks(networks.items(), method), method)
    return (
        CPSObjective(network(0), network(1), method)
        if isinstance(method, CPS)
        else SupervisedObjective(network(0), method)
    )


# No wait


@pytest.mark.parametrize("name", METHODS)
def test_nothing_in_a_step_waits_for_the_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = experiment(name)
    stepper, batch = Stepper(objective(name), config.train, Processes(0, 1, CPU), 10), made_batch(config, CLASSES, CPU)
    stepper([batch])  # constants are made once

    def wait(*_: object, **__: object) -> None:
        raise AssertionError("this waits for the device")

    for method in ("item", "cpu", "numpy", "tolist", "nonzero", "__bool__", "__float__", "__int__"):
        monkeypatch.setattr(Tensor, method, wait)
    with pytest.raises(AssertionError, match="waits for the device"):
        bool(torch.ones(1))
    outcome = stepper([batch])
    monkeypatch.undo()
    assert outcome.gradient_norm.isfinite()


@pytest.mark.parametrize("name", ["cps", "mgd"])
def test_compiled_networks_are_one_graph_each_and_train_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(step.COMPILE, "backend", "eager")  # what a graph is, without making machine code of it
    config, outcomes = experiment(name), []
    for compiled in (False, True):
        train = replace(config.train, compile=compiled, lr=0.01)
        stepper = Stepper(objective(name), train, Processes(0, 1, CPU), 10)
        torch.manual_seed(0)
        batches = [made_batch(config, CLASSES, CPU) for _ in range(2)]
        outcomes.append([stepper([batch]).terms for batch in batches])
    for one, other in zip(*outcomes, strict=True):
        for term in one:
            torch.testing.assert_close(one[term], other[term], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("partner", "looks"), [("batch", [6]), ("independent", [6, 2])])
def test_a_teacher_looks_once_at_all_images_of_a_step(partner: Any, looks: list[int]) -> None:
    config = experiment("mgd")
    config, seen = replace(config, data=replace(config.data, partner=partner)), {"deep": [], "wide": []}
    stepper = Stepper(objective("mgd"), config.train, Processes(0, 1, CPU), 10)
    for name, teacher in stepper.objective.teachers.items():
        teacher.backbone.register_forward_pre_hook(lambda _, args, name=name: seen[name].append(len(args[0])))
    stepper([made_batch(config, CLASSES, CPU)])
    assert seen == {"deep": looks, "wide": looks}


# Losses


def upsampled(logits: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=True)


@pytest.mark.parametrize("chunk", [1, 2**23])
def test_every_pixels_cross_entropy_is_that_of_the_upsampled_logits_with_its_gradient(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "CHUNK", chunk)
    torch.manual_seed(0)
    low = torch.randn(3, 5, 6, 7, dtype=torch.float64).float().requires_grad_()
    targets = [torch.randint(0, 5, (3, 21, 25)), torch.randint(0, 5, (3, 21, 25)).byte()]
    targets[0][:, :4] = 255
    targets[1][1] = 255
    weights = torch.randn(2, 3, 21, 25)
    found = pixel_cross_entropy(low, targets)
    plain = [F.cross_entropy(upsampled(low, (21, 25)), t.long(), ignore_index=255, reduction="none") for t in targets]
    for one, other, target in zip(found, plain, targets, strict=True):
        torch.testing.assert_close(one, other)
        assert not one[target == 255].any()
    ours, theirs = (
        torch.autograd.grad((torch.stack(list(values)) * weights).sum(), low)[0] for values in (found, plain)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_no_tensor_of_a_pass_holds_full_resolution_logits_of_more_than_one_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(losses, "CHUNK", 1)
    config = replace(experiment("mgd"), train=Train(batch_size=4))
    model, batch = objective("mgd"), made_batch(config, CLASSES, CPU)

    class Largest(TorchDispatchMode):
        images = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            for leaf in tree_leaves(result):
                if isinstance(leaf, Tensor) and leaf.shape[1:] == (CLASSES, SIZE, SIZE):
                    self.images = max(self.images, len(leaf))
            return result

    with Largest() as seen:
        torch.stack(list(model(batch).values())).sum().backward()
    assert seen.images == 1


def test_pooling_at_the_logits_own_resolution_is_pooling_the_upsampled_ones() -> None:
    torch.manual_seed(0)
    low = torch.randn(2, 5, 6, 7, requires_grad=True)
    valid = torch.rand(2, 21, 25) > 0.4
    large = upsampled(low, (21, 25))
    plain = (large * valid[:, None]).sum(dim=(2, 3)) / valid.sum(dim=(1, 2))[:, None]
    found = global_pool(low, valid)
    torch.testing.assert_close(found, plain)
    weights = torch.randn(2, 5)
    ours, theirs = (torch.autograd.grad((one * weights).sum(), low, retain_graph=True)[0] for one in (found, plain))
    torch.testing.assert_close(ours, theirs)


def test_hard_examples_of_all_images_together_are_those_of_each_alone() -> None:
    torch.manual_seed(0)
    logits, target = 3 * torch.randn(4, 5, 9, 9), torch.randint(0, 5, (4, 9, 9))
    target[1, :8] = 255  # fewer than are kept
    target[2] = 255
    (every,) = pixel_cross_entropy(logits, [target])
    for kept in (0, 30, 1000):
        together = mean_of_hard(every, target, threshold=0.3, min_kept=kept)
        alone = [
            ohem_cross_entropy(logits[i : i + 1], target[i : i + 1], threshold=0.3, min_kept=kept) for i in range(4)
        ]
        torch.testing.assert_close(together, torch.stack(alone))


# Partners


def pairs_config(root: Path, **data: Any) -> Experiment:
    options = {"train_list": "train_aug.txt", "partition": 4, "crop_size": 32} | data
    return Experiment(data=Data(root=str(root), **options), model=Model(backbone=BACKBONE), method=CPS())


def batch_of(config: Experiment, together: int) -> Batch:
    samples = TrainingSamples(open_splits(config.data), config, together=together)
    return to_device(collate([samples[position] for position in range(4)]), CPU, 0)


def test_the_batchs_neighbour_is_the_same_partner_whether_it_is_in_the_pass_or_not(small_scenes: Path) -> None:
    config = pairs_config(small_scenes)
    shared, apart = batch_of(config, 4), batch_of(config, 1)
    assert shared.second is None
    assert apart.second is not None
    for one, other in zip(shared.pair()[:2], apart.pair()[:2], strict=True):
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.valid, other.valid)
    for ours, theirs in zip(shared.mixed()[:2], apart.mixed()[:2], strict=True):
        assert torch.equal(ours, theirs)
    first, second, _ = shared.pair()
    assert torch.equal(first.image[[1, 0, 3, 2]], second.image)


def test_terms_are_the_same_whether_a_teacher_sees_the_partner_again_or_not(small_scenes: Path) -> None:
    config = pairs_config(small_scenes)
    model = objective("mgd").eval()
    shared, apart = (model(batch_of(config, together)) for together in (4, 1))
    assert shared.keys() == apart.keys()
    for name, term in shared.items():
        torch.testing.assert_close(term, apart[name])


def test_partners_of_their_own_are_other_images(small_scenes: Path) -> None:
    batch = batch_of(pairs_config(small_scenes, partner="independent"), 4)
    first, second, _ = batch.pair()
    assert batch.second is not None
    assert not torch.equal(first.image[[1, 0, 3, 2]], second.image)


@pytest.mark.parametrize("count", [2, 3, 5, 9])
def test_neighbours_never_take_the_same_image_and_an_epoch_takes_each_once(count: int) -> None:
    for seed in range(5):
        drawn = [draw(seed, UNLABELED, position, count) for position in range(20 * count)]
        assert all(one != other for one, other in zip(drawn[::2], drawn[1::2], strict=False))
        epochs = np.array(drawn).reshape(20, count)
        assert all(sorted(epoch) == list(range(count)) for epoch in epochs.tolist())
