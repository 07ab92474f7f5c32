"""What the store needs from a database: statements, scripts of them, and units of writes.

A *script* is logic of several statements that knows no driver: a plain generator that yields a `Query` and gets
its `Result`. A database runs a whole script in one hop, inside one snapshot (`read`) or one transaction (`write`).
An error of a statement is raised in the script, at its `yield`. A script may be run again from the start, so it
changes nothing but the database. If it refuses (RunRefused, ApprovalRefused), it does so before it writes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, ParamSpec, Protocol, TypeVar

from towpath.errors import TowpathError

from .statements import Query, Statement, Values

T = TypeVar("T")
P = ParamSpec("P")
Row = dict[str, Any]


class Result(NamedTuple):
    """The result of a statement: its rows as dicts by column name, and the number of rows that it changed."""

    rows: list[Row]
    touched: int

    def first(self) -> Row | None:
        return self.rows[0] if self.rows else None

    def one(self) -> Row:
        """The only row, for a statement that always returns one."""
        (row,) = self.rows
        return row


Script = Generator[Query, Result, T]


Refuse = Callable[[Values], TowpathError]
Write = tuple[Statement, Values, Refuse | None]
"""One statement of a unit. With a `Refuse` it must change exactly one row: if not, the unit is refused with the error
that this function makes of the values."""


def write(query: Query, refuse: Refuse | None = None) -> Write:
    """A statement for a unit."""
    return query.statement, query.values, refuse


def add(out: list[Write], query: Query, refuse: Refuse | None = None) -> None:
    """Add a statement to a unit."""
    out.append(write(query, refuse))


@dataclass(frozen=True, slots=True)
class Guard:
    """A query that runs once per transaction and key. If it returns no row, every unit with this guard is refused."""

    key: tuple[Any, ...]
    query: Query
    refuse: Callable[[], TowpathError]


Told = Callable[[Exception | None], None]
"""Is called in the event loop: with None when a unit is recorded, or with its error."""


class Line:
    """Units that build on each other. If one is not recorded, none that is queued behind it is: they get its error."""

    __slots__ = ("broken",)

    def __init__(self) -> None:
        self.broken: Exception | None = None


@dataclass(slots=True)
class Unit:
    """Statements that are recorded together or not at all, and who is told."""

    writes: Sequence[Write]
    guard: Guard | None
    told: Told
    line: Line | None = None


@dataclass(slots=True)
class Counts:
    """What was written so far. For benchmarks, and for tests that limit the number of commits."""

    commits: int = 0
    units: int = 0


class Transaction(Protocol):
    """The transaction of a `Session`. It reads until `begin`, and writes from then on.

    After a statement that follows `begin` has failed or was cancelled, the transaction refuses all others
    (E_SESSION_FAILED).
    """

    @property
    def writing(self) -> bool: ...

    async def begin(self) -> None:
        """Take the write lock now: what is read from now on cannot change before it is written."""
        ...

    async def run(self, script: Callable[P, Script[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a script in this transaction, in one hop."""
        ...

    async def execute(self, query: Query) -> Result:
        """Run one statement in this transaction."""
        ...

    async def end(self, *, commit: bool) -> None: ...


class Backend(Protocol):
    """A database. Errors of its driver are raised as StoreFailed."""

    counts: Counts

    @property
    def identity(self) -> str:
        """Tells this database from all others that this process may have open."""
        ...

    @property
    def broken(self) -> TowpathError | None:
        """The error that ended all writing, or None. It lasts until the store is opened again."""
        ...

    async def open(self) -> None:
        """Connect, make the tables where there are none, migrate those of an older schema, check that they are ours.

        A migration is one transaction. If several processes open the database, one migrates it and the others wait.

        Raises StoreFailed: E_DB_…, E_SCHEMA_….
        """
        ...

    async def close(self) -> None:
        """Write what is queued, then close all connections and threads."""
        ...

    async def read(self, script: Callable[P, Script[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a script that only reads: it sees one snapshot."""
        ...

    async def fetch(self, query: Query) -> list[Row]:
        """The rows of one select."""
        ...

    def fetch_now(self, query: Query) -> list[Row]:
        """The rows of one select of what never changes, in any thread and with any event loop or none.

        It waits for no event loop. Raises StoreFailed (E_DB_CLOSED; E_DB_FORKED in a forked child).
        """
        ...

    def check_waiting(self) -> None:
        """Raises InputInvalid (E_SYNC_IN_LOOP), StoreFailed (E_DB_CLOSED) if this thread cannot wait for it."""
        ...

    def is_in_loop(self) -> bool:
        """Does the calling thread run the event loop in which the database was opened?"""
        ...

    async def inspect(self, script: Callable[P, Script[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `read`, for `fsck`: text that is not Unicode is given with replacement characters."""
        ...

    async def integrity(self, *, deep: bool) -> list[tuple[str, str, str, str]]:
        """The faults that the database finds in its own structure: code, table, row and a sentence for each."""
        ...

    async def write(self, script: Callable[P, Script[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a script in a write transaction of its own: it commits when the script returns."""
        ...

    def submit(self, writes: Sequence[Write], guard: Guard | None = None) -> Awaitable[None]:
        """Queue a unit for the next group commit; awaiting the result waits for the commit that holds it.

        A caller that is cancelled while it waits leaves its unit in the queue: it may still be recorded.
        Raises the unit's own refusal, or StoreFailed if its commit failed.
        """
        ...

    def queue(self, writes: Sequence[Write], guard: Guard | None, told: Told, line: Line | None = None) -> None:
        """As `submit`, for a caller that is told instead of waiting. Raises StoreFailed if nothing can be written.

        With a `line`, the caller does not wait for one unit before it queues the next that builds on it.
        """
        ...

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """A transaction that commits when the block ends and rolls back on any error."""
        ...

    def one_moment(self) -> AbstractAsyncContextManager[None]:
        """Everything this task reads inside, in however many calls, is of one moment. Keep it short.

        What was written since, even by this task, is not seen.
        """
        ...
