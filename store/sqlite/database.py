"""The database as one SQLite file: one connection that writes, a few that read, for one event loop."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

import anyio

from towpath.errors import InputInvalid, StoreFailed, TowpathError

from ..backend import Counts, Guard, Line, Result, Row, Script, Told, Unit, Write
from ..group_commit import GroupCommit, Turn, waiting
from ..schema import is_ours, not_migrated
from ..statements import Query
from . import file, integrity, schema
from .batch import break_lines, record_batch
from .connection import Connection, Connections, end_transaction, execute, in_snapshot, in_transaction, run_script, tell
from .errors import OF_THE_VALUE, closed, database_error

T = TypeVar("T")
P = ParamSpec("P")

SQLITE_FLOOR = (3, 35, 0)  # RETURNING
READERS = 2
IMPATIENT_MS = 1_000

_frozen: ContextVar[Connection | None] = ContextVar("towpath_frozen", default=None)
"""The connection on which this task has a read transaction open."""


class SqliteDatabase:
    """One SQLite file. Implements `Backend`.

    With `readonly` there is no writing connection: opening, reading and closing never wait for a write lock.
    """

    def __init__(
        self, path: Path, *, durability: str = "full", busy_timeout: float = 30.0, readonly: bool = False
    ) -> None:
        self.path = path
        self.readonly = readonly
        self.counts = Counts()
        self._durability = durability
        self._busy_ms = int(busy_timeout * 1000)
        self._impatient = False  # a wait for the write lock has timed out: the next one is shorter
        self._closing = False
        self._writing = Turn()
        self._owner: asyncio.Task[object] | None = None  # of the writing transaction
        self._commits = GroupCommit(self._record, self._writing, self.counts)
        self._writer: Connection | None = None
        self._readers: asyncio.LifoQueue[Connection] = asyncio.LifoQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = os.getpid()

    @property
    def identity(self) -> str:
        """The path of the file."""
        return str(self.path)

    @property
    def broken(self) -> TowpathError | None:
        """The error that ended all writing, or None. Nothing can be recorded until the store is opened again."""
        return self._commits.broken

    # ---- life

    async def open(self) -> None:
        """Open the file, make the tables in a new one, and migrate those of an older schema.

        Raises StoreFailed: E_DB_PATH, E_DB_READONLY, E_DB_NOT_SQLITE, E_DB_SQLITE_OLD, E_DB_NOT_TOWPATH, E_SCHEMA_….
        """
        if sqlite3.sqlite_version_info < SQLITE_FLOOR:
            floor = ".".join(map(str, SQLITE_FLOOR))
            raise StoreFailed(
                "E_DB_SQLITE_OLD", f"SQLite {sqlite3.sqlite_version} is too old", allowed=f"{floor} or newer"
            )
        self._loop = asyncio.get_running_loop()
        if not self.readonly:
            file.prepare(self.path)
        options = {"durability": self._durability, "busy_ms": self._busy_ms, "readonly": self.readonly}
        self._connections = Connections(self.path, **options)  # type: ignore[arg-type]
        await self._connections.connect()
        try:
            if not self.readonly:
                self._writer = await self._connections.open()  # first: it creates the file and turns WAL on
            for _ in range(READERS):
                self._readers.put_nowait(await self._connections.open())
            await self._make_schema()
        except BaseException:
            await self.close()
            raise

    async def _make_schema(self) -> None:
        found = await self._on_reader(lambda c: in_snapshot(c, schema.version))
        if is_ours(found):
            return
        if self.readonly and found is not None:
            raise not_migrated(found)
        self._check_writable()
        async with self._writing:
            await self._on_writer(lambda c: in_transaction(c, schema.make))

    async def close(self) -> None:
        """Let queued writes finish, copy the log into the file, close every connection and thread.

        Copying waits for no lock: the next writer copies what is left in the log.
        """
        with anyio.CancelScope(shield=True):
            self._closing = True
            await self._commits.close()
            if self._writer is not None:
                with suppress(TowpathError):
                    await self._on_writer(_fold)
            await self._connections.close()

    # ---- writing

    def submit(self, writes: Sequence[Write], guard: Guard | None = None) -> Awaitable[None]:
        """Queue a unit; see `Backend.submit`."""
        done, told = waiting()
        self.queue(writes, guard, told)
        return done

    def queue(self, writes: Sequence[Write], guard: Guard | None, told: Told, line: Line | None = None) -> None:
        """Queue a unit; see `Backend.queue`."""
        self._check_writable()
        self._commits.queue(Unit(writes, guard, told, line))

    async def write(self, script: Callable[P, Script[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a script in one write transaction, in one hop."""
        self._check_writable()
        async with self._writing:
            with anyio.CancelScope(shield=True):
                result = await self._on_writer(
                    lambda c: in_transaction(c, lambda c: run_script(c, script(*args, **kwargs), self.path))
                )
        return result  # pyright: ignore[reportPossiblyUnboundVariable,reportReturnType] - never cancelled

    def _record(self, units: list[Unit]) -> None:
        """Record a batch and all that is queued meanwhile, on the writer's thread. Comes back once per batch."""
        assert self._writer is not None
        self._writer.post(partial(self._record_all, units))

    def _record_all(self, units: list[Unit], connection: sqlite3.Connection) -> None:
        assert self._loop is not None
        while units:
            fault: TowpathError | None = None
            results: Sequence[Exception | None]
            try:
                results = self._carefully(connection, partial(record_batch, units=units, path=self.path))
            except TowpathError as error:
                results, fault = [error] * len(units), error
            except BaseException as error:
                fault = StoreFailed("E_DB_WRITER", f"the writer stopped: {error!r}")
                results = [fault] * len(units)
                tell(self._loop, self._commits.fail, fault)
            break_lines(units, results)
            following = [] if fault is not None else self._commits.next_batch()
            tell(self._loop, partial(self._commits.recorded, units, results, resting=not following))
            units = following

    async def _on_writer(self, function: Callable[[sqlite3.Connection], T]) -> T:
        assert self._writer is not None
        return await self._writer.run(lambda c: self._carefully(c, function))

    def _carefully(self, connection: sqlite3.Connection, function: Callable[[sqlite3.Connection], T]) -> T:
        """Call a function on the writer's thread. Raises StoreFailed (E_DB_…, E_DISK_…).

        After one full wait for the lock of another process, further waits (to release a run, or for another run) are
        short, so that all together take about one `busy_timeout`. An error of the disk ends all writing.
        """
        try:
            result = function(connection)
        except StoreFailed as error:
            self._failed(connection, error)
            raise
        except (sqlite3.Error, *OF_THE_VALUE) as error:
            failed = database_error(error, self.path)
            self._failed(connection, failed)
            raise failed from error
        if self._impatient:
            self._wait_for_lock(connection, self._busy_ms)
            self._impatient = False
        return result

    def _failed(self, connection: sqlite3.Connection, error: StoreFailed) -> None:
        if error.code == "E_DB_BUSY" and not self._impatient:
            self._wait_for_lock(connection, min(self._busy_ms, IMPATIENT_MS))
            self._impatient = True
        if error.code == "E_DISK_IO":
            # An fsync that failed must not be tried again: the kernel may have dropped the pages.
            assert self._loop is not None
            tell(self._loop, self._commits.fail, error)

    def _wait_for_lock(self, connection: sqlite3.Connection, milliseconds: int) -> None:
        connection.execute(f"PRAGMA busy_timeout={milliseconds}").fetchall()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[SqliteTransaction]:
        """A transaction; see `Backend.transaction`."""
        transaction = SqliteTransaction(self)
        try:
            yield transaction
        except BaseException:
            with anyio.CancelScope(shield=True):
                await transaction.end(commit=False)
            raise
        else:
            with anyio.CancelScope(shield=True):
                await transaction.end(commit=True)

    # ---- reading

    async def read(self, script: Callable[P, Script[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a script on the thread of a reading connection: it sees one snapshot."""
        return await self._on_reader(
            lambda c: in_snapshot(c, lambda c: run_script(c, script(*args, **kwargs), self.path))
        )

    async def fetch(self, query: Query) -> list[Row]:
        """The rows of one select, in one hop. One statement always sees one snapshot."""
        return (await self._on_reader(lambda c: execute(c, query))).rows

    def fetch_now(self, query: Query) -> list[Row]:
        """The rows of one select; see `Backend.fetch_now`. It may see an older snapshot, in which they are missing: so
        all connections are asked until one has them.
        """
        self._check_process()
        rows: list[Row] = []
        for connection in self._connections.readers_first():
            rows = rows or connection.run_now(lambda c: execute(c, query).rows)
        return rows

    async def inspect(self, script: Callable[P, Script[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `read`, with text that is not Unicode made readable."""

        def inspected(connection: sqlite3.Connection) -> T:
            connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
            try:
                return in_snapshot(connection, lambda c: run_script(c, script(*args, **kwargs), self.path))
            finally:
                connection.text_factory = str

        return await self._on_reader(inspected)

    async def integrity(self, *, deep: bool) -> list[tuple[str, str, str, str]]:
        """What SQLite's own checks find; `deep` reads every page."""
        return await self._on_reader(lambda c: integrity.faults(c, deep))

    @asynccontextmanager
    async def one_moment(self) -> AsyncIterator[None]:
        """One snapshot for all reads of this task inside the block. Keep it short.

        Later writes are not seen, not even those of this task. It holds one of a few reading connections, and the log
        cannot be copied into the file beyond this snapshot.
        """
        if self._frozen_reader() is not None:
            yield
            return
        self._check_open()
        reader = await self._readers.get()
        try:
            await reader.run(lambda c: c.execute("BEGIN"))
            reader.frozen = True
            before = _frozen.set(reader)
            try:
                yield
            finally:
                _frozen.reset(before)
                reader.frozen = False  # tasks that were started inside may live longer than the block
        finally:
            with anyio.CancelScope(shield=True):
                try:
                    await reader.run(lambda c: end_transaction(c, "ROLLBACK"))
                finally:
                    self._readers.put_nowait(reader)

    async def _on_reader(self, function: Callable[[sqlite3.Connection], T]) -> T:
        frozen = self._frozen_reader()
        if frozen is not None:
            return await frozen.run(function)
        self._check_open()
        reader = await self._readers.get()
        try:
            return await reader.run(function)
        finally:
            self._readers.put_nowait(reader)

    def _frozen_reader(self) -> Connection | None:
        reader = _frozen.get()
        return reader if reader is not None and reader.frozen and reader in self._connections else None

    # ---- checks

    def is_in_loop(self) -> bool:
        """Does the calling thread run the event loop in which the database was opened?"""
        return self._loop is not None and asyncio._get_running_loop() is self._loop

    def check_waiting(self) -> None:
        """Raises InputInvalid (E_SYNC_IN_LOOP), StoreFailed (E_DB_CLOSED) if this thread cannot wait for it."""
        if self.is_in_loop():
            raise InputInvalid(
                "E_SYNC_IN_LOOP",
                "reading a file like this would block the event loop, which runs in this thread",
                cure="`await artifact.read_bytes()` or `await artifact.path()`; or make the step a plain `def`, which "
                "runs in a thread of its own",
            )
        if self._closing:
            raise closed()

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise StoreFailed(
                "E_DB_FORKED",
                "this process was forked from the one that opened the store, and cannot use its connections",
                cure="give the process a path, `os.fspath(artifact)`, or the artifact by a pool, which pickles it",
            )

    def _check_loop(self) -> None:
        """Refuse another event loop: queues and locks belong to one loop, and waiting in another would hang both."""
        if self._loop is not asyncio.get_running_loop():
            raise InputInvalid(
                "E_LOOP",
                "this store was opened in another event loop, and cannot be used from this one",
                cure="asyncio.run_coroutine_threadsafe(…, loop) with the loop that opened it",
            )

    def _check_open(self) -> None:
        self._check_loop()
        if self._closing:
            raise closed()

    def _check_writable(self) -> None:
        """Raises StoreFailed: E_DB_READONLY, E_DB_CLOSED, E_SESSION_NESTED, or the error that ended all writing.
        InputInvalid: E_LOOP.
        """
        self._check_loop()
        if self.readonly:
            raise file.readonly(self.path)
        if self.broken is not None:
            raise self.broken
        if self._closing:
            raise closed()
        if self._owner is not None and self._owner is asyncio.current_task():
            raise StoreFailed(
                "E_SESSION_NESTED",
                "a second write inside a writing session would wait for itself",
                cure="use the one session, or end it first",
            )


class SqliteTransaction:
    """A transaction on the writing connection from `begin` on; before, it reads. Fills `Transaction`."""

    def __init__(self, database: SqliteDatabase) -> None:
        self.writing = False
        self._database = database
        self._failed = False

    async def begin(self) -> None:
        """Take the write lock now: what is read from now on cannot change before it is written."""
        if self.writing:
            return
        database = self._database
        database._check_writable()
        await database._writing.__aenter__()
        database._owner = asyncio.current_task()
        self.writing = True
        try:
            await database._on_writer(lambda c: c.execute("BEGIN IMMEDIATE"))
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.end(commit=False)
            raise

    async def run(self, script: Callable[P, Script[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a script in this transaction, in one hop."""
        if not self.writing:
            return await self._database.read(script, *args, **kwargs)
        if self._failed:
            raise _failed()
        path = self._database.path
        try:
            return await self._database._on_writer(lambda c: run_script(c, script(*args, **kwargs), path))
        except BaseException as error:
            # A script that refuses has not written; a statement that failed may have left half of it.
            self._failed = not isinstance(error, TowpathError) or isinstance(error, StoreFailed)
            raise

    async def execute(self, query: Query) -> Result:
        """Run one statement in this transaction."""
        if not self.writing:
            return await self._database._on_reader(lambda c: execute(c, query))
        return await self.run(_one, query)

    async def end(self, *, commit: bool) -> None:
        """Commit or roll back; nothing to do if nothing was written."""
        if not self.writing:
            return
        spoiled = self._failed and commit
        how = "COMMIT" if commit and not spoiled else "ROLLBACK"
        try:
            await self._database._on_writer(lambda c: end_transaction(c, how))
        finally:
            self.writing = False
            self._database._owner = None
            self._database._writing.end()
        if spoiled:
            raise _failed()


def _one(query: Query) -> Script[Result]:
    return (yield query)


def _fold(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA busy_timeout=0")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _failed() -> StoreFailed:
    return StoreFailed(
        "E_SESSION_FAILED",
        "a statement of this session failed before, so nothing of the session is recorded",
        cure="let the first error pass out of the `async with`, then start a new session",
    )
