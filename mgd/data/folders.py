"""Photos in a folder, links followed, and images paired with their labels in a folder that has images/ and labels/."""

import os
from collections import defaultdict
from pathlib import Path

from mgd.data.images import IMAGE_SUFFIXES
from mgd.data.names import one_form
from mgd.errors import UserError, first_few

IMAGES, LABELS = "images", "labels"
# What systems and programs leave beside photos, in lower case; whatever begins with a dot is theirs too.
MADE_BY_TOOLS = {
    *("$recycle.bin", "#recycle", "#snapshot", "@__thumb", "@eadir", "@recently-snapshot", "@recycle", "@tmp"),
    *("__macosx", "__pycache__", "desktop.ini", "ehthumbs.db", "icon\r", "lost+found", "recycler"),
    *("system volume information", "thumbs", "thumbs.db"),
}
# Why something is left out of a folder, and what to do about it.
NO_IMAGE = "their names are not those of images"
HIDDEN = "they are hidden, or lie in what a system or a program made"
GARBLED = "their names are not text in UTF-8"
DEAD, LOOP = "they are links to nothing", "they are links back to a folder that they are in"
CLOSED, BESIDE = "they cannot be opened", f"they lie beside {IMAGES}/"
REMEDIES = {
    NO_IMAGE: "convert or remove them",
    HIDDEN: "move photos that you want out of there",
    GARBLED: "rename them, such as with convmv -f latin1 -t utf8",
    DEAD: "mend or remove the links",
    LOOP: "remove the links",
    CLOSED: "see to their permissions",
    BESIDE: f"move them into {IMAGES}/, or take {IMAGES}/ out of there",
}
Pairs = list[tuple[Path, Path]]  # image, label
Found = tuple[list[Path], dict[str, list[Path]]]  # image files in order of name; the reason -> what is left out
MOVE = "or move the photos to the folder that data.unlabeled names (mgd prepare: unlabeled/)"


def photos_in(folder: Path, pattern: str = "") -> list[Path]:
    """The images of a folder, at any depth and in order of name; of its images/ where it has one.

    Links to folders are followed. `left_out` tells what is no photo, or somebody else's.

    Args:
        pattern: of labels, as `pairs_in` takes it; those that lie among the photos are none.

    Raises:
        UserError: there is none; the pattern lacks {stem}.
    """
    inner = folder / IMAGES
    files = _images(inner if inner.is_dir() else folder)
    if not pattern:
        return files
    labels = {label for file in files if (label := _label_of(file, folder, pattern)) != file}
    return [file for file in files if Path(os.path.normpath(file)) not in labels]


def left_out(folder: Path) -> dict[str, list[Path]]:
    """What lies in a folder of photos, or of pairs, and is not taken: the reason (of `REMEDIES`) -> files and links."""
    if not (folder / IMAGES).is_dir():
        return _walk(folder)[1]
    found: dict[str, list[Path]] = defaultdict(list)
    for part in (IMAGES, LABELS):
        for why, files in (_walk(folder / part)[1] if (folder / part).is_dir() else {}).items():
            found[why] += files
    beside, others = _walk(folder, without=(IMAGES, LABELS))
    found[BESIDE] += beside
    found[HIDDEN] += others.get(HIDDEN, [])
    return {why: files for why, files in found.items() if files}


def pairs_in(folder: Path, pattern: str = "") -> tuple[Pairs, list[UserError]]:
    """(image, label) of every image with a label, in order of name, and what is wrong with the others.

    A pair has the same path below images/ and labels/, but for the suffix.

    Args:
        pattern: where a label lies seen from its image, such as `{stem}_mask.png`; where there is a folder labels/ seen
            from the same place below that one.

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
        UserError(
            f"{first_few(files)} have one name, which must be a single file's; rename or remove one", kind="pairs"
        )
        for files_of in named
        for files in files_of.values()
        if len(files) > 1
    ]
    if bare := sorted(images.keys() - labels.keys()):
        files = first_few(images[name][0] for name in bare)
        remedy = f"draw their labels ({folder / LABELS / bare[0]}.png), {MOVE}"
        problems.append(UserError(f"{len(bare)} images have no label: {files}; {remedy}", kind="pairs"))
    if lone := sorted(labels.keys() - images.keys()):
        files = first_few(labels[name][0] for name in lone)
        remedy = f"put the images below {folder / IMAGES} or remove the labels"
        problems.append(UserError(f"{len(lone)} labels have no image: {files}; {remedy}", kind="pairs"))
    return [(images[name][0], labels[name][0]) for name in sorted(images.keys() & labels.keys())], problems


def _by_pattern(folder: Path, pattern: str) -> tuple[Pairs, list[UserError]]:
    pairs = [(image, _label_of(image, folder, pattern)) for image in photos_in(folder, pattern)]
    bare = [image for image, label in pairs if not label.is_file()]
    if not bare:
        return pairs, []
    remedy = f"draw them ({_label_of(bare[0], folder, pattern)}), {MOVE}"
    problem = UserError(f"{len(bare)} images have no label: {first_few(bare)}; {remedy}", kind="pairs")
    return [(image, label) for image, label in pairs if label.is_file()], [problem]


def _label_of(image: Path, folder: Path, pattern: str) -> Path:
    """Where a photo's label lies by a pattern."""
    if "{stem}" not in pattern:
        raise UserError(f"data.label_pattern={pattern} must hold {{stem}}, the image's name, as in {{stem}}_mask.png")
    images = folder / IMAGES if (folder / IMAGES).is_dir() else folder
    labels = folder / LABELS if (folder / LABELS).is_dir() else images
    beside = (labels / image.relative_to(images)).parent
    return Path(os.path.normpath(beside / pattern.replace("{stem}", image.stem)))


def _by_name(folder: Path) -> dict[str, list[Path]]:
    names: dict[str, list[Path]] = defaultdict(list)
    for file in _images(folder):
        names[one_form(file.relative_to(folder).with_suffix("").as_posix())].append(file)
    return names


def _images(folder: Path) -> list[Path]:
    files, others = _walk(folder)
    if not files:
        found = "".join(f"; {len(some):,} left out, since {why}: {first_few(some)}" for why, some in others.items())
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise UserError(f"{folder.absolute()} has no image ({suffixes}){found}; put photos there")
    return files


def _is_text(name: str) -> bool:
    """Whether a file's name is text, as lists and logs need it: surrogates stand for bytes that are none."""
    return name.isascii() or not any(0xD800 <= ord(sign) < 0xE000 for sign in name)


def _walk(folder: Path, *, without: tuple[str, ...] = ()) -> Found:
    """Everything below a folder, but for what is in the folders of it that are named in `without`."""
    files: list[Path] = []
    others: dict[str, list[Path]] = defaultdict(list)
    # Folders to look into: whether what is in them is hidden, and which folders they are in, as (device, number).
    waiting: list[tuple[Path, bool, frozenset[tuple[int, int]]]] = [(folder, False, frozenset())]
    while waiting:
        here, hidden, above = waiting.pop()
        try:
            entries, status = list(here.iterdir()), here.stat()
        except OSError:
            others[CLOSED].append(here)
            continue
        if (place := (status.st_dev, status.st_ino)) in above:
            others[LOOP].append(here)
            continue
        for entry in entries:
            made = hidden or entry.name.startswith(".") or entry.name.casefold() in MADE_BY_TOOLS
            if not _is_text(entry.name):
                others[GARBLED].append(entry)
            elif os.path.isdir(entry):  # unlike Path.is_dir it raises nothing where permissions are missing
                if here != folder or entry.name not in without:
                    waiting.append((entry, made, above | {place}))
            elif not os.path.isfile(entry):
                others[DEAD if entry.is_symlink() else CLOSED].append(entry)
            elif made:
                others[HIDDEN].append(entry)
            elif entry.suffix.lower() not in IMAGE_SUFFIXES:
                others[NO_IMAGE].append(entry)
            else:
                files.append(entry)
    return sorted(files), {why: sorted(some) for why, some in sorted(others.items())}
