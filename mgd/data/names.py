"""What an image is called, everywhere: in lists, messages, pictures and the hash of a partition."""

import hashlib
import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from mgd.data.images import IMAGE_SUFFIXES
from mgd.errors import UserError

# A path that is its own name and has but one form: ASCII without spaces, below the root, no part begins with a dot.
# Lists of a million names are made of such images, and should not take a minute to read.
PLAIN = re.compile(r"[!-\-0-~][!-.0-~]*(?:/[!-\-0-~][!-.0-~]*)*")
_ENDING = 1 + max(map(len, IMAGE_SUFFIXES))


def split_line(line: str) -> tuple[str, str]:
    """(image, label) of a list's line; "" for no label. A tab is between them, or a space, as in the lists of others.

    A space separates only what ends like names of images on both sides, so that a photo's name may have spaces in it.

    Raises:
        UserError: there are several such spaces.
    """
    image, tab, label = line.partition("\t")
    if not tab and " " in line:
        halves = [(line[:i], line[i + 1 :]) for i, sign in enumerate(line) if sign == " "]
        halves = [pair for pair in halves if all(map(is_image, pair))]
        if len(halves) > 1:
            raise UserError(f"{line!r} can be cut into an image and a label at several spaces; put a tab between them")
        image, label = halves[0] if halves else (line, "")
    return image.strip(" \t"), label.strip(" \t")


def is_image(path: str) -> bool:
    """Whether a path ends as those of images do."""
    return os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES


def are_plain_images(lines: Sequence[str]) -> bool:
    """Whether each is a plain path of an image: so are those of most lists that are long."""
    return all(map(PLAIN.fullmatch, lines)) and all(map(is_image, {line[-_ENDING:] for line in lines}))


def line_of(image: str) -> str:
    """A photo's line in a list without labels: a tab ends it where a space in its name could separate an image."""
    return f"{image}\t" if " " in image else image


def name_of(line: str) -> str:
    """An image's name from its line in a list: its path below the root, or the line itself where it is a bare name."""
    return path_name(split_line(line)[0])


def path_name(image: str) -> str:
    """An image's name from its path as a list has it.

    A name is a path that leads out of no folder: the two dots of `../a.png` become `__`, and the slash before the first
    part goes. Two forms of one Unicode text are one name.
    """
    if PLAIN.fullmatch(image):
        return image
    image = os.path.normpath(one_form(image))
    return "/".join("__" if part == ".." else part for part in image.split("/") if part)


def located(text: str, folder: str) -> str:
    """`locate`, from text to text: `folder` is that of the root, as `inside` writes it."""
    return folder + text if PLAIN.fullmatch(text) else str(locate(text, Path(folder)))


def inside(folder: Path) -> str:
    """What the path of everything in a folder begins with: "data/"; "" for the current one."""
    return str(folder / "x")[:-1]


def below(root: Path, file: Path) -> str:
    """How a list says where a file is: its path below the root, or all of it where it is not there."""
    try:
        return Path(os.path.abspath(file)).relative_to(os.path.abspath(root)).as_posix()  # a link stays as it is named
    except ValueError:
        return os.path.abspath(file)


def locate(text: str, root: Path) -> Path:
    """The file that a list means by `text`: below the root, with a slash before it as well; else where it says.

    A name in another form of Unicode than the disk's (macOS writes `é` as two characters) is found too.
    """
    inside = root / text.lstrip("/")
    if text.isascii() and not text.startswith("/"):
        return inside
    candidates = [inside, Path(text)] if text.startswith("/") else [inside]
    return next((found for path in candidates if (found := in_any_form(path)) is not None), inside)


def one_form(text: str) -> str:
    """Unicode's composed form (NFC)."""
    return unicodedata.normalize("NFC", text)


def digest(names: Sequence[str]) -> str:
    """sha256 of the names of the labelled images, in order: what two runs must share to have the same labels."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def in_any_form(path: Path) -> Path | None:
    """The path as it is on the disk, each part in the form that is there; None where there is none."""
    if path.exists():
        return path
    if str(path).isascii():
        return None
    found = Path(path.anchor)
    for part in path.relative_to(path.anchor).parts:
        forms = [found / part, *(found / unicodedata.normalize(form, part) for form in ("NFC", "NFD"))]
        there = next((form for form in forms if form.exists()), None)
        if there is None:
            return None
        found = there
    return found
