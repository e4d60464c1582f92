"""What a check reports."""

from typing import Literal, NamedTuple

Level = Literal["ok", "warning", "error"]


class Finding(NamedTuple):
    """One row of the table: the text names the file and, unless all is well, the remedy."""

    level: Level
    subject: str
    text: str
