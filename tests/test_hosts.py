"""Test several machines: two network namespaces joined by two virtual interfaces, where the system allows them."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import read, write_config
from test_engine import metrics

import mgd
from mgd.engine import hosts
from mgd.engine.hosts import interface_towards

A, B = (f"mgd{os.getpid()}{end}" for end in "ab")  # names of namespaces, and of the interfaces in them
NETWORK = "10.213.77"  # A is .1, B is .2


def ip(*arguments: str, ok: bool = True) -> bool:
    try:
        done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=20)
    except FileNotFoundError:
        return False
    assert done.returncode == 0 or not ok, done.stderr
    return done.returncode == 0


@pytest.fixture
def machines() -> Iterator[None]:
    if not ip("netns", "add", A, ok=False):
        pytest.skip("needs `ip netns add`: iproute2 and the right to make network namespaces")
    try:
        ip("netns", "add", B)
        ip("link", "add", A, "type", "veth", "peer", "name", B)
        for name, number in ((A, 1), (B, 2)):
            ip("link", "set", name, "netns", name)
            ip("-n", name, "address", "add", f"{NETWORK}.{number}/24", "dev", name)
            ip("-n", name, "link", "set", name, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield
    finally:
        for name in (A, B):
            ip("netns", "delete", name, ok=False)


def start_on(name: str, rank: int, config: Path, *options: str) -> subprocess.Popen[str]:
    """Train as process `rank` of two, in a namespace; nobody names an interface."""
    environment = {key: value for key, value in os.environ.items() if not key.endswith("SOCKET_IFNAME")}
    environment |= {"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    environment |= {
        "MASTER_ADDR": f"{NETWORK}.1",
        "MASTER_PORT": "29533",
        "PYTHONPATH": str(Path(mgd.__file__).parents[1]),
    }
    command = ["ip", "netns", "exec", name, sys.executable, "-m", "mgd", "train", str(config), *options, "--resume"]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.usefixtures("machines")
def test_two_machines_find_each_other_tell_when_the_network_is_cut_and_go_on(
    small_scenes: Path, tmp_path: Path
) -> None:
    config, last = write_config(tmp_path, small_scenes), tmp_path / "run/last.pt"
    options = ["run.timeout=6", "run.save_every=5", "run.log_every=5", "train.max_iterations=100000"]
    team = [start_on(name, rank, config, *options) for rank, name in enumerate((A, B))]
    deadline = time.monotonic() + 90
    while not last.exists():
        assert all(process.poll() is None for process in team), [p.communicate()[1] for p in team]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    ip("-n", A, "link", "set", A, "down")
    cut = time.monotonic()
    said = [process.communicate(timeout=90)[1].splitlines()[-1] for process in team]
    assert [process.returncode for process in team] == [2, 2]
    assert time.monotonic() - cut < 30  # run.timeout, and what ending takes on a busy machine
    for rank, other in ((0, f"process 1 on .* ({NETWORK}.2)"), (1, f"process 0 on .* ({NETWORK}.1)")):
        start, _, end = other.partition(".*")
        assert said[rank].startswith(f"mgd train: process {rank} cannot talk to {start}")
        assert end in said[rank]
        assert "run.timeout=6" in said[rank]
    saved = read(last)["iteration"]
    assert saved >= 5

    ip("-n", A, "link", "set", A, "up")
    options[-1] = f"train.max_iterations={saved + 2}"
    team = [start_on(name, rank, config, *options, "--accept-changes") for rank, name in enumerate((A, B))]
    assert [process.wait(90) for process in team] == [0, 0], [p.communicate()[1] for p in team]
    assert metrics(tmp_path / "run")[-1]["step"] == saved + 2


@pytest.mark.slow
@pytest.mark.usefixtures("machines")
def test_a_process_whose_partner_does_not_come_says_where_it_waited(small_scenes: Path, tmp_path: Path) -> None:
    alone = start_on(A, 0, write_config(tmp_path, small_scenes), "run.timeout=3")
    said = alone.communicate(timeout=90)[1].splitlines()[-1]
    assert alone.returncode == 2
    assert (
        f"process 0 cannot talk to the other processes, which meet at MASTER_ADDR:MASTER_PORT={NETWORK}.1:29533" in said
    )


def test_the_interface_is_the_one_that_the_address_is_reached_by(monkeypatch: pytest.MonkeyPatch) -> None:
    assert interface_towards("127.0.0.1") == ""
    assert interface_towards("no.such.host.invalid") == ""
    monkeypatch.setattr(hosts, "_address", {"lo": "127.0.0.1", "ib0": "10.0.0.7"}.get)
    monkeypatch.setattr(hosts.socket, "if_nameindex", lambda: [(1, "lo"), (2, "ib0"), (3, "down")])
    assert interface_towards("127.0.1.1") == "ib0"  # the address that this machine gives its own name
