"""A store of an older schema: it is migrated when it is opened, and everything in it works on."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.store.recorded_chains import RUNS
from towpath import Engine, open_engine
from towpath.errors import StoreFailed
from towpath.store import fsck, init_db, open_store
from towpath.store.schema import OLDEST, SCHEMA_VERSION
from towpath.store.sqlite.migrations import STEPS

pytestmark = pytest.mark.anyio

RECORDED = Path(__file__).with_name("recorded")


@pytest.fixture(params=range(OLDEST, SCHEMA_VERSION))
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A store as it was recorded by the towpath of that schema. Its process died in the run `interrupted`."""
    return recorded(request.param, tmp_path)


def recorded(version: int, folder: Path) -> Path:
    path, kept = folder / "towpath.db", RECORDED / f"schema-{version}"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript((kept / "towpath.sql").read_text())
    shutil.copytree(kept / "blobs", folder / "towpath-store" / "blobs")
    return path


def versions(path: Path) -> list[int]:
    with closing(sqlite3.connect(path)) as connection:
        return [row[0] for row in connection.execute("SELECT version FROM schema_version ORDER BY version")]


def shape(path: Path) -> dict[str, object]:
    """Columns by table (in any order), and the columns and the condition of each index."""
    with closing(sqlite3.connect(path)) as connection:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        columns = {
            name: sorted(row[1:] for row in connection.execute(f"PRAGMA table_xinfo({name})")) for name in tables
        }
        indexes = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL")
        return columns | {name: " ".join(sql.split()) for name, sql in indexes}


async def test_a_migrated_store_has_the_tables_of_a_new_one(old: Path, tmp_path: Path) -> None:
    before = versions(old)
    await init_db(old)
    await init_db(tmp_path / "new.db")
    assert shape(old) == shape(tmp_path / "new.db")
    assert versions(old) == [*range(before[0], SCHEMA_VERSION + 1)]
    async with open_store(old) as store:
        assert (await fsck(store)).problems == ()


async def test_recorded_runs_are_listed_shown_resumed_and_rerun(old: Path) -> None:
    async with open_engine(old) as engine:
        listed = {row.id: row.status for row in await engine.list_chains(inner=False)}
        expected = dict.fromkeys(RUNS, "completed")
        assert listed == expected | {"paused": "paused", "failed": "failed", "interrupted": "running"}
        shown = await engine.snapshot("completed")
        assert (shown["draw"].artifact.size, shown.value) == (40_000, 40_000)
        await _all_can_go_on(engine)


async def _all_can_go_on(engine: Engine) -> None:
    (gate,) = await engine.approvals("paused")
    await engine.approve(gate, by="ana")
    assert (await engine.resume("paused")).value == 100
    assert (await engine.resume("interrupted")).value == 6
    again = await engine.rerun("failed", inputs={"by": 2})
    assert (again["held"].status, again.value) == ("cached", 21)
    again = await engine.rerun("completed", from_steps=["measure"])
    assert (again["draw"].status, again.value) == ("cached", 40_000)
    assert (await engine.rerun("mapped")).value == 9
    assert (await engine.rerun("nested", inputs={"text": "pole "})).value == 31


async def test_a_store_that_is_only_read_says_how_it_is_migrated(old: Path) -> None:
    for _ in range(2):
        with pytest.raises(StoreFailed, match="E_SCHEMA_OLDER") as refused:
            async with open_engine(old, readonly=True):
                pass
        assert "fsck --repair" in refused.value.problems[0].cure
    assert SCHEMA_VERSION not in versions(old)
    await init_db(old)
    async with open_engine(old, readonly=True) as engine:
        assert len(await engine.list_chains()) == len(RUNS) + 1


async def test_a_migration_that_fails_leaves_the_old_schema_whole(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = shape(old)
    monkeypatch.setitem(STEPS, SCHEMA_VERSION, [*STEPS[SCHEMA_VERSION], "SELECT nothing"])
    with pytest.raises(StoreFailed):
        await init_db(old)
    assert shape(old) == before
    monkeypatch.undo()
    await init_db(old)
    assert versions(old)[-1] == SCHEMA_VERSION


def migrate_and_die(path: str, count: int) -> None:
    """In a process of its own: it is killed between two statements of the migration."""

    def killed_after() -> Iterator[str]:
        yield from statements[:count]
        os.kill(os.getpid(), signal.SIGKILL)

    statements = list(STEPS[SCHEMA_VERSION])
    STEPS[SCHEMA_VERSION] = killed_after()
    asyncio.run(init_db(path))


@pytest.mark.parametrize("count", range(len(list(STEPS[SCHEMA_VERSION])) + 1))
def test_a_process_killed_in_the_migration_leaves_the_old_schema_whole(tmp_path: Path, count: int) -> None:
    path = recorded(SCHEMA_VERSION - 1, tmp_path)
    before = shape(path)
    code = f"from tests.store.test_migrations import migrate_and_die; migrate_and_die({str(path)!r}, {count})"
    died = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert shape(path) == before
    asyncio.run(init_db(path))
    assert versions(path) == [SCHEMA_VERSION - 1, SCHEMA_VERSION]


def test_of_several_processes_one_migrates_and_the_others_wait(old: Path) -> None:
    code = f"import asyncio, towpath.store as s; asyncio.run(s.init_db({str(old)!r}))"
    opening = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(6)]
    for one in opening:
        _, err = one.communicate()
        assert one.returncode == 0, err
    assert versions(old)[-1] == SCHEMA_VERSION
