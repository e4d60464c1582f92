"""Test that a run loses nothing: killed, told to stop, out of disk, with numbers or images that cannot be used."""

import json
import logging
import os
import pty
import random
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import differences, read, run_processes, start, train, write_config
from scenes import generate_scenes
from test_engine import metrics, trained_state, weights

import mgd.data.datasets as datasets
import mgd.engine.loop as loop
import mgd.evaluate as evaluation
from mgd.__main__ import main
from mgd.config import load
from mgd.data.batch import Batch
from mgd.data.datasets import open_splits
from mgd.data.samples import TrainingSamples
from mgd.engine.distributed import Processes
from mgd.engine.history import History
from mgd.engine.log import Meter
from mgd.engine.step import Outcome
from mgd.engine.stop import handled
from mgd.errors import UserError
from mgd.objectives.base import Pass, Terms
from mgd.objectives.supervised import SupervisedObjective
from mgd.progress import Progress

LONG = ["train.max_iterations=400", "run.save_every=1000", "train.epochs=1"]


def lines_of(run: Path) -> int:
    file = run / "metrics.jsonl"
    return file.read_text().count("\n") if file.exists() else 0


# Killed


@pytest.mark.slow
def test_a_run_killed_at_20_random_moments_ends_in_the_weights_of_an_undisturbed_one(
    small_scenes: Path, tmp_path: Path
) -> None:
    options = ["train.max_iterations=120", "run.save_every=1", "run.log_every=3", "train.ema=0.9"]
    undisturbed = train(tmp_path / "undisturbed", small_scenes, *options)
    config, run = write_config(tmp_path / "killed", small_scenes), tmp_path / "killed/run"
    moments, in_a_save = random.Random(0), 0
    for kill in range(20):
        before = lines_of(run)
        process = start("train", str(config), *options, "--resume")
        if kill % 4 == 0:  # in a save: its temporary file is there
            process.wait_for((run / ".last.pt.tmp").exists)
        else:
            process.wait_for(lambda before=before: lines_of(run) > before)
            time.sleep(moments.uniform(0, 0.25))
        os.kill(process.process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "the run is too short for 20 kills"
        in_a_save += (run / ".last.pt.tmp").exists()
    assert in_a_save >= 1
    assert read(run / "last.pt")["iteration"] < 120
    assert main(["train", str(config), *options, "--resume"]) == 0
    assert differences(trained_state(run), trained_state(undisturbed)) == []
    assert differences(read(run / "last.pt")["model"], read(undisturbed / "last.pt")["model"]) == []
    assert not (run / ".last.pt.tmp").exists()


SCORED = ["train.max_iterations=4", "evaluate.every=1", "evaluate.mode=whole", "run.keep=2"]  # an epoch is 2 iterations


def test_metrics_cut_in_the_middle_of_a_line_go_on_with_a_whole_one(small_scenes: Path, tmp_path: Path) -> None:
    options = ["train.max_iterations=3", "run.keep=2"]  # an epoch is 2 iterations
    run = train(tmp_path, small_scenes, *options)
    shutil.copy(run / "iteration-0000002.pt", run / "last.pt")
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:2])[:-5])  # less than was written when 2 was saved
    train(tmp_path, small_scenes, *options, "--resume")
    assert [line["step"] for line in metrics(run)] == [1, 3]


def told(run: Path) -> list[dict[str, float]]:
    """What a run wrote of its steps and scores, without speeds and memory."""
    measured = {"images_per_second", "seconds_per_iteration", "data_seconds_per_iteration", "peak_memory_gib"}
    return [{k: v for k, v in line.items() if k not in measured} for line in metrics(run)]


@pytest.mark.parametrize("moment", ["evaluate", "_save", "keep_snapshot"])
def test_what_a_kill_cut_off_after_a_save_is_made_up_for_when_the_run_goes_on(
    small_scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    undisturbed = train(tmp_path / "undisturbed", small_scenes, *SCORED)
    config, run = write_config(tmp_path / "cut", small_scenes), tmp_path / "cut/run"
    place: Any = loop.Trainer if moment == "_save" else loop
    work = getattr(place, moment)

    def cut_off(*arguments: Any, **options: Any) -> Any:
        if moment == "_save" and arguments[0].evaluation_due:  # the save before the evaluation, not the one after it
            return work(*arguments, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(place, moment, cut_off)
        assert main(["train", str(config), *SCORED]) == 130
    assert read(run / "last.pt")["iteration"] == 2
    assert not list(run.glob("iteration-*"))
    assert main(["train", str(config), *SCORED, "--resume"]) == 0
    assert told(run) == told(undisturbed)
    for name in ("iteration-0000002.pt", "iteration-0000004.pt", "best.pt"):
        assert differences(read(run / name)["model"], read(undisturbed / name)["model"]) == []


# Told to stop


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_lets_the_step_end_saves_and_gives_a_status_of_its_own(
    small_scenes: Path, tmp_path: Path, number: signal.Signals
) -> None:
    config, run = write_config(tmp_path, small_scenes), tmp_path / "run"
    process = start("train", str(config), *LONG, "data.workers=2", own_group=True)
    process.wait_for(lambda: lines_of(run) >= 3)
    leader = process.process.pid
    # To the group, as torchrun does, and SIGUSR1 to all processes, as a scheduler does; loaders must outlive both.
    children = Path(f"/proc/{leader}/task/{leader}/children").read_text().split()
    assert len(children) == 2
    for child in children if number == signal.SIGUSR1 else []:
        os.kill(int(child), number)
    os.killpg(leader, number)
    assert process.wait(60) == 75
    stopped = read(run / "last.pt")["iteration"]
    assert 3 <= stopped == metrics(run)[-1]["step"] < 400


@pytest.mark.slow
def test_a_closed_terminal_stops_a_run_which_is_saved(small_scenes: Path, tmp_path: Path) -> None:
    config, run = write_config(tmp_path, small_scenes), tmp_path / "run"
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", IN_A_TERMINAL, "train", str(config), *LONG]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as process:
        os.close(theirs)
        while lines_of(run) < 3:
            if select.select([ours], [], [], 0.01)[0]:
                os.read(ours, 2**16)
        os.close(ours)
        assert process.wait(60) == 75
    assert read(run / "last.pt")["iteration"] == metrics(run)[-1]["step"]


@pytest.mark.slow
def test_a_run_whose_output_nobody_reads_any_more_is_saved_as_well(small_scenes: Path, tmp_path: Path) -> None:
    config, run = write_config(tmp_path, small_scenes), tmp_path / "run"
    command = [sys.executable, "-m", "mgd", "train", str(config), *LONG]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        while lines_of(run) < 3:
            process.stdout.readline()
        process.stdout.close()  # as tee does when it dies of the terminal's end
        process.send_signal(signal.SIGHUP)
        assert process.wait(60) == 75
    assert read(run / "last.pt")["iteration"] == metrics(run)[-1]["step"]


# The session's leader gets the terminal that is its stdin.
IN_A_TERMINAL = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); from mgd.__main__ import entry; entry()"


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with handled(lambda *_: None, signal.SIGHUP):
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_stopped_run_goes_on_to_the_weights_of_an_undisturbed_one(
    small_scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["train.max_iterations=7", "evaluate.every=1", "evaluate.mode=whole", "method=cps"]
    undisturbed = train(tmp_path / "undisturbed", small_scenes, *options)
    config, run = write_config(tmp_path / "stopped", small_scenes), tmp_path / "stopped/run"
    device = loop.to_device

    def signal_at_4(sample: Any, *arguments: Any) -> Batch:
        if arguments[1] == 3:  # the fourth step, at whose end an epoch ends and an evaluation is due
            os.kill(os.getpid(), signal.SIGTERM)
        return device(sample, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "to_device", signal_at_4)
        assert main(["train", str(config), *options]) == 75
    assert read(run / "last.pt")["iteration"] == 4
    assert [line["step"] for line in metrics(run) if "miou" in line] == [2]  # the signal does not wait for another
    assert main(["train", str(config), *options, "--resume"]) == 0
    assert differences(trained_state(run), trained_state(undisturbed)) == []
    assert [line["step"] for line in metrics(run) if "miou" in line] == [2, 4, 6, 7]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def signal_after_two_images(seen: Path) -> None:
    """Make every evaluation of this process send it SIGTERM once two images have been scored; `seen` counts them."""
    predict = evaluation.predict_labels

    def predict_and_signal(*arguments: Any, **how: Any) -> torch.Tensor:
        with open(seen, "a") as file:
            file.write(".")
        if seen.stat().st_size >= 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return predict(*arguments, **how)

    evaluation.predict_labels = predict_and_signal


@pytest.mark.parametrize("processes", [1, 2])
def test_a_signal_ends_an_evaluation_which_is_made_when_the_run_goes_on(tmp_path: Path, processes: int) -> None:
    generate_scenes(root := tmp_path / "data", train=12, val=12, height=48, width=64)
    config, run, seen = write_config(tmp_path / "stopped", root), tmp_path / "stopped/run", tmp_path / "seen"
    disturb = partial(signal_after_two_images, seen)
    run_processes(processes, "train", str(config), *SCORED, statuses=[75] * processes, first=disturb)
    assert 2 <= seen.stat().st_size <= 6
    assert read(run / "last.pt")["iteration"] == 2
    assert not [line for line in metrics(run) if "miou" in line]
    run_processes(processes, "train", str(config), *SCORED, "--resume")
    run_processes(processes, "train", str(write_config(tmp_path / "undisturbed", root)), *SCORED)
    assert told(run) == told(tmp_path / "undisturbed/run")


def signal_rank_1_at_4() -> None:
    """Make process 1 send itself SIGTERM in the fourth step."""
    device = loop.to_device

    def signal_and_move(sample: Any, *arguments: Any) -> Batch:
        if arguments[1] == 3 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)
        return device(sample, *arguments)

    loop.to_device = signal_and_move


def test_a_signal_to_one_process_stops_all_after_the_same_step(small_scenes: Path, tmp_path: Path) -> None:
    options = ["train.max_iterations=8"]
    config, run = write_config(tmp_path / "stopped", small_scenes), tmp_path / "stopped/run"
    run_processes(2, "train", str(config), *options, statuses=[75, 75], first=signal_rank_1_at_4)
    assert read(run / "last.pt")["iteration"] == 5  # a step later, when both know
    run_processes(2, "train", str(config), *options, "--resume")
    run_processes(2, "train", str(write_config(tmp_path / "undisturbed", small_scenes)), *options)
    assert differences(trained_state(run), trained_state(tmp_path / "undisturbed/run")) == []


# Two runs


HOLD = """
import fcntl, sys
file = open(sys.argv[1], "a")
fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
print(flush=True)
input()
"""


def holder(run: Path) -> subprocess.Popen[str]:
    """A process that holds a run's folder as one that trains there does, or has failed to."""
    command = [sys.executable, "-c", HOLD, str(run / "log.txt")]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_two_processes_do_not_train_into_one_folder(
    small_scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, command = tmp_path / "run", ["train", str(write_config(tmp_path, small_scenes)), "train.max_iterations=1"]
    run.mkdir()
    with holder(run) as other:
        assert main(command) == 2
        assert f"run.dir={run}: another process trains there" in capsys.readouterr().err
        other.kill()
    said: list[str] = []

    def describe(*_: object, **__: object) -> None:
        with holder(run) as other:
            said.append(other.communicate("\n")[1])

    monkeypatch.setattr(loop, "describe", describe)
    assert main(command) == 0  # however the other one ended
    assert "BlockingIOError" in said[0]
    with holder(run) as other:
        assert other.communicate("\n")[1] == ""


@pytest.mark.parametrize("name", ["log.txt", "metrics.jsonl", "tensorboard"])
def test_a_file_of_a_run_that_cannot_be_written_to_is_one_sentence(
    small_scenes: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = tmp_path / "run" / name
    (taken.parent if name == "tensorboard" else taken).mkdir(parents=True)
    if name == "tensorboard":
        taken.touch()  # a file where a folder must be; a folder where a file must be
    assert main(["train", str(write_config(tmp_path, small_scenes)), "train.max_iterations=1"]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert str(taken) in error.splitlines()[-1]


# A process that dies

DYING = """
import os, signal, threading
if os.environ.get("RANK") == "1" and os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0":
    def die():
        while not os.path.exists("FILE"):
            threading.Event().wait(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
    threading.Thread(target=die, daemon=True).start()
"""


def torchrun(config: Path, *options: str, restarts: int = 0) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(loop.__file__).parents[2])}
    environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # docs/clusters.md says why
    command = [*launcher, f"--max-restarts={restarts}", "-m", "mgd", "train", str(config), *options, "--resume"]
    command.append("data.workers=1")  # which must not outlive their run, nor keep it from ending
    # Within a minute after the start, which takes another on a busy machine.
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_job(small_scenes: Path, tmp_path: Path) -> None:
    config, run = write_config(tmp_path, small_scenes), tmp_path / "run"
    config.write_text(config.read_text() + DYING.replace("FILE", str(run / "last.pt")))
    done = torchrun(config, "train.max_iterations=100000", "run.log_every=1000", "run.save_every=20")
    assert done.returncode != 0
    assert "Signal 9 (SIGKILL)" in done.stderr
    assert "process 0 cannot talk to process 1 on " in done.stderr  # what the other one says


@pytest.mark.slow
def test_torchrun_starts_the_processes_again_and_they_go_on(small_scenes: Path, tmp_path: Path) -> None:
    config, run = write_config(tmp_path, small_scenes), tmp_path / "run"
    config.write_text(config.read_text() + DYING.replace("FILE", str(run / "last.pt")))
    done = torchrun(config, "train.max_iterations=80", "run.save_every=20", restarts=1)
    assert done.returncode == 0, done.stderr
    assert read(run / "last.pt")["iteration"] == 80
    assert "resumed" in done.stderr


@pytest.mark.slow
def test_a_process_that_raises_ends_the_job_with_its_sentence(small_scenes: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(small_scenes, root)
    broken = root / "train_aug/image/scene_00004.jpg"
    broken.write_bytes(broken.read_bytes()[:100])
    done = torchrun(write_config(tmp_path, root), "train.max_iterations=100000")
    assert done.returncode != 0
    assert f"mgd train: {broken} cannot be decoded" in done.stderr
    assert f"mgd.errors.UserError: {broken} cannot be decoded" in done.stderr.split("Root Cause")[1]


# A full disk


def leave_no_room_at_2() -> None:
    """Let no file of this process grow above 100,000 bytes from iteration 2 on."""
    save = loop.Trainer._save

    def save_with_little_room(self: loop.Trainer, meter: Meter) -> None:
        if self.iteration == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        save(self, meter)

    loop.Trainer._save = save_with_little_room  # type: ignore[method-assign]


def test_a_save_that_the_disk_has_no_room_for_keeps_the_previous_one_and_says_so(
    small_scenes: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run, config = tmp_path / "run", str(write_config(tmp_path, small_scenes))
    options = ["train.max_iterations=3", "run.save_every=1"]
    assert start("train", config, *options, first=leave_no_room_at_2).wait(60) == 2
    assert read(run / "last.pt")["iteration"] == 1
    assert (run / "last.pt").stat().st_size > 100_000
    said = capfd.readouterr().err.splitlines()[-1]
    assert f"{run / 'last.pt'} cannot be written" in said
    assert "the previous one is kept. Free space or choose another folder" in said
    assert not list(run.glob(".*.tmp"))


# Numbers that are not finite


def apply_poison(monkeypatch: pytest.MonkeyPatch, where: Callable[[int], bool], what: str) -> None:
    """Make the supervised loss, or only its gradient, NaN in the iterations (from 0) that a function names."""
    passes = SupervisedObjective.passes

    def poisoned(self: SupervisedObjective, batch: Batch) -> list[Pass]:
        (only,) = passes(self, batch)

        def terms() -> Terms:
            weight = next(self.student.parameters()).sum()
            bad = weight * torch.nan if what == "loss" else (weight - weight.detach()).square().sqrt()
            return {name: term + bad if where(batch.iteration) else term for name, term in only.terms().items()}

        return [only._replace(terms=terms)]

    monkeypatch.setattr(SupervisedObjective, "passes", poisoned)


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], bool], str], None]:
    return partial(apply_poison, monkeypatch)


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("step", [0, 1])
def test_a_step_that_is_not_finite_changes_nothing_and_is_told_with_its_images(
    small_scenes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    poison: Callable[..., None],
    what: str,
    step: int,
) -> None:
    poison(lambda iteration: iteration == step, what)
    options = ["run.save_every=1", "train.max_iterations=3", "train.lr=0.1"]
    seen: list[dict[str, torch.Tensor]] = []
    run = tmp_path / "run"
    save = loop.Trainer._save

    def watch(self: loop.Trainer, meter: Meter) -> None:
        save(self, meter)
        seen.append(trained_state(run))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Trainer, "_save", watch)
        train(tmp_path, small_scenes, *options)
    changed = differences(seen[step - 1], seen[step]) if step else []
    assert all(name.endswith("num_batches_tracked") for name in changed)
    if step == 0:
        assert not any(tensor.any() for name, tensor in seen[0].items() if name.startswith("momentum"))
    assert all(tensor.isfinite().all() for tensor in seen[-1].values())
    assert any(tensor.any() for name, tensor in seen[-1].items() if name.startswith("momentum"))
    said = capsys.readouterr().err
    term = "loss supervised" if what == "loss" else "the gradient"
    assert f"iteration {step + 1}: {term} is not finite on the images scene_" in said
    assert said.count("is not finite") == 1
    assert [line["loss/total"] is None for line in metrics(run)] == [i == step for i in range(3)]
    assert metrics(run)[-1]["skipped_steps"] == 1


def test_an_input_that_is_not_finite_leaves_no_trace_in_batch_norm(
    small_scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = loop.to_device

    def poisoned(sample: Any, *arguments: Any) -> Batch:
        batch = device(sample, *arguments)
        image = batch.labeled.image.float()
        if batch.iteration == 1:
            image[0, 0, 0, 0] = torch.inf
        return batch._replace(labeled=batch.labeled._replace(image=image))

    monkeypatch.setattr(loop, "to_device", poisoned)
    run = train(tmp_path, small_scenes, "train.max_iterations=3", "train.ema=0.5")
    assert metrics(run)[-1]["skipped_steps"] == 1
    assert all(tensor.isfinite().all() for tensor in trained_state(run).values())
    assert all(tensor.isfinite().all() for tensor in read(run / "last.pt")["model"].values())


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_loader_process_that_is_killed_ends_in_a_sentence(
    small_scenes: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], command: str
) -> None:
    config = str(write_config(tmp_path, small_scenes))
    if command == "evaluate":
        train(tmp_path, small_scenes)
    assert start(command, config, "data.workers=2", first=kill_loaders).wait(60) == 2
    said = capfd.readouterr().err.splitlines()[-1]
    assert said.startswith(f"mgd {command}: a loader process was killed, most likely since memory ran out")


def kill_loaders() -> None:
    """Make every loader process of this process end as if the kernel took its memory back, while it prints."""

    def die(*arguments: Any) -> None:
        Progress.get_lock().acquire()
        os.kill(os.getpid(), signal.SIGKILL)

    datasets.load_image = die


def test_an_error_of_ours_ends_a_run_with_loader_processes(small_scenes: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, small_scenes)
    config.write_text(config.read_text() + BREAKING)
    command = [sys.executable, "-m", "mgd", "train", str(config), "data.workers=2"]
    environment = os.environ | {"PYTHONPATH": str(Path(loop.__file__).parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "RuntimeError: a mistake" in done.stderr


BREAKING = """
import mgd.engine.step

def _fail(*arguments):
    raise RuntimeError("a mistake")

mgd.engine.step.Stepper.__call__ = _fail
"""


def test_too_many_such_steps_in_a_row_end_the_run_and_what_was_saved_stays(
    small_scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], poison: Callable[..., None]
) -> None:
    poison(lambda iteration: iteration in (0, 2, 3, 4), "loss")
    config = write_config(tmp_path, small_scenes)
    command = [
        "train",
        str(config),
        "train.max_iterations=9",
        "train.max_skipped=2",
        "run.log_every=5",
        "run.save_every=2",
    ]
    assert main(command) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "iteration 5: loss supervised is not finite on the images scene_" in said
    assert "3 such steps in a row, none of which changed a weight" in said
    assert f"{tmp_path / 'run/last.pt'} is the last good state" in said
    assert main(["train", str(config), "train.max_skipped=0", f"run.dir={tmp_path / 'other'}"]) == 2
    assert "nothing was saved yet; look at these images" in capsys.readouterr().err
    last = read(tmp_path / "run/last.pt")
    assert last["iteration"] == 4
    assert all(tensor.isfinite().all() for name, tensor in last["model"].items() if "running" not in name)


def poison_rank_1_at_2() -> None:
    apply_poison(pytest.MonkeyPatch(), lambda iteration: iteration == 1 and os.environ["RANK"] == "1", "loss")


def test_one_process_whose_loss_is_not_finite_makes_all_leave_the_step_out(
    small_scenes: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = str(write_config(tmp_path, small_scenes))
    run_processes(2, "train", config, "train.max_iterations=3", first=poison_rank_1_at_2)
    lines = metrics(tmp_path / "run")
    assert [line["loss/total"] is None for line in lines] == [False, True, False]
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path / "run").values())
    assert capfd.readouterr().err.count("iteration 2: loss supervised is not finite on the images scene_") == 1


def test_fp16_gradients_that_overflow_are_no_warning_until_there_are_too_many(
    small_scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss scale begins too high, and comes down that way."""
    said: list[tuple[int, str]] = []
    monkeypatch.setattr(logging.Logger, "handle", lambda _, record: said.append((record.levelno, record.getMessage())))
    logging.getLogger("mgd").setLevel(logging.INFO)
    config = load(write_config(tmp_path, small_scenes), ["train.precision=fp16", "train.max_skipped=2"])
    samples, team = TrainingSamples(open_splits(config.data), config), Processes(0, 1, torch.device("cpu"))
    history = History(samples, config, team, weights=lambda iteration: {})
    for iteration in range(3):
        history.add(iteration, Outcome({"supervised": torch.tensor(1.0)}, torch.tensor(torch.inf), torch.tensor(9)))
        if iteration < 2:
            assert history.read()["skipped_steps"] == iteration + 1
    text = "iteration {}: a gradient does not fit into fp16; the loss scale is lowered"
    assert said == [(logging.INFO, text.format(1)), (logging.INFO, text.format(2))]
    with pytest.raises(UserError, match=r"iteration 3: the gradient is not finite on the images scene_.*3 such steps"):
        history.read()


def test_a_weight_that_is_not_finite_is_not_saved(
    small_scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_and_break(self: History) -> dict[str, float]:
        objective.append(next(self_of[0].stepper.objective.parameters()).data.fill_(torch.nan))
        return {}

    objective: list[torch.Tensor] = []
    self_of: list[loop.Trainer] = []
    run = loop.Trainer.run
    monkeypatch.setattr(loop.Trainer, "run", lambda self: (self_of.append(self), run(self))[1])
    monkeypatch.setattr(History, "read", read_and_break)
    assert main(["train", str(write_config(tmp_path, small_scenes)), "train.max_iterations=1"]) == 2
    assert "a weight is not finite after iteration 1" in capsys.readouterr().err
    assert not (tmp_path / "run/last.pt").exists()


# Images that cannot be read


def test_broken_images_are_replaced_when_asked_told_once_and_counted(
    small_scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    shutil.copytree(small_scenes, root)
    for name in ("scene_00004", "scene_00007"):  # one labelled, one not
        broken = root / f"train_aug/image/{name}.jpg"
        broken.write_bytes(broken.read_bytes()[:200])
    options = ["method=cps", "train.max_iterations=5", "run.log_every=5"]
    assert main(["train", str(write_config(tmp_path / "strict", root)), *options]) == 2
    assert "cannot be decoded" in capsys.readouterr().err.splitlines()[-1]
    assert main(["train", str(write_config(tmp_path / "strict", root)), *options, "data.skip_broken=true"]) == 0
    said = capsys.readouterr().err
    for name in ("scene_00004", "scene_00007"):
        assert said.count(f"{name}.jpg cannot be decoded") == 1
    again = train(tmp_path / "workers", root, *options, "data.skip_broken=true", "data.workers=2")
    assert differences(trained_state(tmp_path / "strict/run"), trained_state(again)) == []
    team = write_config(tmp_path / "processes", root)
    run_processes(2, "train", str(team), *options, "data.skip_broken=true")
    counts = [metrics(run)[-1]["broken_images"] for run in (tmp_path / "strict/run", again, team.parent / "run")]
    assert counts[0] >= 2
    assert counts == counts[:1] * 3  # those of all processes


def test_counts_go_on_with_the_run(
    small_scenes: Path, tmp_path: Path, poison: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    shutil.copytree(small_scenes, root)
    (root / "train_aug/image/scene_00004.jpg").write_bytes(b"")
    poison(lambda iteration: iteration in (1, 4), "loss")
    options = ["train.max_iterations=8", "data.skip_broken=true", "run.save_every=1"]
    undisturbed = told(train(tmp_path / "undisturbed", root, *options))
    config, run = write_config(tmp_path / "killed", root), tmp_path / "killed/run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Meter, "advance", lambda self: self.written > 500 and signal.raise_signal(signal.SIGINT))
        assert main(["train", str(config), *options]) == 130
    assert 2 <= read(run / "last.pt")["iteration"] < 6
    assert main(["train", str(config), *options, "--resume"]) == 0
    assert told(run) == undisturbed
    assert undisturbed[-1]["skipped_steps"] == 2
    assert undisturbed[-1]["broken_images"] >= 2


def test_messages_name_the_image_that_stands_in_for_a_broken_one(small_scenes: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(small_scenes, root)
    config = load(write_config(tmp_path, root), ["method=cps", "data.skip_broken=true"])
    before = TrainingSamples(open_splits(config.data), config)
    names = [before.names(position) for position in range(9)]
    (root / "train_aug/image/scene_00004.jpg").write_bytes(b"")  # labelled; the next labelled one is scene_00008
    after = TrainingSamples(open_splits(config.data), config)
    assert [after.names(position)[0] for position in range(9)] == [
        name.replace("scene_00004", "scene_00008") for name, _, _ in names
    ]
    assert any(name == "scene_00004" for name, _, _ in names)


@pytest.mark.parametrize("partner", ["batch", "independent"])
def test_what_stands_in_for_a_broken_image_is_not_its_pair(small_scenes: Path, tmp_path: Path, partner: str) -> None:
    root = tmp_path / "data"
    shutil.copytree(small_scenes, root)
    config = load(write_config(tmp_path, root), ["method=cps", "data.skip_broken=true", f"data.partner={partner}"])
    few = open_splits(config.data).unlabeled
    (few[1].image).write_bytes(b"")  # followed by others, which every second of its neighbours takes as well
    samples = TrainingSamples(open_splits(config.data), config)
    pairs = [samples.names(position)[1:] for position in range(200)]
    assert all(first != second for first, second in pairs)
    assert {name for pair in pairs for name in pair} == {item.name for item in few} - {few[1].name}
    if partner == "batch":  # both positions have the same two
        assert all(set(a) == set(b) for a, b in zip(pairs[::2], pairs[1::2], strict=True))


# Snapshots and averages


def test_the_last_snapshots_are_kept_and_can_be_gone_back_to(small_scenes: Path, tmp_path: Path) -> None:
    options = ["train.max_iterations=8", "run.keep=2"]  # an epoch is 2 iterations
    run = train(tmp_path, small_scenes, *options)
    assert sorted(path.name for path in run.glob("iteration-*")) == ["iteration-0000006.pt", "iteration-0000008.pt"]
    end = trained_state(run)
    shutil.copy(run / "iteration-0000006.pt", run / "last.pt")
    assert read(run / "iteration-0000008.pt")["iteration"] == 8
    assert read(run / "last.pt")["iteration"] == 6
    train(tmp_path, small_scenes, *options, "--resume")
    assert differences(trained_state(run), end) == []


def test_averaged_weights_follow_the_trained_ones_and_are_what_is_scored(small_scenes: Path, tmp_path: Path) -> None:
    options = ["train.max_iterations=6", "evaluate.every=1", "evaluate.mode=whole", "run.save_every=1"]
    run = train(tmp_path, small_scenes, *options, "train.ema=0.5", "train.lr=0.1")
    last = read(run / "last.pt")
    trained = {k.removeprefix("student."): v for k, v in last["training"]["objective"].items()}
    assert differences(last["model"], trained)
    assert differences(last["model"], last["training"]["averaged"]) == []
    assert main(["evaluate", str(run / "last.pt"), "evaluate.mode=whole"]) == 0
    score = json.loads((run / "evaluation/last.json").read_text())["miou"]
    assert [line["miou"] for line in metrics(run) if "miou" in line][-1] == pytest.approx(score)
    plain = train(tmp_path / "plain", small_scenes, *options, "train.lr=0.1")
    raw = {k.removeprefix("student."): v for k, v in weights(plain).items()}
    assert differences(trained, raw) == []  # averaging changes nothing of what is trained


@pytest.mark.parametrize("change", ["train.ema=1", "train.ema=-0.1", "run.keep=-1", "train.optimizer=adam"])
def test_impossible_settings_are_refused(
    small_scenes: Path, tmp_path: Path, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(write_config(tmp_path, small_scenes)), change]) == 2
    assert change.partition("=")[0] in capsys.readouterr().err
