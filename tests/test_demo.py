"""Test what the demo's script does when it is stopped; a stand-in for Python trains."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PYTHON = """#!/usr/bin/env bash
words="$*"
case $words in
*os.cpu_count*) echo 2 ;;
*"mgd train"*)
    run=${words##*run.dir=}
    run=${run%% *}
    mkdir -p "$run"
    trap 'echo saved >>"$run/log"; exit 75' TERM
    echo started >>"$run/log"
    for _ in {1..1000}; do sleep 0.02; done
    ;;
esac
"""


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """A folder with the demo's scripts and a PYTHON that trains until it is told to stop."""
    for file in [ROOT / "launch.sh", ROOT / "exp.demo/demo.sh", *ROOT.glob("exp.demo/*/script.sh")]:
        (tmp_path / file.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, tmp_path / file.relative_to(ROOT))
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    return tmp_path


def stopped(demo: Path, send: signal.Signals, *, whole_group: bool, times: int) -> str:
    """What the demo says when it is stopped after the `times`-th start of both teachers."""
    logs = [demo / f"exp.demo/scenes32.{name}/run-3/log" for name in ("wide", "deep")]
    process = subprocess.Popen(
        ["bash", demo / "exp.demo/demo.sh", "3"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHON": str(demo / "python"), "NGPUS": "1"},
        process_group=0,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 30
    while not all(log.is_file() and log.read_text().count("started") == times for log in logs):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.2)  # launch.sh sets its traps
    if whole_group:
        os.killpg(process.pid, send)
    else:
        process.send_signal(send)
    told = process.communicate(timeout=30)[0]
    assert process.returncode == 128 + send
    assert all(log.read_text() == "started\nsaved\n" * times for log in logs)
    return told


def test_a_demo_that_is_stopped_saves_says_how_to_go_on_and_goes_on(demo: Path) -> None:
    told = "to go on: bash exp.demo/demo.sh 3"
    assert told in stopped(demo, signal.SIGINT, whole_group=True, times=1)  # Ctrl-C
    assert told in stopped(demo, signal.SIGTERM, whole_group=False, times=2)
    assert told in stopped(demo, signal.SIGHUP, whole_group=True, times=3)  # a closed terminal
