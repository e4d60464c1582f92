"""Test a user's own data: folders of pairs, every 8-bit format, photos held upright, what is refused by its name."""

import contextlib
import json
import os
import shutil
import struct
import threading
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from helpers import train, write_image, write_network
from PIL import Image, TiffImagePlugin
from PIL.PngImagePlugin import PngInfo

from mgd.__main__ import main
from mgd.config import Data
from mgd.data import images
from mgd.data.classes import write_classes
from mgd.data.datasets import Item, load_pair, open_splits, read_list
from mgd.data.folders import BESIDE, DEAD, GARBLED, HIDDEN, LOOP, left_out, photos_in
from mgd.data.images import IMAGE_SUFFIXES, _limits_for, load_image, load_label, read_indices, read_palette
from mgd.errors import UserError, first_few

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (40, 56, 3), dtype=np.uint8)


# Photos


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_every_format_is_read_as_opencv_reads_it(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"photo{suffix}"
    picture = cv2.cvtColor(PHOTO, cv2.COLOR_RGB2GRAY) if suffix in (".pbm", ".pgm") else PHOTO
    assert cv2.imwrite(str(path), picture)
    found, expected = load_image(path).astype(int), cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    lossy = suffix in (".avif", ".gif", ".jp2", ".jpe", ".jpeg", ".jpg", ".webp")
    assert np.abs(found - expected).max() <= (4 if lossy else 0)  # decoders round differently


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_turned_upright_as_opencv_turns_them(orientation: int, tmp_path: Path) -> None:
    exif, path = Image.Exif(), tmp_path / "photo.jpg"
    exif[0x0112] = orientation
    smooth = cv2.resize(PHOTO[:3, :5], (40, 24))
    Image.fromarray(smooth).save(path, exif=exif, quality=95, subsampling=0)
    found, expected = load_image(path).astype(int), cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    assert found.shape == ((24, 40, 3) if orientation < 5 else (40, 24, 3))
    assert np.abs(found - expected).max() <= 4


def test_a_label_that_fits_the_photo_before_it_is_turned_is_told_so(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    write_image(tmp_path / "train/images/a.jpg", PHOTO, exif=exif)
    write_image(tmp_path / "train/labels/a.png", np.zeros((40, 56), np.uint8))
    (tmp_path / "classes.csv").write_text("index,name,red,green,blue\n0,a,0,0,0\n1,b,9,9,9\n")
    item = read_list(tmp_path / "train", tmp_path, "", labels=True)[0]
    with pytest.raises(UserError, match=r"a.png is 56x40 but .*a.jpg is 40x56 when upright as its EXIF says; replace"):
        load_pair(item, Data(root=str(tmp_path)), 2)


@pytest.mark.parametrize(
    "name", ["rgb.png", "rgba.png", "g.png", "rgb.tiff", "g.tif", "rgb.ppm", "g.pgm", "rgb.jp2", "g.jp2"]
)
def test_sixteen_bits_are_refused_in_images_and_in_labels(name: str, tmp_path: Path) -> None:
    channels = {"g": (), "rgb": (3,), "rgba": (4,)}[name.split(".")[0]]
    assert cv2.imwrite(str(tmp_path / name), np.full((40, 56, *channels), 3, np.uint16))
    for read in (load_image, read_indices):
        with pytest.raises(UserError, match=f"{name} has 16 bits a channel, expected 8; convert it"):
            read(tmp_path / name)


def test_files_with_flipped_bytes_are_read_or_refused_in_a_sentence(tmp_path: Path) -> None:
    rng, path, exif = np.random.default_rng(1), tmp_path / "photo", Image.Exif()
    exif[0x0112] = 6
    for kind in ("PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP", "PPM", "JPEG2000"):
        Image.fromarray(PHOTO).save(path, kind, exif=exif)
        whole = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(40):
            broken = whole.copy()
            broken[rng.integers(0, min(len(whole), 200), 3)] = rng.integers(0, 256, 3)
            path.write_bytes(broken.tobytes())
            with contextlib.suppress(UserError), warnings.catch_warnings():  # of Pillow's, about what it skips
                warnings.simplefilter("ignore")
                load_image(path)


@pytest.mark.parametrize("name", ["stack.tif", "animation.gif", "animation.webp", "animation.png"])
def test_a_file_of_several_images_is_refused_since_one_is_meant(name: str, tmp_path: Path) -> None:
    one = Image.fromarray(PHOTO[..., 0])
    one.save(tmp_path / name, save_all=True, append_images=[one.rotate(180), one.rotate(90)])
    for read in (load_image, read_indices):
        with pytest.raises(UserError, match=f"{name} holds 3 images, expected one"):
            read(tmp_path / name)


def test_smaller_copies_and_masks_beside_an_image_are_no_further_ones(tmp_path: Path) -> None:
    first, second = (Image.new("RGB", (16, 16), (shade, shade, shade)) for shade in (200, 100))
    first.save(tmp_path / "phone.mpo", save_all=True, append_images=[second])
    assert (load_image(tmp_path / "phone.mpo") == 200).all()
    with TiffImagePlugin.AppendingTiffWriter(str(tmp_path / "overview.tif"), True) as file:
        for values, subfile in ((PHOTO, 0), (PHOTO[::2, ::2], 1), (PHOTO[..., 0], 4)):
            directory = TiffImagePlugin.ImageFileDirectory_v2()
            directory[254] = subfile
            Image.fromarray(values).save(file, "TIFF", tiffinfo=directory)
            file.newFrame()
    np.testing.assert_array_equal(load_image(tmp_path / "overview.tif"), PHOTO)


def write_tiff(
    path: Path, bands: np.ndarray, *, photometric: int, extra: tuple[int, ...] = (), planar: int = 1
) -> None:
    """(H,W,C) uint8 as programs for satellite images write it: `photometric` 1 is grey, 2 RGB; `extra` 2 is alpha."""
    height, width, count = bands.shape
    planes = [bands] if planar == 1 else [bands[..., i] for i in range(count)]
    data = b"".join(np.ascontiguousarray(plane).tobytes() for plane in planes)
    offsets = [8 + i * len(data) // len(planes) for i in range(len(planes))]
    sizes = [len(data) // len(planes)] * len(planes)
    tags: dict[int, list[int]] = {256: [width], 257: [height], 258: [8] * count, 259: [1], 262: [photometric]}
    tags |= {273: offsets, 277: [count], 278: [height], 279: sizes, 284: [planar]} | ({338: [*extra]} if extra else {})
    far, entries = b"", b""
    for tag, values in tags.items():
        content = struct.pack(f"<{len(values)}I", *values)
        if len(content) > 4:
            content, far = struct.pack("<I", 8 + len(data) + len(far)), far + content
        entries += struct.pack("<HHI", tag, 4, len(values)) + content
    head = struct.pack("<2sHI", b"II", 42, 8 + len(data) + len(far))
    path.write_bytes(head + data + far + struct.pack("<H", len(tags)) + entries + bytes(4))


BANDS = np.random.default_rng(2).integers(0, 256, (20, 30, 8), dtype=np.uint8)


@pytest.mark.parametrize(("count", "extra"), [(3, ()), (4, (0,)), (4, (2,)), (5, (0, 0))])
def test_red_green_and_blue_of_a_tiff_are_read_whatever_comes_after_them(
    count: int, extra: tuple[int, ...], tmp_path: Path
) -> None:
    write_tiff(tmp_path / "photo.tif", BANDS[..., :count], photometric=2, extra=extra)
    assert np.array_equal(load_image(tmp_path / "photo.tif"), BANDS[..., :3])


@pytest.mark.parametrize(
    ("count", "options", "words"),
    [
        (8, {"photometric": 1, "extra": (0,) * 7}, "has 8 bands"),
        (4, {"photometric": 1, "extra": (0, 0, 0)}, "has 4 bands"),
        (4, {"photometric": 2, "extra": (0,), "planar": 2}, "has 4 bands"),
        (4, {"photometric": 2, "extra": (1,)}, "has 4 bands, the last called a premultiplied alpha"),
        (2, {"photometric": 1, "extra": (0,)}, "has 2 bands"),
        (2, {"photometric": 1, "extra": (2,)}, "has 2 bands"),
    ],
)
@pytest.mark.parametrize("read", [load_image, read_indices])
def test_other_bands_are_counted_and_refused(
    count: int, options: dict[str, Any], words: str, read: Callable[[Path], np.ndarray], tmp_path: Path
) -> None:
    write_tiff(tmp_path / "photo.tif", BANDS[..., :count], **options)
    with pytest.raises(UserError, match=f"photo.tif {words}.*; write the bands to train on as an 8-bit RGB file"):
        read(tmp_path / "photo.tif")


def test_a_premultiplied_alpha_that_hides_nothing_changes_nothing(tmp_path: Path) -> None:
    whole = np.dstack([BANDS[..., :3], np.full((20, 30), 255, np.uint8)])
    write_tiff(tmp_path / "photo.tif", whole, photometric=2, extra=(1,))
    assert np.array_equal(load_image(tmp_path / "photo.tif"), BANDS[..., :3])


def test_photos_above_the_pixel_limit_of_pillow_are_read_and_its_limit_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, label = write_image(tmp_path / "photo.png", PHOTO), write_image(tmp_path / "label.png", PHOTO[..., 0])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(load_image(path), PHOTO)
        assert np.array_equal(read_indices(label), PHOTO[..., 0])
        assert read_palette(label) is None
    assert Image.MAX_IMAGE_PIXELS == 100
    with monkeypatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # as programs set it that want no limit
        load_image(path)
        assert Image.MAX_IMAGE_PIXELS is None
    entered, left = threading.Event(), threading.Event()

    def another() -> None:
        with _limits_for(path):
            entered.set()
            left.wait(60)

    thread = threading.Thread(target=another)  # predictions decode in two
    thread.start()
    entered.wait(60)
    load_image(path)
    assert Image.MAX_IMAGE_PIXELS > 100  # the other still decodes
    left.set()
    thread.join()
    assert Image.MAX_IMAGE_PIXELS == 100


def test_a_head_that_claims_more_pixels_than_its_file_could_hold_is_broken(tmp_path: Path) -> None:
    whole = write_image(tmp_path / "photo.ppm", PHOTO).read_bytes()
    (tmp_path / "photo.ppm").write_bytes(whole.replace(b"56 40", b"99999 99999"))
    with pytest.raises(UserError, match=r"photo.ppm cannot be decoded \(Image size .* exceeds limit"):
        load_image(tmp_path / "photo.ppm")


def test_photos_with_long_texts_in_them_are_read(tmp_path: Path) -> None:
    notes = PngInfo()
    notes.add_text("history", "edited " * 300_000, zip=True)
    assert np.array_equal(load_image(write_image(tmp_path / "photo.png", PHOTO, pnginfo=notes)), PHOTO)


def test_a_photo_that_memory_does_not_hold_is_told_to_be_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def give_up(path: Path) -> None:
        raise MemoryError

    write_image(tmp_path / "photo.png", PHOTO)
    monkeypatch.setattr(images, "decode_plain", lambda path: None)  # what it does where OpenCV has no memory
    monkeypatch.setattr(Image, "open", give_up)
    with pytest.raises(UserError, match=r"photo.png does not fit into this machine's memory; cut it into tiles"):
        load_image(tmp_path / "photo.png")


# Labels


def grey_png(path: Path, bits: int, values: list[int]) -> Path:
    """A grey PNG of one row of 8 values with fewer bits a pixel than 8."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    row = sum(value << bits * (7 - i) for i, value in enumerate(values)).to_bytes(bits, "big")
    header = struct.pack(">IIBBBBB", 8, 1, bits, 0, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    return path


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_labels_of_fewer_bits_are_refused_since_their_values_would_be_spread(bits: int, tmp_path: Path) -> None:
    path = grey_png(tmp_path / "label.png", bits, [0, 1, 2, 3] * 2)
    with pytest.raises(UserError, match=f"label.png has values of {bits} bits, which are spread"):
        read_indices(path)


@pytest.mark.parametrize(("highest", "refused"), [(255, False), (149, True), (3, True)])
def test_values_of_a_pgm_that_would_be_spread_are_refused(highest: int, refused: bool, tmp_path: Path) -> None:
    (tmp_path / "label.pgm").write_bytes(b"P5 3 1 %d\n\x00\x01\x02" % highest)
    if refused:
        with pytest.raises(UserError, match=r"label.pgm has values of \d bits, which are spread over 0..255"):
            read_indices(tmp_path / "label.pgm")
    else:
        assert read_indices(tmp_path / "label.pgm").tolist() == [[0, 1, 2]]


def test_palette_labels_of_fewer_bits_give_their_indices(tmp_path: Path) -> None:
    values = np.array([[0, 1, 2, 3] * 2], np.uint8)
    drawn = Image.fromarray(values, mode="P")
    drawn.putpalette([9, 9, 9, 1, 2, 3, 200, 0, 0, 0, 0, 0])
    drawn.save(tmp_path / "label.png", bits=2)
    assert load_label(tmp_path / "label.png", 4).tolist() == values.tolist()


@pytest.mark.parametrize("name", ["label.jpg", "label.jp2"])
def test_labels_that_were_compressed_with_loss_are_refused(name: str, tmp_path: Path) -> None:
    write_image(tmp_path / name, np.zeros((8, 8), np.uint8))
    with pytest.raises(UserError, match=f"{name} is a JPEG.* file, which changes values; expected a label map"):
        read_indices(tmp_path / name)


def test_labels_in_tiff_are_refused_by_their_compression(tmp_path: Path) -> None:
    values = np.kron(np.arange(12, dtype=np.uint8).reshape(3, 4), np.ones((5, 6), np.uint8))
    Image.fromarray(values).save(tmp_path / "label.tif", compression="jpeg")
    with pytest.raises(UserError, match=r"label.tif is a TIFF file with jpeg compression, which changes values"):
        read_indices(tmp_path / "label.tif")


@pytest.mark.parametrize("compression", [None, "packbits", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "zstd"])
@pytest.mark.parametrize("mode", ["L", "P"])
def test_labels_in_tiff_without_loss_are_read(compression: str | None, mode: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (20, 30), np.uint8)
    Image.fromarray(values).save(tmp_path / "label.tif", compression=compression)
    picture = Image.fromarray(values, mode=mode)
    if mode == "P":
        picture.putpalette(np.random.default_rng(1).permutation(768).astype(np.uint8).tolist())
    picture.save(tmp_path / "label.tif", compression=compression)
    assert np.array_equal(read_indices(tmp_path / "label.tif"), values)


@pytest.mark.parametrize("name", ["label.webp", "label.avif", "label.jpg", "label.png"])
def test_labels_are_refused_by_what_they_are_whatever_their_name(name: str, tmp_path: Path) -> None:
    kind = {"label.png": "JPEG"}.get(name)  # a photo with the name of a PNG
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / name, kind)
    with pytest.raises(UserError, match=f"{name} is a (WEBP|AVIF|JPEG) file, which changes values"):
        read_indices(tmp_path / name)


def test_labels_whose_zero_is_white_are_refused_since_they_would_be_turned_over(tmp_path: Path) -> None:
    write_tiff(tmp_path / "label.tif", np.zeros((4, 6, 1), np.uint8), photometric=0)
    with pytest.raises(UserError, match=r"label.tif says that 0 is white"):
        read_indices(tmp_path / "label.tif")


# Folders of pairs


def write_pair(folder: Path, name: str, suffixes: tuple[str, str] = (".jpg", ".png")) -> None:
    write_image(folder / f"images/{name}{suffixes[0]}", PHOTO)
    write_image(folder / f"labels/{name}{suffixes[1]}", np.zeros((40, 56), np.uint8))


def test_a_folder_is_paired_by_path_without_suffix_in_order_of_name(tmp_path: Path) -> None:
    write_pair(tmp_path / "train", "b")
    write_pair(tmp_path / "train", "day/two/a", (".WEBP", ".bmp"))
    write_pair(tmp_path / "train", "a.b", (".tiff", ".gif"))
    (tmp_path / "train/images/notes.txt").write_text("no image")
    (tmp_path / "train/images/._b.jpg").write_text("what a Mac leaves behind")
    folder = tmp_path / "train"
    assert read_list(folder, tmp_path, "", labels=True) == [
        Item(f"train/images/{name}{image}", folder / f"images/{name}{image}", folder / f"labels/{name}{label}")
        for name, image, label in (("a.b", ".tiff", ".gif"), ("b", ".jpg", ".png"), ("day/two/a", ".WEBP", ".bmp"))
    ]


def test_images_and_labels_alone_and_two_of_a_name_are_refused_by_name(tmp_path: Path) -> None:
    write_pair(tmp_path, "a")
    write_image(tmp_path / "images/x/lone.jpg", PHOTO)
    write_image(tmp_path / "labels/y.png", np.zeros((40, 56), np.uint8))
    write_image(tmp_path / "images/a.bmp", PHOTO)
    problems: list[UserError] = []
    found = read_list(tmp_path, tmp_path, "", labels=True, problems=problems)
    assert [item.name for item in found] == ["images/a.bmp"]
    twice, bare, lone = map(str, problems)
    assert f"{tmp_path}/images/a.bmp, {tmp_path}/images/a.jpg have one name" in twice
    assert (
        f"1 images have no label: {tmp_path}/images/x/lone.jpg; draw their labels ({tmp_path}/labels/x/lone.png)"
        in bare
    )
    assert f"1 labels have no image: {tmp_path}/labels/y.png; put the images below {tmp_path}/images" in lone
    with pytest.raises(UserError, match="have one name"):
        read_list(tmp_path, tmp_path, "", labels=True)


def test_a_folder_without_images_or_labels_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match="has no folder labels; expected images/ and labels/ in it"):
        read_list(tmp_path, tmp_path, "", labels=True)
    (tmp_path / "labels").mkdir()
    with pytest.raises(UserError, match="images has no image"):
        read_list(tmp_path, tmp_path, "", labels=True)


def test_of_a_folder_of_pairs_the_images_are_the_photos(tmp_path: Path) -> None:
    write_pair(tmp_path, "a")
    assert photos_in(tmp_path) == [tmp_path / "images/a.jpg"]


def test_linked_folders_are_followed_and_links_that_lead_nowhere_or_back_are_told(tmp_path: Path) -> None:
    folder, store = tmp_path / "train", tmp_path / "store"
    write_pair(folder, "a")
    write_pair(store, "deep/b")
    for part in ("images", "labels"):
        (folder / part / "site").symlink_to(store / part)
        (store / part / "deep/round").symlink_to(folder / part)
        (folder / part / "gone").symlink_to(tmp_path / "nowhere")
        (folder / part / "gone.png").symlink_to(tmp_path / "nowhere.png")
        (folder / part / "self").symlink_to("self")
    items = read_list(folder, tmp_path, "", labels=True)
    assert [item.name for item in items] == ["train/images/a.jpg", "train/images/site/deep/b.jpg"]
    found = left_out(folder)
    dead = [folder / part / name for part in ("images", "labels") for name in ("gone", "gone.png", "self")]
    assert sorted(found[DEAD]) == sorted(dead)
    assert found[LOOP] == [folder / part / "site/deep/round" for part in ("images", "labels")]
    assert set(found) == {DEAD, LOOP}


def test_names_that_are_no_text_are_left_out_and_told(tmp_path: Path) -> None:
    write_pair(tmp_path, "a")
    garbled = os.fsencode(tmp_path / "images") + b"/tr\xe4in.jpg"  # Latin-1, as of an old zip file
    try:
        shutil.copy(tmp_path / "images/a.jpg", garbled)
    except OSError:
        pytest.skip("this file system takes no such names")
    assert photos_in(tmp_path) == [tmp_path / "images/a.jpg"]
    found = left_out(tmp_path)
    assert found == {GARBLED: [Path(os.fsdecode(garbled))]}
    first_few(found[GARBLED]).encode()  # can be shown


def test_a_folder_of_a_linked_folder_alone_has_its_photos(tmp_path: Path) -> None:
    write_image(tmp_path / "store/a.jpg", PHOTO)
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool/linked").symlink_to(tmp_path / "store")
    assert photos_in(tmp_path / "pool") == [tmp_path / "pool/linked/a.jpg"]


MADE = [".ipynb_checkpoints", ".Trash-1000/files", "@eaDir/x", "__MACOSX", "#recycle", "$RECYCLE.BIN", "lost+found"]


@pytest.mark.parametrize(
    "made", [*MADE, ".thumbnails", "@Recycle", "System Volume Information", "deep/.git/x", "Thumbs"]
)
def test_what_systems_and_programs_make_is_left_out_and_told(tmp_path: Path, made: str) -> None:
    write_pair(tmp_path, "deep/a")
    for part, suffix in (("images", "jpg"), ("labels", "png")):
        write_image(tmp_path / f"{part}/{made}/old.{suffix}", PHOTO)
    (tmp_path / "images/Thumbs.db").touch()
    assert [item.name for item in read_list(tmp_path, tmp_path, "", labels=True)] == ["images/deep/a.jpg"]
    wanted = [f"images/{made}/old.jpg", "images/Thumbs.db", f"labels/{made}/old.png"]
    assert {why: sorted(files) for why, files in left_out(tmp_path).items()} == {
        HIDDEN: sorted(tmp_path / file for file in wanted)
    }


def test_a_hidden_folder_that_is_asked_for_is_read(tmp_path: Path) -> None:
    write_image(tmp_path / ".pool/a.jpg", PHOTO)
    assert photos_in(tmp_path / ".pool") == [tmp_path / ".pool/a.jpg"]


def test_photos_beside_images_are_told_to_be_left_out(tmp_path: Path) -> None:
    write_pair(tmp_path, "a")
    write_image(tmp_path / "site/b.jpg", PHOTO)
    assert photos_in(tmp_path) == [tmp_path / "images/a.jpg"]
    assert left_out(tmp_path) == {BESIDE: [tmp_path / "site/b.jpg"]}


def test_a_folder_without_a_photo_says_what_was_left_out(tmp_path: Path) -> None:
    write_image(tmp_path / ".hidden/a.jpg", PHOTO)
    with pytest.raises(UserError, match=r"has no image .*; 1 left out, since they are hidden, or lie in .*a.jpg; put"):
        photos_in(tmp_path)


def test_a_composed_and_a_decomposed_name_make_a_pair(tmp_path: Path) -> None:
    write_image(tmp_path / "images/caf\xe9.jpg", PHOTO)
    write_image(tmp_path / "labels/cafe\u0301.png", np.zeros((40, 56), np.uint8))
    item = read_list(tmp_path, tmp_path, "", labels=True)[0]
    assert (item.name, item.label) == ("images/caf\xe9.jpg", tmp_path / "labels/cafe\u0301.png")


# From the folders to a student


@pytest.fixture
def own(small_scenes: Path, tmp_path: Path) -> Path:
    """4 labelled pairs and 8 photos without labels, 3 pairs for validation: folders alone, no list."""
    root = tmp_path / "own"
    for part, kind, names in (
        ("train_aug", "train", range(4)),
        ("val", "val", range(3)),
        ("train_aug", "", range(4, 12)),
    ):
        for i in names:
            source = small_scenes / part / f"image/scene_{'val_' * (part == 'val')}{i:05}.jpg"
            write_image(root / (f"{kind}/images" if kind else "unlabeled/deep") / f"{i}.png", load_image(source))
            if kind:
                label = small_scenes / part / f"label/{source.stem}.png"
                write_image(root / kind / f"labels/{i}.png", read_indices(label))
    write_classes(root / "classes.csv", [f"c{i}" for i in range(8)], [(20 * i, 0, 0) for i in range(8)])
    return root


FOLDERS = ["data.train_list=train", "data.val_list=val", "data.unlabeled=unlabeled", "data.partition=1"]


@pytest.mark.parametrize("method", ["supervised", "cps", "mgd"])
def test_folders_are_checked_trained_on_and_evaluated(
    own: Path, tmp_path: Path, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = [*FOLDERS, f"method={method}", "evaluate.mode=whole"]
    if method == "mgd":
        chosen += [f"method.deep_teacher={write_network(tmp_path / 'deep.pt', num_classes=8)}"]
    run = train(tmp_path, own, *chosen)
    assert json.loads((run / "config.json").read_text())["images"] == {"labelled": 4, "unlabelled": 8, "validation": 3}
    assert main(["check", str(tmp_path), *chosen]) == 0
    assert "4 labelled, 8 unlabelled, 3 validation images; one in 1 of" in capsys.readouterr().out
    assert main(["evaluate", str(tmp_path), *chosen]) == 0


def test_frames_of_one_number_keep_apart_and_nothing_is_written_outside_the_run(own: Path, tmp_path: Path) -> None:
    for part in ("images", "labels"):
        for sequence in ("seqA", "seqB"):
            target = own / "val" / part / sequence
            target.mkdir()
            shutil.copy(own / "val" / part / "0.png", target / "0001.png")
    lines = [f"val/images/{s}/0001.png\tval/labels/{s}/0001.png" for s in ("seqA", "seqB")]
    lines += [
        f"../{own.name}/val/images/1.png\t../{own.name}/val/labels/1.png",
        f"{own}/val/images/2.png\tval/labels/2.png",
    ]
    (own / "val.txt").write_text("\n".join(lines))
    run = train(tmp_path, own, *FOLDERS, "data.val_list=val.txt", "train.max_iterations=1")
    before = {path for path in tmp_path.rglob("*") if run not in path.parents}
    assert main(["evaluate", str(run / "last.pt"), "evaluate.mode=whole", "evaluate.pictures=4"]) == 0
    assert {path for path in tmp_path.rglob("*") if run not in path.parents} == before
    assert len([*(run / "evaluation").rglob("*.png")]) == 4


def test_what_is_left_out_of_a_folder_is_told(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own / "unlabeled/IMG_1.HEIC").write_bytes(b"")
    train(tmp_path, own, *FOLDERS, "train.max_iterations=1")
    text = f"folder: 1 left out, since their names are not those of images: {own}/unlabeled/IMG_1.HEIC; convert"
    assert text in capsys.readouterr().err


@pytest.mark.parametrize("scheme", ["stride", "random", "balanced"])
def test_a_folder_is_partitioned_like_a_list(own: Path, scheme: str) -> None:
    assert main(["partition", str(own / "train"), "--ratio", "2", "--scheme", scheme]) == 0
    lists = "subset_train/train_aug_{part}_1-{ratio}.txt"
    data = Data(root=str(own), train_list="train", val_list="val", partition=2, partition_lists=lists)
    splits = open_splits(data)
    assert (len(splits.labeled), len(splits.unlabeled)) == (2, 2)
    if scheme == "stride":
        assert [item.image for item in splits.labeled] == [own / f"train/images/{i}.png" for i in (0, 2)]
