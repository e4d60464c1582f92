"""A folder with a page that segments photos and the webcam in a browser, and fetches nothing from elsewhere."""

import hashlib
import os
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import numpy as np

from mgd.deploy.card import golden_path
from mgd.errors import UserError
from mgd.files import atomic, write_bytes, write_png

MODEL = "model.onnx"
LARGEST = 1024  # longer side to which page.js shrinks photos
RUNTIME = (  # of onnxruntime-web: WebAssembly, and WebGPU with its own
    *("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"),
    *("ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm"),
)
PACKAGE = "onnxruntime-web"


def find_runtime(folder: Path | None) -> Path:
    """The folder with onnxruntime-web's files: `folder`, or one that npm fetches once into the user's cache.

    Raises:
        UserError: files are missing, or npm is not there or has no connection.
    """
    if folder is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mgd"
        folder = cache / "node_modules" / PACKAGE / "dist"
        if not all((folder / name).is_file() for name in RUNTIME):
            _fetch(cache)
    if missing := [name for name in RUNTIME if not (folder / name).is_file()]:
        remedy = f"npm install {PACKAGE}, then --runtime node_modules/{PACKAGE}/dist"
        raise UserError(f"{folder} lacks {missing[0]} of {PACKAGE}; {remedy}")
    return folder


def write_page(folder: Path, runtime: Path) -> None:
    """Put the page around `folder`/model.onnx, which is there with its card and golden photo."""
    with np.load(golden_path(folder / MODEL)) as golden:
        write_png(folder / "example.png", golden["image"][0])
        write_png(folder / "example-label.png", golden["label"][0])
    for name in RUNTIME:
        with open(runtime / name, "rb") as source, atomic(folder / "runtime" / name) as target:
            shutil.copyfileobj(source, target)
    script, page = (files("mgd.deploy").joinpath("web", name).read_bytes() for name in ("page.js", "index.html"))
    write_bytes(folder / "page.js", script)
    named = f"page.js?{hashlib.sha256(script).hexdigest()[:8]}"  # browsers may go on with the one of an older page
    write_bytes(folder / "index.html", page.replace(b"page.js", named.encode()))  # last: it is whole when it is there


def _fetch(cache: Path) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(cache), PACKAGE]
    remedy = f"install npm, or name the folder dist/ of the npm package {PACKAGE} with --runtime"
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    except (OSError, subprocess.SubprocessError) as error:
        reason = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        raise UserError(f"{PACKAGE} cannot be fetched by npm ({reason[-1] if reason else error}); {remedy}") from error
