"""What must hold between rows: each check reads one snapshot and tells every row where it does not.

The numbers are the invariants of the reliability page: I3 versions, I4 latest, I5 pointer, I6 lineage, I10
transfers, I12 statuses and their trail, I13 owners, I14 approvals, I15 the database itself.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from towpath.model import ApprovalStatus, ArtifactApproval, ChainStatus, GateAction, StepStatus, TransferStatus
from towpath.values import REFERENCE, STORED_VALUE

from .clock import now
from .definitions import elsewhere
from .owners import parse
from .tables import metadata


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be: the invariant, a stable code, the row or file, a sentence."""

    invariant: str
    code: str
    table: str
    row: str
    sentence: str
    repaired: bool = False
    note: bool = False
    """Worth knowing, but nothing is damaged."""

    def __str__(self) -> str:
        mended = " (repaired)" if self.repaired else ""
        return f"{self.invariant} {self.code} {self.table} {self.row}: {self.sentence}{mended}"


Findings = Iterator[Finding]
Check = Callable[[sqlite3.Connection], Iterable[Finding]]

_STATUSES = (
    ("chains", "status", ChainStatus),
    ("workflows", "status", StepStatus),
    ("artifact_transfers", "status", TransferStatus),
    ("approvals", "status", ApprovalStatus),
    ("approvals", "action", GateAction),
    ("artifacts", "approval_status", ArtifactApproval),
)
_JSON = (
    ("chains", "id", ("chain_definition", "inputs", "owner")),
    ("workflows", "id", ("value", "parameters", "error", "workflow_definition")),
    ("approvals", "id", ("artifact_ids", "policy", "decision_parameters")),
    ("artifacts", "id", ("parameters", "extra_metadata")),
    ("events", "seq", ("data",)),
)


# ---- I15: the database itself


def integrity(connection: sqlite3.Connection) -> Findings:
    for (text,) in connection.execute("PRAGMA integrity_check(100)"):
        if text != "ok":
            yield Finding("I15", "E_DB_CORRUPT", "database", "", text)


def quick_integrity(connection: sqlite3.Connection) -> Findings:
    for (text,) in connection.execute("PRAGMA quick_check(100)"):
        if text != "ok":
            yield Finding("I15", "E_DB_CORRUPT", "database", "", text)


def references(connection: sqlite3.Connection) -> Findings:
    for table, rowid, parent, _ in connection.execute("PRAGMA foreign_key_check"):
        yield Finding("I15", "E_DB_REFERENCE", table, str(rowid), f"refers to a row of {parent} that is not there")


def schema(connection: sqlite3.Connection) -> Findings:
    """A table or an index that is gone holds nothing true any more."""
    found = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    for table in metadata.sorted_tables:
        wanted = [table.name, *sorted(str(index.name) for index in table.indexes)]
        for name in wanted:
            if name not in found:
                yield Finding("I15", "E_FSCK_SCHEMA", table.name, name, f"{name} was dropped from the database")


# ---- words and JSON


def words(connection: sqlite3.Connection) -> Findings:
    for table, column, kind in _STATUSES:
        listed = ", ".join(f"'{word}'" for word in kind)
        query = f"SELECT id, {column} FROM {table} WHERE {column} NOT IN ({listed})"  # noqa: S608 - names of ours
        for row, word in connection.execute(query):
            yield Finding("I12", "E_DB_VALUE", table, row, f"{column} holds the unknown word {word!r:.80}")


def json_columns(connection: sqlite3.Connection) -> Findings:
    for table, key, columns in _JSON:
        for column in columns:
            query = f"SELECT {key}, {column} FROM {table} WHERE {column} IS NOT NULL"  # noqa: S608 - names of ours
            for row, text in connection.execute(query):
                if not _is_json(text):
                    yield Finding("I12", "E_DB_VALUE", table, str(row), f"{column} holds no JSON: {text!r:.80}")


def _is_json(text: Any) -> bool:
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.DecodeError, TypeError, UnicodeError):
        return False
    return True


def definitions(connection: sqlite3.Connection) -> Findings:
    """What a run says it executes is there, and is what it names."""
    for row, text in connection.execute("SELECT id, chain_definition FROM chains WHERE chain_definition IS NOT NULL"):
        digest = elsewhere(text)
        if digest is None:
            continue
        query = "SELECT definition FROM definitions WHERE sha256 = ?"
        found = connection.execute(query, (digest,)).fetchone()
        if found is None:
            yield Finding("I7", "E_FSCK_DEFINITION", "chains", row, f"its definition {digest} is not in the store")
        elif hashlib.sha256(found[0].encode()).hexdigest() != digest:
            yield Finding("I7", "E_FSCK_DEFINITION", "chains", row, f"its definition is not the one it names, {digest}")


# ---- I3 to I6: versions of artifacts

_NUMBERS = """
SELECT workflow_id, name, count(*), count(DISTINCT version), min(version), max(version) FROM (
    SELECT workflow_id, name, version FROM artifacts
    UNION ALL SELECT workflow_id, name, version FROM artifact_deletions)
GROUP BY workflow_id, name
HAVING count(*) <> count(DISTINCT version) OR count(DISTINCT version) <> max(version) OR min(version) < 1
"""


def versions(connection: sqlite3.Connection) -> Findings:
    for row, name, count, distinct, lowest, highest in connection.execute(_NUMBERS):
        if count != distinct:
            why = "a version number was given twice"
        elif lowest < 1:
            why = f"a version is numbered {lowest}"
        else:
            why = f"{distinct} versions are there, the highest is {highest}, and no deletion explains the gap"
        yield Finding("I3", "E_FSCK_VERSIONS", "artifacts", row, f"output {name}: {why}")


WRONG_LATEST = """
SELECT workflow_id, name, total(is_latest = 1), max(version) FROM artifacts
GROUP BY workflow_id, name HAVING total(is_latest = 1) <> 1 OR total(is_latest NOT IN (0, 1)) > 0
"""


def latest(connection: sqlite3.Connection) -> Findings:
    for row, name, count, _ in connection.execute(WRONG_LATEST):
        many = "no version is" if not count else f"{count:.0f} versions are"
        yield Finding("I4", "E_FSCK_LATEST", "artifacts", row, f"output {name}: {many} marked as the latest")


WRONG_POINTER = """
SELECT w.id, w.latest_artifact_id, a.is_latest FROM workflows w
LEFT JOIN artifacts a ON a.id = w.latest_artifact_id AND a.workflow_id = w.id
WHERE CASE WHEN w.latest_artifact_id IS NULL
    THEN EXISTS (SELECT 1 FROM artifacts x WHERE x.workflow_id = w.id)
    ELSE a.id IS NULL OR a.is_latest <> 1 END
"""


def pointers(connection: sqlite3.Connection) -> Findings:
    for row, pointer, flag in connection.execute(WRONG_POINTER):
        if pointer is None:
            why = "is empty although there are artifacts"
        else:
            why = "names no artifact of this workflow" if flag is None else "names an old version"
        yield Finding("I5", "E_FSCK_POINTER", "workflows", row, f"latest_artifact_id {why}")


_WRONG_PARENT = """
SELECT a.id, p.id, p.workflow_id IS NOT a.workflow_id OR p.name IS NOT a.name FROM artifacts a
LEFT JOIN artifacts p ON p.id = a.parent_artifact_id
WHERE a.parent_artifact_id IS NOT NULL
    AND (p.id IS NULL OR p.workflow_id <> a.workflow_id OR p.name <> a.name OR p.version >= a.version)
"""


def lineage(connection: sqlite3.Connection) -> Findings:
    """A parent of the same output with a lower number: nothing else, and so no cycle either."""
    for row, parent, stranger in connection.execute(_WRONG_PARENT):
        if parent is None:
            why = "is not there"
        else:
            why = "belongs to another output" if stranger else "is no older version: the lineage goes in a circle"
        yield Finding("I6", "E_FSCK_LINEAGE", "artifacts", row, f"the parent {why}")


# ---- I7: bytes in the database


def inline_sizes(connection: sqlite3.Connection) -> Findings:
    query = """SELECT a.id, a.file_size, b.size, length(b.data) FROM artifacts a JOIN blobs b ON b.sha256 = a.sha256
        WHERE b.size <> a.file_size OR length(b.data) <> a.file_size"""
    for row, wanted, _, found in connection.execute(query):
        yield Finding("I7", "E_BLOB_CORRUPT", "artifacts", row, f"{found} bytes in the database instead of {wanted}")


def inline_bytes(connection: sqlite3.Connection) -> Findings:
    for digest, data in connection.execute("SELECT sha256, data FROM blobs"):
        found = data if isinstance(data, bytes) else str(data).encode()
        if hashlib.sha256(found).hexdigest() != digest:
            yield Finding("I7", "E_BLOB_CORRUPT", "blobs", digest, "the bytes in the database are not those it names")


# ---- I10: transfers


def transfers(connection: sqlite3.Connection) -> Findings:
    query = "SELECT id FROM artifact_transfers WHERE status = 'completed' AND uploaded_at IS NULL"
    for (row,) in connection.execute(query):
        yield Finding("I10", "E_FSCK_TRANSFER", "artifact_transfers", row, "completed, but at no time")
    query = """SELECT max(id), count(*), target_server FROM artifact_transfers WHERE status = 'completed'
        GROUP BY artifact_id, target_server, target_subfolder, target_workflow_id HAVING count(*) > 1"""
    for row, count, server in connection.execute(query):
        why = f"one artifact was sent {count} times to the same place at {server}"
        yield Finding("I10", "E_FSCK_TRANSFER", "artifact_transfers", row, why)


# ---- I12: statuses and the trail of facts

_ENDS = {
    "StepCompleted": "completed",
    "StepFailed": "failed",
    "StepSkipped": "skipped",
    "StepCancelled": "cancelled",
    "StepCached": "cached",
}


def open_rows(connection: sqlite3.Connection) -> Findings:
    query = """SELECT w.id, w.status, c.status FROM workflows w JOIN chains c ON c.id = w.chain_id
        WHERE c.completed_at IS NOT NULL AND c.status IN ('completed', 'partial', 'failed', 'cancelled')
        AND w.status IN ('queued', 'executing', 'waiting_approval')"""
    for row, status, chain in connection.execute(query):
        yield Finding("I12", "E_FSCK_STATUS", "workflows", row, f"is {status}, but its chain is {chain}")


def ended_at(connection: sqlite3.Connection) -> Findings:
    for table, kind in (("chains", ChainStatus), ("workflows", StepStatus)):
        final = ", ".join(f"'{word}'" for word in kind if word.final)
        query = (
            f"SELECT id, status, completed_at FROM {table} WHERE (status IN ({final})) <> (completed_at IS NOT NULL)"  # noqa: S608
        )
        for row, status, at in connection.execute(query):
            why = "has no time of its end" if at is None else "has a time of its end"
            yield Finding("I12", "E_FSCK_STATUS", table, row, f"is {status}, but {why}")


def row_trails(connection: sqlite3.Connection) -> Findings:
    """No fact about a row follows its end, it completes once, and it is what its last fact says."""
    query = """SELECT e.workflow_id, e.type, e.data, w.status FROM events e JOIN workflows w ON w.id = e.workflow_id
        ORDER BY e.workflow_id, e.seq"""
    row, ended, status = "", "", ""
    for current, kind, data, now_is in connection.execute(query):
        if current != row:
            yield from _told_otherwise(row, ended, status)
            row, ended, status = current, "", now_is
        if ended and (kind.startswith("Step") or kind == "DecisionApplied"):
            why = "completed twice" if kind == "StepCompleted" and ended == "completed" else f"{kind} after its end"
            yield Finding("I12", "E_FSCK_EVENTS", "workflows", row, f"its facts say: {why} ({ended})")
        ended = _end_told(kind, data) or ended
    yield from _told_otherwise(row, ended, status)


def _end_told(kind: str, data: str) -> str:
    if kind == "DecisionApplied" and _is_json(data):
        status = msgspec.json.decode(data).get("status", "")
        return status if status in _ENDS.values() else ""
    return _ENDS.get(kind, "")


def _told_otherwise(row: str, ended: str, status: str) -> Findings:
    final = status in _ENDS.values()
    if row and (ended or final) and ended != status:
        told = f"its facts end with {ended}" if ended else "no fact says so"
        yield Finding("I12", "E_FSCK_EVENTS", "workflows", row, f"is {status}, but {told}")


def chain_trails(connection: sqlite3.Connection) -> Findings:
    query = """SELECT e.chain_id, e.type, e.data, c.status FROM events e JOIN chains c ON c.id = e.chain_id
        WHERE e.type IN ('ChainCreated', 'ChainStarted', 'ChainPaused', 'ChainEnded') ORDER BY e.chain_id, e.seq"""
    row, ended = "", ""
    for current, kind, data, status in connection.execute(query):
        if current != row:
            row, ended = current, ""
        if ended:
            yield Finding("I12", "E_FSCK_EVENTS", "chains", row, f"its facts say: {kind} after its end ({ended})")
        if kind == "ChainEnded":
            ended = msgspec.json.decode(data).get("status", "?") if _is_json(data) else "?"
            if ended != status:
                yield Finding("I12", "E_FSCK_EVENTS", "chains", row, f"is {status}, but its facts end with {ended}")


_ITEMS = """
SELECT p.id, p.status, p.item_count, count(i.id), coalesce(max(i.item_index), -1) FROM workflows p
LEFT JOIN workflows i ON i.chain_id = p.chain_id AND i.step_id = p.step_id AND i.item_index IS NOT NULL
WHERE p.item_index IS NULL AND p.item_count IS NOT NULL GROUP BY p.id
"""


def items(connection: sqlite3.Connection) -> Findings:
    """A mapped step has a row for each of its items once it completed, and never one too many."""
    for row, status, wanted, found, highest in connection.execute(_ITEMS):
        if highest >= wanted or (status in ("completed", "cached") and found != wanted):
            why = f"{found} items up to number {highest} instead of {wanted}"
            yield Finding("I12", "E_FSCK_ITEMS", "workflows", row, why)


def values(connection: sqlite3.Connection) -> Findings:
    """The files that the value of a completed row stands for are there."""
    query = """SELECT id, chain_id, step_id, value FROM workflows WHERE status IN ('completed', 'cached')
        AND (instr(value, '"$artifact"') OR instr(value, '"$stored"'))"""
    for row, chain, step, value in connection.execute(query):
        if not _is_json(value):
            continue  # told by `json_columns`
        for name, item in _named_in(msgspec.json.decode(value)):
            yield from _missing_output(connection, row, (chain, step, item), name)


def _missing_output(
    connection: sqlite3.Connection, row: str, place: tuple[str, str, int | None], name: str
) -> Findings:
    holder: str | None = row
    if place[2] is not None:
        query = "SELECT id FROM workflows WHERE chain_id = ? AND step_id = ? AND item_index = ?"
        holder = (connection.execute(query, place).fetchone() or (None,))[0]
    for table in ("artifacts", "artifact_deletions"):
        query = f"SELECT 1 FROM {table} WHERE workflow_id = ? AND name = ?"  # noqa: S608 - two names of ours
        if connection.execute(query, (holder, name)).fetchone():
            if table == "artifact_deletions":
                why = f"its value stands for the file {name}, which somebody deleted"
                yield Finding("I7", "E_FSCK_VALUE", "workflows", row, why, note=True)
            return
    yield Finding("I7", "E_FSCK_VALUE", "workflows", row, f"its value stands for the file {name}, which is not there")


def _named_in(value: Any) -> Iterator[tuple[str, int | None]]:
    if isinstance(value, dict):
        if REFERENCE in value:
            yield value[REFERENCE], value.get("item")
        elif STORED_VALUE in value:
            yield value[STORED_VALUE], None
        else:
            for inner in value.values():
                yield from _named_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _named_in(inner)


# ---- I13 and I14: owners and approvals


def owners(connection: sqlite3.Connection) -> Findings:
    """Runs that nobody works on, though their status says otherwise. Nothing is lost; they wait."""
    query = """SELECT id, owner, lease_until FROM chains
        WHERE status = 'running' AND (owner IS NOT NULL OR chain_definition IS NOT NULL)"""
    for row, text, until in connection.execute(query):
        if text is not None and not _is_json(text):
            continue  # told by `json_columns`
        owner = parse(text)
        if owner is None or owner.left(until or 0, now()) < 0:
            who = "nobody works on it" if owner is None else f"it was left by {owner}"
            yield Finding("I13", "E_FSCK_LEFT", "chains", row, f"{who}: `towpath resume {row}`", note=True)


_TOLD = "CASE WHEN json_valid(e.data) THEN json_extract(e.data, '$.approval') END"
_GATES = (
    ("workflows", "several approvals are pending at once",
     "SELECT workflow_id FROM approvals WHERE status = 'pending' GROUP BY 1 HAVING count(*) > 1"),
    ("workflows", "waits for an approval that nobody was asked for",
     """SELECT w.id FROM workflows w WHERE w.status = 'waiting_approval' AND w.item_count IS NULL
        AND NOT EXISTS (SELECT 1 FROM chains c WHERE c.parent_workflow_id = w.id)
        AND NOT EXISTS (SELECT 1 FROM approvals a WHERE a.workflow_id = w.id AND a.delivered = 0)"""),
    ("approvals", "was decided without a time, or has a time without a decision",
     "SELECT id FROM approvals WHERE (status = 'pending') <> (decided_at IS NULL)"),
    ("approvals", "its row is over, but nobody acted on the decision",
     """SELECT a.id FROM approvals a JOIN workflows w ON w.id = a.workflow_id JOIN chains c ON c.id = w.chain_id
        WHERE a.delivered = 0 AND a.status <> 'pending' AND w.completed_at IS NOT NULL
        AND c.chain_definition IS NOT NULL"""),
    ("approvals", "its facts tell of two decisions, or of one that was acted on twice",
     f"""SELECT {_TOLD} FROM events e WHERE e.type IN ('DecisionRecorded', 'ApprovalTimedOut', 'DecisionApplied')
        GROUP BY 1, e.type = 'DecisionApplied' HAVING count(*) > 1 AND {_TOLD} IS NOT NULL"""),  # noqa: S608
    ("approvals", "the run acted on another decision than the one recorded",
     f"""SELECT a.id FROM events e JOIN approvals a ON a.id = {_TOLD} WHERE e.type = 'DecisionApplied'
        AND json_extract(e.data, '$.status') NOT IN (CASE a.action WHEN 'approve' THEN 'completed'
            WHEN 'skip' THEN 'skipped' WHEN 'regenerate' THEN 'executing' ELSE 'failed' END,
            iif(a.action = 'regenerate', 'failed', ''))"""),  # noqa: S608
)  # fmt: skip


def approvals(connection: sqlite3.Connection) -> Findings:
    for table, why, query in _GATES:
        for (row,) in connection.execute(query):
            yield Finding("I14", "E_FSCK_APPROVAL", table, row, why)


# ---- I8: bytes in the database that no row names

ORPHANS = "FROM blobs WHERE NOT EXISTS (SELECT 1 FROM artifacts a WHERE a.sha256 = blobs.sha256)"


def inline_orphans(connection: sqlite3.Connection) -> Findings:
    """Left by deleted artifacts. They do no harm and have no age, so they are no problem."""
    for digest, size in connection.execute(f"SELECT sha256, size {ORPHANS}"):
        why = f"{size} bytes in the database belong to no artifact"
        yield Finding("I8", "E_FSCK_ORPHAN", "blobs", digest, why, note=True)


CHECKS: tuple[Check, ...] = (
    schema,
    references,
    words,
    json_columns,
    definitions,
    versions,
    latest,
    pointers,
    lineage,
    inline_sizes,
    inline_orphans,
    transfers,
    open_rows,
    ended_at,
    row_trails,
    chain_trails,
    items,
    values,
    owners,
    approvals,
)
