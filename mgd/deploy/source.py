"""What deployment needs of a checkpoint: network, classes with their colours, config."""

import shlex
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mgd.checkpoint import Recognised, config_of, network_of, recognise, save_safetensors
from mgd.config import Experiment, to_dict
from mgd.data.classes import BUILT_IN, Classes, read_classes, voc_color
from mgd.errors import UserError
from mgd.models.network import SegmentationNetwork
from mgd.published import experiment_for
from mgd.weights import checkpoint_file, read


@dataclass(frozen=True)
class Source:
    """A checkpoint that is to be used.

    Attributes:
        config: what it was trained with; the published evaluation for an official file; None when neither is known.
    """

    path: Path
    network: SegmentationNetwork
    classes: Classes
    config: Experiment | None

    @property
    def label_pattern(self) -> str:
        """What labels among photos are called, so that they are not taken for photos; "": there are none."""
        return self.config.data.label_pattern if self.config else ""


def open_source(path: str | Path, *, data_root: str = "") -> Source:
    """Load a checkpoint, ours or an official one, in eval mode.

    Args:
        data_root: where its data set lies now; "" takes what its config says.

    Raises:
        UserError: as `load_student`.
    """
    path = checkpoint_file(path)
    found = recognise(read(path), path)
    network = network_of(found, path).eval()
    config = _config_of(found, path)
    if config is not None and data_root:
        config = replace(config, data=replace(config.data, root=data_root))
    return Source(path, network, _classes_of(found, config), config)


def write_safetensors(source: Source, path: Path) -> None:
    """The weights with classes, colours and config, for `load_student`. Raises UserError when it cannot be written."""
    config = to_dict(source.config) if source.config else None
    classes = source.classes
    save_safetensors(path, source.network, config=config, classes=classes.names, colors=classes.colors)


def command_of(facts: dict[str, Any]) -> str:
    """The command line that trained a run, from its config.json; "" where that does not tell."""
    return shlex.join(["python", "-m", "mgd", *facts["command"][1:]]) if facts.get("command") else ""


def _config_of(found: Recognised, path: Path) -> Experiment | None:
    if (own := config_of(found, path)) is not None:
        return own
    try:
        return experiment_for(found.arch["backbone"], found.arch["num_classes"], path)
    except UserError:  # another class count: an official layout on data of one's own
        return None


def _classes_of(found: Recognised, config: Experiment | None) -> Classes:
    """Names and colours: the file's own, the data set's, or numbers and VOC's colour map."""
    count = found.arch["num_classes"]
    names = found.classes or tuple(f"class {i}" for i in range(count))
    if "colors" in found.extra:
        return Classes(names, tuple((red, green, blue) for red, green, blue in found.extra["colors"]))
    candidates = [*BUILT_IN.values()]
    if config is not None:
        with suppress(UserError):  # the data set is elsewhere: the names are in the checkpoint
            candidates.insert(0, read_classes(config.data.classes, Path(config.data.root)))
    for known in candidates:
        if known.names == names or (found.classes is None and len(known) == count):
            return known
    return Classes(names, tuple(voc_color(i) for i in range(count)))
