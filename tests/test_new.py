"""Test `mgd new`: what is looked up from the data, told in the configs, and trained by run.sh."""

import os
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
from helpers import BACKBONE, write_image

from mgd.__main__ import main
from mgd.config import MGD, load
from mgd.errors import UserError
from mgd.new import write_family
from mgd.published import VOC_CPS

TINY = [f"model.backbone={BACKBONE}", "model.pretrained=false", "model.channels=16", "train.max_iterations=1"]
TINY += ["data.workers=0", "evaluate.every=0"]


def data_set(root: Path, *, width: int = 80, height: int = 70, unlabeled: int = 3) -> Path:
    """6 labelled photos, 2 for validation; a quarter of each is leaf."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 6), ("val", 2), ("unlabeled", unlabeled)):
        for i in range(count):
            inner = part if part == "unlabeled" else f"{part}/images"
            write_image(root / f"{inner}/{i}.png", rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
            if part != "unlabeled":
                label = np.zeros((height, width), np.uint8)
                label[:, : width // 4] = 1
                write_image(root / f"{part}/labels/{i}.png", label)
    (root / "classes.csv").write_text("index,name,red,green,blue\n0,background,0,0,0\n1,leaf,0,160,0\n")
    return root


@pytest.mark.parametrize("gpu", [True, False])
def test_without_a_gpu_the_way_to_see_how_long_it_takes_is_named(
    gpu: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    folder = tmp_path / "exp.WIDE STUDENT"
    assert main(["new", str(folder), "--data", str(data_set(tmp_path / "data"))]) == 0
    deep = "WIDE STUDENT1.resnet101_deeplabv3plus"
    assert (f"python -m mgd fit {shlex.quote(str(folder / deep))} tells how long" in capsys.readouterr().out) is not gpu
    assert f'bash "$here/{deep}/script.sh"' in (folder / "run.sh").read_text()  # whatever the folder is called


def test_a_family_is_looked_up_from_the_data_and_says_so(tmp_path: Path) -> None:
    assert main(["new", str(tmp_path / "exp.leaves"), "--data", str(data_set(tmp_path / "data"))]) == 0
    folder = tmp_path / "exp.leaves/leaves1.resnet18_deeplabv3plus"
    config, text = load(folder), (tmp_path / "exp.leaves/family.py").read_text()
    data = config.data
    assert (data.root, data.train_list, data.val_list, data.unlabeled) == (
        str(tmp_path / "data"),
        "train",
        "val",
        "unlabeled",
    )
    assert (data.partition, data.short_side, data.crop_size) == (1, 0, 64)
    assert "short_side=0,  # photos are 80x70 (median of 6), left as they are" in text
    assert "crop_size=64,  # the largest multiple of 32 that fits into 70" in text
    assert "Classes: 75.0 % background, 25.0 % leaf" in text
    assert config.train.batch_size == 4  # of 6 labels
    assert "max_iterations=4_000,  # 34 epochs x 3 unlabelled / 4 = 25, kept within 4,000 to 40,000" in text
    assert isinstance(config.method, MGD)
    assert config.method.deep_teacher == (f"{folder}/../leaves1.resnet101_deeplabv3plus/run/last.pt",)
    for network, rate in (("resnet101", 0.0025), ("wresnet34", 0.001)):
        teacher = load(tmp_path / f"exp.leaves/leaves1.{network}_deeplabv3plus")
        assert (teacher.method, teacher.train.lr, teacher.data) == (VOC_CPS, rate, data)
    assert subprocess.run(["bash", "-n", tmp_path / "exp.leaves/run.sh"], check=False).returncode == 0


def test_a_family_is_run_again_in_other_folders_and_options_of_training_are_not_evaluations(tmp_path: Path) -> None:
    assert main(["new", str(tmp_path / "exp.my leaves"), "--data", str(data_set(tmp_path / "data"))]) == 0
    told = tmp_path / "python"  # stands for Python: says what it was given
    told.write_text('#!/usr/bin/env bash\necho "$@" | sed "s#^-m mgd ##"\n')
    told.chmod(0o755)

    def ran(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", str(tmp_path / "exp.my leaves/run.sh"), *arguments]
        environment = os.environ | {"PYTHON": str(told), "NGPUS": "1", "CDPATH": f".:{tmp_path}"} | variables
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    found = ran("train.seed=1", "--accept-changes", RUN="run2")
    assert found.returncode == 0, found.stderr
    lines = [line.partition("config.py ")[2].split() for line in found.stdout.splitlines()]
    folders = ["run2", "run2", "run2-labels", "run2"]
    assert [line[:2] for line in lines[::2]] == [["--resume", f"run.dir={{experiment}}/{f}"] for f in ("run2",) * 2] + [
        ["--resume", "method=supervised"],
        ["--resume", "run.dir={experiment}/run2"],
    ]
    assert all(f"run.dir={{experiment}}/{f}" in line for f, line in zip(folders, lines[1::2], strict=True))
    assert all("--accept-changes" in line and "train.seed=1" in line for line in lines[::2])
    assert not any("--accept-changes" in line or "train.seed=1" not in line for line in lines[1::2])
    assert "/run2/last.pt" in " ".join(lines[-1])
    refused = ran("run.dir=run2")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "four runs cannot share run.dir=run2" in refused.stderr


@pytest.mark.parametrize("sign", list('"$`\\,{}'))
def test_a_name_that_a_script_would_read_otherwise_is_refused(sign: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="in it; use letters, digits, spaces"):
        write_family(tmp_path / f"exp.a{sign}b", data_set(tmp_path / "data"))


def test_large_photos_are_shrunk_and_labels_serve_without_unlabelled_photos(tmp_path: Path) -> None:
    root = data_set(tmp_path / "data", width=900, height=700, unlabeled=0)
    assert main(["new", str(tmp_path / "exp.x"), "--data", str(root)]) == 0
    data = load(tmp_path / "exp.x/x1.resnet18_deeplabv3plus").data
    assert (data.short_side, data.crop_size, data.unlabeled) == (512, 512, "train")


def test_what_is_told_wins_over_what_is_looked_up(tmp_path: Path) -> None:
    root = data_set(tmp_path / "data", unlabeled=0)
    options = ["data.partition=2", "data.crop_size=32", "data.scales=1.0"]
    assert main(["new", str(tmp_path / "exp.x"), "--data", str(root), *options]) == 0
    data = load(tmp_path / "exp.x/x2.resnet18_deeplabv3plus").data
    assert (data.partition, data.crop_size, data.scales, data.unlabeled) == (2, 32, (1.0,), "")
    assert "crop_size=32,  # as told" in (tmp_path / "exp.x/family.py").read_text()


def test_a_family_trains_from_teachers_to_student_and_what_was_told_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = data_set(tmp_path / "data", unlabeled=0)
    for label in root.rglob("labels/*.png"):
        write_image(label, np.repeat(np.array([0, 255], np.uint8), 70 * 40).reshape(70, 80))
    assert main(["new", str(tmp_path / "exp.x"), "--data", str(root), "data.label_map=255=1"]) == 0
    for network in ("resnet101", "wresnet34", "resnet18"):
        folder = tmp_path / f"exp.x/x1.{network}_deeplabv3plus"
        assert load(folder).data.label_map == ("255=1",)
        assert main(["train", str(folder), *TINY]) == 0
    assert main(["evaluate", str(folder), *TINY]) == 0
    told = capsys.readouterr()
    assert "leaf" in told.out
    assert "overlap" not in told.err  # that photos serve twice is meant


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda root: (root / "classes.csv").unlink(), "classes.csv does not exist"),
        (
            lambda root: (root / "val").rename(root / "test"),
            "has no val.txt, or val/ with images/ and labels/; mgd prepare",
        ),
        (lambda root: (root / "train/labels/3.png").write_bytes(b""), "3.png cannot be decoded"),
        (lambda root: (root.parent / "exp.x/a").mkdir(parents=True), "exp.x is not empty; name a new folder"),
    ],
)
def test_a_family_of_a_broken_data_set_is_refused_and_not_begun(
    spoil, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(data_set(tmp_path / "data"))
    assert main(["new", str(tmp_path / "exp.x"), "--data", str(tmp_path / "data")]) == 2
    assert text in capsys.readouterr().err
    assert not list(tmp_path.glob("exp.x/*/config.py"))
