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
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import anyio
import databases
import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import pysqlite

from towpath.errors import StoreFailed, TowpathError

from .failures import database_error

if TYPE_CHECKING:
    from .files import StoredFiles

T = TypeVar("T")
Row = dict[str, Any]

DIALECT = pysqlite.dialect(paramstyle="qmark")  # type: ignore[no-untyped-call]
SQLITE_FLOOR = (3, 35, 0)  # RETURNING
MAX_BATCH = 2_000
READERS = 2


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


@dataclass(frozen=True, slots=True)
class Write:
    """One statement of a unit. With `refuse`, it must touch exactly one row, else that error is raised."""

    sql: str
    values: Sequence[Any] = ()
    refuse: Callable[[], TowpathError] | None = None


@dataclass(frozen=True, slots=True)
class Guard:
    """A question asked once per batch and key: no row in the answer refuses every unit that carries it."""

    key: tuple[Any, ...]
    sql: str
    values: Sequence[Any]
    refuse: Callable[[], TowpathError]


@dataclass(slots=True)
class Unit:
    """Statements that are recorded together or not at all, and the caller that waits for it."""

    writes: Sequence[Write]
    guard: Guard | None
    done: asyncio.Future[None]


class _Job(Generic[T]):
    """A function for a connection's thread, dressed as the parameters of an `executemany`."""

    __slots__ = ("function", "result")

    def __init__(self, function: Callable[[sqlite3.Connection], T]) -> None:
        self.function = function
        self.result: T | None = None

    def __iter__(self) -> Iterator[tuple[()]]:
        return iter(())


def connection_class(synchronous: str, busy_ms: int) -> type[sqlite3.Connection]:
    """A `sqlite3.Connection` with our settings on every connection, able to run a whole job in one hop."""

    class TowpathConnection(sqlite3.Connection):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs["isolation_level"] = None
            super().__init__(*args, **kwargs)
            self.execute(f"PRAGMA busy_timeout={busy_ms}")
            _turn_wal_on(self)
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
                self.execute(f"PRAGMA {pragma}")

        def executemany(self, sql: str, parameters: Any, /) -> sqlite3.Cursor:
            if isinstance(parameters, _Job):
                parameters.result = parameters.function(self)
                return self.cursor()
            return super().executemany(sql, parameters)

    return TowpathConnection


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


class Database:
    """One SQLite file: one writing connection and a few reading ones, for one event loop."""

    def __init__(self, path: Path, *, durability: str = "full", busy_timeout: float = 30.0) -> None:
        self.path = path
        self.counts = Counts()
        factory = connection_class("FULL" if durability == "full" else "NORMAL", int(busy_timeout * 1000))
        self._databases = databases.Database(f"sqlite:///{path}", factory=factory)
        self._closing = asyncio.Event()
        self._wake = asyncio.Event()
        self._queue: list[Unit] = []
        self._writing = anyio.Lock()
        self._broken: TowpathError | None = None
        self._session_task: asyncio.Task[Any] | None = None
        self._readers: asyncio.LifoQueue[_Held] = asyncio.LifoQueue()
        self._held: list[_Held] = []
        self._loop_task: asyncio.Task[None] | None = None

    # ---- life

    async def open(self) -> None:
        """Open the file. Raises StoreFailed (E_DB_PATH, E_DB_READONLY, E_DB_NOT_SQLITE, E_DB_SQLITE_OLD)."""
        if sqlite3.sqlite_version_info < SQLITE_FLOOR:
            floor = ".".join(map(str, SQLITE_FLOOR))
            raise StoreFailed(
                "E_DB_SQLITE_OLD", f"SQLite {sqlite3.sqlite_version} is too old", allowed=f"{floor} or newer"
            )
        _touch(self.path)
        await self._databases.connect()
        try:
            self._writer = await self._hold()  # the writer first: it creates the file and turns WAL on
            for _ in range(READERS):
                self._readers.put_nowait(await self._hold())
        except BaseException:
            await self.close()
            raise
        self._loop_task = asyncio.create_task(self._write_loop(), name="towpath writer")

    async def close(self) -> None:
        """Let queued writes finish, fold the log into the file, close every connection and thread."""
        with anyio.CancelScope(shield=True):
            self._closing.set()
            self._wake.set()
            if self._loop_task is not None:
                await asyncio.gather(self._loop_task, return_exceptions=True)
                with suppress(TowpathError):
                    await self._on_writer(lambda c: c.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())
            await asyncio.gather(*(held.task for held in self._held), return_exceptions=True)
            await self._databases.disconnect()

    async def _hold(self) -> _Held:
        ready: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        async def hold() -> None:
            try:
                async with self._databases.connection() as connection:
                    ready.set_result(connection.raw_connection)
                    await self._closing.wait()
            except Exception as error:
                if not ready.done():
                    ready.set_exception(error)

        held = _Held(None, asyncio.create_task(hold(), name="towpath connection"))
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
        if self._broken is not None or self._closing.is_set():
            raise self._broken or StoreFailed("E_DB_CLOSED", "the store is closed")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(Unit(writes, guard, done))
        self._wake.set()
        return done

    async def _write_loop(self) -> None:
        try:
            while True:
                await self._wake.wait()
                if not self._queue and self._closing.is_set():
                    return
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
        results: Sequence[Exception | None]
        try:
            results = await self._on_writer(lambda c: record_batch(c, units))
            self.counts.commits += 1
            self.counts.units += len(units)
        except TowpathError as error:
            results = [error] * len(units)
            if error.code == "E_DISK_IO":
                # An fsync that failed must not be tried again: the kernel may have dropped the pages.
                self._break(error)
        for unit, error in zip(units, results, strict=True):
            if unit.done.done():
                continue  # the caller went away; what it asked for stands
            if error is None:
                unit.done.set_result(None)
            else:
                unit.done.set_exception(error)

    def _break(self, error: TowpathError) -> None:
        self._broken = error
        queue, self._queue = self._queue, []
        for unit in queue:
            if not unit.done.done():
                unit.done.set_exception(error)

    async def _on_writer(self, function: Callable[[sqlite3.Connection], T]) -> T:
        return await self._run(self._writer, function)

    async def _run(self, held: _Held, function: Callable[[sqlite3.Connection], T]) -> T:
        job = _Job(function)
        try:
            await held.raw.executemany("", job)
        except sqlite3.Error as error:
            raise database_error(error, self.path) from error
        return job.result  # type: ignore[return-value]

    # ---- sessions and reading

    async def read(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Run a reading function on a reading connection's thread, seeing one snapshot per statement."""
        held = await self._readers.get()
        try:
            return await self._run(held, function)
        finally:
            self._readers.put_nowait(held)

    async def rows(self, statement: tuple[str, Sequence[Any]]) -> list[Row]:
        """The rows of a compiled select as dicts, in one hop."""
        return await self.read(lambda c: _rows(c.execute(*statement)))

    async def write(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Run a function inside one write transaction on the writer's thread."""
        async with self._writing:
            with anyio.CancelScope(shield=True):
                return await self._on_writer(lambda c: in_transaction(c, function))

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
    """One transaction. CRUD functions take it first and never commit; the `async with` around it does."""

    _database: Database
    files: StoredFiles
    _writing: bool = False
    queries: int = field(default=0)

    async def execute(self, statement: sa.sql.expression.ClauseElement) -> int:
        """Run a writing statement; the number of rows it touched."""
        await self.begin()
        sql, values = Statement(statement)()
        self.queries += 1
        return await self._database._on_writer(lambda c: c.execute(sql, values).rowcount)

    async def fetch_all(self, statement: sa.sql.expression.ClauseElement) -> list[Row]:
        """The rows of a select (or of a statement with RETURNING) as dicts by column name."""
        if not isinstance(statement, sa.sql.Select | sa.sql.CompoundSelect):
            await self.begin()
        sql, values = Statement(statement)()
        self.queries += 1
        if self._writing:
            return await self._database._on_writer(lambda c: _rows(c.execute(sql, values)))
        return await self._database.rows((sql, values))

    async def fetch_one(self, statement: sa.sql.expression.ClauseElement) -> Row | None:
        """The first row of a select, or None."""
        rows = await self.fetch_all(statement)
        return rows[0] if rows else None

    async def begin(self) -> None:
        """Take the write lock now, so that what is read next cannot change before it is written."""
        if self._writing:
            return
        database, task = self._database, asyncio.current_task()
        if database._session_task is task:
            raise StoreFailed(
                "E_SESSION_NESTED",
                "a second writing session inside the first one would wait for itself",
                cure="use one session, or end the first before the second writes",
            )
        await database._writing.acquire()
        database._session_task = task
        self._writing = True
        try:
            await database._on_writer(lambda c: c.execute("BEGIN IMMEDIATE"))
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._end("ROLLBACK")
            raise

    async def _end(self, how: str) -> None:
        if not self._writing:
            return
        try:
            await self._database._on_writer(lambda c: _end(c, how))
        finally:
            self._writing = False
            self._database._session_task = None
            self._database._writing.release()


def _end(connection: sqlite3.Connection, how: str) -> None:
    if connection.in_transaction:
        try:
            connection.execute(how)
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def _rows(cursor: sqlite3.Cursor) -> list[Row]:
    names = [column[0] for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


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


def record_batch(connection: sqlite3.Connection, units: Sequence[Unit]) -> Sequence[Exception | None]:
    """Record units in one transaction; one result per unit.

    Most batches are free of refusals and run straight through. When a unit is refused the batch is rolled
    back and run again unit by unit behind savepoints, so that only the refused ones fail.
    """
    try:
        return in_transaction(connection, lambda c: _record_straight(c, units))
    except (
        sqlite3.IntegrityError,
        sqlite3.ProgrammingError,
        sqlite3.InterfaceError,
        OverflowError,
        TowpathError,
    ):
        return in_transaction(connection, lambda c: [_record_alone(c, unit) for unit in units])


def _record_straight(connection: sqlite3.Connection, units: Sequence[Unit]) -> Sequence[None]:
    asked: set[tuple[Any, ...]] = set()
    for unit in units:
        guard = unit.guard
        if guard is not None and guard.key not in asked:
            _ask(connection, guard)
            asked.add(guard.key)
        _execute(connection, unit.writes)
    return [None] * len(units)


def _record_alone(connection: sqlite3.Connection, unit: Unit) -> Exception | None:
    connection.execute("SAVEPOINT unit")
    try:
        if unit.guard is not None:
            _ask(connection, unit.guard)
        _execute(connection, unit.writes)
    except (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError, OverflowError) as error:
        connection.execute("ROLLBACK TO unit")
        return database_error(error, Path("the database")) if isinstance(error, sqlite3.Error) else error
    except TowpathError as error:
        connection.execute("ROLLBACK TO unit")
        return error
    finally:
        connection.execute("RELEASE unit")
    return None


def _ask(connection: sqlite3.Connection, guard: Guard) -> None:
    if connection.execute(guard.sql, guard.values).fetchone() is None:
        raise guard.refuse()


def _execute(connection: sqlite3.Connection, writes: Sequence[Write]) -> None:
    execute = connection.execute
    for write in writes:
        cursor = execute(write.sql, write.values)
        if write.refuse is not None and cursor.rowcount != 1:
            raise write.refuse()


def _touch(path: Path) -> None:
    """Make the file, readable by its owner only, or find out now why that cannot be."""
    if path.is_dir():
        raise StoreFailed(
            "E_DB_PATH", "the store is a folder", found=path.name, cure="name a file, e.g. towpath.db"
        )
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except (FileNotFoundError, NotADirectoryError):
        raise StoreFailed(
            "E_DB_PATH", f"no folder {path.parent}", cure="create it, or name another --store"
        ) from None
    except PermissionError:
        raise StoreFailed(
            "E_DB_READONLY", f"{path.name} cannot be written", cure="check its permissions"
        ) from None
    except OSError as error:
        code = {28: "E_DISK_FULL", 30: "E_DB_READONLY"}.get(error.errno or 0, "E_DB_PATH")
        raise StoreFailed(code, f"{path.name} cannot be opened: {error.strerror}") from error
    if not path.stat().st_mode & 0o222:  # root may write it all the same, but somebody said not to
        raise StoreFailed("E_DB_READONLY", f"{path.name} is read-only", cure="check its permissions")
