"""Sweeps: what a file may say, the order of runs, failures, kills, tables and what they allow to say."""

import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import BACKBONE, CROP

from mgd.__main__ import main
from mgd.config import load, to_dict
from mgd.data.datasets import open_splits
from mgd.engine.inputs import data_of
from mgd.errors import UserError
from mgd.statistics import Difference, paired_difference, spread, verdict
from mgd.study.plan import plan
from mgd.study.run import Workers, _acquired, locked
from mgd.study.slurm import generations
from mgd.study.sweep import load_sweep
from mgd.study.table import Result, compare_with, markdown
from mgd.weights import end_of

SWEEP = f'''
from mgd.config import *
from mgd.study import Row, Sweep

base = Experiment(
    data=Data(root="ROOT", train_list="train_aug.txt", partition=4, crop_size={CROP}, workers=0),
    model=Model(backbone="{BACKBONE}", pretrained=False, channels=16),
    method=Supervised(),
    train=Train(batch_size=4, max_iterations=1, lr=0.01),
    evaluate=Evaluate(every=0, mode="whole", pictures=0),
)
'''
GRID = """
sweep = Sweep(
    base=base,
    partitions=(4, 2),
    seeds=(0, 1),
    reference="labels",
    rows={
        "kd": Row(changes=("method=kd", "method.deep_teacher={run:deep}/last.pt")),
        "labels": Row(),
        "deep": Row(changes=("method=cps",), seeds=(0,)),
        "all": Row(partitions=(1,)),
    },
)
"""


@pytest.fixture
def write(small_scenes: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write a sweep file of the small base."""

    def made(text: str = GRID) -> Path:
        path = tmp_path / "sweep.py"
        path.write_text(SWEEP.replace("ROOT", str(small_scenes)) + text)
        return path

    return made


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs that take no time; the fixture is the list of those that were trained. Row "all" fails."""
    trained: list[str] = []

    def call(self: Workers, command: list[str], output: Path, slot: int, *locks: int) -> int:
        folder = Path(command[1]).parent
        name, _, seed = folder.name.replace(".s", ".").split(".")
        if command[0] == "teach":
            trained.append(f"teach {folder.name}")
            return 0
        if command[0] == "train":
            trained.append(folder.name)
            output.write_text("mgd train: there is no paper in the printer\n")
            return 2 if name == "all" else 0
        points = {"kd": 30, "labels": 20, "deep": 25}[name] + int(seed) / 10
        report = folder / "run/evaluation/last.json"
        report.parent.mkdir(parents=True)
        found = {"miou": points / 100, "iou": {"sky": points / 100, "sea": None}, "config": to_dict(load(folder))}
        report.write_text(json.dumps(found))
        rows = "".join(f"{i},{points + i * (1 if name == 'kd' else 2)}\n" for i in range(5))
        report.with_name("last-images.csv").write_text(f"image,mIoU\n{rows}")
        return 0

    monkeypatch.setattr(Workers, "_call", call)
    return trained


def test_a_sweep_is_every_row_at_every_partition_and_seed_after_what_it_waits_for(write: Callable[..., Path]) -> None:
    cells = {cell.name: cell for cell in plan(load_sweep(write()))}
    pairs = [f"p{p}.s{s}" for p in (4, 2) for s in (0, 1)]
    assert set(cells) == (
        {f"{row}.{pair}" for row in ("kd", "labels") for pair in pairs}
        | {"deep.p4.s0", "deep.p2.s0", "all.p1.s0", "all.p1.s1"}
    )
    names = list(cells)
    assert all(names.index(other) < names.index(name) for name in cells for other in cells[name].waits_for)
    student = cells["kd.p2.s1"]
    assert student.waits_for == ("deep.p2.s0",)  # a row with one seed serves all
    assert student.config.method.deep_teacher == (str(write().parent / "runs/deep.p2.s0/run/last.pt"),)
    assert (student.config.data.partition, student.config.train.seed) == (2, 1)


def test_a_finished_run_is_not_repeated_and_a_failing_one_stops_none_of_the_others(
    write: Callable[..., Path], fake: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sweep", str(write()), "--jobs", "2"]
    assert main(command) == 1
    assert len(fake) == len(set(fake)) == 12
    assert "all.p1.s0 failed: mgd train ended with status 2" in capsys.readouterr().err
    fake.clear()
    assert main(command) == 1
    assert sorted(fake) == ["all.p1.s0", "all.p1.s1"]
    told = (write().parent / "runs/results.md").read_text()
    assert "all.p1.s0: mgd train ended with status 2: mgd train: there is no paper in the printer" in told


OFFLINE = """
offline = ("method=mgd", "method.deep_teacher={run:deep}/last.pt", "method.teachers=offline")
shared = (*offline, "method.teach.dir={run:deep}/maps")
sweep = Sweep(
    base=base,
    rows={
        "labels": Row(changes=(*shared, "method.lambda_image=0")),
        "kd": Row(changes=shared),
        "deep": Row(changes=("method=cps",)),
    },
)
"""


def test_a_run_with_offline_teachers_has_them_teach_first(
    write: Callable[..., Path], fake: list[str], tmp_path: Path
) -> None:
    assert main(["sweep", str(write(OFFLINE))]) == 0
    assert fake == [f"{what}.p4.s0" for what in ("deep", "teach labels", "labels", "teach kd", "kd")]
    maps = tmp_path / "runs/deep.p4.s0/run/maps"
    assert [cell.maps for cell in plan(load_sweep(write(OFFLINE)))] == [None, maps, maps]
    own = {cell.row: cell.maps for cell in plan(load_sweep(write(OFFLINE.replace("(*offline, ", "offline or ("))))}
    assert own == {"deep": None, **{row: tmp_path / f"runs/{row}.p4.s0/maps" for row in ("labels", "kd")}}


def test_runs_that_share_their_teachers_maps_fill_them_one_after_the_other(
    write: Callable[..., Path], fake: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick, teaching, most = Workers._call, [], []

    def call(self: Workers, command: list[str], output: Path, slot: int, *locks: int) -> int:
        if command[0] == "teach":
            teaching.append(command)
            time.sleep(0.2)
            most.append(len(teaching))
            teaching.remove(command)
            assert len(locks) == 2  # a child that outlives the sweep keeps both folders to itself
        return quick(self, command, output, slot, *locks)

    monkeypatch.setattr(Workers, "_call", call)
    monkeypatch.setattr("mgd.study.run.WAIT", 0.01)
    assert main(["sweep", str(write(OFFLINE)), "--jobs", "2"]) == 0
    assert most == [1, 1]


def test_a_sweep_that_is_stopped_does_not_wait_for_maps_that_another_process_fills(
    write: Callable[..., Path], fake: list[str]
) -> None:
    workers, cell = Workers("sweep.py", 1), plan(load_sweep(write(OFFLINE)))[1]
    assert cell.maps is not None
    workers.stopping = True
    with locked(cell.maps, what="run"):
        assert workers.run(cell) == f"another run is at work in {cell.maps}; wait for it, or stop it"
    assert fake == []


def test_a_run_whose_teachers_cannot_teach_is_not_trained(
    write: Callable[..., Path], fake: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = Workers._call

    def fails(self: Workers, command: list[str], output: Path, slot: int, *locks: int) -> int:
        output.touch()
        return 2 if command[0] == "teach" else quick(self, command, output, slot, *locks)

    monkeypatch.setattr(Workers, "_call", fails)
    assert main(["sweep", str(write(OFFLINE))]) == 1
    assert "kd.p4.s0 failed: mgd teach ended with status" in capsys.readouterr().err
    assert fake == ["deep.p4.s0"]


def test_a_run_whose_teacher_failed_is_left_out_and_told(
    write: Callable[..., Path], fake: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(GRID.replace("{run:deep}", "{run:all}").replace("Row(partitions=(1,))", "Row()"))
    assert main(["sweep", str(path)]) == 1
    assert not [name for name in fake if name.startswith("kd")]
    assert "kd.p4.s0 is left out: it waits for all.p4.s0, which has no result" in capsys.readouterr().err


def test_the_tables_tell_means_spreads_and_paired_differences(
    write: Callable[..., Path], fake: list[str], tmp_path: Path
) -> None:
    main(["sweep", str(write()), "--json", str(tmp_path / "all.json")])
    told = (tmp_path / "runs/results.md").read_text()
    places = [told.index(f"\n| {row} | ") for row in ("kd", "labels", "deep", "all")]
    assert places == sorted(places)  # as in the file, whatever waits for whatever
    assert "| kd | 30.05 ± 0.07 | 30.05 ± 0.07 |  |" in told
    assert "| deep | 25.00 | 25.00 |  |" in told
    # Seeds differ by exactly 10 each; the images by 10, 9, 8, 7, 6: mean 8, sd 1.58, 2.776 * 1.58 / sqrt(5) = 1.96.
    assert "| kd | 1/4 | +10.00 [+10.00, +10.00] | +8.00 [+6.04, +9.96] | better |" in told
    assert "| deep | 1/4 | +5.00 | +5.00 [+5.00, +5.00] | one seed: cannot be told |" in told
    rows = (tmp_path / "runs/results.csv").read_text().splitlines()
    assert rows[0] == "row,partition,seed,mIoU,sky,sea"
    assert "kd,4,1,30.1000,30.1000," in rows
    content = json.loads((tmp_path / "all.json").read_text())
    assert content == json.loads((tmp_path / "runs/results.json").read_text())
    assert {"row": "deep", "partition": 4, "mean": 25.0, "sd": None, "runs": 1} in content["cells"]
    assert set(content["missing"]) == {"all.p1.s0", "all.p1.s1"}


def test_rows_are_compared_over_the_seeds_and_images_that_both_have() -> None:
    def result(row: str, seed: int, miou: float, **images: float) -> Result:
        return Result(SimpleNamespace(row=row, partition=4, seed=seed, is_done=True), miou, {}, images)  # type: ignore[arg-type]

    nan = math.nan  # of an image whose label is ignored everywhere
    found = [
        *(result("ours", 0, 1.0, a=10, b=20, c=nan), result("ours", 1, 3.0, a=20, b=40, c=nan, d=5)),
        *(result("ours", 2, 9.0, a=90, b=90), result("theirs", 0, 0.0, a=0, b=10, c=nan)),
        result("theirs", 1, 0.0, a=0, b=10, c=nan),
    ]
    (only,) = compare_with("theirs", found)
    assert (only.row, only.over_seeds.mean, only.over_seeds.pairs) == ("ours", 2.0, 2)
    # a: the mean of 10 and 20, less 0; b: that of 20 and 40, less 10
    assert (only.over_images.mean, only.over_images.pairs) == ((15 + 20) / 2, 2)
    cells: Any = [*(one.cell for one in found), SimpleNamespace(row="theirs", partition=4, seed=2, is_done=True)]
    told = markdown(cells, found, "theirs", {})
    assert "| ours | 4.33 ± 4.16 |" in told
    assert "| theirs | 0.00 ± 0.00 (2 of 3) |" in told


def test_tables_are_made_of_what_is_there(
    write: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", str(write()), "--table"]) == 0
    assert (
        "- not trained yet: kd.p4.s0, kd.p4.s1, kd.p2.s0, kd.p2.s1, labels.p4.s0 and 7 more"
        in (tmp_path / "runs/results.md").read_text()
    )
    assert main(["sweep", str(write()), "--list"]) == 0
    assert "open  kd.p4.s1 after deep.p4.s0" in capsys.readouterr().out
    assert main(["sweep", str(write()), "--table", "--reference", "kd"]) == 0
    assert "Difference from **kd**" in (tmp_path / "runs/results.md").read_text()
    assert main(["sweep", str(write()), "--table", "--reference", "dk"]) == 2
    assert "reference='dk' is not a row; use one of " in capsys.readouterr().err


def test_a_score_of_other_settings_is_in_no_table(
    write: Callable[..., Path], fake: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["sweep", str(write())])
    report = tmp_path / "runs/labels.p4.s0/run/evaluation/last.json"
    found = json.loads(report.read_text())
    found["config"]["evaluate"]["flip"] = True
    report.write_text(json.dumps(found))
    capsys.readouterr()
    main(["sweep", str(write()), "--table"])
    said = capsys.readouterr()
    assert "last.json is of another evaluate.flip=True than the sweep; delete it and sweep again" in said.out + said.err


def test_a_plot_is_drawn_where_matplotlib_is(write: Callable[..., Path], fake: list[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    main(["sweep", str(write())])
    assert (tmp_path / "runs/results.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_one_sentence_says_how_to_get_it(
    write: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["sweep", str(write()), "--table"]) == 0
    said = capsys.readouterr().out
    assert "no plot: matplotlib is not installed" in said
    assert "pip install 'mgd[report]'" in said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "sweep.py must define `sweep = Sweep(...)`, found NoneType"),
        ("sweep = Sweep(base=base, rows={'a': Row()}, seedz=(1,))", "unexpected keyword argument 'seedz'"),
        ("sweep = Sweep(base=base, rows={})", "rows is empty"),
        ("sweep = Sweep(base=base, rows={'a/b': Row()})", "row 'a/b' cannot be the name of a folder"),
        ("sweep = Sweep(base=base, rows={'a': ()})", "row a is tuple; write Row(changes=(...))"),
        ("sweep = Sweep(base=base, rows={'a': Row(changes='method=cps')})", "write changes=('method=cps',)"),
        ("sweep = Sweep(base=base, rows={'a': Row(changes=(('x=1',), 'y=2'))})", "row a: ('x=1',) is no text such as"),
        ("sweep = Sweep(base=base, rows={'a': Row()}, seeds=())", "seeds is empty"),
        ("sweep = Sweep(base=base, rows={'a': Row()}, seeds=(0, 0))", "seeds=(0, 0) must be different whole numbers"),
        ("sweep = Sweep(base=base, rows={'a': Row()}, partitions=(0,))", "partitions=(0,) must be"),
        ("sweep = Sweep(base=base, rows={'a': Row()}, reference='b')", "reference='b' is not a row; use one of a"),
        ("sweep = Sweep(base=base, rows={'a': Row(changes=('train.lrr=1',))})", "row a: train.lrr is not a key"),
        ("sweep = Sweep(base=base, rows={'a': Row(changes=('train.seed=1',))})", "row a: train.seed is not a change"),
        ("sweep = Sweep(base=base, rows={'a': Row(changes=('method=mgd',))})", "row a: method.deep_teacher and"),
        (
            "sweep = Sweep(base=base, rows={'a': Row(changes=('method=kd', 'method.deep_teacher={run:b}/last.pt'))})",
            "row a: {run:b} is no row of the sweep; use one of a",
        ),
        (
            "t = ('method=kd', 'method.deep_teacher={run:b}/last.pt')\n"
            "sweep = Sweep(base=base, rows={'a': Row(changes=t), 'b': Row(partitions=(2,))})",
            "a.p4.s0 needs the run b.p4.s0, which the grid does not make",
        ),
        (
            "t = 'method.deep_teacher={run:%s}/last.pt'\n"
            "sweep = Sweep(base=base, rows={'a': Row(changes=('method=kd', t % 'b')), "
            "'b': Row(changes=('method=kd', t % 'a'))})",
            "these runs wait for each other: ",
        ),
        (
            "t = ('method=mgd', 'method.deep_teacher={run:b}/last.pt', 'method.teachers=offline')\n"
            "t += ('method.teach.dir=m',)\n"
            "c = (*t, 'data.crop_size=48')\n"
            "sweep = Sweep(base=base, rows={'a': Row(changes=t), 'b': Row(), 'c': Row(changes=c)})",
            "a.p4.s0 and c.p4.s0 have the same method.teach.dir, m, with another method.teach: name another folder",
        ),
        ("sweep = Sweep(base=1, rows={'a': Row()})", "base must be an Experiment, found int"),
        ("from dataclasses import replace\nb = replace(base, data=replace(base.data, root='nowhere'))\n"
         "sweep = Sweep(base=b, rows={'a': Row()})", "nowhere"),
        ("sweep = Sweep(base=base, rows={'a': Row(changes=('method=cps',), partitions=(4, 1))})",
         "a.p1.s0: data.partition=1 leaves 0 unlabelled images"),
        ("sweep = Sweep(base=base, rows={'a': Row(), 'b': Row(changes=('method=kd', 'method.deep_teacher=no.pt'))})",
         "b.p4.s0: no checkpoint for method.deep_teacher: none of no.pt exists"),
        ("sweep = Sweep(base=base, rows={'a': Row(), 'b': Row(changes=('model.backbone=resnet19',))})",
         "b.p4.s0: model.backbone='resnet19'"),
        ("sweep = Sweep(base=base, rows={'a': Row(changes=('evaluate.exclude=unicorn',))})",
         "a.p4.s0: evaluate.exclude=unicorn is no class"),
    ],
)  # fmt: skip
def test_bad_sweeps_are_refused_in_a_sentence_before_anything_is_trained(
    write: Callable[..., Path], fake: list[str], text: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", str(write(text))]) == 2
    error = capsys.readouterr().err.strip()
    assert words in error
    assert len(error.splitlines()) == 1
    assert fake == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("train.seed=3", "train.seed is not a change of the base: the sweep sets it; change its seeds in"),
        ("data.partition=8", "data.partition is not a change of the base: the sweep sets it; change its partitions in"),
    ],
)
def test_changes_that_would_have_no_effect_are_refused(
    write: Callable[..., Path], fake: list[str], change: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", str(write()), change]) == 2
    assert words in capsys.readouterr().err
    alone = write("sweep = Sweep(base=base, rows={'labels': Row()})")
    assert [cell.name for cell in plan(load_sweep(alone, ["data.partition=2"]))] == ["labels.p2.s0"]


def test_a_folder_with_runs_of_other_settings_is_refused(
    write: Callable[..., Path], fake: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["sweep", str(write())])
    for before, now, words in (
        ("lr=0.01", "lr=0.02", "another train.lr (0.01, now 0.02)"),
        ('mode="whole"', 'mode="slide"', "another evaluation.mode ('whole', now 'slide')"),
        ("{run:deep}", "{run:labels}", "another deep_teacher (['deep.p4.s0/run/last.pt'], now ['labels.p4.s0/run/last"),
    ):
        path = write()
        path.write_text(path.read_text().replace(before, now))
        for options in ([], ["--table"]):
            assert main(["sweep", str(path), *options]) == 2
            assert f"holds a run with {words}" in capsys.readouterr().err


def test_runs_that_were_moved_with_their_sweep_are_done(
    write: Callable[..., Path], fake: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["sweep", str(write())])
    (tmp_path / "new").mkdir()
    for name in ("sweep.py", "runs"):
        (tmp_path / name).rename(tmp_path / "new" / name)
    monkeypatch.chdir(tmp_path / "new")
    fake.clear()
    main(["sweep", "sweep.py"])
    assert sorted(fake) == ["all.p1.s0", "all.p1.s1"]


def test_two_sweeps_on_one_folder_are_refused(
    write: Callable[..., Path], fake: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with locked(tmp_path / "runs", what="sweep"):
        assert main(["sweep", str(write())]) == 2
        assert main(["sweep", str(write()), "--table"]) == 0  # what is done by now
    assert f"another sweep is at work in {tmp_path / 'runs'}" in capsys.readouterr().err


@pytest.fixture
def recorded(write: Callable[..., Path], fake: list[str], tmp_path: Path) -> Callable[..., None]:
    """Of a finished sweep: let the runs of row "kd" say what they were trained on, with these changes."""
    main(["sweep", str(write())])
    cells = {cell.name: cell for cell in plan(load_sweep(write()))}

    def record(**changes: Any) -> None:
        for name, cell in cells.items():
            if cell.row == "kd":
                teacher = cells[cell.waits_for[0]].folder / "run/last.pt"
                teacher.write_bytes(b"a teacher")
                inputs = {**data_of(open_splits(cell.config.data)), "teachers": {"deep": end_of(teacher)}}
                inputs |= changes.get(name.replace(".", "_"), {})
                (cell.folder / "run/config.json").write_text(json.dumps({"inputs": inputs}))

    record()
    assert main(["sweep", str(write()), "--table"]) == 0
    return record


def test_scores_of_students_whose_teacher_was_trained_anew_are_refused(
    write: Callable[..., Path], recorded: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = tmp_path / "runs/deep.p4.s0/run"
    (teacher / "last.pt").write_bytes(b"another")
    for arguments in ([], ["--table"]):
        assert main(["sweep", str(write()), *arguments]) == 2
        said = capsys.readouterr().err
        assert f"kd.p4.s0 was taught by another deep teacher than {teacher / 'last.pt'} is now; delete that f" in said
    (teacher / "last.pt").write_bytes(b"a teacher")
    (teacher / "evaluation/last.json").rename(tmp_path / "aside.json")
    assert main(["sweep", str(write())]) == 1  # it is only scored again; row "all" fails
    shutil.rmtree(teacher.parent)
    assert main(["sweep", str(write()), "--table"]) == 0  # whose teachers' files are gone may be tabulated
    capsys.readouterr()
    assert main(["sweep", str(write())]) == 2
    assert "deep.p4.s0 is to be trained, and kd.p4.s0, which learned from it, is done; del" in capsys.readouterr().err


def test_scores_on_other_photos_are_refused(
    write: Callable[..., Path], recorded: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    recorded(kd_p2_s1={"validation images": {"count": 3, "digest": "of others"}})
    for arguments in ([], ["--table"]):
        assert main(["sweep", str(write()), *arguments]) == 2
        said = capsys.readouterr().err
        assert "kd.p2.s1 holds a run on other data: 3 validation images, now as many others; put them back" in said


def test_a_score_of_another_checkpoint_or_of_other_photos_is_in_no_table(
    write: Callable[..., Path], recorded: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "runs/kd.p2.s1/run"
    report, checkpoint = run / "evaluation/last.json", run / "last.pt"
    found = json.loads(report.read_text())
    inputs = json.loads((run / "config.json").read_text())["inputs"]
    checkpoint.write_bytes(b"as it was scored")
    found |= {"end": end_of(checkpoint), "validation images": inputs["validation images"]}
    report.write_text(json.dumps(found))
    assert main(["sweep", str(write()), "--table"]) == 0
    checkpoint.write_bytes(b"trained on since")
    for arguments in ([], ["--table"]):
        assert main(["sweep", str(write()), *arguments]) == 2
        assert f"last.json is of another checkpoint than {checkpoint} is now; delete it" in capsys.readouterr().err
    checkpoint.unlink()  # scores may outlive the checkpoints
    assert main(["sweep", str(write()), "--table"]) == 0
    report.write_text(json.dumps(found | {"validation images": {"count": 6, "digest": "of others"}}))
    assert main(["sweep", str(write()), "--table"]) == 2
    assert "last.json is of other validation images than the sweep's; delete it" in capsys.readouterr().err


def test_tables_made_later_tell_why_a_run_failed(
    write: Callable[..., Path], fake: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    why = "mgd train ended with status 2: mgd train: there is no paper in the printer"
    assert main(["sweep", str(write()), "--only", "all.p1.s0"]) == 2
    assert main(["sweep", str(write()), "--table", "--json", str(tmp_path / "table.json")]) == 0
    assert f"- all.p1.s0: {why}\n" in (tmp_path / "runs/results.md").read_text()
    missing = json.loads((tmp_path / "table.json").read_text())["missing"]
    assert (missing["all.p1.s0"], missing["all.p1.s1"]) == (why, "not trained yet")
    assert main(["sweep", str(write())]) == 1
    assert main(["sweep", str(write()), "--table"]) == 0
    assert f"- all.p1.s1: {why}\n" in (tmp_path / "runs/results.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--slurm", "data.short_side=9"], "--slurm takes options of sbatch, found data.short_side=9; write --slurm="),
        (["--only", "nothing"], "--only nothing is no run of"),
    ],
)
def test_arguments_that_cannot_be_are_refused(
    write: Callable[..., Path], capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(["sweep", str(write()), *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_run_that_a_killed_sweep_began_is_waited_for(
    write: Callable[..., Path],
    fake: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with ExitStack() as held:
        held.enter_context(locked(tmp_path / "runs/kd.p4.s0", what="run"))

        def acquired(lock: int) -> bool:
            """It ends when it is waited for."""
            free = _acquired(lock)
            if not free:
                held.close()
            return free

        monkeypatch.setattr("mgd.study.run._acquired", acquired)
        assert main(["sweep", str(write())]) == 1  # row "all" fails
    assert f"waits for another run that is at work in {tmp_path / 'runs/kd.p4.s0'}" in capsys.readouterr().err
    assert "kd.p4.s0" in fake


def test_job_arrays_come_in_generations_and_hold_what_is_not_done(
    write: Callable[..., Path], fake: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = ({cell.name for cell in group} for group in generations(plan(load_sweep(write()))))
    assert second == {f"kd.p{p}.s{s}" for p in (4, 2) for s in (0, 1)}
    assert main(["sweep", str(write()), "--slurm=--gres=gpu:1"]) == 0
    sbatch = tmp_path / "bin/sbatch"  # stands for Slurm's: says what it was given
    sbatch.parent.mkdir()
    sbatch.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> {tmp_path}/asked\necho 17\n')
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", str(sbatch.parent), prepend=":")
    subprocess.run(["bash", str(tmp_path / "runs/slurm/submit.sh")], check=True, capture_output=True)
    asked = (tmp_path / "asked").read_text().splitlines()
    assert [line for line in asked if line.startswith("--array")] == [f"--array=0-{len(first) - 1}", "--array=0-3"]
    assert asked.count("--gres=gpu:1") == 2
    assert asked.count("--dependency=afterany:17") == 1
    wrapped = [line.removeprefix("--wrap=") for line in asked if line.startswith("--wrap=")]
    chosen = subprocess.run(  # as a task of the array does
        ["bash", "-c", f"set -- {wrapped[1].split(' --only ')[1]}; echo $1"],
        env={"SLURM_ARRAY_TASK_ID": "2", "PATH": "/usr/bin:/bin"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert chosen.stdout.strip() in second


def test_one_run_of_a_sweep_is_trained_by_its_name(
    write: Callable[..., Path], fake: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", str(write()), "--only", "labels.p4.s1"]) == 0
    assert fake == ["labels.p4.s1"]
    assert main(["sweep", str(write()), "--only", "all.p1.s0"]) == 2
    assert main(["sweep", str(write()), "--only", "labels.p3.s1"]) == 2
    assert "--only labels.p3.s1 is no run of" in capsys.readouterr().err


def test_a_run_whose_teacher_is_half_trained_is_not_trained_by_its_name(
    write: Callable[..., Path], fake: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = tmp_path / "runs/deep.p4.s0/run/last.pt"  # of a task that Slurm has ended at its time limit
    half.parent.mkdir(parents=True)
    half.touch()
    assert main(["sweep", str(write()), "--only", "kd.p4.s1"]) == 2
    assert "kd.p4.s1 waits for deep.p4.s0, which has no result" in capsys.readouterr().err
    assert fake == []
    assert main(["sweep", str(write()), "--only", "deep.p4.s0"]) == 0
    assert main(["sweep", str(write()), "--only", "kd.p4.s1"]) == 0


def test_a_stopped_sweep_begins_nothing_new() -> None:
    workers = Workers("sweep.py", 1)
    with pytest.raises(KeyboardInterrupt), workers.stopped_by_signals():
        raise KeyboardInterrupt
    assert workers._call(["train", "x"], Path("output.txt"), 0, 0) != 0
    assert not Path("output.txt").exists()


@pytest.mark.parametrize(
    ("visible", "expected"), [(None, ["0", "1", "0"]), ("2,3", ["2", "3", "2"]), ("5,6,7", ["5", "6", "5"])]
)
def test_every_job_has_a_gpu_of_those_that_are_visible(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, expected: list[str]
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    workers = Workers("sweep.py", 3)
    assert [workers._environment(slot)["CUDA_VISIBLE_DEVICES"] for slot in range(3)] == expected


def test_jobs_share_the_cores_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mgd.study.run.cores", lambda: 6)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert Workers("sweep.py", 2)._environment(0)["OMP_NUM_THREADS"] == "3"


def stand_in(folder: Path, text: str) -> str:
    """A program in the place of Python's, for runs that do as it says; $3 is the command, $4 the config."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_a_sweep_that_is_asked_to_stop_lets_its_runs_save_and_begins_no_other(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = tmp_path / "said"
    program = f"trap 'echo saved >>{said}; exit 75' TERM; echo $3$5 >>{said}; for i in $(seq 300); do sleep 0.1; done"
    monkeypatch.setattr("mgd.study.run.sys.executable", stand_in(tmp_path, program))

    def stop() -> None:
        while not said.is_file() or len(said.read_text().split()) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    assert main(["sweep", str(write()), "--jobs", "2"]) == 75
    thread.join()
    assert said.read_text().split() == ["train--resume", "train--resume", "saved", "saved"]
    assert capsys.readouterr().err.strip().endswith("saved where it stands, and the same command goes on")


def test_a_run_that_outlives_its_sweep_keeps_others_out_of_its_folder(tmp_path: Path) -> None:
    with locked(tmp_path, what="run") as lock:
        child = subprocess.Popen(["sleep", "60"], pass_fds=[lock])  # as where the sweep is killed
    try:
        with pytest.raises(UserError, match="another run is at work in"), locked(tmp_path, what="run"):
            pass
    finally:
        child.kill()
        child.wait()
    with locked(tmp_path, what="run"):
        pass


def test_where_a_file_system_has_no_locks_runs_are_trained_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", flock)
    with locked(tmp_path, what="run"):
        pass


def test_a_process_that_cannot_be_started_is_a_run_that_failed(
    write: Callable[..., Path], fake: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = Workers._call

    def call(self: Workers, command: list[str], *how: Any) -> int:
        if "labels.p4.s0" in command[1]:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        return quick(self, command, *how)

    monkeypatch.setattr(Workers, "_call", call)
    assert main(["sweep", str(write())]) == 1
    assert "labels.p4.s0 failed: [Errno 12] Cannot allocate memory" in capsys.readouterr().err
    assert len(fake) == 11


@pytest.mark.slow
def test_a_run_is_trained_and_scored_for_real(write: Callable[..., Path], tmp_path: Path) -> None:
    assert main(["sweep", str(write("sweep = Sweep(base=base, rows={'labels': Row()})"))]) == 0
    run = tmp_path / "runs/labels.p4.s0/run"
    score = json.loads((run / "evaluation/last.json").read_text())["miou"]
    assert f"| labels | {100 * score:.2f} |" in (tmp_path / "runs/results.md").read_text()
    assert "iteration 1/1" in (run / "log.txt").read_text()


# Statistics


def test_spread_is_the_samples() -> None:
    assert spread([1.0, 2.0, 3.0]) == (2.0, 1.0, 3)
    assert math.isnan(spread([1.0]).sd)


def test_the_interval_of_a_paired_difference_is_students() -> None:
    # Differences 1, 2, 3: mean 2, sd 1; t of 2 degrees of freedom at 97.5 % is 4.3027; 4.3027 / sqrt(3) = 2.4841.
    found = paired_difference([11.0, 22.0, 33.0, math.nan], [10.0, 20.0, 30.0, 40.0])
    assert found == pytest.approx(Difference(2.0, 2 - 2.4841, 2 + 2.4841, 3), abs=1e-3)
    assert found.sign == 0
    one = paired_difference([3.0], [1.0])
    assert (one.mean, one.pairs, one.sign) == (2.0, 1, 0)
    assert math.isnan(one.low)
    assert paired_difference([], []).pairs == 0


@pytest.mark.parametrize(
    ("seeds", "images", "expected"),
    [
        ((1.0, 2.0), (0.5, 1.0), "better"),
        ((-2.0, -1.0), (-1.0, -0.5), "worse"),
        ((1.0, 2.0), (-0.5, 1.0), "not distinguishable"),
        ((-1.0, 2.0), (0.5, 1.0), "not distinguishable"),
        ((1.0, 2.0), (-1.0, -0.5), "not distinguishable"),
    ],
)
def test_a_row_is_better_only_where_both_intervals_leave_0_out(
    seeds: tuple[float, float], images: tuple[float, float], expected: str
) -> None:
    found = verdict(*(Difference(sum(ends) / 2, *ends, 3) for ends in (seeds, images)))
    assert found == expected


def test_one_seed_says_nothing() -> None:
    nothing: Any = (1.0, math.nan, math.nan)
    assert verdict(Difference(*nothing, 1), Difference(1, 0.5, 1.5, 9)) == "one seed: cannot be told"
    assert verdict(Difference(1, 0.5, 1.5, 3), Difference(*nothing, 0)) == "no scores of images: cannot be told"
