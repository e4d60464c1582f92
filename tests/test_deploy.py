"""Test what leaves the run folder: prediction, exported files, their cards, INT8, the page, the report."""

import importlib.util
import json
import multiprocessing.dummy
import multiprocessing.pool
import os
import shutil
import subprocess
import sys
import warnings
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import BACKBONE, CHANNELS, train, write_image, write_network
from PIL import Image
from torch import Tensor, nn

import mgd
from mgd.__main__ import main
from mgd.config import MGD, Data
from mgd.data.classes import Classes
from mgd.data.datasets import Item
from mgd.deploy.benchmark import benchmark
from mgd.deploy.comparison import choose_photos, compare_runners
from mgd.deploy.formats import Shape, write_onnx
from mgd.deploy.int8.qdq import between_convolutions
from mgd.deploy.int8.quantise import quantise
from mgd.deploy.int8.speed import that_fit
from mgd.deploy.media import Frames, Photo, find_media, new_video
from mgd.deploy.page import MODEL, RUNTIME, find_runtime, write_page
from mgd.deploy.predict import TILE, Job, predict_media, tiles
from mgd.deploy.runtime import Runner, open_runner, torch_runner
from mgd.deploy.source import Source, open_source
from mgd.errors import UserError
from mgd.models import build_model
from mgd.models.normalise import NormalisingNetwork
from mgd.models.photo import Output, PhotoGraph
from mgd.report.html import report_html
from mgd.report.numbers import scores
from mgd.report.plots import confusion, learning_curves
from mgd.report.predictions import predict_all
from mgd.report.runs import read_runs, with_teachers
from mgd.statistics import ious, paired_bootstrap

needs_export = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="the extra mgd[export] is not installed",
)
CACHED = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mgd/node_modules/onnxruntime-web/dist"


class Reddest(NormalisingNetwork):
    """Class 1 where a pixel is redder than half, else class 0."""

    def forward(self, x: Tensor) -> Tensor:
        middle = (0.5 - self.mean[0]) / self.std[0]
        return torch.stack([torch.zeros_like(x[:, 0]), x[:, 0] - middle], dim=1)


@pytest.fixture(scope="module")
def run(small_scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of three iterations."""
    return train(tmp_path_factory.mktemp("deploy") / "exp", small_scenes)


@pytest.fixture(scope="module")
def photos(small_scenes: Path) -> Path:
    return small_scenes / "val" / "image"


@pytest.fixture(scope="module")
def exported(run: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file for photos of 48x64."""
    out = tmp_path_factory.mktemp("export") / "student.onnx"
    assert main(["export", str(run / "last.pt"), "--size", "48x64", "--out", str(out)]) == 0
    return out


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Path:
    """The same, to be damaged."""
    for file in exported.parent.glob("student.onnx*"):
        shutil.copy(file, tmp_path)
    return tmp_path / exported.name


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one sentence in which a command ends."""
    assert main([str(a) for a in arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len([line for line in lines if line.startswith("mgd ")]) == 1
    return lines[-1]


# Graph and prediction


def test_the_graph_takes_uint8_photos_and_gives_uint8_labels() -> None:
    photo = torch.zeros(2, 4, 6, 3, dtype=torch.uint8)
    photo[0, 1:3, 2:5, 0] = 200
    label = PhotoGraph(Reddest())(photo)
    assert label.dtype == torch.uint8
    assert torch.equal(label, (photo[..., 0] > 127).to(torch.uint8))


def test_the_graph_shrinks_to_the_short_side_and_gives_labels_of_the_photos_size() -> None:
    seen = []

    class Watching(Reddest):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(tuple(x.shape[-2:]))
            return super().forward(x)

    label = PhotoGraph(Watching(), short_side=20)(torch.zeros(1, 40, 61, 3, dtype=torch.uint8))
    # 61 * 20 / 40 = 30.5: to the even number, as in training
    assert (seen, tuple(label.shape)) == ([(20, 30)], (1, 40, 61))
    PhotoGraph(Watching(), short_side=20)(torch.zeros(1, 10, 12, 3, dtype=torch.uint8))
    assert seen[1:] == [(10, 12)]  # never enlarged


def test_confidence_is_the_chosen_class_probability() -> None:
    photo = torch.full((1, 2, 2, 3), 255, dtype=torch.uint8)
    network = Reddest()
    label, confidence = PhotoGraph(network, output="labels+confidence")(photo)
    score = 0.5 / network.std[0]
    assert label.unique().tolist() == [1]
    assert confidence[0, 0, 0].item() == pytest.approx(1 / (1 + np.exp(-score)), abs=1e-5)


def test_a_network_predicts_a_photo_file_and_an_array_alike(run: Path, photos: Path) -> None:
    network = mgd.load_student(run / "last.pt")
    file = sorted(photos.glob("*.jpg"))[0]
    label = network.predict(str(file))
    array = np.ascontiguousarray(cv2.imread(str(file))[..., ::-1])
    assert (label.dtype, label.shape) == (np.uint8, array.shape[:2])
    assert np.array_equal(label, mgd.predict(network, array))
    array.flags.writeable = False  # as PIL gives it
    with warnings.catch_warnings(action="error"):
        assert np.array_equal(label, mgd.predict(network, array))
    assert not network.training


@pytest.mark.parametrize(
    "change",
    [
        lambda rgb: rgb / 255,
        lambda rgb: rgb[..., 0],
        lambda rgb: rgb.transpose(2, 0, 1),
        lambda rgb: rgb[..., [0, 1, 2, 2]],
        lambda rgb: rgb[:0],
    ],
)
def test_an_array_that_is_no_photo_is_refused_and_not_predicted_wrongly(change, run: Path) -> None:
    with pytest.raises(UserError, match=r"must be RGB uint8 \(H,W,3\), found"):
        mgd.load_student(run / "last.pt").predict(change(np.zeros((40, 50, 3), np.uint8)))


def test_a_checkpoint_brings_its_colours_and_its_short_side(small_scenes: Path, tmp_path: Path) -> None:
    folder = train(tmp_path / "exp", small_scenes, "data.short_side=40", "train.max_iterations=1")
    source = open_source(folder / "last.pt", data_root="gone")
    assert source.network.short_side == 40
    assert source.classes == mgd.data.classes.read_classes("classes.csv", small_scenes)


def test_tiles_cover_every_pixel_once() -> None:
    for length in (1, TILE, TILE + 1, 5000):
        found = [*tiles(length)]
        assert [i for *_, first, last in found for i in range(first, last)] == [*range(length)]
        assert all(start <= first < last <= stop for start, stop, first, last in found)


def test_predict_keeps_sizes_and_paths_and_skips_what_cannot_be_read(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = tmp_path / "in"
    write_image(given / "sub" / "a.png", np.full((37, 53, 3), 90, np.uint8))
    write_image(given / "dot.png", np.full((1, 1, 3), 90, np.uint8))
    turned = np.full((20, 30, 3), 90, np.uint8)
    exif = Image.Exif()
    exif[274] = 6  # turned by 90 degrees
    write_image(given / "turned.jpg", turned, exif=exif)
    (given / "empty.jpg").write_bytes(b"")
    (given / "phone.heic").write_bytes(b"")
    cv2.imwrite(str(given / "deep.png"), np.zeros((9, 9, 3), np.uint16))
    assert main(["predict", str(run / "last.pt"), str(given), "--out", str(tmp_path / "out"), "--device", "cpu"]) == 1
    out, told = capsys.readouterr()
    assert f"left out: 1 in {given}, since their names are not those of images: {given}/phone.heic; convert" in out
    assert "empty.jpg cannot be decoded" in told
    assert "deep.png has 16 bits" in told
    assert "2 could not be read" in told
    sizes = {"sub/a": (37, 53), "dot": (1, 1), "turned": (30, 20)}
    for name, size in sizes.items():
        for kind in ("label", "confidence"):
            assert cv2.imread(str(tmp_path / f"out/{kind}/{name}.png"), cv2.IMREAD_UNCHANGED).shape == size
        assert cv2.imread(str(tmp_path / f"out/color/{name}.png")).shape == (*size, 3)
        assert cv2.imread(str(tmp_path / f"out/overlay/{name}.png")).shape[0] > size[0]  # the legend
    assert not (tmp_path / "out/label/empty.png").exists()


def test_predictions_go_to_an_annotation_tool_and_come_back(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pycocotools")
    out, back = tmp_path / "out", tmp_path / "back"
    arguments = ["predict", str(run / "last.pt"), str(photos), "--out", str(out)]
    assert main([*arguments, "--write", "label,coco,cvat"]) == 0
    assert "in CVAT: Upload annotations" in capsys.readouterr().out
    words = ["--format", "coco", "--unmarked", "ignore", "--classes", str(out / "coco/classes.csv")]
    assert main(["prepare", "labels", str(out / "coco"), *words, "--out", str(back)]) == 0
    labels = sorted((out / "label").glob("*.png"))
    assert len(labels) == 3
    for label in labels:
        found = cv2.imread(str(next(back.rglob(f"labels/**/{label.name}"))), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(found, cv2.imread(str(label), cv2.IMREAD_UNCHANGED))
    assert "is not empty" in refused(capsys, *arguments, "--write", "coco")  # what was corrected there is kept


def test_a_photo_of_more_scores_than_memory_has_room_for_gets_the_same_labels(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["predict", str(run / "last.pt"), str(photos), "--write", "label", "--device", "cpu"]
    assert main([*arguments, "--out", str(tmp_path / "whole")]) == 0
    monkeypatch.setattr("mgd.deploy.predict.SCORES", 1)
    assert main([*arguments, "--out", str(tmp_path / "bands")]) == 0
    for file in (tmp_path / "whole/label").iterdir():
        both = [
            cv2.imread(str(tmp_path / kind / "label" / file.name), cv2.IMREAD_UNCHANGED) for kind in ("whole", "bands")
        ]
        assert (both[0] == both[1]).mean() > 0.999


def test_a_video_that_ends_early_is_predicted_to_its_end_and_told(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(whole), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    noise = np.random.default_rng(0)
    for _ in range(12):
        writer.write(noise.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    writer.release()
    (tmp_path / "cut.avi").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    out = tmp_path / "out"
    arguments = [str(run / "last.pt"), str(tmp_path / "cut.avi"), "--out", str(out), "--write", "overlay"]
    assert main(["predict", *arguments]) == 1
    told = capsys.readouterr()
    assert f"ends after {(count := int(told.err.split('ends after ')[1].split()[0]))} of 12 frames" in told.err
    assert told.out.startswith(f"0 images and {count} frames, ")
    assert "frames/s" in told.out
    assert [file.name for file in (out / "overlay").iterdir()] == ["cut.mp4"]


def clip(path: Path, height: int, width: int, frames: int) -> Path:
    """A video of noise, without loss."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"FFV1"), 10, (width, height))
    for _ in range(frames):
        writer.write(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))
    writer.release()
    return path


@pytest.mark.parametrize("size", [(48, 64), (47, 64), (47, 63)])
def test_a_video_has_all_of_its_frames(tmp_path: Path, size: tuple[int, int]) -> None:
    """OpenCV writes even sides alone."""
    picture = np.full((*size, 3), 90, np.uint8)
    picture[-1], picture[:, -1] = 255, 255
    with new_video(tmp_path / "clip.mp4", 10) as write:
        write(picture)
    (frame,) = Frames(str(tmp_path / "clip.mp4"))
    assert frame.shape[:2] == (48, 64)
    assert frame[-1].min() > 200
    assert frame[:, -1].min() > 200


def test_of_a_video_is_written_what_is_asked_for(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = clip(tmp_path / "clip.mkv", 48, 64, frames=2)
    arguments = ["predict", str(run / "last.pt"), str(video), "--out", str(tmp_path / "out"), "--write"]
    assert main([*arguments, "label,color"]) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith(f"; label in {tmp_path / 'out'}")
    assert [folder.name for folder in (tmp_path / "out").iterdir()] == ["label"]
    assert main([*arguments, "color,cvat"]) == 2
    assert "there is no color, cvat; write label, overlay, confidence as well" in capsys.readouterr().err


def test_frames_and_photos_that_would_be_written_into_one_folder_are_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo, out = tmp_path / "photos/clip/000001.png", tmp_path / "out"
    write_image(photo, np.zeros((48, 64, 3), np.uint8))
    video = clip(tmp_path / "clip.mkv", 48, 64, frames=2)
    arguments = ["predict", str(run / "last.pt"), str(tmp_path / "photos"), str(video), "--out", str(out)]
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert f"{photo} and the frames of {video} would be written into one folder, clip; choose an --out" in told
    assert not out.exists()
    assert main([*arguments, "--write", "overlay"]) == 0  # of a video one file
    assert {path.name for path in (out / "overlay").iterdir()} == {"clip", "clip.mp4"}


@pytest.mark.parametrize(
    ("path", "said"), [("nothing-here*.jpg", "matches nothing"), ("99", "webcam"), ("folder", "has no image")]
)
def test_a_path_that_has_nothing_ends_in_a_sentence(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], path: str, said: str
) -> None:
    (tmp_path / "folder").mkdir()
    given = path if path.isdecimal() else str(tmp_path / path)
    status = main(["predict", str(run / "last.pt"), given, "--out", str(tmp_path / "out")])
    assert status in (1, 2)
    assert said in capsys.readouterr().err


def test_two_files_of_one_name_are_refused_and_a_file_that_is_named_twice_counts_once(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_image(tmp_path / folder / "same.png", np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(UserError, match=r"a/same\.png, .*b/same\.png would be written under one name, same; rename"):
        find_media([str(tmp_path / "a"), str(tmp_path / "b")])
    assert len(find_media([str(tmp_path / "a/same.png")] * 2)) == 1


def test_what_was_predicted_into_the_folder_of_the_photos_is_no_photo_the_next_time(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "photos/a.png", np.full((37, 53, 3), 90, np.uint8))
    for told in ("1 images, ", "left out: 2 pictures in "):
        arguments = ["predict", str(run / "last.pt"), str(tmp_path / "photos"), "--write", "label,color"]
        assert main([*arguments, "--out", str(tmp_path / "photos")]) == 0
        assert told in capsys.readouterr().out
    found = sorted(file.relative_to(tmp_path / "photos").as_posix() for file in tmp_path.rglob("*.png"))
    assert found == ["a.png", "color/a.png", "label/a.png"]


def test_label_maps_that_lie_beside_the_photos_of_a_folder_are_not_predicted(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(run / "last.pt", weights_only=True)
    content["config"]["data"]["label_pattern"] = "{stem}_mask.png"
    torch.save(content, tmp_path / "trained_on_masks.pt")
    for name in ("a.png", "a_mask.png"):
        write_image(tmp_path / "photos" / name, np.full((37, 53, 3), 90, np.uint8))
    out = tmp_path / "out"
    arguments = [str(tmp_path / "trained_on_masks.pt"), str(tmp_path / "photos"), "--write", "label"]
    assert main(["predict", *arguments, "--out", str(out)]) == 0
    assert [file.name for file in out.rglob("*.png")] == ["a.png"]
    assert "1 images, " in capsys.readouterr().out


# Export and verify


@needs_export
def test_an_exported_file_agrees_with_the_network_and_says_so_on_its_card(exported: Path, run: Path) -> None:
    card = json.loads(exported.with_name("student.onnx.json").read_text())
    assert card["comparison"]["agreement"] >= 0.9999
    assert card["comparison"]["miou"] == pytest.approx(card["comparison"]["miou_pytorch"], abs=1e-4)
    assert card["comparison"]["logit_difference"] < 1e-3
    assert card["comparison"]["photos"] == 3
    assert card["input"] == {"name": "image", "dtype": "uint8", "colors": "RGB", "shape": [1, 48, 64, 3]}
    assert card["outputs"] == {"label": {"dtype": "uint8", "axes": 3}}
    assert [c["name"] for c in card["classes"]] == [*mgd.load_student(run / "last.pt").classes]
    assert card["parameters"] == sum(p.numel() for p in mgd.load_student(run / "last.pt").parameters())
    assert [file.name for file in exported.parent.glob("*.data")] == []  # weights inside
    assert b".py" not in exported.read_bytes()  # nor paths of the machine that wrote it


@needs_export
def test_verify_holds_where_there_is_no_pytorch(exported: Path) -> None:
    blocked = "import sys; [sys.modules.__setitem__(m, None) for m in ('torch', 'cv2', 'timm', 'PIL', 'tqdm')]"
    code = f"{blocked}; from mgd.__main__ import main; sys.exit(main(['verify', {str(exported)!r}]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, "holds: 100.000 %" in done.stdout) == (0, True), done.stderr


@needs_export
def test_verify_refuses_a_file_that_is_not_the_one_of_its_card(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied.write_bytes(copied.read_bytes() + b"\0")
    assert "is not the file of its card" in refused(capsys, "verify", copied)


@needs_export
def test_verify_refuses_outputs_that_differ(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    golden = copied.with_name("student.onnx.npz")
    with np.load(golden) as stored:
        np.savez(golden, image=stored["image"], label=stored["label"] + 1)
    assert "computes something else" in refused(capsys, "verify", copied)


@needs_export
@pytest.mark.parametrize("suffix", ["json", "npz"])
def test_verify_names_what_is_missing_beside_a_file(
    copied: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    copied.with_name(f"student.onnx.{suffix}").unlink()
    assert f"student.onnx.{suffix} does not exist" in refused(capsys, "verify", copied)


@needs_export
def test_a_file_that_differs_from_the_network_does_not_get_its_name(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoilt(network: nn.Module) -> nn.Module:
        other = build_model(BACKBONE, network.num_classes, channels=CHANNELS).eval()  # type: ignore[arg-type]
        nn.init.normal_(other.classifier.bias, std=100.0)  # type: ignore[arg-type]
        return other

    monkeypatch.setattr("mgd.deploy.export.fold_batch_norm", spoilt)
    out = tmp_path / "student.torchscript"
    arguments = ("export", run / "last.pt", "--format", "torchscript", "--size", "48x64", "--out", out)
    assert "is not written" in refused(capsys, *arguments)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("kind", ["pt2", "torchscript"])
def test_pytorchs_own_formats_are_written_and_verified(run: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / f"student.{kind}"  # of a size that the photos do not have
    arguments = ["export", str(run / "last.pt"), "--format", kind, "--size", "40x56", "--batch", "2"]
    assert main([*arguments, "--out", str(out.with_suffix(""))]) == 0
    runner = open_runner(out)
    assert (runner.size, runner.batch) == ((40, 56), 2)
    assert main(["verify", str(out)]) == 0
    with zipfile.ZipFile(out) as parts:
        assert not [name for name in parts.namelist() if b"/mgd/" in parts.read(name)]  # paths of this machine


@needs_export
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="the extra mgd[openvino] is not installed")
def test_openvinos_format_is_two_files_written_and_verified_together(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "student.xml"
    assert main(["export", str(run / "last.pt"), "--format", "openvino", "--size", "40x56", "--out", str(out)]) == 0
    assert open_runner(out).size == (40, 56)
    assert main(["verify", str(out)]) == 0
    weights = out.with_suffix(".bin")
    weights.write_bytes(weights.read_bytes() + b"\0")
    assert "is not the file of its card" in refused(capsys, "verify", out)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("litert_torch") is None, reason="the extra mgd[litert] is not installed")
def test_litert_files_are_written_and_verified(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "student.tflite"  # of a size that the photos do not have
    arguments = ["export", str(run / "last.pt"), "--format", "litert", "--size", "40x56", "--out", str(out)]
    assert main([*arguments, "--output", "labels+confidence"]) == 0
    runner = open_runner(out)
    assert runner.size == (40, 56)
    found = runner.run(np.zeros((1, 40, 56, 3), np.uint8))
    assert {name: (array.shape, array.dtype.name) for name, array in found.items()} == {
        "label": ((1, 40, 56), "uint8"),
        "confidence": ((1, 40, 56), "float32"),
    }
    assert main(["verify", str(out)]) == 0
    damaged = tmp_path / "damaged.tflite"
    damaged.write_bytes(out.read_bytes()[:1000])
    with pytest.raises(UserError, match="not a model that LiteRT can run"):
        open_runner(damaged)


@pytest.mark.parametrize(("extra", "package"), [("openvino", "openvino"), ("litert", "litert_torch")])
def test_without_a_converter_its_pip_command_is_told(
    extra: str,
    package: str,
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    arguments = ("export", run / "last.pt", "--format", extra, "--size", "48x64", "--out", tmp_path / "x")
    assert f"pip install 'mgd[{extra}]'" in refused(capsys, *arguments)


@needs_export
@pytest.mark.slow
def test_a_dynamic_file_takes_photos_of_any_size(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "any.onnx"
    assert main(["export", str(run / "last.pt"), "--batch", "dynamic", "--short-side", "40", "--out", str(out)]) == 0
    runner, network = open_runner(out), mgd.load_student(run / "last.pt")
    assert runner.size is None
    network.short_side = 40
    drawn = np.random.default_rng(0)
    for size in ((50, 70), (97, 45), (36, 36)):
        photo = cv2.resize(drawn.integers(0, 256, (5, 5, 3), dtype=np.uint8), size[::-1])
        both = runner.run(np.stack([photo, photo[::-1]]))["label"]
        assert both.shape == (2, *size)
        assert (both[0] == network.predict(photo)).mean() > 0.999


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--size", "big"], "HEIGHTxWIDTH"),
        (["--size", "0x64"], "HEIGHTxWIDTH"),
        (["--batch", "none"], "number of photos or dynamic"),
        (["--opset", "9", "--size", "48x64"], "--opset 9 is not available; use 18"),
        (["--format", "torchscript"], "records one size"),
        (["--format", "web", "--runtime", "nowhere"], "npm install onnxruntime-web"),
        (["--format", "pt2", "--int8", "photos"], "leave out --format pt2"),
        (["--format", "hub", "--int8", "photos"], "leave out --format hub"),
        (["--format", "litert"], "records one size"),
        (["--format", "litert", "--size", "48x64", "--short-side", "40"], "--short-side 0 to segment them as they are"),
        (["--format", "pt2", "--out", "x.onnx"], "--format pt2 writes .pt2 files; name it x.pt2"),
        (["--images", "nowhere"], "nowhere is not a folder"),
    ],
)
def test_an_export_that_cannot_be_ends_in_a_sentence_and_writes_nothing(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert said in refused(capsys, "export", run / "last.pt", "--out", tmp_path / "out", *arguments)
    assert [*tmp_path.iterdir()] == []


def test_a_destination_that_cannot_be_written_is_told_before_the_work(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr("mgd.deploy.export.choose_photos", lambda *_, **__: pytest.fail("too late"))
    assert "cannot be written" in refused(capsys, "export", run / "last.pt", "--out", tmp_path / "file" / "x.onnx")


def test_a_missing_extra_is_a_sentence_with_the_pip_command(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    arguments = ("export", run / "last.pt", "--size", "48x64", "--out", tmp_path / "x.onnx")
    assert "pip install 'mgd[export]'" in refused(capsys, *arguments)


def test_scores_that_are_not_finite_are_refused(photos: Path) -> None:
    broken = Runner(lambda image: {"logits": np.full((1, 2, *image.shape[1:3]), np.nan, np.float32)})
    item = Item("x", sorted(photos.glob("*.jpg"))[0], None)
    with pytest.raises(UserError, match="not finite"):
        compare_runners(broken, broken, [item], mgd.data.classes.Classes(("a", "b"), ((0, 0, 0), (1, 1, 1))))


def test_labels_to_compare_on_are_read_through_the_datas_mapping(tmp_path: Path) -> None:
    image = write_image(tmp_path / "images/a.png", np.zeros((4, 6, 3), np.uint8))
    mask = np.zeros((4, 6), np.uint8)
    mask[:, 2:] = 255
    label = write_image(tmp_path / "labels/a.png", mask)
    logits = np.array([1.0, 0.0], np.float32)[None, :, None, None] * np.ones((1, 1, 4, 6), np.float32)
    all_first = Runner(lambda image: {"logits": logits})
    classes, data = mgd.data.classes.Classes(("a", "b"), ((0, 0, 0), (1, 1, 1))), Data(root="", label_map=("255=1",))
    found = compare_runners(all_first, all_first, [Item("a", image, label)], classes, data=data)
    assert found.miou == pytest.approx((8 / 24 + 0) / 2)  # a third of the pixels is of class a
    found = compare_runners(all_first, all_first, [Item("a", image, label)], classes, data=data, excluded=("b",))
    assert (found.miou, found.excluded) == (pytest.approx(8 / 24), ("b",))


def test_labels_that_lie_beside_photos_are_no_photos_to_compare_on(run: Path, tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "a_mask.png"):
        write_image(tmp_path / name, np.zeros((4, 6), np.uint8))
    source = open_source(run / "last.pt")
    assert source.config is not None
    data = replace(source.config.data, label_pattern="{stem}_mask.png")
    source = replace(source, config=replace(source.config, data=data))
    assert choose_photos(source, tmp_path, count=9) == [Item("a", tmp_path / "a.png", tmp_path / "a_mask.png")]
    (tmp_path / "a.png").unlink()
    (tmp_path / "a_mask.png").unlink()
    assert choose_photos(source, tmp_path, count=9) == [Item("b", tmp_path / "b.png", None)]


def test_photos_to_compare_on_without_a_pair_are_a_sentence(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("images/a.png", "labels/b.png"):
        write_image(tmp_path / "photos" / name, np.zeros((40, 40), np.uint8))
    arguments = ("export", run / "last.pt", "--images", tmp_path / "photos", "--out", tmp_path / "x.pt2")
    assert "1 images have no label: " in refused(capsys, *arguments, "--format", "pt2")


# INT8


@needs_export
def test_photos_to_compare_on_that_cannot_be_read_are_left_out(
    run: Path, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "photos/0.jpg").write_bytes(b"\xff\xd8")  # comes first
    arguments = ["--size", "48x64", "--images", str(tmp_path / "photos"), "--out", str(tmp_path / "x.onnx")]
    assert main(["export", str(run / "last.pt"), *arguments]) == 0
    count = len(list(photos.iterdir()))
    assert f"1 of {count + 1} photos to compare on are left out: " in caplog.text
    assert json.loads((tmp_path / "x.onnx.json").read_text())["comparison"]["photos"] == count


@needs_export
def test_int8_is_smaller_loses_little_and_leaves_out_broken_calibration_photos(
    run: Path, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, exported: Path
) -> None:
    calibration = tmp_path / "photos"
    shutil.copytree(photos, calibration)
    (calibration / "broken.jpg").write_bytes(b"\xff\xd8")
    (calibration / "empty.jpg").write_bytes(b"")
    cv2.imwrite(str(calibration / "deep.png"), np.zeros((9, 9, 3), np.uint16))
    write_image(calibration / "dot.png", np.full((1, 1, 3), 90, np.uint8))
    out = tmp_path / "int8.onnx"
    arguments = ["export", str(run / "last.pt"), "--size", "48x64", "--out", str(out), "--int8", str(calibration)]
    assert main(arguments) == 0
    assert "3 of 7 calibration photos are left out" in caplog.text
    assert "photos to compare on are left out" not in caplog.text
    card = json.loads(out.with_name("int8.onnx.json").read_text())
    assert card["precision"] == "int8"
    assert card["comparison"]["miou"] >= card["comparison"]["miou_pytorch"] - 0.005 - 1e-4
    assert card["int8"]["calibration_photos"] == 4
    assert card["int8"]["int8_convolutions"] > 0
    assert card["int8"]["size"] == pytest.approx(out.stat().st_size / exported.stat().st_size, rel=0.01)
    assert card["int8"]["size"] < 0.5
    assert main(["verify", str(out)]) == 0


class Fragile(NormalisingNetwork):
    """Class 1 where a pixel is redder than half; beside what decides lies something 10,000 times as large."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(4)))
        self.spread, self.decide = nn.Conv2d(3, 2, 1), nn.Conv2d(2, 2, 1)
        for conv in self.plain:
            conv.weight.data = torch.eye(3).view(3, 3, 1, 1)
            conv.bias.data.zero_()
        self.spread.weight.data = torch.tensor([[0.0, 1e4, 0.0], [1.0, 0.0, 0.0]]).view(2, 3, 1, 1)
        self.spread.bias.data = torch.tensor([0.0, -(0.5 - self.mean[0]) / self.std[0]])
        self.decide.weight.data = torch.tensor([[0.0, 0.0], [0.0, 1.0]]).view(2, 2, 1, 1)
        self.decide.bias.data.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.decide(self.spread(self.plain(x)))


@needs_export
@pytest.mark.parametrize("output", ["labels", "logits"])
def test_layers_that_quantise_badly_stay_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: Output
) -> None:
    monkeypatch.setattr("mgd.deploy.int8.quantise.slower_layers", lambda *_: [])
    photo = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    image = write_image(tmp_path / "photos/a.png", photo)
    label = write_image(tmp_path / "label.png", (photo[..., 0] > 127).astype(np.uint8))
    classes = mgd.data.classes.Classes(("dark", "red"), ((0, 0, 0), (255, 0, 0)))
    network, file = Fragile(), tmp_path / "x.onnx"
    graph = PhotoGraph(network, output=output).requires_grad_(False)
    write_onnx(graph, Shape(size=(32, 32)), file, opset=18, metadata={})
    reference = torch_runner(PhotoGraph(network, output="logits"), None)
    measure = partial(compare_runners, reference=reference, items=[Item("a", image, label)], classes=classes)
    float32 = measure(open_runner(file))
    assert float32.miou == 1.0
    found = quantise(file, tmp_path / "photos", measure, float32=float32, photo=photo[None])
    assert 2 <= len(found.kept) <= 3
    assert set(found.kept.values()) == {"loses accuracy"}
    assert found.comparison.miou is not None
    assert found.comparison.miou >= 0.995


def test_layers_stay_in_float32_for_speed_where_that_gains_most_for_its_bytes() -> None:
    weights = {"depthwise": 40, "large": 4000, "small": 400}
    gains = {"depthwise": 30, "large": 50, "small": 20}  # 0.75, 0.0125 and 0.05 us a byte
    assert that_fit(gains, weights, 330) == ["depthwise", "small"]  # 30 + 300 bytes
    assert that_fit(gains, weights, 329) == ["depthwise"]


@needs_export
def test_int8_without_a_readable_photo_is_a_sentence(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"\xff\xd8")
    out = tmp_path / "int8.onnx"
    arguments = ("export", run / "last.pt", "--size", "48x64", "--out", out, "--int8", tmp_path / "photos")
    assert "none of 1 calibration photos can be read" in refused(capsys, *arguments)
    assert not out.exists()


@needs_export
def test_the_photos_and_the_logits_handling_stay_in_float32(exported: Path) -> None:
    onnx = pytest.importorskip("onnx")
    nodes = onnx.load(str(exported)).graph.node
    inner = set(between_convolutions(nodes))
    outside = [node.op_type for node in nodes if node.name not in inner]
    assert "ArgMax" in outside
    assert "Conv" not in outside
    assert nodes[0].name not in inner


# Benchmark, page, report


@needs_export
@pytest.mark.slow
def test_a_benchmark_measures_files_and_the_pytorch_network(
    exported: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, picture = tmp_path / "rows.json", tmp_path / "rows.png"
    files = [str(exported), str(run / "last.pt")]
    assert main(["benchmark", *files, "--runs", "3", "--json", str(out), "--picture", str(picture)]) == 0
    rows = json.loads(out.read_text())
    assert [(row["name"], row["threads"]) for row in rows] == [
        *(("student.onnx", 1), ("student.onnx", 0), ("last.pt (PyTorch)", 1), ("last.pt (PyTorch)", 0))
    ]
    assert all(0 < row["median"] <= row["p95"] for row in rows)
    assert "student.onnx" in capsys.readouterr().out
    assert picture.read_bytes()[:4] == b"\x89PNG"


def test_rows_of_a_benchmark_have_their_own_names_and_mious(
    exported: Path, run: Path, tmp_path: Path, monkeypatch
) -> None:
    assert multiprocessing.pool  # imported before it would take what stands in here
    monkeypatch.setattr("multiprocessing.get_context", lambda _: multiprocessing.dummy)
    other = tmp_path / "student.onnx"
    for suffix in ("", ".json", ".npz"):
        shutil.copy(f"{exported}{suffix}", f"{other}{suffix}")
    card = json.loads(Path(f"{other}.json").read_text())
    card["comparison"]["miou_pytorch"], card["checkpoint"]["sha256"] = 0.5, "of another run"
    Path(f"{other}.json").write_text(json.dumps(card))
    stranger = write_network(tmp_path / "stranger.pt", num_classes=8)
    files = [other, exported, run / "last.pt", stranger]
    rows = benchmark(files, threads=(1,), runs=1)
    assert [row.name for row in rows] == [str(other), str(exported), "last.pt (PyTorch)", "stranger.pt (PyTorch)"]
    own = json.loads(Path(f"{exported}.json").read_text())["comparison"]["miou_pytorch"]
    assert [row.miou for row in rows[2:]] == [own, None]  # not that of the first file


def test_a_benchmark_without_an_exported_file_is_a_sentence(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "has no card" in refused(capsys, "benchmark", run / "last.pt")


@needs_export
def test_a_benchmark_of_a_file_without_what_belongs_beside_it_is_a_sentence(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for card in ("{", "[]", '{"format": "mgd-card-0"}'):
        copied.with_name("student.onnx.json").write_text(card)
        assert "student.onnx.json is not a card that this version writes" in refused(capsys, "benchmark", copied)
    copied.with_name("student.onnx.json").write_text('{"format": "mgd-card-1"}')
    copied.with_name("student.onnx.npz").unlink()
    assert "student.onnx.npz does not exist; put it back beside" in refused(capsys, "benchmark", copied)


@needs_export
def test_a_benchmark_of_a_file_that_lost_its_card_is_told_before_it_measures(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(exported, tmp_path / "bare.onnx")
    said = refused(capsys, "benchmark", exported, tmp_path / "bare.onnx")
    assert "bare.onnx has no card beside it; put the bare.onnx.json there that came with it" in said


def test_bootstrap_tells_a_clear_difference_and_none() -> None:
    rng = np.random.default_rng(1)
    right = rng.integers(20, 80, (40, 2))
    good = np.stack([np.diag(row) for row in right])
    bad = good.copy()
    bad[:, 0, 1] = 30  # a third of class 0 is missed everywhere
    clear, *_, mean = paired_bootstrap(bad, good)
    assert clear.sign == 1
    assert clear.low < clear.mean < clear.high
    assert mean.sign == 1
    assert paired_bootstrap(good, good)[-1].sign == 0


def test_iou_of_stacked_matrices_is_that_of_each() -> None:
    stack = np.array([[[3, 1], [0, 2]], [[5, 0], [0, 0]]])
    assert ious(stack)[0].tolist() == [3 / 4, 2 / 3]
    assert ious(stack)[1][0] == 1.0
    assert np.isnan(ious(stack)[1][1])


@pytest.fixture(scope="module")
def reported(run: Path, small_scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report on two runs, and of its numbers."""
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("report")
    other = train(folder / "other", small_scenes, "train.lr=0.1", "train.seed=1")
    written = ["--out", str(folder / "report.html"), "--json", str(folder / "report.json")]
    assert main(["report", f"first:{run}", f"second:{other}", *written]) == 0
    return folder


@pytest.fixture(scope="module")
def report(reported: Path) -> str:
    return (reported / "report.html").read_text()


def test_a_report_and_a_comparison_leave_out_the_classes_that_the_evaluation_excludes(
    small_scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    run = train(tmp_path, small_scenes, "evaluate.exclude=sky", "train.seed=3")
    assert main(["evaluate", str(tmp_path / "config.py"), "evaluate.exclude=sky"]) == 0
    scored = json.loads((run / "evaluation/last.json").read_text())
    assert scored["miou"] != scored["means_of_all"]["iou"]
    assert main(["report", str(run), "--out", str(tmp_path / "x.html"), "--json", str(tmp_path / "x.json")]) == 0
    numbers = json.loads((tmp_path / "x.json").read_text())
    assert (numbers["runs"][0]["miou"], numbers["excluded"]) == (pytest.approx(scored["miou"]), ["sky"])
    assert "mIoU is without sky" in (tmp_path / "x.html").read_text()
    capsys.readouterr()
    assert main(["compare", f"a:{run}/last.pt", "--out", str(tmp_path / "x.png")]) == 0
    last = capsys.readouterr().out.splitlines()[-2]
    assert last.split("  ")[0] == "mIoU without sky"
    assert last.split()[-1] == f"{100 * scored['miou']:.2f}"


def test_a_report_fetches_nothing(report: str) -> None:
    assert "default-src 'none'" in report
    outside = [part for part in report.split('src="')[1:] if not part.startswith("data:image/")]
    assert outside == []
    assert '<link rel="stylesheet"' not in report


def test_a_report_has_settings_that_differ_commands_classes_and_every_image(report: str) -> None:
    for text in ("train.lr", "<pre>python -m mgd", "minus first", "disagree most on", "Learning curves"):
        assert text in report
    assert report.count('class="panel"') == 3
    assert "train.batch_size" not in report


def test_a_reports_json_holds_the_numbers_of_its_tables(reported: Path, report: str) -> None:
    numbers = json.loads((reported / "report.json").read_text())
    first, second = numbers["runs"]
    assert (first["name"], second["name"], len(numbers["images"])) == ("first", "second", 3)
    assert first["minus_first"] is None
    assert first["agreement"]["first"] == 1.0
    assert second["minus_first"]["mIoU"]["mean"] == pytest.approx(second["miou"] - first["miou"])
    known = [value for value in second["iou"].values() if value is not None]  # null: a class that never occurs
    assert second["miou"] == pytest.approx(np.mean(known))
    for one in (first, second):
        assert [*one["iou"]] == numbers["classes"]
        assert f">{100 * one['miou']:.2f}</td>" in report
        assert f">{one['cost']['parameters'] / 1e6:.2f}</td>" in report


def test_a_report_adds_the_teachers_that_a_run_names_and_holds_the_student_against_them(
    run: Path, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    teacher = shutil.copytree(run, tmp_path / "teacher")
    (student,) = read_runs([f"student:{run}"])
    assert student.source.config is not None
    method = MGD(deep_teacher=("gone.pt", str(teacher / "last.pt")))
    config = replace(student.source.config, method=method)
    student = replace(student, source=replace(student.source, config=config))
    runs = with_teachers([student])
    assert [one.name for one in runs] == ["student's T_D", "student"]
    named = read_runs([f"deep:{teacher}"])
    assert [one.name for one in with_teachers([*named, student])] == ["deep", "student"]  # not twice
    found = predict_all(runs, torch.device("cpu"))
    html = report_html(runs, found, scores(runs, found))
    assert "<td>student</td><td>T_D</td><td>student&#x27;s T_D</td>" in html
    assert ">100.00</td><td>nothing</td>" in html  # a copy of the student agrees with it everywhere


def test_names_in_a_reports_pictures_are_no_formulas_and_none_is_hidden(run: Path) -> None:
    pytest.importorskip("matplotlib")
    (one,) = read_runs([f"_b$x_$:{run}"])
    classes = Classes(("_a", "$b$"), ((0, 0, 0), (9, 9, 9)))
    pictures = [*learning_curves([one]), confusion(np.eye(2), classes, one.name)]
    assert all("<!--  _b$x_$ -->" in picture for picture in pictures)
    assert "<!-- $b$ -->" in pictures[-1]


@pytest.mark.parametrize(("name", "text"), [("config.json", "[]"), ("metrics.jsonl", '{"step": 1}\n[1]\n')])
def test_a_report_of_a_damaged_run_is_a_sentence(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str
) -> None:
    damaged = Path(shutil.copytree(run, tmp_path / "damaged"))
    (damaged / name).write_text(text)
    assert "damaged is damaged ([" in refused(capsys, "report", damaged)


def test_half_a_line_at_the_end_of_the_metrics_is_passed_over(run: Path, tmp_path: Path) -> None:
    stopped = Path(shutil.copytree(run, tmp_path / "stopped"))
    with open(stopped / "metrics.jsonl", "a") as file:
        file.write('{"step": 1, "lo')
    found = [one.metrics for one in read_runs([str(run), f"stopped:{stopped}"])]
    assert found[0]
    assert found[0] == found[1]


def test_a_report_of_a_run_and_itself_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"{run} is named twice" in refused(capsys, "report", f"a:{run}", f"b:{run.parent}/../{run.parent.name}/run")


def test_a_report_of_a_folder_without_a_run_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "has no last.pt" in refused(capsys, "report", tmp_path)


@pytest.fixture(scope="module")
def page(run: Path, exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's folder, with the runtime that npm left in the cache, or stand-ins."""
    folder = tmp_path_factory.mktemp("page") / "page"
    folder.mkdir()
    for suffix in ("", ".json", ".npz"):
        shutil.copy(f"{exported}{suffix}", folder / f"{MODEL}{suffix}")
    runtime = CACHED
    if not runtime.is_dir():
        runtime = tmp_path_factory.mktemp("runtime")
        for name in RUNTIME:
            (runtime / name).write_text("stand-in")
    write_page(folder, find_runtime(runtime))
    return folder


@needs_export
def test_a_page_is_a_folder_that_fetches_from_itself_alone(page: Path) -> None:
    found = {str(file.relative_to(page)) for file in page.rglob("*") if file.is_file()}
    assert found >= {"index.html", "page.js", "model.onnx", "model.onnx.json", "example.png", "example-label.png"}
    assert {f"runtime/{name}" for name in RUNTIME} <= found
    text = (page / "index.html").read_text() + (page / "page.js").read_text()
    assert "default-src 'self'" in text
    assert "http:" not in text
    assert "https:" not in text


def test_a_large_photo_goes_through_in_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WHOLE": 1, "TILE": 32, "OVERLAP": 8}.items():
        monkeypatch.setattr(f"mgd.deploy.predict.{name}", value)
    photo = np.random.default_rng(0).integers(0, 256, (70, 101, 3), dtype=np.uint8)
    file = write_image(tmp_path / "photo.png", photo)
    classes = mgd.data.classes.Classes(("dark", "red"), ((0, 0, 0), (255, 0, 0)))
    source = Source(file, Reddest(), classes, None)  # type: ignore[arg-type]
    tally = predict_media(source, [Photo(file, Path("photo"))], Job(out=tmp_path / "out"), torch.device("cpu"))
    assert (tally.photos, tally.problems) == (1, [])
    label = cv2.imread(str(tmp_path / "out/label/photo.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(label, photo[..., 0] > 127)
