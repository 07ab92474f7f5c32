"""A store that is only looked at, a write lock that somebody else holds, and ids that are given in part."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.machine import needs, without_the_power_of_root
from tests.raw_sql import raw
from towpath import StoreFailed, chain, open_engine, step
from towpath.store import listing
from towpath.store.runs import open_store
from towpath.store.sqlite.database import SqliteDatabase
from towpath.store.sqlite.errors import is_stopped

pytestmark = pytest.mark.anyio

HOLDER = """
import os, select, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
if sys.argv[2] == "stopped":
    os.kill(os.getpid(), signal.SIGSTOP)
select.select([sys.stdin], [], [], 60)
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@step
def one() -> bytes:
    return b"1"


@chain
def line() -> Any:
    return one()


@pytest.fixture
async def made(tmp_path: Path) -> Path:
    """A store with one run."""
    file = tmp_path / "place" / "s.db"
    file.parent.mkdir()
    async with open_engine(file) as engine:
        await engine.run(line, run_id="first-run")
    return file


@contextmanager
def held(file: Path, how: str = "running") -> Iterator[int]:
    """Another process holds the write lock, until the block is over or for a minute; its id.

    Whoever waits for the lock finds at the end of the block that the holder has gone.
    """
    command = [sys.executable, "-c", HOLDER, str(file), how]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            while how == "stopped" and not is_stopped(holder.pid):
                time.sleep(0.01)
            yield holder.pid
            assert holder.poll() is None, "somebody waited until the lock was let go"
        finally:
            holder.kill()


@pytest.mark.parametrize("how", ["running", "stopped"])
async def test_looking_waits_for_no_write_lock(made: Path, how: str) -> None:
    """Also where the holder is stopped and will never let go."""
    with held(made, how):
        async with open_engine(made, readonly=True, busy_timeout=90) as engine:
            assert [run["id"] for run in await engine.list_chains()] == ["first-run"]
            assert (await engine.snapshot("first-run")).status == "completed"
            assert await engine.store.find_ids("chains", "first") == ["first-run"]
            with pytest.raises(StoreFailed, match="E_DB_READONLY"):
                await engine.run(line)


async def test_opening_and_closing_wait_for_no_write_lock(made: Path) -> None:
    """Also where writing is meant, and was done: folding the log while closing is left to the next one."""
    opened = open_engine(made, busy_timeout=90)
    engine = await opened.__aenter__()
    await engine.run(line)
    with held(made):
        await opened.__aexit__(None, None, None)
        async with open_engine(made, busy_timeout=90):
            pass
    with closing(sqlite3.connect(made)) as database:
        assert database.execute("SELECT count(*) FROM chains").fetchone() == (2,)


WRITES: dict[str, Any] = {
    "run": lambda engine: engine.run(line),
    "start": lambda engine: engine.start(line),
    "run with an id": lambda engine: engine.run(line, run_id="second"),
    "rerun": lambda engine: engine.rerun("first-run"),
    "resume": lambda engine: engine.resume("open"),
    "cancel": lambda engine: engine.cancel("open"),
    "pause": lambda engine: engine.pause("open"),
    "a function of the seed": lambda engine: engine.create_chain("x"),
}


@pytest.mark.parametrize("how", ["running", "stopped"])
@pytest.mark.parametrize("what", WRITES)
async def test_a_held_lock_is_waited_for_once(made: Path, what: str, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """E_DB_BUSY after one whole `busy_timeout`: how long each attempt at the lock may wait is counted, not timed."""
    async with open_engine(made) as engine:
        await engine.create_chain("open", id="open")
    with closing(sqlite3.connect(made)) as database, database:  # a run that can be gone on with
        database.execute(
            "UPDATE chains SET chain_definition = (SELECT chain_definition FROM chains WHERE id = 'first-run')"
            " WHERE id = 'open'"
        )
    waits: list[int] = []
    carefully = SqliteDatabase._carefully

    def counted(self: SqliteDatabase, connection: sqlite3.Connection, function: Any) -> Any:
        waiting = connection.execute("PRAGMA busy_timeout").fetchone()[0]
        try:
            return carefully(self, connection, function)
        except StoreFailed as error:
            if error.code == "E_DB_BUSY":
                waits.append(waiting)
            raise

    monkeypatch.setattr("towpath.store.sqlite.database.IMPATIENT_MS", 1)
    monkeypatch.setattr(SqliteDatabase, "_carefully", counted)
    with held(made, how) as pid, pytest.raises(StoreFailed) as caught:
        async with open_engine(made, busy_timeout=0.2) as engine:
            await WRITES[what](engine)
    assert caught.value.code == "E_DB_BUSY"
    assert waits.count(200) == 1, waits
    if sys.platform == "linux":
        assert f"process {pid}" in str(caught.value)
        assert ("which is stopped" in str(caught.value)) == (how == "stopped")
        assert (f"kill -CONT {pid}" in str(caught.value)) == (how == "stopped")


async def test_a_run_that_loses_the_lock_on_its_way_waits_for_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recording fails after the whole time; letting go of the run, and closing, wait no further while."""
    file, holders, waits = tmp_path / "s.db", [], []
    carefully = SqliteDatabase._carefully

    def counted(self: SqliteDatabase, connection: sqlite3.Connection, function: Any) -> Any:
        waiting = connection.execute("PRAGMA busy_timeout").fetchone()[0]
        try:
            return carefully(self, connection, function)
        except StoreFailed:
            waits.append(waiting)
            raise

    @step
    def takes_the_lock() -> None:
        holder = held(file)
        holder.__enter__()
        holders.append(holder)

    @chain
    def taking() -> Any:
        return takes_the_lock()

    monkeypatch.setattr("towpath.store.sqlite.database.IMPATIENT_MS", 1)
    monkeypatch.setattr(SqliteDatabase, "_carefully", counted)
    try:
        with pytest.raises(StoreFailed, match="E_DB_BUSY"):
            async with open_engine(file, busy_timeout=0.2) as engine:
                await engine.run(taking)
    finally:
        for holder in holders:
            holder.__exit__(None, None, None)
    assert waits[0] == 200
    assert set(waits[1:]) == {1}


async def test_who_waited_in_vain_waits_again_once_the_lock_was_had(made: Path) -> None:
    """The short patience ends with the trouble."""
    async with open_store(made, busy_timeout=0.1) as store:
        with held(made), pytest.raises(StoreFailed, match="E_DB_BUSY"):
            await raw(store, "SELECT 1")
        await raw(store, "SELECT 1")
        (asked,) = await raw(store, "PRAGMA busy_timeout")
        assert asked["timeout"] == 100


# ---- without permission to write

LOOK = """
import anyio, sys
from towpath import StoreFailed, open_engine
async def look():
    try:
        async with open_engine(sys.argv[1], readonly=True) as engine:
            print([run["id"] for run in await engine.list_chains()], (await engine.snapshot("first-run")).status)
    except StoreFailed as error:
        print(error.code)
    try:
        async with open_engine(sys.argv[1]) as engine:
            print("opened to write")
    except StoreFailed as error:
        print(error.code)
anyio.run(look)
"""


def look(file: Path) -> list[str]:
    """What a process without root's power sees in a store."""
    done = subprocess.run(
        [sys.executable, "-c", LOOK, str(file)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=without_the_power_of_root,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def _mode(path: Path, mode: int) -> None:
    path.chmod(mode)


SEEN = "['first-run'] completed"


@pytest.mark.parametrize("kind", ["file", "folder", "both", "log left behind", "log and index", "empty log"])
async def test_a_store_that_cannot_be_written_can_be_looked_at(made: Path, kind: str) -> None:
    """Writing is refused at the door; what can be read is read, and what cannot be is said."""
    needs("permissions")
    expected = SEEN
    log, index = made.with_name("s.db-wal"), made.with_name("s.db-shm")
    if kind in ("log left behind", "log and index"):
        _leave_a_log(made, log, index)
        if kind == "log left behind":  # what was written last can only be read where an index can be made
            index.unlink()
            expected = "E_DB_READONLY"
    if kind == "empty log":
        log.touch()
    _mode(made, 0o600 if kind == "folder" else 0o444)
    _mode(made.parent, 0o755 if kind == "file" else 0o555)
    try:
        assert look(made) == [expected, "E_DB_READONLY"]
    finally:
        _mode(made.parent, 0o755)


def _leave_a_log(file: Path, log: Path, index: Path) -> None:
    """As a process that was killed leaves it: written, and not folded in."""
    with closing(sqlite3.connect(file, isolation_level=None)) as database:
        database.execute("PRAGMA wal_autocheckpoint=0")
        database.execute("UPDATE chains SET description = 'changed'")
        kept = log.read_bytes(), index.read_bytes()
    log.write_bytes(kept[0])
    index.write_bytes(kept[1])


async def test_a_store_that_is_not_there_yet_is_made(tmp_path: Path) -> None:
    """Looking at nothing shows nothing."""
    async with open_engine(tmp_path / "new.db", readonly=True) as engine:
        assert await engine.list_chains() == []


# ---- ids in part


@pytest.fixture
async def crowded(made: Path) -> Path:
    """More runs than any list shows; the oldest one has an id of its own kind."""
    with closing(sqlite3.connect(made)) as database, database:
        database.execute("UPDATE chains SET started_at = 1 WHERE id = 'first-run'")
        columns = "name status current_level epoch started_at created_at updated_at chain_definition".replace(" ", ", ")
        database.executemany(
            f"INSERT INTO chains (id, {columns}) SELECT ?, {columns.replace('started_at', '?', 1)} FROM chains"
            " WHERE id = 'first-run'",
            [(f"{n:08d}-aaaa-%_-{n:08d}", n + 10) for n in range(10_500)],
        )
    return made


@pytest.mark.parametrize(
    ("part", "found"),
    [
        ("first-run", 1),  # the whole id of the oldest
        ("first", 1),  # its beginning, behind 10,500 newer rows
        ("-run", 1),  # its end
        ("FIRST", 1),  # ids are typed by people
        ("00000042-aaaa", 1),
        ("%_-00000042", 1),  # signs of a LIKE pattern are themselves
        ("%run", 0),
        ("____-run", 0),
        ("0000", 6),  # several, of which a few are enough to say so
        ("run", 0),  # three characters are no part of an id
        ("", 0),
        ("irst-ru", 0),  # the middle is neither end
        ("\\", 0),
        ("'; DROP TABLE chains; --", 0),
        ("first-run\x00", 0),
    ],
)
async def test_a_part_of_an_id_is_looked_for_in_the_whole_store(crowded: Path, part: str, found: int) -> None:
    """One query, whatever is asked."""
    async with open_store(crowded, readonly=True) as store:
        async with store.session() as session:
            ids = await listing.find_ids(session, "chains", part)
            assert session.queries == 1
        assert len(ids) == found
        assert found != 1 or part.lower().strip("%_-") in ids[0]


async def test_a_whole_id_is_found_even_where_it_ends_others(made: Path) -> None:
    async with open_engine(made) as engine:
        for name in ("xxfirst-run", "first-runxx"):
            await engine.create_chain("x", id=name)
        assert await engine.store.find_ids("chains", "first-run") == ["first-run"]
        assert len(await engine.store.find_ids("chains", "first-ru")) == 2


@pytest.mark.parametrize("what", ["chains", "artifacts", "approvals"])
async def test_every_kind_of_id_may_be_given_in_part(made: Path, what: str) -> None:
    async with open_engine(made, readonly=True) as engine:
        rows = await engine.list_artifacts() if what == "artifacts" else await engine.list_chains()
        wanted = rows[0]["id"] if what != "approvals" else "nothing waits"
        assert await engine.store.find_ids(what, wanted[-8:]) == ([wanted] if what != "approvals" else [])


def test_a_signal_tells_a_stopped_process_from_a_running_one() -> None:
    """And neither from one that is gone."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert not is_stopped(process.pid)
        process.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + 30
        while not is_stopped(process.pid) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert is_stopped(process.pid)
        process.kill()
    assert not is_stopped(process.pid)
