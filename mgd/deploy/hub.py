"""A student in a folder laid out as on the Hugging Face Hub: weights, config.json, a model card made from its run."""

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from mgd.config import method_name
from mgd.deploy.card import LICENCE
from mgd.deploy.profile import count, evaluated_miou
from mgd.deploy.source import Source, command_of, open_source, write_safetensors
from mgd.errors import UserError
from mgd.extras import need
from mgd.files import read_text, write_json
from mgd.models.network import SegmentationNetwork
from mgd.weights import WEIGHTS

_hub: Any = need("huggingface_hub", extra="hub")  # the class below derives from one of its own
CARD = """
# {name}

A {backbone} network with the head {head} for semantic segmentation in {classes} classes, trained by
[mgd](https://arxiv.org/abs/2208.10169): multi-granularity distillation from few labelled images.

{score}

| | |
|---|---|
| parameters | {parameters:.2f} M |
| multiply-accumulates at 512x512 | {macs:.2f} G |
| normalisation (inside `predict`) | mean {mean}, std {std} |
| short side that photos are shrunk to | {short_side} |
| classes | {names} |

## Use

```python
import mgd

network = mgd.load_student("FOLDER")  # this repository, downloaded
label = network.predict("photo.jpg")  # uint8 (H,W)
```

or `mgd.deploy.hub.HubStudent.from_pretrained("USER/REPOSITORY")`, which downloads it; it has `.network` and `.predict`.

## Training

{training}

## Licence

{licence}
"""


class HubStudent(_hub.ModelHubMixin):
    """A network with `save_pretrained`, `push_to_hub` and `from_pretrained`, as huggingface_hub's mixin gives them.

    Attributes:
        source: the network with its classes and config.
    """

    def __init__(self, source: Source, name: str = "") -> None:
        """`name`: on the card; "" takes that of the run's folder."""
        self.source, self.name = source, name

    @property
    def network(self) -> SegmentationNetwork:
        """In eval mode: normalised images (N,3,H,W) -> logits (N,K,H,W)."""
        return self.source.network

    def predict(self, photo: str | Path | np.ndarray) -> np.ndarray:
        """Label map uint8 (H,W) of a photo: a file, or RGB uint8 (H,W,3)."""
        return self.network.predict(photo)

    def generate_model_card(self, *_: Any, **__: Any) -> Any:
        """What the network is, its score and how it was trained; README.md of the repository."""
        miou = evaluated_miou(self.source.path)
        folder = self.source.path.absolute().parent
        name = self.name or (folder.parent.name if folder.name == "run" else folder.name)
        results = None
        if miou is not None:
            task = {"task_type": "image-segmentation", "dataset_type": "custom", "dataset_name": _data(self.source)}
            results = [_hub.EvalResult(**task, metric_type="mean_iou", metric_value=round(miou, 4))]
        tags = ["semantic-segmentation", "knowledge-distillation", "semi-supervised"]
        data = _hub.ModelCardData(
            library_name="mgd",
            pipeline_tag="image-segmentation",
            tags=tags,
            license="other",
            model_name=name,
            eval_results=results,
        )
        return _hub.ModelCard(f"---\n{data.to_yaml()}\n---\n{_text(self.source, name, miou)}")

    def _save_pretrained(self, save_directory: Path) -> None:
        write_safetensors(self.source, save_directory / WEIGHTS)
        facts = {"architecture": self.network.arch, "short_side": self.network.short_side}
        write_json(save_directory / "config.json", {**facts, "id2label": dict(enumerate(self.source.classes.names))})

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **options: Any) -> "HubStudent":
        file = Path(model_id) / WEIGHTS
        if not Path(model_id).is_dir():
            known = ("revision", "cache_dir", "force_download", "local_files_only", "token")
            wanted = {key: value for key, value in options.items() if key in known}
            file = Path(_hub.hf_hub_download(repo_id=model_id, filename=WEIGHTS, **wanted))
            return cls(open_source(file), name=model_id.rpartition("/")[2])  # not that of the cache's folder
        return cls(open_source(file))


def write_folder(source: Source, folder: Path) -> None:
    """Write a folder that can be pushed to the Hub as it is.

    Raises:
        UserError: there is something in it already, or it cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not an empty folder; choose another --out")
    temporary, was_there = folder / ".writing", folder.exists()
    try:
        HubStudent(source).save_pretrained(temporary)
        for file in list(temporary.iterdir()):
            file.replace(folder / file.name)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error}); free space or choose another folder") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if not was_there:
            with suppress(OSError):  # it holds something
                folder.rmdir()


def _data(source: Source) -> str:
    return Path(source.config.data.root).name if source.config else "not told by the checkpoint"


def _text(source: Source, name: str, miou: float | None) -> str:
    network, arch = source.network, source.network.arch
    score = f"**mIoU {100 * miou:.2f} %** on the validation list of {_data(source)}." if miou is not None else ""
    return CARD.format(
        name=name,
        backbone=arch["backbone"],
        head=arch["head"],
        classes=len(source.classes),
        score=score or "There is no evaluation beside its checkpoint that was made as its config says.",
        parameters=sum(p.numel() for p in network.parameters()) / 1e6,
        macs=count(network, 512)[0].whole / 1e9,
        mean=list(network.mean),
        std=list(network.std),
        short_side=network.short_side or "their own",
        names=", ".join(source.classes.names),
        training=_training(source),
        licence=LICENCE,
    )


def _training(source: Source) -> str:
    """Method, partition and the exact command, as far as the run's folder tells."""
    lines = []
    if source.config is not None:
        method, partition = method_name(source.config.method), source.config.data.partition
        lines.append(f"Method `{method}`, 1/{partition} of the training images with labels.")
    facts = source.path.with_name("config.json")
    if facts.is_file():
        try:
            found = json.loads(read_text(facts))
            lines.append(f"```bash\n{command_of(found)}\n```")
            lines.append(", ".join(f"{key} {value}" for key, value in found.get("versions", {}).items()))
        except (ValueError, KeyError, TypeError, AttributeError):
            pass  # another program's config.json, such as the Hub's own
    return "\n\n".join(lines) or "Not told by the checkpoint."
