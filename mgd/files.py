"""Writing files so that what was there stays whole until the new content is: temporary name, then rename."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np

from mgd.errors import UserError


@contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """A file to write `path`'s new content into; it takes the name when the block ends without an error.

    Raises:
        UserError: the disk is full or the folder not writable.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch's zip writer turns a failed write into a RuntimeError
        kept = "the previous one is kept" if path.exists() else "nothing was written"
        raise UserError(f"{path} cannot be written ({error}); {kept}. Free space or choose another folder") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, atomically."""
    with atomic(path) as file:
        file.write(text.encode())


def write_json(path: Path, content: Any) -> None:
    """Write JSON, atomically."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def write_png(path: Path, rgb: np.ndarray) -> None:
    """Write RGB uint8 (H,W,3) as PNG, atomically."""
    done, encoded = cv2.imencode(".png", rgb[..., ::-1])
    assert done
    with atomic(path) as file:
        file.write(encoded.tobytes())
