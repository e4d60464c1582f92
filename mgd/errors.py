"""The one exception that means: the user can mend this; show its sentence, not a traceback."""

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


def few(things: Iterable[object]) -> str:
    """The first few, and how many more there are: for sentences."""
    named = list(map(str, things))
    more = f" and {len(named) - SHOWN:,} more" if len(named) > SHOWN else ""
    return ", ".join(named[:SHOWN]) + more
