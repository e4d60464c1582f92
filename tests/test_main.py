"""Test the command line as a program among others: closed pipes, libraries that are not there."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import train

import mgd.engine.log as log_module


def test_a_reader_that_stops_ends_a_command_without_a_word(small_scenes: Path, tmp_path: Path) -> None:
    shutil.copytree(small_scenes, data := tmp_path / "data")
    reader, writer = os.pipe()
    os.close(reader)
    root = Path(log_module.__file__).parents[2]
    command = [sys.executable, "-m", "mgd", "partition", str(data / "train_aug.txt"), "--ratio", "4"]
    done = subprocess.run(command, cwd=root, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=100)
    os.close(writer)
    assert (done.stderr, done.returncode) == ("", 128 + signal.SIGPIPE)


def test_a_run_without_tensorboard_says_so_once_and_writes_all_else(
    small_scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    run = train(tmp_path, small_scenes)
    assert capsys.readouterr().err.count("pip install tensorboard") == 1
    assert (run / "metrics.jsonl").read_text().count("\n") == 3
    assert not (run / "tensorboard").exists()
