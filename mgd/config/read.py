"""A config from a config.py, from `key.sub=value` or from a checkpoint's dict, and back to a dict."""

import dataclasses
import difflib
import runpy
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mgd.config.experiment import Experiment
from mgd.config.methods import METHODS, Method, Taught, method_name
from mgd.errors import UserError, first_few
from mgd.fields import hints, parse


def load(path: str | Path, overrides: typing.Sequence[str] = ()) -> Experiment:
    """Read `config` from a config.py, apply overrides such as `train.lr=0.01`, fill in the placeholders.

    Raises:
        UserError: no such file, broken Python, an unknown key, a wrong type, an impossible combination.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "config.py"
    if not path.is_file():
        below = sorted(str(file.parent) for file in path.parent.glob("*/config.py"))
        those = f", such as {first_few(below)}" if below else ""
        raise UserError(f"{path} does not exist; name an experiment's config.py or its folder{those}")
    try:
        config = runpy.run_path(str(path)).get("config")
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except Exception as error:  # config.py is a person's Python: whatever it raises is a mistake in it
        raise UserError(f"{path} cannot be read as a config: {type(error).__name__}: {error}") from error
    if not isinstance(config, Experiment):
        raise UserError(f"{path} must define `config = Experiment(...)`, found {type(config).__name__}")
    return fill_in(override(config, overrides), path.resolve().parent)


def family(config_file: str) -> types.SimpleNamespace:
    """The settings that experiments share: the names of family.py in the folder above; a config.py says `__file__`."""
    names = runpy.run_path(str(Path(config_file).resolve().parent.parent / "family.py"))
    return types.SimpleNamespace(**{name: value for name, value in names.items() if name.isupper()})


def override(config: Experiment, overrides: typing.Sequence[str]) -> Experiment:
    """Apply `key.sub=value` in turn; `method=NAME`, of `METHODS`, switches the method to that one's defaults.

    Values are checked together, after the last one.
    """
    values = to_dict(config)
    for text in overrides:
        key, separator, value = text.partition("=")
        if not separator:
            raise UserError(f"{text!r} is not an override; write key.sub=value, such as train.lr=0.01")
        if key == "method":
            kind = METHODS.get(value)
            if kind is None:
                raise UserError(f"method={value} is unknown; use {', '.join(METHODS)}")
            criterion = values["method"]["criterion"]
            values["method"] = {"name": value, **dataclasses.asdict(kind()), "criterion": criterion}
            continue
        _set(values, key, value)
    return from_dict(values)


def completed(config: dict[str, Any]) -> dict[str, Any]:
    """A config's dict, perhaps of an older version, with the keys that are newer at their defaults."""
    try:
        return to_dict(from_dict(config))
    except UserError:  # a key that is no more
        return config


def to_dict(config: Experiment) -> dict[str, Any]:
    """Plain nested dict, as stored in checkpoints and `config.json`; `method.name` tells the method's type."""
    values = dataclasses.asdict(config)
    values["method"] = {"name": method_name(config.method), **values["method"]}
    return values


def from_dict(values: dict[str, Any]) -> Experiment:
    """The inverse of `to_dict`. Raises UserError where a key or value does not fit."""
    values = dict(values)
    method = dict(values["method"])
    kind = METHODS.get(method.pop("name"))
    if kind is None:
        raise UserError(f"method.name={values['method']['name']!r} is unknown; use {', '.join(METHODS)}")
    return Experiment(**{k: _build(_section(k, kind), method if k == "method" else v, k) for k, v in values.items()})


def fill_in(config: Experiment, folder: Path) -> Experiment:
    """Replace {experiment} and {partition} in the paths that may hold them."""

    def fill(text: str) -> str:
        return text.replace("{experiment}", str(folder)).replace("{partition}", str(config.data.partition))

    method = config.method
    if isinstance(method, Taught):
        method = dataclasses.replace(
            method,
            deep_teacher=tuple(map(fill, method.deep_teacher)),
            wide_teacher=tuple(map(fill, method.wide_teacher)),
            baseline=fill(method.baseline),
            teach=dataclasses.replace(method.teach, dir=fill(method.teach.dir)),
        )
    model = dataclasses.replace(config.model, init_from=fill(config.model.init_from))
    run = dataclasses.replace(config.run, dir=fill(config.run.dir))
    return dataclasses.replace(config, model=model, method=method, run=run)


def _section(key: str, method: type[Method]) -> type:
    if key == "method":
        return method
    kind = typing.get_type_hints(Experiment).get(key)
    if kind is None:
        raise UserError(f"{key} is not a section of a config; use {', '.join(typing.get_type_hints(Experiment))}")
    return kind


def _build(kind: type, values: dict[str, Any], path: str) -> Any:
    known = hints(kind)
    for key in values:
        if key not in known:
            raise UserError(f"{path}.{key} is not a key; {_meant(key, known, f'{path}.')}")
    return kind(
        **{
            k: _build(known[k], v, f"{path}.{k}") if dataclasses.is_dataclass(known[k]) else _tuples(v)
            for k, v in values.items()
        }
    )


def _set(values: dict[str, Any], key: str, text: str) -> None:
    """Parse `text` as the type of `key` and store it."""
    *sections, last = key.split(".")
    kind: Any = Experiment
    for i, part in enumerate([*sections, last]):
        if not dataclasses.is_dataclass(kind):
            raise UserError(f"{key} is not a key of this config; {'.'.join(sections[:i])} has no keys below it")
        known = hints(kind)
        if part not in known:
            prefix = "".join(f"{s}." for s in [*sections, last][:i])
            raise UserError(f"{key} is not a key of this config; {_meant(part, known, prefix)}")
        kind = METHODS[values["method"]["name"]] if (i, part) == (0, "method") else known[part]
    if dataclasses.is_dataclass(kind):
        raise UserError(f"{key} is a section; set one of {', '.join(f'{key}.{k}' for k in hints(kind))}")
    for part in sections:
        values = values[part]
    values[last] = parse(text, kind, key)


def _meant(key: str, known: Iterable[str], prefix: str) -> str:
    """The key that a mistyped one is nearest to, or all that there are."""
    near = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {prefix}{near[0]}?" if near else f"use one of {', '.join(prefix + k for k in known)}"


def _tuples(value: Any) -> Any:
    """JSON has lists only."""
    return tuple(value) if isinstance(value, list) else value
