"""Photos in a folder, and images paired with their labels in a folder that has images/ and labels/."""

import os
from collections import defaultdict
from pathlib import Path

from mgd.data.images import IMAGE_SUFFIXES
from mgd.errors import UserError, few

IMAGES, LABELS = "images", "labels"


def photos_in(folder: Path) -> list[Path]:
    """The images of a folder, at any depth and in order of name; of its images/ where it has one.

    Raises:
        UserError: there is none.
    """
    found = [file for file in _files(folder) if file.suffix.lower() in IMAGE_SUFFIXES]
    if not found:
        raise UserError(f"{folder.absolute()} has no image ({', '.join(sorted(IMAGE_SUFFIXES))}); put photos there")
    return found


def left_out(folder: Path) -> list[Path]:
    """The files among a folder's photos whose names are not those of images."""
    return [file for file in _files(folder) if file.suffix.lower() not in IMAGE_SUFFIXES]


Pairs = list[tuple[str, Path, Path]]  # name, image, label


def pairs_in(folder: Path, pattern: str = "") -> tuple[Pairs, list[UserError]]:
    """(name, image, label) of every image with a label, in order of name, and what is wrong with the others.

    A pair has the same path below images/ and labels/, but for the suffix; that path is the name.

    Args:
        pattern: where a label lies, seen from its image, such as `{stem}_mask.png`; below labels/ where there is one.

    Raises:
        UserError: images/ or labels/ is missing or has no image; the pattern lacks {stem}.
    """
    if pattern:
        return _by_pattern(folder, pattern)
    for part in (IMAGES, LABELS):
        if not (folder / part).is_dir():
            raise UserError(f"{folder.absolute()} has no folder {part}; expected {IMAGES}/ and {LABELS}/ in it")
    named = [_by_name(folder / part) for part in (IMAGES, LABELS)]
    images, labels = named
    problems = [
        UserError(f"{few(files)} have one name, which must be a single file's; rename or remove one", kind="pairs")
        for files_of in named
        for files in files_of.values()
        if len(files) > 1
    ]
    if bare := sorted(images.keys() - labels.keys()):
        files = few(images[name][0] for name in bare)
        remedy = f"draw their labels ({folder / LABELS / bare[0]}.png), or move the photos to a folder data.unlabeled"
        problems.append(UserError(f"{len(bare)} images have no label: {files}; {remedy}", kind="pairs"))
    if lone := sorted(labels.keys() - images.keys()):
        files = few(labels[name][0] for name in lone)
        remedy = f"put the images below {folder / IMAGES} or remove the labels"
        problems.append(UserError(f"{len(lone)} labels have no image: {files}; {remedy}", kind="pairs"))
    return [(name, images[name][0], labels[name][0]) for name in sorted(images.keys() & labels.keys())], problems


def _by_pattern(folder: Path, pattern: str) -> tuple[Pairs, list[UserError]]:
    if "{stem}" not in pattern:
        raise UserError(f"data.label_pattern={pattern} must hold {{stem}}, the image's name, as in {{stem}}_mask.png")
    images = folder / IMAGES if (folder / IMAGES).is_dir() else folder
    labels = folder / LABELS if (folder / LABELS).is_dir() else images

    def label_of(image: Path) -> Path:
        beside = (labels / image.relative_to(images)).parent
        return Path(os.path.normpath(beside / pattern.replace("{stem}", image.stem)))

    files = photos_in(folder)
    drawn = {label_of(file) for file in files if label_of(file) != file}  # labels may lie among the photos
    pairs = [
        (image.relative_to(images).with_suffix("").as_posix(), image, label_of(image))
        for image in files
        if image not in drawn
    ]
    if bare := [image for _, image, label in pairs if not label.is_file()]:
        remedy = f"draw them ({label_of(bare[0])}), or move the photos to a folder data.unlabeled"
        return [pair for pair in pairs if pair[1] not in bare], [
            UserError(f"{len(bare)} images have no label: {few(bare)}; {remedy}", kind="pairs")
        ]
    return pairs, []


def _by_name(folder: Path) -> dict[str, list[Path]]:
    names: dict[str, list[Path]] = defaultdict(list)
    for file in photos_in(folder):
        names[file.relative_to(folder).with_suffix("").as_posix()].append(file)
    return names


def _files(folder: Path) -> list[Path]:
    """Files that are not hidden: systems leave some of theirs (._a.jpg) beside photos."""
    inner = folder / IMAGES
    found = (inner if inner.is_dir() else folder).rglob("*")
    return sorted(file for file in found if file.is_file() and not file.name.startswith("."))
