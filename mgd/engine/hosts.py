"""Several machines: the network interface that reaches the others; a sentence that names them when they are lost."""

import fcntl
import os
import re
import socket
import struct
from collections.abc import Sequence

import torch.distributed as dist

from mgd.errors import first_few

# What the libraries below torch.distributed say, mostly since another process is gone.
LOST_PEER = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe|tcpstore", re.IGNORECASE)
SIOCGIFADDR = 0x8915  # Linux: an interface's IPv4 address


def choose_interface() -> None:
    """Tell gloo and NCCL the interface that reaches MASTER_ADDR, where nobody has.

    By itself gloo takes that of this machine's name, which on many is loopback, where no other machine can reach it.
    """
    if os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]:
        return  # one machine
    if name := interface_towards(os.environ.get("MASTER_ADDR", "localhost")):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={name}")  # = is NCCL's for a whole name


def interface_towards(host: str) -> str:
    """The name of the interface that packets to `host` leave by; "" where that is loopback, or cannot be told.

    On the machine that is called `host` itself, where that may be loopback, it is the only other one that there is.
    """
    addresses = {name: address for _, name in socket.if_nameindex() if (address := _address(name))}
    outward = {name: address for name, address in addresses.items() if not address.startswith("127.")}
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))  # sends nothing
            own = probe.getsockname()[0]
    except OSError:
        return ""
    if own.startswith("127.") and host not in ("localhost", "127.0.0.1") and len(outward) == 1:
        return next(iter(outward))
    return next((name for name, address in outward.items() if address == own), "")


def _address(interface: str) -> str:
    """IPv4 address of an interface; "" where it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            answer = fcntl.ioctl(any_socket, SIOCGIFADDR, struct.pack("256s", interface.encode()[:15]))
        except OSError:
            return ""
    return socket.inet_ntoa(answer[20:24])


def meet() -> list[str]:
    """To be called by all processes: what machine each of them is on, with the address that it is reached at."""
    address = _address(os.environ.get("GLOO_SOCKET_IFNAME", "lo").split(",")[0])
    found = [""] * dist.get_world_size()
    dist.all_gather_object(found, f"{socket.gethostname()} ({address})")
    return found


def is_lost_peer(error: Exception) -> bool:
    """Whether an error says that other processes cannot be reached."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and bool(LOST_PEER.search(str(error))))


def lost_peer(error: Exception, rank: int, hosts: Sequence[str], timeout: int) -> str:
    """The sentence for an error of `is_lost_peer`.

    Args:
        hosts: what `meet` gave; nothing when the processes have not met.
        timeout: seconds that a process waits for others.
    """
    others = [f"process {i} on {host}" for i, host in enumerate(hosts) if i != rank]
    if not others:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        others = [f"the other processes, which meet at MASTER_ADDR:MASTER_PORT={where}"]
    reason = str(error).splitlines()[0]
    return (
        f"process {rank} cannot talk to {first_few(others)} ({reason}): where one of them ended, its own message says "
        f"why; else look at that machine and the network between them (run.timeout={timeout} s is waited). "
        "--resume goes on from the last save"
    )
