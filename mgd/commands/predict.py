"""Segment photos, folders, videos or a webcam, no labels needed."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mgd.errors import UserError, first_few


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="ours or an official one")
    parser.add_argument("paths", nargs="+", metavar="PATH", help="photo, folder, glob, video, or a webcam's number")
    parser.add_argument("--out", type=Path, required=True, help="folder; one below it for each kind of picture")
    kinds = (
        "what to write, some of label,color,overlay,confidence (default: these), and formats of annotation tools, to "
        "correct there: cvat,coco,labelme,label-studio"
    )
    parser.add_argument("--write", default="label,color,overlay,confidence", metavar="KINDS", help=kinds)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--whole", action="store_true", help="the whole image at once, as a phone does (default)")
    mode.add_argument("--slide", action="store_true", help="sliding windows, as in the published evaluation")
    parser.add_argument("--batch", type=int, default=1, help="photos of one size that go through together (default 1)")
    parser.add_argument("--frames", type=int, default=0, help="of a video or webcam, at most (default: all)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")


def run(options: argparse.Namespace) -> int:
    """Returns 1 when something could not be read, else 0."""
    from mgd.deploy.media import find_media, without_results
    from mgd.deploy.predict import KINDS, OF_VIDEOS, TOOLS, Job, predict_media
    from mgd.deploy.source import open_source
    from mgd.engine.distributed import pick_device

    kinds = tuple(options.write.split(","))
    if unknown := [kind for kind in kinds if kind not in (*KINDS, *TOOLS)]:
        raise UserError(f"--write {unknown[0]} is unknown; use some of {','.join((*KINDS, *TOOLS))}")
    if options.batch < 1 or options.frames < 0:
        raise UserError("--batch must be 1 or more, --frames 0 or more")
    source = open_source(options.checkpoint)
    everything = find_media(options.paths, label_pattern=source.label_pattern)
    media = without_results(everything, [options.out / kind for kind in (*KINDS, *TOOLS)])
    if not media:
        raise UserError(f"all that is named lies below {options.out}, where predictions go; choose another --out")
    device = pick_device(options.device)
    job = Job(out=options.out, kinds=kinds, slide=options.slide, batch=options.batch, frames=options.frames)
    missed = _missed(options.paths, options.out)
    start = time.perf_counter()
    tally = predict_media(source, media, job, device, progress=True)
    rate = (tally.photos + tally.frames) / (time.perf_counter() - start)
    unit = "frame" if tally.frames and not tally.photos else "image"
    speed = f"{1 / rate:.0f} s an {unit}" if 0 < rate < 0.1 else f"{rate:.1f} {unit}s/s"
    done = f"{tally.photos} images" + f" and {tally.frames} frames" * bool(tally.frames)
    written = kinds if tally.photos else [kind for kind in kinds if kind in OF_VIDEOS]
    print(f"{done}, {speed}; {', '.join(written)} in {options.out}" if tally.photos or tally.frames else "nothing made")
    if results := len(everything) - len(media):
        print(f"left out: {results} pictures in {options.out} that an earlier prediction wrote")
    for line in missed:
        print(line)
    for note in tally.notes:
        print(note)
    for problem in tally.problems:
        print(f"left out: {problem}", file=sys.stderr)
    if tally.problems:
        print(f"{len(tally.problems)} could not be read to the end", file=sys.stderr)
    return int(bool(tally.problems))


def _missed(paths: Sequence[str], out: Path) -> list[str]:
    """What lies in the folders and is not looked at, without what systems and earlier predictions leave there."""
    from mgd.data.folders import HIDDEN, REMEDIES, left_out

    lines, own = [], out.resolve()
    for folder in filter(Path.is_dir, map(Path, dict.fromkeys(paths))):
        for why, files in left_out(folder).items():
            there = [file for file in files if own not in file.resolve().parents]
            if there and why != HIDDEN:
                lines.append(f"left out: {len(there):,} in {folder}, since {why}: {first_few(there)}; {REMEDIES[why]}")
    return lines
