"""Test weights that leave as safetensors, and the folder for the Hugging Face Hub. No test needs a network."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import train
from safetensors.torch import load_file, save_file

import mgd
from mgd.__main__ import main
from mgd.config import MGD
from mgd.deploy.benchmark import benchmark
from mgd.deploy.profile import open_network
from mgd.deploy.source import open_source
from mgd.errors import UserError
from mgd.evaluate import open_target
from mgd.objectives import find_teacher
from mgd.report.runs import Run, teachers_of, with_teachers

PHOTO = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def run(small_scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = train(tmp_path_factory.mktemp("weights") / "exp", small_scenes, "train.max_iterations=1")
    (folder / "evaluation").mkdir(exist_ok=True)
    (folder / "evaluation/last.json").write_text(json.dumps({"miou": 0.1234}))
    return folder


@pytest.fixture(scope="module")
def file(run: Path) -> Path:
    out = run / "student.safetensors"
    assert main(["export", str(run / "last.pt"), "--format", "safetensors", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def hub(run: Path) -> Path:
    pytest.importorskip("huggingface_hub")
    assert main(["export", str(run / "last.pt"), "--format", "hub", "--out", str(run / "hub")]) == 0
    return run / "hub"


def test_safetensors_hold_the_network_its_classes_colours_and_config(run: Path, file: Path) -> None:
    before, after = open_source(run / "last.pt"), open_source(file)
    assert after.classes == before.classes
    assert after.config == before.config
    assert after.network.arch == before.network.arch
    expected = before.network.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in load_file(file).items())
    assert np.array_equal(mgd.load_student(file).predict(PHOTO), before.network.predict(PHOTO))


def test_safetensors_with_damaged_metadata_are_a_sentence(file: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.safetensors"
    save_file(load_file(file), broken, {"mgd": "{"})
    with pytest.raises(UserError, match="damaged metadata"):
        mgd.load_student(broken)


def test_a_hub_folder_is_read_by_from_pretrained_and_by_load_student(run: Path, hub: Path) -> None:
    from mgd.deploy.hub import HubStudent

    expected = mgd.load_student(run / "last.pt").predict(PHOTO)
    student = HubStudent.from_pretrained(hub)
    assert student.source.classes == open_source(run / "last.pt").classes
    assert np.array_equal(student.predict(PHOTO), expected)
    assert np.array_equal(mgd.load_student(hub).predict(PHOTO), expected)


def test_a_repository_that_was_downloaded_keeps_its_name(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    from mgd.deploy.hub import HubStudent

    cached = shutil.copytree(hub, tmp_path / "snapshots/0123456789abcdef")
    find = lambda filename, **_: str(cached / filename)  # noqa: E731
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", find)
    monkeypatch.setattr("huggingface_hub.hub_mixin.hf_hub_download", find)
    card = HubStudent.from_pretrained("someone/leaves").generate_model_card()
    assert card.data.model_name == "leaves"
    assert "0123456789abcdef" not in str(card).split("## Training")[0]


def test_a_hub_folder_is_a_checkpoint_to_every_command(run: Path, hub: Path, tmp_path: Path) -> None:
    words = {
        "evaluate": [hub, "--out", tmp_path / "evaluation"],
        "compare": [f"a:{hub}", f"b:{run}/last.pt", "--out", tmp_path / "x.png"],
        "export": [hub, "--format", "torchscript", "--size", "48x64", "--out", tmp_path / "x.torchscript"],
        "profile": [hub, "--size", "64", "--modes", "eager", "--seconds", "0"],
    }
    for command, arguments in words.items():
        assert main([command, *map(str, arguments)]) == 0, command
    card = json.loads((tmp_path / "x.torchscript.json").read_text())
    assert card["checkpoint"]["name"] == "model.safetensors"
    assert find_teacher((str(tmp_path / "none.pt"), str(hub)), "deep") == hub / "model.safetensors"
    (hub / "config.py").write_text((run.parent / "config.py").read_text())
    assert open_target(hub, [f"run.dir={run}"])[2] == run / "last.pt"  # an experiment's folder is its experiment
    (hub / "config.py").unlink()
    rows = benchmark([hub, tmp_path / "x.torchscript"], threads=(1,), runs=1)
    assert [row.name for row in rows] == ["model.safetensors (PyTorch)", "x.torchscript"]


def test_a_hub_folder_is_told_of_as_its_file_is(run: Path, hub: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(hub, tmp_path / "hub")
    (copied / "evaluation").mkdir()
    (copied / "evaluation/model.json").write_text(json.dumps({"miou": 0.5}))
    assert open_network(str(copied), 21)[1] == 0.5
    source = open_source(run / "last.pt")
    assert source.config is not None
    taught = replace(source, config=replace(source.config, method=MGD(deep_teacher=("gone.pt", str(copied)))))
    student = Run("student", run / "last.pt", taught, "", [], {})
    assert teachers_of(student) == {"T_D": copied / "model.safetensors"}
    assert [one.name for one in with_teachers([student])] == ["student's T_D", "student"]


def test_a_model_card_tells_score_classes_and_the_command(run: Path, hub: Path) -> None:
    from huggingface_hub import ModelCard

    card = ModelCard.load(hub / "README.md")
    assert card.data.pipeline_tag == "image-segmentation"
    assert [result.metric_value for result in card.data.eval_results] == [0.1234]
    for text in ("mIoU 12.34 %", *open_source(run / "last.pt").classes.names, "1/4 of the training", "python -m mgd"):
        assert text in card.text
    config = json.loads((hub / "config.json").read_text())
    assert config["id2label"]["0"] == open_source(run / "last.pt").classes.names[0]


def test_a_hub_folder_is_whole_or_not_there(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a config.json of another program, and where the model card cannot be written."""
    pytest.importorskip("huggingface_hub")
    source = shutil.copytree(run, tmp_path / "run")
    (source / "config.json").write_text("[]")
    arguments = ["export", str(source / "last.pt"), "--format", "hub", "--out"]
    assert main([*arguments, str(tmp_path / "hub")]) == 0
    assert {"README.md", "config.json", "model.safetensors"} <= {file.name for file in (tmp_path / "hub").iterdir()}

    def full(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("mgd.deploy.hub.HubStudent.generate_model_card", full)
    assert main([*arguments, str(tmp_path / "other")]) == 2
    assert sorted(file.name for file in tmp_path.iterdir()) == ["hub", "run"]


def test_a_hub_folder_that_has_something_in_it_is_kept(
    run: Path, hub: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (hub / "README.md").read_bytes()
    assert main(["export", str(run / "last.pt"), "--format", "hub", "--out", str(hub)]) == 2
    assert "is not an empty folder" in capsys.readouterr().err
    assert (hub / "README.md").read_bytes() == before
