"""Lists of images in arrays: what goes in comes out, forked loaders do not copy them, and they are read fast."""

import os
from pathlib import Path

import numpy as np
import pytest

from mgd.data.datasets import read_list
from mgd.data.items import Item, Items, Texts
from mgd.data.names import PLAIN_IMAGE, inside, is_image, locate, located, name_of
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


def test_states_are_those_of_files_and_none_is_minus_one(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"123")
    os.utime(tmp_path / "a", (7.5, 7.5))
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "other").write_bytes(b"123")
    names = ["a", "link", "other", "b", "."]
    found = states_of([*(str(tmp_path / name) for name in names), ""] * 400)  # more than one thread asks for
    assert found.shape == (2400, 3)
    assert found[:, 0].tolist() == [3, 3, 3, -1, -1, -1] * 400
    assert found[:2, 1].tolist() == [7, 7]
    assert found[0, 2] == found[1, 2] != found[2, 2]


@pytest.mark.parametrize("root", [".", "/", "data", "/data/x"])
@pytest.mark.parametrize(
    "text", ["a.jpg", "b/c.JPG", "a//b.png", "./a.png", "b/../a.png", ".a.png", "a b.png", "..", "a/"]
)
def test_a_plain_path_is_found_where_every_other_is(text: str, root: str) -> None:
    assert located(text, inside(Path(root))) == str(locate(text, Path(root)))
    if PLAIN_IMAGE.fullmatch(text):
        assert is_image(text)
        assert name_of(text) == name_of(f"./{text}")  # which is not plain


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
