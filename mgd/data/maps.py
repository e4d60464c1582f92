"""What frozen teachers left of every photo: label maps, confidence, and coarse maps, cut as the photo's crop is."""

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mgd.config import CWD, KD, Experiment, Taught
from mgd.data.store import Contents, Format, Store, StoreWriter
from mgd.data.transforms import Geometry, cut
from mgd.errors import UserError, first_few
from mgd.files import states_of
from mgd.metrics import IGNORE_INDEX

MAPS = Format(
    version="mgd-maps-2",
    description="maps.json",
    holds="the teachers' maps",
    command="teach",
    done="taught",
    setting="method.teach.dir",
    facts=(
        *(("place", "<u4"), ("height", "<u4"), ("width", "<u4"), ("bytes", "<u8"), ("mtime", "<i8"), ("crc", "<u4")),
    ),
)
FULL = {"label": "labels", "confidence": "confidence"}  # maps of a value for each pixel, and where a batch has them
PUBLISHED_WIDTH = 256  # channels of a decoder feature
LEVEL = 1  # of zlib: label maps are mostly large areas


class Kind(NamedTuple):
    """One kind of map. Full maps are (H,W) uint8, compressed; coarse ones (h,w,channels), cells of `stride` pixels."""

    name: str  # such as deep.label, wide.feature
    stride: int = 1
    channels: int = 0
    dtype: str = "|u1"

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        """Of a photo's map."""
        cells = (-(-height // self.stride), -(-width // self.stride))
        return (*cells, self.channels) if self.channels else cells


class Photo(NamedTuple):
    """An image whose maps are stored: its size in pixels, and what tells its file, as the teachers saw it, again."""

    place: int  # in the list
    height: int
    width: int
    bytes: int
    mtime: int  # in whole seconds
    crc: int  # of the file's content


class MapsWriter(StoreWriter):
    """Adds photos' maps to a store. Raises UserError as `StoreWriter` does."""

    def __init__(self, folder: Path, contents: Contents, kinds: Sequence[Kind], *, rank: int = 0) -> None:
        super().__init__(MAPS, folder, contents, kinds, rank=rank)
        self.kinds = kinds

    def add(self, photo: Photo, maps: Mapping[str, np.ndarray]) -> int:
        """Store the maps of an image; returns how many bytes they take."""
        contents = []
        for kind in self.kinds:
            array = np.ascontiguousarray(maps[kind.name], np.dtype(kind.dtype))
            assert array.shape == kind.shape(photo.height, photo.width), (kind, array.shape)
            contents.append(array.tobytes() if kind.channels else zlib.compress(array, LEVEL))
        return self.append(photo, contents)


class Maps(Store):
    """A finished store of maps. Raises UserError as `Store` does."""

    def __init__(self, folder: Path, contents: Contents) -> None:
        super().__init__(MAPS, folder, contents)
        self.kinds = tuple(Kind(*kind) for kind in self.described)
        self._places = {kind.name: i for i, kind in enumerate(self.kinds)}

    def photo(self, index: int) -> Photo:
        record = self.records[index]
        return Photo(index, *(int(record[name]) for name in Photo._fields[1:]))

    def check_photos(self, root: Path) -> None:
        """Raise UserError where photos are not the files that the teachers saw."""
        check_unchanged(self.folder, [root / name for name in self.contents.photos], self.records)

    def full(self, index: int, name: str) -> np.ndarray:
        """(H,W) uint8: a label map or a confidence (255 is certain)."""
        photo = self.photo(index)
        try:
            content = zlib.decompress(self.content(index, self._places[name]))
        except zlib.error as error:
            raise UserError(f"{self.folder} is damaged ({error}); delete it and teach again") from error
        return np.frombuffer(content, np.uint8).reshape(photo.height, photo.width)

    def coarse(self, index: int, name: str) -> np.ndarray:
        """(h,w,C), not yet read from the disk: what is sliced out of it is."""
        photo, kind = self.photo(index), self.kind(name)
        content = self.content(index, self._places[name])
        return content.view(np.dtype(kind.dtype)).reshape(kind.shape(photo.height, photo.width))

    def kind(self, name: str) -> Kind:
        return self.kinds[self._places[name]]

    def crop_full(self, index: int, name: str, geometry: Geometry) -> np.ndarray:
        """(crop,crop) uint8 of a label map or a confidence; 255 in the padding."""
        return cut(self.full(index, name), geometry, fill=IGNORE_INDEX, nearest=True)

    def crop_coarse(self, index: int, name: str, geometry: Geometry) -> np.ndarray:
        """(C,g,g) of a coarse map: cells of its stride in the crop, 0 where there is no photo."""
        photo, stride = self.photo(index), self.kind(name).stride
        top, _, left, _ = geometry.extent
        rows = cells(photo.height, stride, geometry.height, geometry.top - top, geometry.crop, flip=False)
        columns = cells(photo.width, stride, geometry.width, geometry.left - left, geometry.crop, flip=geometry.flip)
        return _weigh(rows, columns, self.coarse(index, name)).astype(self.kind(name).dtype)


def check_unchanged(folder: Path, files: Sequence[Path], facts: np.ndarray) -> None:
    """Raise UserError where files are not those that were looked at: by size, by content where the time alone differs.

    Args:
        folder: of the store.
        facts: (N,) with the fields bytes, mtime and crc of each.
    """
    now = states_of([str(file) for file in files])
    if gone := [files[i] for i in np.flatnonzero(now[:, 0] < 0).tolist()]:
        raise UserError(f"{first_few(gone)} of the teachers' maps in {folder} does not exist; put it back")
    other = now[:, 0] != facts["bytes"].astype(np.int64)
    for i in np.flatnonzero(~other & (now[:, 1] != facts["mtime"])).tolist():  # perhaps a copy
        other[i] = zlib.crc32(files[i].read_bytes()) != facts["crc"][i]
    if changed := [files[i] for i in np.flatnonzero(other).tolist()]:
        share = f"{len(changed):,} of {len(files):,} photos"
        raise UserError(
            f"{first_few(changed)} changed since the teachers saw them ({share}); delete {folder} and teach again"
        )


def wanted_maps(config: Experiment) -> dict[str, list[str]]:
    """View -> the kinds of maps that its terms ask for."""
    method = config.method
    assert isinstance(method, Taught)
    teachers = [name for name in ("deep", "wide") if getattr(method, f"{name}_teacher")]
    labels, confidence, logits = ([f"{name}.{what}" for name in teachers] for what in ("label", "confidence", "logits"))
    if isinstance(method, KD | CWD):
        every = [f"{name}.{what}" for name in teachers for what in method.stored[name]]
        labeled, unlabeled = (every if weight else [] for weight in (method.labeled, method.unlabeled))
        return {"labeled": labeled, "first": unlabeled, "second": unlabeled}
    image = ["deep.logits"] if method.lambda_image and "deep" in teachers else []
    unlabeled = logits if method.soft else image
    unlabeled = unlabeled + (["wide.feature"] if method.lambda_region and "wide" in teachers else [])
    if method.pixel_unlabeled:
        unlabeled = unlabeled + labels + (confidence if method.confidence else [])
    return {"labeled": labels if method.pixel_labeled else [], "first": unlabeled, "second": unlabeled}


def coarse_shapes(config: Experiment, num_classes: int) -> dict[str, tuple[int, int, int]]:
    """(C,g,g) of the stored "logits" and "feature" of a crop; without `teach.projection` a feature is as published."""
    method, crop = config.method, config.data.crop_size
    assert isinstance(method, Taught)
    sizes = {"logits": (num_classes, method.teach.logits_stride)}
    if not isinstance(method, KD):
        sizes["feature"] = (method.teach.projection or PUBLISHED_WIDTH, method.feature_stride(crop))
    return {what: (channels, -(-crop // stride), -(-crop // stride)) for what, (channels, stride) in sizes.items()}


def cells(side: int, stride: int, scaled: int, start: int, crop: int, *, flip: bool) -> np.ndarray:
    """How a crop's cells are made of a photo's, along one side: (crop cells, photo cells) float32, rows sum to 1 or 0.

    A cell's share in another is what they have in common: the mean over a crop is that of the photo's part, and
    without scaling, mirroring or shift the matrix is the identity.

    Args:
        side, scaled: the photo's length in pixels, before and after scaling.
        start: where the crop begins in the scaled photo; negative where padding comes first.
    """
    edges = (np.append(np.arange(0, crop, stride), crop) + start).clip(0, scaled)
    edges = (scaled - edges if flip else edges) * (side / scaled)
    low, high = np.minimum(edges[:-1], edges[1:]), np.maximum(edges[:-1], edges[1:])
    own = np.append(np.arange(0, side, stride), side)
    common = np.minimum(high[:, None], own[1:]) - np.maximum(low[:, None], own[:-1])
    common = common.clip(min=0)
    total = common.sum(axis=1, keepdims=True)
    return np.divide(common, total, out=np.zeros_like(common), where=total > 0).astype(np.float32)


def _weigh(rows: np.ndarray, columns: np.ndarray, coarse: np.ndarray) -> np.ndarray:
    """(a,h), (b,w), (h,w,C) -> (C,a,b); reads only what has a weight."""
    (top, bottom), (left, right) = (_used(weights) for weights in (rows, columns))
    part = coarse[top:bottom, left:right].astype(np.float32)
    height, width, channels = part.shape
    half = (rows[:, top:bottom] @ part.reshape(height, -1)).reshape(-1, width, channels)
    return np.matmul(columns[:, left:right], half).transpose(2, 0, 1)


def _used(weights: np.ndarray) -> tuple[int, int]:
    used = np.flatnonzero(weights.any(axis=0))
    return int(used[0]), int(used[-1]) + 1
