"""Parts of a run, for drivers that do not hold all of it in memory: one look, one hop, few rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

import msgspec

from towpath.events import GateFact
from towpath.model import ArtifactRow, ChainStatus, ErrorInfo, StepStatus
from towpath.ports import Request, RunStatus, StepRow

from . import gates, rows
from .owners import Owner
from .session import Row, fetch
from .tables import artifact_deletions, artifacts

_OURS = "SELECT value FROM json_each(?2)"
_ROWS = f"""SELECT * FROM workflows WHERE chain_id = ?1 AND step_id IN ({_OURS})
    UNION SELECT w.* FROM json_each(?3) j JOIN workflows w ON w.chain_id = ?1
        AND w.step_id = json_extract(j.value, '$[0]') AND w.item_index = json_extract(j.value, '$[1]')
    ORDER BY id"""  # noqa: S608 - fixed text
_LATEST = "SELECT * FROM artifacts WHERE is_latest = 1 AND workflow_id IN (SELECT value FROM json_each(?)) ORDER BY id"
_GATES = "SELECT * FROM approvals WHERE workflow_id IN (SELECT value FROM json_each(?)) ORDER BY id"
_GIVEN = f"""SELECT workflow_id, name, max(version) AS highest FROM (
        SELECT workflow_id, name, version FROM {artifacts.name}
        UNION ALL SELECT workflow_id, name, version FROM {artifact_deletions.name}
    ) WHERE workflow_id IN (SELECT value FROM json_each(?)) GROUP BY workflow_id, name"""  # noqa: S608


def step_row(row: Row, files: tuple[ArtifactRow, ...], versions: dict[str, int], past: gates.Past | None) -> StepRow:
    past = past or gates.Past()
    status = rows.word(StepStatus, row["status"], "workflows", row["id"], "status")
    error = rows.decode(row["error"])
    gate = past.open
    return StepRow(
        id=row["id"],
        step=row["step_id"],
        item=row["item_index"],
        status=status,
        attempt=row["attempt"],
        value=rows.decode(row["value"]),
        count=row["item_count"],
        parameters=rows.decode(row["parameters"]),
        error=msgspec.convert(error, ErrorInfo) if isinstance(error, dict) else None,
        reason=row["error_message"] or "",
        waits_for_person=gate is not None,
        approval=gate["id"] if gate else None,
        decision=gates.as_request(gate) if gate and gate["status"] != "pending" else None,
        regenerations=past.regenerations,
        overrides=past.overrides,
        rejected=status is StepStatus.FAILED and past.rejected(row["attempt"]),
        versions=versions,
        queued_at=row["queued_at"],
        started_at=row["started_at"],
        completed_at=row["completed_at"],
        server_address=row["server_address"],
        prompt_id=row["prompt_id"],
        artifacts=files,
    )


def status_of(connection: sqlite3.Connection, run_id: str) -> RunStatus | None:
    """How a run stands now."""
    asked = "SELECT status, status_reason, epoch, owner, cancel_requested_at FROM chains WHERE id = ?"
    found = connection.execute(asked, (run_id,)).fetchone()
    if found is None:
        return None
    status = rows.word(ChainStatus, found[0], "chains", run_id, "status")
    return RunStatus(status, found[1] or "", found[2], found[3] is not None, found[4] is not None)


def rows_of(
    connection: sqlite3.Connection, run_id: str, steps: Sequence[str], items: Sequence[tuple[str, int]]
) -> list[StepRow]:
    """What is recorded of some steps with all their items, and of some items."""
    found = fetch(connection, (_ROWS, (run_id, _json(steps), _json(items))))
    if not found:
        return []
    ours = (_json([row["id"] for row in found]),)
    files: dict[str, list[ArtifactRow]] = {}
    for row in fetch(connection, (_LATEST, ours)):
        files.setdefault(row["workflow_id"], []).append(rows.artifact(row))
    given: dict[str, dict[str, int]] = {}
    for row in fetch(connection, (_GIVEN, ours)):
        given.setdefault(row["workflow_id"], {})[row["name"]] = row["highest"]
    pasts = gates.pasts(fetch(connection, (_GATES, ours)))
    return [
        step_row(row, tuple(files.get(row["id"], ())), given.get(row["id"], {}), pasts.get(row["id"])) for row in found
    ]


def asked(connection: sqlite3.Connection, at: int) -> dict[str, int]:
    """The runs (and those around them) of which something is asked, or whose gates' time is over, and since when."""
    query = """SELECT id, max(coalesce(cancel_requested_at, 0), coalesce(pause_requested_at, 0)) FROM chains
            WHERE completed_at IS NULL AND (cancel_requested_at IS NOT NULL OR pause_requested_at IS NOT NULL)
        UNION ALL SELECT chain_id, decided_at FROM approvals WHERE status <> 'pending' AND delivered = 0"""
    found = connection.execute(query).fetchall()
    late = gates.late(connection, at)
    since: dict[str, int] = {}
    for run, when in [*found, *late]:
        for outer in gates.around(connection, run):
            since[outer] = max(when or 0, since.get(outer, 0))
    return since


def cancelled_among(connection: sqlite3.Connection, run_ids: Sequence[str]) -> list[str]:
    """Those of these runs whose end, or the end of a run around them, is asked for."""
    ends = "SELECT 1 FROM chains WHERE id = ? AND cancel_requested_at IS NOT NULL"
    return [
        run
        for run in run_ids
        if any(connection.execute(ends, (outer,)).fetchone() for outer in gates.around(connection, run))
    ]


def running_in(connection: sqlite3.Connection, owner: Owner) -> list[str]:
    """The running runs of an owner, those inside steps left out."""
    query = "SELECT id FROM chains WHERE status = 'running' AND parent_workflow_id IS NULL AND owner = ? ORDER BY id"
    return [run for (run,) in connection.execute(query, (owner.to_json(),)).fetchall()]


def edits(connection: sqlite3.Connection, run_ids: Sequence[str], after: int) -> tuple[int, list[Request]]:
    """Rows of these runs whose files people replaced since event `after`, and the event up to which was looked."""
    (last,) = connection.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()
    asked = (
        "SELECT DISTINCT w.step_id, w.item_index FROM events e JOIN workflows w ON w.id = e.workflow_id"
        " WHERE e.chain_id = ? AND e.seq > ? AND e.type = ?"
    )
    found = [
        Request(run_id, "edit", step, item)
        for run_id in run_ids
        for step, item in connection.execute(asked, (run_id, after, GateFact.EDITED)).fetchall()
    ]
    return last, found


def _json(data: Any) -> str:
    return msgspec.json.encode(data).decode()
