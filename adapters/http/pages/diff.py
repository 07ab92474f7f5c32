"""Compares two texts line by line, and marks the words that changed. Pure."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

CONTEXT = 3  # unchanged lines shown around a change
MOST_LINES = 5_000  # of each side; more lines are not compared
_WORDS = re.compile(r"\w+|\s+|[^\w\s]")

Piece = tuple[str, bool]
"""A text, and whether it changed."""


@dataclass(frozen=True, slots=True)
class DiffLine:
    """One line of a comparison. `kind` is one of same changed added removed gap; numbers count from 1."""

    kind: str
    left: int | None = None
    right: int | None = None
    before: tuple[Piece, ...] = ()
    after: tuple[Piece, ...] = ()
    skipped: int = 0


def compare(before: str, after: str) -> list[DiffLine]:
    """The lines of two texts side by side. A long part without a change is one `gap`."""
    left, right = before.splitlines()[:MOST_LINES], after.splitlines()[:MOST_LINES]
    matcher = difflib.SequenceMatcher(None, left, right, autojunk=len(left) + len(right) > 2_000)
    lines: list[DiffLine] = []
    blocks = matcher.get_opcodes()
    for n, (kind, a, b, c, d) in enumerate(blocks):
        if kind == "equal":
            lines += _unchanged(left, a, b, c, at_start=n == 0, at_end=n == len(blocks) - 1)
        else:
            lines += _changed(left[a:b], right[c:d], a, c)
    return lines


def pretty_json(text: str) -> str:
    """JSON in a normal form, so that only values differ; other text as it is."""
    try:
        return json.dumps(json.loads(text), indent=2, sort_keys=True, ensure_ascii=False)
    except (ValueError, RecursionError):
        return text


def _unchanged(left: list[str], a: int, b: int, c: int, *, at_start: bool, at_end: bool) -> Iterator[DiffLine]:
    head = 0 if at_start else CONTEXT
    tail = 0 if at_end else CONTEXT
    count = b - a
    skipped = count - head - tail
    for i in range(count):
        if skipped > 1 and head <= i < count - tail:
            if i == head:
                yield DiffLine("gap", skipped=skipped)
            continue
        text: tuple[Piece, ...] = ((left[a + i], False),)
        yield DiffLine("same", a + i + 1, c + i + 1, text, text)


def _changed(left: list[str], right: list[str], a: int, c: int) -> Iterator[DiffLine]:
    for i in range(max(len(left), len(right))):
        if i >= len(right):
            yield DiffLine("removed", left=a + i + 1, before=((left[i], False),))
        elif i >= len(left):
            yield DiffLine("added", right=c + i + 1, after=((right[i], False),))
        else:
            yield DiffLine("changed", a + i + 1, c + i + 1, *_words(left[i], right[i]))


def _words(before: str, after: str) -> tuple[tuple[Piece, ...], tuple[Piece, ...]]:
    """Both lines in pieces. The pieces that the other line does not have are marked."""
    if len(before) + len(after) > 4_000:
        return ((before, True),), ((after, True),)
    left, right = _WORDS.findall(before), _WORDS.findall(after)
    old: list[Piece] = []
    new: list[Piece] = []
    for kind, a, b, c, d in difflib.SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        if b > a:
            old.append(("".join(left[a:b]), kind != "equal"))
        if d > c:
            new.append(("".join(right[c:d]), kind != "equal"))
    return tuple(old), tuple(new)
