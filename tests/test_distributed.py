"""Processes, devices and batch norm, and the optimiser of NVIDIA apex: what can be told without a GPU."""

import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from helpers import read, run_processes, write_config
from torch import Tensor, nn

from mgd.config import Train
from mgd.engine import distributed, stop, sync_batch_norm
from mgd.engine.distributed import Processes, processes
from mgd.engine.optim import make_optimizer
from mgd.engine.sync_batch_norm import SyncBatchNorm2d, synchronise
from mgd.errors import UserError
from mgd.models import build_model


def test_synchronising_batch_norm_keeps_a_network_that_fuses_activations_into_it():
    torch.manual_seed(0)
    network = build_model("timm:mobilenetv3_small_050", 4, channels=16).eval()
    image = torch.randn(2, 3, 64, 64)
    before = network(image)
    converted = synchronise(network)
    assert any(isinstance(module, SyncBatchNorm2d) for module in converted.modules())
    torch.testing.assert_close(converted.eval()(image), before)


KERNELS: dict[str, Callable[..., Any]] = {}  # of torch's SyncBatchNorm, which has them for a GPU alone


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    KERNELS[function.__name__] = function
    return function


def of_channels(values: Tensor) -> Tensor:
    return values[None, :, None, None]


@kernel
def batch_norm_stats(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    variance, mean = torch.var_mean(x.float(), (0, 2, 3), correction=0)
    return mean, (variance + eps).rsqrt()


@kernel
def batch_norm_gather_stats_with_counts(
    x: Tensor,
    means: Tensor,
    inverses: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    momentum: float,
    eps: float,
    counts: Tensor,
) -> tuple[Tensor, Tensor]:
    assert counts.shape == means.shape[:1] == inverses.shape[:1]
    share, total = counts[:, None] / counts.sum(), counts.sum()
    mean = (means * share).sum(dim=0)
    variance = ((inverses**-2 - eps + (means - mean) ** 2) * share).sum(dim=0)
    running_mean.lerp_(mean, momentum)
    running_var.lerp_(variance * total / (total - 1), momentum)
    return mean, (variance + eps).rsqrt()


@kernel
def batch_norm_elemt(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, inverse: Tensor, eps: float) -> Tensor:
    unit = (x.float() - of_channels(mean)) * of_channels(inverse)
    return (unit * of_channels(weight) + of_channels(bias)).to(x.dtype)


@kernel
def batch_norm_backward_reduce(
    gradient: Tensor, x: Tensor, mean: Tensor, inverse: Tensor, weight: Tensor, *wanted: bool
) -> tuple[Tensor, ...]:
    assert wanted == (True, True, True)
    along = gradient.float().sum((0, 2, 3))
    turned = (gradient.float() * (x.float() - of_channels(mean))).sum((0, 2, 3))
    return along, turned, turned * inverse, along.clone()


@kernel
def batch_norm_backward_elemt(
    gradient: Tensor,
    x: Tensor,
    mean: Tensor,
    inverse: Tensor,
    weight: Tensor,
    along: Tensor,
    turned: Tensor,
    counts: Tensor,
) -> Tensor:
    assert counts.dtype == torch.int32
    centred = (x.float() - of_channels(mean)) * of_channels(inverse**2 * turned / counts.sum())
    rest = gradient.float() - of_channels(along / counts.sum()) - centred
    return (rest * of_channels(inverse * weight)).to(x.dtype)


def run_the_kernels() -> None:
    """Give the CPU what the kernels are documented to do, and let batch norm call them."""
    for name, function in KERNELS.items():
        setattr(torch, name, function)
    assert callable(sync_batch_norm._has_kernels)
    sync_batch_norm._has_kernels = lambda x: True
    del sync_batch_norm._Normalise  # so that nothing runs without them


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_batch_norm_by_kernels_of_a_gpu_is_that_without(small_scenes: Path, tmp_path: Path, precision: str) -> None:
    changes = ["train.max_iterations=2", f"train.precision={precision}", "train.lr=0.01"]
    found = {}
    for name, first in (("plain", None), ("kernels", run_the_kernels)):
        path = write_config(tmp_path / name, small_scenes)
        run_processes(2, "train", str(path), *changes, first=first)
        found[name] = read(tmp_path / name / "run/last.pt")["model"]
    for name, tensor in found["plain"].items():
        close = {"rtol": 1e-4, "atol": 1e-5} if precision == "fp32" else {"rtol": 0.05, "atol": 5e-3}
        torch.testing.assert_close(found["kernels"][name], tensor, **close, msg=name)


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Join a group as process 2 of 4 on a machine with so many GPUs; returns what was asked of torch."""

    def join(gpus: int, device: str = "auto") -> list[Any]:
        asked: list[Any] = []
        for name, value in {"WORLD_SIZE": "4", "RANK": "2", "LOCAL_RANK": "2"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "set_device", lambda device: asked.append(str(device)))
        monkeypatch.setattr(dist, "init_process_group", lambda backend, timeout: asked.append(backend))
        monkeypatch.setattr(distributed, "meet", lambda: ["a", "b", "c", "d"])
        monkeypatch.setattr(dist, "destroy_process_group", lambda: asked.append("left"))
        monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
        with processes(device) as team:
            assert (team.rank, team.world, team.is_main) == (2, 4, False)
            asked.append(str(team.device))
        return asked

    return join


def test_processes_with_gpus_talk_over_nccl_each_on_its_own(joined: Callable[..., list[Any]]) -> None:
    assert joined(4) == ["cuda:2", "nccl", "cuda:2", "left"]


@pytest.mark.parametrize(("gpus", "device"), [(0, "auto"), (4, "cpu")])
def test_processes_on_a_cpu_talk_over_gloo(joined: Callable[..., list[Any]], gpus: int, device: str) -> None:
    assert joined(gpus, device) == ["gloo", "cpu", "left"]


def test_a_process_without_a_gpu_of_its_own_is_refused(joined: Callable[..., list[Any]]) -> None:
    with pytest.raises(UserError, match="process 2 has no GPU of its own: there are 2; set NGPUS=2"):
        joined(2)


@pytest.mark.parametrize(
    "message", ["[gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]:4242", "NCCL error in: x.cpp:1"]
)
def test_a_lost_process_is_one_sentence(monkeypatch: pytest.MonkeyPatch, message: str) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(dist, "init_process_group", lambda backend, timeout: None)
    monkeypatch.setattr(distributed, "meet", lambda: ["node0 (10.0.0.1)", "node1 (10.0.0.2)"])
    monkeypatch.setattr(distributed, "get_error_handler", lambda: types.SimpleNamespace(record_exception=id))
    told = f"process 0 cannot talk to process 1 on node1 (10.0.0.2) ({message}): where one of them ended, its own"
    with pytest.raises(UserError, match=re.escape(told)), processes("cpu"):
        raise RuntimeError(f"{message}\nand where it was")
    with pytest.raises(RuntimeError, match="a mistake of ours"), processes("cpu"):
        raise RuntimeError("a mistake of ours")


def test_apex_is_used_when_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    class FusedSGD(torch.optim.SGD):
        pass

    package, optimizers = types.ModuleType("apex"), types.ModuleType("apex.optimizers")
    optimizers.FusedSGD = FusedSGD  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "apex", package)
    monkeypatch.setitem(sys.modules, "apex.optimizers", optimizers)
    train = Train(optimizer="apex_fused_sgd", lr=0.1, momentum=0.7, weight_decay=0.01)
    optimizer = make_optimizer(nn.Conv2d(3, 4, 1), train, torch.device("cuda", 0))
    assert isinstance(optimizer, FusedSGD)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01, 0.0]
    assert optimizer.defaults["momentum"] == 0.7


@pytest.mark.parametrize("installed", [{}, {"apex": types.ModuleType("apex")}], ids=["nothing", "the other apex"])
def test_without_apex_a_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch, installed: dict[str, Any]) -> None:
    for name in ("apex", "apex.optimizers"):
        monkeypatch.setitem(sys.modules, name, installed.get(name))
    train = Train(optimizer="apex_fused_sgd")
    with pytest.raises(UserError, match=r"NVIDIA apex, which is not installed.*or use train\.optimizer=sgd"):
        make_optimizer(nn.Conv2d(3, 4, 1), train, torch.device("cuda", 0))
    with pytest.raises(UserError, match=r"apex_fused_sgd needs a GPU; use train\.optimizer=sgd"):
        make_optimizer(nn.Conv2d(3, 4, 1), train, torch.device("cpu"))


def test_processes_ask_each_other_for_signals_every_two_seconds_and_stop_soon_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, asked = iter(0.1 * i for i in range(1000)), []
    monkeypatch.setattr(stop.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(dist, "new_group", lambda **options: "gloo")
    monkeypatch.setattr(dist, "all_reduce", lambda tensor, *rest, **options: asked.append(tensor) or Done())
    now = [next(clock)]
    request = stop.StopRequest(Processes(0, 2, torch.device("cpu")), at_most=100)

    def step() -> bool:
        now[0] = next(clock)  # 0.1 s later
        return request.agreed()

    assert not any(step() for _ in range(100))
    assert 5 <= len(asked) <= 7  # 100 steps of 0.1 s / 2 s
    request.name = "SIGTERM"
    assert [step() for _ in range(22)].index(True) <= 21  # 2 s / 0.1 s, and a step for the answer


class Done:
    def wait(self) -> None:
        pass
