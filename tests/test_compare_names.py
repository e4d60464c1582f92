"""The arguments of `mgd compare`: networks' names and files told apart from overrides."""

from pathlib import Path

import pytest

from mgd.commands.compare import tell_apart
from mgd.errors import UserError


def test_names_and_files_may_hold_what_an_override_holds(tmp_path: Path) -> None:
    file = tmp_path / "lr=0.1,wd=0:second [v2].pt"
    file.touch()
    named = ["lr=0.1", "train.lr=0.1", "a:b", "data", "x=1:y=2"]
    files, overrides = tell_apart([*(f"{name}:{file}" for name in named), "train.lr=0.1", f"data.root={tmp_path}/a:b"])
    assert files == dict.fromkeys(named, file)
    assert overrides == ["train.lr=0.1", f"data.root={tmp_path}/a:b"]


@pytest.mark.parametrize("text", ["lr=0.1", "student", "student:", ":file.pt", "optimiser.lr=1"])
def test_what_is_neither_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"must be NAME:FILE, such as"):
        tell_apart([text])


def test_two_networks_of_one_name_are_refused() -> None:
    with pytest.raises(UserError, match=r"a stands for x.pt and for y.pt"):
        tell_apart(["a:x.pt", "a:y.pt"])


def test_a_comparison_needs_a_network() -> None:
    with pytest.raises(UserError, match="needs a network"):
        tell_apart(["data.root=x"])
