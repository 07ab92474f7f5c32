"""The only module that closes gates: for a person, for an edit that approves, and after a timeout.

A decision is one compare-and-set on a pending row: the first one recorded wins. The same transaction records its
effect (`action`), marks the artifacts that the gate lists, adds a line to the audit trail, and sets `delivered = 0`
until the owner of the run has acted on the decision.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

from towpath.errors import ApprovalRefused
from towpath.events import GateFact
from towpath.model import ApprovalStatus, ArtifactApproval, GateAction, Json
from towpath.ports import Request

from . import event_log, run_tree
from .backend import Row, Script
from .clock import now, since_boot
from .core import sa, t
from .owners import this_boot
from .rows import Record, decode, encode, record, record_or_none
from .session import Session
from .statements import Statement, any_of
from .statements import param as b

OF_RUN = Statement(
    lambda: (
        sa.select(t.approvals)
        .where(t.approvals.c.chain_id == b("run"))
        .order_by(t.approvals.c.attempt, t.approvals.c.id)
    )
)


# ---- timeouts
#
# Setting the clock does not change the timeout of a gate: until a reboot, time is measured by a clock that cannot be
# set. After a reboot the time of day counts.


def boot(at: int) -> tuple[str | None, int]:
    """The id and the start of this boot, by a clock that shows `at` now. Stored with a gate that is created now."""
    return this_boot() or None, at - since_boot()


def is_late() -> sa.ColumnElement[bool]:
    """Is the timeout of a pending gate over? Needs the values of `clock`."""
    by_its_clock = sa.case(
        (t.approvals.c.boot == b("this_boot"), t.approvals.c.booted_at + b("since_boot")), else_=b("at")
    )
    return sa.and_(t.approvals.c.status == ApprovalStatus.PENDING, t.approvals.c.expires_at <= by_its_clock)


def clock(at: int) -> dict[str, Any]:
    """The values for `is_late` at a time of day."""
    return {"this_boot": this_boot(), "since_boot": since_boot(), "at": at}


LATE = Statement(
    lambda: (
        sa.select(t.approvals.c.id, t.approvals.c.chain_id, t.approvals.c.expires_at)
        .where(is_late())
        .order_by(t.approvals.c.expires_at, t.approvals.c.id)
    )
)
_LATE_ONE = Statement(
    lambda: sa.select(t.approvals).where(t.approvals.c.id == b("approval"), is_late()).with_for_update()
)


def expired(run_ids: Iterable[str], at: int) -> Script[list[str]]:
    """Pending gates whose timeout is over, in these runs and in runs inside them."""
    late = [gate for gate in (yield LATE(**clock(at))).rows if gate["chain_id"] is not None]
    ours = frozenset(run_ids)
    around = yield from run_tree.around([gate["chain_id"] for gate in late])
    return [gate["id"] for gate in late if ours.intersection(run.id for run in around[gate["chain_id"]])]


def expire(gates: Sequence[str], at: int) -> Script[None]:
    """Close gates whose timeout is over. A gate that was decided meanwhile is not changed."""
    for one in gates:
        found = record_or_none((yield _LATE_ONE(approval=one, **clock(at))).first())
        if found is None:
            continue
        action = _after_timeout(found["policy"])
        approves = action is GateAction.APPROVE
        mark = ArtifactApproval.AUTO_APPROVED if approves else ArtifactApproval.REJECTED
        why = None if approves else "there was no decision in time"
        yield from _close(found, Decision(ApprovalStatus.TIMED_OUT, action), mark, why, at)
        data = event_log.about_step(found["step_id"], found["item_index"], approval=one, action=action)
        yield event_log.line(found["chain_id"], found["workflow_id"], GateFact.TIMED_OUT, at, data)


def _after_timeout(policy: Json) -> GateAction:
    """The action after a timeout. Never a regeneration: only a person can say what should be different."""
    if policy.get("timeout_action") == "auto_approve":
        return GateAction.APPROVE
    return GateAction.SKIP if policy.get("on_rejected") == GateAction.SKIP else GateAction.STOP


# ---- deciding

_MARKS = {
    ApprovalStatus.APPROVED: ArtifactApproval.APPROVED,
    ApprovalStatus.REJECTED: ArtifactApproval.REJECTED,
}
_GATE = Statement(
    lambda: (
        sa.select(t.approvals, is_late().label("late"))
        .where(t.approvals.c.id == b("approval"))
        .with_for_update(of=t.approvals)
    )
)
_CLOSE = Statement(
    lambda: (
        sa.update(t.approvals)
        .where(t.approvals.c.id == b("approval"), t.approvals.c.status == ApprovalStatus.PENDING)
        .values(
            status=b("new_status"),
            action=b("new_action"),
            decided_at=b("at"),
            decided_by=b("by"),
            reason=b("new_reason"),
            decision_parameters=b("parameters"),
            delivered=0,
            updated_at=b("at"),
        )
        .returning(t.approvals)
    )
)
_MARK = Statement(
    lambda: (
        sa.update(t.artifacts)
        .where(any_of(t.artifacts.c.id, "artifacts"))
        .values(
            approval_status=b("mark"),
            approved_by=sa.func.coalesce(b("by"), t.artifacts.c.approved_by),
            approved_at=b("at"),
            rejection_reason=b("why"),
            updated_at=b("at"),
        )
    )
)


def undecided(approval_id: str) -> Script[Record]:
    """A gate that can still be decided; no other decision is possible before this transaction ends.

    Raises ApprovalRefused: E_APPROVAL_MISSING, E_APPROVAL_DECIDED, E_APPROVAL_EXPIRED.
    """
    found = record_or_none((yield _GATE(approval=approval_id, **clock(now()))).first())
    if found is None:
        cure = "`towpath approvals` lists what waits for a decision"
        raise ApprovalRefused("E_APPROVAL_MISSING", "there is no such approval", found=approval_id, cure=cure)
    refusal = _refusal(found, late=bool(found.pop("late")))
    if refusal is not None:
        raise refusal
    return found


@dataclass(frozen=True, slots=True)
class Decision:
    """What closes a gate: the status, the action, who decided and why, and arguments for another attempt."""

    status: ApprovalStatus
    action: GateAction | None = None
    by: str | None = None
    reason: str = ""
    parameters: Json = None


def decide(gate: Record, decision: Decision) -> Script[Record]:
    """Record a decision about a gate from `undecided`, in the same transaction."""
    at, mark = now(), _MARKS.get(decision.status)
    why = decision.reason if mark is ArtifactApproval.REJECTED else None
    closed = yield from _close(gate, decision, mark, why, at)
    data = event_log.about_step(gate["step_id"], gate["item_index"], approval=gate["id"], **_as_data(decision))
    yield event_log.line(gate["chain_id"], gate["workflow_id"], GateFact.RECORDED, at, data)
    return closed


def _as_data(decision: Decision) -> dict[str, Json]:
    return {field.name: getattr(decision, field.name) for field in fields(decision)}


def _close(gate: Record, decision: Decision, mark: ArtifactApproval | None, why: str | None, at: int) -> Script[Record]:
    """The compare-and-set on a pending gate, and the marks on the artifacts that it lists."""
    closed = yield _CLOSE(
        approval=gate["id"],
        new_status=decision.status,
        new_action=decision.action,
        by=decision.by,
        new_reason=decision.reason or None,
        parameters=encode(decision.parameters or None),
        at=at,
    )
    row = closed.first()
    assert row is not None, "the write lock is held since the row was read"
    if mark is not None:
        yield _MARK(artifacts=gate["artifact_ids"], mark=mark, by=decision.by, why=why, at=at)
    return record(row)


async def pending_of(session: Session, workflow_id: str) -> Record | None:
    """The pending gate of a workflow, or None."""
    query = sa.select(t.approvals).where(
        t.approvals.c.workflow_id == workflow_id, t.approvals.c.status == ApprovalStatus.PENDING
    )
    return record_or_none(await session.fetch_one(query))


async def regenerations(session: Session, workflow_id: str) -> int:
    """How many rejections of a workflow asked for a regeneration."""
    count = sa.select(sa.func.count().label("n")).where(
        t.approvals.c.workflow_id == workflow_id, t.approvals.c.action == GateAction.REGENERATE
    )
    row = await session.fetch_one(count)
    assert row is not None
    return int(row["n"])


async def relist(session: Session, workflow_id: str, name: str) -> None:
    """Let the gate of a workflow list the latest versions, after the output `name` changed."""
    gate = await pending_of(session, workflow_id)
    if gate is None:
        return
    listed = await session.fetch_all(
        sa.select(t.artifacts.c.id, t.artifacts.c.name).where(t.artifacts.c.id.in_(gate["artifact_ids"]))
    )
    order = {row["id"]: row["name"] for row in listed}
    names = [order[artifact] for artifact in gate["artifact_ids"] if artifact in order]
    names += [] if name in names else [name]
    latest = sa.select(t.artifacts.c.id, t.artifacts.c.name).where(
        t.artifacts.c.workflow_id == workflow_id, t.artifacts.c.is_latest == 1, t.artifacts.c.name.in_(names)
    )
    ids = {row["name"]: row["id"] for row in await session.fetch_all(latest)}
    change = sa.update(t.approvals).where(t.approvals.c.id == gate["id"])
    now_listed = encode([ids[n] for n in names if n in ids])
    await session.execute(change.values(artifact_ids=now_listed, updated_at=now()))


def _refusal(gate: Record, *, late: bool) -> ApprovalRefused | None:
    if gate["status"] == ApprovalStatus.TIMED_OUT or late:
        what = gate["action"] or _after_timeout(gate["policy"])
        return ApprovalRefused(
            "E_APPROVAL_EXPIRED",
            f"the time for this decision ended {_clock(gate['expires_at'])}; the gate's timeout decides: {what}",
        )
    if gate["status"] == ApprovalStatus.PENDING:
        return None
    by = f" by {gate['decided_by']}" if gate["decided_by"] else ""
    when = f", {_clock(gate['decided_at'])}" if gate["decided_at"] is not None else ""
    what = f", which means {gate['action']}" if gate["status"] == ApprovalStatus.REJECTED and gate["action"] else ""
    return ApprovalRefused(
        "E_APPROVAL_DECIDED",
        f"this was {gate['status']}{by} already{when}{what}; the first decision is final",
        found=gate["reason"] or "",
    )


def _clock(at: int) -> str:
    return f"at {datetime.fromtimestamp(at / 1e6, UTC):%Y-%m-%d %H:%M:%S} UTC"


# ---- for the owner of the run


def as_request(gate: Row) -> Request:
    """A decision as a request to the owner of its run. Without an action (a gate closed by hand) it stops the run."""
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
    """The gates of one row so far: the one that is still open, and what earlier decisions changed."""

    open: Row | None = None
    last: Row | None = None
    regenerations: int = 0
    overrides: dict[str, Json] = field(default_factory=dict)

    def rejected(self, attempt: int) -> bool:
        """Did the last decision concern this attempt, and not approve it?"""
        last = self.last
        return last is not None and last["attempt"] == attempt and last["action"] != GateAction.APPROVE


def pasts(gates: Iterable[Row]) -> dict[str, Past]:
    """The pasts of rows by row id, from all gates of a run in order."""
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
    """The run inside each step. A run that a regeneration will replace is left out."""
    found: dict[str, list[str]] = {}
    for child in children:
        found.setdefault(child["parent_workflow_id"], []).append(child["id"])
    wanted = {row: pasts[row].regenerations if row in pasts else 0 for row in found}
    return {row: runs[-1] for row, runs in found.items() if len(runs) > wanted[row]}
