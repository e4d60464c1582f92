"""Test the page and the report as people use them, in headless Chromium: photos dropped, buttons, sliders, webcam."""

import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from browser import CHROMIUM, Browser, browser, served
from helpers import train, write_network
from scenes import CLASSES

from mgd.__main__ import main
from mgd.deploy.runtime import open_runner

CACHED = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mgd/node_modules/onnxruntime-web/dist"
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")  # a moving picture; it may be used
DROP = """(async () => {
  const blob = await (await fetch("dropped.png")).blob(), data = new DataTransfer();
  data.items.add(new File([blob], "dropped.png", { type: "image/png" }));
  document.querySelector("#drop").dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
})()"""
MASK = """(() => {
  const mask = document.querySelector("#mask");
  return [...mask.getContext("2d").getImageData(0, 0, mask.width, mask.height).data];
})()"""
OPACITY = 'Number(document.querySelector("#mask").style.opacity)'

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]


@pytest.fixture(scope="module")
def page(small_scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a page for photos of 48x64, and in it a photo to drop."""
    if any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")):
        pytest.skip("the extra mgd[export] is not installed")
    if not CACHED.is_dir():
        pytest.skip(f"onnxruntime-web is not in {CACHED}: mgd export --format web fetches it")
    folder = tmp_path_factory.mktemp("page")
    student = write_network(folder / "student.pt", num_classes=len(CLASSES))
    photos = ["--images", str(small_scenes / "val/image"), "--size", "48x64"]
    arguments = ["--format", "web", "--runtime", str(CACHED), "--out", str(folder / "page")]
    assert main(["export", str(student), *photos, *arguments]) == 0
    example = cv2.imread(str(folder / "page/example.png"))
    cv2.imwrite(str(folder / "page/dropped.png"), example[::-1, ::-1])
    return folder / "page"


@pytest.fixture(scope="module")
def shown(page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """The page in a browser, its self-test done."""
    with served(page) as address, browser(tmp_path_factory.mktemp("browser"), *CAMERA) as one:
        one.open(address)
        one.wait_for('document.querySelector("#selftest")?.textContent')
        yield one


def label_in(shown: Browser, page: Path) -> np.ndarray:
    """(48,64) the label map that the page shows, by its colours."""
    card = json.loads((page / "model.onnx.json").read_text())
    classes = {tuple(one["color"]): one["index"] for one in card["classes"]}
    pixels = np.array(shown.evaluate(MASK)).reshape(48, 64, 4)[..., :3]
    return np.array([[classes[tuple(color)] for color in row] for row in pixels.tolist()])


def test_the_page_gives_pythons_labels(shown: Browser, page: Path) -> None:
    said = shown.evaluate('document.querySelector("#selftest")?.textContent')
    assert float(said.split("self-test: ")[1].split(" %")[0]) >= 99.9, said
    example = cv2.imread(str(page / "example-label.png"), cv2.IMREAD_UNCHANGED)
    assert (label_in(shown, page) == example).mean() >= 0.999


def test_a_dropped_photo_is_segmented_and_leaves_the_page_where_it_is(shown: Browser, page: Path) -> None:
    dropped = cv2.imread(str(page / "dropped.png"))[..., ::-1]
    expected = open_runner(page / "model.onnx").run(np.ascontiguousarray(dropped[None]))["label"][0]
    before, address = shown.evaluate(MASK), shown.evaluate("location.href")
    shown.evaluate(DROP)
    shown.wait_for(f"JSON.stringify({MASK}) !== {json.dumps(json.dumps(before, separators=(',', ':')))}")
    assert (label_in(shown, page) == expected).mean() >= 0.999
    assert shown.evaluate("location.href") == address
    assert shown.problems == []


def test_the_slider_sets_the_masks_opacity(shown: Browser) -> None:
    shown.click('document.querySelector("#opacity")', across=0.02)
    assert shown.evaluate(OPACITY) < 0.1
    shown.click('document.querySelector("#opacity")', across=0.98)
    assert shown.evaluate(OPACITY) > 0.9


def test_the_webcam_is_segmented_until_its_button_is_pressed_again(shown: Browser) -> None:
    button = 'document.querySelector("#webcam")'
    shown.click(button)
    shown.wait_for('document.querySelector("#status").textContent.includes("pictures a second")')
    assert shown.evaluate(f"{button}.textContent") == "Stop"
    shown.click(button)
    shown.wait_for(f'{button}.textContent === "Webcam"')
    assert shown.evaluate('document.querySelector("#video").srcObject.active') is False
    assert shown.problems == []


def test_a_file_that_is_no_photo_is_told(shown: Browser) -> None:
    shown.evaluate(DROP.replace("[blob]", '["no photo"]'))
    shown.wait_for('document.querySelector("#status").textContent.startsWith("that did not work")')


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
