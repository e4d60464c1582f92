"""Files that are no checkpoint, or do not fit: refused in one sentence, and nothing in them runs."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import network
from helpers import write_network
from official import State, sentence, teacher_file, write

import mgd
from mgd.checkpoint import save
from mgd.config import Data, Experiment, Model, Supervised, to_dict
from mgd.convert import convert
from mgd.deploy.source import open_source
from mgd.errors import UserError
from mgd.evaluate import open_target
from mgd.models import build_model


@pytest.fixture(scope="module")
def small() -> State:
    """An official file's network, with a narrow head."""
    return network("mobilenet_v2", channels=16).state_dict()


class RunsCode:
    """Writes a file when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch code_ran",)


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "zip.pth", {"model": RunsCode()})
    write(tmp_path / "legacy.pth", {"model": RunsCode()}, _use_new_zipfile_serialization=False)
    for protocol in (2, 5):
        (tmp_path / f"plain{protocol}.pth").write_bytes(pickle.dumps({"model": RunsCode()}, protocol=protocol))
    for file in ("zip.pth", "legacy.pth", "plain2.pth", "plain5.pth"):
        for command in ("import", "evaluate"):
            said = sentence(capsys, command, file)
            assert file in said
            assert "refused" in said
            assert "expected a file of tensors" in said
    assert "system" in sentence(capsys, "import", "zip.pth")
    assert not (tmp_path / "code_ran").exists()


def test_numpy_numbers_beside_the_tensors_are_harmless(small: State, tmp_path: Path) -> None:
    content = teacher_file(small) | {"best": np.float64(0.7), "seen": np.int64(5)}
    assert mgd.load_student(write(tmp_path / "n.pth", content)).num_classes == 21


BROKEN: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "text": (lambda _: b"hello, this is text\n", "begins with b'hello"),
    "page": (lambda _: b"<!DOCTYPE html>", "begins with b'<!DOCTYPE"),
    "empty": (lambda _: b"", "is empty"),
    "truncated": (lambda whole: whole[: len(whole) // 2], "truncated"),
    "almost whole": (lambda whole: whole[:-20], "truncated"),
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_is_no_checkpoint_is_one_sentence(
    kind: str, zipped: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, expected = BROKEN[kind]
    path = write(tmp_path / "x.pth", {"model": {"a": torch.ones(1000)}}, _use_new_zipfile_serialization=zipped)
    path.write_bytes(make(path.read_bytes()))
    said = sentence(capsys, "import", str(path))
    assert expected in said
    assert str(path) in said


@pytest.mark.parametrize("seed", range(30))
def test_random_bytes_are_one_sentence(seed: int, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(np.random.default_rng(seed).bytes(400))
    with pytest.raises(UserError, match=r"x\.pth"):
        mgd.load_student(path)


def test_truncated_anywhere_an_old_file_is_one_sentence(tmp_path: Path) -> None:
    path = write(tmp_path / "x.pth", {"model": {"a": torch.ones(5)}}, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"x\.pth"):
            mgd.load_student(path)


def test_a_zip_that_torch_did_not_write_and_a_folder_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "x.npz", a=np.ones(3))
    assert "zip" in sentence(capsys, "import", str(tmp_path / "x.npz"))
    assert "is a folder" in sentence(capsys, "import", str(tmp_path))
    assert "does not exist" in sentence(capsys, "import", str(tmp_path / "nothing.pth"))


def without(state: State, name: str) -> State:
    return {key: tensor for key, tensor in state.items() if key != name}


UNFIT: dict[str, tuple[Callable[[State], Any], str]] = {
    "no tensors": (lambda _: {"model": {}, "epoch": 3}, "0 tensors"),
    "a list": (lambda _: [1, 2], "0 tensors"),
    "another network": (lambda _: {"encoder.weight": torch.ones(3)}, "unknown architecture, first encoder.weight"),
    "another backbone": (
        lambda s: {n: t for n, t in s.items() if not n.startswith("backbone.features.17.")},
        "backbone of an unknown architecture",
    ),
    "a missing tensor": (lambda s: without(s, "head.aspp.map_bn.bias"), "lacks 1 of .* first head.aspp.map_bn.bias"),
    "a missing classifier": (lambda s: without(s, "classifier.weight"), "expected classifier.weight"),
    "an unknown tensor": (lambda s: {**s, "head.extra": torch.ones(1)}, "has unknown 1 .* head.extra"),
    "another shape": (lambda s: {**s, "classifier.bias": torch.ones(3)}, "other shapes for 1 .* classifier.bias"),
    "a broken file of ours": (lambda _: {"format": "mgd-1"}, "ours|our format|lacks arch"),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_what_does_not_fit_is_named(kind: str, small: State, tmp_path: Path) -> None:
    make, expected = UNFIT[kind]
    path = write(tmp_path / "x.pth", make(small))
    with pytest.raises(UserError, match=f"x.pth.*({expected})"):
        convert(path, out=None, role="student", backbone="", official=False)
    with pytest.raises(UserError, match=r"x\.pth"):
        mgd.load_student(path)
    assert [file.name for file in tmp_path.iterdir()] == ["x.pth"]


def test_another_backbone_than_asked_for_is_refused(
    small: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(write(tmp_path / "x.pth", teacher_file(small)))
    assert "holds a mobilenet_v2 network, expected resnet101" in sentence(
        capsys, "import", path, "--backbone", "resnet101"
    )
    weights = str(write(tmp_path / "w.pth", network("mobilenet_v2", channels=16).backbone.state_dict()))
    said = sentence(capsys, "import", weights, "--backbone", "wresnet34")
    assert "holds a mobilenet_v2 backbone, expected wide_resnet50_2" in said


def test_only_official_networks_are_written_in_the_official_layout(
    small: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    official = str(write(tmp_path / "x.pth", teacher_file(small)))
    assert "not in our format" in sentence(capsys, "import", official, "--to-official")
    timm = str(write_network(tmp_path / "timm.pt", num_classes=5))
    assert "timm:test_resnet at output stride 16" in sentence(capsys, "import", timm, "--to-official")
    save(tmp_path / "m.pt", build_model("mobilenet_v2", 5, channels=16, output_stride=16))
    assert "mobilenet_v2 (32)" in sentence(capsys, "import", str(tmp_path / "m.pt"), "--to-official")
    assert "already" in sentence(capsys, "import", timm)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_a_byte_that_has_changed_in_a_file_of_ours_is_noticed(share: float, tmp_path: Path) -> None:
    save(tmp_path / "n.pt", build_model("timm:test_resnet", 3, channels=16))
    content = bytearray((tmp_path / "n.pt").read_bytes())
    content[round(share * len(content))] ^= 1
    (tmp_path / "n.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"n\.pt is damaged: .* is not what was written; copy it again"):
        mgd.load_student(tmp_path / "n.pt")


@pytest.mark.parametrize("part", ["model", "config"])
def test_what_is_no_dict_in_a_file_of_ours_is_one_sentence(part: str, tmp_path: Path) -> None:
    save(tmp_path / "n.pt", build_model("timm:test_resnet", 3, channels=16))
    torch.save(torch.load(tmp_path / "n.pt", weights_only=True) | {part: "text"}, tmp_path / "n.pt")
    with pytest.raises(UserError, match=r"n\.pt says it is mgd-1 but its model or config is no dict"):
        mgd.load_student(tmp_path / "n.pt")


CONFIG = to_dict(Experiment(data=Data(root=""), model=Model(backbone="resnet18"), method=Supervised()))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"config": {}}, "has a config that cannot be read: KeyError"),
        ({"config": CONFIG | {"method": {}}}, "has a config that cannot be read: KeyError"),
        ({"config": CONFIG | {"data": {}}}, "has a config that cannot be read: TypeError.*root"),
        ({"config": CONFIG | {"more": {}}}, "has a config that cannot be read: more is not a section"),
        ({"config": CONFIG | {"data": 3}}, "its model or config is no dict"),
        ({"classes": ("a", "b")}, r"has the classes \('a', 'b'\) for a network of 3; save it again"),
        ({"classes": 3}, "has the classes 3 for a network of 3; save it again"),
        ({"colors": [[1, 2, 3]] * 2}, r"has the colors \[\[1, 2, 3\], .* for each of 3 classes: save it again"),
        ({"colors": [[1, 2, 256]] * 3}, "expected red, green and blue of 0 to 255"),
        ({"colors": ["red"] * 3}, "expected red, green and blue of 0 to 255"),
        ({"colors": 3}, "has the colors 3; expected red"),
    ],
)
def test_a_config_or_classes_that_are_not_what_mgd_writes_are_one_sentence(
    changed: dict[str, Any], words: str, tmp_path: Path
) -> None:
    save(tmp_path / "n.pt", build_model("timm:test_resnet", 3, channels=16))
    torch.save(torch.load(tmp_path / "n.pt", weights_only=True) | changed, tmp_path / "n.pt")
    for opened in (open_source, open_target):
        with pytest.raises(UserError, match=rf"n\.pt .*{words}"):
            opened(tmp_path / "n.pt")
