"""Files of tensors and plain values, of torch.save or safetensors: read without running code that is in them."""

import hashlib
import json
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file as load_safetensors

from mgd.errors import UserError, first_few

FORMAT = "mgd-1"  # our own, which `mgd.checkpoint` writes
METADATA = "mgd"  # key in a safetensors file under which all but the tensors stands, as JSON
TAIL = 2**20  # bytes at the end of a checkpoint, where its zip directory has a checksum of every tensor
WEIGHTS = "model.safetensors"  # in a folder laid out as on the Hugging Face Hub


def checkpoint_file(path: str | Path) -> Path:
    """What is read where a checkpoint is named: of a folder as on the Hugging Face Hub its model.safetensors."""
    file = Path(path) / WEIGHTS
    return file if file.is_file() else Path(path)


def end_of(file: Path) -> str:
    """Digest of a checkpoint's size and end (of a file that is no zip: of the whole): other weights have another."""
    size = file.stat().st_size
    with open(file, "rb") as content:
        is_zip = content.read(4) == b"PK\x03\x04"  # what torch.save writes
        content.seek(max(0, size - TAIL) if is_zip else 0)
        return hashlib.sha256(f"{size}\n".encode() + content.read()).hexdigest()


def check_numbers(state: Mapping[str, torch.Tensor], path: str | Path) -> None:
    """Raise UserError where a file's weights are no finite floating point numbers, naming the first tensors."""
    learned = {name: tensor for name, tensor in state.items() if name.endswith((".weight", ".bias"))}
    if whole := [name for name, tensor in learned.items() if not tensor.is_floating_point()]:
        found = f"{learned[whole[0]].dtype}".removeprefix("torch.")
        raise UserError(f"{path} has {found} where weights are expected: {first_few(whole)}; use a file in float")
    if broken := [name for name, tensor in state.items() if not tensor.isfinite().all()]:
        raise UserError(f"{path} has values that are not finite: {first_few(broken)}; use another file")


def read(path: str | Path) -> Any:
    """Load a file of tensors and plain values, of torch.save or safetensors; code in it is never run.

    Of a folder its model.safetensors is read: the layout of the Hugging Face Hub.

    Raises:
        UserError: missing, a folder, truncated, no checkpoint, or a pickle that wants to run code.
    """
    path = checkpoint_file(path)
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"{path.absolute()} {found}; expected a checkpoint file")
    try:
        with open(path, "rb") as file:
            head = file.read(16)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if head[8:9] == b"{" or path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        with torch.serialization.safe_globals(NUMPY), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on bytes that are no checkpoint the unpickler raises whatever they lead it to
        complaint = _complaint(head, str(error))
        raise UserError(f"{path} {complaint}; expected a file of tensors written by torch.save") from error
    if is_ours(content) and (part := _damaged_part(path)):
        raise UserError(f"{path} is damaged: {part} in it is not what was written; copy it again")
    return content


def is_ours(content: Any) -> bool:
    """Whether `read` returned our format."""
    return isinstance(content, Mapping) and content.get("format") == FORMAT


def _damaged_part(path: Path) -> str | None:
    """The first part of one of our files that its checksum contradicts: torch reads it without a word.

    Files of others may have been written without checksums (torch.serialization.set_crc32_options).
    """
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as file:
        return file.testzip()


def _read_safetensors(path: Path) -> Any:
    """The tensors; what `save` writes, where `save_safetensors` wrote the file."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        state = load_safetensors(path)
        return {**json.loads(metadata[METADATA]), "model": state} if METADATA in metadata else state
    except ValueError as error:
        raise UserError(f"{path} has damaged metadata ({error}); copy it again") from error
    except (SafetensorError, OSError, struct.error) as error:
        raise UserError(f"{path} is a truncated or damaged safetensors file ({error}); copy it again") from error


# Old files may hold numpy numbers beside the tensors; these make numbers and arrays of numbers and do nothing else.
NUMPY: list[Any] = [
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    np.dtype,
    *{type(np.dtype(code)) for code in "?bhilqBHILQefd"},
]


def _complaint(head: bytes, error: str) -> str:
    """What is wrong with a file that cannot be loaded, from its first bytes and the loader's error."""
    refused = re.search(r"GLOBAL ([\w.]+)", error)
    if refused:
        return f"wants to run or build {refused[1]} when it is loaded and was refused"
    if not head:
        return "is empty"
    if head.startswith(b"PK"):
        return "is a truncated or damaged checkpoint, or another kind of zip file"
    if head.startswith(b"\x80"):
        return "is a truncated checkpoint, or a pickle that could run code and was refused"
    return f"is not a checkpoint: it begins with {head!r}"
