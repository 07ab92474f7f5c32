"""What `fsck` finds: every kind of damage, and nothing in a whole store."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
import sqlalchemy as sa

from tests.conformance.chain_steps import PATIENCE
from tests.conformance.records import a_run, a_step, a_version, a_workflow, ended
from towpath.artifact import KeptFile
from towpath.errors import StoreFailed
from towpath.events import ChainEnded, NewArtifact
from towpath.model import ChainStatus, Plan, StepPlan, StepStatus
from towpath.ports import NewRun
from towpath.store import Report, RunStore, fsck, open_store
from towpath.store.backend import Result, Row
from towpath.store.findings import Finding, each
from towpath.store.statements import Query
from towpath.store.tables import blobs

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
        (found,) = [path for path in self.blobs.glob("??/*") if path.is_file()]
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


NO_UNICODE = "CAST(x'7a7aff' AS TEXT)"


@pytest.mark.parametrize(("table", "key"), [("artifacts", "id"), ("workflows", "id"), ("chains", "id")])
async def test_R24_a_key_that_is_not_unicode_does_not_stop_fsck(
    house: House, table: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.sql(f"UPDATE {table} SET {key} = {NO_UNICODE} WHERE rowid = 1")
    with anyio.fail_after(20):
        whole = await house.report(deep=True)
    monkeypatch.setattr("towpath.store.findings.PAGE", 1)
    with anyio.fail_after(20):
        paged = await house.report(deep=True)
    assert sorted(map(str, paged.problems)) == sorted(map(str, whole.problems))
    assert paged.counts == whole.counts


async def test_R24_bytes_under_a_digest_that_is_not_unicode_are_found(house: House) -> None:
    house.sql(f"UPDATE blobs SET sha256 = {NO_UNICODE} WHERE rowid = 1")
    with anyio.fail_after(20):
        codes = await house.codes()
    assert codes == {"E_BLOB_CORRUPT", "E_BLOB_MISSING"}


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE events SET type = x'ff00'",
        "UPDATE events SET type = 'DecisionApplied', data = '{\"approval\":[1],\"status\":[1]}'",
        "UPDATE events SET type = 'DecisionRecorded', data = '{\"approval\":{\"a\":1}}'",
        "UPDATE events SET type = 'DecisionApplied', data = json_object('approval', iif(seq % 2, seq, 'a'))",
    ],
)
async def test_R24_no_line_of_the_audit_trail_stops_fsck(house: House, damage: str) -> None:
    house.sql(damage)
    assert "E_FSCK_EVENTS" in await house.codes()


def test_R24_every_row_before_one_that_cannot_be_read_is_judged() -> None:
    keys = [f"{number:04}" for number in range(3000)]
    judged: list[str] = []

    def judge(row: Row) -> list[Finding]:
        judged.append(row["sha256"])
        return [Finding("I7", "E_BLOB_CORRUPT", "blobs", row["sha256"], "wrong")] if row["sha256"] == "1233" else []

    def answer(query: Query) -> Query:
        assert isinstance(query.values, dict)
        beyond = [key for key in keys if key > query.values["after"]][: query.values["size"]]
        if "1234" in beyond:
            return script.throw(StoreFailed("E_DB_CORRUPT", "damaged"))
        return script.send(Result([{"sha256": key} for key in beyond], -1))

    def run() -> None:
        query = next(script)
        while True:
            query = answer(query)

    script = each(sa.select(blobs.c.sha256), blobs.c.sha256, "", judge)
    with pytest.raises(StopIteration) as end:
        run()
    assert judged == keys[:1234]
    assert [finding.code for finding in end.value.value] == ["E_BLOB_CORRUPT", "E_DB_CORRUPT"]


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


@pytest.mark.parametrize("size", [1, 2, 1_000])
async def test_R24_keys_that_are_no_unicode_end_no_check_and_keep_none_going(
    house: House, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """What is read differs from what is stored, so the place where the next page begins does, too."""
    monkeypatch.setattr("towpath.store.findings.PAGE", size)
    ids = [f"CAST(X'{byte}{more}' AS TEXT)" for byte in ("80", "C3", "F8", "FF") for more in ("", "61", "62")]
    columns = "id, name, status, current_level, epoch, started_at, created_at, updated_at"
    house.sql(*(f"INSERT INTO chains ({columns}) VALUES ({key}, 'x', 'odd', 0, 0, 1, 1, 1)" for key in ids))
    with anyio.fail_after(PATIENCE):
        assert "E_DB_VALUE" in await house.codes()


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
