"""Where in a file's content the tensors of a network are: under which key, behind which prefix."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mgd.models.backbones import recognise_backbone

State = dict[str, Tensor]
USUAL = ("model", "state_dict")  # keys under which most programs save weights
WRAPPERS = ("module.", "_orig_mod.")  # put in by DataParallel and torch.compile, anywhere in a name
ANCHORS = ("classifier.weight", "head.last_conv.0.weight")  # every DeepLabV3+ of this family has them
DEPTH = 4  # of mappings in mappings; optimisers go deeper and hold no network
SHOWN = 4


@dataclass(frozen=True)
class Candidate:
    """A segmentation network in a file: what is behind `prefix` in the mapping under `key` ("" is the file's own)."""

    key: str
    prefix: str
    tensors: State  # of the whole mapping, wrappers' prefixes taken off

    @property
    def state(self) -> State:
        """The network's own tensors, by our names."""
        return {n.removeprefix(self.prefix): t for n, t in self.tensors.items() if n.startswith(self.prefix)}

    @property
    def others(self) -> list[str]:
        """What else the mapping holds."""
        return [name for name in self.tensors if not name.startswith(self.prefix)]

    def __str__(self) -> str:
        return ".".join(filter(None, (self.key, self.prefix.rstrip(".")))) or "the file itself"


def find_networks(content: Any) -> list[Candidate]:
    """Every segmentation network in what a file holds."""
    found = []
    for key, mapping in _states(content):
        tensors = {unwrapped(name): tensor for name, tensor in mapping.items()}
        ends = [name.removesuffix(ANCHORS[0]) for name in tensors if name.endswith(ANCHORS[0])]
        prefixes = [end for end in ends if (not end or end.endswith(".")) and f"{end}{ANCHORS[1]}" in tensors]
        found += [Candidate(key, prefix, tensors) for prefix in prefixes]
    return found


def flat_state(content: Any) -> State | None:
    """The tensors of a bare state dict, or of the one under `model`, `state_dict` or the only key that holds any."""
    states = dict(_states(content))
    usual = [states[key] for key in (*USUAL, "") if key in states]
    return next(iter(usual or (states.values() if len(states) == 1 else [])), None)


def unwrapped(name: str) -> str:
    """A tensor's name without what DataParallel and torch.compile put into it."""
    for wrapper in WRAPPERS:
        name = f".{name}".replace(f".{wrapper}", ".")[1:]
    return name


def describe(content: Any) -> str:
    """What a file holds, for messages: each mapping of tensors with its size, its first name, its backbone if known."""
    parts = []
    for key, state in _states(content):
        shapes = {unwrapped(n).split("backbone.")[-1]: tuple(t.shape) for n, t in state.items()}
        backbone = recognise_backbone(shapes)
        what = f"{len(state)} tensors, first {next(iter(state))}" + (f" (a {backbone} backbone)" if backbone else "")
        parts.append(f"{what} under {key!r}" if key else what)
    if not parts and isinstance(content, Mapping):
        return f"0 tensors (keys {', '.join(map(str, list(content)[:SHOWN])) or 'none'})"
    return "; ".join(parts[:SHOWN]) or f"0 tensors (a {type(content).__name__})"


def _states(content: Any, key: str = "", depth: int = 0) -> Iterator[tuple[str, State]]:
    """(key, tensors) of every mapping that holds tensors by name, from the outside in."""
    if not isinstance(content, Mapping) or depth == DEPTH:
        return
    if own := {name: value for name, value in content.items() if isinstance(value, Tensor) and isinstance(name, str)}:
        yield key, own
    for name, value in content.items():
        if isinstance(name, str):
            yield from _states(value, f"{key}.{name}".lstrip("."), depth + 1)
