"""Decode an experiment's training photos once, into a store that loaders read from in place of the files."""

import argparse
import shutil
from datetime import timedelta
from pathlib import Path

from mgd.config import load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="an experiment's config.py or folder")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="changes, such as data.pack_dir=/ssd/voc")
    parser.add_argument("--dry-run", action="store_true", help="tell size and time, measured on a few photos, and end")


def run(options: argparse.Namespace) -> None:
    from mgd.data.datasets import open_splits
    from mgd.data.pack import Pack, folder_of
    from mgd.data.packing import estimate, pack
    from mgd.errors import first_few

    data = load(options.config, options.overrides).data
    splits, folder = open_splits(data), folder_of(data)
    left = estimate(data, splits)
    span, size, free = timedelta(seconds=round(left.seconds)), left.bytes / 2**30, _free(folder) / 2**30
    print(f"{left.photos:,} photos to pack: {size:.2f} GiB in {folder} ({free:.2f} free), about {span}", flush=True)
    if options.dry_run:
        return
    done = pack(data, splits)
    if done.broken:
        print(f"{len(done.broken):,} photos are broken and left out: {first_few(done.broken)}")
    count = len(Pack(data, splits).contents.photos)
    print(f"{folder} holds the pixels of {count:,} photos, {done.photos:,} decoded now")


def _free(folder: Path) -> int:
    """Bytes where a folder is or will be."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return shutil.disk_usage(there).free
