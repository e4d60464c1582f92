"""Typed fields of dataclasses: parse a text as a field's type, check values against types, say what a type wants."""

import ast
import dataclasses
import math
import types
import typing
from typing import Annotated, Any, Literal

from mgd.errors import UserError

ABOVE_0, FROM_0 = "must be greater than 0", "must not be negative"
PositiveInt = Annotated[int, ABOVE_0]
PositiveFloat = Annotated[float, ABOVE_0]
Count = Annotated[int, FROM_0]
NonNegative = Annotated[float, FROM_0]
CHECKPOINTS = (".pt", ".pth", ".tar", ".ckpt", ".bin", ".safetensors")  # what their files' names end in


def hints(kind: Any) -> dict[str, Any]:
    """Field name -> type."""
    types_of = typing.get_type_hints(kind)
    return {f.name: types_of[f.name] for f in dataclasses.fields(kind)}


def parse(text: str, kind: Any, key: str) -> Any:
    """Text -> value of a field's type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        return tuple(parse(part, arguments[0], key) for part in split(text))
    if origin in (typing.Union, types.UnionType):
        inner = next(a for a in arguments if a is not type(None))
        return None if text.lower() == "none" else parse(text, inner, key)
    if origin is Literal or kind is str:
        return text
    if kind is bool:
        words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        if text.lower() in words:
            return words[text.lower()]
    else:
        try:
            return kind(text)
        except ValueError:
            pass
    raise UserError(f"{key}={text} must be {describe(kind)}")


def split(text: str) -> list[str]:
    """The values of a list: `a,b`, `(a, b)`, `[a, b]`, or in quotes as Python writes them, which keep any comma.

    Brackets and commas that belong to a path stay in it: brackets count as a list's own only around all of it, and
    where a value ends like a checkpoint's file, so do all that a comma follows.
    """
    text = text.strip()
    try:
        values = ast.literal_eval(text)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        values = None
    if isinstance(values, (list, tuple)) and values and all(isinstance(value, str) for value in values):
        return list(values)
    if _is_bracketed(text):
        text = text[1:-1]
    parts, files = [""], any(part.strip().endswith(CHECKPOINTS) for part in text.split(","))
    for part in text.split(","):
        if files and parts[-1] and not parts[-1].strip().endswith(CHECKPOINTS):
            parts[-1] += f",{part}"
        else:
            parts.append(part)
    return [part.strip() for part in parts if part.strip()]


def _is_bracketed(text: str) -> bool:
    """Whether the first bracket is closed by the last character."""
    if not text or f"{text[0]}{text[-1]}" not in ("()", "[]"):
        return False
    depths = [text[: i + 1].count(text[0]) - text[: i + 1].count(text[-1]) for i in range(len(text) - 1)]
    return all(depth > 0 for depth in depths)


def check_types(section: Any, path: str) -> None:
    """Raise UserError naming the first field of a dataclass, sections included, whose value is of another type."""
    for key, kind in hints(type(section)).items():
        value, name = getattr(section, key), f"{path}{key}"
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            if not isinstance(value, kind):
                raise UserError(f"{name} must be {describe(kind)}, found {type(value).__name__}")
            check_types(value, f"{name}.")
        elif not fits(value, kind):
            raise UserError(f"{name}={value!r} must be {describe(kind)}")


def check_ranges(section: Any, path: str) -> None:
    """Raise UserError naming the first number of a dataclass, sections included, that is outside its field's range."""
    annotated = typing.get_type_hints(type(section), include_extras=True)
    for field in dataclasses.fields(section):
        value, name = getattr(section, field.name), f"{path}{field.name}"
        if dataclasses.is_dataclass(value):
            check_ranges(value, f"{name}.")
        for limit in getattr(annotated[field.name], "__metadata__", ()):
            if value < 0 or (limit == ABOVE_0 and value == 0):
                raise UserError(f"{name}={value} {limit}")


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a field's type; a whole number is a float too, NaN and infinity are not."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        return isinstance(value, tuple) and all(fits(item, arguments[0]) for item in value)
    if origin is Literal:
        return value in arguments
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, argument) for argument in arguments)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def describe(kind: Any) -> str:
    """What a field of this type wants, for messages."""
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is Literal:
        return " or ".join(map(str, arguments))
    if typing.get_origin(kind) is tuple:
        return f"values separated by commas, each {describe(arguments[0])}"
    if arguments:
        return " or ".join(describe(argument) for argument in arguments)
    words = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text", type(None): "none"}
    return words.get(kind, getattr(kind, "__name__", str(kind)))
