"""Test configs: overrides, what is refused and with which words, round trips."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mgd.config import CPS, MGD, Data, Experiment, Model, Supervised, from_dict, load, override, to_dict
from mgd.errors import UserError
from mgd.published import CITY, CITY_CPS, CITY_MGD, CITY_TEACHER_TRAIN, VOC, VOC_MGD, VOC_TRAIN

MINIMAL = """
from mgd.config import *
config = Experiment(data=Data(root="data"), model=Model(backbone="resnet18"), method=Supervised())
"""
BASE = Experiment(data=Data(root="data"), model=Model(backbone="resnet18"), method=Supervised())
STUDENT = Experiment(data=VOC, model=Model(backbone="resnet18"), method=VOC_MGD, train=VOC_TRAIN)
TEACHER = Experiment(data=CITY, model=Model(backbone="resnet101"), method=CITY_CPS, train=CITY_TEACHER_TRAIN)


def write(folder: Path, text: str) -> Path:
    path = folder / "config.py"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "section", "key", "value"),
    [
        ("data.root=/some/where", "data", "root", "/some/where"),
        ("data.root=a=b", "data", "root", "a=b"),
        ("data.unlabeled=", "data", "unlabeled", ""),
        ("data.partition=16", "data", "partition", 16),
        ("train.lr=1e-3", "train", "lr", 0.001),
        ("train.lr=1", "train", "lr", 1.0),
        ("model.pretrained=False", "model", "pretrained", False),
        ("model.pretrained=false", "model", "pretrained", False),
        ("model.pretrained=1", "model", "pretrained", True),
        ("data.scales=0.5,1,2", "data", "scales", (0.5, 1.0, 2.0)),
        ("data.scales=(0.5, 1)", "data", "scales", (0.5, 1.0)),
        ("data.ignore_values=11", "data", "ignore_values", (11,)),
        ("data.ignore_values=", "data", "ignore_values", ()),
        ("model.output_stride=32", "model", "output_stride", 32),
        ("model.output_stride=none", "model", "output_stride", None),
        ("train.precision=bf16", "train", "precision", "bf16"),
        ("run.dir=elsewhere", "run", "dir", "elsewhere"),
    ],
)
def test_an_override_is_parsed_as_the_type_of_its_key(text: str, section: str, key: str, value: object) -> None:
    start = replace(BASE, model=replace(BASE.model, output_stride=16))
    found = getattr(getattr(override(start, [text]), section), key)
    assert found == value
    assert type(found) is type(value)


def test_an_override_changes_its_key_only() -> None:
    assert override(STUDENT, ["train.lr=0.5"]) == replace(STUDENT, train=replace(STUDENT.train, lr=0.5))


def test_an_override_reaches_sections_inside_sections() -> None:
    assert override(STUDENT, ["method.criterion.kind=ohem"]).method.criterion.kind == "ohem"


def test_teachers_are_lists_of_files_separated_by_commas() -> None:
    method = override(STUDENT, ["method.deep_teacher=a.pt,b.pt", "method.wide_teacher="]).method
    assert isinstance(method, MGD)
    assert (method.deep_teacher, method.wide_teacher) == (("a.pt", "b.pt"), ())


@pytest.mark.parametrize(
    ("text", "files"),
    [
        ("a.pt,b.pt", ("a.pt", "b.pt")),
        ("[a.pt, b.pt]", ("a.pt", "b.pt")),
        ("/runs/lr=0.1,wd=0 [v2]/last.pt", ("/runs/lr=0.1,wd=0 [v2]/last.pt",)),
        ("/a,b/last.pt,/x/(1)/best.pth", ("/a,b/last.pt", "/x/(1)/best.pth")),
        ("[v2]/a.pt,b/(c).pt", ("[v2]/a.pt", "b/(c).pt")),
        ("(old)/last (copy).pt", ("(old)/last (copy).pt",)),
        ("['a,b', \"c]\"]", ("a,b", "c]")),
        ("[old],b/last.pt", ("[old],b/last.pt",)),
    ],
)
def test_a_path_keeps_its_commas_and_brackets(text: str, files: tuple[str, ...]) -> None:
    method = override(STUDENT, [f"method.deep_teacher={text}"]).method
    assert isinstance(method, MGD)
    assert method.deep_teacher == files


def test_the_last_of_two_overrides_counts() -> None:
    assert override(BASE, ["train.seed=1", "train.seed=2"]).train.seed == 2


def test_overrides_are_checked_together_so_that_their_order_does_not_matter() -> None:
    # 6 does not divide by 4 while only one of the two is applied.
    for order in (["train.accumulate=4", "train.batch_size=12"], ["train.batch_size=12", "train.accumulate=4"]):
        assert override(replace(BASE, train=replace(BASE.train, batch_size=6)), order).train.accumulate == 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train.lrr=1", ["train.lrr", "not a key", "did you mean train.lr?"]),
        ("trainn.lr=1", ["trainn.lr", "not a key", "did you mean train?"]),
        ("train=1", ["train is a section", "train.lr"]),
        ("train.lr.x=1", ["train.lr.x"]),
        ("method.weight=1", ["method.weight", "method.criterion"]),  # a key of CPS, not of Supervised
        ("train.lr", ["'train.lr' is not an override", "key.sub=value"]),
        ("method=gan", ["method=gan", "supervised, mean_teacher, cps, unimatch, kd, cwd, mgd"]),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_or_all_there_are(text: str, words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        override(BASE, [text])
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train.batch_size=eight", ["train.batch_size=eight", "whole number"]),
        ("train.batch_size=8.5", ["train.batch_size=8.5", "whole number"]),
        ("train.lr=fast", ["train.lr=fast", "number"]),
        ("train.lr=nan", ["train.lr=nan", "finite number"]),
        ("train.lr=inf", ["train.lr=inf", "finite number"]),
        ("model.pretrained=maybe", ["model.pretrained=maybe", "true or false"]),
        ("data.scales=0.5,big", ["data.scales=big", "number"]),
        ("model.output_stride=half", ["model.output_stride=half", "whole number"]),
        ("train.precision=fp8", ["train.precision='fp8'", "auto or fp32 or bf16 or fp16"]),
        ("evaluate.mode=tiles", ["evaluate.mode='tiles'", "slide or whole"]),
        ("method.criterion.kind=focal", ["method.criterion.kind='focal'", "ce or ohem"]),
    ],
)
def test_a_wrong_type_is_refused_with_key_value_and_what_is_expected(text: str, words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        override(BASE, [text])
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("data.partition=0", ["data.partition=0", "greater than 0"]),
        ("data.crop_size=-1", ["data.crop_size=-1", "greater than 0"]),
        ("train.batch_size=0", ["train.batch_size=0", "greater than 0"]),
        ("train.lr=-0.1", ["train.lr=-0.1", "greater than 0"]),
        ("data.workers=-1", ["data.workers=-1", "not be negative"]),
        ("train.momentum=-1", ["train.momentum=-1", "not be negative"]),
        ("method.lambda_region=-1", ["method.lambda_region=-1", "not be negative"]),
        ("method.rampup_iterations=-1", ["method.rampup_iterations=-1", "not be negative"]),
        ("method.region_grid=0", ["method.region_grid=0", "greater than 0"]),
        ("method.criterion.min_kept=-5", ["method.criterion.min_kept=-5", "not be negative"]),
        ("data.scales=", ["data.scales=()", "such as"]),
        ("evaluate.scales=1,0", ["evaluate.scales=(1.0, 0.0)", "greater than 0"]),
        ("evaluate.stride=1.5", ["evaluate.stride=1.5", "at most 1"]),
        ("train.epochs=0", ["train.epochs=0", "train.max_iterations"]),
        ("data.ignore_values=11,256", ["data.ignore_values=256", "0..255"]),
        ("data.ignore_values=-1", ["data.ignore_values=-1", "0..255"]),
        ("data.ignore_values=-254", ["data.ignore_values=-254", "0..255"]),
        (f"train.seed={2**32}", [f"train.seed={2**32}", f"below {2**32}"]),
        ("train.accumulate=3", ["train.batch_size=8", "train.accumulate=3", "choose a divisor"]),
    ],
)
def test_an_impossible_value_is_refused_with_key_value_and_remedy(text: str, words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        override(STUDENT, [text])
    assert all(word in str(error.value) for word in words), str(error.value)


def test_distillation_without_any_teacher_is_refused() -> None:
    with pytest.raises(UserError, match=r"method.deep_teacher and method.wide_teacher are both empty"):
        override(BASE, ["method=mgd"])


def test_a_value_of_the_wrong_type_in_python_is_refused_as_well() -> None:
    with pytest.raises(UserError, match=r"train.batch_size='8' must be a whole number"):
        replace(BASE, train=replace(BASE.train, batch_size="8"))
    with pytest.raises(UserError, match="method must be"):
        replace(BASE, method=BASE.train)


def test_another_method_starts_from_its_defaults_and_keeps_the_supervised_loss() -> None:
    switched = override(TEACHER, ["method=mgd", "method.deep_teacher=a.pt"])
    assert switched.method == MGD(deep_teacher=("a.pt",), criterion=CITY_CPS.criterion)
    assert override(STUDENT, ["method=supervised"]).method == Supervised()
    assert override(STUDENT, ["method=cps", "method.weight=2"]).method == CPS(weight=2.0)


@pytest.mark.parametrize("config", [BASE, STUDENT, TEACHER, replace(STUDENT, method=CITY_MGD)])
def test_a_config_survives_a_dict_and_json(config: Experiment) -> None:
    assert from_dict(to_dict(config)) == config
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize(("section", "key"), [("train", "lr_schedule"), ("method", "temperature"), ("data", "roots")])
def test_an_unknown_key_in_a_stored_config_is_named(section: str, key: str) -> None:
    values = to_dict(BASE)
    values[section][key] = 1
    with pytest.raises(UserError, match=f"{section}.{key} is not a key"):
        from_dict(values)


def test_an_unknown_section_in_a_stored_config_is_named() -> None:
    with pytest.raises(UserError, match="optimiser is not a section"):
        from_dict(to_dict(BASE) | {"optimiser": {}})


def test_a_config_file_and_its_folder_load_the_same(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    assert load(path) == load(tmp_path)
    assert load(path).model == BASE.model


def test_the_experiments_folder_and_the_partition_are_filled_in_after_the_overrides(tmp_path: Path) -> None:
    deep = ("official-{partition}.pth", "{experiment}/../deep{partition}/last.pt")
    method = f"MGD(deep_teacher={deep}, baseline='b{{partition}}.json')"
    config = load(write(tmp_path, MINIMAL.replace("Supervised()", method)), ["data.partition=16"])
    assert config.run.dir == f"{tmp_path}/run"
    assert isinstance(config.method, MGD)
    assert config.method.deep_teacher == ("official-16.pth", f"{tmp_path}/../deep16/last.pt")
    assert config.method.baseline == "b16.json"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (MINIMAL.replace("Supervised())", "Supervised("), ["SyntaxError"]),
        (MINIMAL.replace('"resnet18"', '"resnet18", depth=3'), ["depth"]),
        (MINIMAL.replace("Supervised()", "Supervized()"), ["Supervized"]),
        (MINIMAL.replace('root="data"', 'root="data", crop_size="big"'), ["data.crop_size='big'", "whole number"]),
        (MINIMAL.replace('root="data"', 'root="data", partition=1 // 0'), ["ZeroDivisionError"]),
        (MINIMAL.replace("config =", "experiment ="), ["config = Experiment(...)", "NoneType"]),
        ("import no_such_module_of_anyone", ["no_such_module_of_anyone"]),
    ],
)
def test_a_mistake_in_config_py_names_the_file(tmp_path: Path, text: str, words: list[str]) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UserError) as error:
        load(path)
    assert all(word in str(error.value) for word in [str(path), *words]), str(error.value)


def test_a_config_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{tmp_path}/config.py does not exist"):
        load(tmp_path)
