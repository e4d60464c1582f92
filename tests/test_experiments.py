"""Every experiment folder: its config against the published table, its teachers, and what its script launches."""

import ast
import os
import re
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from scenes import CLASSES as SCENES

from mgd.config import CPS, MGD, Experiment, Model, Supervised, load
from mgd.data.classes import BUILT_IN
from mgd.errors import UserError
from mgd.objectives import build_network, find_teacher, teacher_paths

ROOT = Path(__file__).resolve().parent.parent
# A folder with nothing but run/ in it is what a run with another partition left behind.
FOLDERS = sorted(
    folder
    for folder in ROOT.glob("exp.*/*/")
    if folder.name != "__pycache__" and any(file.name != "run" for file in folder.iterdir())
)
NAMES = [f"{folder.parent.name}/{folder.name}" for folder in FOLDERS]

BACKBONES = {
    "resnet18": "resnet18",
    "mobilev2": "mobilenet_v2",
    "resnet101": "resnet101",
    "wresnet34": "wide_resnet50_2",
}
COLUMNS = ["batch", "crop", "epochs", "lr", "weight_decay", "lambda_image", "lambda_region", "w_cps", "supervised"]
# Design, part 2; city MobileNetV2 is not published.
TABLE = {
    ("voc", "resnet18"): (8, 512, 34, 0.0025, 4e-4, 0.004, 100, None, "ce"),
    ("voc", "mobilev2"): (8, 512, 34, 0.0035, 4e-4, 0.001, 50, None, "ce"),
    ("voc", "resnet101"): (8, 512, 34, 0.0025, 4e-4, None, None, 1, "ce"),
    ("voc", "wresnet34"): (8, 512, 34, 0.001, 4e-4, None, None, 1, "ce"),
    ("city", "resnet18"): (16, 800, 137, 0.0025, 8e-4, 0.002, 100, None, "ohem"),
    ("city", "mobilev2"): (16, 800, 137, 0.0025, 8e-4, 0.002, 50, None, "ohem"),
    ("city", "resnet101"): (8, 800, 137, 0.0025, 8e-4, None, None, 5, "ohem"),
    ("city", "wresnet34"): (8, 800, 137, 0.0025, 8e-4, None, None, 5, "ohem"),
}
PUBLISHED = [
    (f"exp.{data}/{data}{ratio}.{network}_deeplabv3plus", data, ratio, network)
    for data, network in TABLE
    for ratio in (2, 4, 8, 16)
]
# How many images there are in all; design, part 2, and the README beside each data set.
IMAGES = {"voc": 10_582, "city": 2_975, "fashion": 717, "camvid": 367, "facades": 639}
CLASS_COUNTS = {"voc": 21, "city": 19, "fashion": 10, "camvid": 11, "facades": 8, "demo": len(SCENES)}
CLASS_COUNTS["own"] = 3  # that of the example in exp.own/README.md


@cache
def experiment(name: str) -> Experiment:
    return load(ROOT / name)


@cache
def meta_network(model: Model, num_classes: int):
    with torch.device("meta"):
        return build_network(model, num_classes)


def docstring(name: str) -> str:
    return ast.get_docstring(ast.parse((ROOT / name / "config.py").read_text())) or ""


def family(name: str) -> str:
    return name.split("/")[0].removeprefix("exp.")


def students() -> list[str]:
    return [name for name in NAMES if isinstance(experiment(name).method, MGD)]


# --- folders


def test_every_published_experiment_is_there():
    assert {name for name, *_ in PUBLISHED} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_is_a_config_and_the_one_script(name):
    assert (ROOT / name / "config.py").is_file()
    one = ROOT / "exp.voc/voc8.resnet18_deeplabv3plus/script.sh"
    assert (ROOT / name / "script.sh").read_bytes() == one.read_bytes(), f"cp {one} {name}/"


@pytest.mark.parametrize("name", NAMES)
def test_a_docstring_names_the_command_the_cost_and_the_score(name):
    text = docstring(name)
    assert "bash script.sh" in text
    assert "Cost:" in text
    assert "Score:" in text


@pytest.mark.parametrize("name", [name for name in NAMES if family(name) in IMAGES])
def test_a_docstring_counts_its_labelled_images(name):
    count, ratio = IMAGES[family(name)], experiment(name).data.partition
    assert f"{len(range(0, count, ratio)):,} of {count:,} " in docstring(name)
    assert f"1/{ratio} labelled" in docstring(name)


@pytest.mark.parametrize("name", [n for n in NAMES if n.endswith("_deeplabv3plus") and family(n) in IMAGES])
def test_a_docstring_counts_its_iterations(name):
    data, train = experiment(name).data, experiment(name).train
    count = IMAGES[family(name)]
    unlabeled = count - len(range(0, count, data.partition)) + (1_094 if data.unlabeled else 0)  # fashion's own
    epoch = unlabeled // train.batch_size
    arithmetic = f"({unlabeled:,} unlabelled // {train.batch_size} = {epoch:,} an epoch, {train.epochs} epochs)"
    assert f"{epoch * train.epochs:,} iterations {arithmetic}" in docstring(name)


@pytest.mark.parametrize("name", [name for name in NAMES if re.search(r"/[a-z]+\d+\.", name)])
def test_the_partition_in_the_name_is_the_one_in_the_config(name):
    ratio = int(re.search(r"/[a-z]+(\d+)\.", name)[1])
    assert experiment(name).data.partition == ratio
    assert f"partition={ratio}" in (ROOT / name / "config.py").read_text()  # a one-word edit


@pytest.mark.parametrize("name", NAMES)
def test_a_config_imports_by_name_from_mgd(name):
    tree = ast.parse((ROOT / name / "config.py").read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert {node.module for node in imports} <= {"dataclasses", "mgd.config", "mgd.published"}
    assert all(alias.name != "*" for node in imports for alias in node.names)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_lives_in_its_experiments_folder(name):
    assert Path(experiment(name).run.dir) == ROOT / name / "run"


# --- networks and settings


@pytest.mark.parametrize("name", NAMES)
def test_the_network_builds_with_the_data_sets_class_count(name):
    config, count = experiment(name), CLASS_COUNTS[family(name)]
    model = config.model
    network = meta_network(model, count)
    assert all(parameter.is_meta for parameter in network.parameters())
    assert network.classifier.out_channels == count
    assert network.arch["backbone"] == model.backbone  # the canonical name, not an alias
    assert len(BUILT_IN.get(config.data.classes, range(count))) == count


@pytest.mark.parametrize(("name", "data", "ratio", "network"), PUBLISHED)
def test_settings_are_those_of_the_published_table(name, data, ratio, network):
    config, row = experiment(name), dict(zip(COLUMNS, TABLE[data, network], strict=True))
    method = config.method
    assert isinstance(method, MGD if row["w_cps"] is None else CPS)
    assert {
        "batch": config.train.batch_size,
        "crop": config.data.crop_size,
        "epochs": config.train.epochs,
        "lr": config.train.lr,
        "weight_decay": config.train.weight_decay,
        "lambda_image": getattr(method, "lambda_image", None),
        "lambda_region": getattr(method, "lambda_region", None),
        "w_cps": getattr(method, "weight", None),
        "supervised": method.criterion.kind,
    } == row
    assert config.model.backbone == BACKBONES[network]
    assert config.data.partition == ratio
    assert config.data.classes == data


@pytest.mark.parametrize("name", [name for name, *_ in PUBLISHED])
def test_what_the_table_leaves_out_is_as_published_too(name):
    config = experiment(name)
    data, model, train, method, how = config.data, config.model, config.train, config.method, config.evaluate
    assert (train.max_iterations, train.power, train.momentum) == (0, 0.9, 0.9)
    assert data.scales == (0.5, 0.75, 1.0, 1.5, 1.75, 2.0)
    assert (data.short_side, data.unlabeled, data.ignore_values) == (0, "", ())
    assert (model.pretrained, model.channels, model.output_stride) == (True, 256, None)
    assert method.rampup_iterations == 0
    if method.criterion.kind == "ohem":
        assert (method.criterion.threshold, method.criterion.min_kept) == (0.7, 50_000)
    if isinstance(method, MGD):
        assert (method.pixel_unlabeled, method.pixel_labeled) == (1, 1)
        assert (method.region_grid, method.teacher_norm) == (7, "frozen")
    assert (how.mode, how.stride, how.scales, how.flip) == ("slide", 2 / 3, (1.0,), False)
    assert how.crop_size in (0, data.crop_size)


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("_light")])
def test_a_light_student_has_the_published_settings_and_another_head(name):
    stem, _, network = name.rpartition(".")
    row = {"resnet18_light": "resnet18", "mobilev2_light": "mobilev2", "mobilenetv4_light": "mobilev2"}[network]
    config, published = experiment(name), experiment(f"{stem}.{row}_deeplabv3plus")
    assert config.model.head == "separable"
    method = replace(config.method, teach=published.method.teach)  # each has a folder of its own for maps
    assert (config.data, method, config.train) == (published.data, published.method, published.train)
    assert (config.model.pretrained, config.model.channels) == (True, 256)


def test_the_light_students_are_those():
    assert {name.split("/")[1] for name in NAMES if name.endswith("_light")} == {
        *("voc8.mobilev2_light", "voc16.mobilev2_light", "voc8.resnet18_light", "voc8.mobilenetv4_light"),
        *("city8.mobilev2_light", "city16.mobilev2_light"),
    }


@pytest.mark.parametrize("data", ["fashion", "facades"])
def test_students_that_differ_in_the_head_differ_in_nothing_else(data):
    whole, *light = (experiment(f"exp.{data}/{data}32.lite0_{head}") for head in ("mgd", "separable", "lraspp"))
    for other in light:
        assert other.model.backbone == whole.model.backbone
        method = replace(other.method, teach=whole.method.teach)  # each has a folder of its own for teachers' maps
        assert (other.data, method, other.train) == (whole.data, whole.method, whole.train)


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("exp.fashion/fashion8.")])
def test_fashion_at_full_size_has_the_settings_of_voc(name):
    config, voc = experiment(name), experiment(name.replace("fashion", "voc"))
    assert (config.model, config.train, config.evaluate) == (voc.model, voc.train, voc.evaluate)
    assert type(config.method) is type(voc.method)
    for key in ("criterion", "lambda_image", "lambda_region", "weight"):
        assert getattr(config.method, key, None) == getattr(voc.method, key, None)


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith(".small_mgd")])
def test_mgd_and_labels_alone_differ_in_the_method_only(name):
    mgd, alone = experiment(name), experiment(name.replace("_mgd", "_supervised"))
    assert isinstance(alone.method, Supervised)
    assert (mgd.data, mgd.model, mgd.train, mgd.evaluate) == (alone.data, alone.model, alone.train, alone.evaluate)
    assert ROOT / mgd.method.baseline == Path(alone.run.dir) / "evaluation/last.json"


# --- teachers


@pytest.mark.parametrize("name", students())
def test_a_student_has_sibling_teachers_of_the_same_data(name):
    student = experiment(name)
    paths = teacher_paths(student.method)
    assert set(paths) == {"deep", "wide"}
    for files in paths.values():
        folder = (ROOT / files[-1]).parent.parent
        assert folder.parent == (ROOT / name).parent
        teacher = load(folder)
        assert isinstance(teacher.method, CPS | Supervised)
        assert ROOT / files[-1] == Path(teacher.run.dir) / "last.pt"
        for key in ("root", "train_list", "partition", "partition_lists", "unlabeled", "classes", "ignore_values"):
            assert getattr(teacher.data, key) == getattr(student.data, key), key


@pytest.mark.parametrize("name", [name for name in students() if name.endswith("_deeplabv3plus")])
def test_the_deep_teacher_is_resnet101_and_the_wide_one_wide_resnet50(name):
    paths = teacher_paths(experiment(name).method)
    backbones = {key: load((ROOT / files[-1]).parent.parent).model.backbone for key, files in paths.items()}
    assert backbones == {"deep": "resnet101", "wide": "wide_resnet50_2"}


@pytest.mark.parametrize(("name", "data", "ratio", "network"), [row for row in PUBLISHED if row[0] in students()])
def test_official_teachers_come_first(name, data, ratio, network):
    method = experiment(name).method
    assert method.deep_teacher[0] == f"DATA/model-weight/teacher-{data}{ratio}-resnet101.pth"
    assert method.wide_teacher[0] == f"DATA/model-weight/teacher-{data}{ratio}-wideresnet34.pth"


@pytest.mark.parametrize("name", [name for name in students() if family(name) not in ("voc", "city")])
def test_only_sibling_runs_teach_where_nothing_was_published(name):
    assert all(len(files) == 1 for files in teacher_paths(experiment(name).method).values())


@pytest.mark.parametrize("data", ["voc", "city"])
def test_another_partition_means_other_teachers(data):
    student = load(ROOT / f"exp.{data}/{data}8.resnet18_deeplabv3plus", ["data.partition=16"])
    other = experiment(f"exp.{data}/{data}16.resnet18_deeplabv3plus").method
    assert replace(student.method, teach=other.teach) == other  # but for the folder of their maps


@pytest.fixture(scope="module")
def untrained(tmp_path_factory) -> Path:
    """A checkout in which nothing was trained."""
    out = tmp_path_factory.mktemp("checkout")
    for folder in FOLDERS:
        copy = out / folder.parent.name / folder.name
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("run", "__pycache__"))
    for file in ROOT.glob("exp.*/family.py"):
        shutil.copy(file, out / file.parent.name)
    return out


@pytest.mark.parametrize("name", students())
def test_a_missing_teacher_ends_in_the_script_that_makes_it(name, untrained, monkeypatch):
    monkeypatch.chdir(untrained)
    for key, files in teacher_paths(load(name).method).items():
        script = Path(files[-1]).parent.parent / "script.sh"
        assert (untrained / script).is_file()
        with pytest.raises(UserError, match=f"{key}_teacher.*{re.escape(str(untrained / script))}$") as caught:
            find_teacher(files, key)
        assert "\n" not in str(caught.value)
        assert all(file in str(caught.value) for file in files)


@pytest.mark.parametrize("name", students())
def test_an_official_teacher_is_preferred_and_a_run_is_found(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for key, files in teacher_paths(experiment(name).method).items():
        for file in reversed(files):  # each is found as soon as it is there, before those after it
            Path(file).parent.mkdir(parents=True, exist_ok=True)
            Path(file).touch()
            assert find_teacher(files, key) == Path(file)


# --- script.sh and launch.sh

STUB = """#!/usr/bin/env bash
# Stands for Python: tells how many GPUs there are, else writes down what it is asked to do.
if [[ $1 == -c ]]; then echo "${STUB_GPUS:-0}"; exit; fi
printf '%s\\n' "$PWD" "$OMP_WAIT_POLICY" "$@" "" >> "$STUB_LOG"
for word in "$@"; do
  if [[ $word == train && $STUB_SIGNALS ]]; then # train until a signal comes
    trap 'exit "$STUB_STATUS"' TERM INT
    touch "$STUB_LOG.training"
    while :; do sleep 0.02; done
  fi
  if [[ $word == train ]]; then exit "${STUB_STATUS:-0}"; fi
done
"""
CONFIG = "exp.data/data8.network/config.py"
TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node"]


class Checkout:
    """An experiment whose script talks to a stub; `run` returns (status, the commands, what it said)."""

    def __init__(self, root: Path) -> None:
        self.root, self.script = root, root / "exp.data/data8.network/script.sh"
        self.script.parent.mkdir(parents=True)
        shutil.copy(FOLDERS[0] / "script.sh", self.script)
        shutil.copy(ROOT / "launch.sh", root)
        self.stub = self.write_stub(root / "stub")
        self.log = root / "log"

    def write_stub(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(STUB)
        path.chmod(0o755)
        return path

    def run(self, *arguments: str, cwd: Path | None = None, **variables: str) -> tuple[int, list[list[str]], str]:
        mine = ("NGPUS", "NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "OMP_WAIT_POLICY", "PYTHON")
        env = {key: value for key, value in os.environ.items() if key not in mine}
        env |= {"PYTHON": str(self.stub), "STUB_LOG": str(self.log), **variables}
        env = {key: value for key, value in env.items() if value}
        done = subprocess.run(
            ["bash", str(self.script), *arguments], cwd=cwd or self.root, env=env, capture_output=True, text=True
        )
        text = self.log.read_text() if self.log.exists() else ""
        calls = [block.split("\n") for block in text.split("\n\n") if block.strip()]
        assert all(call[0] == str(self.root) for call in calls)  # relative paths start at the root
        self.policies = {call[1] for call in calls}
        return done.returncode, [call[2:] for call in calls], done.stderr


@pytest.fixture
def checkout(tmp_path) -> Checkout:
    return Checkout(tmp_path.resolve())


def test_the_script_is_valid_for_bash():
    for script in (FOLDERS[0] / "script.sh", ROOT / "launch.sh"):
        subprocess.run(["bash", "-n", script], check=True)


def test_one_process_is_launched_directly(checkout):
    status, calls, _ = checkout.run(NGPUS="1")
    assert status == 0
    assert calls == [["-m", "mgd", "train", CONFIG, "--resume"], ["-m", "mgd", "evaluate", CONFIG]]


def test_four_processes_are_launched_with_torchrun(checkout):
    _, calls, _ = checkout.run(NGPUS="4")
    launch = [*TORCHRUN, "4", "--standalone", "-m", "mgd"]
    assert calls == [[*launch, "train", CONFIG, "--resume"], [*launch, "evaluate", CONFIG]]


def test_a_machine_without_gpu_gets_one_process(checkout):
    _, calls, _ = checkout.run(STUB_GPUS="0")
    assert [call[:3] for call in calls] == [["-m", "mgd", "train"], ["-m", "mgd", "evaluate"]]


def test_all_gpus_of_the_machine_are_used(checkout):
    _, calls, _ = checkout.run(STUB_GPUS="3")
    assert [call[:4] for call in calls] == [[*TORCHRUN, "3"], [*TORCHRUN, "3"]]


def several(rank: str, port: str = "29500") -> list[str]:
    return ["--nnodes", "2", "--node-rank", rank, "--master-addr", "first", "--master-port", port]


def test_the_first_of_two_machines_trains_with_the_other_and_evaluates_alone(checkout):
    _, calls, _ = checkout.run(NGPUS="4", NNODES="2", NODE_RANK="0", MASTER_ADDR="first")
    assert calls == [
        [*TORCHRUN, "4", *several("0"), "-m", "mgd", "train", CONFIG, "--resume"],
        [*TORCHRUN, "4", "--standalone", "-m", "mgd", "evaluate", CONFIG],
    ]


def test_the_second_of_two_machines_only_trains(checkout):
    status, calls, _ = checkout.run(NGPUS="1", NNODES="2", NODE_RANK="1", MASTER_ADDR="first", MASTER_PORT="1234")
    assert status == 0
    assert calls == [[*TORCHRUN, "1", *several("1", "1234"), "-m", "mgd", "train", CONFIG, "--resume"]]


@pytest.mark.parametrize("missing", ["NODE_RANK", "MASTER_ADDR"])
def test_several_machines_need_to_know_their_place(checkout, missing):
    given = {"NGPUS": "1", "NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "first", missing: ""}
    status, calls, said = checkout.run(**given)
    assert status == 2
    assert not calls
    assert "NNODES=2 needs NODE_RANK and MASTER_ADDR" in said


@pytest.mark.parametrize("gpus", ["1", "2"])
def test_overrides_reach_training_and_evaluation(checkout, gpus):
    overrides = ["train.lr=0.01", "run.dir=a folder/run", "data.scales=0.5,1"]
    _, calls, _ = checkout.run(*overrides, NGPUS=gpus)
    assert [call[-3:] for call in calls] == [overrides, overrides]


@pytest.mark.parametrize("gpus", ["1", "2"])
def test_a_failing_training_stops_the_script_with_its_status(checkout, gpus):
    status, calls, _ = checkout.run(NGPUS=gpus, STUB_STATUS="2")
    assert status == 2
    assert len(calls) == 1


@pytest.mark.parametrize("gpus", ["1", "4"])
@pytest.mark.parametrize(
    ("number", "status", "expected"),
    [
        (signal.SIGTERM, "75", 75),
        (signal.SIGUSR1, "75", 75),
        (signal.SIGHUP, "75", 75),
        (signal.SIGTERM, "1", 75),  # what torchrun makes of it
        (signal.SIGTERM, "0", 0),  # the training's last step: nothing is left to do but to evaluate
        (signal.SIGINT, "130", 130),
    ],
)
def test_a_signal_to_the_script_reaches_the_training_and_what_it_ends_in_is_told(
    checkout, gpus, number, status, expected
):
    env = os.environ | {"PYTHON": str(checkout.stub), "STUB_LOG": str(checkout.log), "NGPUS": gpus}
    env |= {"STUB_SIGNALS": "yes", "STUB_STATUS": status}
    script = subprocess.Popen(["bash", str(checkout.script)], env=env, stderr=subprocess.PIPE, text=True)
    started, deadline = Path(f"{checkout.log}.training"), time.monotonic() + 20
    while not started.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    script.send_signal(number)
    script.communicate(timeout=20)
    assert script.returncode == expected
    assert ("evaluate" in checkout.log.read_text()) is (expected == 0)


def test_the_script_may_be_called_from_anywhere(checkout):
    for folder in (checkout.root, checkout.script.parent, Path("/")):
        status, calls, _ = checkout.run(NGPUS="1", cwd=folder)
        assert status == 0
        assert {call[3] for call in calls} == {CONFIG}


def test_the_environment_of_make_is_preferred_to_the_systems_python(checkout):
    checkout.write_stub(checkout.root / ".venv/bin/python")
    status, calls, said = checkout.run(PYTHON="", NGPUS="1")
    assert (status, len(calls)) == (0, 2), said


def test_without_an_environment_python3_is_taken(checkout):
    checkout.write_stub(checkout.root / "bin/python3")
    status, calls, said = checkout.run(
        PYTHON="", NGPUS="1", PATH=os.pathsep.join([str(checkout.root / "bin"), os.environ["PATH"]])
    )
    assert (status, len(calls)) == (0, 2), said


def test_openmp_waits_passively_unless_told_otherwise(checkout):
    checkout.run(NGPUS="1")
    assert checkout.policies == {"PASSIVE"}
    checkout.log.unlink()
    checkout.run(NGPUS="1", OMP_WAIT_POLICY="ACTIVE")
    assert checkout.policies == {"ACTIVE"}
