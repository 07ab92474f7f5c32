"""What `fsck` finds, and how a whole table is judged: in pages, so that a store of any size can be checked, and as far
as a damaged one can be read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from towpath.errors import StoreFailed

from .backend import Row, Script
from .statements import Made
from .statements import param as b

PAGE = 1_000  # rows read at once


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be: the invariant, a stable code, the row or file, a sentence."""

    invariant: str
    code: str
    table: str
    row: str
    sentence: str
    repaired: bool = False
    note: bool = False
    """Worth knowing, but nothing is damaged."""

    def __str__(self) -> str:
        mended = " (repaired)" if self.repaired else ""
        return f"{self.invariant} {self.code} {self.table} {self.row}: {self.sentence}{mended}"


Check = Callable[[], Script[list[Finding]]]
_Judge = Callable[[Row], Iterable[Finding]]


def unreadable(check: str, error: StoreFailed) -> Finding:
    """A table too damaged to be read to its end."""
    why = f"{check} could not read everything: {error.problem.message}"
    return Finding("I15", "E_DB_CORRUPT", "database", "", why)


class Pages:
    """Reads a select page by page. `key` is among its columns: a unique, indexed column, above `first`."""

    def __init__(self, select: sa.Select[*tuple[Any, ...]], key: sa.Column[Any], first: Any) -> None:
        after_last = select.where(key > b("after")).order_by(key)
        self._page = Made(after_last.limit(b("size")).offset(b("skipped")))
        self._key = key.key
        self._after = first
        self._skipped = 0
        self._size = PAGE

    def next(self) -> Script[list[Row]]:
        """The next page; empty after the last one. Raises StoreFailed at the first row that cannot be read."""
        rows = yield from self._read()
        last = rows[-1][self._key] if rows else None
        if isinstance(last, str) and "\ufffd" in last:
            self._skipped += len(rows)  # perhaps not the key itself: text that is not Unicode was replaced
        else:
            self._after, self._skipped = last, 0
        return rows

    def _read(self) -> Script[list[Row]]:
        while True:
            try:
                return (yield self._page(after=self._after, skipped=self._skipped, size=self._size)).rows
            except StoreFailed:
                if self._size == 1:
                    raise
                self._size = max(1, self._size // 10)  # closer to the row that cannot be read


def each(select: sa.Select[*tuple[Any, ...]], key: sa.Column[Any], first: Any, judge: _Judge) -> Script[list[Finding]]:
    """Judge every row of a select that can be read; `key` and `first` as for `Pages`."""
    pages = Pages(select, key, first)
    found: list[Finding] = []
    try:
        while rows := (yield from pages.next()):
            for row in rows:
                found.extend(judge(row))
    except StoreFailed as error:
        found.append(unreadable(f"the check of {key.table.name}", error))
    return found
