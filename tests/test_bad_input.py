"""Test bad input: every mistake ends in one sentence with the file and the remedy, status 2, and nothing lost."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import read, train, write_config, write_image, write_network
from PIL import Image

from mgd.__main__ import main
from mgd.config import Data, Experiment, Model, Supervised
from mgd.data.datasets import open_splits
from mgd.data.images import load_image
from mgd.data.samples import TrainingSamples
from mgd.errors import UserError
from mgd.student import load_student

COMMANDS = ["check", "fit", "train", "evaluate", "compare", "import", "prepare", "partition"]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def data(small_scenes: Path, tmp_path: Path) -> Path:
    """A copy of the scenes that a test may damage."""
    return Path(shutil.copytree(small_scenes, tmp_path / "data"))


def refused(capsys: Capture, *arguments: str, lines: int | None = 1) -> str:
    """Run a command that must refuse; returns its sentence. `lines` of stderr; None where a log comes before."""
    capsys.readouterr()
    assert main([*arguments]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    *before, sentence = error.splitlines()
    assert lines is None or len(before) == lines - 1, error
    assert sentence.startswith(f"mgd {arguments[0]}: ")
    return sentence


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def grow(path: Path) -> None:
    size = Image.open(path).size
    write_image(path, np.zeros((size[1] + 1, size[0]), np.uint8))


def misname(path: Path) -> None:
    label = np.array(Image.open(path))
    label[0, 0] = 77
    write_image(path, label)


LABEL, IMAGE = "train_aug/label/scene_00000.png", "train_aug/image/scene_00000.jpg"


# Met before anything is trained


def test_a_missing_folder(tmp_path: Path, capsys: Capture) -> None:
    config = write_config(tmp_path, tmp_path / "nowhere")
    sentence = refused(capsys, "train", str(config))
    assert str(tmp_path / "nowhere") in sentence
    assert "put the data there or set data.root" in sentence


@pytest.mark.parametrize("key", ["data.train_list", "data.val_list", "data.unlabeled"])
def test_a_missing_list(data: Path, tmp_path: Path, key: str, capsys: Capture) -> None:
    sentence = refused(capsys, "train", str(write_config(tmp_path, data)), f"{key}=lost.txt")
    assert f"{data}/lost.txt does not exist; " in sentence


def test_a_missing_class_table(data: Path, tmp_path: Path, capsys: Capture) -> None:
    sentence = refused(capsys, "train", str(write_config(tmp_path, data)), "data.classes=lost.csv")
    assert f"{data}/lost.csv does not exist: data.classes must be one of voc, city, camvid or" in sentence


def test_a_list_that_is_no_text(data: Path, tmp_path: Path, capsys: Capture) -> None:
    sentence = refused(capsys, "train", str(write_config(tmp_path, data)), f"data.train_list={IMAGE}")
    assert f"{data}/{IMAGE} cannot be read as text" in sentence
    assert "expected a UTF-8 text file" in sentence


def test_a_list_in_utf_16_without_its_mark(data: Path, tmp_path: Path, capsys: Capture) -> None:
    (data / "val.txt").write_bytes("scene_val_00000\n".encode("utf-16-le"))
    assert "val.txt holds zero bytes" in refused(capsys, "train", str(write_config(tmp_path, data)))


@pytest.mark.parametrize("name", [IMAGE, LABEL, "val/label/scene_val_00001.png"])
def test_a_name_without_its_file(data: Path, tmp_path: Path, name: str, capsys: Capture) -> None:
    (data / name).unlink()
    sentence = refused(capsys, "train", str(write_config(tmp_path, data)))
    assert f"names 1 files that do not exist: {data / name}; put them there or take them out" in sentence


def test_an_empty_list(data: Path, tmp_path: Path, capsys: Capture) -> None:
    (data / "train_aug.txt").write_text("\n")
    sentence = refused(capsys, "train", str(write_config(tmp_path, data)))
    assert f"{data}/train_aug.txt is empty; it should list one image a line" in sentence


def test_an_empty_unlabelled_part(data: Path, tmp_path: Path, capsys: Capture) -> None:
    arguments = ["method=cps", "data.partition=1"]
    sentence = refused(capsys, "train", str(write_config(tmp_path, data)), *arguments)
    assert "data.partition=1 leaves 0 unlabelled images" in sentence
    assert "choose a greater partition, name photos in data.unlabeled, or set method=supervised" in sentence


def test_an_empty_partition_list_of_the_user(data: Path, tmp_path: Path, capsys: Capture) -> None:
    (data / "labeled-4.txt").write_text("")
    (data / "unlabeled-4.txt").write_text("scene_00001\n")
    arguments = ["data.partition_lists={part}-{ratio}.txt"]
    sentence = refused(capsys, "train", str(write_config(tmp_path, data)), *arguments)
    assert f"{data}/labeled-4.txt is empty" in sentence


def test_an_empty_folder_of_photos(data: Path, tmp_path: Path, capsys: Capture) -> None:
    (data / "photos").mkdir()
    sentence = refused(capsys, "train", str(write_config(tmp_path, data)), "data.unlabeled=photos")
    assert f"{data}/photos has no image" in sentence


def test_a_batch_of_one(data: Path, tmp_path: Path, capsys: Capture) -> None:
    sentence = refused(capsys, "train", str(write_config(tmp_path, data)), "train.batch_size=1")
    assert "train.batch_size=1" in sentence
    assert "use a larger batch" in sentence


@pytest.mark.parametrize("backbone", ["resnet19", "timm:no_such_model"])
def test_an_unknown_backbone(data: Path, tmp_path: Path, backbone: str, capsys: Capture) -> None:
    sentence = refused(capsys, "train", str(write_config(tmp_path, data)), f"model.backbone={backbone}")
    assert backbone in sentence


def test_a_run_folder_that_cannot_be_made(data: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").write_text("in the way")
    sentence = refused(capsys, "train", str(write_config(tmp_path, data)), f"run.dir={tmp_path}/file/run")
    assert f"run.dir={tmp_path}/file/run cannot be written to" in sentence
    assert "choose another run.dir" in sentence


def test_a_mistyped_key_or_value(data: Path, tmp_path: Path, capsys: Capture) -> None:
    config = str(write_config(tmp_path, data))
    assert "train.lrr is not a key of this config; did you mean train.lr?" in refused(
        capsys, "train", config, "train.lrr=1"
    )
    sentence = refused(capsys, "train", config, "trian.lr=1")
    assert "trian.lr is not a key of this config; did you mean train?" in sentence
    assert "train.lr=fast must be a finite number" in refused(capsys, "train", config, "train.lr=fast")
    assert not (tmp_path / "run").exists()


def test_a_folder_of_experiments_is_told_what_is_in_it(data: Path, tmp_path: Path, capsys: Capture) -> None:
    write_config(tmp_path / "one", data)
    assert f"name an experiment's config.py or its folder, such as {tmp_path}/one" in refused(
        capsys, "train", str(tmp_path)
    )


# Broken files, met while they are read: by the process itself or by a loader's worker


@pytest.mark.parametrize(
    ("damage", "name", "workers", "words"),
    [
        (cut, IMAGE, 0, ["cannot be decoded", "replace the file or take it out of the list"]),
        (cut, IMAGE, 1, ["cannot be decoded", "replace the file or take it out of the list"]),
        (cut, LABEL, 0, ["cannot be decoded", "replace the file"]),
        (grow, LABEL, 0, [IMAGE, "64x49", "64x48", "replace one of them"]),
        (misname, LABEL, 0, ["holds the label value 77, expected 0..7 or 255", "data.ignore_values"]),
    ],
)
def test_a_broken_file_in_training_is_named(
    data: Path,
    tmp_path: Path,
    damage: Callable[[Path], None],
    name: str,
    workers: int,
    words: list[str],
    capsys: Capture,
) -> None:
    damage(data / name)
    # A single labelled image: it is read at once.
    arguments = ["data.partition=12", f"data.workers={workers}"]
    sentence = refused(capsys, "train", str(write_config(tmp_path, data)), *arguments, lines=None)
    assert all(word in sentence for word in [str(data / name), *words]), sentence


def test_a_broken_validation_image_is_named(data: Path, tmp_path: Path, capsys: Capture) -> None:
    network = write_network(tmp_path / "some.pt", num_classes=8)
    cut(data / "val/image/scene_val_00001.jpg")
    arguments = ["--checkpoint", str(network), "evaluate.mode=whole"]
    sentence = refused(capsys, "evaluate", str(write_config(tmp_path, data)), *arguments)
    assert f"{data}/val/image/scene_val_00001.jpg cannot be decoded" in sentence


def test_files_cut_at_any_length_are_refused(data: Path, tmp_path: Path) -> None:
    for name in (IMAGE, LABEL):
        whole = (data / name).read_bytes()
        # The last bytes of a PNG are checksums and an end mark: without them every pixel is still there.
        for length in range(0, len(whole) - 24, max(1, len(whole) // 40)):
            (tmp_path / "part").write_bytes(whole[:length])
            with pytest.raises(UserError, match="cannot be decoded"):
                load_image(tmp_path / "part")


def test_a_run_that_dies_of_a_broken_image_keeps_what_it_saved(data: Path, tmp_path: Path, capsys: Capture) -> None:
    """The first iteration reads whole images and is saved; the second reads a broken one."""
    config = Experiment(
        data=Data(root=str(data), train_list="train_aug.txt", partition=1),
        model=Model(backbone="resnet18"),
        method=Supervised(),
    )
    samples = TrainingSamples(open_splits(config.data), config)
    first, second = ({name for p in range(4 * i, 4 * i + 4) for name in samples.names(p)} for i in range(2))
    cut(data / f"train_aug/image/{min(second - first)}.jpg")
    arguments = ["data.partition=1", "run.save_every=1"]
    refused(capsys, "train", str(write_config(tmp_path, data)), *arguments, lines=None)
    assert read(tmp_path / "run/last.pt")["iteration"] == 1
    load_student(tmp_path / "run/last.pt", num_classes=8)


# Checkpoints


class Harm:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_network(tmp_path / "some.pt", num_classes=8)


def score(data: Path, tmp_path: Path, file: Path) -> list[str]:
    return ["evaluate", str(write_config(tmp_path, data)), "--checkpoint", str(file)]


def test_a_missing_checkpoint(data: Path, tmp_path: Path, capsys: Capture) -> None:
    for arguments in (score(data, tmp_path, tmp_path / "lost.pt"), ["evaluate", str(tmp_path / "lost.pt")]):
        assert f"{tmp_path}/lost.pt does not exist" in refused(capsys, *arguments)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_checkpoint(data: Path, tmp_path: Path, checkpoint: Path, share: float, capsys: Capture) -> None:
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: int(share * len(whole))])
    for arguments in (score(data, tmp_path, checkpoint), ["evaluate", str(checkpoint)]):
        assert str(checkpoint) in refused(capsys, *arguments)


def test_a_checkpoint_of_another_architecture(data: Path, tmp_path: Path, checkpoint: Path, capsys: Capture) -> None:
    torch.save({"model": {"branch1.fc.weight": torch.zeros(3, 3)}}, checkpoint)
    assert str(checkpoint) in refused(capsys, *score(data, tmp_path, checkpoint))
    content = read(write_network(checkpoint, num_classes=8))
    content["model"].pop("classifier.bias")
    torch.save(content, checkpoint)
    sentence = refused(capsys, *score(data, tmp_path, checkpoint))
    assert str(checkpoint) in sentence
    assert "classifier.bias" in sentence


def test_a_checkpoint_of_another_class_count(data: Path, tmp_path: Path, capsys: Capture) -> None:
    other = write_network(tmp_path / "other.pt", num_classes=5)
    sentence = refused(capsys, *score(data, tmp_path, other))
    assert f"{other} was trained for 5 classes, data.classes=classes.csv has 8" in sentence
    assert "set data.root and data.classes" in sentence
    teach = ["method=mgd", f"method.deep_teacher={other}"]
    sentence = refused(capsys, "train", str(write_config(tmp_path, data)), *teach)
    assert f"{other} was trained for 5 classes" in sentence


def test_a_change_of_the_network_that_is_scored(data: Path, tmp_path: Path, checkpoint: Path, capsys: Capture) -> None:
    config = score(data, tmp_path, checkpoint)
    own = read(checkpoint)["arch"]
    own |= {"output_stride": 16, "decoder_stride": 4}  # not named in the file: the published ones
    changes = {"backbone": "resnet50", "head": "lraspp", "channels": own["channels"] + 1}
    for name, value in (changes | {"output_stride": 32, "decoder_stride": 8}).items():
        sentence = refused(capsys, *config, f"model.{name}={value}")
        assert f"model.{name}={value}: {checkpoint} holds a network with {name} {own[name]}" in sentence
    same = [f"model.{name}={own[name]}" for name in (*changes, "output_stride", "decoder_stride")]
    assert main([*config, *same, "--out", str(tmp_path / "out")]) == 0  # as script.sh hands its changes to both


def test_a_checkpoint_that_wants_to_run_code_is_refused_and_runs_none(
    data: Path, tmp_path: Path, capsys: Capture
) -> None:
    harm, proof = tmp_path / "harm.pt", tmp_path / "proof"
    torch.save({"model": Harm(proof)}, harm)
    assert f"{harm} wants to run " in refused(capsys, *score(data, tmp_path, harm))
    harm.write_bytes(pickle.dumps({"model": Harm(proof)}))
    assert str(harm) in refused(capsys, "evaluate", str(harm))
    assert not proof.exists()


def test_a_missing_teacher_says_what_to_run_first(data: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/script.sh").write_text("")
    files = f"official.pth,{tmp_path}/deep/run/last.pt"
    config = str(write_config(tmp_path, data))
    sentence = refused(capsys, "train", config, "method=mgd", f"method.deep_teacher={files}")
    assert "method.deep_teacher" in sentence
    assert f"train it first: bash {tmp_path}/deep/script.sh" in sentence


def test_a_damaged_run_is_not_gone_on_with(data: Path, tmp_path: Path, capsys: Capture) -> None:
    run = train(tmp_path, data, "train.max_iterations=1")
    cut(run / "last.pt")
    sentence = refused(capsys, "train", str(tmp_path), "train.max_iterations=1", "--resume")
    assert str(run / "last.pt") in sentence


# The commands themselves


def test_debug_raises_what_is_otherwise_a_sentence_from_a_worker_too(data: Path, tmp_path: Path) -> None:
    cut(data / IMAGE)
    config = str(write_config(tmp_path, data))
    with pytest.raises(UserError, match="cannot be decoded"):
        main(["train", config, "data.partition=12", "data.workers=1", "--debug"])


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_a_screen(command: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"usage: mgd {command}")
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80


def test_the_help_lists_every_command(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert all(f"    {command}" in text for command in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["paint"], "paint"),
        ([], "COMMAND"),
        (["train"], "config"),
        (["train", "config.py", "--fast"], "--fast"),
        (["prepare", "camvid", "--source", "x", "train.lr=1"], "train.lr=1"),
        (["check", "config.py", "--sheet", "sheet.jpg"], "sheet.jpg: pictures are PNG files; name it sheet.png"),
        (["compare", "a:a.pt", "--out", "a"], "name it a.png"),
        (["benchmark", "a.onnx", "--picture", "a.pdf"], "name it a.png"),
        (["profile", "resnet18", "--plot", "a.svg"], "name it a.png"),
    ],
)
def test_an_unknown_command_or_option_is_refused(arguments: list[str], word: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert word in capsys.readouterr().err


@pytest.mark.parametrize("named", ["student", "student:", ":last.pt", "evaluate.mode=whole"])
def test_a_network_to_compare_needs_a_name_and_a_file(named: str, capsys: Capture) -> None:
    assert "such as student:exp.demo" in refused(capsys, "compare", named)
