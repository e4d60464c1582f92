"""What a run tells at its evaluations: classes, warnings, pseudo-labels where the truth is known."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from helpers import differences, read, train, write_config

from mgd.config import Data, load
from mgd.data.classes import BUILT_IN
from mgd.data.datasets import hidden_truth, open_splits
from mgd.engine.step import COMPILE
from mgd.engine.teachers import scored_teachers
from mgd.engine.watch import Counts, Watch, lost_classes, overtaken
from mgd.evaluate import Report
from mgd.models import build_model

CLASSES = replace(BUILT_IN["camvid"], names=tuple("abc"), colors=BUILT_IN["camvid"].colors[:3])


def test_accuracy_and_coverage_of_pseudo_labels_by_hand() -> None:
    counts = Counts(2, (0.8,))
    truth = torch.tensor([[0, 0, 1, 255]])
    p = torch.tensor([0.9, 0.7, 0.9, 0.9])  # of class 0: sure and right, unsure, sure and wrong, not known
    other = torch.tensor([0.9, 0.9, 0.1, 0.9])
    counts.add(
        truth, {"deep": torch.stack([p, 1 - p]).log()[:, None], "wide": torch.stack([other, 1 - other]).log()[:, None]}
    )
    found = counts.read(("sky", "road"))
    assert found["pseudo/deep/accuracy"] == pytest.approx(1 / 2)
    assert found["pseudo/deep/coverage"] == pytest.approx(2 / 3)
    assert found["pseudo/deep/accuracy/sky"] == pytest.approx(1 / 2)
    assert "pseudo/deep/accuracy/road" not in found  # it is never given
    assert found["pseudo/wide/accuracy"] == 1.0
    assert found["pseudo/wide/coverage/road"] == 1.0
    assert found["pseudo/agreement/deep-wide"] == pytest.approx(3 / 4)


def test_a_class_that_labels_hold_and_no_one_predicts_is_warned_of() -> None:
    confusion = torch.tensor([[5, 0, 0], [3, 0, 0], [0, 0, 0]])
    assert lost_classes(Report(CLASSES, confusion, 1)) == [
        "the student never predicts b, which the validation labels hold"
    ]
    assert lost_classes(Report(CLASSES, torch.eye(3, dtype=torch.int64), 1)) == []


def test_a_teacher_below_its_student_is_warned_of(tmp_path: Path) -> None:
    (tmp_path / "teacher-deep.json").write_text(json.dumps({"miou": 0.3, "end": "now"}))
    (tmp_path / "teacher-wide.json").write_text(json.dumps({"miou": 0.5}))  # of an older version
    teachers = scored_teachers(tmp_path, {"deep": "now", "wide": "now"})
    (text,) = overtaken(0.4, teachers)
    assert "overtaken the deep teacher (30.00 mIoU)" in text
    assert overtaken(0.2, teachers) == []
    assert scored_teachers(tmp_path, {"deep": "another", "wide": "now"}) == {"wide": 0.5}
    assert scored_teachers(tmp_path, {}) == {}  # of a run before this one


def test_the_hidden_truth_is_of_the_unlabelled_part_alone(small_scenes: Path) -> None:
    data = Data(root=str(small_scenes), train_list="train_aug.txt", partition=4)
    splits, hidden = open_splits(data), hidden_truth(data)
    assert [item.image for item in hidden] == [item.image for item in splits.unlabeled]
    assert all(item.label is not None and item.label.is_file() for item in hidden)
    assert all(item.label is None for item in splits.unlabeled)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_tells_every_class_its_pseudo_labels_and_panels_and_trains_the_same(
    small_scenes: Path, tmp_path: Path, teachers: list[str], precision: str
) -> None:
    options = [*teachers, "train.max_iterations=2", "evaluate.mode=whole", f"train.precision={precision}"]
    run = train(tmp_path / "watched", small_scenes, *options, "evaluate.watch=2", "evaluate.every=1")
    told = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (evaluation,) = [line for line in told if "miou" in line]
    assert [name for name in evaluation if name.startswith("iou/")]
    for name in ("student", "deep", "wide"):
        assert 0 <= evaluation[f"pseudo/{name}/accuracy"] <= 1
        assert evaluation[f"pseudo/{name}/coverage"] == 1.0  # without a threshold
    assert 0 <= evaluation["pseudo/agreement/student-deep"] <= 1
    assert len(list((run / "panels").iterdir())) == 3
    assert "WARNING: the student never predicts" in (run / "log.txt").read_text()
    plain = train(tmp_path / "plain", small_scenes, *options, "evaluate.every=0")
    states = [read(folder / "last.pt")["training"]["objective"] for folder in (run, plain)]
    assert differences(*states) == []


def test_pseudo_labels_are_watched_as_training_makes_them_however_photos_are_scored(
    small_scenes: Path, tmp_path: Path
) -> None:
    network, found = build_model("timm:test_resnet", 8, channels=16), []
    for scored in ([], ["evaluate.flip=true", "evaluate.scales=0.5,1.0"]):
        options = ["evaluate.watch=2", "evaluate.mode=whole", "method=mean_teacher", "method.confidence=0.15", *scored]
        config = load(write_config(tmp_path, small_scenes), options)
        watch = Watch(config, open_splits(config.data).classes, teachers={})
        found.append(watch.pseudo_labels({"student": network}, torch.device("cpu"), lambda: None))
    assert 0 < found[0]["pseudo/student/coverage"] < 1
    assert found[1] == pytest.approx(found[0], nan_ok=True)


def test_a_compiled_network_is_watched_without_being_compiled_for_every_size(
    small_scenes: Path, tmp_path: Path
) -> None:
    network, graphs = build_model("timm:test_resnet", 8, channels=16), []

    def count(graph: torch.fx.GraphModule, _: list) -> Callable:
        graphs.append(graph)
        return graph.forward

    for part in (network.backbone, network.head):
        part.compile(backend=count, **COMPILE)
    config = load(write_config(tmp_path, small_scenes), ["evaluate.watch=2", "method=mean_teacher"])
    found = Watch(config, open_splits(config.data).classes, teachers={}).pseudo_labels(
        {"student": network}, torch.device("cpu"), lambda: None
    )
    assert "pseudo/student/coverage" in found
    assert not graphs
    network(torch.zeros(2, 3, 64, 64))
    assert len(graphs) == 2  # it is compiled all the same


@pytest.mark.parametrize(
    ("options", "teacher"),
    [
        (["method=mean_teacher"], "teacher"),
        (["method=unimatch", "method.ema=0.9"], "teacher"),
        (["method=cps"], "peer"),
    ],
)
def test_a_network_that_learns_and_teaches_is_watched_and_trains_the_same(
    small_scenes: Path, tmp_path: Path, options: list[str], teacher: str
) -> None:
    options = [*options, "method.confidence=0.1", "train.max_iterations=4", "evaluate.mode=whole"]
    run = train(tmp_path / "watched", small_scenes, *options, "evaluate.watch=2", "evaluate.every=1")
    told = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    evaluations = [line for line in told if "miou" in line]
    assert len(evaluations) == 2  # 9 unlabelled photos // 4: the second one is in the middle
    assert all(f"pseudo/{teacher}/coverage" in line for line in evaluations)
    assert all(0 <= line[f"pseudo/agreement/student-{teacher}"] <= 1 for line in evaluations)
    plain = train(tmp_path / "plain", small_scenes, *options, "evaluate.every=0")
    states = [read(folder / "last.pt")["training"]["objective"] for folder in (run, plain)]
    assert differences(*states) == []


def test_two_processes_share_the_watched_photos_and_say_what_one_says(
    small_scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load(write_config(tmp_path, small_scenes), ["evaluate.watch=3", "evaluate.mode=whole"])
    watch = Watch(config, open_splits(config.data).classes, teachers={})
    networks = {name: build_model("timm:test_resnet", 8, channels=16) for name in ("deep", "wide")}
    seen, parts = [], [None, None]

    def gather(into: list[object], own: object) -> None:
        parts[dist.get_rank()] = copy.deepcopy(own)
        into[:] = parts if None not in parts else [own, own]

    def pseudo_labels() -> dict[str, float]:
        seen.append(0)
        return watch.pseudo_labels(networks, torch.device("cpu"), lambda: seen.append(seen.pop() + 1))

    alone = pseudo_labels()
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_gather_object", gather)
    for rank in (1, 0):
        monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
        found = pseudo_labels()
    assert found == pytest.approx(alone)
    assert seen == [3, 2, 2]  # before every photo, on both as often
