# ruff: noqa: PT012, ASYNC240 - sessions end with their block; the files looked at are tiny
"""What only a store in a SQLite file can do wrong, with and without fsync."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
import sqlalchemy as sa
from blockbuster import blockbuster_ctx

from tests.conformance.records import LAG, a_run, a_step, a_version, a_workflow, at_once, count, lag_during, refused
from tests.machine import needs
from tests.raw_sql import query
from tests.store.conftest import sqlite
from towpath import store as api
from towpath.errors import FeatureMissing, InputInvalid, StoreFailed
from towpath.events import ChainEnded, ChainPaused, Fact, LogKept, StepDropped, StepReady
from towpath.model import ChainStatus, StepStatus
from towpath.store import RunStore, fsck, get_session, init_db, open_store
from towpath.store.backend import write
from towpath.store.sqlite import connection as connection_module
from towpath.store.tables import metadata

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["full", "normal"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RunStore]:
    async with sqlite(tmp_path, durability=request.param) as opened:
        yield opened
        report = await fsck(opened)
        assert report.problems == (), str(report)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "towpath.db"


def plain(file: Path, *statements: str) -> list[Any]:
    """What another program does with the database: foreign keys on, nothing else of ours."""
    connection = sqlite3.connect(file, isolation_level=None)
    try:
        connection.execute("PRAGMA foreign_keys=ON")
        return [connection.execute(statement).fetchall() for statement in statements][-1]
    finally:
        connection.close()


async def whole(file: Path) -> None:
    async with open_store(file) as store:
        report = await fsck(store)
        assert report.problems == (), str(report)


@contextmanager
def holding_the_lock(file: Path) -> Iterator[int]:
    """Another process has said BEGIN IMMEDIATE; its pid."""
    script = f"""
import sqlite3, sys, time
c = sqlite3.connect({str(file)!r}, isolation_level=None)
c.execute("BEGIN IMMEDIATE")
print("held", flush=True)
time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process.pid
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


# ---- S1.1 and S1.6: what the file holds

SEED = {
    "chains": "id name description temporal_workflow_id temporal_run_id status current_level started_at completed_at "
    "error_message chain_definition created_at updated_at",
    "workflows": "id chain_id step_id workflow_name server_address prompt_id temporal_workflow_id temporal_run_id "
    "status latest_artifact_id queued_at started_at completed_at error_message workflow_definition parameters "
    "created_at updated_at",
    "artifacts": "id workflow_id filename local_filename local_path file_type file_format file_size node_id subfolder "
    "comfy_folder_type version is_latest parent_artifact_id approval_status approved_by approved_at rejection_reason "
    "extra_metadata created_at updated_at",
    "artifact_transfers": "id artifact_id source_workflow_id target_workflow_id target_server target_subfolder status "
    "uploaded_at error_message created_at",
    "approvals": "id workflow_id chain_id step_id status requested_at decided_at decided_by created_at updated_at",
}
CASCADES = {
    ("workflows", "chain_id", "chains", "CASCADE"),
    ("artifacts", "workflow_id", "workflows", "CASCADE"),
    ("artifacts", "parent_artifact_id", "artifacts", "SET NULL"),
    ("artifact_transfers", "artifact_id", "artifacts", "CASCADE"),
    ("artifact_transfers", "source_workflow_id", "workflows", "CASCADE"),
    ("artifact_transfers", "target_workflow_id", "workflows", "CASCADE"),
    ("approvals", "workflow_id", "workflows", "CASCADE"),
    ("workflows", "latest_artifact_id", "artifacts", "NO ACTION"),
}


async def test_S1_1_the_file_has_the_seeds_columns_keys_and_indexes(file: Path) -> None:
    await init_db(file)
    keys = set()
    for table in metadata.tables:
        columns = {row[1] for row in plain(file, f"PRAGMA table_info({table})")}
        missing = set(SEED.get(table, "").split()) - columns
        assert not missing, f"{table} lacks {missing}"
        for row in plain(file, f"PRAGMA foreign_key_list({table})"):
            keys.add((table, row[3], row[2], row[6]))
    assert keys >= CASCADES
    unique = {row[0]: row[1] for row in plain(file, "SELECT name, sql FROM sqlite_master WHERE sql LIKE '% UNIQUE %'")}
    assert "WHERE is_latest = 1" in unique["one_latest"]
    assert "WHERE status = 'pending'" in unique["one_pending"]
    assert "coalesce(item_index, -1)" in unique["uq_workflows_chain_id_step_id_item_index"]


async def test_S1_1_every_foreign_key_is_found_by_an_index(file: Path) -> None:
    """Else each deleted row costs a look at every row of the other table."""
    await init_db(file)
    for table in metadata.tables:
        for row in plain(file, f"PRAGMA foreign_key_list({table})"):
            if row[3] in ("id", "latest_artifact_id"):  # the one key of two columns; `id` is the primary key
                continue
            plan = plain(file, f"EXPLAIN QUERY PLAN SELECT 1 FROM {table} WHERE {row[3]} = 'x'")
            assert "SEARCH" in plan[0][3], f"{table}.{row[3]}: {plan}"


async def test_S1_6_a_plain_client_deletes_all_of_a_chain_and_makes_no_orphans(file: Path) -> None:
    async with open_store(file) as store:
        workflow = await a_workflow(store)
        artifact = await a_version(store, workflow)
        async with store.session() as session:
            await api.create_transfer(session, artifact.id, workflow, "gpu-1")
            await api.create_approval(session, workflow, [artifact.id])
    with pytest.raises(sqlite3.IntegrityError):
        plain(file, "INSERT INTO workflows SELECT * FROM workflows", "SELECT 1")
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        plain(file, f"DELETE FROM artifacts WHERE id = '{artifact.id}'")  # the pointer would dangle
    plain(file, "DELETE FROM chains")
    for table in ("workflows", "artifacts", "artifact_transfers", "approvals"):
        assert plain(file, f"SELECT count(*) FROM {table}") == [(0,)]
    await whole(file)


async def test_S1_6_deleting_a_long_chain_is_quick(store: RunStore) -> None:
    lease = await a_run(store)
    facts = [StepReady(store.new_id(), f"s{i}", None, "mod:a", started=True, attempt=1) for i in range(5000)]
    await store.record(lease, facts)
    async with store.session() as session:
        await session.execute(
            sa.text(
                "INSERT INTO approvals (id, chain_id, workflow_id, status, artifact_ids, policy, requested_at,"
                " decided_at, created_at, updated_at)"
                " SELECT 'a' || id, chain_id, id, 'approved', '[]', '{}', 1, 1, 1, 1 FROM workflows"
            )
        )
    start = time.process_time()
    async with store.session() as session:
        await api.delete_chain(session, lease.run_id)
    assert time.process_time() - start < 2
    assert await count(store, "approvals") == 0


# ---- S3: where the store is


async def test_S3_1_the_file_is_made_on_first_use_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("TOWPATH_STORE", "DATABASE_URL", "TOWPATH_BLOBS"):
        monkeypatch.delenv(name, raising=False)

    async def made(name: str, url: str | None = None) -> None:
        assert not Path(name).exists()
        async with get_session(url) as session:
            await api.create_chain(session, name)
        assert Path(name).stat().st_mode & 0o777 == 0o600
        async with get_session(url) as session:
            assert [chain.name for chain in await api.list_chains(session)] == [name]

    await made("towpath.db")
    monkeypatch.setenv("DATABASE_URL", "sqlite:///by-url.db")
    await made("by-url.db")
    monkeypatch.setenv("TOWPATH_STORE", "by-name.db")
    await made("by-name.db")
    await made("by-argument.db", "sqlite:///by-argument.db")
    with pytest.raises(FeatureMissing, match=r"towpath\[postgres\]"):
        await init_db("postgresql://user:secret@host/db")
    with pytest.raises(InputInvalid, match="E_STORE_URL"):
        await init_db("mysql://host/db")


async def test_an_address_with_options_and_a_link_to_nothing_say_what_they_are(tmp_path: Path) -> None:
    """python-trial 25: `sqlite:///a?b.db` made a file `a`, and a link was called a file without permissions."""
    for options in ("?mode=ro", "?", "?b.db"):
        with pytest.raises(InputInvalid, match="E_STORE_URL") as refused:
            await init_db(f"sqlite:///{tmp_path}/a{options}")
        assert "leave them out" in str(refused.value)
    odd = tmp_path / "a?b.db"
    await init_db(odd)
    assert [path.name for path in tmp_path.iterdir()] == [odd.name]
    link = tmp_path / "link.db"
    link.symlink_to(tmp_path / "away/towpath.db")
    with pytest.raises(StoreFailed, match=r"(?s)E_DB_PATH.*make the folder and the file"):
        await init_db(link)
    (tmp_path / "away").mkdir()
    (tmp_path / "away/towpath.db").touch()
    await init_db(link)
    await whole(link)


async def test_S3_2_init_db_twice_is_harmless(file: Path) -> None:
    await init_db(f"sqlite:///{file}")
    async with get_session(file) as session:
        await api.create_chain(session, "kept")
    await init_db(file)
    await asyncio.gather(*(init_db(file) for _ in range(5)))
    async with get_session(file) as session:
        assert len(await api.list_chains(session)) == 1
    with pytest.raises(ZeroDivisionError):
        async with get_session(file) as session:
            await api.create_chain(session, "rolled back")
            raise ZeroDivisionError
    async with get_session(file) as session:
        assert len(await api.list_chains(session)) == 1
    await whole(file)


def test_S3_2_all_names_are_there_and_sorted() -> None:
    assert api.__all__ == sorted(api.__all__)
    assert all(hasattr(api, name) for name in api.__all__)


@pytest.mark.parametrize(
    "name", ["a b.db", "a?b.db", "a#b.db", "a%41.db", "ü.db", "a@b:1.db", "x.y.z", "[x.db", "'.db"]
)
async def test_a_store_is_where_its_name_says(tmp_path: Path, name: str) -> None:
    async with open_store(tmp_path / name) as store:
        await a_workflow(store)
    found = sorted(path.name for path in tmp_path.iterdir() if path.is_file())
    assert found == [name]
    assert plain(tmp_path / name, "SELECT count(*) FROM chains") == [(1,)]


async def test_S3_4_no_call_blocks_the_loop(file: Path) -> None:
    async with open_store(file) as store:
        with blockbuster_ctx():
            lease = await a_run(store)
            await a_step(store, lease)
            workflow = await a_workflow(store)
            await a_version(store, workflow, b"x" * 50_000)
            assert (await fsck(store)).problems == ()


# ---- many processes, many connections


async def test_R09_four_processes_of_50_versions_each(file: Path) -> None:
    async with open_store(file) as store:
        workflow = await a_workflow(store)
    script = """
import anyio, sys
from pathlib import Path
from towpath.store import create_artifact, open_store
async def main():
    async with open_store(Path(sys.argv[1]), durability="normal") as store, anyio.create_task_group() as tasks:
        async def writer(n):
            for i in range(25):
                async with store.session() as session:
                    await create_artifact(session, sys.argv[2], data=f"{sys.argv[3]} {n} {i}".encode())
        for n in range(2):
            tasks.start_soon(writer, n)
anyio.run(main)
"""
    command = [sys.executable, "-c", script, str(file), workflow]
    processes = [await anyio.open_process([*command, str(n)], stderr=None) for n in range(4)]
    assert [await process.wait() for process in processes] == [0] * 4
    async with open_store(file) as store, store.session() as session:
        rows = await api.get_artifacts_by_workflow(session, workflow, include_old_versions=True)
    assert [row.version for row in rows] == list(range(200, 0, -1))
    assert [row.version for row in rows if row.is_latest] == [200]
    await whole(file)


async def test_a_second_store_in_one_process_does_not_take_the_locks_of_the_first(file: Path) -> None:
    """Closing any descriptor of the file would: then another process deletes the log that is in use."""
    async with open_store(file) as first:
        await a_workflow(first)
        async with open_store(file):
            pass
        await anyio.run_process(
            [
                sys.executable,
                "-c",
                f"import sqlite3; sqlite3.connect({str(file)!r}).execute('SELECT count(*) FROM chains').fetchall()",
            ]
        )
        assert file.with_name("towpath.db-wal").exists()
        await a_workflow(first)
        assert plain(file, "SELECT count(*) FROM chains") == [(2,)]
    await whole(file)


async def test_R17_after_many_cancellations_another_process_writes_and_no_thread_is_left(file: Path) -> None:
    async with open_store(file, durability="normal") as store:
        for i in range(100):
            with anyio.move_on_after(i % 10 * 0.0003):
                await a_workflow(store)
        plain(file, "INSERT INTO schema_version VALUES (0, 0)", "DELETE FROM schema_version WHERE version = 0")
        await a_workflow(store)
        ours = [thread for thread in threading.enumerate() if "_connection_worker" in thread.name]
        assert len(ours) == 3
    await whole(file)
    for thread in ours:
        thread.join(5)
        assert not thread.is_alive()


# ---- the writer


async def test_a_thousand_queued_units_are_a_few_commits(store: RunStore) -> None:
    lease = await a_run(store)
    before = store.database.counts.commits
    works = [store.record(lease, [LogKept(await a_step(store, lease, f"s{i}"), 1, "x")]) for i in range(3)]
    works += [
        store.record(lease, [StepDropped(store.new_id(), f"t{i}", None, "m", StepStatus.SKIPPED, "")])
        for i in range(1000)
    ]
    before = store.database.counts.commits
    assert set(await at_once(works)) == {None}
    assert store.database.counts.commits - before < 20


async def test_what_is_queued_is_written_before_the_store_closes(file: Path) -> None:
    with anyio.fail_after(60):
        async with open_store(file) as store:
            lease = await a_run(store)
            done = [
                store.database.submit([write(query("INSERT INTO schema_version VALUES (?, 0)", -i))])
                for i in range(1, 4)
            ]
            last = asyncio.ensure_future(
                store.record(lease, [StepDropped("r", "a", None, "m", StepStatus.SKIPPED, "")])
            )
            await asyncio.sleep(0)
    await asyncio.gather(*done, last)
    assert plain(file, "SELECT count(*) FROM schema_version") == [(4,)]


async def test_a_closed_store_says_so(file: Path) -> None:
    async with open_store(file) as store:
        workflow = await a_workflow(store)
    for work in (store.load("x"), store.claim("x"), a_version(store, workflow), store.renew([])):
        await refused(work, "E_DB_CLOSED")


@pytest.mark.parametrize("end", [ChainEnded(ChainStatus.FAILED), ChainPaused("requested")], ids=["over", "paused"])
async def test_a_run_that_was_let_go_is_not_owned_again_by_a_late_renewal(file: Path, end: Fact) -> None:
    async with open_store(file) as store:
        lease = await a_run(store)
        await store.record(lease, [end])
        assert await store.renew([lease]) == []  # nobody took it over
    assert plain(file, "SELECT owner FROM chains") == [(None,)]


@pytest.mark.parametrize("way", ["session", "submit", "write"])
async def test_R07_another_process_holds_the_lock(file: Path, way: str) -> None:
    async with open_store(file, busy_timeout=0.5) as store:
        lease = await a_run(store)
        ways: dict[str, Callable[[], Any]] = {
            "session": lambda: a_workflow(store),
            "submit": lambda: store.record(lease, [LogKept("x", 1, "x")]),
            "write": lambda: store.renew([lease]),
        }
        with holding_the_lock(file) as pid:

            async def waits() -> None:
                with pytest.raises(StoreFailed) as caught:
                    await ways[way]()
                assert caught.value.code == "E_DB_BUSY"
                assert caught.value.retryable
                assert f"process {pid} has held" in str(caught.value)

            assert await lag_during(waits) < LAG
            assert (await store.load(lease.run_id)).id == lease.run_id  # reading goes on
        await a_workflow(store)
        await store.renew([lease])
    await whole(file)


async def test_R07_a_lock_that_is_let_go_in_time_is_waited_for(file: Path) -> None:
    async with open_store(file, busy_timeout=60) as store:
        with holding_the_lock(file):
            written = asyncio.create_task(a_workflow(store))
            await anyio.sleep(0.3)
            assert not written.done()
        await written
    await whole(file)


# ---- the disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    needs("mount")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("way", ["session", "submit", "blob"])
async def test_R06_a_full_disk_loses_nothing_and_the_store_goes_on_when_there_is_space(
    small_disk: Path, way: str
) -> None:
    file, ballast = small_disk / "towpath.db", small_disk / "ballast"
    ballast.write_bytes(b"x" * 300_000)
    async with open_store(file) as store:
        lease = await a_run(store)
        workflow = await a_workflow(store)
        recorded = 0

        async def fill() -> None:
            nonlocal recorded
            for i in range(2000):
                if way == "submit":
                    await store.record(lease, [StepReady(f"r{i}", f"s{i}", None, "m", True, 1, {"x": "y" * 5000})])
                else:
                    await a_version(store, workflow, os.urandom(50_000 if way == "blob" else 10_000))
                recorded = i + 1

        with pytest.raises(StoreFailed) as caught:
            await fill()
        assert caught.value.code == "E_DISK_FULL", str(caught.value)
        assert "towpath resume" in caught.value.problem.cure
        ballast.unlink()
        await a_version(store, workflow, b"goes on")
        await store.record(lease, [StepDropped(store.new_id(), "last", None, "m", StepStatus.SKIPPED, "")])
        async with store.session() as session:
            kept = await api.get_artifacts_by_workflow(session, workflow, include_old_versions=True)
        assert len(kept) == 1 + (0 if way == "submit" else recorded)
        assert len((await store.load(lease.run_id)).rows) == 1 + (recorded if way == "submit" else 0)
        report = await fsck(store)
        assert report.problems == (), str(report)


@pytest.mark.parametrize("way", ["session", "submit", "write"])
async def test_R05_an_error_of_the_disk_stops_all_writing(file: Path, way: str) -> None:
    """An fsync that failed is not tried again. What was recorded before is there when the store is opened anew."""
    async with open_store(file) as store:
        lease = await a_run(store)
    with pytest.MonkeyPatch.context() as patch:
        broken = {"now": False}

        class Breaking(connection_module._Connection):
            def execute(self, sql: str, *more: Any) -> sqlite3.Cursor:
                if sql == "COMMIT" and broken["now"]:
                    broken["now"] = False
                    error = sqlite3.OperationalError("disk I/O error")
                    error.sqlite_errorname = "SQLITE_IOERR_FSYNC"
                    raise error
                return super().execute(sql, *more)

        patch.setattr(connection_module, "_Connection", Breaking)
        async with open_store(file) as store:
            broken["now"] = True
            works: dict[str, Callable[[], Any]] = {
                "session": lambda: a_workflow(store),
                "submit": lambda: store.record(lease, [LogKept("x", 1, "x")]),
                "write": lambda: store.renew([lease]),
            }
            if way == "submit":  # with rows of its own, so that it is the commit that fails
                works["submit"] = lambda: store.record(
                    lease, [StepDropped("r", "s", None, "m", StepStatus.SKIPPED, "")]
                )
            for work in (works[way], *works.values()):
                await refused(work(), "E_DISK_IO")
            assert (await store.load(lease.run_id)).rows == ()
    await whole(file)


async def test_R01_killed_at_any_moment_what_was_acknowledged_is_there(file: Path) -> None:
    script = """
import anyio, os, sys
from pathlib import Path
from towpath.store import create_artifact, create_chain, create_workflow, open_store
async def main():
    async with open_store(Path(sys.argv[1])) as store, anyio.create_task_group() as tasks:
        async def writer(n):
            for i in range(10_000):
                async with store.session() as session:
                    chain = await create_chain(session, "demo")
                    row = await create_workflow(session, "a", chain_id=chain.id, step_id="a")
                    made = await create_artifact(session, row.id, data=os.urandom(20_000 if i % 3 else 100))
                print(made.id, flush=True)
        for n in range(4):
            tasks.start_soon(writer, n)
anyio.run(main)
"""
    told: set[str] = set()
    for lines, wait in ((1, 0.05), (4, 0.1), (8, 0.2)):
        process = subprocess.Popen([sys.executable, "-c", script, str(file)], stdout=subprocess.PIPE)  # noqa: ASYNC220
        assert process.stdout is not None
        told |= {process.stdout.readline().decode().strip() for _ in range(lines)}
        await anyio.sleep(wait)
        process.send_signal(signal.SIGKILL)
        told |= {line.decode().strip() for line in process.stdout if line.endswith(b"\n")}
        process.stdout.close()
        assert process.wait() == -signal.SIGKILL
        await whole(file)
    found = {row[0] for row in plain(file, "SELECT id FROM artifacts")}
    assert len(told) > 10
    assert told <= found


async def test_fifty_readers_want_the_same_small_file_at_once(store: RunStore) -> None:
    lease = await a_run(store)
    del lease
    workflow = await a_workflow(store)
    await a_version(store, workflow, b"small")
    (row,) = await store.latest_artifacts(workflow)
    paths = await at_once([store.files.path(row) for _ in range(50)])
    assert {path.read_bytes() for path in paths} == {b"small"}
    assert [p.name for p in paths[0].parent.iterdir()] == [paths[0].name]


async def test_a_chain_without_a_plan_is_refused_when_it_is_loaded(store: RunStore) -> None:
    async with store.session() as session:
        chain = await api.create_chain(session, "demo")
    await refused(store.load(chain.id), "E_DB_VALUE")
