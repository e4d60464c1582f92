"""Test evaluation: report, pictures, what it leaves alone, how processes share it."""

import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import broken_off, copy_of, differences, run_processes, train, write_config, write_image, write_network
from PIL import Image
from torch import Tensor

from mgd.__main__ import main
from mgd.checkpoint import save
from mgd.config import Data, Evaluate, Experiment, Model, Supervised, load, override, to_dict
from mgd.data.classes import Classes, read_classes
from mgd.data.datasets import open_val
from mgd.data.images import read_indices
from mgd.deploy.profile import evaluated_miou
from mgd.errors import UserError
from mgd.evaluate import Report, evaluate
from mgd.models import build_model
from mgd.models.folding import SEEN
from mgd.models.normalise import NormalisingNetwork
from mgd.objectives import load_teacher

COLOURS = ((200, 30, 30), (30, 200, 30), (30, 30, 200), (220, 220, 220))
CLASSES = Classes(("red", "green", "blue", "grey"), COLOURS)
CPU = torch.device("cpu")


class NearestColour(NormalisingNetwork):
    """Scores a pixel by how near its colour is to each class's."""

    def __init__(self) -> None:
        super().__init__()
        colours = self.normalise(torch.tensor(COLOURS, dtype=torch.uint8)[:, :, None, None])
        self.register_buffer("colours", colours)

    def forward(self, x: Tensor) -> Tensor:
        return -(x[:, None] - self.get_buffer("colours")[None]).square().sum(dim=2)


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images, a column of pixels for each class, of which the first three occur; the last column is ignored."""
    root = tmp_path_factory.mktemp("painted")
    table = np.array([*COLOURS], np.uint8)
    names = [f"image{i}" for i in range(5)]
    for i, name in enumerate(names):
        label = np.zeros((6 + i, 9), np.uint8)
        label[:, 3:6], label[:, 6:8], label[:, 8] = 1, 2, 255
        write_image(root / "val/image" / f"{name}.png", table[np.minimum(label, 3)])
        write_image(root / "val/label" / f"{name}.png", label)
    (root / "val.txt").write_text("".join(f"val/image/{n}.png\tval/label/{n}.png\n" for n in names))
    rows = [f"{i},{n},{r},{g},{b}" for i, (n, (r, g, b)) in enumerate(zip(CLASSES.names, COLOURS, strict=True))]
    (root / "classes.csv").write_text("\n".join(["index,name,red,green,blue", *rows]))
    return root


@pytest.fixture(scope="module")
def config(painted: Path) -> Experiment:
    return Experiment(
        data=Data(root=str(painted), crop_size=16, workers=0),
        model=Model(backbone="resnet18"),
        method=Supervised(),
        evaluate=Evaluate(pictures=2),
    )


def test_a_perfect_network_scores_one_and_absent_classes_are_left_out(config: Experiment) -> None:
    report = evaluate(NearestColour(), open_val(config.data), CLASSES, config, CPU)
    assert report.images == 5
    assert report.miou == 1.0
    rows = sum(6 + i for i in range(5))
    assert report.confusion.tolist() == torch.diag(torch.tensor([3 * rows, 3 * rows, 2 * rows, 0])).tolist()


def test_the_report_is_a_table_and_json_with_the_same_figures(tmp_path: Path) -> None:
    confusion = torch.tensor([[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]])
    report = Report(CLASSES, confusion, 7)
    report.write(tmp_path / "deep", "last", checkpoint="some.pt")
    table = [line.split() for line in (tmp_path / "deep/last.txt").read_text().splitlines()]
    assert table[:4] == [["red", "33.33"], ["green", "66.67"], ["blue", "50.00"], ["grey", "absent"]]
    assert table[-2:] == [["mIoU", "50.00"], ["pixel", "accuracy", "66.67"]]
    found = json.loads((tmp_path / "deep/last.json").read_text())
    assert found["miou"] == pytest.approx(0.5)
    assert found["pixel_accuracy"] == pytest.approx(4 / 6)
    assert found["iou"] == {"red": pytest.approx(1 / 3), "green": pytest.approx(2 / 3), "blue": 0.5, "grey": None}
    assert (found["images"], found["checkpoint"], found["confusion"]) == (7, "some.pt", confusion.tolist())


def test_pictures_show_photo_truth_and_prediction_in_the_classes_colours(config: Experiment, tmp_path: Path) -> None:
    items = open_val(config.data)
    evaluate(NearestColour(), items, CLASSES, config, CPU, pictures=tmp_path)
    written = sorted(tmp_path.rglob("*.png"))
    assert [path.parent.name for path in written] == [items[0].image.parent.name] * 2  # in folders as the photos are
    picture = np.asarray(Image.open(written[1]))
    assert picture.shape == (7, 27, 3)
    photo, truth, prediction = np.split(picture, 3, axis=1)
    assert np.array_equal(photo, np.asarray(Image.open(items[1].image)))
    assert truth[0].tolist() == [list(COLOURS[c]) for c in (0, 0, 0, 1, 1, 1, 2, 2)] + [[255, 255, 255]]
    assert prediction[0].tolist() == [list(COLOURS[c]) for c in (0, 0, 0, 1, 1, 1, 2, 2, 3)]


def test_labels_are_scored_in_their_own_size_when_photos_shrink(config: Experiment, painted: Path) -> None:
    small = Experiment(
        data=Data(root=str(painted), crop_size=16, short_side=3, workers=0),
        model=config.model,
        method=config.method,
    )
    report = evaluate(NearestColour(), open_val(small.data), CLASSES, small, CPU)
    whole = evaluate(NearestColour(), open_val(config.data), CLASSES, config, CPU)
    assert torch.equal(report.confusion.sum(dim=1), whole.confusion.sum(dim=1))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("training", [True, False])
def test_evaluation_changes_neither_the_network_nor_any_random_state(
    small_scenes: Path, workers: int, training: bool
) -> None:
    config = Experiment(
        data=Data(root=str(small_scenes), crop_size=32, workers=workers),
        model=Model(backbone="timm:test_resnet"),
        method=Supervised(),
    )
    network = build_model("timm:test_resnet", 8, channels=16).train(training)
    before = copy_of(network.state_dict())
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index]
    evaluate(network, open_val(config.data), read_classes("classes.csv", small_scenes), config, CPU)
    assert differences(before, network.state_dict()) == []
    assert all(module.training is training for module in network.modules())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]  # type: ignore[index]
    assert random.getstate() == states[2]


def test_scores_that_are_not_finite_name_the_image(config: Experiment) -> None:
    class Broken(NearestColour):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * float("nan")

    with pytest.raises(ValueError, match=r"not finite on .*image0.png"):
        evaluate(Broken(), open_val(config.data), CLASSES, config, CPU)


# The command


def test_a_checkpoint_is_scored_on_any_list_with_the_config_inside(small_scenes: Path, tmp_path: Path) -> None:
    run = train(tmp_path, small_scenes, "train.max_iterations=1")
    (tmp_path / "two.txt").write_text("scene_val_00002\nscene_val_00000\n")
    arguments = [f"data.val_list={tmp_path}/two.txt", "evaluate.mode=whole", "evaluate.pictures=1"]
    assert main(["evaluate", str(run / "last.pt"), *arguments]) == 0
    report = json.loads((run / "evaluation/last.json").read_text())
    assert (report["images"], report["config"]["evaluate"]["mode"]) == (2, "whole")
    assert [path.name for path in (run / "evaluation/last-pictures").iterdir()] == ["scene_val_00002.png"]


def test_a_config_scores_its_last_checkpoint_or_the_one_that_is_named(
    small_scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, small_scenes)
    assert main(["evaluate", str(config)]) == 2
    assert "last.pt does not exist: train it first" in capsys.readouterr().err
    train(tmp_path, small_scenes, "train.max_iterations=1")
    assert main(["evaluate", str(tmp_path)]) == 0
    other = write_network(tmp_path / "other.pt", num_classes=8)
    assert main(["evaluate", str(config), "--checkpoint", str(other), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "run/evaluation/last.json").is_file()
    assert json.loads((tmp_path / "out/other.json").read_text())["checkpoint"] == str(other)


def test_a_report_of_other_settings_that_is_replaced_is_told_and_is_no_score_of_the_run(
    small_scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = train(tmp_path, small_scenes, "train.max_iterations=1") / "last.pt"
    assert main(["evaluate", str(checkpoint)]) == 0
    score = evaluated_miou(checkpoint)
    assert score is not None
    capsys.readouterr()
    for words, told, kept in (
        ([], "", score),
        (["evaluate.scales=0.5,1"], "of evaluate.scales=[1.0], is replaced", None),
        (["evaluate.scales=0.5,1", "data.workers=1"], "", None),
        ([], "of evaluate.scales=[0.5, 1.0], is replaced", score),
    ):
        assert main(["evaluate", str(checkpoint), *words]) == 0
        out = capsys.readouterr().out
        assert told in out
        assert ("is replaced" in out) is bool(told)
        assert evaluated_miou(checkpoint) == kept


def test_a_report_of_other_photos_that_is_replaced_is_told(
    small_scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = train(tmp_path, small_scenes, "train.max_iterations=1") / "last.pt"
    shutil.copytree(small_scenes, tmp_path / "moved")
    assert main(["evaluate", str(checkpoint)]) == 0
    assert main(["evaluate", str(checkpoint), f"data.root={tmp_path / 'moved'}"]) == 0
    assert "is replaced" not in capsys.readouterr().out
    label = next((tmp_path / "moved/val/label").iterdir())
    write_image(label, np.zeros_like(read_indices(label)))
    assert main(["evaluate", str(checkpoint), f"data.root={tmp_path / 'moved'}"]) == 0
    assert "the report that was there, of other validation images, is replaced" in capsys.readouterr().out


def test_a_score_is_none_of_a_run_that_has_gone_on_since(
    small_scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = ("train.max_iterations=4", "run.save_every=1")
    with broken_off(at=2):
        main(["train", str(write_config(tmp_path, small_scenes)), *changes])
    checkpoint = tmp_path / "run/last.pt"
    assert main(["evaluate", str(checkpoint)]) == 0
    assert "is a run in the middle: iteration 2 of 4" in capsys.readouterr().err
    assert evaluated_miou(checkpoint) is not None
    train(tmp_path, small_scenes, *changes, "--resume")
    assert evaluated_miou(checkpoint) is None


def test_networks_are_compared_in_one_table_and_one_picture(
    small_scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(tmp_path, small_scenes, "train.max_iterations=1")
    other = write_network(tmp_path / "other.pt", num_classes=8)
    named = [f"trained:{run / 'last.pt'}", f"random:{other}"]
    out = tmp_path / "sheet.png"
    assert main(["compare", *named, "evaluate.mode=whole", "--out", str(out), "--images", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["trained", "random"]
    assert [line.split()[0] for line in lines[1:10]] == [*read_classes("classes.csv", small_scenes).names, "mIoU"]
    assert Image.open(out).width >= 4 * 64  # image, truth, two predictions


def test_each_network_of_a_comparison_sees_photos_of_the_size_that_it_was_trained_with(
    small_scenes: Path, tmp_path: Path
) -> None:
    runs = {
        name: train(tmp_path / name, small_scenes, "train.max_iterations=1", *changes)
        for name, changes in {"a": [], "b": ["data.short_side=32", "data.crop_size=24"]}.items()
    }
    alone = {}
    for name, run in runs.items():
        assert main(["evaluate", str(run / "last.pt")]) == 0
        alone[name] = json.loads((run / "evaluation/last.json").read_text())["miou"]
    words = [f"{name}:{run}/last.pt" for name, run in runs.items()]
    words += ["--out", str(tmp_path / "x.png"), "--json", str(tmp_path / "x.json")]

    def compared(*overrides: str) -> dict[str, float]:
        assert main(["compare", *words, *overrides]) == 0
        return {name: one["miou"] for name, one in json.loads((tmp_path / "x.json").read_text()).items()}

    assert compared() == alone
    assert compared("data.short_side=0", "data.crop_size=32")["b"] != alone["b"]


def test_a_change_of_the_network_is_held_against_each_that_is_compared(
    small_scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(tmp_path, small_scenes, "train.max_iterations=1")
    other = write_network(tmp_path / "other.pt", num_classes=8, channels=24)
    out = ["--out", str(tmp_path / "sheet.png")]
    assert main(["compare", f"a:{run}/last.pt", f"b:{other}", "model.channels=16", *out]) == 2
    assert f"model.channels=16: {other} holds a network with channels 24" in capsys.readouterr().err


@pytest.mark.parametrize("images", ["0", "-1"])
def test_a_comparison_of_no_images_is_refused(
    small_scenes: Path, tmp_path: Path, images: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", f"a:{tmp_path}/a.pt", "--images", images]) == 2
    assert f"--images {images}" in capsys.readouterr().err


def test_two_processes_give_the_report_of_one(small_scenes: Path, tmp_path: Path) -> None:
    run = train(tmp_path, small_scenes, "train.max_iterations=1")
    assert main(["evaluate", str(run / "last.pt"), "--out", str(tmp_path / "one")]) == 0
    run_processes(2, "evaluate", str(run / "last.pt"), "--out", str(tmp_path / "two"))
    one, two = (json.loads((tmp_path / name / "last.json").read_text()) for name in ("one", "two"))
    assert one == two
    pictures = [sorted(p.name for p in (tmp_path / name / "last-pictures").iterdir()) for name in ("one", "two")]
    assert pictures[0] == pictures[1] == [f"scene_val_0000{i}.png" for i in range(3)]


# Class names, labels without a class, names with folders, memory


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("red", "green", "grey", "blue"), "class 2 is 'grey' in the file and 'blue' in the data (the same names in"),
        (("red", "lime", "blue", "grey"), "class 1 is 'lime' in the file and 'green' in the data;"),
        (("sky", "tree", "road", "car"), "class 0 is 'sky' in the file and 'red' in the data;"),
    ],
)
def test_a_network_for_other_classes_is_refused_everywhere(
    names: tuple[str, ...], words: str, painted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "x.pt"
    save(file, build_model("timm:test_resnet", 4, channels=16), classes=names)
    path = write_config(tmp_path, painted)
    for arguments in (["evaluate", str(path), "--checkpoint", str(file)], ["compare", f"a:{file}", f"b:{file}"]):
        data = [] if arguments[0] == "evaluate" else None
        if data is None:  # a comparison takes its settings from the first file
            save(file, build_model("timm:test_resnet", 4, channels=16), classes=names, config=to_dict(load(path)))
        assert main(arguments) == 2
        assert words in capsys.readouterr().err
    with pytest.raises(UserError, match="trained for other classes"):
        load_teacher(
            override(load(path), ["method=mgd", f"method.deep_teacher={file}"]), "deep", 4, classes=CLASSES.names
        )
    save(file, build_model("timm:test_resnet", 4, channels=16), classes=CLASSES.names)
    assert main(["evaluate", str(path), "--checkpoint", str(file)]) == 0


def test_of_two_checkpoints_none_is_scored_in_the_others_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = (write_network(tmp_path / f"{name}.pt", num_classes=4) for name in "ab")
    assert main(["evaluate", str(one), "--checkpoint", str(other)]) == 2
    assert f"{one} is a checkpoint, {other} another: name one of the two" in capsys.readouterr().err


def test_labels_that_are_ignored_everywhere_are_no_silent_success(
    painted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "void.png", np.full((6, 9), 255, np.uint8))
    (tmp_path / "void.txt").write_text(f"val/image/image0.png\t{os.path.relpath(tmp_path / 'void.png', painted)}\n")
    file = tmp_path / "x.pt"
    save(file, build_model("timm:test_resnet", 4, channels=16), classes=CLASSES.names)
    command = [
        "evaluate",
        str(write_config(tmp_path, painted)),
        "--checkpoint",
        str(file),
        "--out",
        str(tmp_path / "o"),
    ]
    report = tmp_path / "x.json"
    assert main([*command, f"data.val_list={tmp_path}/void.txt", "--json", str(report)]) == 1
    told = capsys.readouterr()
    assert "ignored everywhere" in told.err
    assert "absent" in told.out
    for written in (report, tmp_path / "o/x.json"):
        assert json.loads(written.read_text(), parse_constant=lambda word: 1 / 0)["miou"] is None


def test_scores_of_images_come_in_the_lists_order_and_as_many_processes_as_there_are(
    small_scenes: Path, tmp_path: Path
) -> None:
    run = train(tmp_path, small_scenes, "train.max_iterations=1")
    run_processes(
        2, "evaluate", str(run / "last.pt"), "--out", str(tmp_path / "two"), "evaluate.metrics=iou,boundary_iou"
    )
    assert (
        main(["evaluate", str(run / "last.pt"), "--out", str(tmp_path / "one"), "evaluate.metrics=iou,boundary_iou"])
        == 0
    )
    one, two = ((tmp_path / name / "last-images.csv").read_text() for name in ("one", "two"))
    assert one == two
    assert [line.split(",")[0] for line in one.splitlines()[1:]] == [f"scene_val_0000{i}" for i in range(3)]
    scores = [json.loads((tmp_path / name / "last.json").read_text())["boundary_iou"] for name in ("one", "two")]
    assert scores[0] == scores[1]


def test_pictures_of_names_with_folders_lie_in_folders(config: Experiment, tmp_path: Path) -> None:
    items = [replace(item, name=f"seq{i}/0001") for i, item in enumerate(open_val(config.data)[:2])]
    evaluate(NearestColour(), items, CLASSES, config, CPU, pictures=tmp_path / "p")
    assert sorted(path.relative_to(tmp_path / "p").as_posix() for path in tmp_path.rglob("*.png")) == [
        "seq0/0001.png",
        "seq1/0001.png",
    ]
    with pytest.raises(UserError, match="would be written outside"):
        evaluate(NearestColour(), [replace(items[0], name="../x")], CLASSES, config, CPU, pictures=tmp_path / "p")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to "
                     "allocate 4294967296 bytes."),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 4.00 GiB. GPU 0 has ..."),
        MemoryError("Unable to allocate 4.00 GiB for an array"),
    ],
)  # fmt: skip
def test_memory_that_ends_is_a_sentence_that_names_the_image(error: Exception, config: Experiment) -> None:
    class Hungry(NearestColour):
        def forward(self, x: Tensor) -> Tensor:
            if x.shape[-1] != SEEN:
                raise error
            return super().forward(x)

    with pytest.raises(UserError, match=r"out of memory \(asked for 4\.00 GiB more\) on .*image0.png \(9x6\); use"):
        evaluate(Hungry(), open_val(config.data), CLASSES, config, CPU)


@pytest.mark.parametrize(("own", "expected"), [(0, 16), (24, 24)])
def test_a_window_is_the_evaluations_own_or_the_training_crop(config: Experiment, own: int, expected: int) -> None:
    class Noting(NearestColour):
        def forward(self, x: Tensor) -> Tensor:
            sizes.add(x.shape[-1])
            return super().forward(x)

    sizes: set[int] = set()
    how = replace(config, evaluate=replace(config.evaluate, crop_size=own))
    evaluate(Noting(), open_val(config.data), CLASSES, how, CPU)
    assert sizes - {SEEN} == {expected}


def test_another_error_stays_what_it_is(config: Experiment) -> None:
    class Wrong(NearestColour):
        def forward(self, x: Tensor) -> Tensor:
            if x.shape[-1] != SEEN:
                raise RuntimeError("sizes do not match")
            return super().forward(x)

    with pytest.raises(RuntimeError, match="sizes do not match"):
        evaluate(Wrong(), open_val(config.data), CLASSES, config, CPU)


def test_evaluation_needs_no_tensorboard() -> None:
    code = "import sys; sys.modules['tensorboard'] = None; import mgd.engine.log, mgd.commands.evaluate, mgd.evaluate"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1], timeout=100)
