"""How work grows with what it is given: counted and compared within one run, never by the clock of the day."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")

GROWN = 10  # times as much is given
ALLOWED = 40  # times as much work at most: linear is 10, quadratic is 100


def assert_linear(work: Callable[[T], object], small: T, large: T) -> None:
    """`large` is ten times `small`: the lines that are executed, and the processor's time, grow like it.

    Time is this thread's own, the least of several tries, and only counts where there is enough of it to compare.
    """
    one, ten = _lines(work, small), _lines(work, large)
    assert ten <= 1.5 * GROWN * one + 500, f"{one} lines became {ten}"
    short, long = _seconds(work, small), _seconds(work, large)
    if long > 0.005:
        assert long <= ALLOWED * short, f"{short:.6f} s became {long:.6f} s"


def _lines(work: Callable[[T], object], given: T) -> int:
    count = 0

    def counted(*_: Any) -> Any:
        nonlocal count
        count += 1
        return counted

    before = sys.gettrace()
    sys.settrace(counted)
    try:
        _done(work, given)
    finally:
        sys.settrace(before)
    return count


def _seconds(work: Callable[[T], object], given: T) -> float:
    return min(_timed(work, given) for _ in range(3))


def _timed(work: Callable[[T], object], given: T) -> float:
    began = time.thread_time()
    _done(work, given)
    return time.thread_time() - began


def _done(work: Callable[[T], object], given: T) -> None:
    """The work, whether or not it ends in a refusal."""
    with suppress(Exception):  # what it says of it is not what is asked here
        work(given)
