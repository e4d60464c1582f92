"""Test how a run goes on when its data or settings are others than before, and when it is to go on beyond its end."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import BACKBONE, CHANNELS, broken_off, differences, read, train, write_config, write_image, write_network
from PIL import Image
from test_engine import metrics, trained_state

from mgd.__main__ import main
from mgd.checkpoint import save
from mgd.config import load
from mgd.engine.distributed import Processes
from mgd.engine.loop import Trainer
from mgd.engine.resume import Wish
from mgd.models import build_model
from mgd.models.normalise import IMAGENET_MEAN, IMAGENET_STD

CLASSES = "index,name,red,green,blue\n0,plate,0,0,0\n1,screen,255,0,0\n2,leg,0,255,0\n"
# 8 photos // 2 = 4 iterations an epoch
OPTIONS = ["data.train_list=train.txt", "data.val_list=val.txt", "data.partition=1", "data.unlabeled=pool"]
OPTIONS += ["method=cps", "train.batch_size=2", "train.max_iterations=0", "train.epochs=2", "evaluate.mode=whole"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """6 labelled images, 2 others, 2 for validation, 8 photos."""
    rng, root = np.random.default_rng(0), tmp_path / "data"
    for i in range(12):
        write_image(root / f"images/p{i}.png", rng.integers(256, size=(40, 48, 3), dtype=np.uint8))
        write_image(root / f"labels/p{i}.png", np.kron(rng.integers(3, size=(5, 6)), np.ones((8, 8))).astype(np.uint8))
        if i < 8:
            write_image(root / f"pool/u{i}.png", rng.integers(256, size=(40, 48, 3), dtype=np.uint8))
    write_list(root / "train.txt", range(6))
    write_list(root / "val.txt", (10, 11))
    (root / "classes.csv").write_text(CLASSES)
    return root


def write_list(path: Path, numbers: range | tuple[int, ...]) -> None:
    path.write_text("".join(f"images/p{i}.png\tlabels/p{i}.png\n" for i in numbers))


def other_labels(root: Path) -> None:
    """Two classes of one label map change places; its file stays as large."""
    label = np.asarray(Image.open(root / "labels/p3.png"))
    Image.fromarray(np.array([1, 0, 2], np.uint8)[label]).save(root / "labels/p3.png")


def replace_classes(old: str, new: str) -> Callable[[Path], object]:
    return lambda root: (root / "classes.csv").write_text(CLASSES.replace(old, new))


def add_photos(root: Path) -> None:
    for i in range(8):
        shutil.copy(root / f"pool/u{i}.png", root / f"pool/w{i}.png")


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "other labelled images": (
        lambda root: write_list(root / "train.txt", range(4, 10)),
        "6 labelled images, now as many",
    ),
    "another order": (
        lambda root: write_list(root / "train.txt", (1, 0, 2, 3, 4, 5)),
        "6 labelled images, now as many",
    ),
    "a labelled image more": (lambda root: write_list(root / "train.txt", range(7)), "6 labelled images, now 7"),
    "other labels": (other_labels, "6 labelled images, now as many others"),
    "other validation": (lambda root: write_list(root / "val.txt", (8, 9)), "2 validation images, now as many others"),
    "more photos": (add_photos, "8 unlabelled images, now 16"),
    "fewer photos": (lambda root: [(root / f"pool/u{i}.png").unlink() for i in range(4)], "8 unlabelled images, now 4"),
    "renamed classes": (replace_classes("plate", "table"), "class 0 was plate, now table"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_whose_data_have_changed_says_what_changed_and_what_to_do(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str
) -> None:
    run = train(tmp_path, root, *OPTIONS)
    before = {path: path.read_bytes() for path in run.rglob("*.*") if path.is_file()}
    apply, words = CHANGES[change]
    apply(root)
    capsys.readouterr()
    assert main(["train", str(tmp_path), *OPTIONS, "--resume"]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert f"{run / 'last.pt'} was trained on other data: {words}" in said
    assert "Put back what it was trained on, or use another run.dir, or go on with" in said
    assert "--accept-changes" in said
    assert {path: path.read_bytes() for path in before} == before


def test_a_class_more_is_a_sentence_that_no_option_changes(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path, root, *OPTIONS)
    (root / "classes.csv").write_text(CLASSES + "3,top,0,0,9\n")
    for options in (["--resume"], ["--accept-changes"]):
        assert main(["train", str(tmp_path), *OPTIONS, *options]) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert "was trained for 3 classes, the data have 4 now" in said


@pytest.mark.parametrize("method", ["mgd", "kd"])
def test_another_teacher_under_the_same_name_is_a_change(
    small_scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    teacher = write_network(tmp_path / "deep.pt", num_classes=8, seed=1)
    options = [f"method={method}", f"method.deep_teacher={teacher}", "method.score_teachers=false"]
    train(tmp_path, small_scenes, *options)
    write_network(teacher, num_classes=8, seed=2)
    assert main(["train", str(tmp_path), *options, "--resume"]) == 2
    assert "was trained on other data: another deep teacher" in capsys.readouterr().err


def test_the_same_teacher_in_another_place_is_no_change_a_wider_one_does_not_fit(
    small_scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["method=cwd", "method.score_teachers=false", "method.deep_teacher="]
    teacher = write_network(tmp_path / "deep.pt", num_classes=8, seed=1)
    train(tmp_path, small_scenes, *options[:-1], f"{options[-1]}{teacher}")
    moved = Path(shutil.move(teacher, tmp_path / "moved.pt"))
    train(tmp_path, small_scenes, *options[:-1], f"{options[-1]}{moved}", "--resume")
    write_network(moved, num_classes=8, channels=24)
    wider = [*options[:-1], f"{options[-1]}{moved}", "--accept-changes"]
    assert main(["train", str(tmp_path), *wider]) == 2
    assert "last.pt does not fit what these settings train: projections.deep.bias" in capsys.readouterr().err


def test_each_network_goes_on_with_its_own_statistics(small_scenes: Path, tmp_path: Path) -> None:
    start = build_model(BACKBONE, 8, channels=CHANNELS, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    save(tmp_path / "start.pt", start)
    options = ["method=cps", f"model.init_from={tmp_path / 'start.pt'}"]
    train(tmp_path, small_scenes, *options)
    config = load(tmp_path, options)
    (tmp_path / "start.pt").unlink()
    write_network(tmp_path / "start.pt", num_classes=8)  # what a run started from may be gone, or another
    trainer = Trainer(config, Processes(0, 1, torch.device("cpu")), Wish(resume=True))
    assert [network.mean for network in trainer.stepper.networks] == [IMAGENET_MEAN, (0.5, 0.5, 0.5)]


def test_the_same_data_in_another_place_are_no_change(root: Path, tmp_path: Path) -> None:
    train(tmp_path, root, *OPTIONS)
    shutil.copytree(root, moved := tmp_path / "moved")
    train(tmp_path, moved, *OPTIONS, "--resume")


def test_accepted_changes_are_gone_on_with_and_both_are_on_record(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(tmp_path, root, *OPTIONS, "evaluate.every=1")
    first, best = json.loads((run / "config.json").read_text()), read(run / "best.pt")
    assert (first["iterations"], first["history"]) == (8, [])
    CHANGES["more photos"][0](root)
    CHANGES["other validation"][0](root)
    train(tmp_path, root, *OPTIONS, "evaluate.every=1", "--accept-changes")
    said = capsys.readouterr().err
    assert "WARNING: goes on with changes that were accepted: 8 unlabelled images, now 16; 2 validation" in said
    record = json.loads((run / "config.json").read_text())
    assert (record["start"], record["iterations"], record["images"]["unlabelled"]) == (8, 16, 16)
    del first["history"]
    assert record["history"] == [first]
    scores = {line["step"]: line["miou"] for line in metrics(run) if "miou" in line}
    assert read(run / "best.pt")["iteration"] > best["iteration"]  # scores on other images are not held against these
    assert list(scores) == [4, 8, 16]
    train(tmp_path, root, *OPTIONS, "evaluate.every=1", "--resume")  # now these are what it was trained on


def test_scores_of_other_windows_are_not_held_against_each_other(root: Path, tmp_path: Path) -> None:
    run = train(tmp_path, root, *OPTIONS, "evaluate.every=1")
    content = read(run / "last.pt")
    content["training"]["best"] = 2.0  # which nothing beats
    torch.save(content, run / "last.pt")
    (run / "best.pt").unlink()
    train(tmp_path, root, *OPTIONS, "evaluate.every=1", "--more", "4")
    assert not (run / "best.pt").exists()
    train(tmp_path, root, *OPTIONS, "evaluate.every=1", "evaluate.flip=true", "--more", "4")
    assert (run / "best.pt").exists()


def test_another_learning_rate_that_is_accepted_is_what_is_trained_with(
    small_scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path, small_scenes, "train.max_iterations=2")
    changed = ["train.max_iterations=4", "train.lr=0.5", "train.momentum=0.3"]
    assert main(["train", str(tmp_path), *changed, "--resume"]) == 2
    assert "train.lr (0.01, now 0.5)" in (said := capsys.readouterr().err)
    assert "--accept-changes" in said
    run = train(tmp_path, small_scenes, *changed, "--accept-changes")
    assert [line["lr"] for line in metrics(run)[2:]] == pytest.approx([0.5 * 0.5**0.9, 0.5 * 0.25**0.9])
    assert read(run / "last.pt")["training"]["optimizer"]["param_groups"][0]["momentum"] == 0.3


def test_a_run_beyond_its_new_end_is_a_sentence(
    small_scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path, small_scenes)
    assert main(["train", str(tmp_path), "train.max_iterations=2", "--accept-changes"]) == 2
    assert "the run is at iteration 3 already, with these settings and data it has 2" in capsys.readouterr().err


def test_what_a_state_does_not_fit_cannot_be_accepted(
    small_scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path, small_scenes)
    for change in ("model.channels=24", "method=cps", "train.ema=0.9"):
        assert main(["train", str(tmp_path), change, "--accept-changes"]) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert f"was trained with another {change.partition('=')[0]}" in said
        assert "--accept-changes" not in said


# Beyond the end


def test_more_iterations_have_a_schedule_of_their_own_and_are_on_record(small_scenes: Path, tmp_path: Path) -> None:
    train(tmp_path, small_scenes, "train.max_iterations=3")
    run = train(tmp_path, small_scenes, "train.max_iterations=3", "--more", "2", "train.lr=0.004")
    assert [line["step"] for line in metrics(run)] == [1, 2, 3, 4, 5]
    assert [line["lr"] for line in metrics(run)[3:]] == pytest.approx([0.004, 0.004 * 0.5**0.9])
    record = json.loads((run / "config.json").read_text())
    assert (record["start"], record["stretch"], record["config"]["train"]["lr"]) == (3, [3, 5], 0.004)
    assert [(old["start"], old["stretch"], old["config"]["train"]["lr"]) for old in record["history"]] == [
        (0, [0, 3], 0.01)
    ]
    assert read(run / "last.pt")["total"] == 5
    before = (run / "last.pt").read_bytes()
    train(tmp_path, small_scenes, "train.max_iterations=3", "--resume")  # as script.sh does: all is done
    assert (run / "last.pt").read_bytes() == before


def test_more_iterations_that_were_interrupted_go_on_and_are_not_added_twice(
    small_scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = train(tmp_path / "undisturbed", small_scenes)
    train(tmp_path / "undisturbed", small_scenes, "--more", "4")
    run = train(tmp_path / "cut", small_scenes)
    config = str(tmp_path / "cut")

    with broken_off(at=5):
        assert main(["train", config, "--more", "4", "run.save_every=2"]) == 130
    assert read(run / "last.pt")["iteration"] == 4
    assert main(["train", config, "--more", "4"]) == 0
    assert read(run / "last.pt")["iteration"] == 7
    assert differences(trained_state(run), trained_state(undisturbed)) == []
    assert main(["train", config, "--resume"]) == 0
    assert read(run / "last.pt")["iteration"] == 7


def test_more_iterations_need_a_run_that_is_at_its_end(
    small_scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(write_config(tmp_path, small_scenes))
    assert main(["train", config, "--more", "4"]) == 2
    assert "last.pt does not exist: there is no run that could take 4 iterations more" in capsys.readouterr().err
    run = train(tmp_path, small_scenes, "train.max_iterations=8", "run.keep=4")
    shutil.copy(run / "iteration-0000002.pt", run / "last.pt")
    assert main(["train", config, "train.max_iterations=8", "--more", "4"]) == 2
    assert "the run is at iteration 2 of 8: let it end with --resume, then ask for 4 more" in capsys.readouterr().err
    assert main(["train", config, "--more", "-1"]) == 2
    assert "--more -1 must be a number of iterations" in capsys.readouterr().err


# The same seed


def test_one_seed_gives_one_student_whatever_teaches_it(
    small_scenes: Path, tmp_path: Path, teachers: list[str]
) -> None:
    deep, wide = teachers[1:]
    methods = [["method=supervised"], ["method=cps"], teachers, ["method=mgd", deep], ["method=mgd", wide]]
    students = []
    for i, method in enumerate(methods):
        config = load(write_config(tmp_path / str(i), small_scenes), method)
        trainer = Trainer(config, Processes(0, 1, torch.device("cpu")), Wish())
        students.append(trainer.stepper.objective.student.state_dict())
    for student in students[1:]:
        assert differences(students[0], student) == []
