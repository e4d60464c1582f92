"""Test work on all cores: results in order, few items under way, nothing begun after an error."""

import os
import signal
import sys
import threading
from collections.abc import Iterator

import pytest

from mgd.errors import UserError
from mgd.parallel import AHEAD, cores, in_order
from mgd.progress import Progress


def square(number: int) -> int:
    if number < 0:
        raise ValueError(number)
    return number * number


def test_results_come_in_the_order_of_the_items() -> None:
    assert list(in_order(square, range(300))) == [i * i for i in range(300)]
    assert list(in_order(square, [])) == []


def test_items_are_taken_as_results_are_so_that_memory_does_not_grow_with_their_number() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(10 * AHEAD):
            taken.append(number)
            yield number

    for done, _ in enumerate(in_order(square, items())):
        assert len(taken) <= done + AHEAD


def test_an_error_is_raised_and_the_rest_is_not_begun() -> None:
    numbers = iter([1, -1, *range(10 * AHEAD)])
    with pytest.raises(ValueError, match="-1"):
        list(in_order(square, numbers))
    assert next(numbers) < AHEAD


def die_while_printing(number: int) -> None:
    Progress.get_lock().acquire()
    os.kill(os.getpid(), signal.SIGKILL)


def print_line(number: int) -> int:
    Progress.write(f"line {number}", file=sys.stderr)
    return number


def prints_within(seconds: float) -> bool:
    printer = threading.Thread(target=print_line, args=(0,), daemon=True)
    printer.start()
    printer.join(seconds)
    return not printer.is_alive()


def test_a_process_that_is_killed_while_it_prints_ends_in_a_sentence_and_blocks_nobody() -> None:
    Progress(total=1, disable=True).close()  # tqdm makes its own lock with the first bar
    with pytest.raises(UserError, match=r"processes that share the work was killed, most likely since memory ran out"):
        list(in_order(die_while_printing, [1]))
    assert prints_within(seconds=20)


def test_a_process_that_begins_while_another_thread_prints_can_print() -> None:
    with Progress.get_lock():
        assert list(in_order(print_line, [1, 2])) == [1, 2]


def test_there_are_as_many_processes_as_cores_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 7})
    assert cores() == 3
