"""The one module that owns `databases` and SQLite connections.

`databases` 0.9 as it comes opens a thread per operation, says plain BEGIN, drops PRAGMAs and row
counts, and leaks connections under cancellation. What is used of it: its connection life cycle, and
`factory=`, through which every connection is of our class. A function is handed to that class and runs
on the connection's own thread (`Connection.executemany` with a `_Job`): one thread hop, whatever it does.

Writing goes through one connection per process. Units queued by all running steps are taken together:
one hop, one BEGIN IMMEDIATE, one COMMIT; each caller waits for the commit that holds its unit.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar

import anyio
import databases
import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import pysqlite

from towpath.errors import InputInvalid, StoreFailed, TowpathError

from . import sqlite_file
from .batch import Guard, Unit, Write, answer, in_snapshot, in_transaction, record_batch
from .driver_errors import OF_THE_VALUE, database_error

if TYPE_CHECKING:
    from .files import StoredFiles

T = TypeVar("T")
P = ParamSpec("P")
Row = dict[str, Any]

DIALECT = pysqlite.dialect(paramstyle="qmark")
SQLITE_FLOOR = (3, 35, 0)  # RETURNING
MAX_BATCH = 2_000
READERS = 2
IMPATIENT_MS = 1_000


def value_of(name: str) -> sa.BindParameter[Any]:
    """A place for a value in a `Statement`."""
    return sa.bindparam(name, required=False)


class Statement:
    """A Core statement compiled once; calling it with its parameters gives what SQLite wants."""

    __slots__ = ("_fixed", "_names", "sql")

    def __init__(self, expression: sa.sql.expression.ClauseElement) -> None:
        compiled = expression.compile(dialect=DIALECT, compile_kwargs={"render_postcompile": True})
        assert isinstance(compiled, sa.sql.compiler.SQLCompiler)
        self.sql = compiled.string
        self._names: tuple[str, ...] = tuple(compiled.positiontup or ())
        self._fixed = {k: v for k, v in compiled.params.items() if v is not None}

    def __call__(self, **values: Any) -> tuple[str, list[Any]]:
        fixed = self._fixed
        return self.sql, [values[n] if n in values else fixed.get(n) for n in self._names]


class _Job(Generic[T]):
    """A function for a connection's thread, dressed as the parameters of an `executemany`."""

    __slots__ = ("function", "result")

    def __init__(self, function: Callable[[sqlite3.Connection], T]) -> None:
        self.function = function
        self.result: T | None = None

    def __iter__(self) -> Iterator[tuple[()]]:
        return iter(())


class TowpathConnection(sqlite3.Connection):
    """A connection that is able to run a whole job in one hop, and leaves transactions to us."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["isolation_level"] = None
        super().__init__(*args, **kwargs)

    def executemany(self, sql: str, parameters: Any, /) -> sqlite3.Cursor:
        if isinstance(parameters, _Job):
            parameters.result = parameters.function(self)
            return self.cursor()
        return super().executemany(sql, parameters)


def _configure(connection: sqlite3.Connection, synchronous: str, busy_ms: int, readonly: bool) -> None:
    """Our settings, on every connection. Not in its constructor: aiosqlite leaves a thread behind if that fails."""
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
    """SQLite does not call its busy handler for this switch: two first openers at once collide at once."""
    for _ in range(200):
        try:
            if connection.execute("PRAGMA journal_mode=WAL").fetchone()[0] == "wal":
                return
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorname", "") not in ("SQLITE_BUSY", "SQLITE_LOCKED"):
                raise
        time.sleep(0.01)
    connection.execute("PRAGMA journal_mode=WAL")


@dataclass(slots=True)
class Counts:
    """What the writer did so far: for benchmarks and for tests that forbid a commit per step."""

    commits: int = 0
    units: int = 0


@dataclass(slots=True)
class _Held:
    """A connection and the task that holds it: `databases` ties a connection to its task."""

    raw: Any
    task: asyncio.Task[None]
    let_go: asyncio.Event
    frozen: bool = False  # a read transaction is open on it, see `Database.one_moment`


_frozen: ContextVar[_Held | None] = ContextVar("towpath_frozen", default=None)
"""The connection that this task reads from while what it sees stands still."""


class Database:
    """One SQLite file: one writing connection and a few reading ones, for one event loop.

    With `readonly` there is no writing connection: opening, looking and closing wait for no write lock.
    """

    def __init__(
        self, path: Path, *, durability: str = "full", busy_timeout: float = 30.0, readonly: bool = False
    ) -> None:
        self.path = path
        self.readonly = readonly
        self.counts = Counts()
        synchronous = "FULL" if durability == "full" else "NORMAL"
        self._busy_ms = int(busy_timeout * 1000)
        self._waited = False  # for the write lock, in vain: who comes next does not wait as long again
        self._configure = partial(_configure, synchronous=synchronous, busy_ms=self._busy_ms, readonly=readonly)
        self._closing = asyncio.Event()  # nothing new is taken; what is queued is still written
        self._wake = asyncio.Event()
        self._queue: list[Unit] = []
        self._writing = anyio.Lock()
        self._broken: TowpathError | None = None
        self._session_task: asyncio.Task[Any] | None = None
        self._readers: asyncio.LifoQueue[_Held] = asyncio.LifoQueue()
        self._held: list[_Held] = []
        self._loop_task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    # ---- life

    async def open(self) -> None:
        """Open the file. Raises StoreFailed (E_DB_PATH, E_DB_READONLY, E_DB_NOT_SQLITE, E_DB_SQLITE_OLD)."""
        if sqlite3.sqlite_version_info < SQLITE_FLOOR:
            floor = ".".join(map(str, SQLITE_FLOOR))
            raise StoreFailed(
                "E_DB_SQLITE_OLD", f"SQLite {sqlite3.sqlite_version} is too old", allowed=f"{floor} or newer"
            )
        self._loop = asyncio.get_running_loop()
        if self.readonly:
            url, how = sqlite_file.to_look(self.path), {"uri": True}
        else:
            sqlite_file.prepare(self.path)
            url, how = sqlite_file.to_write(self.path), {}
        self._databases = databases.Database(url, factory=TowpathConnection, **how)
        await self._databases.connect()
        try:
            if not self.readonly:
                self._writer = await self._hold()  # the writer first: it creates the file and turns WAL on
            for _ in range(READERS):
                self._readers.put_nowait(await self._hold())
        except BaseException:
            await self.close()
            raise
        if self.readonly:
            return
        self._loop_task = asyncio.create_task(self._write_loop(), name="towpath writer")

    async def close(self) -> None:
        """Let queued writes finish, fold the log into the file, close every connection and thread.

        Folding waits for nobody: what is left in the log is folded by whoever writes or closes next.
        """
        with anyio.CancelScope(shield=True):
            self._closing.set()
            self._wake.set()
            if self._loop_task is not None:
                await asyncio.gather(self._loop_task, return_exceptions=True)
                with suppress(TowpathError):
                    await self._on_writer(_fold)
            for held in self._held:  # one by one: of two that close at once neither may be the last, which tidies up
                held.let_go.set()
                await asyncio.gather(held.task, return_exceptions=True)
            await self._databases.disconnect()

    async def _hold(self) -> _Held:
        ready: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        let_go = asyncio.Event()

        async def hold() -> None:
            try:
                async with self._databases.connection() as connection:
                    await connection.raw_connection.executemany("", _Job(self._configure))
                    ready.set_result(connection.raw_connection)
                    await let_go.wait()
            except Exception as error:
                if not ready.done():
                    ready.set_exception(error)

        held = _Held(None, asyncio.create_task(hold(), name="towpath connection"), let_go)
        self._held.append(held)
        try:
            held.raw = await ready
        except sqlite3.Error as error:
            raise database_error(error, self.path) from error
        return held

    # ---- writing

    def submit(self, writes: Sequence[Write], guard: Guard | None = None) -> Awaitable[None]:
        """Queue a unit; the result is awaited until the commit that holds it.

        A caller that is cancelled while it waits leaves its unit in the queue: it may still be recorded.
        Raises the unit's own refusal, or StoreFailed if its commit failed.
        """
        self._check_writable()
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(Unit(writes, guard, done))
        self._wake.set()
        return done

    def _check_loop(self) -> None:
        """Queues and locks belong to one event loop; waited for in another they hang both."""
        if self._loop is not asyncio.get_running_loop():
            raise InputInvalid(
                "E_LOOP",
                "this store was opened in another event loop, and cannot be used from this one",
                cure="asyncio.run_coroutine_threadsafe(…, loop) with the loop that opened it",
            )

    @property
    def broken(self) -> TowpathError | None:
        """What ended the writer: nothing can be recorded any more until the store is opened again."""
        return self._broken

    def _check_writable(self) -> None:
        """Raises StoreFailed: E_DB_READONLY, E_DB_CLOSED, E_SESSION_NESTED, or what broke the writer. InputInvalid:
        E_LOOP.
        """
        self._check_loop()
        if self.readonly:
            raise sqlite_file.readonly(self.path)
        if self._broken is not None:
            raise self._broken
        if self._closing.is_set():
            raise _closed()
        if self._session_task is not None and self._session_task is asyncio.current_task():
            raise StoreFailed(
                "E_SESSION_NESTED",
                "a second write inside a writing session would wait for itself",
                cure="use the one session, or end it first",
            )

    async def _write_loop(self) -> None:
        try:
            while self._queue or not self._closing.is_set():
                await self._wake.wait()
                self._wake.clear()
                while self._queue:
                    async with self._writing:
                        units, self._queue = self._queue[:MAX_BATCH], self._queue[MAX_BATCH:]
                        await self._write(units)
                    await asyncio.sleep(0)
        except BaseException as error:
            self._break(StoreFailed("E_DB_WRITER", f"the writer stopped: {error!r}"))
            raise

    async def _write(self, units: Sequence[Unit]) -> None:
        results: Sequence[Exception | None] = [StoreFailed("E_DB_WRITER", "the writer stopped")] * len(units)
        try:
            results = await self._on_writer(lambda c: record_batch(c, units, self.path))
            self.counts.commits += 1
            self.counts.units += len(units)
        except TowpathError as error:
            results = [error] * len(units)
        finally:
            answer(units, results)

    def _break(self, error: TowpathError) -> None:
        self._broken = error
        queue, self._queue = self._queue, []
        for unit in queue:
            if not unit.done.done():
                unit.done.set_exception(error)

    async def _on_writer(self, function: Callable[[sqlite3.Connection], T]) -> T:
        try:
            result = await self._run(self._writer, function)
        except StoreFailed as error:
            if error.code == "E_DB_BUSY" and not self._waited:
                await self._wait_for_the_lock(min(self._busy_ms, IMPATIENT_MS))
                self._waited = True
            if error.code == "E_DISK_IO":
                # An fsync that failed must not be tried again: the kernel may have dropped the pages.
                self._break(error)
            raise
        if self._waited:
            await self._wait_for_the_lock(self._busy_ms)
            self._waited = False
        return result

    async def _wait_for_the_lock(self, milliseconds: int) -> None:
        """How long the writer waits for other processes from now on.

        Once it has waited the whole time in vain, the next ones (letting go of a run, another run) are
        refused soon: together they are to take one `busy_timeout`, not one each.
        """
        await self._run(self._writer, lambda c: c.execute(f"PRAGMA busy_timeout={milliseconds}").fetchall())

    async def _run(self, held: _Held, function: Callable[[sqlite3.Connection], T]) -> T:
        job = _Job(function)
        try:
            await held.raw.executemany("", job)
        except (sqlite3.Error, *OF_THE_VALUE) as error:
            raise database_error(error, self.path) from error
        return job.result  # type: ignore[return-value]

    # ---- sessions and reading

    async def read(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Run a reading function on a reading connection's thread: all that it reads is of one moment."""
        return await self._on_reader(lambda c: in_snapshot(c, function))

    async def rows(self, statement: tuple[str, Sequence[Any]]) -> list[Row]:
        """The rows of a compiled select as dicts, in one hop."""
        return await self._on_reader(lambda c: fetch(c, statement))  # one statement is of one moment by itself

    @asynccontextmanager
    async def one_moment(self) -> AsyncIterator[None]:
        """Everything this task reads inside, in however many calls, is of one moment. Keep it short.

        What was written since, even by this task, is not seen. It holds one of a few reading connections, and
        the log cannot be folded into the file past it.
        """
        if self._frozen_reader() is not None:
            yield
            return
        self._check_open()
        held = await self._readers.get()
        try:
            await self._run(held, lambda c: c.execute("BEGIN"))
            held.frozen = True
            before = _frozen.set(held)
            try:
                yield
            finally:
                _frozen.reset(before)
                held.frozen = False  # tasks started inside may outlive the moment
        finally:
            with anyio.CancelScope(shield=True):
                try:
                    await self._run(held, lambda c: _end(c, "ROLLBACK"))
                finally:
                    self._readers.put_nowait(held)

    async def _on_reader(self, function: Callable[[sqlite3.Connection], T]) -> T:
        frozen = self._frozen_reader()
        if frozen is not None:
            return await self._run(frozen, function)
        self._check_open()
        held = await self._readers.get()
        try:
            return await self._run(held, function)
        finally:
            self._readers.put_nowait(held)

    def _frozen_reader(self) -> _Held | None:
        held = _frozen.get()
        return held if held is not None and held.frozen and any(held is one for one in self._held) else None

    def _check_open(self) -> None:
        self._check_loop()
        if self._closing.is_set():
            raise _closed()

    async def write(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Run a function inside one write transaction on the writer's thread."""
        self._check_writable()
        async with self._writing:
            with anyio.CancelScope(shield=True):
                result = await self._on_writer(lambda c: in_transaction(c, function))
        return result  # pyright: ignore[reportPossiblyUnboundVariable,reportReturnType] - never cancelled

    @asynccontextmanager
    async def session(self, files: StoredFiles) -> AsyncIterator[Session]:
        """A transaction: commits at the end, rolls back on any error. Keep it short, no network inside.

        The write lock is taken with the first writing statement; until then it reads.
        """
        session = Session(self, files)
        try:
            yield session
        except BaseException:
            with anyio.CancelScope(shield=True):
                await session._end("ROLLBACK")
            raise
        else:
            with anyio.CancelScope(shield=True):
                await session._end("COMMIT")


@dataclass(slots=True)
class Session:
    """One transaction. CRUD functions take it first and never commit; the `async with` around it does.

    All or nothing: once a statement of a writing session failed or was cancelled, the session answers
    nothing more (E_SESSION_FAILED) and records nothing, even if the error was caught.
    """

    _database: Database
    files: StoredFiles
    _writing: bool = False
    _failed: bool = False
    queries: int = field(default=0)

    async def execute(self, statement: sa.sql.expression.ClauseElement) -> int:
        """Run a writing statement; the number of rows it touched."""
        await self.begin()
        sql, values = Statement(statement)()
        self.queries += 1
        return await self._on_writer(lambda c: c.execute(sql, values).rowcount)

    async def fetch_all(self, statement: sa.sql.expression.ClauseElement) -> list[Row]:
        """The rows of a select (or of a statement with RETURNING) as dicts by column name."""
        if not isinstance(statement, sa.sql.Select | sa.sql.CompoundSelect):
            await self.begin()
        sql, values = Statement(statement)()
        self.queries += 1
        if self._writing:
            return await self._on_writer(lambda c: fetch(c, (sql, values)))
        return await self._database.rows((sql, values))

    @asynccontextmanager
    async def one_moment(self) -> AsyncIterator[None]:
        """All that is read inside, in however many statements, is of one moment."""
        if self._writing:  # nobody else writes meanwhile
            yield
            return
        async with self._database.one_moment():
            yield

    async def fetch_one(self, statement: sa.sql.expression.ClauseElement) -> Row | None:
        """The first row of a select, or None."""
        rows = await self.fetch_all(statement)
        return rows[0] if rows else None

    async def begin(self) -> None:
        """Take the write lock now, so that what is read next cannot change before it is written."""
        if self._writing:
            return
        database = self._database
        database._check_writable()
        await database._writing.acquire()
        database._session_task = asyncio.current_task()
        self._writing = True
        try:
            await database._on_writer(lambda c: c.execute("BEGIN IMMEDIATE"))
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._end("ROLLBACK")
            raise

    async def _on_writer(self, function: Callable[[sqlite3.Connection], T]) -> T:
        if self._failed:
            raise _session_failed()
        try:
            return await self._database._on_writer(function)
        except BaseException:
            self._failed = True
            raise

    async def _end(self, how: str) -> None:
        if not self._writing:
            return
        spoiled = self._failed and how == "COMMIT"
        try:
            await self._database._on_writer(lambda c: _end(c, "ROLLBACK" if spoiled else how))
        finally:
            self._writing = False
            self._database._session_task = None
            self._database._writing.release()
        if spoiled:
            raise _session_failed()


def of_one_moment(
    function: Callable[Concatenate[Session, P], Awaitable[T]],
) -> Callable[Concatenate[Session, P], Awaitable[T]]:
    """For functions that read with several statements what has to fit together."""

    @wraps(function)
    async def reading(session: Session, /, *args: P.args, **kwargs: P.kwargs) -> T:
        async with session.one_moment():
            return await function(session, *args, **kwargs)

    return reading


def _closed() -> StoreFailed:
    return StoreFailed("E_DB_CLOSED", "the store is closed")


def _session_failed() -> StoreFailed:
    return StoreFailed(
        "E_SESSION_FAILED",
        "a statement of this session failed before, so nothing of the session is recorded",
        cure="let the first error pass out of the `async with`, then start a new session",
    )


def _end(connection: sqlite3.Connection, how: str) -> None:
    if connection.in_transaction:
        try:
            connection.execute(how)
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def _fold(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA busy_timeout=0")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def fetch(connection: sqlite3.Connection, statement: tuple[str, Sequence[Any]]) -> list[Row]:
    """The rows of a compiled select as dicts, on a connection's thread."""
    cursor = connection.execute(*statement)
    names = [column[0] for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
