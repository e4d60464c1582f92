"""Files: text that is read, and writing so that what was there stays whole until the new content is."""

import codecs
import csv
import fcntl
import hashlib
import io
import json
import logging
import math
import os
import shutil
import stat
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO

import cv2
import numpy as np

from mgd.errors import UserError

log = logging.getLogger(__name__)

COARSE = 2.0  # seconds: how far apart times may be where a file system rounds them
ASKED = 1000  # files that one thread asks for at a time
SLOW = 5e-5  # seconds a file; a local disk answers in a tenth of that
BYTE_ORDER_MARKS = {  # the longest first: UTF-32's begins with UTF-16's
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def locked_by_another(file: IO[Any]) -> bool:
    """Lock a file that is open for writing, unless another process has: the system unlocks it however this one ends.

    Closing any descriptor of the file in this process unlocks it as well. A file system without locks keeps nobody out.
    """
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return True
    except OSError as error:
        log.debug("%s cannot be locked (%s): nothing keeps other processes out", file.name, error)
    return False


@contextmanager
def atomic(path: Path, *, durable: bool = False) -> Iterator[BinaryIO]:
    """A file to write `path`'s new content into; it takes the name when the block ends without an error.

    Args:
        durable: wait until the content is on the disk, so that it survives a machine that goes down.

    Raises:
        UserError: the disk is full or the folder not writable.
    """
    temporary = path.with_name(f".{path.name}.tmp")  # one name, so that what a killed process left is written over
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch's zip writer turns a failed write into a RuntimeError
        kept = "the previous one is kept" if path.exists() else "nothing was written"
        raise UserError(f"{path} cannot be written ({error}); {kept}. Free space or choose another folder") from error
    finally:
        with suppress(OSError):  # gone, or its folder could not be made
            temporary.unlink()


def link(source: Path, target: Path) -> None:
    """The same content under another name: a hard link, or a copy where the file system has none.

    What was there stays until the new content is whole, and for good where it is `source` itself.
    """
    if target.exists() and os.path.samefile(source, target):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    linked = target.with_name(f".{target.name}.link")  # not atomic's: who writes into it writes into the source
    try:
        linked.unlink(missing_ok=True)
        os.link(os.path.realpath(source), linked)  # of a symbolic link what it leads to
        os.replace(linked, target)
    except OSError:
        with atomic(target) as file, open(source, "rb") as content:
            shutil.copyfileobj(content, file)
        with suppress(OSError):  # by its time `is_linked` knows it again
            os.utime(target, ns=(source.stat().st_atime_ns, source.stat().st_mtime_ns))
    finally:
        with suppress(OSError):
            linked.unlink()


def is_linked(source: Path, target: Path) -> bool:
    """Whether `target` is what `link` made of `source`: the same file, or a copy of its size and time."""
    if not source.is_file() or not target.is_file():
        return False
    if os.path.samefile(source, target):
        return True
    own, other = source.stat(), target.stat()
    return own.st_size == other.st_size and abs(own.st_mtime - other.st_mtime) <= COARSE


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes, atomically."""
    with atomic(path) as file:
        file.write(content)


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write files that belong together: none takes its name before the content of all is written.

    Raises:
        UserError: as `atomic`.
    """
    with ExitStack() as stack:
        for path, content in contents.items():
            file = stack.enter_context(atomic(path))
            file.write(content)
            file.flush()


def read_text(path: Path) -> str:
    """The content of a UTF-8 text file, or of one that begins with a byte order mark, as Windows programs write.

    Line ends become newlines.

    Raises:
        UserError: it cannot be read or is no text.
    """
    try:
        content = path.read_bytes()
        encoding = next((name for mark, name in BYTE_ORDER_MARKS.items() if content.startswith(mark)), "utf-8")
        text = content.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as text ({error}); expected a UTF-8 text file") from error
    if "\0" in text:
        raise UserError(f"{path} holds zero bytes, so it is no text, or UTF-16 without its mark; expected UTF-8")
    return text


def sha256_of(path: Path) -> str:
    """Of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank. Raises UserError as `read_text`.

    Newlines alone end a line: `str.splitlines` would cut names at form feeds and at other signs too.
    """
    return [line for line in read_text(path).split("\n") if line.strip()]


def states_of(paths: Sequence[str]) -> np.ndarray:
    """(N,3) int64 of files: bytes, time of the last change in whole seconds, and a number of the file.

    Paths that lead to one file, such as links, have one number. -1 where there is no file.
    """
    parts = (paths[start : start + ASKED] for start in range(0, len(paths), ASKED))
    found = [np.zeros(0, np.int64)]
    for part in parts:  # several threads would only be in each other's way ...
        begun = time.perf_counter()
        found.append(_states(part))
        if time.perf_counter() - begun > SLOW * len(part):
            break
    with ThreadPoolExecutor(16) as pool:  # ... but on a network drive it is waiting that takes the time
        found += pool.map(_states, parts)
    return np.concatenate(found).reshape(-1, 3)


def _states(paths: Sequence[str]) -> np.ndarray:
    return np.array([value for path in paths for value in _state(path)], np.int64)


def _state(path: str) -> tuple[int, int, int]:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return -1, -1, -1
    if not stat.S_ISREG(status.st_mode):
        return -1, -1, -1
    return status.st_size, int(status.st_mtime), hash((status.st_dev, status.st_ino))


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, atomically."""
    write_bytes(path, text.encode())


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a list, one entry a line, atomically."""
    write_text(path, "".join(f"{line}\n" for line in lines))


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """Rows as CSV, the header among them."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def write_json(path: Path, content: Any) -> None:
    """Write JSON, atomically; null for a number that is not finite, for which JSON has no word."""
    write_bytes(path, json_bytes(content))


def json_bytes(content: Any) -> bytes:
    """As `write_json` writes it."""
    return f"{json.dumps(_finite(content), indent=1, allow_nan=False)}\n".encode()


def _finite(content: Any) -> Any:
    """A copy with None for every float that is not finite."""
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def below(folder: Path, name: str, suffix: str) -> Path:
    """The file of that name, which may have folders in it, below `folder`.

    Raises:
        UserError: the name leads elsewhere.
    """
    path = folder / f"{name}{suffix}"
    if not name or not Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder)):
        raise UserError(f"{name!r} would be written outside {folder}; names are paths below the data's root")
    return path


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Write uint8 as PNG, RGB (H,W,3) or one channel (H,W) such as a label map, atomically."""
    done, encoded = cv2.imencode(".png", pixels[..., ::-1] if pixels.ndim == 3 else pixels)
    assert done
    write_bytes(path, encoded.tobytes())
