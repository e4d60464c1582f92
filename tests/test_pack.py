"""The decode-once store: samples from it are those from the files, and it is never used for what it is not of."""

import multiprocessing
import os
import resource
import shutil
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import bytes_in, differences, read, start, train, write_config, write_image

from mgd.__main__ import main
from mgd.check import check
from mgd.config import Data, Experiment, load
from mgd.data.datasets import hidden_truth, open_splits
from mgd.data.images import load_image, read_indices
from mgd.data.items import Items
from mgd.data.loaders import make_loader
from mgd.data.pack import KINDS, PACK, Pack, folder_of, open_pack, pack_contents
from mgd.data.packing import pack
from mgd.data.positions import PositionSampler
from mgd.data.samples import TrainingSamples
from mgd.data.store import StoreWriter
from mgd.errors import UserError

CPU = torch.device("cpu")
CPS = "method=cps"


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def packed(config: Path, *overrides: str) -> Experiment:
    """The experiment, its photos packed."""
    assert main(["pack", str(config), *overrides]) == 0
    return load(config, [*overrides])


def samples_of(config: Experiment, *, how: str) -> TrainingSamples:
    data, splits = replace(config.data, pack=how), open_splits(config.data)
    return TrainingSamples(splits, config, pack=open_pack(data, splits))


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, list):
        return all(map(equal, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def no_file_is_read(*_: object) -> None:
    pytest.fail("a photo was decoded")


@pytest.fixture
def scenes(tmp_path: Path, small_scenes: Path) -> Path:
    """Scenes that may be changed."""
    return Path(shutil.copytree(small_scenes, tmp_path / "scenes"))


@pytest.fixture
def config(tmp_path: Path, scenes: Path) -> Path:
    return write_config(tmp_path, scenes)


# Samples


@pytest.mark.parametrize(
    "changes",
    [
        [],
        ["data.scales=0.5"],
        ["data.scales=1.0", "data.crop_size=64"],
        ["data.scales=2.0", "data.partner=independent"],
        ["data.short_side=30"],
        ["data.label_map=7=ignore,0=0,1=0"],
        ["data.ignore_values=3", "data.rare_classes=tree", "data.rare_crops=0.5"],
        ["data.cache=true"],
    ],
    ids=" ".join,
)
def test_samples_of_the_store_are_those_of_the_files(
    config: Path, changes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = packed(config, CPS, *changes)
    plain = samples_of(experiment, how="off")
    expected = [plain[position] for position in range(12)]  # mirrored and not, every photo
    store = samples_of(experiment, how="on")
    monkeypatch.setattr("mgd.data.samples.load_small", no_file_is_read)
    for position, sample in enumerate(expected):
        assert equal(store[position], sample), position


@pytest.mark.parametrize("workers", [0, 2])
def test_loaders_of_any_number_of_workers_read_the_store(
    config: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = packed(config, CPS)
    sampler = PositionSampler(0, 2, batch_size=4, accumulate=1, rank=0, world=1)
    plain, store = samples_of(experiment, how="off"), samples_of(experiment, how="auto")
    expected = list(make_loader(plain, sampler, workers=0, device=CPU, batched=True))
    monkeypatch.setattr("mgd.data.samples.load_small", no_file_is_read)
    monkeypatch.setattr("mgd.data.loaders.cores", lambda: 2)
    for found, batch in zip(
        make_loader(store, sampler, workers=workers, device=CPU, batched=True), expected, strict=True
    ):
        assert equal(found, batch)


def test_a_run_on_the_store_trains_the_same_weights(tmp_path: Path, config: Path, scenes: Path) -> None:
    plain = read(train(tmp_path / "plain", scenes, CPS) / "last.pt")["model"]
    packed(config, CPS)
    assert not differences(plain, read(train(tmp_path / "packed", scenes, CPS, "data.pack=on") / "last.pt")["model"])


def test_a_store_serves_every_partition(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed(config, CPS)
    monkeypatch.setattr("mgd.data.samples.load_small", no_file_is_read)
    store = samples_of(load(config, [CPS, "data.partition=2"]), how="on")
    assert {name for position in range(12) for name in store.names(position)} == {
        item.name for item in (*store.splits.labeled, *store.splits.unlabeled)
    }


def test_packing_for_other_lists_leaves_the_labels_that_are_there(config: Path, scenes: Path) -> None:
    items = list(open_splits(load(config, ["data.partition=1"]).data).labeled)
    for ratio in (2, 3):  # an unlabelled line has no label map that could be found
        lines = {"labeled": [f"{item.image}\t{item.label}\n" for item in items[::ratio]]}
        lines["unlabeled"] = [f"{item.image}\n" for item in items if item not in items[::ratio]]
        for part, its in lines.items():
            (scenes / f"{part}_{ratio}.txt").write_text("".join(its))
    lists = [CPS, "data.partition_lists={part}_{ratio}.txt"]
    for ratio in (2, 3):
        packed(config, *lists, f"data.partition={ratio}")
    before = files_of(scenes / "pack")
    for ratio in (2, 3):
        how = packed(config, *lists, f"data.partition={ratio}")
        assert not open_pack(replace(how.data, pack="on"), splits := open_splits(how.data)).stale(splits.labeled)
    assert files_of(scenes / "pack") == before


def test_a_crop_reads_its_rows_alone(config: Path) -> None:
    experiment = packed(config)
    splits = open_splits(experiment.data)
    image, label = Pack(experiment.data, splits).load(splits.labeled[0]) or (None, None)
    assert image is not None
    assert label is not None
    for array in (image, label):
        assert isinstance(array.base.base, np.memmap)  # views of the mapped file
        assert not array.flags.writeable


# What it is not of


def rewrite_photo(data: Data) -> Path:
    path = open_splits(data).labeled[0].image
    write_image(path, np.full_like(load_image(path), 9))
    return path


def rewrite_label(data: Data) -> Path:
    path = open_splits(data).labeled[0].label
    assert path is not None
    write_image(path, np.zeros_like(read_indices(path)))
    return path


@pytest.mark.parametrize("change", [rewrite_photo, rewrite_label])
def test_what_changed_since_is_read_from_its_file_and_told_until_it_is_packed_again(
    config: Path,
    change: Callable[[Data], Path],
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    experiment = packed(config, CPS)
    before = list(map(samples_of(experiment, how="off").__getitem__, range(3)))
    running = samples_of(experiment, how="on")  # from before the change
    change(experiment.data)
    plain = samples_of(experiment, how="off")
    expected = [plain[position] for position in range(6)]
    assert not equal(expected[:3], before)
    for store in (running, samples_of(experiment, how="auto")):
        assert all(equal(store[position], expected[position]) for position in range(6))
    assert "changed since being packed (1 of 12 photos)" in caplog.text
    with pytest.raises(UserError, match=r"changed since .*; python -m mgd pack CONFIG; or set data.pack=off"):
        samples_of(experiment, how="on")
    assert [f.level for f in check(experiment, progress=False) if f.subject == "pack"] == ["warning"]
    capsys.readouterr()
    packed(config, CPS)
    assert "holds the pixels of 12 photos, 1 decoded now" in capsys.readouterr().out
    store = samples_of(experiment, how="on")
    monkeypatch.setattr("mgd.data.samples.load_small", no_file_is_read)
    assert all(equal(store[position], expected[position]) for position in range(6))


def test_files_of_the_same_size_are_known_by_their_time_in_whole_seconds(config: Path) -> None:
    experiment = packed(config)
    splits = open_splits(experiment.data)
    store, item = Pack(experiment.data, splits), splits.labeled[0]
    second = int(item.image.stat().st_mtime)
    os.utime(item.image, (second, second))  # as an archive keeps it
    assert not store.stale(Items.of(splits.labeled))
    os.utime(item.image, (second + 1, second + 1))
    assert store.stale(Items.of(splits.labeled)) == [item]
    assert store.load(item) is None


def test_a_store_of_something_else_is_refused_by_name(
    config: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    experiment = packed(config)
    folder = Path(experiment.data.root) / "pack"
    lines = (folder.parent / "train_aug.txt").read_text().splitlines(keepends=True)
    (folder.parent / "fewer.txt").write_text("".join(lines[1:]))
    others = {
        "data.short_side=20": "short_side: short_side is 0 there and 20 here",
        "data.label_map=7=ignore": "label_map",
        "data.ignore_values=7": "ignore_values",
        "data.train_list=fewer.txt": "photos, photos_sha256: photos is 12 there and 11 here",
        "data.classes=voc": "classes: classes is 8 there and 21 here",
    }
    for change, text in others.items():
        other = load(config, [change])
        with pytest.raises(UserError, match=f"{folder} is of another {text}"):
            samples_of(other, how="on")
        caplog.clear()
        assert samples_of(other, how="auto").pack is None
        assert f"is of another {text}" in caplog.text
        assert "decoded from their files" in caplog.text
        assert main(["pack", str(config), change]) == 2
        assert f"is of another {text}" in capsys.readouterr().err
    (folder / "pack.json").write_text('{"format": "mgd-pack-0"}')
    with pytest.raises(UserError, match=r"not what this version writes \(mgd-pack-1\); delete .* and pack again"):
        samples_of(experiment, how="on")


def test_a_store_that_is_missing_unfinished_or_cut_short_is_refused(config: Path) -> None:
    experiment = load(config)
    with pytest.raises(UserError, match="holds no pixels; make them first: python -m mgd pack CONFIG"):
        samples_of(experiment, how="on")
    assert samples_of(experiment, how="auto").pack is None
    packed(config)
    folder = Path(experiment.data.root) / "pack"
    index, data = (folder / f"{name}-0.bin" for name in ("index", "data"))
    whole = files_of(folder)
    data.write_bytes(whole[data.name][:-1])
    with pytest.raises(UserError, match=f"{data} is cut short; delete {folder} and pack again"):
        samples_of(experiment, how="on")
    index.write_bytes(whole[index.name][:-1])
    with pytest.raises(UserError, match="has the pixels of 11 of 12 photos; the same `python -m mgd pack` goes on"):
        samples_of(experiment, how="on")
    packed(config)
    assert files_of(folder) == whole


# Packing


def leave_little_room() -> None:
    """Let no file of this process grow above 100,000 bytes: 8 of the photos."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


def test_a_disk_that_fills_is_one_sentence_and_what_was_packed_stays(
    tmp_path: Path, config: Path, scenes: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    calm = write_config(tmp_path / "calm", shutil.copytree(scenes, tmp_path / "calm" / "scenes"))
    packed(calm)
    assert start("pack", str(config), first=leave_little_room).wait(60) == 2
    said = capfd.readouterr().err.splitlines()[-1]
    assert f"mgd pack: {scenes / 'pack' / 'data-0.bin'} cannot be written" in said
    assert "what was packed before stays: free space, then the same command goes on" in said
    capfd.readouterr()
    packed(config)
    assert "12 photos, 4 decoded now" in capfd.readouterr().out
    assert files_of(scenes / "pack")["data-0.bin"] == files_of(tmp_path / "calm" / "scenes" / "pack")["data-0.bin"]


def test_killed_again_and_again_it_ends_with_the_bytes_of_an_undisturbed_run(
    scenes: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mgd.data.store.PENDING", 1)
    calm = load(config, ["data.pack_dir=calm"]).data
    killed, splits, folder = replace(calm, pack_dir="killed"), open_splits(calm), scenes / "killed"

    pack(calm, splits)
    for _ in range(10):
        before, process = (
            bytes_in(folder),
            multiprocessing.get_context("fork").Process(target=pack, args=(killed, splits)),
        )
        process.start()
        deadline = time.monotonic() + 20
        while process.is_alive() and bytes_in(folder) <= before and time.monotonic() < deadline:
            time.sleep(0.0005)
        process.kill()
        process.join()
    pack(killed, splits)
    assert files_of(folder) == files_of(scenes / "calm")


def test_two_processes_do_not_write_between_each_other(config: Path) -> None:
    experiment = packed(config)
    data, splits = experiment.data, open_splits(experiment.data)
    context = multiprocessing.get_context("fork")
    inside, leave = context.Event(), context.Event()

    def hold() -> None:
        with closing(StoreWriter(PACK, folder_of(data), pack_contents(data, splits), KINDS)):
            inside.set()
            leave.wait(20)

    process = context.Process(target=hold)
    process.start()
    assert inside.wait(20)
    with pytest.raises(UserError, match=r"data-0\.bin is being written by another process; wait for its end"):
        pack(data, splits)
    leave.set()
    process.join()
    assert pack(data, splits).photos == 0


def test_a_broken_photo_is_one_sentence_or_left_out(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = load(config).data
    broken = open_splits(data).unlabeled[-1].image
    broken.write_bytes(broken.read_bytes()[:200])
    assert main(["pack", str(config)]) == 2
    assert f"{broken} cannot be decoded" in capsys.readouterr().err
    experiment = packed(config, CPS, "data.skip_broken=true")
    assert f"1 photos are broken and left out: {broken} cannot be decoded" in capsys.readouterr().out
    plain, store = (samples_of(experiment, how=how) for how in ("off", "on"))
    assert all(equal(plain[position], store[position]) for position in range(12))
    assert any(plain[position]["broken"] for position in range(12))


def test_a_label_that_the_partition_does_not_use_may_be_broken(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = hidden_truth(load(config).data)[0]
    assert hidden.label is not None
    hidden.label.write_bytes(b"no label")
    experiment = packed(config, CPS)
    plain, store = (samples_of(experiment, how=how) for how in ("off", "on"))
    assert equal(plain[0], store[0])
    other = samples_of(load(config, ["data.partition=1"]), how="on")
    with pytest.raises(UserError, match=f"{hidden.label} cannot be decoded"):
        list(map(other.__getitem__, range(12)))


def test_a_dry_run_tells_size_and_time_and_writes_nothing(
    config: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pack", str(config), "--dry-run"]) == 0
    assert "12 photos to pack: 0.00 GiB in " in capsys.readouterr().out  # 12 x 64 x 48 x 4 = 147,456 bytes
    assert not (scenes / "pack").exists()
