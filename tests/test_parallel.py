"""Test work on all cores: results in order, few items under way, nothing begun after an error."""

from collections.abc import Iterator

import pytest

from mgd.parallel import AHEAD, in_order


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
