"""Clothing Co-Parsing: its 59 tags merged into a few classes; its photos without labels as unlabelled ones."""

import csv
import io
from functools import partial
from pathlib import Path

import numpy as np

from mgd.data.classes import voc_color, write_classes
from mgd.data.prepare.jobs import Job, find, hold_out, need_folder, read_mat, run_jobs, summary
from mgd.errors import UserError
from mgd.files import link, read_text, write_lines, write_png, write_text

HEADER = ["tag", "class"]


def prepare_ccp(source: Path, merge: Path, out: Path, *, val_every: int = 7) -> str:
    """Make DATA/fashion.

    Args:
        source: the data set's repository, with photos, annotations/pixel-level and label_list.mat.
        merge: a CSV file with the header tag,class that puts every tag into a class; the classes are numbered as they
            first occur.
        val_every: one labelled photo in so many is for validation.

    Returns:
        What was made, against the published counts.

    Raises:
        UserError: a folder or file is missing or broken, a tag has no class.
    """
    need_folder(source / "photos", "the photos of Clothing Co-Parsing, in the folder of its repository")
    annotations = need_folder(source / "annotations" / "pixel-level", "the .mat labels of Clothing Co-Parsing")
    tags = [str(np.squeeze(tag)) for tag in read_mat(source / "label_list.mat", "label_list").ravel()]
    names, table = _merged(merge, tags)
    _keep_merge(merge, out / "merge.csv")
    photos = [file.stem for file in find(source / "photos", "*.jpg", "the photos")]
    labeled = [file.stem for file in find(annotations, "*.mat", "the labels")]
    train, val = hold_out(labeled, val_every)
    bare = sorted(set(photos) - set(labeled))
    folders = {"images": labeled, "unlabeled": bare}
    jobs = [
        Job(link, source / "photos" / f"{name}.jpg", out / folder / f"{name}.jpg", photo=True)
        for folder, chosen in folders.items()
        for name in chosen
    ]
    convert = partial(_convert, table)
    jobs += [Job(convert, annotations / f"{name}.mat", out / "labels" / f"{name}.png") for name in labeled]
    run_jobs(jobs, "CCP")
    for part, chosen in {"train": train, "val": val}.items():
        write_lines(out / f"{part}.txt", [f"images/{name}.jpg\tlabels/{name}.png" for name in chosen])
    write_lines(out / "unlabeled.txt", [f"unlabeled/{name}.jpg" for name in bare])
    write_classes(out / "classes.csv", names, [voc_color(i) for i in range(len(names))])
    counts = {"labelled photos": (len(labeled), 1004), "photos without labels": (len(bare), 1094)}
    return summary(out, counts | {"  for training": (len(train), None), "  for validation": (len(val), None)})


def _keep_merge(merge: Path, kept: Path) -> None:
    """A copy beside the labels, since those that are there are not made again with another one."""
    text = read_text(merge)
    if kept.is_file() and read_text(kept) != text:
        raise UserError(
            f"{kept.parent} has labels made with another CSV than {merge}; delete it or choose another --out"
        )
    write_text(kept, text)


def _merged(merge: Path, tags: list[str]) -> tuple[list[str], np.ndarray]:
    """(names of the classes, class of every tag)."""
    reader = csv.DictReader(io.StringIO(read_text(merge)))
    if list(reader.fieldnames or ()) != HEADER:
        raise UserError(f"{merge}: the header must be {','.join(HEADER)}, found {','.join(reader.fieldnames or ())}")
    of_tag = {row["tag"]: row["class"] for row in reader}
    if lost := [tag for tag in tags if not of_tag.get(tag)]:
        raise UserError(f"{merge} gives no class to {len(lost)} tags of the data set: {', '.join(lost[:5])}")
    names = list(dict.fromkeys(of_tag.values()))
    return names, np.array([names.index(of_tag[tag]) for tag in tags], np.uint8)


def _convert(table: np.ndarray, source: Path, target: Path) -> None:
    tags = read_mat(source, "groundtruth")
    if tags.max() >= len(table):
        raise UserError(f"{source} holds the tag {tags.max()}, label_list.mat ends with {len(table) - 1}")
    write_png(target, table[tags])
