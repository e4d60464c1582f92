"""Write a checkpoint as one file that takes photos and gives label maps, proven on real ones, with a card beside it."""

import argparse
from pathlib import Path

from mgd.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, help="ours or an official one")
    kinds = ("onnx", "pt2", "torchscript", "openvino", "litert", "web", "safetensors", "hub")
    told = (
        "default onnx; web: a page; safetensors: the weights; hub: a folder for the Hugging Face Hub, with a model card"
    )
    parser.add_argument("--format", dest="kind", choices=kinds, default="onnx", help=told)
    parser.add_argument("--out", type=Path, help="the file (web: the folder); default: beside the checkpoint")
    parser.add_argument("--size", default="dynamic", metavar="HxW", help="of photos, or dynamic (default)")
    parser.add_argument("--batch", default="1", help="photos in a run: 1 (default), another number, or dynamic")
    outputs = ("labels", "logits", "labels+confidence")
    parser.add_argument("--output", choices=outputs, default="labels", help="what comes out (default labels)")
    parser.add_argument("--opset", type=int, default=18, help="of ONNX (default 18)")
    side = "shrink photos to this short side inside (default: as the checkpoint was trained; 0: never)"
    parser.add_argument("--short-side", type=int, help=side)
    images = "folder of photos to compare on, with labels where it has images/ and labels/ (default: validation list)"
    parser.add_argument("--images", type=Path, help=images)
    parser.add_argument("--count", type=int, default=200, help="of photos to compare on, at most (default 200)")
    parser.add_argument("--int8", type=Path, metavar="DIR", help="quantise, calibrated with the photos of this folder")
    runtime = "web: the folder dist/ of the npm package onnxruntime-web (default: fetched by npm)"
    parser.add_argument("--runtime", type=Path, help=runtime)
    parser.add_argument("--data-root", default="", help="where the checkpoint's data set lies now")


def run(options: argparse.Namespace) -> None:
    if options.int8 is not None and options.kind not in ("onnx", "web"):
        raise UserError(f"--int8 is ONNX Runtime's and makes ONNX files; leave out --format {options.kind}")
    if options.kind in ("safetensors", "hub"):
        _write_weights(options)
    else:
        _write_graph(options)


def _write_weights(options: argparse.Namespace) -> None:
    """For `load_student`, which reads both."""
    from mgd.deploy.source import open_source

    hub = options.kind == "hub"
    out = _folder(options) if hub else _file(options, ".safetensors")
    source = open_source(options.checkpoint, data_root=options.data_root)
    if hub:
        from mgd.deploy.hub import write_folder

        write_folder(source, out)
        print(f"{out}: weights, config.json and a model card to look through; hf upload USER/NAME {out} publishes it")
    else:
        from mgd.deploy.source import write_safetensors

        write_safetensors(source, out)
        print(f'{out}: mgd.load_student("{out}") reads it')


def _write_graph(options: argparse.Namespace) -> None:
    from mgd.deploy.export import Order, export
    from mgd.deploy.formats import SUFFIXES, Shape
    from mgd.deploy.page import LARGEST, MODEL, find_runtime, write_page
    from mgd.deploy.source import open_source

    shape = Shape(size=_size(options.size), batch=_batch(options.batch))
    if options.count < 1 or (options.short_side is not None and options.short_side < 0):
        raise UserError("--count must be 1 or more, --short-side 0 or more")
    web = options.kind == "web"
    runtime = find_runtime(options.runtime) if web else None
    if web and options.output != "labels":
        raise UserError(f"--format web shows labels; leave out --output {options.output}")
    if web and shape.batch > 1:
        raise UserError(f"--format web segments one photo at a time; leave out --batch {options.batch}")
    folder = _folder(options)
    out = folder / MODEL if web else _file(options, SUFFIXES[options.kind])
    order = Order(
        kind="onnx" if web else options.kind,
        out=out,
        shape=shape,
        output=options.output,
        opset=options.opset,
        short_side=options.short_side,
        images=options.images,
        count=options.count,
        int8=options.int8,
        largest=LARGEST if web else None,
    )
    card = export(open_source(options.checkpoint, data_root=options.data_root), order)
    print(_summary(card))
    if runtime is not None:
        write_page(folder, runtime)
        print(f"to open the page: python -m http.server --directory {folder}, then http://localhost:8000")
    print(f"{out} ({card['bytes'] / 1e6:.1f} MB), {out.name}.json (card), {out.name}.npz (a photo to test with)")


def _folder(options: argparse.Namespace) -> Path:
    return options.out or options.checkpoint.with_name(f"{options.checkpoint.stem}-{options.kind}")


def _file(options: argparse.Namespace, suffix: str) -> Path:
    """--out, its suffix put where it has none; default: beside the checkpoint."""
    out = options.out
    if out is None:
        return options.checkpoint.with_suffix(suffix)
    if out.is_dir():
        raise UserError(f"--out {out} is a folder; name a file, such as {out / f'student{suffix}'}")
    if out.suffix not in ("", suffix):
        named = out.with_suffix(suffix) if out.suffix[1:2].isalpha() else f"{out}{suffix}"  # 1.5 is part of it
        raise UserError(f"--out {out}: --format {options.kind} writes {suffix} files; name it {named}")
    return out.with_suffix(suffix)


def _summary(card: dict) -> str:
    compared = card["comparison"]
    parts = [f"{100 * compared['agreement']:.3f} % of the pixels of {compared['photos']} photos agree with PyTorch"]
    if compared["miou"] is not None:
        without = f" without {', '.join(compared['excluded'])}" if compared["excluded"] else ""
        parts.append(f"mIoU{without} {100 * compared['miou']:.2f} (PyTorch {100 * compared['miou_pytorch']:.2f})")
    if compared["logit_difference"] is not None:
        parts.append(f"logits differ by at most {compared['logit_difference']:.2g}")
    size = "x".join(map(str, card["photo"]))
    parts.append(f"{card['latency']['milliseconds']} ms for a photo of {size} (wall time, one thread)")
    if int8 := card["int8"]:
        whole = int8["int8_convolutions"] + len(int8["float32_convolutions"])
        parts.append(
            f"INT8 in {int8['int8_convolutions']} of {whole} convolutions: {int8['speedup']} times as fast as the "
            f"float32 file and {int8['size']} of its size"
        )
    return "; ".join(parts)


def _size(text: str) -> tuple[int, int] | None:
    if text == "dynamic":
        return None
    try:
        height, width = map(int, text.lower().split("x"))
    except ValueError:
        height, width = 0, 0
    if min(height, width) < 1:
        raise UserError(f"--size {text} must be HEIGHTxWIDTH, such as 512x512, or dynamic")
    return height, width


def _batch(text: str) -> int:
    if text == "dynamic":
        return 0
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"--batch {text} must be a number of photos or dynamic")
    return int(text)
