"""Photos and videos without labels -> label maps, colours, overlays with a legend, confidence maps."""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mgd.config import Evaluate
from mgd.data.classes import Classes
from mgd.data.formats.back import check_empty, write_one, write_rest
from mgd.data.formats.table import WRITERS
from mgd.data.images import load_image
from mgd.data.transforms import resize, shrink
from mgd.deploy.media import Frames, Photo, Video, check_frames, new_video
from mgd.deploy.source import Source
from mgd.draw import legend, overlay
from mgd.errors import UserError, first_few
from mgd.files import write_png
from mgd.infer import predict_confidence
from mgd.models.any_size import any_size
from mgd.models.folding import for_inference
from mgd.models.normalise import NormalisingNetwork
from mgd.models.photo import PhotoGraph, shrunk_size
from mgd.progress import Progress

KINDS = ("label", "color", "overlay", "confidence")
OF_VIDEOS = ("label", "overlay", "confidence")
OF_FRAMES = ("label", "confidence")  # of a video, frame by frame; its overlay is one file
TOOLS = tuple(WRITERS)  # annotation tools that take label maps to correct
WHOLE = 4_000_000  # pixels of a photo, as the network sees it, above which it is cut into tiles
SCORES = 2**28  # scores (classes x pixels) that may be in memory at once: 1 GiB; more are made row by row
TILE, OVERLAP = 1024, 128  # pixels
AHEAD, AHEAD_PIXELS = 4, 2**25  # photos that are decoded while others are predicted: so many, of so many pixels

Maps = tuple[np.ndarray, np.ndarray]  # label and confidence (0..255), uint8 (H,W)


def predict(network: NormalisingNetwork, image: str | Path | np.ndarray) -> np.ndarray:
    """Label map uint8 (H,W) of a photo: a file, or RGB uint8 (H,W,3). Raises UserError as `load_image`."""
    return network.predict(image)


@dataclass
class Tally:
    """What came of a prediction."""

    photos: int = 0
    frames: int = 0  # of videos and webcams
    problems: list[str] = field(default_factory=list)  # sentences
    notes: list[str] = field(default_factory=list)  # how annotation tools take what was written


@dataclass(frozen=True, kw_only=True)
class Job:
    """How and where to.

    Attributes:
        kinds: some of `KINDS` and `TOOLS`, each a folder below `out`. Of videos there are those in `OF_VIDEOS`.
        slide: the published sliding windows in place of the whole image.
        batch: photos of one size that go through the network together.
        frames: of a video or webcam, at most; 0: all.
    """

    out: Path
    kinds: tuple[str, ...] = KINDS
    slide: bool = False
    batch: int = 1
    frames: int = 0


def predict_media(
    source: Source, media: Sequence[Photo | Video], job: Job, device: torch.device, *, progress: bool = False
) -> Tally:
    """Predict everything and write it; what cannot be read is told in the tally and left out.

    Raises:
        UserError: the folder of an annotation tool's format is not empty, a file cannot be written, there is a video
            and no kind that is written of these, or photos are named as its frames are.
    """
    videos = [medium for medium in media if isinstance(medium, Video)]
    if videos and not {*job.kinds} & {*OF_VIDEOS}:
        raise UserError(
            f"of a video, such as {videos[0].source}, there is no {first_few(job.kinds)}; write {', '.join(OF_VIDEOS)} "
            "as well, or leave it out"
        )
    if {*job.kinds} & {*OF_FRAMES}:
        check_frames(media)
    tally = Tally()
    made: dict[str, list[Any]] = {kind: [] for kind in job.kinds if kind in TOOLS}
    for form in made:
        check_empty(job.out / form)
    segment = _segmenter(source, job, device)
    photos = [medium for medium in media if isinstance(medium, Photo)]
    bar = Progress(total=len(photos) or None, unit="image", disable=None if progress else True)
    readable = _readable(photos, tally)
    for _, group in groupby(readable, key=lambda pair: pair[1].shape):
        rest = iter(group)
        while chunk := [*islice(rest, job.batch)]:
            together = np.stack([pixels for _, pixels in chunk]) if len(chunk) > 1 else chunk[0][1][None]
            for (photo, pixels), maps in zip(chunk, segment(together), strict=True):
                _write(job, photo.name, pixels, maps, source.classes)
                for form, so_far in made.items():
                    name = photo.name.as_posix()
                    so_far.append(write_one(job.out / form, form, name, photo.file, maps[0], source.classes))
                tally.photos += 1
                bar.update()
    for video in videos:
        try:
            _predict_video(video, job, segment, source.classes, tally, bar)
        except UserError as error:
            tally.problems.append(str(error))
    bar.close()
    tally.notes = [write_rest(job.out / form, form, found, source.classes) for form, found in made.items() if found]
    return tally


def tiles(length: int) -> Iterator[tuple[int, int, int, int]]:
    """(start, stop, from, to) along a side: a tile's ends, and the part of it that counts, half the overlap away."""
    if length <= TILE:
        yield 0, length, 0, length
        return
    step = TILE - OVERLAP
    starts = [*range(0, length - TILE, step), length - TILE]
    for i, start in enumerate(starts):
        first = 0 if i == 0 else (start + starts[i - 1] + TILE) // 2
        last = length if i == len(starts) - 1 else (starts[i + 1] + start + TILE) // 2
        yield start, start + TILE, first, last


def _readable(photos: Sequence[Photo], tally: Tally) -> Iterator[tuple[Photo, np.ndarray]]:
    """The photos that can be read, in order; the next ones are decoded meanwhile, fewer of them the larger they are."""
    coming, waiting = iter(photos), deque[Future[np.ndarray]]()
    ahead = 0
    with ThreadPoolExecutor(max_workers=2) as pool:
        for photo in photos:
            more = islice(coming, max(0, 1 + ahead - len(waiting)))
            waiting.extend(pool.submit(load_image, one.file) for one in more)
            try:
                pixels = waiting.popleft().result()
            except UserError as error:
                tally.problems.append(str(error))
                continue
            ahead = min(AHEAD, AHEAD_PIXELS // math.prod(pixels.shape[:2]))
            yield photo, pixels


def _segmenter(source: Source, job: Job, device: torch.device) -> Callable[[np.ndarray], list[Maps]]:
    """uint8 (N,H,W,3) -> label and confidence of each."""
    network = for_inference(source.network).to(device)
    graph = PhotoGraph(network, short_side=network.short_side, output="labels+confidence").eval()
    how = Evaluate(mode="whole")
    if job.slide:
        how = replace(source.config.scoring if source.config else Evaluate(crop_size=512), mode="slide")

    def grey(share: torch.Tensor) -> np.ndarray:
        """0..1 -> 0..255."""
        if not share.isfinite().all():
            raise UserError(f"{source.path} gives scores that are not finite; its weights are broken")
        return share.mul(255).round_().to(torch.uint8).cpu().numpy()

    @torch.inference_mode()
    def whole(photos: np.ndarray) -> list[Maps]:
        with any_size(device):
            label, share = graph(torch.from_numpy(photos).to(device))
        return [*zip(label.cpu().numpy(), grey(share), strict=True)]

    def in_bands(photo: np.ndarray) -> Maps:
        """No more than some rows of scores are held at a time."""
        small = torch.from_numpy(shrink(photo, network.short_side)).permute(2, 0, 1).to(device)
        label, share = predict_confidence(network, small, how, size=(photo.shape[0], photo.shape[1]))
        return label.cpu().numpy(), grey(share)

    def in_tiles(photo: np.ndarray) -> Maps:
        """Of the shrunk photo, enlarged pixel by pixel: memory does not grow with the scores."""
        small = shrink(photo, network.short_side)
        label, confidence = (np.empty(small.shape[:2], np.uint8) for _ in range(2))
        for y, y_end, top, bottom in tiles(small.shape[0]):
            for x, x_end, left, right in tiles(small.shape[1]):
                (made,) = whole(np.ascontiguousarray(small[None, y:y_end, x:x_end]))
                for target, tile in zip((label, confidence), made, strict=True):
                    target[top:bottom, left:right] = tile[top - y : bottom - y, left - x : right - x]
        height, width = photo.shape[:2]
        return resize(label, height, width, nearest=True), resize(confidence, height, width, nearest=True)

    def segment(photos: np.ndarray) -> list[Maps]:
        size = photos.shape[1:3]
        if math.prod(shrunk_size(size, network.short_side)) > WHOLE:
            return [in_tiles(photo) for photo in photos]
        if job.slide or math.prod(size) * len(source.classes) > SCORES:
            return [in_bands(photo) for photo in photos]
        return whole(photos)

    return segment


def _write(job: Job, name: Path, photo: np.ndarray, maps: Maps, classes: Classes) -> None:
    label, confidence = maps
    pictures: dict[str, Callable[[], np.ndarray]] = {
        "label": lambda: label,
        "color": lambda: classes.palette()[label],
        "overlay": lambda: overlay_with_legend(photo, label, classes),
        "confidence": lambda: confidence,
    }
    for kind in (kind for kind in job.kinds if kind in KINDS):
        write_png(job.out / kind / name.parent / f"{name.name}.png", pictures[kind]())


def overlay_with_legend(photo: np.ndarray, label: np.ndarray, classes: Classes) -> np.ndarray:
    """RGB: the photo under the colours of its labels, the classes that occur below it."""
    found = [i for i in np.unique(label) if i < len(classes)]
    occurring = Classes(tuple(classes.names[i] for i in found), tuple(classes.colors[i] for i in found))
    return np.concatenate([overlay(photo, label, classes), legend(occurring, photo.shape[1])])


def _predict_video(
    video: Video,
    job: Job,
    segment: Callable[[np.ndarray], list[Maps]],
    classes: Classes,
    tally: Tally,
    bar: Progress,
) -> None:
    """As far as they are asked for: <out>/overlay/<name>.mp4 (a whole file or none), maps frame by frame."""
    frames = Frames(video.source)
    other = replace(job, kinds=tuple(kind for kind in job.kinds if kind in OF_FRAMES))
    shown = new_video(job.out / "overlay" / f"{video.name}.mp4", frames.fps)
    with shown if "overlay" in job.kinds else nullcontext() as write:
        try:
            for frame in frames:
                (maps,) = segment(frame[None])
                if write:
                    write(overlay(frame, maps[0], classes))
                _write(other, video.name / f"{frames.read:06}", frame, maps, classes)
                tally.frames += 1
                bar.update()
                if job.frames and frames.read >= job.frames:
                    break
        except KeyboardInterrupt:  # the way to end a webcam: what was seen is kept
            if not video.source.isdecimal():
                raise
    if not frames.read:
        raise UserError(f"{video.source} has no frame that can be read; replace the file")
    if not job.frames and frames.read < frames.expected:
        tally.problems.append(
            f"{video.source} ends after {frames.read} of {frames.expected} frames; what is there was predicted"
        )
