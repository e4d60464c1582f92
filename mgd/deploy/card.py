"""The card beside an exported file: what it is, how far it is from the checkpoint, and a photo to test it with."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from mgd.errors import UserError
from mgd.files import json_bytes

FORMAT = "mgd-card-1"
LICENCE = (
    "The weights are as free as the photos and labels that they were trained on and the ImageNet weights that they "
    "started from; this program's own licence (MIT) does not cover them."
)


def card_path(file: Path) -> Path:
    """student.onnx -> student.onnx.json."""
    return file.with_name(f"{file.name}.json")


def golden_path(file: Path) -> Path:
    """student.onnx -> student.onnx.npz: `image`, a photo (a fixed batch of it), and the outputs by their names."""
    return file.with_name(f"{file.name}.npz")


def golden_bytes(image: np.ndarray, outputs: dict[str, np.ndarray]) -> bytes:
    """What lies in `golden_path`."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, image=image, **outputs)  # type: ignore[arg-type]
    return buffer.getvalue()


def card_bytes(file: Path, content: dict[str, Any]) -> bytes:
    """What lies in `card_path`."""
    return json_bytes({"format": FORMAT, "file": file.name, **content})


def read_card(file: Path) -> dict[str, Any] | None:
    """The card of an exported file; None when there is none.

    Raises:
        UserError: it is damaged, or the golden photo is gone.
    """
    path, photo = card_path(file), golden_path(file)
    if not path.is_file():
        return None
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        card = None
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise UserError(f"{path} is not a card that this version writes ({FORMAT}); export {file} again")
    if not photo.is_file():
        raise UserError(f"{photo} does not exist; put it back beside {file}, or export that again")
    return card
