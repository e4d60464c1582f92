"""Test deployment where room is short: a full disk leaves no half-written file, a large photo takes bounded memory."""

import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import start, write_image, write_network

import mgd.deploy.export
from mgd.__main__ import main

PHOTO = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
BYTES_A_PIXEL = (
    20  # at the peak: photo, label, confidence, overlay, the same with its legend, and turned for the encoder
)
MEASURED = """
import resource, sys
import mgd.deploy.predict
from mgd.__main__ import main
mgd.deploy.predict.WHOLE, mgd.deploy.predict.TILE, mgd.deploy.predict.OVERLAP = 1, 256, 32
small, large, pixels = *sys.argv[2:4], int(sys.argv[4])
for photo in (small, large):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert main(["predict", sys.argv[1], photo, "--out", sys.argv[5], "--device", "cpu"]) == 0
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / pixels)
"""


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_network(tmp_path_factory.mktemp("student") / "student.pt", num_classes=3)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image(tmp_path_factory.mktemp("photos") / "photo.png", PHOTO).parent


def leave_no_room() -> None:
    """Let no file of this process grow above 4,000 bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))


def leave_no_room_at_the_end() -> None:
    """The same from when an exported file is to get its name."""
    write = mgd.deploy.export.write_together

    def write_with_little_room(contents: Mapping[Path, bytes]) -> None:
        leave_no_room()
        write(contents)

    mgd.deploy.export.write_together = write_with_little_room


def test_an_export_that_the_disk_has_no_room_for_keeps_the_previous_file_its_card_and_its_photo(
    student: Path, photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "student.torchscript"
    kind = ["--format", "torchscript", "--size", "48x64", "--out", str(out)]
    arguments = ["export", str(student), "--images", str(photos), *kind]
    assert main(arguments) == 0
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert start(*arguments, "--output", "logits", first=leave_no_room_at_the_end).wait() == 2
    assert "the previous one is kept. Free space or choose another folder" in capfd.readouterr().err.splitlines()[-1]
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert main(["verify", str(out)]) == 0


def test_an_export_that_has_no_room_to_work_in_is_a_sentence(
    student: Path, photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "x.torchscript")
    arguments = ["--images", str(photos), "--format", "torchscript", "--size", "48x64", "--out", out]
    assert start("export", str(student), *arguments, first=leave_no_room).wait() == 2
    assert "has no room to work in" in capfd.readouterr().err.splitlines()[-1]
    assert [*tmp_path.iterdir()] == []


def test_predictions_that_the_disk_has_no_room_for_are_a_sentence_and_leave_whole_files(
    student: Path, photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert start("predict", str(student), str(photos), "--out", str(tmp_path), first=leave_no_room).wait() == 2
    assert "overlay/photo.png cannot be written" in capfd.readouterr().err.splitlines()[-1]  # noise: some 9,000 bytes
    found = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert "photo.png" in [file.name for file in found]
    assert all(cv2.imread(str(file)) is not None for file in found)


def test_a_video_that_the_disk_has_no_room_for_is_told_and_not_left_half_written(
    student: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    clip = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for shift in range(12):
        writer.write(np.roll(PHOTO, shift, axis=1))
    writer.release()
    arguments = ["predict", str(student), str(clip), "--out", str(tmp_path / "out"), "--write", "overlay"]
    assert start(*arguments, first=leave_no_room).wait() == 1
    assert "overlay/clip.mp4 cannot be written" in capfd.readouterr().err
    assert [file for file in (tmp_path / "out").rglob("*") if file.is_file()] == []


@pytest.mark.slow
def test_a_large_photo_takes_some_bytes_of_memory_a_pixel_whatever_the_network_makes_of_it(
    student: Path, tmp_path: Path
) -> None:
    side = 3000
    small = write_image(tmp_path / "small.png", np.full((500, 500, 3), 90, np.uint8))
    large = write_image(tmp_path / "large.png", np.full((side, side, 3), 90, np.uint8))
    arguments = [str(student), str(small), str(large), str(side**2), str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", MEASURED, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.splitlines()[-1]) < BYTES_A_PIXEL
    label = cv2.imread(str(tmp_path / "out/label/large.png"), cv2.IMREAD_UNCHANGED)
    assert label.shape == (side, side)
