"""The exceptions that a command ends in without a traceback, and what their sentences are made of."""

from collections.abc import Iterable

SHOWN = 5


class UserError(ValueError):
    """Bad input from the user; shown as one sentence without a traceback, exit status 2.

    Attributes:
        kind: in a word or two what sort of mistake in the data it is, for the table of `mgd check`.
    """

    def __init__(self, sentence: str, *, kind: str = "data") -> None:
        super().__init__(sentence)
        self.kind = kind


class Stopped(Exception):
    """A run was asked to stop by a signal; what it had trained is saved. Exit status 75: not done, try again."""


def sentence(error: UserError) -> str:
    """The message; one that comes from a loader's worker is wrapped in that worker's traceback."""
    return str(error).rsplit("UserError: ", 1)[-1].strip()


def few(things: Iterable[object]) -> str:
    """The first few, and how many more there are: for sentences."""
    named = list(map(str, things))
    more = f" and {len(named) - SHOWN:,} more" if len(named) > SHOWN else ""
    return ", ".join(named[:SHOWN]) + more
