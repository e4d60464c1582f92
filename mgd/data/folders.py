"""Photos in a folder, and images paired with their labels in a folder that has images/ and labels/."""

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


def pairs_in(folder: Path) -> tuple[list[tuple[str, Path, Path]], list[UserError]]:
    """(name, image, label) of every image with a label, in order of name, and what is wrong with the others.

    A pair has the same path below images/ and labels/, but for the suffix; that path is the name.

    Raises:
        UserError: images/ or labels/ is missing or has no image.
    """
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
