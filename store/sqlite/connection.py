"""Connections to one SQLite file: the only module that imports `databases`.

`databases` 0.9 by itself opens a thread per operation, uses plain BEGIN, drops PRAGMAs and row counts, and leaks
connections under cancellation. So only two parts of it are used: the life cycle of connections, and `factory=`, which
makes every connection an object of our class. A function that is passed to that class (`executemany` with a `_Job`)
runs on the thread of the connection. The function that we pass (`_serve`) stays there and carries out jobs from a queue
of ours until the connection is closed. So a job costs one thread hop, whatever it does, and no task or future of the
driver.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar, cast

import databases

from ..backend import Result, Script
from ..statements import Query
from . import file
from .dialect import DIALECT
from .errors import OF_THE_VALUE, closed, database_error

T = TypeVar("T")
Job = Callable[[sqlite3.Connection], None]
Jobs = SimpleQueue[Job | None]
Answer = tuple[T | None, BaseException | None]

IDLE = 2.0  # seconds after which a thread without a job looks whether its loop is still there
MOMENT = 0.1  # seconds after which a thread that waits for an answer looks whether one will come
LINGER = 10.0  # seconds for which a connection whose task was cancelled waits to be closed


_ours: ContextVar[bool] = ContextVar("towpath_connecting", default=False)


def _not_ours(record: logging.LogRecord) -> bool:
    return not _ours.get() or record.levelno > logging.INFO


logging.getLogger("databases").addFilter(_not_ours)


@contextmanager
def _unsaid() -> Iterator[None]:
    """In this block `databases` does not tell the program's log that it connects: the program asked for a store."""
    token = _ours.set(True)
    try:
        yield
    finally:
        _ours.reset(token)


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
        with _unsaid():
            await self._database.connect()

    async def open(self) -> Connection:
        """One more connection. Raises StoreFailed (E_DB_…)."""
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        jobs: Jobs = SimpleQueue()
        closing = asyncio.Event()
        # `databases` ties a connection to the task that asked for it.
        task = asyncio.create_task(self._hold(ready, jobs, closing), name="towpath connection")
        connection = Connection(self.path, task, jobs, closing)
        self._open.append(connection)
        try:
            await ready
        except sqlite3.Error as error:
            raise database_error(error, self.path) from error
        return connection

    async def _hold(self, ready: asyncio.Future[None], jobs: Jobs, closing: asyncio.Event) -> None:
        try:
            async with self._database.connection() as connection:
                await connection.raw_connection.executemany("", _Job(self._settings))
                try:
                    ready.set_result(None)
                    serve = partial(_serve, jobs, asyncio.get_running_loop())
                    await connection.raw_connection.executemany("", _Job(serve))
                except asyncio.CancelledError:
                    # All tasks of the loop were cancelled. Some may still have something to record before they end.
                    with suppress(TimeoutError):
                        async with asyncio.timeout(LINGER):
                            await closing.wait()
                    raise
                finally:
                    jobs.put(None)  # otherwise the thread would serve for ever after this task was cancelled
        except Exception as error:
            if not ready.done():
                ready.set_exception(error)
        finally:
            _refuse(jobs)

    async def close(self) -> None:
        # One by one: the last connection cleans up, and of two that close at once neither may know that it is the last.
        for one in self._open:
            one.close()
            await asyncio.gather(one.task, return_exceptions=True)
        with _unsaid():
            await self._database.disconnect()

    def __contains__(self, connection: object) -> bool:
        return any(connection is one for one in self._open)

    def readers_first(self) -> list[Connection]:
        """All open connections; the one that writes was opened first, and comes last."""
        return self._open[::-1]


class Connection:
    """An open connection, and the task that holds it. Its thread carries out one job after the other."""

    def __init__(self, path: Path, task: asyncio.Task[None], jobs: Jobs, closing: asyncio.Event) -> None:
        self.task = task
        self.frozen = False  # a read transaction is open on it, see `SqliteDatabase.one_moment`
        self._path = path
        self._jobs = jobs
        self._closing = closing

    def post(self, job: Job) -> None:
        """Call a function on the connection's thread, after those posted before. It must not raise."""
        self._jobs.put(job)
        if self.task.done():  # cancelled with all tasks of a loop that ends: nothing serves the queue any more
            _refuse(self._jobs)

    async def run(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Run a function on the connection's thread, in one hop. Raises StoreFailed (E_DB_…, E_DISK_…)."""
        if self.task.done():
            raise closed()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self.post(partial(_carry_out, function, loop, done))
        try:
            return await done
        except (sqlite3.Error, *OF_THE_VALUE) as error:
            raise database_error(error, self._path) from error

    def run_now(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """As `run`, but it blocks the calling thread, which may be any, and needs no event loop."""
        answers: SimpleQueue[Answer[T]] = SimpleQueue()
        if not self._is_dead():
            self._jobs.put(partial(_answer, function, answers))
        while not self._is_dead():
            with suppress(Empty):
                result, error = answers.get(timeout=MOMENT)
                if error is None:
                    return cast("T", result)
                if isinstance(error, sqlite3.ProgrammingError):
                    break  # it was closed before it came to this job
                if isinstance(error, (sqlite3.Error, *OF_THE_VALUE)):
                    raise database_error(error, self._path) from error
                raise error
        raise closed()

    def _is_dead(self) -> bool:
        """Does nobody carry out jobs any more?"""
        return self.task.done() or self.task.get_loop().is_closed()

    def close(self) -> None:
        """Close it when the jobs that were posted are done."""
        self._jobs.put(None)
        self._closing.set()


def _serve(jobs: Jobs, loop: asyncio.AbstractEventLoop, connection: sqlite3.Connection) -> None:
    while True:
        try:
            job = jobs.get(timeout=IDLE)
        except Empty:
            # The store was not closed, and cannot be any more. The program would wait for this thread when it ends;
            # so the thread ends, with a traceback of the driver that says that the loop is closed.
            if loop.is_closed():
                return
            continue
        if job is None:
            return
        job(connection)


def _refuse(jobs: Jobs) -> None:
    """Carry out what was posted too late on a closed connection: its callers get an error instead of no answer."""
    gone = sqlite3.connect(":memory:")
    gone.close()
    while not jobs.empty():
        job = jobs.get()
        if job is not None:
            job(gone)


def _carry_out(
    function: Callable[[sqlite3.Connection], T],
    loop: asyncio.AbstractEventLoop,
    done: asyncio.Future[T],
    connection: sqlite3.Connection,
) -> None:
    try:
        result = function(connection)
    except BaseException as error:
        tell(loop, _fail, done, error)
    else:
        tell(loop, _succeed, done, result)


def _answer(
    function: Callable[[sqlite3.Connection], T], answers: SimpleQueue[Answer[T]], connection: sqlite3.Connection
) -> None:
    try:
        answers.put((function(connection), None))
    except BaseException as error:
        answers.put((None, error))


def _succeed(done: asyncio.Future[T], result: T) -> None:
    if not done.done():  # the caller may have been cancelled
        done.set_result(result)


def _fail(done: asyncio.Future[Any], error: BaseException) -> None:
    if not done.done():
        done.set_exception(error)


def tell(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *args: Any) -> None:
    """Call a function in the event loop, from a connection's thread."""
    with suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(function, *args)


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
        "cache_size=-32768",
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
