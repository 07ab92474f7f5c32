"""What each fact changes in the tables: rows, attempts, ends, outputs."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import structs

from towpath.artifact import Origin
from towpath.errors import StoreFailed
from towpath.events import (
    DecisionApplied,
    Fact,
    NewArtifact,
    StepDropped,
    StepEnded,
    StepReady,
    StepRetried,
    StepStarted,
)
from towpath.model import ChainStatus, ErrorInfo, StepStatus
from towpath.ports import Lease
from towpath.store import journal
from towpath.store.backend import Unit
from towpath.store.schema import definitions
from towpath.store.sqlite.batch import record_batch
from towpath.store.sqlite.dialect import DIALECT

S, C = StepStatus, ChainStatus


TABLES = ("chains", "workflows", "artifacts", "approvals", "events", "blobs", "step_logs", "artifact_transfers")
FINAL = [S.COMPLETED, S.FAILED, S.SKIPPED, S.CANCELLED]
OPEN = [S.QUEUED, S.EXECUTING, S.WAITING_APPROVAL]
WRONG = ErrorInfo("E_STEP_RAISED", "broke", "ValueError", "a traceback", (1, 2))
WRONG_JSON = {
    "code": "E_STEP_RAISED",
    "message": "broke",
    "type": "ValueError",
    "traceback": "a traceback",
    "failed_items": [1, 2],
}


DIGEST = "f" * 64
JSON = {"value", "parameters", "error", "artifact_ids", "policy", "data", "extra_metadata"}


class Tables:
    """The tables in memory, with two runs in them: what is recorded of `run` must leave `other` as it is."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        connection.row_factory = sqlite3.Row
        for statement in definitions(DIALECT.spelling.core):
            connection.execute(statement)
        connection.execute("PRAGMA foreign_keys=ON")
        for run in ("run", "other"):
            self.chain(run)
        self.row("their row", "other")
        self.row("their gate", "other", status="waiting_approval")
        self.gate("their approval", "their gate", "other")
        self.gate("their decision", "their gate", "other", status="rejected", decided_at=1, delivered=0)
        self.version("their version", "their gate")
        self.transfer("their transfer", "their row", "their version")

    def insert(self, table: str, **values: Any) -> None:
        marks = ", ".join("?" * len(values))
        self.connection.execute(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})", tuple(values.values()))

    def chain(self, run: str, **more: Any) -> None:
        columns = {"name": "demo", "status": "running", "started_at": 1, "created_at": 1, "updated_at": 1}
        claimed = {"owner": "{}", "lease_until": 99, "epoch": 3, "pause_requested_at": 5}
        self.insert("chains", id=run, **{**columns, **claimed, **more})

    def row(self, row: str, run: str = "run", **more: Any) -> None:
        columns = {"step_id": row, "workflow_name": "m:f", "status": "executing", "queued_at": 1, "attempt": 1}
        self.insert("workflows", id=row, chain_id=run, **{**columns, "created_at": 1, "updated_at": 1, **more})

    def gate(self, gate: str, row: str, run: str = "run", **more: Any) -> None:
        columns = {"status": "pending", "artifact_ids": "[]", "policy": "{}", "requested_at": 1, "attempt": 1}
        stamps = {"created_at": 1, "updated_at": 1}
        self.insert("approvals", id=gate, workflow_id=row, chain_id=run, **{**columns, **stamps, **more})

    def version(self, artifact: str, row: str, name: str = "p", version: int = 1, latest: int = 1) -> None:
        file = {"filename": "p", "file_type": "image", "file_size": 1, "media_type": "image/png", "sha256": DIGEST}
        state = {"approval_status": "pending", "created_at": 1, "updated_at": 1, "is_latest": latest}
        self.insert("artifacts", id=artifact, workflow_id=row, name=name, version=version, **file, **state)

    def transfer(self, transfer: str, row: str, artifact: str, **more: Any) -> None:
        columns = {"source_workflow_id": row, "target_workflow_id": row, "target_server": "s", "status": "pending"}
        stamps = {"created_at": 1, "updated_at": 1}
        self.insert("artifact_transfers", id=transfer, artifact_id=artifact, **{**columns, **stamps, **more})

    def all(self, table: str) -> dict[str, dict[str, Any]]:
        """The rows of a table by id (or number), without what is NULL, JSON as data."""
        found: dict[str, dict[str, Any]] = {}
        for n, row in enumerate(self.connection.execute(f"SELECT * FROM {table}")):
            values = {name: row[name] for name in row.keys() if row[name] is not None}  # noqa: SIM118 - a sqlite3.Row
            for name in JSON & values.keys():
                values[name] = msgspec.json.decode(values[name]) if isinstance(values[name], str) else values[name]
            found[str(values.get("id", n))] = values
        return found

    def everything(self) -> dict[str, dict[str, dict[str, Any]]]:
        return {table: self.all(table) for table in TABLES}

    def record(self, *facts: Fact, at: int = 10, lease: Lease | None = None) -> Exception | None:
        """Records facts of `run` as one whole; the error, if they are refused."""
        guard = None if lease is None else journal.guard(lease)
        unit = Unit(journal.writes("run", facts, at), guard, lambda error: None)
        return record_batch(self.connection, [unit], Path())[0]

    def changed(self, *facts: Fact, at: int = 10) -> dict[str, dict[str, dict[str, Any]]]:
        """What is different after these facts, by table and row; of events, their lines in order."""
        before = self.everything()
        assert self.record(*facts, at=at) is None
        after = self.everything()
        different: dict[str, dict[str, dict[str, Any]]] = {}
        for table in TABLES:
            assert before[table].keys() <= after[table].keys(), "nothing is ever deleted"
            for row, now in after[table].items():
                was = before[table].get(row, {})
                names = [n for n in {**was, **now} if was.get(n) != now.get(n)]
                if names:
                    different.setdefault(table, {})[row] = {n: now.get(n) for n in names}
        return different

    def told(self) -> list[tuple[Any, ...]]:
        """The lines of the audit trail."""
        return [(e["type"], e.get("workflow_id"), e["at"], e["data"]) for e in self.all("events").values()]


@pytest.fixture
def tables() -> Iterator[Tables]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        tables = Tables(connection)
        theirs = _theirs(tables)
        yield tables
        assert _theirs(tables) == theirs, "another run was changed"


def _theirs(tables: Tables) -> Any:
    found = {t: tables.all(t) for t in ("chains", "workflows", "artifacts", "approvals", "artifact_transfers")}
    return {
        t: {key: row for key, row in rows.items() if key.startswith(("their", "other"))} for t, rows in found.items()
    }


def event(kind: str, row: str | None, data: Any, at: int = 10) -> tuple[Any, ...]:
    return (kind, row, at, data)


def made(version: int = 1, **more: Any) -> NewArtifact:
    columns = {"local_path": "p/ath", **more}
    return NewArtifact("file", "p", version, "pic.png", "image/png", 3, DIGEST, **columns)


def ended(status: StepStatus, **more: Any) -> StepEnded:
    return StepEnded("r", "a", None, status, 2, **more)


# ---- a row comes to be


def test_a_started_row(tables: Tables) -> None:
    changed = tables.changed(StepReady("r", "a", 0, "m:f", started=True, attempt=1, parameters={"n": 1}))
    assert changed.pop("events")
    assert changed == {
        "workflows": {
            "r": {
                "id": "r",
                "chain_id": "run",
                "step_id": "a",
                "item_index": 0,
                "workflow_name": "m:f",
                "status": "executing",
                "attempt": 1,
                "parameters": {"n": 1},
                "queued_at": 10,
                "started_at": 10,
                "created_at": 10,
                "updated_at": 10,
            }
        }
    }
    assert tables.told() == [event("StepStarted", "r", {"step": "a", "item": 0, "attempt": 1})]


def test_a_row_that_waits_for_a_slot_has_not_started(tables: Tables) -> None:
    row = tables.changed(StepReady("r", "a", None, "m:f", started=False, attempt=0))["workflows"]["r"]
    assert (row["status"], row["attempt"], row["queued_at"]) == ("queued", 0, 10)
    assert {"started_at", "completed_at", "item_index", "parameters", "item_count"} & row.keys() == set()
    assert tables.told() == [event("StepQueued", "r", {"step": "a"})]


@pytest.mark.parametrize("count", [0, 3])
def test_a_mapped_row_says_how_many_items(tables: Tables, count: int) -> None:
    row = tables.changed(StepReady("r", "a", None, "m:f", started=True, attempt=1, count=count))["workflows"]["r"]
    assert row["item_count"] == count
    assert tables.told() == [event("StepStarted", "r", {"step": "a", "items": count, "attempt": 1})]


@pytest.mark.parametrize(("status", "kind"), [(S.SKIPPED, "StepSkipped"), (S.CANCELLED, "StepCancelled")])
@pytest.mark.parametrize("reason", ["b failed", ""])
def test_a_dropped_row_ends_as_it_comes_to_be(tables: Tables, status: StepStatus, kind: str, reason: str) -> None:
    changed = tables.changed(StepDropped("r", "a", 2, "m:f", status, reason))
    expected = {
        "id": "r",
        "chain_id": "run",
        "step_id": "a",
        "item_index": 2,
        "workflow_name": "m:f",
        "status": status,
        "attempt": 0,
        "queued_at": 10,
        "completed_at": 10,
        "created_at": 10,
        "updated_at": 10,
    }
    assert changed["workflows"]["r"] == expected | ({"error_message": reason} if reason else {})
    assert tables.told() == [event(kind, "r", {"step": "a", "item": 2} | ({"reason": reason} if reason else {}))]


# ---- attempts


@pytest.mark.parametrize("before", OPEN)
def test_a_row_starts_its_next_attempt(tables: Tables, before: StepStatus) -> None:
    tables.row("r", status=before, step_id="a")
    tables.row("beside")
    changed = tables.changed(StepStarted("r", "a", None, 2, {"n": 2}))
    row = changed.pop("workflows").pop("r")
    row.pop("status", None)  # unless it was executing before
    assert tables.all("workflows")["r"]["status"] == "executing"
    assert row == {"attempt": 2, "parameters": {"n": 2}, "started_at": 10, "updated_at": 10}
    assert changed.keys() == {"events"}
    assert tables.told() == [event("StepStarted", "r", {"step": "a", "attempt": 2})]


def test_a_row_has_started_when_its_first_attempt_did(tables: Tables) -> None:
    tables.row("r", started_at=4)
    assert tables.changed(StepStarted("r", "a", None, 2))["workflows"]["r"] == {"attempt": 2, "updated_at": 10}


def test_a_retry_is_told_and_changes_no_row(tables: Tables) -> None:
    tables.row("r")
    assert tables.changed(StepRetried("r", "a", 1, 2, WRONG, 0.5)).keys() == {"events"}
    said = {"step": "a", "item": 1, "attempt": 2, "error": WRONG_JSON, "delay": 0.5}
    assert tables.told() == [event("StepRetried", "r", said)]


CHANGES: list[tuple[str, Fact]] = [
    ("executing", StepStarted("r", "a", None, 2)),
    ("completed", StepEnded("r", "a", None, S.COMPLETED)),
    ("waiting_approval", StepEnded("r", "a", None, S.WAITING_APPROVAL)),
    ("failed", DecisionApplied("r", "a", None, "g", S.FAILED)),
]


@pytest.mark.parametrize("final", FINAL)
@pytest.mark.parametrize(("to", "fact"), CHANGES, ids=["start", "end", "ask", "decide"])
def test_what_is_final_stays_so(tables: Tables, final: StepStatus, to: str, fact: Fact) -> None:
    """The refusal says which row, and to what it should have come; nothing of the unit is recorded."""
    tables.row("r", status=final, completed_at=5)
    tables.row("beside", status="waiting_approval")
    before = tables.everything()
    refused = tables.record(StepReady("new", "n", None, "m:f", started=True, attempt=1), fact)
    assert isinstance(refused, StoreFailed)
    assert refused.code == "E_TRANSITION"
    assert refused.problem.message == f"workflow r cannot go from its status to {to}"
    assert tables.everything() == before


@pytest.mark.parametrize(("to", "fact"), CHANGES, ids=["start", "end", "ask", "decide"])
def test_a_row_that_is_not_there_is_refused(tables: Tables, to: str, fact: Fact) -> None:
    tables.row("beside", status="executing")
    assert getattr(tables.record(fact), "code", None) == "E_TRANSITION"


def test_what_waits_is_not_asked_about_twice(tables: Tables) -> None:
    tables.row("r", status="waiting_approval")
    assert getattr(tables.record(ended(S.WAITING_APPROVAL)), "code", None) == "E_TRANSITION"


# ---- a row ends


@pytest.mark.parametrize("status", [S.COMPLETED, S.SKIPPED, S.CANCELLED])
def test_a_row_ends_with_its_value(tables: Tables, status: StepStatus) -> None:
    tables.row("r")
    tables.row("beside")
    changed = tables.changed(ended(status, value={"n": 1}))
    assert changed.pop("events")
    assert changed == {
        "workflows": {"r": {"status": status, "value": {"n": 1}, "attempt": 2, "completed_at": 10, "updated_at": 10}}
    }
    assert tables.told() == [event(f"Step{status.capitalize()}", "r", {"step": "a", "attempt": 2})]


@pytest.mark.parametrize("value", [0, False, "", [], {}])
def test_a_value_that_is_nothing_much_is_a_value(tables: Tables, value: Any) -> None:
    """Only None is none."""
    tables.row("r")
    assert tables.changed(ended(S.COMPLETED, value=value))["workflows"]["r"]["value"] == value


def test_a_failed_row_says_why(tables: Tables) -> None:
    tables.row("r")
    changed = tables.changed(ended(S.FAILED, error=WRONG, reason="unused"))
    row = changed["workflows"]["r"]
    assert (row["status"], row["error_message"], row["error_code"]) == ("failed", "broke", "E_STEP_RAISED")
    assert (row["error"], row["completed_at"]) == (WRONG_JSON, 10)
    said = {"code": "E_STEP_RAISED", "message": "broke"}
    told = {"step": "a", "attempt": 2, "error": said, "failed_items": [1, 2], "reason": "unused"}
    assert tables.told() == [event("StepFailed", "r", told)]


def test_an_error_without_details_is_kept_without_them(tables: Tables) -> None:
    tables.row("r")
    row = tables.changed(ended(S.FAILED, error=ErrorInfo("E_X", "m" * 600)))["workflows"]["r"]
    assert row["error"] == {"code": "E_X", "message": "m" * 600}
    assert tables.told()[0][3]["error"] == {"code": "E_X", "message": "m" * 500}, "the trail is for a first look"


def test_a_skipped_row_has_its_reason_as_message(tables: Tables) -> None:
    tables.row("r")
    row = tables.changed(ended(S.SKIPPED, reason="b failed"))["workflows"]["r"]
    assert row["error_message"] == "b failed"
    assert {"error", "error_code"} & row.keys() == set()


# ---- what it made


def test_a_new_output_is_recorded_whole(tables: Tables) -> None:
    tables.row("r")
    file = made(
        attempt=2,
        parent_artifact_id="their version",
        metadata={"m": 1},
        origin=Origin("9", "sub", "temp"),
    )
    changed = tables.changed(ended(S.COMPLETED, artifacts=(file,), parameters={"n": 1}))
    assert changed["artifacts"] == {
        "file": {
            "id": "file",
            "workflow_id": "r",
            "name": "p",
            "version": 1,
            "is_latest": 1,
            "filename": "pic.png",
            "local_filename": DIGEST,
            "local_path": "p/ath",
            "file_type": "image",
            "file_format": "png",
            "file_size": 3,
            "media_type": "image/png",
            "sha256": DIGEST,
            "node_id": "9",
            "subfolder": "sub",
            "comfy_folder_type": "temp",
            "parent_artifact_id": "their version",
            "approval_status": "auto_approved",
            "attempt": 2,
            "parameters": {"n": 1},
            "extra_metadata": {"m": 1},
            "created_at": 10,
            "updated_at": 10,
        }
    }
    assert changed["workflows"]["r"]["latest_artifact_id"] == "file"
    assert changed.keys() == {"workflows", "artifacts", "events"}, "bytes in a file are not in the database"
    assert tables.told()[0][3]["artifacts"] == ["p v1"]


def test_small_bytes_are_kept_in_the_database_once(tables: Tables) -> None:
    tables.row("r")
    tables.row("again")
    small = made(local_path=None, inline=b"abc")
    changed = tables.changed(ended(S.COMPLETED, artifacts=(small,)))
    assert list(changed["blobs"].values()) == [{"sha256": DIGEST, "size": 3, "data": b"abc"}]
    file = changed["artifacts"]["file"]
    assert {"local_path", "local_filename", "parameters", "extra_metadata", "node_id"} & file.keys() == set()
    assert (file["subfolder"], file["comfy_folder_type"]) == ("", "output")
    same = StepEnded("again", "b", None, S.COMPLETED, artifacts=(structs.replace(small, id="same"),))
    assert "blobs" not in tables.changed(same)


@pytest.mark.parametrize(("filename", "suffix"), [("a.b.png", "png"), ("plain", None), (".png", "png")])
def test_the_format_of_a_file_is_what_follows_its_last_dot(tables: Tables, filename: str, suffix: str | None) -> None:
    tables.row("r")
    changed = tables.changed(ended(S.COMPLETED, artifacts=(structs.replace(made(), filename=filename),)))
    assert changed["artifacts"]["file"].get("file_format") == suffix


def test_a_row_points_at_its_first_output(tables: Tables) -> None:
    tables.row("r")
    tables.row("beside")
    two = (made(), structs.replace(made(), id="second", name="q"))
    changed = tables.changed(ended(S.COMPLETED, artifacts=two))
    assert changed["workflows"]["r"]["latest_artifact_id"] == "file"
    assert changed["workflows"].keys() == {"r"}


def test_a_new_version_takes_the_place_of_the_one_before(tables: Tables) -> None:
    """Of the same output of the same row; versions before that one are not touched again."""
    tables.row("r")
    tables.row("beside")
    tables.version("v1", "r", latest=0)
    tables.version("v2", "r", version=2)
    tables.version("q1", "r", "q")
    tables.version("p1", "beside")
    changed = tables.changed(ended(S.COMPLETED, artifacts=(made(3),)))["artifacts"]
    assert changed.pop("file")["version"] == 3
    assert changed == {"v2": {"is_latest": 0, "updated_at": 10}}


def test_a_second_version_replaces_the_first(tables: Tables) -> None:
    tables.row("r")
    tables.version("v1", "r")
    changed = tables.changed(ended(S.COMPLETED, artifacts=(made(2),)))["artifacts"]
    assert changed["v1"] == {"is_latest": 0, "updated_at": 10}


def test_a_first_version_replaces_nothing(tables: Tables) -> None:
    """Two first versions of one output are a mistake, and refused."""
    tables.row("r")
    tables.version("v0", "r", version=9)
    assert getattr(tables.record(ended(S.COMPLETED, artifacts=(made(),))), "code", None) == "E_DB_CONFLICT"
