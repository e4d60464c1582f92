"""Test an exported file against its card and golden photo, with nothing but ONNX Runtime and NumPy (no PyTorch)."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from mgd.errors import UserError


def verify(path: Path) -> str:
    """Run the file on the golden photo that lies beside it.

    Returns:
        A line that says what was compared.

    Raises:
        UserError: no file, no card, another file's card, or outputs that differ by more than the card allows.
    """
    card, golden = _beside(path)
    own = fingerprint(path)
    if own != card["sha256"]:
        raise UserError(
            f"{path} is not the file of its card: its SHA-256 begins with {own[:12]}, the card's with "
            f"{card['sha256'][:12]}; export it again, or put the two that belong together side by side"
        )
    image = golden.pop("image")
    found = _run(path, image)
    agreement = 1.0
    for name, expected in golden.items():
        if name not in found or found[name].shape != expected.shape:
            got = found[name].shape if name in found else "none"
            raise UserError(f"{path}: output {name} is {got}, the card's golden output {expected.shape}")
        if name == "label":
            agreement = float((found[name] == expected).mean())
    if "logits" in golden:
        agreement = float((found["logits"].argmax(1) == golden["logits"].argmax(1)).mean())
    least = card["tolerance"]["agreement"]
    if agreement < least:
        raise UserError(
            f"{path}: {100 * agreement:.3f} % of the golden photo's pixels have the card's label, expected "
            f"{100 * least:.2f} % or more; this runtime computes something else"
        )
    return f"{path} holds: {100 * agreement:.3f} % of {image.shape[1]}x{image.shape[2]} pixels have the card's label"


def fingerprint(path: Path) -> str:
    """SHA-256 of an exported file; of OpenVINO's .xml with the .bin beside it, which holds the weights."""
    digest = hashlib.sha256(path.read_bytes())
    if path.suffix == ".xml":
        weights = path.with_suffix(".bin")
        if not weights.is_file():
            raise UserError(f"{weights} does not exist; it holds the weights of {path}")
        digest.update(weights.read_bytes())
    return digest.hexdigest()


def _beside(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The card and the golden arrays of a file."""
    card_file, golden_file = (path.with_name(f"{path.name}.{suffix}") for suffix in ("json", "npz"))
    for file in (path, card_file, golden_file):
        if not file.is_file():
            raise UserError(f"{file} does not exist; mgd export writes a file, its card (.json) and a photo (.npz)")
    try:
        card = json.loads(card_file.read_text(encoding="utf-8"))
        with np.load(golden_file) as stored:
            golden = {name: stored[name] for name in stored.files}
        return {"sha256": card["sha256"], "tolerance": card["tolerance"]}, {"image": golden.pop("image"), **golden}
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise UserError(f"the card of {path} is damaged ({error}); export the file again") from error


def _run(path: Path, image: np.ndarray) -> dict[str, np.ndarray]:
    if path.suffix != ".onnx":  # the others need the package that made them
        from mgd.deploy.runtime import open_runner

        return open_runner(path).run(image)
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"onnxruntime is not installed ({error}): pip install onnxruntime") from error
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, {"image": image}), strict=True))
    except Exception as error:  # ONNX Runtime has an exception of its own for every status
        raise UserError(f"{path} cannot be run by ONNX Runtime ({str(error)[:200]})") from error
