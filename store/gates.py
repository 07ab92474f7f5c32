"""The one place that decides gates, whoever asks: a person, an edit that approves, or the end of the time.

A decision is one compare-and-set on a pending row: the first one recorded wins. The same transaction says
what it does (`action`), marks the artifacts that the gate lists, tells the audit trail, and leaves
`delivered = 0` until the owner of the run has acted on it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
import sqlalchemy as sa

from towpath.errors import ApprovalRefused
from towpath.events import GateFact
from towpath.model import ApprovalStatus, ArtifactApproval, GateAction, Json
from towpath.ports import Request

from .clock import now, since_boot
from .owners import this_boot
from .rows import Record, decode, encode, record, record_or_none
from .session import Row, Session, Statement
from .session import value_of as b
from .tables import approvals, artifacts, events

_MARKS = {
    ApprovalStatus.APPROVED: ArtifactApproval.APPROVED,
    ApprovalStatus.REJECTED: ArtifactApproval.REJECTED,
}

OF_RUN = Statement(
    sa.select(approvals).where(approvals.c.chain_id == b("run")).order_by(approvals.c.attempt, approvals.c.id)
)


# ---- deciding


async def undecided(session: Session, approval_id: str) -> Record:
    """A gate that can still be decided, under the write lock.

    Raises ApprovalRefused: E_APPROVAL_MISSING, E_APPROVAL_DECIDED, E_APPROVAL_EXPIRED.
    """
    await session.begin()
    query = sa.select(approvals).where(approvals.c.id == approval_id)
    found = record_or_none(await session.fetch_one(query))
    if found is None:
        raise ApprovalRefused("E_APPROVAL_MISSING", "there is no such approval", found=approval_id)
    refusal = _refusal(found)
    if refusal is not None:
        raise refusal
    return found


async def pending_of(session: Session, workflow_id: str) -> Record | None:
    """The gate behind a workflow that waits for a decision, if one does."""
    query = sa.select(approvals).where(
        approvals.c.workflow_id == workflow_id, approvals.c.status == ApprovalStatus.PENDING
    )
    return record_or_none(await session.fetch_one(query))


async def decide(
    session: Session,
    gate: Record,
    status: ApprovalStatus,
    by: str | None,
    *,
    action: GateAction | None = None,
    reason: str = "",
    parameters: Json = None,
) -> Record:
    """Record a decision about a gate that `undecided` gave."""
    at = now()
    values: dict[str, Any] = {
        "status": status,
        "action": action,
        "decided_at": at,
        "decided_by": by,
        "reason": reason or None,
        "decision_parameters": encode(parameters or None),
        "delivered": 0,
        "updated_at": at,
    }
    change = sa.update(approvals).where(approvals.c.id == gate["id"], approvals.c.status == ApprovalStatus.PENDING)
    row = await session.fetch_one(change.values(values).returning(approvals))
    assert row is not None, "the write lock is held since the row was read"
    if status in _MARKS:
        word = _MARKS[status]
        rejected = word is ArtifactApproval.REJECTED
        mark = {"approval_status": word, "approved_by": by, "approved_at": at, "updated_at": at}
        change = sa.update(artifacts).where(artifacts.c.id.in_(gate["artifact_ids"]))
        await session.execute(change.values(**mark, rejection_reason=reason if rejected else None))
    told = {"status": status, "action": action, "by": by, "reason": reason, "parameters": parameters}
    await tell(session, gate, GateFact.RECORDED, at, approval=gate["id"], **told)
    return record(row)


async def regenerations(session: Session, workflow_id: str) -> int:
    """How often rejections asked for a regeneration of a workflow."""
    count = sa.select(sa.func.count().label("n")).where(
        approvals.c.workflow_id == workflow_id, approvals.c.action == GateAction.REGENERATE
    )
    row = await session.fetch_one(count)
    assert row is not None
    return int(row["n"])


async def relist(session: Session, workflow_id: str, name: str) -> None:
    """Let the gate behind a workflow list the latest versions, after the output `name` changed."""
    gate = await pending_of(session, workflow_id)
    if gate is None:
        return
    listed = await session.fetch_all(
        sa.select(artifacts.c.id, artifacts.c.name).where(artifacts.c.id.in_(gate["artifact_ids"]))
    )
    order = {row["id"]: row["name"] for row in listed}
    names = [order[artifact] for artifact in gate["artifact_ids"] if artifact in order]
    names += [] if name in names else [name]
    latest = sa.select(artifacts.c.id, artifacts.c.name).where(
        artifacts.c.workflow_id == workflow_id, artifacts.c.is_latest == 1, artifacts.c.name.in_(names)
    )
    ids = {row["name"]: row["id"] for row in await session.fetch_all(latest)}
    change = sa.update(approvals).where(approvals.c.id == gate["id"])
    now_listed = encode([ids[n] for n in names if n in ids])
    await session.execute(change.values(artifact_ids=now_listed, updated_at=now()))


async def tell(session: Session, place: Mapping[str, Any], kind: GateFact, at: int, **more: Json) -> None:
    """Add to the audit trail; `place` is a row with `chain_id`, `workflow_id`, `step_id` and `item_index`."""
    data: dict[str, Json] = {} if place["step_id"] is None else {"step": place["step_id"]}
    if place["item_index"] is not None:
        data["item"] = place["item_index"]
    data.update({key: value for key, value in more.items() if value})
    fact = {"chain_id": place["chain_id"], "workflow_id": place["workflow_id"], "at": at, "data": encode(data)}
    await session.execute(sa.insert(events).values(type=kind, **fact))


def _refusal(gate: Record) -> ApprovalRefused | None:
    if gate["status"] == ApprovalStatus.TIMED_OUT or (gate["status"] == ApprovalStatus.PENDING and _late(gate)):
        what = gate["action"] or _after_timeout(gate["policy"])
        return ApprovalRefused(
            "E_APPROVAL_EXPIRED",
            f"the time for this decision was over {_clock(gate['expires_at'])}; the gate's timeout counts: {what}",
        )
    if gate["status"] == ApprovalStatus.PENDING:
        return None
    by = f" by {gate['decided_by']}" if gate["decided_by"] else ""
    when = f", {_clock(gate['decided_at'])}" if gate["decided_at"] is not None else ""
    what = f", which means {gate['action']}" if gate["status"] == ApprovalStatus.REJECTED and gate["action"] else ""
    return ApprovalRefused(
        "E_APPROVAL_DECIDED",
        f"this was {gate['status']}{by} already{when}{what}; the first decision stands",
        found=gate["reason"] or "",
    )


def _clock(at: int) -> str:
    return f"at {datetime.fromtimestamp(at / 1e6, UTC):%Y-%m-%d %H:%M:%S} UTC"


# ---- the end of the time
#
# A gate lasts as long as its policy says, whatever is done to the clock meanwhile: within the boot in which it
# was asked, the time is what that clock would say if nobody had set it. After a reboot the time of day counts.


def boot(at: int) -> tuple[str | None, int]:
    """This boot and when it began, by a clock that says `at` now: what a gate asked now remembers."""
    return this_boot() or None, at - since_boot()


def _late(gate: Mapping[str, Any]) -> bool:
    same = gate["boot"] is not None and gate["boot"] == this_boot()
    at = gate["booted_at"] + since_boot() if same else now()
    return gate["expires_at"] is not None and gate["expires_at"] <= at


_LATE = "status = 'pending' AND expires_at <= CASE WHEN boot = ? THEN booted_at + ? ELSE ? END"
_LATE_ONES = f"SELECT id, chain_id FROM approvals WHERE {_LATE} ORDER BY expires_at, id"  # noqa: S608 - fixed text
_LATE_ONE = (
    f"SELECT chain_id, workflow_id, step_id, item_index, artifact_ids, policy FROM approvals WHERE id = ? AND {_LATE}"  # noqa: S608
)


def _after_timeout(policy: Json) -> GateAction:
    """Nobody can say what should be different: a regeneration is not tried without a person."""
    if policy.get("timeout_action") == "auto_approve":
        return GateAction.APPROVE
    return GateAction.SKIP if policy.get("on_rejected") == GateAction.SKIP else GateAction.STOP


def late(connection: sqlite3.Connection, at: int) -> list[tuple[str, int]]:
    """The runs of gates whose time is over and that nobody has decided, and until when there was time."""
    query = f"SELECT chain_id, expires_at FROM approvals WHERE chain_id IS NOT NULL AND {_LATE}"  # noqa: S608 - fixed
    return connection.execute(query, (this_boot(), since_boot(), at)).fetchall()


def expired(connection: sqlite3.Connection, run_ids: Iterable[str], at: int) -> list[str]:
    """Gates in these runs, and in runs inside them, whose time is over and that nobody has decided."""
    late = connection.execute(_LATE_ONES, (this_boot(), since_boot(), at)).fetchall()
    ours = frozenset(run_ids)
    return [gate for gate, chain in late if ours.intersection(around(connection, chain))]


def expire(connection: sqlite3.Connection, gates: Sequence[str], at: int) -> None:
    """Close gates whose time is over, inside a write transaction; one that was decided meanwhile stays decided."""
    for gate in gates:
        found = connection.execute(_LATE_ONE, (gate, this_boot(), since_boot(), at)).fetchone()
        if found is None:
            continue
        chain, workflow, step, item, listed, policy = found
        action = _after_timeout(msgspec.json.decode(policy))
        connection.execute(
            "UPDATE approvals SET status = 'timed_out', action = ?, decided_at = ?, delivered = 0, updated_at = ?"
            " WHERE id = ?",
            (action, at, at, gate),
        )
        approves = action is GateAction.APPROVE
        word = ArtifactApproval.AUTO_APPROVED if approves else ArtifactApproval.REJECTED
        why = None if approves else "nobody decided in time"
        marked = [(word, at, why, at, artifact) for artifact in msgspec.json.decode(listed)]
        for values in marked:
            connection.execute(
                "UPDATE artifacts SET approval_status = ?, approved_at = ?, rejection_reason = ?, updated_at = ?"
                " WHERE id = ?",
                values,
            )
        data = {"step": step, **({} if item is None else {"item": item}), "approval": gate, "action": action}
        connection.execute(
            "INSERT INTO events (chain_id, workflow_id, type, at, data) VALUES (?, ?, ?, ?, ?)",
            (chain, workflow, GateFact.TIMED_OUT, at, encode(data)),
        )


# ---- telling the owner


_PARENT = (
    "SELECT w.chain_id, w.step_id, w.item_index FROM chains c JOIN workflows w ON w.id = c.parent_workflow_id"
    " WHERE c.id = ?"
)


def around(connection: sqlite3.Connection, chain: str | None) -> Iterable[str]:
    """A run and the runs that it is inside of."""
    while chain is not None:
        yield chain
        above = connection.execute(_PARENT, (chain,)).fetchone()
        chain = None if above is None else above[0]


def undelivered(connection: sqlite3.Connection, ours: frozenset[str]) -> list[Request]:
    """Decisions not yet acted on: for the run itself, or for a run inside one of its steps (`inner`)."""
    found: list[Request] = []
    query = "SELECT * FROM approvals WHERE status <> 'pending' AND delivered = 0 ORDER BY decided_at, id"
    cursor = connection.execute(query)
    names = [column[0] for column in cursor.description]
    for values in cursor.fetchall():
        gate = dict(zip(names, values, strict=True))
        inside: str | None = gate["chain_id"]
        if inside in ours:
            found.append(as_request(gate))
        while inside is not None:
            inside, step, item = connection.execute(_PARENT, (inside,)).fetchone() or (None, None, None)
            if inside in ours:
                found.append(Request(str(inside), "inner", str(step), item))
    return found


def as_request(gate: Row) -> Request:
    """A decision as its run's owner is told of it. One without an action (a gate closed by hand) stops."""
    return Request(
        run_id=gate["chain_id"],
        kind="decision",
        step=gate["step_id"] or "",
        item=gate["item_index"],
        approval=gate["id"],
        decision=gate["status"],
        action=gate["action"] or GateAction.STOP,
        reason=gate["reason"] or "",
        by=gate["decided_by"] or "",
        parameters=decode(gate["decision_parameters"]) or {},
    )


@dataclass(slots=True)
class Past:
    """What the gates behind one row came to: the one still open, and what earlier decisions changed."""

    open: Row | None = None
    last: Row | None = None
    regenerations: int = 0
    overrides: dict[str, Json] = field(default_factory=dict)

    def rejected(self, attempt: int) -> bool:
        """Was it what this attempt made that a decision ended, and did not approve?"""
        last = self.last
        return last is not None and last["attempt"] == attempt and last["action"] != GateAction.APPROVE


def pasts(gates: Iterable[Row]) -> dict[str, Past]:
    """The pasts of rows by their id, from all gates of a run in the order they were asked."""
    found: dict[str, Past] = {}
    for gate in gates:
        past = found.setdefault(gate["workflow_id"], Past())
        past.last = gate
        if not gate["delivered"]:
            past.open = gate
        elif gate["action"] == GateAction.REGENERATE:
            past.regenerations += 1
            past.overrides.update(decode(gate["decision_parameters"]) or {})
    return found


def runs_inside(children: Iterable[Row], pasts: dict[str, Past]) -> dict[str, str]:
    """The run inside each step. One that a regeneration is to replace is its step's no more."""
    found: dict[str, list[str]] = {}
    for child in children:
        found.setdefault(child["parent_workflow_id"], []).append(child["id"])
    wanted = {row: pasts[row].regenerations if row in pasts else 0 for row in found}
    return {row: runs[-1] for row, runs in found.items() if len(runs) > wanted[row]}
