"""Sessions: each is one transaction. The functions of `towpath.store` take one first, and never commit."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from .backend import Backend, Result, Row, Script, Transaction
from .core import sa
from .files import StoredFiles
from .statements import Expression, Made, Query

T = TypeVar("T")
P = ParamSpec("P")


class Session:
    """One transaction. It reads until the first statement that writes; from then on it holds the write lock.

    All or nothing: after a statement of a writing session failed or was cancelled, the session refuses all others
    (E_SESSION_FAILED) and records nothing, even if the error was caught.
    """

    def __init__(self, database: Backend, transaction: Transaction, files: StoredFiles) -> None:
        self.files = files
        self.queries = 0  # statements and scripts run so far
        self._database = database
        self._transaction = transaction

    async def execute(self, statement: Expression) -> int:
        """Run a writing statement; returns the number of rows that it changed."""
        await self.begin()
        return (await self._run(statement)).touched

    async def fetch_all(self, statement: Expression) -> list[Row]:
        """The rows of a select (or of a statement with RETURNING) as dicts by column name."""
        if not isinstance(statement, sa.sql.Select | sa.sql.CompoundSelect):
            await self.begin()
        return await self.files.located((await self._run(statement)).rows)

    async def fetch_one(self, statement: Expression) -> Row | None:
        """The first row of a select, or None."""
        rows = await self.fetch_all(statement)
        return rows[0] if rows else None

    async def _run(self, statement: Expression) -> Result:
        self.queries += 1
        return await self._transaction.execute(Made(statement)())

    async def read(self, script: Callable[P, Script[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a script that only reads, in one hop."""
        self.queries += 1
        return await self._transaction.run(script, *args, **kwargs)

    async def write(self, script: Callable[P, Script[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a script that writes (or reads what is written next) in one hop."""
        await self.begin()
        return await self.read(script, *args, **kwargs)

    async def note(self, query: Query) -> None:
        """Run one prepared statement that writes, such as a line of the audit trail."""
        await self.begin()
        self.queries += 1
        await self._transaction.execute(query)

    async def select(self, query: Query) -> list[Row]:
        """The rows of a prepared select."""
        self.queries += 1
        return (await self._transaction.execute(query)).rows

    async def begin(self) -> None:
        """Take the write lock now, so that what is read next cannot change before it is written."""
        await self._transaction.begin()

    @asynccontextmanager
    async def one_moment(self) -> AsyncIterator[None]:
        """One snapshot for all statements inside the block."""
        if self._transaction.writing:  # it has the write lock: nothing changes meanwhile
            yield
            return
        async with self._database.one_moment():
            yield


def of_one_moment(
    function: Callable[Concatenate[Session, P], Awaitable[T]],
) -> Callable[Concatenate[Session, P], Awaitable[T]]:
    """Run a function with several reading statements in one snapshot."""

    @wraps(function)
    async def reading(session: Session, /, *args: P.args, **kwargs: P.kwargs) -> T:
        async with session.one_moment():
            return await function(session, *args, **kwargs)

    return reading
