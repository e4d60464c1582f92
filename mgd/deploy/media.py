"""What predictions are made on: photos, folders, globs, video files, a webcam; and the videos that they make."""

import glob
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mgd.data.folders import photos_in
from mgd.errors import UserError, first_few

VIDEO_SUFFIXES = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"}


@dataclass(frozen=True)
class Photo:
    """A file to predict, and where below the output folder its results go (no suffix)."""

    file: Path
    name: Path


@dataclass(frozen=True)
class Video:
    """A file, or a webcam's number as text."""

    source: str
    name: Path


def find_media(paths: Sequence[str], *, label_pattern: str = "") -> list[Photo | Video]:
    """Everything that the paths name; a folder's photos keep their paths below it.

    Args:
        label_pattern: of labels among a folder's photos, which are none.

    Raises:
        UserError: a path does not exist, a glob or folder has nothing, or two results would get one name.
    """
    found: list[Photo | Video] = []
    for text in dict.fromkeys(paths):
        if text.isdecimal() and not Path(text).exists():
            found.append(Video(text, Path(f"webcam-{text}")))
            continue
        matches = [text] if Path(text).exists() else sorted(glob.glob(text, recursive=True))
        if not matches:
            raise UserError(f"{text} does not exist and matches nothing; name a photo, folder, glob, video or webcam")
        for match in matches:
            found += _in(Path(match), label_pattern)
    counts = Counter(medium.name for medium in found)
    if twice := [name for name, count in counts.items() if count > 1]:
        both = first_few(m.file if isinstance(m, Photo) else m.source for m in found if m.name == twice[0])
        remedy = "rename one, or predict them into different --out folders"
        raise UserError(f"{both} would be written under one name, {twice[0]}; {remedy}")
    return found


def check_frames(media: Sequence[Photo | Video]) -> None:
    """Raise UserError where a photo's results would lie among a video's, which are written frame by frame."""
    videos = {medium.name: medium.source for medium in media if isinstance(medium, Video)}
    for medium in media:
        if isinstance(medium, Photo) and (name := next(filter(videos.get, medium.name.parents), None)):
            both = f"{medium.file} and the frames of {videos[name]}"
            raise UserError(f"{both} would be written into one folder, {name}; choose an --out for each")


def without_results(media: Sequence[Photo | Video], folders: Sequence[Path]) -> list[Photo | Video]:
    """All but the photos that lie in these folders, into which results are written: an earlier prediction's."""
    inner = {folder.resolve() for folder in folders}

    def is_result(medium: Photo | Video) -> bool:
        return isinstance(medium, Photo) and not inner.isdisjoint(medium.file.resolve().parents)

    return [medium for medium in media if not is_result(medium)]


def _in(path: Path, label_pattern: str) -> list[Photo | Video]:
    if path.is_dir():
        return [Photo(file, file.relative_to(path).with_suffix("")) for file in photos_in(path, label_pattern)]
    name = Path(path.stem)
    return [Video(str(path), name) if path.suffix.lower() in VIDEO_SUFFIXES else Photo(path, name)]


class Frames:
    """The frames of a video, RGB uint8 (H,W,3).

    Attributes:
        fps: frames a second, 25 where the source does not say.
        expected: how many the file says it has; 0: unknown, or a webcam.
        read: how many came.

    Raises:
        UserError: it cannot be opened.
    """

    def __init__(self, source: str) -> None:
        webcam = source.isdecimal()
        self.capture = cv2.VideoCapture(int(source) if webcam else source)
        if not self.capture.isOpened():
            kind = "webcam" if webcam else "video"
            raise UserError(f"{source} cannot be opened as a {kind}; expected one that OpenCV can read")
        self.fps = self.capture.get(cv2.CAP_PROP_FPS) or 25.0
        self.expected = 0 if webcam else max(0, int(self.capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        self.read = 0

    def __iter__(self) -> Iterator[np.ndarray]:
        try:
            while True:
                more, frame = self.capture.read()
                if not more:
                    return
                self.read += 1
                yield np.ascontiguousarray(frame[..., ::-1])
        finally:
            self.capture.release()


@contextmanager
def new_video(path: Path, fps: float) -> Iterator[Callable[[np.ndarray], None]]:
    """A function that adds RGB frames (H,W,3) to an .mp4 file, which gets its name when the block ends without error.

    The format has even sides: where a frame's is odd its last row or column is there twice.

    Raises:
        UserError: it cannot be written, or not to its end.
    """
    temporary = path.with_name(f".{path.name}.tmp.mp4")
    writer, written = cv2.VideoWriter(), 0

    def write(frame: np.ndarray) -> None:
        nonlocal written
        frame = np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge")
        if not written:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not writer.open(str(temporary), cv2.VideoWriter.fourcc(*"mp4v"), fps, frame.shape[1::-1]):
                raise OSError("OpenCV cannot open it")
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
        written += 1

    try:
        yield write
        writer.release()
        if written and _frames_in(temporary) < written:  # OpenCV says nothing of a full disk
            raise OSError("the disk is full")
        if written:
            temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error}); free space or choose another folder") from error
    finally:
        writer.release()
        with suppress(OSError):  # gone, or its folder could not be made
            temporary.unlink()


def _frames_in(file: Path) -> int:
    """How many a video file says it has; 0 where it cannot be opened."""
    return max(0, int(cv2.VideoCapture(str(file)).get(cv2.CAP_PROP_FRAME_COUNT)))
