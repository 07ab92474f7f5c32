"""The corpus of damaged stores: each is found, refused or opened as the corpus says."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import pytest

from tests.conformance.records import PLAN, a_version
from tests.store.test_fsck import DAMAGE, House, house, rename_row
from towpath import store as api
from towpath.errors import RunRefused, StoreFailed
from towpath.events import StepReady
from towpath.ports import NewRun
from towpath.store import open_store

__all__ = ["house"]

pytestmark = pytest.mark.anyio
CORPUS = Path(__file__).parents[1] / "corpus" / "bad_inputs.json"
ITEMS = {item["id"]: item for item in json.loads(CORPUS.read_text())["groups"]["store"]["items"]}
Scenario = Callable[[House], Awaitable[None]]
SCENARIOS: dict[str, Scenario] = {}


def plays(item: str) -> Callable[[Scenario], Scenario]:
    def add(scenario: Scenario) -> Scenario:
        SCENARIOS[item] = scenario
        return scenario

    return add


async def opened_with(house: House, code: str) -> None:
    with pytest.raises(StoreFailed) as caught:
        async with open_store(house.file):
            pass
    assert caught.value.code == code


@plays("store-001")
async def two_latest(house: House) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        house.sql("UPDATE artifacts SET is_latest = 1")
    DAMAGE["two latest"][0](house)
    assert "E_FSCK_LATEST" in await house.codes()


@plays("store-002")
async def none_latest(house: House) -> None:
    house.sql("UPDATE artifacts SET is_latest = 0")
    assert "E_FSCK_LATEST" in await house.codes()
    assert (await house.report(repair=True)).clean
    assert house.sql(f"SELECT is_latest FROM artifacts WHERE id = '{house.artifacts['v2']}'") == [(1,)]


@plays("store-003")
async def pointer_elsewhere(house: House) -> None:
    change = f"UPDATE workflows SET latest_artifact_id = '{house.artifacts['v2']}' WHERE id = '{house.other_row}'"
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        house.sql("PRAGMA foreign_keys=ON", change)
    house.sql(change)
    assert await house.codes() >= {"E_FSCK_POINTER", "E_DB_REFERENCE"}


@plays("store-005")
async def version_gap(house: House) -> None:
    DAMAGE["version gap"][0](house)
    async with open_store(house.file) as store:  # accepted: it works on, above the highest
        assert (await a_version(store, house.row)).version == 4
    assert await house.codes() == {"E_FSCK_VERSIONS"}


async def unreadable(house: House) -> None:
    async with open_store(house.file) as store:
        (row,) = [a for a in await store.latest_artifacts(house.row) if a.name == "big"]
        with pytest.raises(StoreFailed, match="E_BLOB_CORRUPT"):
            await store.files.read_bytes(row)
        with pytest.raises(StoreFailed, match="E_BLOB_CORRUPT"):
            await store.files.path(row)
    assert await house.codes() == {"E_BLOB_CORRUPT"}


@plays("store-006")
async def empty_blob(house: House) -> None:
    DAMAGE["blob empty"][0](house)
    await unreadable(house)


@plays("store-007")
async def flipped_blob(house: House) -> None:
    DAMAGE["blob flipped"][0](house)
    await unreadable(house)


@plays("store-008")
async def blob_without_row(house: House) -> None:
    house.sql("PRAGMA foreign_keys=ON", "DELETE FROM chains")
    assert await house.codes() == set()
    assert await house.codes(grace=0) == {"E_FSCK_ORPHAN"}
    await house.report(grace=0, repair=True)
    assert list(house.blobs.glob("??/*")) == []


@plays("store-010")
async def temp_file(house: House) -> None:
    temp = house.blobs / "tmp" / "12345-0123456789abcdef"
    temp.write_bytes(b"half")
    assert await house.codes(repair=True) == set()
    assert temp.exists()
    os.utime(temp, (0, 0))
    assert (await house.report(repair=True)).clean
    assert not temp.exists()


@plays("store-011")
async def newer_schema(house: House) -> None:
    house.sql("INSERT INTO schema_version VALUES (99, 0)")
    await opened_with(house, "E_SCHEMA_NEWER")


@plays("store-012")
async def text_file(house: House) -> None:
    for suffix in ("-wal", "-shm"):
        house.file.with_name(f"towpath.db{suffix}").unlink(missing_ok=True)
    house.file.write_text("Dear diary, today I was opened as a database.\n" * 100)
    before = house.file.read_bytes()
    await opened_with(house, "E_DB_NOT_SQLITE")
    assert house.file.read_bytes() == before


@plays("store-013")
async def read_only(house: House) -> None:
    house.file.chmod(0o400)
    await opened_with(house, "E_DB_READONLY")
    house.file.chmod(stat.S_IRUSR | stat.S_IWUSR)
    assert await house.codes() == set()


@plays("store-015")
async def log_deleted(house: House) -> None:
    house.file.with_name("towpath.db-wal").unlink(missing_ok=True)
    assert await house.codes() == set()


@plays("store-016")
async def unknown_word(house: House) -> None:
    rename_row(house)
    async with open_store(house.file) as store:
        with pytest.raises(StoreFailed) as caught:
            await store.load(house.run)
    assert caught.value.code == "E_DB_VALUE"
    for part in ("workflows", "status", house.row, "lost in space"):
        assert part in str(caught.value)
    assert "E_DB_VALUE" in await house.codes()


@plays("store-017")
async def pickled(house: House) -> None:
    house.sql(f"UPDATE workflows SET value = x'80049515000000' WHERE id = '{house.row}'")
    async with open_store(house.file) as store, store.session() as session:
        row = await api.get_workflow(session, house.row)
    assert row is not None
    assert row.value.startswith("b'\\x80\\x04")  # shown as bytes
    assert "E_DB_VALUE" in await house.codes()


@plays("store-018")
async def lease_from_the_future(house: House) -> None:
    async with open_store(house.file, lease_seconds=0.3) as store:
        await store.create_run(NewRun("r", PLAN, {}))
        far = int((time.time() + 30 * 86400) * 1e6)
        elsewhere = json.dumps({"host": "elsewhere", "boot": "b", "pid": 1, "started": 1})
        house.sql(f"UPDATE chains SET owner = '{elsewhere}', lease_until = {far}, epoch = 1 WHERE id = 'r'")
        with pytest.raises(RunRefused, match="E_RUN_OWNED"):
            await store.claim("r")
        await anyio.sleep(0.4)
        lease = await store.claim("r")  # after one lease's time, not after 30 days
        assert lease.epoch == 2
        await store.record(lease, [StepReady("row", "a", None, "m", started=True, attempt=1)])
    assert await house.codes() == set()


def test_every_item_of_the_corpus_is_played() -> None:
    assert set(SCENARIOS) == set(ITEMS)


@pytest.mark.parametrize("item", ITEMS)
async def test_corpus(house: House, item: str) -> None:
    await SCENARIOS[item](house)
