"""Processes, devices and batch norm, and the optimiser of NVIDIA apex: what can be told without a GPU."""

import re
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from mgd.config import Train
from mgd.engine import distributed, stop
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
