"""Lists of images in arrays: what goes in comes out, forked loaders do not copy them, and they are read fast."""

import math
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from mgd import files
from mgd.data.datasets import read_list
from mgd.data.items import Item, Items, Texts
from mgd.data.names import are_plain_images, inside, is_image, locate, located, name_of
from mgd.errors import UserError
from mgd.files import states_of

ODD = ["a.png", "", "ü/é.jpg", "tab\tin it", "\udcff.png", "a\nb"]


def items(count: int) -> Items:
    return Items.of(Item(f"{i}", Path(f"{i}.jpg"), Path(f"{i}.png") if i % 2 else None) for i in range(count))


def test_texts_are_what_they_were_made_of() -> None:
    texts = Texts(ODD)
    assert list(texts) == ODD
    assert [texts[i] for i in range(len(ODD))] == ODD
    assert [texts[-1], *texts[1:3]] == [ODD[-1], *ODD[1:3]]
    assert len(Texts(())) == 0
    assert list(Texts(map(str, range(2345)))) == list(map(str, range(2345)))  # more than are made together
    with pytest.raises(IndexError):
        texts[len(ODD)]


def test_items_are_picked_cut_joined_and_stripped_of_their_labels() -> None:
    five = items(5)
    assert five[1] == Item("1", Path("1.jpg"), Path("1.png"))
    assert five[2].label is None
    assert list(five[::2]) == [five[0], five[2], five[4]]
    assert five.take(np.array([3, 1])) == [five[3], five[1]]
    assert five[:2] + five[4:] == [five[0], five[1], five[4]]
    assert all(item.label is None for item in five.without_labels())
    assert list(items(0)) == list(items(0)[::2]) == []


@pytest.mark.parametrize("slow", [0.0, math.inf])
def test_states_are_those_of_files_and_none_is_minus_one(
    slow: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking, state = list[int](), files._state
    monkeypatch.setattr(files, "SLOW", slow)
    monkeypatch.setattr(files, "_state", lambda path: asking.append(threading.get_ident()) or state(path))
    (tmp_path / "a").write_bytes(b"123")
    os.utime(tmp_path / "a", (7.5, 7.5))
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "other").write_bytes(b"123")
    names = ["a", "link", "other", "b", "."]
    found = states_of([*(str(tmp_path / name) for name in names), ""] * 400)
    assert found.shape == (2400, 3)
    assert found[:, 0].tolist() == [3, 3, 3, -1, -1, -1] * 400
    assert found[:2, 1].tolist() == [7, 7]
    assert found[0, 2] == found[1, 2] != found[2, 2]
    # Where the first thousand took long, as on a network drive, other threads ask for the rest.
    assert [thread == threading.get_ident() for thread in asking] == [True] * 1000 + [slow > 0] * 1400


@pytest.mark.parametrize("root", [".", "/", "data", "/data/x"])
@pytest.mark.parametrize(
    "text", ["a.jpg", "b/c.JPG", "a//b.png", "./a.png", "b/../a.png", ".a.png", "a b.png", "..", "a/"]
)
def test_a_plain_path_is_found_where_every_other_is(text: str, root: str) -> None:
    assert located(text, inside(Path(root))) == str(locate(text, Path(root)))
    if are_plain_images([text]):
        assert is_image(text)
        assert name_of(text) == name_of(f"./{text}")  # which is not plain


def test_one_odd_line_among_plain_ones_is_seen() -> None:
    plain = ["a.jpg", "b/c.JPEG", "d.e.tiff"]
    assert are_plain_images(plain)
    for odd in ("a.txt", "jpg", ".jpg", "a/.jpg", "a.jpg.", "a.jpg\ta.png", "a b.jpg", "/a.jpg", "ü.jpg", "a.tiffs"):
        assert not are_plain_images([*plain, odd]), odd


def test_a_list_of_plain_names_is_read_as_one_with_an_odd_name_is(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "c d.jpg"):
        (tmp_path / name).touch()
    (tmp_path / "plain.txt").write_text("a.jpg\nb.jpg\n")
    (tmp_path / "odd.txt").write_text("a.jpg\nb.jpg\nc d.jpg\n")
    plain, odd = (read_list(tmp_path / f"{name}.txt", tmp_path, "", labels=False) for name in ("plain", "odd"))
    assert plain == odd[:2] == [Item(n, tmp_path / n, None) for n in ("a.jpg", "b.jpg")]


def test_missing_files_are_named_in_the_lists_order(tmp_path: Path) -> None:
    (tmp_path / "b.jpg").touch()
    (tmp_path / "list.txt").write_text("a.jpg\ta.png\nb.jpg\tb.png\n")
    with pytest.raises(UserError, match=r"names 3 files that do not exist: \S+a.jpg, \S+a.png, \S+b.png;"):
        read_list(tmp_path / "list.txt", tmp_path, "", labels=True)
