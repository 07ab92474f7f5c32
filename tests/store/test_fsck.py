"""`fsck` finds every kind of damage and mends what can be mended; group `store` of the corpus of bad input."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import sqlite3
import stat
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.to_thread import run_sync

from tests.conformance.records import PLAN, a_run, a_step, a_version, a_workflow, ended
from towpath import store as api
from towpath.artifact import KeptFile
from towpath.errors import RunRefused, StoreFailed
from towpath.events import ChainEnded, NewArtifact, StepReady
from towpath.model import ChainStatus, Plan, StepPlan, StepStatus
from towpath.ports import NewRun
from towpath.store import Report, RunStore, fsck, open_store
from towpath.store.blobs import FileBlobs

pytestmark = pytest.mark.anyio


@dataclass
class House:
    """A store with everything in it, closed."""

    file: Path
    run: str
    row: str
    other_row: str
    artifacts: dict[str, str]

    def sql(self, *statements: str) -> list[Any]:
        """Change the database behind the store's back, foreign keys and checks off."""
        connection = sqlite3.connect(self.file, isolation_level=None)
        connection.execute("PRAGMA ignore_check_constraints=ON")
        try:
            return [connection.execute(statement).fetchall() for statement in statements][-1]
        finally:
            connection.close()

    def blob(self) -> Path:
        """The one blob file."""
        (found,) = [path for path in self.blobs.glob("??/??/*") if path.is_file()]
        return found

    @property
    def blobs(self) -> Path:
        return self.file.with_name("towpath-store") / "blobs"

    async def report(self, **options: Any) -> Report:
        async with open_store(self.file) as store:
            return await fsck(store, **options)

    async def codes(self, **options: Any) -> set[str]:
        return {problem.code for problem in (await self.report(**options)).problems if not problem.repaired}


@pytest.fixture
async def house(tmp_path: Path) -> House:
    async with open_store(tmp_path / "towpath.db", durability="normal") as store:
        other = await a_workflow(store)
        await a_version(store, other, b"other")
        run, row, made = await a_whole_run(store)
        second = await a_version(store, row, b"second", parent_artifact_id=made[0])
    return House(tmp_path / "towpath.db", run, row, other, {"v1": made[0], "v2": second.id, "big": made[1]})


async def a_whole_run(store: RunStore) -> tuple[str, str, list[str]]:
    lease = await a_run(store)
    row = await a_step(store, lease)
    made = []
    for name, data in (("output", b"first"), ("big", b"b" * 50_000)):
        kept = await store.files.keep(data, f"{name}.bin")
        made.append(
            NewArtifact(
                store.new_id(),
                name,
                1,
                kept.filename,
                kept.media_type,
                kept.size,
                kept.digest,
                kept.local_path,
                kept.inline,
            )
        )
    value = [{"$artifact": "output"}, {"$artifact": "big"}]
    await store.record(
        lease,
        [ended(row, StepStatus.COMPLETED, value=value, artifacts=tuple(made)), ChainEnded(ChainStatus.COMPLETED)],
    )
    return lease.run_id, row, [artifact.id for artifact in made]


def new_artifact(store: RunStore, name: str, kept: KeptFile) -> NewArtifact:
    where = (kept.local_path, kept.inline)
    return NewArtifact(store.new_id(), name, 1, kept.filename, kept.media_type, kept.size, kept.digest, *where)


async def test_a_whole_store_is_clean(house: House) -> None:
    report = await house.report(grace=0)
    assert report.problems == report.notes == ()
    assert report.clean
    assert report.counts["artifacts"] == 4
    assert report.counts["blob files"] == 1
    assert "4 artifacts" in str(report)


def rewrite(path: Path, data: bytes) -> None:
    path.chmod(0o600)
    path.write_bytes(data)


def rename_row(house: House) -> None:
    house.sql(f"UPDATE workflows SET status = 'lost in space' WHERE id = '{house.row}'")


def folder_for_blob(house: House) -> None:
    path = house.blob()
    path.unlink()
    path.mkdir()


DAMAGE: dict[str, tuple[Callable[[House], object], str]] = {
    "blob flipped": (lambda h: rewrite(h.blob(), b"b" * 49_999 + b"c"), "E_BLOB_CORRUPT"),
    "blob cut": (lambda h: rewrite(h.blob(), b"b" * 49_999), "E_BLOB_CORRUPT"),
    "blob empty": (lambda h: rewrite(h.blob(), b""), "E_BLOB_CORRUPT"),
    "blob gone": (lambda h: h.blob().unlink(), "E_BLOB_MISSING"),
    "blob a folder": (folder_for_blob, "E_BLOB_MISSING"),
    "all blobs gone": (lambda h: shutil.rmtree(h.blobs), "E_BLOB_MISSING"),
    "inline flipped": (lambda h: h.sql("UPDATE blobs SET data = x'7365636f6e65' WHERE size = 6"), "E_BLOB_CORRUPT"),
    "inline cut": (lambda h: h.sql("UPDATE blobs SET data = x'00'"), "E_BLOB_CORRUPT"),
    "inline text": (lambda h: h.sql("UPDATE blobs SET data = 'seconx' WHERE size = 6"), "E_BLOB_CORRUPT"),
    "inline gone": (lambda h: h.sql("DELETE FROM blobs WHERE size = 6"), "E_BLOB_MISSING"),
    "digest changed": (lambda h: h.sql(f"UPDATE artifacts SET sha256 = '{'z' * 64}' WHERE name = 'big'"), "E_DB_VALUE"),
    "size changed": (lambda h: h.sql("UPDATE artifacts SET file_size = 7"), "E_BLOB_CORRUPT"),
    "status word": (rename_row, "E_DB_VALUE"),
    "approval word": (lambda h: h.sql("UPDATE artifacts SET approval_status = 'so-so'"), "E_DB_VALUE"),
    "chain word": (lambda h: h.sql("UPDATE chains SET status = 'executing_level_1'"), "E_DB_VALUE"),
    "no JSON": (lambda h: h.sql("UPDATE workflows SET value = x'80049503'"), "E_DB_VALUE"),
    "no text": (lambda h: h.sql("UPDATE workflows SET error = CAST(x'ff7b' AS TEXT)"), "E_DB_VALUE"),
    "version gap": (
        lambda h: h.sql(f"UPDATE artifacts SET version = 3 WHERE id = '{h.artifacts['v2']}'"),
        "E_FSCK_VERSIONS",
    ),
    "version 0": (lambda h: h.sql("UPDATE artifacts SET version = 0 WHERE name = 'big'"), "E_FSCK_VERSIONS"),
    "version row gone": (lambda h: h.sql(f"DELETE FROM artifacts WHERE id = '{h.artifacts['v1']}'"), "E_FSCK_VERSIONS"),
    "no latest": (lambda h: h.sql("UPDATE artifacts SET is_latest = 0"), "E_FSCK_LATEST"),
    "two latest": (lambda h: h.sql("DROP INDEX one_latest", "UPDATE artifacts SET is_latest = 1"), "E_FSCK_LATEST"),
    "index gone": (lambda h: h.sql("DROP INDEX one_latest"), "E_FSCK_SCHEMA"),
    "table gone": (lambda h: h.sql("DROP TABLE approvals"), "E_FSCK_SCHEMA"),
    "pointer to old": (
        lambda h: h.sql(f"UPDATE workflows SET latest_artifact_id = '{h.artifacts['v1']}' WHERE id = '{h.row}'"),
        "E_FSCK_POINTER",
    ),
    "pointer away": (
        lambda h: h.sql(f"UPDATE workflows SET latest_artifact_id = '{h.artifacts['v2']}' WHERE id = '{h.other_row}'"),
        "E_FSCK_POINTER",
    ),
    "pointer null": (lambda h: h.sql("UPDATE workflows SET latest_artifact_id = NULL"), "E_FSCK_POINTER"),
    "parent gone": (
        lambda h: h.sql("UPDATE artifacts SET parent_artifact_id = 'x' WHERE version = 2"),
        "E_FSCK_LINEAGE",
    ),
    "parent circle": (
        lambda h: h.sql(
            f"UPDATE artifacts SET parent_artifact_id = '{h.artifacts['v2']}' WHERE id = '{h.artifacts['v1']}'"
        ),
        "E_FSCK_LINEAGE",
    ),
    "parent of another": (
        lambda h: h.sql(f"UPDATE artifacts SET parent_artifact_id = '{h.artifacts['v1']}' WHERE name = 'big'"),
        "E_FSCK_LINEAGE",
    ),
    "chain row gone": (lambda h: h.sql(f"DELETE FROM chains WHERE id = '{h.run}'"), "E_DB_REFERENCE"),
    "back to work": (
        lambda h: h.sql(f"UPDATE workflows SET status = 'executing', completed_at = NULL WHERE id = '{h.row}'"),
        "E_FSCK_EVENTS",
    ),
    "open in a closed chain": (
        lambda h: h.sql(f"UPDATE workflows SET status = 'queued', completed_at = NULL WHERE id = '{h.row}'"),
        "E_FSCK_STATUS",
    ),
    "completed at no time": (lambda h: h.sql("UPDATE workflows SET completed_at = NULL"), "E_FSCK_STATUS"),
    "chain back to work": (
        lambda h: h.sql(f"UPDATE chains SET status = 'paused', completed_at = NULL WHERE id = '{h.run}'"),
        "E_FSCK_EVENTS",
    ),
    "completed without a fact": (lambda h: h.sql("DELETE FROM events WHERE type = 'StepCompleted'"), "E_FSCK_EVENTS"),
    "completed twice": (
        lambda h: h.sql("INSERT INTO events SELECT NULL, chain_id, workflow_id, type, at, data FROM events"),
        "E_FSCK_EVENTS",
    ),
    "value without its file": (
        lambda h: h.sql("UPDATE workflows SET value = '{\"$artifact\":\"nothing\"}' WHERE status = 'completed'"),
        "E_FSCK_VALUE",
    ),
    "item missing": (lambda h: h.sql(f"UPDATE workflows SET item_count = 2 WHERE id = '{h.row}'"), "E_FSCK_ITEMS"),
    "waits unasked": (
        lambda h: h.sql(f"UPDATE workflows SET status = 'waiting_approval' WHERE id = '{h.other_row}'"),
        "E_FSCK_APPROVAL",
    ),
    "decided at no time": (
        lambda h: h.sql(
            "INSERT INTO approvals (id, workflow_id, status, artifact_ids, policy, requested_at, created_at,"
            f" updated_at) VALUES ('a', '{h.row}', 'approved', '[]', '{{}}', 1, 1, 1)"
        ),
        "E_FSCK_APPROVAL",
    ),
    "two pending": (
        lambda h: h.sql(
            "DROP INDEX one_pending",
            *(
                "INSERT INTO approvals (id, workflow_id, status, artifact_ids, policy, requested_at, created_at,"
                f" updated_at) VALUES ('{i}', '{h.row}', 'pending', '[]', '{{}}', 1, 1, 1)"
                for i in "ab"
            ),
        ),
        "E_FSCK_APPROVAL",
    ),
    "decided twice": (
        lambda h: h.sql(
            *(
                "INSERT INTO events (chain_id, workflow_id, type, at, data)"
                f" VALUES ('{h.run}', '{h.row}', '{kind}', 1, '{{\"approval\":\"a\"}}')"
                for kind in ("DecisionRecorded", "ApprovalTimedOut")
            )
        ),
        "E_FSCK_APPROVAL",
    ),
    "acted on another decision": (
        lambda h: h.sql(
            "INSERT INTO approvals (id, workflow_id, status, action, artifact_ids, policy, requested_at, decided_at,"
            f" delivered, created_at, updated_at) VALUES ('a', '{h.row}', 'rejected', 'skip', '[]', '{{}}', 1, 2, 1,"
            " 1, 1)",
            "INSERT INTO events (chain_id, workflow_id, type, at, data) VALUES"
            f" ('{h.run}', '{h.row}', 'DecisionApplied', 1, '{{\"approval\":\"a\",\"status\":\"completed\"}}')",
        ),
        "E_FSCK_APPROVAL",
    ),
    "never acted on": (
        lambda h: h.sql(
            "INSERT INTO approvals (id, workflow_id, status, action, artifact_ids, policy, requested_at, decided_at,"
            f" delivered, created_at, updated_at) VALUES ('a', '{h.row}', 'approved', 'approve', '[]', '{{}}', 1, 2,"
            " 0, 1, 1)"
        ),
        "E_FSCK_APPROVAL",
    ),
    "sent twice": (
        lambda h: h.sql(
            *(
                "INSERT INTO artifact_transfers (id, artifact_id, source_workflow_id, target_server, status,"
                f" uploaded_at, created_at, updated_at)"
                f" VALUES ('{i}', '{h.artifacts['v2']}', '{h.row}', 'gpu', 'completed', 1, 1, 1)"
                for i in "ab"
            )
        ),
        "E_FSCK_TRANSFER",
    ),
    "sent at no time": (
        lambda h: h.sql(
            "INSERT INTO artifact_transfers (id, artifact_id, source_workflow_id, target_server, status, created_at,"
            f" updated_at) VALUES ('t', '{h.artifacts['v2']}', '{h.row}', 'gpu', 'completed', 1, 1)"
        ),
        "E_FSCK_TRANSFER",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
async def test_R24_fsck_finds(house: House, kind: str) -> None:
    damage, code = DAMAGE[kind]
    damage(house)
    report = await house.report()
    assert code in {problem.code for problem in report.problems}, str(report)
    assert not report.clean
    found = next(problem for problem in report.problems if problem.code == code)
    assert found.invariant in str(found)
    assert found.sentence


@pytest.mark.parametrize("damage", ["DELETE FROM definitions", "UPDATE definitions SET definition = '{}'"])
async def test_R24_fsck_finds_a_damaged_definition(house: House, damage: str) -> None:
    async with open_store(house.file) as store:
        plan = Plan("large", tuple(StepPlan(f"step{i}", "python", "mod:a") for i in range(1000)))
        await store.create_run(NewRun("large", plan, {}))
        assert (await fsck(store)).problems == ()
        house.sql(damage)
        assert [problem.code for problem in (await fsck(store)).problems] == ["E_FSCK_DEFINITION"]


async def random_damages(house: House, seed: int, rounds: int) -> None:
    chance = random.Random(seed)
    whole = house.blob().read_bytes()
    for _ in range(rounds):
        path = house.blob()
        at, how = chance.randrange(len(whole)), chance.choice(["flip", "cut", "longer", "gone", "link", "swap"])
        changed = {
            "flip": whole[:at] + bytes([whole[at] ^ (1 << chance.randrange(8))]) + whole[at + 1 :],
            "cut": whole[:at],
            "longer": whole + os.urandom(1 + at % 100),
            "swap": os.urandom(len(whole)),
        }.get(how)
        path.unlink()
        if changed is not None:
            path.write_bytes(changed)
        elif how == "link":
            (house.file.parent / "elsewhere").write_bytes(whole)
            path.symlink_to(house.file.parent / "elsewhere")
        assert await house.codes(), (seed, how, at)
        path.unlink(missing_ok=True)
        path.write_bytes(whole)
    assert await house.codes() == set()


async def test_R24_twenty_random_damages_are_all_found(house: House) -> None:
    await random_damages(house, 24, 20)


@pytest.mark.full
async def test_R24_five_hundred_random_damages_are_all_found(house: House) -> None:
    await random_damages(house, 500, 500)


async def test_R24_a_damaged_page_of_the_database_is_found(house: House) -> None:
    """Never an exception: a finding, or an error with a code when the file does not even open."""
    whole = house.file.read_bytes()
    chance, found = random.Random(7), 0
    for _ in range(20):
        at = chance.randrange(1, len(whole) // 4096) * 4096
        house.file.write_bytes(whole[:at] + chance.randbytes(4096) + whole[at + 4096 :])
        try:
            found += bool(await house.codes())
        except StoreFailed as error:
            found += error.code.startswith("E_DB")
    house.file.write_bytes(whole)
    assert found == 20
    assert await house.codes() == set()


# ---- mending


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

        async def later(function: Any) -> Any:
            monkeypatch.undo()
            async with store.session() as session:
                await api.create_artifact(session, house.row, data=b"n" * 30_000, name="new")
            os.utime(path, (0, 0))
            return await real(function)

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


# ---- the corpus

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
    assert list(house.blobs.glob("??/??/*")) == []


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
