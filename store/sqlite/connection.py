"""Connections to one SQLite file: the only module that imports `databases`.

`databases` 0.9 by itself opens a thread per operation, uses plain BEGIN, drops PRAGMAs and row counts, and leaks
connections under cancellation. So only two parts of it are used: the life cycle of connections, and `factory=`, which
makes every connection an object of our class. A function that is passed to that class (`executemany` with a `_Job`)
runs on the thread of the connection: one thread hop, whatever the function does.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import databases

from ..backend import Result, Script
from ..statements import Query
from . import file
from .dialect import DIALECT
from .errors import OF_THE_VALUE, database_error

T = TypeVar("T")


class Connections:
    """Opens connections to one file, for one event loop, and keeps each until it is closed."""

    def __init__(self, path: Path, *, durability: str, busy_ms: int, readonly: bool) -> None:
        self.path = path
        synchronous = "FULL" if durability == "full" else "NORMAL"
        self._settings = partial(_configure, synchronous=synchronous, busy_ms=busy_ms, readonly=readonly)
        url, options = (file.to_look(path), {"uri": True}) if readonly else (file.to_write(path), {})
        self._database = databases.Database(url, factory=_Connection, **options)
        self._open: list[Connection] = []

    async def connect(self) -> None:
        await self._database.connect()

    async def open(self) -> Connection:
        """One more connection. Raises StoreFailed (E_DB_…)."""
        ready: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        closing = asyncio.Event()
        # `databases` ties a connection to the task that asked for it.
        task = asyncio.create_task(self._hold(ready, closing), name="towpath connection")
        connection = Connection(self.path, task, closing)
        self._open.append(connection)
        try:
            connection.raw = await ready
        except sqlite3.Error as error:
            raise database_error(error, self.path) from error
        return connection

    async def _hold(self, ready: asyncio.Future[Any], closing: asyncio.Event) -> None:
        try:
            async with self._database.connection() as connection:
                await connection.raw_connection.executemany("", _Job(self._settings))
                ready.set_result(connection.raw_connection)
                await closing.wait()
        except Exception as error:
            if not ready.done():
                ready.set_exception(error)

    async def close(self) -> None:
        # One by one: the last connection cleans up, and of two that close at once neither may know that it is the last.
        for one in self._open:
            one.closing.set()
            await asyncio.gather(one.task, return_exceptions=True)
        await self._database.disconnect()

    def __contains__(self, connection: object) -> bool:
        return any(connection is one for one in self._open)


class Connection:
    """An open connection, and the task that holds it."""

    def __init__(self, path: Path, task: asyncio.Task[None], closing: asyncio.Event) -> None:
        self.raw: Any = None
        self.task = task
        self.closing = closing
        self.frozen = False  # a read transaction is open on it, see `SqliteDatabase.one_moment`
        self._path = path

    async def run(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Run a function on the connection's thread, in one hop. Raises StoreFailed (E_DB_…, E_DISK_…)."""
        job = _Job(function)
        try:
            await self.raw.executemany("", job)
        except (sqlite3.Error, *OF_THE_VALUE) as error:
            raise database_error(error, self._path) from error
        return job.result  # type: ignore[return-value]


class _Job(Generic[T]):
    """A function for a connection's thread, in the form of parameters for `executemany`."""

    __slots__ = ("function", "result")

    def __init__(self, function: Callable[[sqlite3.Connection], T]) -> None:
        self.function = function
        self.result: T | None = None

    def __iter__(self) -> Iterator[tuple[()]]:
        return iter(())


class _Connection(sqlite3.Connection):
    """A connection that runs a whole job in one hop, and leaves transactions to the job."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["isolation_level"] = None
        super().__init__(*args, **kwargs)

    def executemany(self, sql: str, parameters: Any, /) -> sqlite3.Cursor:
        if isinstance(parameters, _Job):
            parameters.result = parameters.function(self)
            return self.cursor()
        return super().executemany(sql, parameters)


def _configure(connection: sqlite3.Connection, synchronous: str, busy_ms: int, readonly: bool) -> None:
    """Apply our settings to a connection. Not in its constructor: aiosqlite leaves a thread behind if that fails."""
    connection.execute(f"PRAGMA busy_timeout={busy_ms}")
    if readonly:
        connection.execute("PRAGMA query_only=ON")
    else:
        _turn_wal_on(connection)
    for pragma in (
        f"synchronous={synchronous}",
        "foreign_keys=ON",
        "cache_size=-65536",
        "temp_store=MEMORY",
        "wal_autocheckpoint=4000",
        "journal_size_limit=67108864",
        "trusted_schema=OFF",
        "cell_size_check=ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _turn_wal_on(connection: sqlite3.Connection) -> None:
    """Turn WAL on. Retried here: SQLite does not call its busy handler for this, so two first openers collide."""
    for _ in range(200):
        try:
            if connection.execute("PRAGMA journal_mode=WAL").fetchone()[0] == "wal":
                return
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorname", "") not in ("SQLITE_BUSY", "SQLITE_LOCKED"):
                raise
        time.sleep(0.01)
    connection.execute("PRAGMA journal_mode=WAL")


# ---- on a connection's thread


def execute(connection: sqlite3.Connection, query: Query) -> Result:
    """Run one statement."""
    form = query.statement.compiled(DIALECT)
    cursor = connection.execute(form.sql, form.bind(query.values))
    if cursor.description is None:
        return Result([], cursor.rowcount)
    names = [column[0] for column in cursor.description]
    rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    return Result(rows, cursor.rowcount)


def run_script(connection: sqlite3.Connection, script: Script[T], path: Path) -> T:
    """Run a script to its end; an error of a statement is raised at its `yield`."""
    try:
        query = next(script)
        while True:
            try:
                result = execute(connection, query)
            except (sqlite3.Error, *OF_THE_VALUE) as error:
                query = script.throw(database_error(error, path))
            else:
                query = script.send(result)
    except StopIteration as end:
        found: T = end.value
        return found


def in_transaction(connection: sqlite3.Connection, function: Callable[[sqlite3.Connection], T]) -> T:
    """Call a function between BEGIN IMMEDIATE and COMMIT; ROLLBACK if anything goes wrong."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        result = function(connection)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return result


def in_snapshot(connection: sqlite3.Connection, function: Callable[[sqlite3.Connection], T]) -> T:
    """Call a reading function so that all its statements see one snapshot."""
    if connection.in_transaction:  # inside `one_moment` there is a snapshot already
        return function(connection)
    connection.execute("BEGIN")
    try:
        return function(connection)
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def end_transaction(connection: sqlite3.Connection, how: str) -> None:
    """COMMIT or ROLLBACK, if a transaction is open."""
    if connection.in_transaction:
        try:
            connection.execute(how)
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
