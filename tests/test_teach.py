"""Offline teachers: what is stored equals what the networks say, survives kills, and is refused where it is foreign."""

import errno
import multiprocessing
import os
import shutil
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import (
    BACKBONE,
    CHANNELS,
    bytes_in,
    differences,
    read,
    run_processes,
    train,
    write_config,
    write_image,
    write_network,
)
from torch.utils._pytree import tree_leaves

from mgd.__main__ import main
from mgd.config import Experiment, Taught, load
from mgd.data.batch import Batch, StoredMaps, Views, to_device
from mgd.data.datasets import open_splits
from mgd.data.images import load_image, read_indices, read_palette
from mgd.data.loaders import PREFETCH, collate, shared_bytes
from mgd.data.maps import Kind, Maps, MapsWriter, Photo, cells
from mgd.data.samples import TrainingSamples
from mgd.data.store import Contents
from mgd.data.transforms import Geometry
from mgd.errors import UserError
from mgd.models import build_model
from mgd.models.backbone import Backbone
from mgd.models.backbones import build_backbone
from mgd.objectives import build_objective, open_maps
from mgd.objectives.teaching import stored_cells, stored_logits
from mgd.teach import open_teachers, teach

CPU = torch.device("cpu")
EXACT = [f"method.teach.{text}" for text in ("values=fp32", "logits_stride=4", "feature_stride=4")]


def taught(folder: Path, root: Path, teachers: list[str], *changes: str) -> tuple[Path, list[str]]:
    """(config.py, overrides) of a student whose teachers have looked."""
    config, arguments = write_config(folder, root), [*teachers, "method.score_teachers=false", *changes]
    assert main(["teach", str(config), *arguments]) == 0
    return config, [*arguments, "method.teachers=offline"]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def batch_of(config: Experiment, count: int = 4) -> Batch:
    splits = open_splits(config.data)
    samples = TrainingSamples(splits, config, together=count, maps=open_maps(config, splits))
    return to_device(collate([samples[position] for position in range(count)]), CPU, 0)


def terms_of(config: Experiment, batch: Batch) -> dict[str, float]:
    torch.manual_seed(0)  # for CWD's projections
    objective = build_objective(config, 8).eval()  # without batch statistics
    torch.manual_seed(0)
    objective.student.load_state_dict(build_model(BACKBONE, 8, channels=CHANNELS).state_dict())
    return {name: term.item() for name, term in objective(batch).items()}


def both(config: Path, overrides: list[str], *, mask: bool = True) -> tuple[dict[str, float], dict[str, float]]:
    """A batch's terms from networks and from the store; without CutMix where `mask` is False."""
    offline = load(config, overrides)
    assert isinstance(offline.method, Taught)
    online = replace(offline, method=replace(offline.method, teachers="online"))
    batch = batch_of(offline)
    assert batch.mask is not None
    batch = batch if mask else batch._replace(mask=torch.zeros_like(batch.mask))
    return terms_of(online, batch), terms_of(offline, batch)


WHOLE = ["data.crop_size=48", "data.scales=1.0"]  # the scenes are 48 high
TERMS = {"supervised", "pixel_labeled", "pixel_unlabeled", "image", "region"}


@pytest.fixture
def squares(tmp_path: Path, small_scenes: Path) -> Path:
    """The generated scenes, cut to 48x48: a crop of 48 is a whole photo."""
    root = tmp_path / "squares"
    shutil.copytree(small_scenes, root)
    for path in root.rglob("*.jpg"):
        write_image(path, np.ascontiguousarray(load_image(path)[:, :48]))
    for path in root.rglob("label/*.png"):
        write_image(path, np.ascontiguousarray(read_indices(path)[:, :48]))
    return root


@pytest.fixture
def unturned(monkeypatch: pytest.MonkeyPatch) -> None:
    """No photo is mirrored, scaled or moved."""
    monkeypatch.setattr(
        "mgd.data.transforms.draw_geometry", lambda *size, crop, **_: Geometry(False, *size, 0, 0, crop)
    )


@pytest.mark.usefixtures("unturned")
def test_where_the_geometry_is_the_identity_the_store_gives_the_networks_terms(
    tmp_path: Path, squares: Path, teachers: list[str]
) -> None:
    student = taught(tmp_path / "student", squares, teachers, *WHOLE, *EXACT)
    expected, found = both(*student, mask=False)
    assert expected.keys() == TERMS
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-7)
    expected, found = both(*student)
    for name in ("supervised", "pixel_labeled", "pixel_unlabeled"):  # labels are mixed in the same way
        assert found[name] == pytest.approx(expected[name], rel=1e-5)


@pytest.mark.usefixtures("unturned")
@pytest.mark.parametrize("crop", [48, 40])  # the photo in one window, in several
def test_the_store_of_a_teacher_that_pads_its_images_has_nothing_of_the_padding(
    tmp_path: Path, squares: Path, teachers: list[str], monkeypatch: pytest.MonkeyPatch, crop: int
) -> None:
    def picky(*args: Any, **kwargs: Any) -> Backbone:
        backbone = build_backbone(*args, **kwargs)
        backbone.multiple = 32
        return backbone

    monkeypatch.setattr("mgd.models.network.build_backbone", picky)
    student = taught(tmp_path / "student", squares, teachers, *WHOLE, *EXACT, f"method.teach.crop_size={crop}")
    expected, found = both(*student, mask=False)
    assert found == pytest.approx(expected, rel=1e-5 if crop == 48 else 0.1)


CWD_TERMS = {f"{what}_{part}" for what in ("logits", "feature") for part in ("labeled", "unlabeled")}


@pytest.mark.usefixtures("unturned")
@pytest.mark.parametrize("partner", ["batch", "independent"])
def test_channels_of_the_store_are_those_of_the_networks(
    tmp_path: Path, squares: Path, teachers: list[str], partner: str
) -> None:
    changes = [*WHOLE, "method.teach.values=fp32", f"data.partner={partner}"]
    student = taught(tmp_path / "student", squares, ["method=cwd", *teachers[1:]], *changes)
    expected, found = both(*student, mask=False)
    assert expected.keys() == found.keys() == CWD_TERMS | {"supervised"}
    for term, value in expected.items():
        assert found[term] == pytest.approx(value, rel=0.2 if term.startswith("logits") else 1e-4), term
    expected, found = both(*student)
    for term, value in expected.items():  # a network sees what is across the border of a mix
        assert found[term] == pytest.approx(value, rel=0.3), term


@pytest.mark.usefixtures("unturned")
@pytest.mark.parametrize("partner", ["batch", "independent"])
@pytest.mark.parametrize(
    ("method", "soft"), [(["method=kd"], ["kd_labeled", "kd_unlabeled"]), (["method=mgd", "method.soft=0.5"], ["soft"])]
)
def test_soft_labels_of_the_store_are_those_of_the_networks(
    tmp_path: Path, squares: Path, teachers: list[str], method: list[str], soft: list[str], partner: str
) -> None:
    exact = ["method.teach.values=fp32", "method.teach.logits_stride=4", f"data.partner={partner}"]
    student = taught(tmp_path / "student", squares, [*method, *teachers[1:]], *WHOLE, *exact)
    expected, found = both(*student, mask=False)
    assert {name: found[name] for name in soft} == pytest.approx({name: expected[name] for name in soft}, rel=0.02)
    expected, found = both(*student)
    for name in soft:  # a network sees what is across the border of a mix
        assert found[name] == pytest.approx(expected[name], rel=0.1)


def test_stored_logits_are_linear_between_centres_and_padding_does_not_count() -> None:
    cells = torch.arange(6.0).repeat(6, 1)[None, None]  # 4 pixels each: centres at 1.5, 5.5, ...
    valid = torch.ones(1, 24, 24, dtype=torch.bool)
    valid[..., 16:] = False
    cells[..., 4:] = 100.0  # what a store has where there is no photo is nothing
    maps = StoredMaps({}, {}, {"wide.logits": cells, "wide.feature": cells})
    batch = Batch(Views(torch.zeros(1, 3, 24, 24), valid, maps=maps), None, None, None, 0)
    (found,) = stored_logits(batch, batch.labeled, 4).values()
    expected = ((torch.arange(16) - 1.5) / 4).clamp(0, 3)
    torch.testing.assert_close(found[..., :16], expected.expand(1, 1, 24, 16))
    at_their_size = stored_cells(batch, batch.labeled, "wide.feature", 4)
    assert torch.equal(at_their_size[..., :4], cells[..., :4])
    coarse = batch.labeled._replace(maps=StoredMaps({}, {}, {"wide.feature": cells[..., :3, ::2]}))  # of 8 pixels
    found = stored_cells(batch, coarse, "wide.feature", 8)
    torch.testing.assert_close(found[..., :4], torch.tensor([0.0, 0.5, 1.5, 2.0]).expand(1, 1, 6, 4))


@pytest.mark.usefixtures("unturned")
@pytest.mark.parametrize("changes", [[], ["method.confidence_ema=0.9"]])
@pytest.mark.parametrize("partner", ["batch", "independent"])
def test_a_threshold_leaves_out_the_labels_of_the_store_that_it_leaves_out_of_the_networks(
    tmp_path: Path, squares: Path, teachers: list[str], changes: list[str], partner: str
) -> None:
    config, overrides = taught(tmp_path / "student", squares, teachers, *WHOLE, *EXACT, f"data.partner={partner}")
    _, all_of_them = both(config, overrides)
    expected, found = both(config, [*overrides, "method.confidence=0.15", *changes])
    assert found["pixel_labeled"] == pytest.approx(all_of_them["pixel_labeled"])  # of labelled images all teach
    assert 0 < found["pixel_unlabeled"] < 0.95 * all_of_them["pixel_unlabeled"]
    # Of networks at random all probabilities are alike, and the store has them in steps of 1/255.
    assert found["pixel_unlabeled"] == pytest.approx(expected["pixel_unlabeled"], rel=0.05)


@pytest.mark.usefixtures("unturned")
def test_half_precision_and_coarse_cells_change_image_and_region_level_by_little(
    tmp_path: Path, squares: Path, teachers: list[str]
) -> None:
    changes = [*WHOLE, "method.teach.feature_stride=4", "method.teach.logits_stride=8"]
    expected, found = both(*taught(tmp_path / "student", squares, teachers, *changes), mask=False)
    assert found == pytest.approx(expected, rel=1e-2)


def test_mirrored_scaled_and_cropped_the_store_stays_near_the_networks(
    tmp_path: Path, squares: Path, teachers: list[str]
) -> None:
    expected, found = both(*taught(tmp_path / "student", squares, teachers, "data.crop_size=48", *EXACT))
    assert found["supervised"] == expected["supervised"]
    tolerance = {"pixel_labeled": 0.1, "pixel_unlabeled": 0.1, "image": 0.002}  # networks at random
    for name, value in tolerance.items():
        assert found[name] == pytest.approx(expected[name], abs=value), name
    assert found["region"] / 100 == pytest.approx(expected["region"] / 100, abs=0.005)  # mean square of cosines


# The store


def test_a_crop_takes_of_each_cell_what_lies_in_it() -> None:
    half = cells(32, 8, 16, 0, 16, flip=False)  # scaled by one half: a crop's cell is two of the photo's
    assert np.array_equal(half, [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]])
    double = cells(16, 8, 32, 8, 16, flip=False)  # by 2, from 8 on: both cells lie in the photo's first and second
    assert np.array_equal(double, [[1, 0], [0, 1]])
    assert np.array_equal(cells(20, 8, 20, 0, 20, flip=False), np.eye(3))
    assert np.array_equal(cells(16, 8, 16, 0, 16, flip=True), np.eye(2)[::-1])
    padded = cells(8, 8, 8, -8, 24, flip=False)  # a cell of padding on both sides
    assert np.array_equal(padded, [[0], [1], [0]])


def small_store(folder: Path, count: int = 5) -> Contents:
    contents = Contents(tuple(f"{i}.jpg" for i in range(count)), {"teachers": {"deep": "abc"}})
    with closing(MapsWriter(folder, contents, KINDS)) as store:
        for place in range(count):
            if place not in store.done:
                store.add(Photo(place, 6, 9, 100 + place, 0, 0), maps_of(place))
    return contents


KINDS = [Kind("deep.label"), Kind("deep.logits", 4, 3, "<f2")]


def maps_of(place: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(place)
    return {"deep.label": rng.integers(0, 9, (6, 9), dtype=np.uint8), "deep.logits": rng.normal(size=(2, 3, 3))}


def test_what_was_stored_is_read_at_random(tmp_path: Path) -> None:
    store = Maps(tmp_path, small_store(tmp_path))
    for place in (3, 0, 4):
        assert store.photo(place) == (place, 6, 9, 100 + place, 0, 0)
        assert np.array_equal(store.full(place, "deep.label"), maps_of(place)["deep.label"])
        assert np.array_equal(store.coarse(place, "deep.logits"), maps_of(place)["deep.logits"].astype("<f2"))
    assert store.find("3.jpg") == 3


def test_a_coarse_map_is_mirrored_as_its_photo_is(tmp_path: Path) -> None:
    maps = maps_of(0) | {"deep.logits": np.arange(12.0).reshape(2, 2, 3)}  # cells of 4 pixels
    contents = Contents(("0.jpg",), {"teachers": {"deep": "abc"}})
    with closing(MapsWriter(tmp_path, contents, KINDS)) as store:
        store.add(Photo(0, 8, 8, 100, 0, 0), maps | {"deep.label": np.zeros((8, 8), np.uint8)})
    cells_of, mirrored = (
        Maps(tmp_path, contents).crop_coarse(0, "deep.logits", Geometry(flip, 8, 8, 0, 0, 8)) for flip in (False, True)
    )
    assert np.array_equal(cells_of, maps["deep.logits"].transpose(2, 0, 1))
    assert np.array_equal(mirrored, cells_of[:, :, ::-1])


def test_cut_off_anywhere_it_is_gone_on_with_to_the_same_bytes(tmp_path: Path) -> None:
    contents = small_store(tmp_path)
    whole = files_of(tmp_path)
    for name in ("index-0.bin", "data-0.bin"):
        for size in range(0, len(whole[name]), 17):
            (tmp_path / name).write_bytes(whole[name][:size])
            with pytest.raises(UserError, match=r"maps of . of 5 photos|cut short"):
                Maps(tmp_path, contents)
            small_store(tmp_path)
            assert files_of(tmp_path) == whole


def test_a_store_of_something_else_is_refused_by_name(tmp_path: Path) -> None:
    contents = small_store(tmp_path)
    others = {
        "teachers": replace(contents, facts={"teachers": {"deep": "xyz"}}),
        "photos": replace(contents, photos=contents.photos[1:]),
        "photos_sha256": replace(contents, photos=("a.jpg", *contents.photos[1:])),
    }
    for name, other in others.items():
        with pytest.raises(UserError, match=rf"is of another {name}"):
            Maps(tmp_path, other)
        with pytest.raises(UserError, match=rf"is of another {name}"):
            MapsWriter(tmp_path, other, KINDS)
    (tmp_path / "maps.json").write_text('{"format": "mgd-maps-0"}')
    with pytest.raises(UserError, match=r"not what this version writes"):
        Maps(tmp_path, contents)


def test_a_disk_that_fills_ends_in_a_sentence_and_what_is_there_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    small_store(tmp_path, 2)
    before = files_of(tmp_path)
    contents = Contents(("0.jpg", "1.jpg"), {"teachers": {"deep": "abc"}})
    store = MapsWriter(tmp_path, contents, KINDS)
    store.add(Photo(0, 6, 9, 100, 0, 0), maps_of(0))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match=r"cannot be written .*No space left.*what was taught before stays"):
            store.flush()
    assert small_store(tmp_path, 2) == contents
    assert files_of(tmp_path) == before


# The command


def test_killed_again_and_again_it_ends_with_the_bytes_of_an_undisturbed_run(
    tmp_path: Path, small_scenes: Path, teachers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mgd.data.store.PENDING", 1)
    calm, killed = (load(write_config(tmp_path / name, small_scenes), teachers) for name in ("calm", "killed"))
    splits, maps = open_splits(calm.data), tmp_path / "killed" / "maps"
    networks = open_teachers(calm, splits, CPU)

    def look(config: Experiment) -> None:
        teach(config, splits, networks, precision=torch.float32)

    look(calm)
    for _ in range(10):
        before, process = bytes_in(maps), multiprocessing.get_context("fork").Process(target=look, args=(killed,))
        process.start()
        deadline = time.monotonic() + 20
        while process.is_alive() and bytes_in(maps) <= before and time.monotonic() < deadline:
            time.sleep(0.001)
        process.kill()
        process.join()
    look(killed)
    assert files_of(maps) == files_of(tmp_path / "calm" / "maps")


def test_two_processes_share_the_photos_and_say_what_one_says(
    tmp_path: Path, small_scenes: Path, teachers: list[str]
) -> None:
    one, overrides = taught(tmp_path / "one", small_scenes, teachers)
    two = write_config(tmp_path / "two", small_scenes)
    run_processes(2, "teach", str(two), *teachers)
    stores = []
    for config in (one, two):
        experiment = load(config, overrides)
        store = open_maps(experiment, open_splits(experiment.data))
        assert store is not None
        stores.append(store)
    assert len(list((tmp_path / "two" / "maps").glob("data-*.bin"))) == 2
    for place in range(12):
        for kind in stores[0].kinds:
            values = [(s.coarse if kind.channels else s.full)(place, kind.name) for s in stores]
            assert np.array_equal(*values)


@pytest.mark.parametrize("method", [[], ["method.soft=0.5"], ["method=kd"], ["method=cwd"]])
def test_a_student_trains_without_its_teachers_and_goes_on_where_it_was_stopped(
    tmp_path: Path, small_scenes: Path, teachers: list[str], method: list[str]
) -> None:
    teachers = [*method, *teachers[1:]] if method[:1] in (["method=kd"], ["method=cwd"]) else [*teachers, *method]
    _, overrides = taught(tmp_path / "student", small_scenes, teachers)
    run = train(tmp_path / "student", small_scenes, *overrides)
    whole = read(run / "last.pt")["model"]
    assert not list(run.glob("teacher-*"))  # no teacher was loaded, hence none scored
    other = train(tmp_path / "other", small_scenes, *overrides, f"method.teach.dir={tmp_path / 'student' / 'maps'}")
    assert not differences(whole, read(other / "last.pt")["model"])


def test_a_projection_to_more_channels_than_there_are_is_one_sentence(
    tmp_path: Path, small_scenes: Path, teachers: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path / "student", small_scenes)
    assert main(["teach", str(config), *teachers, "method.teach.projection=25"]) == 2  # the wide teacher has 24
    assert "method.teach.projection=25 is more than the 24 channels" in capsys.readouterr().err


def test_a_projection_of_teachers_in_bf16_is_that_of_float32(
    tmp_path: Path, small_scenes: Path, teachers: list[str]
) -> None:
    options = [*teachers, "method.teachers=offline", "method.teach.projection=8", "method.teach.feature_stride=4"]
    stores = []
    for precision in ("fp32", "bf16"):
        path = write_config(tmp_path / precision, small_scenes)
        own = [*options, f"method.teach.precision={precision}", f"method.teach.dir={tmp_path / precision / 'maps'}"]
        assert main(["teach", str(path), *own]) == 0
        experiment = load(path, own)
        stores.append(open_maps(experiment, open_splits(experiment.data)))
    for place in range(12):
        full, half = (store.coarse(place, "wide.feature").astype(float) for store in stores)
        assert full.shape[-1] == 8
        assert np.linalg.norm(full - half) < 0.02 * np.linalg.norm(full)


@pytest.mark.parametrize(
    "method",
    [
        ["method=mgd", "method.soft=0.5", "method.teach.projection=16"],
        ["method=kd"],
        ["method=cwd", "method.teach.projection=16"],
    ],
)
def test_shared_memory_is_planned_for_all_of_a_sample(
    tmp_path: Path, small_scenes: Path, teachers: list[str], method: list[str]
) -> None:
    changes = ["data.partner=independent", "data.workers=1", "method.teach.values=fp32", "method.confidence=0.5"]
    given = changes if method[0] == "method=mgd" else changes[:-1]
    config = load(*taught(tmp_path / "student", small_scenes, [*method, *teachers[1:]], *given))
    splits = open_splits(config.data)
    sample = TrainingSamples(splits, config, maps=open_maps(config, splits))[0]
    pixels = sum(leaf.nbytes for leaf in tree_leaves(sample) if isinstance(leaf, np.ndarray) and leaf.ndim > 1)
    batches = PREFETCH * config.train.batch_size // config.train.accumulate
    assert shared_bytes(config, 8) == batches * pixels


def test_what_no_store_could_serve_is_refused(
    tmp_path: Path, small_scenes: Path, teachers: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path / "student", small_scenes)
    for changes, text in {
        ("method=cps",): "method=cps has no teachers that can be offline; name the config of a student with method=mgd",
        ("method=cwd", "method.teach.logits_stride=6"): "logits_stride=6 must be a multiple of 4 for CWD",
        ("method=kd", "method.teach.projection=8"): "projection=8 is of a feature, which KD does not store; leave it 0",
    }.items():
        named = [] if changes == ("method=cps",) else teachers[1:]
        assert main(["teach", str(config), changes[0], *named, *changes[1:]]) == 2
        assert text in capsys.readouterr().err


def test_maps_without_soft_labels_do_not_serve_a_student_that_asks_for_them(
    tmp_path: Path, small_scenes: Path, teachers: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    config, overrides = taught(tmp_path / "student", small_scenes, teachers)
    for change in (["method.soft=0.5"], ["method=kd", *overrides[1:]]):
        assert main(["train", str(config), *overrides, *change]) == 2
        assert "is of another options" in capsys.readouterr().err


def test_training_without_maps_or_with_those_of_another_teacher_is_refused(
    tmp_path: Path, small_scenes: Path, teachers: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path / "student", small_scenes)
    offline = [*teachers, "method.teachers=offline"]
    assert main(["train", str(config), *offline]) == 2
    assert "holds no teachers' maps; make them first: python -m mgd teach" in capsys.readouterr().err
    taught(tmp_path / "student", small_scenes, teachers)
    other = write_network(tmp_path / "other.pt", num_classes=8, seed=9)
    for change, name in {
        f"method.deep_teacher={other}": "teachers",
        "data.short_side=24": "options",
        "method.teach.flip=true": "options",
        "evaluate.stride=0.5": "options",  # of the teachers' windows
    }.items():
        assert main(["train", str(config), *offline, change]) == 2
        assert f"is of another {name}" in capsys.readouterr().err


def test_a_photo_that_changed_since_is_refused(tmp_path: Path, small_scenes: Path, teachers: list[str]) -> None:
    root = tmp_path / "scenes"
    shutil.copytree(small_scenes, root)
    config, overrides = taught(tmp_path / "student", root, teachers)
    experiment = load(config, overrides)
    photo = open_splits(experiment.data).unlabeled[0].image
    whole = photo.read_bytes()
    os.utime(photo, (1e9, 1e9))  # as a copy has
    batch_of(experiment, 2)
    for content in (whole[:-9] + bytes(9), whole + b"0"):  # as long as it was, and not
        photo.write_bytes(content)
        os.utime(photo, (1e9, 1e9))
        with pytest.raises(UserError, match=rf"{photo.name} changed since the teachers saw them \(1 of 12 photos\)"):
            batch_of(experiment, 2)
        assert main(["teach", str(config), *overrides]) == 2


def test_a_dry_run_tells_size_and_time_and_writes_nothing(
    tmp_path: Path, small_scenes: Path, teachers: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path / "student", small_scenes)
    assert main(["teach", str(config), *teachers, "--dry-run"]) == 0
    assert "12 photos left: " in capsys.readouterr().out
    assert not (tmp_path / "student" / "maps").exists()


def test_teachers_are_scored_before_they_look_and_not_again_when_it_goes_on(
    tmp_path: Path, small_scenes: Path, teachers: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    config, run = write_config(tmp_path / "student", small_scenes), tmp_path / "student" / "run"
    arguments = ["teach", str(config), *teachers, "evaluate.mode=whole"]
    assert main([*arguments, "--dry-run"]) == 0
    assert not run.exists()
    assert main(arguments) == 0
    told = capsys.readouterr().err
    assert "WARNING: the deep teacher has lost" in told  # its weights are random
    assert sorted(path.name for path in run.glob("*.json")) == ["teacher-deep.json", "teacher-wide.json"]
    assert main(arguments) == 0
    again = capsys.readouterr()
    assert "teacher has lost" not in again.err
    assert "0 photos left: 0.00 GiB" in again.out


def test_exported_labels_are_index_images_with_the_classes_colours(
    tmp_path: Path, small_scenes: Path, teachers: list[str]
) -> None:
    config, overrides = taught(tmp_path / "student", small_scenes, teachers, "--export", str(tmp_path / "out"))
    experiment = load(config, [text for text in overrides if "=" in text])
    splits = open_splits(experiment.data)
    store = open_maps(experiment, splits)
    assert store is not None
    for teacher in ("deep", "wide"):
        found = sorted((tmp_path / "out" / teacher / "labels").rglob("*.png"))
        assert len(found) == len(list((tmp_path / "out" / teacher / "confidence").rglob("*.png"))) == 12
        for place, path in enumerate(found):
            assert np.array_equal(read_indices(path), store.full(place, f"{teacher}.label"))
        palette = read_palette(found[0])
        assert palette is not None
        assert np.array_equal(palette[:8], splits.classes.palette()[:8])
