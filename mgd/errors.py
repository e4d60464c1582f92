"""The exceptions that a command ends in without a traceback, and what their sentences are made of."""

import re
from collections.abc import Iterable

SHOWN = 5
# What torch's CPU allocator, OpenCV, C++ libraries and CUDA say where memory ends; none has a type of its own for it.
NO_MEMORY = re.compile(r"can't allocate memory|not enough memory|[Ii]nsufficient memory|bad_alloc|out of memory")


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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ended: Python's and NumPy's, torch's on a CPU and a GPU, OpenCV's."""
    return isinstance(error, MemoryError) or bool(NO_MEMORY.search(str(error)))


def no_memory(error: BaseException, remedy: str, *, what: str = "") -> str:
    """The sentence for an error of `is_out_of_memory`; `what` names what did not fit, such as an image."""
    asked = re.search(r"allocate ([\d.]+) ?(bytes|[KMGT]iB)", str(error))
    amount = f" (asked for {_readable(asked[1], asked[2])} more)" if asked else ""
    return f"out of memory{amount}{f' on {what}' if what else ''}; {remedy}"


def _readable(number: str, unit: str) -> str:
    return f"{float(number) / 2**30:.2f} GiB" if unit == "bytes" else f"{number} {unit}"


def sentence(error: UserError) -> str:
    """The message; one that comes from a loader's worker is wrapped in that worker's traceback."""
    return str(error).rsplit("UserError: ", 1)[-1].strip()


def first_few(things: Iterable[object]) -> str:
    """The first few, and how many more there are: for sentences."""
    named = [str(thing).encode(errors="backslashreplace").decode() for thing in things]  # any file name can be shown
    more = f" and {len(named) - SHOWN:,} more" if len(named) > SHOWN else ""
    return ", ".join(named[:SHOWN]) + more
