"""Test the page and the report as people use them, in headless Chromium: photos dropped, buttons, sliders, webcam."""

import importlib.util
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from browser import CHROMIUM, Browser, browser, served
from helpers import train, write_network
from scenes import CLASSES

from mgd.__main__ import main
from mgd.data.images import load_image
from mgd.deploy.page import LARGEST
from mgd.deploy.runtime import open_runner

CACHED = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mgd/node_modules/onnxruntime-web/dist"
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")  # a moving picture; it may be used
DROP = """(async (names) => {
  const data = new DataTransfer();
  for (const name of names) data.items.add(new File([await (await fetch(name)).blob()], name, { type: "image/png" }));
  document.querySelector("#status").textContent = "";
  document.querySelector("#drop").dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
})"""
MASK = """(() => {
  const mask = document.querySelector("#mask");
  return [...mask.getContext("2d").getImageData(0, 0, mask.width, mask.height).data];
})()"""
STATUS = 'document.querySelector("#status").textContent'
SELFTEST = 'document.querySelector("#selftest")?.textContent'
CAMERA_BUTTON = 'document.querySelector("#webcam")'
WEBGPU = """import * as ort from "./ort.wasm.min.mjs";
export const { env, Tensor } = ort;
export const InferenceSession = {
  create: async (model) => {
    const session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
    const run = async (feeds) => {
      const outputs = await session.run(feeds);
      FAULT;
      return outputs;
    };
    return { run, release: async () => {} };
  },
};
"""  # in place of onnxruntime-web's: what a broken driver may do
ADAPTER = "Object.defineProperty(navigator, 'gpu', { value: { requestAdapter: async () => ({}) } })"
NO_WEBGL = """(() => {
  const lent = OffscreenCanvas.prototype.getContext;
  OffscreenCanvas.prototype.getContext = function (kind, ...rest) {
    return kind === "webgl" ? null : lent.call(this, kind, ...rest);
  };
})()"""
OPACITY = 'Number(document.querySelector("#mask").style.opacity)'

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]


@pytest.fixture(scope="module")
def page(small_scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a page for photos of 48x64, and in it photos to drop."""
    folder = export_page(tmp_path_factory.mktemp("page"), small_scenes / "val/image", size="48x64")
    example = cv2.imread(str(folder / "example.png"))
    cv2.imwrite(str(folder / "dropped.png"), example[::-1, ::-1])
    alpha = np.random.default_rng(0).integers(0, 256, (48, 64, 1), dtype=np.uint8)
    alpha[:16], alpha[16:32] = 0, 255
    cv2.imwrite(str(folder / "clear.png"), np.concatenate([example[:, ::-1], alpha], axis=2))
    (folder / "text.png").write_text("no photo")
    return folder


def export_page(folder: Path, photos: Path, *, size: str, seed: int = 0) -> Path:
    """Export a small network as a page for photos of a size; the test is skipped where that cannot be done."""
    if any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")):
        pytest.skip("the extra mgd[export] is not installed")
    if not CACHED.is_dir():
        pytest.skip(f"onnxruntime-web is not in {CACHED}: mgd export --format web fetches it")
    student = write_network(folder / "student.pt", num_classes=len(CLASSES), seed=seed)
    arguments = ["--format", "web", "--runtime", str(CACHED), "--out", str(folder / "page")]
    assert main(["export", str(student), "--images", str(photos), "--size", size, *arguments]) == 0
    return folder / "page"


@pytest.fixture(scope="module")
def shown(page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """The page in a browser, its self-test done."""
    with opened(page, tmp_path_factory.mktemp("browser"), *CAMERA) as one:
        yield one


@contextmanager
def opened(page: Path, profile: Path, *flags: str) -> Iterator[Browser]:
    """A page in a browser of its own, the self-test done."""
    with served(page) as address, browser(profile, *flags) as one:
        one.open(address)
        one.wait_for(SELFTEST)
        yield one


def with_webgpu(page: Path, copy: Path, fault: str) -> Path:
    """A copy of the page that finds a WebGPU with a fault."""
    shutil.copytree(page, copy)
    (copy / "runtime/ort.webgpu.min.mjs").write_text(WEBGPU.replace("FAULT", fault))
    (copy / "adapter.js").write_text(ADAPTER)
    text = (copy / "index.html").read_text()
    (copy / "index.html").write_text(text.replace("<head>", '<head><script src="adapter.js"></script>'))
    return copy


def drop(shown: Browser, *names: str) -> str:
    """Drop files of the page's folder on it: what it says when it is done."""
    shown.evaluate(f"{DROP}({json.dumps(names)})")
    shown.wait_for(STATUS)
    return shown.evaluate(STATUS)


def python_says(page: Path, name: str) -> np.ndarray:
    """(48,64) the labels of a photo of the page's folder."""
    return open_runner(page / "model.onnx").run(load_image(page / name)[None])["label"][0]


def label_in(shown: Browser, page: Path) -> np.ndarray:
    """(48,64) the label map that the page shows, by its colours."""
    card = json.loads((page / "model.onnx.json").read_text())
    classes = {tuple(one["color"]): one["index"] for one in card["classes"]}
    pixels = np.array(shown.evaluate(MASK)).reshape(48, 64, 4)[..., :3]
    return np.array([[classes[tuple(color)] for color in row] for row in pixels.tolist()])


def test_the_page_gives_pythons_labels(shown: Browser, page: Path) -> None:
    said = shown.evaluate(SELFTEST)
    assert float(said.split("self-test: ")[1].split(" %")[0]) >= 99.9, said
    example = cv2.imread(str(page / "example-label.png"), cv2.IMREAD_UNCHANGED)
    assert (label_in(shown, page) == example).mean() >= 0.999


def test_a_dropped_photo_is_segmented_and_leaves_the_page_where_it_is(shown: Browser, page: Path) -> None:
    address = shown.evaluate("location.href")
    drop(shown, "dropped.png")
    assert (label_in(shown, page) == python_says(page, "dropped.png")).mean() >= 0.999
    assert shown.evaluate("location.href") == address
    assert shown.problems == []


@pytest.mark.parametrize("before", ["example.png", "dropped.png"])
def test_a_photo_with_transparency_gives_pythons_labels_whatever_was_shown_before(
    shown: Browser, page: Path, before: str
) -> None:
    drop(shown, before)
    drop(shown, "clear.png")
    assert (label_in(shown, page) == python_says(page, "clear.png")).mean() >= 0.999


def test_a_canvas_keeps_nothing_of_the_photo_before_where_webgl_is_absent(page: Path, tmp_path: Path) -> None:
    labels = []
    with opened(page, tmp_path) as one:
        one.evaluate(NO_WEBGL)
        for before in ("example.png", "dropped.png"):
            drop(one, before)
            drop(one, "clear.png")
            labels.append(label_in(one, page))
    assert (labels[0] == labels[1]).all()


def test_a_photo_dropped_beside_the_box_is_segmented_too(shown: Browser, page: Path) -> None:
    drop(shown, "example.png")
    address = shown.evaluate("location.href")
    x, y = shown.evaluate('(({ x, y }) => [x + 3, y + 3])(document.querySelector("h1").getBoundingClientRect())')
    data = {"items": [], "files": [str(page / "dropped.png")], "dragOperationsMask": 1}
    shown.evaluate(f'{STATUS} = ""')
    for kind in ("dragEnter", "dragOver", "drop"):
        shown.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)
    shown.wait_for(STATUS)
    assert shown.evaluate("location.href") == address
    assert (label_in(shown, page) == python_says(page, "dropped.png")).mean() >= 0.999


def test_of_several_files_the_first_is_shown_and_that_is_said(shown: Browser, page: Path) -> None:
    assert drop(shown, "dropped.png", "example.png").endswith("of 2 files the first is shown, dropped.png")
    assert (label_in(shown, page) == python_says(page, "dropped.png")).mean() >= 0.999


def test_a_drop_without_a_file_is_told(shown: Browser) -> None:
    assert "no file came with that" in drop(shown)


def test_the_slider_sets_the_masks_opacity(shown: Browser) -> None:
    shown.click('document.querySelector("#opacity")', across=0.02)
    assert shown.evaluate(OPACITY) < 0.1
    shown.click('document.querySelector("#opacity")', across=0.98)
    assert shown.evaluate(OPACITY) > 0.9


def test_the_webcam_is_segmented_until_its_button_is_pressed_again(shown: Browser) -> None:
    start_webcam(shown)
    shown.click(CAMERA_BUTTON)
    webcam_has_stopped(shown)
    assert shown.problems == []


def test_a_dropped_photo_stops_the_webcam_and_stays(shown: Browser, page: Path) -> None:
    start_webcam(shown)
    drop(shown, "dropped.png")
    webcam_has_stopped(shown)
    time.sleep(0.5)  # a frame would have been drawn over it by then
    assert (label_in(shown, page) == python_says(page, "dropped.png")).mean() >= 0.999
    assert "pictures a second" not in shown.evaluate(STATUS)


def test_a_webcam_that_ends_is_told(shown: Browser) -> None:
    start_webcam(shown)
    shown.evaluate('document.querySelector("#video").srcObject.getVideoTracks()[0].dispatchEvent(new Event("ended"))')
    shown.wait_for(f'{STATUS}.startsWith("the webcam gives no more pictures")')
    webcam_has_stopped(shown)


def start_webcam(shown: Browser) -> None:
    shown.evaluate(f'{STATUS} = ""')
    shown.click(CAMERA_BUTTON)
    shown.wait_for(f'{STATUS}.includes("pictures a second")')
    assert shown.evaluate(f"{CAMERA_BUTTON}.textContent") == "Stop"


def webcam_has_stopped(shown: Browser) -> None:
    shown.wait_for(f'{CAMERA_BUTTON}.textContent === "Webcam"')
    assert shown.evaluate('document.querySelector("#video").srcObject.active') is False


def test_a_file_that_is_no_photo_is_told(shown: Browser) -> None:
    assert drop(shown, "text.png").startswith("that did not work")


@pytest.mark.parametrize("fault", ["outputs.label.data.fill(0)", 'throw new Error("the device is lost")'])
def test_a_webgpu_that_fails_the_self_test_gives_way_to_webassembly(page: Path, tmp_path: Path, fault: str) -> None:
    copy = with_webgpu(page, tmp_path / "copy", fault)
    with opened(copy, tmp_path) as one:
        assert one.evaluate(SELFTEST).startswith("WebAssembly; self-test: 100.000 %")
        assert one.evaluate(STATUS) == ""


def test_a_photo_at_which_webgpu_fails_is_done_by_webassembly(page: Path, tmp_path: Path) -> None:
    copy = with_webgpu(page, tmp_path / "copy", 'if (self.lost) throw new Error("the device is lost")')
    with opened(copy, tmp_path) as one:
        assert one.evaluate(SELFTEST).startswith("WebGPU; self-test: 100.000 %")
        one.evaluate("self.lost = true")
        drop(one, "dropped.png")
        assert (label_in(one, page) == python_says(page, "dropped.png")).mean() >= 0.999
        assert one.evaluate(SELFTEST).startswith("WebAssembly; self-test: 100.000 %")


def test_a_failed_self_test_is_said_with_every_result(page: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(page, tmp_path / "copy"))
    label = cv2.imread(str(copy / "example-label.png"), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(copy / "example-label.png"), label + 1)
    with opened(copy, tmp_path) as one:
        assert one.evaluate(STATUS).startswith("The results are not to be trusted: only 0.000 %")
        assert drop(one, "dropped.png").startswith("The results are not to be trusted: only 0.000 %")


def test_a_page_that_is_exported_again_shows_the_new_network(page: Path, small_scenes: Path, tmp_path: Path) -> None:
    other = export_page(tmp_path, small_scenes / "val/image", size="48x64", seed=1)
    served_one = Path(shutil.copytree(page, tmp_path / "served"))
    age(served_one, days=1000)  # for a tenth of which browsers take what they have
    with opened(served_one, tmp_path) as one:
        address = one.evaluate("location.href")
        shutil.copytree(other, served_one, dirs_exist_ok=True)
        age(served_one, days=900)
        one.call("Page.navigate", url="about:blank")
        one.call("Page.navigate", url=address)
        one.wait_for(SELFTEST)
        assert (label_in(one, other) == python_says(other, "example.png")).mean() >= 0.999
    assert (python_says(other, "example.png") != python_says(page, "example.png")).mean() > 0.1


def age(folder: Path, *, days: int) -> None:
    for file in folder.rglob("*"):
        os.utime(file, times=(time.time() - 86400 * days,) * 2)


def test_a_page_opened_as_a_file_says_that_it_needs_a_server(page: Path, tmp_path: Path) -> None:
    with browser(tmp_path) as one:
        one.open((page / "index.html").as_uri())
        one.wait_for('document.readyState === "complete"')
        assert "needs a server: python -m http.server" in one.evaluate(STATUS)


def test_the_example_of_a_page_for_any_size_is_shrunk_as_the_page_shrinks_photos(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    photo = np.random.default_rng(0).integers(0, 256, (12, 200, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "photos/large.png"), cv2.resize(photo, (1600, 96)))
    page = export_page(tmp_path, tmp_path / "photos", size="dynamic")
    assert cv2.imread(str(page / "example.png")).shape == (61, 1024, 3)
    assert f" LARGEST = {LARGEST};" in (page / "page.js").read_text()
    shutil.copy(tmp_path / "photos/large.png", page / "large.png")
    with opened(page, tmp_path) as one:
        assert "100.000 %" in one.evaluate(SELFTEST)
        assert "a picture of 1024x61" in one.evaluate(SELFTEST)
        assert drop(one, "large.png").startswith("1024x61, ")


def test_a_reports_buttons_and_slider_work(small_scenes: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    run = train(tmp_path / "exp", small_scenes, "train.max_iterations=1")
    assert main(["report", f"first:{run}", "--out", str(tmp_path / "report.html")]) == 0
    panel = 'document.querySelector(".panel")'
    shown = f'{panel}.querySelector("img.map.shown")'
    with browser(tmp_path) as one:
        one.open((tmp_path / "report.html").as_uri())
        one.wait_for(f"document.readyState === 'complete' && {panel} !== null")
        assert one.evaluate(f"{shown}.alt") == "first"
        one.click(f'{panel}.querySelector("button")')
        assert one.evaluate(f"{shown}.alt") == "truth"
        assert one.evaluate(f'{panel}.querySelectorAll("img.map.shown").length') == 1
        one.click(f'{panel}.querySelector("input")', across=0.98)
        cut = one.evaluate(f"{shown}.style.clipPath")  # inset(0px 0px 0px 98%): the photo is uncovered from the left
        assert float(cut.split()[-1].rstrip("%)")) > 90
        assert one.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
        assert one.problems == []
