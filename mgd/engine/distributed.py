"""Processes and devices: one process for each GPU under torchrun, else a single one."""

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.elastic.multiprocessing.errors import get_error_handler
from torch.nn.parallel import DistributedDataParallel

from mgd.data.loaders import SHARED_MEMORY, SHARED_MEMORY_REMEDY
from mgd.engine.hosts import choose_interface, is_lost_peer, lost_peer, meet
from mgd.errors import Stopped, UserError, sentence

# What torch says where the system ended a loader's process, or shared memory is full.
LOST_LOADER = re.compile(
    r"DataLoader worker \(pid.*(killed by signal|exited unexpectedly)|shared memory\(shm\)|</torch_"
)


@dataclass(frozen=True)
class Processes:
    """Who this process is."""

    rank: int
    world: int
    device: torch.device
    timeout: int = 60  # seconds that it waits for the others

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world > 1:
            dist.barrier()


@contextmanager
def processes(device: str = "auto", *, timeout: int = 60) -> Iterator[Processes]:
    """Join the group that torchrun set up (NCCL on GPUs, gloo on CPUs), leave it at the end.

    Args:
        device: "auto" takes a GPU when there is one.
        timeout: seconds after which a process that waits for others gives them up.

    Raises:
        UserError: a GPU is asked for and there is none for this process; other processes cannot be reached any more; a
            loader's process was killed.
    """
    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    chosen = pick_device(device, int(os.environ.get("LOCAL_RANK", 0)))
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
        torch.backends.cudnn.benchmark = True
    hosts: list[str] = []
    try:
        if world > 1:
            choose_interface()
            backend = "nccl" if chosen.type == "cuda" else "gloo"
            dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
            hosts = meet()
        yield Processes(rank, world, chosen, timeout)
    except Stopped:
        if world > 1:  # all stop together
            dist.destroy_process_group()
        raise
    except Exception as error:
        explained = _explain(error, rank, hosts, timeout)
        if world > 1:
            _record(explained or error)
        if explained is not None:
            raise explained from error
        raise
    # Only after success: with one process failed, leaving the group would wait for it, and torchrun ends the others.
    if world > 1:
        dist.destroy_process_group()


def _explain(error: Exception, rank: int, hosts: Sequence[str], timeout: int) -> UserError | None:
    """The sentence for the loss of another process or of a loader's; None for any other error."""
    text = str(error)
    if not isinstance(error, RuntimeError):
        return None
    if not LOST_LOADER.search(text):
        met = "WORLD_SIZE" in os.environ and is_lost_peer(error)
        return UserError(lost_peer(error, rank, hosts, timeout)) if met else None
    if "Killed" not in text and ("shared memory" in text or "</torch_" in text):
        return UserError(f"{SHARED_MEMORY} is too small for what loader processes hand over; {SHARED_MEMORY_REMEDY}")
    return UserError(
        f"a loader process was killed, most likely since memory ran out ({text.splitlines()[0]}); use a smaller "
        "data.workers, or no data.cache, then start again"
    )


def _record(error: Exception) -> None:
    """Hand torchrun what its summary tells of the process that failed first: of a user's mistake the sentence alone."""
    try:
        if isinstance(error, UserError):
            raise UserError(sentence(error)) from None
        raise error
    except Exception as recorded:
        get_error_handler().record_exception(recorded)


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


def pick_device(device: str, local_rank: int = 0, gpus: int | None = None) -> torch.device:
    """The device of a process on this machine, which has `gpus`; None: as many as torch finds."""
    gpus = torch.cuda.device_count() if gpus is None else gpus
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
    # Of a few 1x1 kernels: their strides say the same, and DDP copies 256 KB each.
    warnings.filterwarnings("ignore", message=".*Grad strides do not match bucket view strides.*")
    with warnings.catch_warnings():
        # Its replacement, forward_sync_buffers, is not in every torch that we support.
        warnings.filterwarnings("ignore", message=".*broadcast_buffers.*", category=FutureWarning)
        # No device_ids: with them it sends a batch's noise to the GPU, and the step waits for it where it is read.
        return DistributedDataParallel(module, broadcast_buffers=False, gradient_as_bucket_view=True)
