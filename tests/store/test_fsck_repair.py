"""What `fsck` repairs, what it removes, and what it leaves alone."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.to_thread import run_sync

from tests.conformance.records import a_run, a_version
from tests.store.test_fsck import DAMAGE, House, a_whole_run, house
from towpath import store as api
from towpath.store import fsck, open_store
from towpath.store.blobs import FileBlobs

__all__ = ["house"]

pytestmark = pytest.mark.anyio


async def test_no_latest_is_mended_with_the_highest_version(house: House) -> None:
    house.sql("UPDATE artifacts SET is_latest = 0", "UPDATE workflows SET latest_artifact_id = NULL")
    report = await house.report(repair=True)
    assert report.clean
    assert {(p.code, p.repaired) for p in report.problems} == {("E_FSCK_LATEST", True), ("E_FSCK_POINTER", True)}
    assert await house.codes() == set()
    latest = house.sql("SELECT name, version FROM artifacts WHERE is_latest ORDER BY name, version")
    assert latest == [("big", 1), ("output", 1), ("output", 2)]
    assert house.sql(f"SELECT latest_artifact_id FROM workflows WHERE id = '{house.row}'") == [(house.artifacts["v2"],)]


async def test_a_pointer_to_an_old_version_moves_to_the_latest_of_that_output(house: House) -> None:
    house.sql(f"UPDATE workflows SET latest_artifact_id = '{house.artifacts['v1']}' WHERE id = '{house.row}'")
    assert (await house.report(repair=True)).clean
    assert house.sql(f"SELECT latest_artifact_id FROM workflows WHERE id = '{house.row}'") == [(house.artifacts["v2"],)]
    assert await house.codes() == set()


async def test_what_needs_a_choice_is_left_alone(house: House) -> None:
    for kind in ("two latest", "version gap", "blob flipped", "status word", "parent circle"):
        DAMAGE[kind][0](house)
    before = sorted(p.code for p in (await house.report()).problems)
    dump = house.sql("SELECT id, version, is_latest, parent_artifact_id FROM artifacts ORDER BY id")
    after = await house.report(repair=True)
    assert sorted(p.code for p in after.problems) == before
    assert not any(problem.repaired for problem in after.problems if problem.code != "E_FSCK_POINTER")
    assert house.sql("SELECT id, version, is_latest, parent_artifact_id FROM artifacts ORDER BY id") == dump


async def test_a_deleted_version_explains_its_gap(house: House) -> None:
    async with open_store(house.file) as store:
        async with store.session() as session:
            assert await api.delete_artifact(session, house.artifacts["v1"])
        report = await fsck(store)
    assert report.problems == ()


async def test_a_value_whose_file_was_deleted_on_purpose_is_only_a_note(house: House) -> None:
    async with open_store(house.file) as store:
        async with store.session() as session:
            assert await api.delete_artifact(session, house.artifacts["big"])
        report = await fsck(store)
        assert report.problems == ()
        assert [note.code for note in report.notes] == ["E_FSCK_VALUE"]


async def test_orphans_are_removed_after_the_grace_time_only(house: House) -> None:
    async with open_store(house.file) as store:
        big = await store.files.keep(b"o" * 30_000)
        async with store.session() as session:
            await api.delete_chain(session, house.run)  # leaves its blob, and two contents in the database
        report = await fsck(store, repair=True)
        assert report.problems == ()  # young
        assert await store.files.blobs.exists(big.digest)
        report = await fsck(store, grace=0)
        assert [p.code for p in report.problems] == ["E_FSCK_ORPHAN"] * 2
        assert report.notes == ()  # the repair above took what has no age
        report = await fsck(store, grace=0, repair=True)
        assert report.clean
        assert [p.repaired for p in report.problems] == [True] * 2
        assert not await store.files.blobs.exists(big.digest)
        assert (await fsck(store, grace=0)).problems == ()


async def test_an_orphan_that_gets_its_row_meanwhile_is_kept(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_store(house.file) as store:
        kept = await store.files.keep(b"n" * 30_000)
        path = store.files.blobs.path(kept.digest)
        os.utime(path, (0, 0))
        real = store.database.write

        async def later(*asked: Any) -> Any:
            monkeypatch.undo()
            async with store.session() as session:
                await api.create_artifact(session, house.row, data=b"n" * 30_000, name="new")
            os.utime(path, (0, 0))
            return await real(*asked)

        monkeypatch.setattr(store.database, "write", later)
        report = await fsck(store, repair=True)
        assert [(p.code, p.repaired) for p in report.problems] == [("E_FSCK_ORPHAN", False)]
        assert await store.files.blobs.read(kept.digest) == b"n" * 30_000
        assert (await fsck(store)).problems == ()


async def test_an_orphan_that_is_kept_again_meanwhile_stays(house: House) -> None:
    async with open_store(house.file) as store:
        blobs = store.files.blobs
        kept = await store.files.keep(b"n" * 30_000)
        os.utime(blobs.path(kept.digest), (0, 0))
        await store.files.keep(b"n" * 30_000)  # a new time
        assert not blobs.collect(kept.digest, int(time.time() * 1e6) - 1_000_000)
        assert await blobs.read(kept.digest) == b"n" * 30_000
        assert list((blobs.root / "tmp").iterdir()) == []
        assert not blobs.collect("0" * 64, 0)


async def test_collecting_and_keeping_the_same_content_never_loses_it(tmp_path: Path) -> None:
    """The lock is the database's: no row names the content before the collector has let it go."""
    blobs, lock = FileBlobs(tmp_path / "blobs", durable=False), threading.Lock()
    data = b"contended" * 3000
    digest = hashlib.sha256(data).hexdigest()
    stop = anyio.Event()

    def collect() -> None:
        with lock:
            blobs.collect(digest, int(time.time() * 1e6) - 10_000_000)

    def look() -> bytes:
        with lock:
            return blobs.path(digest).read_bytes()

    async def collector() -> None:
        while not stop.is_set():
            await run_sync(collect)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(collector)
        for _ in range(300):
            with suppress(FileNotFoundError):
                os.utime(blobs.path(digest), (0, 0))  # forgotten long ago
            await blobs.put(data)
            assert await run_sync(look) == data
        stop.set()


async def test_leftovers_of_dead_writers_and_steps(house: House) -> None:
    folder = house.file.with_name("towpath-store")
    async with open_store(house.file) as store:
        lease = await a_run(store)
        alive = hashlib.sha256(lease.run_id.encode()).hexdigest()[:16]
        for name in (f"{alive}-a-0-1", "0123456789abcdef-a-0-1"):
            (folder / "work" / name).mkdir(parents=True)
            (folder / "work" / name / "scratch").write_bytes(b"x")
        (folder / "files" / "run").mkdir(parents=True)
        (folder / "files" / "run" / ".towpath-1.tmp").write_bytes(b"x")
        (folder / "blobs" / "tmp").mkdir(exist_ok=True)
        (folder / "blobs" / "tmp" / "1-abc").write_bytes(b"x")
        (folder / "blobs" / "notes.txt").write_bytes(b"mine")
        assert (await fsck(store, repair=True)).problems == ()
        report = await fsck(store, grace=0, repair=True)
        assert [(p.code, p.repaired) for p in report.problems] == [("E_FSCK_TEMP", True)] * 3
        assert [note.code for note in report.notes] == ["E_FSCK_FOREIGN"]
        assert [p.name for p in (folder / "work").iterdir()] == [f"{alive}-a-0-1"]
        assert (folder / "blobs" / "notes.txt").exists()
        assert (await fsck(store, grace=0)).problems == ()


async def test_a_run_of_a_dead_owner_is_a_note_with_its_cure(house: House) -> None:
    async with open_store(house.file) as store:
        lease = await a_run(store)
        assert (await fsck(store)).notes == ()
    dead = json.dumps({"host": os.uname().nodename, "boot": "another", "pid": 1, "started": 1})
    house.sql(f"UPDATE chains SET owner = '{dead}' WHERE id = '{lease.run_id}'")
    report = await house.report()
    assert report.problems == ()
    assert f"towpath resume {lease.run_id}" in report.notes[0].sentence


async def test_deep_reads_every_byte_and_shallow_only_sizes(house: House) -> None:
    DAMAGE["blob flipped"][0](house)
    assert await house.codes(deep=False) == set()
    assert await house.codes() == {"E_BLOB_CORRUPT"}


async def test_fsck_beside_writers_finds_nothing_wrong(house: House) -> None:
    async with open_store(house.file, durability="normal") as store, anyio.create_task_group() as tasks:

        async def writer(number: int) -> None:
            for i in range(20):
                await a_version(store, house.other_row, os.urandom(20_000), name=f"n{number}")
                if i % 5 == 4:
                    await a_whole_run(store)

        for number in range(4):
            tasks.start_soon(writer, number)
        for _ in range(10):
            report = await fsck(store, repair=True)
            assert report.problems == (), str(report)
    assert await house.codes() == set()
