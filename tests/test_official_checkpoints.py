"""Official files: recognised, imported, evaluated and written back."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import facts, made_up, needs_golden, network, official_state
from helpers import differences, read, write_image, write_network
from official import State, hollow, prefixed, sentence, student_file, teacher_file, write

import mgd
from mgd.__main__ import main
from mgd.checkpoint import recognise, save
from mgd.config import MGD, Data, Experiment, Model
from mgd.errors import UserError
from mgd.models import build_model
from mgd.objectives import build_objective, load_teacher


@pytest.fixture(scope="module")
def resnet18() -> State:
    """Names of the official ResNet-18 file after `branch1.`; ours are the same (tests/test_parity_networks.py)."""
    return network("resnet18").state_dict()


@pytest.fixture(scope="module")
def small() -> State:
    """A network with a narrow head, for what does not depend on the architecture."""
    return network("mobilenet_v2", channels=16).state_dict()


@pytest.fixture(scope="module")
def mobilenet() -> State:
    """The same of MobileNetV2, with the ImageNet head that official files carry."""
    head = {f"backbone.classifier.1.{n}": made_up(n, s) for n, s in (("weight", (1000, 1280)), ("bias", (1000,)))}
    return {**network("mobilenet_v2").state_dict(), **head}


# --- recognition ---


@needs_golden
@pytest.mark.parametrize("backbone", ["resnet18", "resnet101", "wide_resnet50_2", "mobilenet_v2"])
@pytest.mark.parametrize("num_classes", [21, 19])
def test_architecture_and_class_count_are_told_by_names_and_shapes(backbone: str, num_classes: int) -> None:
    state = hollow(backbone)
    state["classifier.weight"] = torch.zeros(()).expand(num_classes, 256, 1, 1)
    found = recognise({"model": prefixed(state, "branch1.")}, "holiday.pth")
    assert found.arch == {"backbone": backbone, "num_classes": num_classes, "channels": 256, "output_stride": None}
    heads = set(facts(f"arch_{backbone}")["params_never_used_in_forward"])
    assert set(found.unused) == heads
    assert state.keys() - found.state.keys() == heads


WRAPPINGS: dict[str, Callable[[State], Any]] = {
    "teacher": teacher_file,
    "bare": lambda state: state,
    "bare, branch1": lambda state: prefixed(state, "branch1."),
    "model": lambda state: {"model": state},
    "model, branch1": lambda state: {"model": prefixed(state, "branch1.")},
    "state_dict, module": lambda state: {"state_dict": prefixed(state, "module.")},
    "model, module.branch1": lambda state: {"model": prefixed(state, "module.branch1.")},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_load_student_takes_every_official_layout(wrapping: str, small: State, tmp_path: Path) -> None:
    net = mgd.load_student(write(tmp_path / "any.name", WRAPPINGS[wrapping](small)))
    assert not net.training
    assert (net.num_classes, net.classes, net.arch["backbone"]) == (21, None, "mobilenet_v2")
    assert differences(net.state_dict(), small) == []
    assert net(torch.zeros(1, 3, 33, 49)).shape == (1, 21, 33, 49)


def test_files_of_old_pytorch_are_read(small: State, tmp_path: Path) -> None:
    path = write(tmp_path / "old.pth", teacher_file(small), _use_new_zipfile_serialization=False)
    assert differences(mgd.load_student(path).state_dict(), small) == []


@needs_golden
def test_an_official_student_is_its_first_branch(resnet18: State, tmp_path: Path) -> None:
    path = write(tmp_path / "s.pth", student_file(resnet18, hollow("wide_resnet50_2"), hollow("resnet101")))
    assert differences(mgd.load_student(path).state_dict(), resnet18) == []


def test_an_official_file_is_a_teacher_as_it_is(resnet18: State, tmp_path: Path) -> None:
    path = write(tmp_path / "teacher.pth", teacher_file(resnet18))
    config = Experiment(
        data=Data(root="unused"),
        model=Model(backbone="timm:test_resnet", pretrained=False, channels=16),
        method=MGD(deep_teacher=("absent.pth", str(path))),
    )
    assert build_objective(config, 21).teachers.keys() == {"deep"}
    assert differences(load_teacher(config, "deep", 21).state_dict(), resnet18) == []
    with pytest.raises(UserError, match=r"21 classes.*8"):
        build_objective(config, 8)


# --- import and back ---


def test_import_reports_what_it_did(resnet18: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "teacher-voc8.pth", teacher_file(resnet18))
    assert main(["import", str(path), "--as", "teacher", "--backbone", "resnet18"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines == {
        "file": str(path),
        "recognised": "resnet18, 21 classes, 256 channels in the head",
        "network": "branch1., one of 2",
        "matched": str(len(resnet18)),
        "renamed": f"{len(resnet18)} (a prefix taken off)",
        "unused": f"branch2.* ({len(resnet18)} tensors), optimizer_l, optimizer_r, epoch, iteration",
        "missing": "none",
        "written": str(tmp_path / "teacher-voc8.pt"),
    }
    assert differences(read(tmp_path / "teacher-voc8.pt")["model"], resnet18) == []


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet"])
def test_a_round_trip_is_bit_identical(backbone: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    state = request.getfixturevalue(backbone)
    official = write(tmp_path / "a.pth", teacher_file(state))
    ours, back = tmp_path / "ours.pt", tmp_path / "back.pth"
    assert main(["import", str(official), "--out", str(ours)]) == 0
    assert main(["import", str(ours), "--to-official", "--out", str(back)]) == 0
    returned, expected = read(back)["model"], prefixed(state, "branch1.")
    assert differences(returned, expected) == []
    assert all(returned[name].dtype == expected[name].dtype for name in expected)


def test_imagenet_heads_are_named_and_kept_apart(
    mobilenet: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "m.pth", {"model": prefixed(mobilenet, "branch1.")})
    assert main(["import", str(path)]) == 0
    assert "unused      backbone.classifier.1.weight, backbone.classifier.1.bias\n" in capsys.readouterr().out
    content = read(tmp_path / "m.pt")
    assert content["unused"].keys() == {"backbone.classifier.1.weight", "backbone.classifier.1.bias"}
    assert not content["unused"].keys() & content["model"].keys()
    assert mgd.load_student(tmp_path / "m.pt").state_dict().keys() == content["model"].keys()


@needs_golden
def test_a_teacher_is_taken_out_of_a_students_file(
    resnet18: State, mobilenet: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "s.pth", student_file(resnet18, mobilenet, hollow("resnet101")))
    assert main(["import", str(path), "--as", "teacher", "--backbone", "mobilev2"]) == 0
    assert "branch2., one of 3" in capsys.readouterr().out
    net = mgd.load_student(tmp_path / "s.branch2.pt")
    assert net.arch["backbone"] == "mobilenet_v2"
    assert differences(net.state_dict(), {n: mobilenet[n] for n in net.state_dict()}) == []
    said = sentence(capsys, "import", str(path), "--as", "teacher")
    assert "mobilenet_v2 (branch2) and resnet101 (branch3)" in said
    assert main(["import", str(path)]) == 0
    out = capsys.readouterr().out
    assert "branch1., one of 3" in out
    assert f"branch2.* ({len(mobilenet)} tensors), branch3.* ({len(hollow('resnet101'))} tensors)" in out


def test_a_file_that_is_there_is_kept(small: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.pt", teacher_file(small))
    before = path.read_bytes()
    assert "exists already" in sentence(capsys, "import", str(path))
    assert "exists already" in sentence(capsys, "import", str(path), "--out", str(path))
    assert path.read_bytes() == before


def test_our_own_network_comes_back_from_the_official_layout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = build_model("resnet18", 5, channels=16, output_stride=16)
    save(
        tmp_path / "r.pt", ours, classes=("a", "b", "c", "d", "e"), config=None, iteration=3, total=9, training={"x": 1}
    )
    assert main(["import", str(tmp_path / "r.pt"), "--to-official"]) == 0
    out = capsys.readouterr().out
    assert "unused      classes, training\n" in out
    assert "5 classes, 16 channels" in out
    back = mgd.load_student(tmp_path / "r.official.pth")
    assert differences(back.state_dict(), ours.state_dict()) == []


# --- evaluation ---


@pytest.fixture
def voc(tmp_path: Path) -> list[str]:
    """Overrides for a VOC of 3 validation images."""
    root, rng = tmp_path / "voc", np.random.default_rng(0)
    (root / "val").mkdir(parents=True)
    (root / "val.txt").write_text("".join(f"v{i}\n" for i in range(3)))
    for i in range(3):
        write_image(root / f"val/image/v{i}.jpg", rng.integers(0, 256, (40, 56, 3), dtype=np.uint8))
        label = rng.integers(0, 21, (40, 56), dtype=np.uint8)
        label[:4] = 255
        write_image(root / f"val/label/v{i}.png", label)
    return [f"data.root={root}", "data.crop_size=33", "data.workers=0", "run.device=cpu", "evaluate.pictures=1"]


@needs_golden
def test_an_official_file_and_its_import_are_evaluated_alike(tmp_path: Path, voc: list[str]) -> None:
    official = write(tmp_path / "student.pth", {"model": official_state("resnet18"), "epoch": 33})
    ours = tmp_path / "ours.pt"
    assert main(["import", str(official), "--out", str(ours)]) == 0
    reports = []
    for file in (official, ours):
        assert main(["evaluate", str(file), "--out", str(tmp_path / "report"), *voc]) == 0
        reports.append(json.loads((tmp_path / f"report/{file.stem}.json").read_text()))
    assert reports[0]["confusion"] == reports[1]["confusion"]
    assert np.sum(reports[0]["confusion"]) == 3 * 36 * 56
    assert reports[0]["config"]["data"]["classes"] == "voc"


def test_another_class_count_than_the_data_sets_is_one_sentence(
    tmp_path: Path, voc: list[str], capsys: pytest.CaptureFixture[str], small: State
) -> None:
    file = str(write(tmp_path / "s.pth", teacher_file(small)))
    said = sentence(capsys, "evaluate", file, *voc, "data.classes=city")
    assert "21 classes" in said
    assert "19" in said


def test_a_class_count_without_a_data_set_asks_for_a_config(
    tmp_path: Path, voc: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    said = sentence(capsys, "evaluate", str(write_network(tmp_path / "seven.pt", num_classes=7)), *voc)
    assert "7 classes" in said
    assert "config.py" in said
