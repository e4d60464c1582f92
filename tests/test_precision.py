"""Test half precision and the GPU's path: losses in bf16, and every step on a made-up CUDA device."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import pytest
import torch
from golden import array, needs_golden
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from mgd import losses
from mgd.config import CPS, MGD, Criterion, Data, Experiment, Model, Supervised, Train
from mgd.engine.fit import made_batch
from mgd.losses import cross_entropy, image_level_loss, ohem_cross_entropy, pixel_level_loss, region_level_loss
from mgd.models import build_model, normalise
from mgd.objectives.base import Objective
from mgd.objectives.cps import CPSObjective
from mgd.objectives.mgd import MGDObjective
from mgd.objectives.supervised import SupervisedObjective
from mgd.objectives.teaching import TeacherNetworks

stored = partial(array, "losses")
Loss = Callable[..., Tensor]


@needs_golden
@pytest.mark.parametrize(
    ("loss", "inputs"),
    [
        (lambda x: cross_entropy(x, stored("mgd_gts")), ["mgd_sup_1"]),
        (lambda x: pixel_level_loss(x, stored("mgd_ps_label_2")), ["mgd_mix_1"]),
        (image_level_loss, ["mgd_mix_1", "mgd_mix_3"]),
        (region_level_loss, ["mgd_f1", "mgd_f2"]),
        (
            lambda x: ohem_cross_entropy(x, stored("ohem_thresh_binds_target"), min_kept=50),
            ["ohem_thresh_binds_pred"],
        ),
    ],
    ids=["cross_entropy", "pixel", "image", "region", "ohem"],
)
def test_a_loss_of_bf16_inputs_is_within_two_percent_of_that_of_fp32(loss: Loss, inputs: list[str]) -> None:
    full = [stored(name) for name in inputs]
    with torch.autocast("cpu", torch.bfloat16):
        half = loss(*(tensor.bfloat16() for tensor in full))
    assert half.dtype == torch.float32
    assert float(half) == pytest.approx(float(loss(*full)), rel=0.02)


def objectives() -> dict[str, Callable[[], Objective]]:
    """Each method with networks of full size, made on the current device."""
    student, teacher = partial(build_model, "resnet18", 21), partial(build_model, "wide_resnet50_2", 21)
    hard = Criterion(kind="ohem", min_kept=100)
    settings = MGD(deep_teacher=("deep.pt",), wide_teacher=("wide.pt",))

    def mgd(settings: MGD) -> Objective:
        teachers = TeacherNetworks({"deep": build_model("resnet101", 21), "wide": teacher()}.items(), settings)
        return MGDObjective(student(), teachers, settings)

    return {
        "supervised": lambda: SupervisedObjective(student(), Supervised()),
        "supervised-ohem": lambda: SupervisedObjective(build_model("mobilenet_v2", 21), Supervised(criterion=hard)),
        "cps": lambda: CPSObjective(teacher(), teacher(), CPS()),
        "cps-ohem": lambda: CPSObjective(student(), student(), CPS(criterion=hard)),
        "mgd": lambda: mgd(settings),
        "mgd-ohem-batch-norm": lambda: mgd(replace(settings, criterion=hard, teacher_norm="batch")),
    }


@pytest.fixture
def made_up_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """Tensors on "cuda" that hold nothing: operations check devices, dtypes and shapes as those of a GPU do."""
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    # A copy of such tensors is of another mode: frozen teachers stay as they are.
    monkeypatch.setattr("mgd.objectives.teaching.for_inference", lambda network, **_: network.eval())
    caches = (normalise._constants, losses._shares)
    for cache in caches:
        cache.cache_clear()
    device = torch.device("cuda")
    with FakeTensorMode(), torch.device(device):
        yield device
    for cache in caches:
        cache.cache_clear()  # its tensors are of this mode


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", objectives())
def test_every_objective_computes_on_a_gpu_under_autocast(
    made_up_gpu: torch.device, method: str, precision: torch.dtype
) -> None:
    objective = objectives()[method]().train()
    config = Experiment(
        data=Data(root="", crop_size=64),
        model=Model(backbone="resnet18"),
        method=CPS(),
        train=Train(batch_size=2),
    )
    with torch.device("cpu"):  # where the loader leaves a batch
        batch = made_batch(config, 21, made_up_gpu)
    assert batch.labeled.image.is_contiguous(memory_format=torch.channels_last)
    student = objective.student
    with torch.autocast("cuda", precision, cache_enabled=False):
        terms = objective(batch)
        counted = {name for one in objective.passes(batch) for name in one.counts}
        assert student.classifier(torch.empty(1, 256, 4, 4, device=made_up_gpu)).dtype == precision  # autocast is on
    assert counted == set(terms)
    for name, term in terms.items():
        assert term.device.type == "cuda", name
        assert term.dtype == torch.float32, name
        assert term.shape == (), name
        assert term.requires_grad, name


def test_a_tensor_left_on_the_cpu_is_noticed_on_a_made_up_gpu(made_up_gpu: torch.device) -> None:
    """What the test above relies on."""
    logits, label = torch.empty(1, 3, 4, 4, device=made_up_gpu), torch.zeros(1, 4, 4, dtype=torch.long, device="cpu")
    with pytest.raises(RuntimeError, match=r"cpu|device"):
        cross_entropy(logits, label)
