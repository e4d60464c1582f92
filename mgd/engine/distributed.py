"""Processes and devices: one process for each GPU under torchrun, else a single one."""

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.elastic.multiprocessing.errors import get_error_handler
from torch.nn.parallel import DistributedDataParallel

from mgd.errors import Stopped, UserError, sentence

# What the libraries below torch.distributed say, mostly since another process is gone.
LOST_PEER = re.compile(r"gloo|NCCL|[Cc]onnection (closed|reset|refused)|Broken pipe|TCPStore")


@dataclass(frozen=True)
class Processes:
    """Who this process is."""

    rank: int
    world: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world > 1:
            dist.barrier()


@contextmanager
def processes(device: str = "auto") -> Iterator[Processes]:
    """Join the group that torchrun set up (NCCL on GPUs, gloo on CPUs), leave it at the end.

    Args:
        device: "auto" takes a GPU when there is one.

    Raises:
        UserError: a GPU is asked for and there is none for this process.
    """
    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    chosen = pick_device(device, int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count())
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
        torch.backends.cudnn.benchmark = True
    if world > 1:
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Processes(rank, world, chosen)
    except Stopped:
        if world > 1:  # all stop together
            dist.destroy_process_group()
        raise
    except Exception as error:
        if world > 1:
            _record(error)
            if isinstance(error, RuntimeError) and LOST_PEER.search(str(error)):
                reason = str(error).splitlines()[0]
                raise UserError(
                    f"process {rank} cannot talk to the others ({reason}): where one of them ended, "
                    "its own message says why; --resume goes on from the last save"
                ) from error
        raise
    # Only after success: with one process failed, leaving the group would wait for it, and torchrun ends the others.
    if world > 1:
        dist.destroy_process_group()


def _record(error: Exception) -> None:
    """Hand torchrun what its summary tells of the process that failed first: of a user's mistake the sentence alone."""
    try:
        if isinstance(error, UserError):
            raise UserError(sentence(error)) from None
        raise error
    except Exception as told:
        get_error_handler().record_exception(told)


def share_buffers(module: nn.Module) -> None:
    """Give every process the main one's buffers: without SyncBN each has running statistics of its own images."""
    for buffer in module.buffers():
        dist.broadcast(buffer, 0)


def shares_of(counts: list[dict[str, Tensor]], team: Processes) -> list[dict[str, Tensor]]:
    """What makes the sum of means over the parts of a batch the mean over the batch.

    Args:
        counts: for each micro-batch of this process, how many values each mean runs over.

    Returns:
        For each micro-batch the factor of each mean: its count over that of all parts on all processes, times the
        number of processes, over which gradients are averaged.
    """
    own = torch.stack([torch.stack([*count.values()]) for count in counts]).double()
    everything = own.sum(dim=0)
    if team.world > 1:
        dist.all_reduce(everything)
    factors = (own * team.world / everything.clamp(min=1)).float()
    return [dict(zip(counts[0], factor, strict=True)) for factor in factors]


def pick_device(device: str, local_rank: int, gpus: int) -> torch.device:
    """The device of a process on this machine."""
    if device == "cpu" or (device == "auto" and gpus == 0):
        return torch.device("cpu")
    if gpus == 0:
        raise UserError("run.device=cuda but this machine has no GPU that torch can use; set run.device=cpu")
    if local_rank >= gpus:
        raise UserError(f"process {local_rank} has no GPU of its own: there are {gpus}; set NGPUS={gpus}")
    return torch.device("cuda", local_rank)


def distribute(module: nn.Module, team: Processes) -> nn.Module:
    """`module` under DDP when there are several processes, else as it is."""
    if team.world == 1:
        return module
    ids = [team.device.index] if team.device.type == "cuda" else None
    with warnings.catch_warnings():
        # Its replacement, forward_sync_buffers, is not in every torch that we support.
        warnings.filterwarnings("ignore", message=".*broadcast_buffers.*", category=FutureWarning)
        return DistributedDataParallel(module, device_ids=ids, broadcast_buffers=False)
