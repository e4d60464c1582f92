"""The house: what may import what in mgd/, and rules that every file there keeps."""

import ast
import graphlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "mgd").rglob("*.py"))
TREES = {file: ast.parse(file.read_text()) for file in FILES}

# From the bottom up. A unit (a file of mgd/, or a folder) imports from the layers below its own, never beside it.
LAYERS = (
    {"errors", "version"},
    {"fields", "extras", "statistics"},
    {"metrics", "config", "files", "parallel", "progress", "weights"},
    {"losses", "distillation_losses", "data"},
    {"models"},
    {"tensors", "draw", "figures", "rows", "scores"},
    {"checkpoint"},
    {"student"},
    {"published", "small", "objectives", "infer", "new"},
    {"evaluate", "teach"},
    {"compare", "convert", "check", "sheet"},
    {"engine", "deploy"},
    {"study", "report"},
    {"commands"},
    {"__init__", "__main__"},
)
HEIGHT = {unit: height for height, layer in enumerate(LAYERS) for unit in layer}


def module_of(file: Path) -> str:
    """mgd/data/cutmix.py -> mgd.data.cutmix; mgd/data/__init__.py -> mgd.data."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(file): file for file in FILES}


def unit_of(module: str) -> str:
    """mgd.data.cutmix -> data; mgd itself -> __init__."""
    return [*module.split("."), "__init__"][1]


def imports(file: Path) -> set[str]:
    """The modules that a file imports, anywhere in it; `from mgd import checkpoint` is mgd.checkpoint."""
    found: set[str] = set()
    for node in ast.walk(TREES[file]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}, line {node.lineno}: a relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in names}
    return found


def own_imports(file: Path) -> set[str]:
    return {name for name in imports(file) if name.split(".")[0] == "mgd"}


def calls(file: Path, function: str) -> list[int]:
    """Lines in which a built-in is called."""
    nodes = [node for node in ast.walk(TREES[file]) if isinstance(node, ast.Call)]
    return [node.lineno for node in nodes if isinstance(node.func, ast.Name) and node.func.id == function]


each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))


def test_every_unit_has_its_layer():
    units = {unit_of(module) for module in MODULES}
    assert units == set(HEIGHT), "mgd/ and LAYERS differ: put the new unit where its imports go downwards only"


@each_file
def test_imports_go_downwards_only(file):
    own = unit_of(module_of(file))
    wrong = {name for name in own_imports(file) if unit_of(name) != own and HEIGHT[unit_of(name)] >= HEIGHT[own]}
    assert not wrong


def test_no_module_imports_itself_by_a_detour():
    graph = {module: own_imports(file) - {module} for module, file in MODULES.items()}
    order = list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, which names the cycle
    assert set(order) == set(MODULES)


@each_file
def test_nothing_imports_an_experiment_a_test_or_a_benchmark(file):
    folders = {path.name.split(".")[0] for path in ROOT.iterdir() if path.is_dir() and path.name[0] != "."}
    assert {"exp", "tests", "mgd"} <= folders
    assert not {name.split(".")[0] for name in imports(file)} & (folders - {"mgd"} | {"benchmarks", "script"})


@each_file
def test_every_import_is_a_requirement_or_comes_with_python(file):
    # tensorboard comes in through torch.utils
    required = {"torch", "torchvision", "timm", "numpy", "scipy", "cv2", "PIL", "tqdm", "yaml", "safetensors"}
    roots = {name.split(".")[0] for name in imports(file)}
    optional = {  # used when it is there
        "optim.py": {"apex"},
        "pretrained.py": {"huggingface_hub"},  # timm brings it
        "shapes.py": {"pycocotools"},
        "qdq.py": {"onnxruntime"},
        "verify.py": {"onnxruntime"},
    }.get(file.name, set())
    assert roots <= required | optional | {"mgd"} | sys.stdlib_module_names


@each_file
def test_the_first_line_is_a_docstring(file):
    body = TREES[file].body
    assert ast.get_docstring(TREES[file])
    assert body[0].lineno == 1
    assert file.read_text().splitlines()[0].strip('"').strip()  # it tells the file's one job at once


@each_file
def test_only_the_commands_print(file):
    assert file.name == "__main__.py" or file.parent.name == "commands" or not calls(file, "print")


@each_file
def test_bars_are_those_that_a_dead_process_cannot_block(file):
    assert "tqdm" not in imports(file) or module_of(file) == "mgd.progress"


@each_file
def test_no_star_import(file):
    nodes = [node for node in ast.walk(TREES[file]) if isinstance(node, ast.ImportFrom)]
    assert not [node.lineno for node in nodes for alias in node.names if alias.name == "*"]


@each_file
def test_no_bare_except(file):
    nodes = [node for node in ast.walk(TREES[file]) if isinstance(node, ast.ExceptHandler)]
    assert not [node.lineno for node in nodes if node.type is None]
