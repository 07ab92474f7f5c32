"""Requests to runs: cancel, pause, decisions at gates, replaced files. The owner of a run polls for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from towpath.events import GateFact
from towpath.model import ApprovalStatus, ChainStatus
from towpath.ports import Request

from . import gates, run_tree
from .backend import Row, Script
from .core import sa, t
from .owners import Owner
from .statements import Statement, any_of
from .statements import param as b


def _requested() -> Sequence[sa.ColumnElement[Any]]:
    return t.chains.c.cancel_requested_at, t.chains.c.pause_requested_at


_UNDELIVERED = Statement(
    lambda: (
        sa.select(t.approvals)
        .where(t.approvals.c.status != ApprovalStatus.PENDING, t.approvals.c.delivered == 0)
        .order_by(t.approvals.c.decided_at, t.approvals.c.id)
    )
)
_ASKED_OF = Statement(lambda: sa.select(t.chains.c.id, *_requested()).where(any_of(t.chains.c.id, "runs")))
_ASKED = Statement(
    lambda: sa.select(t.chains.c.id, *_requested()).where(
        t.chains.c.completed_at.is_(None), sa.or_(*(column.is_not(None) for column in _requested()))
    )
)
_ENDING = Statement(
    lambda: sa.select(t.chains.c.id).where(any_of(t.chains.c.id, "runs"), t.chains.c.cancel_requested_at.is_not(None))
)
_RUNNING_IN = Statement(
    lambda: (
        sa.select(t.chains.c.id)
        .where(
            t.chains.c.status == ChainStatus.RUNNING,
            t.chains.c.parent_workflow_id.is_(None),
            t.chains.c.owner == b("owner"),
        )
        .order_by(t.chains.c.id)
    )
)
_LAST_EVENT = Statement(lambda: sa.select(sa.func.coalesce(sa.func.max(t.events.c.seq), 0).label("seq")))
_EDITED = Statement(
    lambda: (
        sa.select(t.workflows.c.step_id, t.workflows.c.item_index)
        .join(t.events, t.events.c.workflow_id == t.workflows.c.id)
        .where(t.events.c.chain_id == b("run"), t.events.c.seq > b("after"), t.events.c.type == GateFact.EDITED)
        .distinct()
    )
)


def requests(run_ids: Sequence[str], at: int) -> Script[tuple[list[str], list[Request]]]:
    """Gates in these runs whose timeout is over, to be closed first; and the open requests of the runs."""
    late = yield from gates.expired(run_ids, at)
    asked = {row["id"]: row for row in (yield _ASKED_OF(runs=run_ids)).rows}
    found = []
    for run in run_ids:
        if run in asked and asked[run]["cancel_requested_at"] is not None:
            found.append(Request(run, "cancel"))
        elif run in asked and asked[run]["pause_requested_at"] is not None:
            found.append(Request(run, "pause"))
    return late, found + (yield from undelivered(frozenset(run_ids)))


def undelivered(ours: frozenset[str]) -> Script[list[Request]]:
    """Decisions not yet acted on: of the run itself, or of a run inside one of its steps (`inner`)."""
    decided = (yield _UNDELIVERED()).rows
    around = yield from run_tree.around([gate["chain_id"] for gate in decided if gate["chain_id"] is not None])
    found: list[Request] = []
    for gate in decided:
        found += _requests_of(gate, around.get(gate["chain_id"], []), ours)
    return found


def _requests_of(gate: Row, around: Sequence[run_tree.Around], ours: frozenset[str]) -> list[Request]:
    found = [gates.as_request(gate)] if gate["chain_id"] in ours else []
    return found + [Request(run.id, "inner", run.step or "", run.item) for run in around[1:] if run.id in ours]


def runs_with_requests(at: int) -> Script[dict[str, int]]:
    """The runs (and those around them) with open requests or with late gates, and since when."""
    since: dict[str, int] = {}
    for row in (yield _ASKED()).rows:
        since[row["id"]] = max(row["cancel_requested_at"] or 0, row["pause_requested_at"] or 0)
    for run, when in (yield from runs_with_decisions(at)).items():
        since[run] = max(when, since.get(run, 0))
    found: dict[str, int] = {}
    for run, outer in (yield from run_tree.around(list(since))).items():
        for one in outer:
            found[one.id] = max(since[run], found.get(one.id, 0))
    return found


def runs_with_decisions(at: int) -> Script[dict[str, int]]:
    """The runs with a late gate, or with a decision that was not acted on, and since when."""
    since: dict[str, int] = {}
    times = [(gate["chain_id"], gate["decided_at"]) for gate in (yield _UNDELIVERED()).rows]
    times += [(gate["chain_id"], gate["expires_at"]) for gate in (yield gates.LATE(**gates.clock(at))).rows]
    for run, when in times:
        if run is not None:
            since[run] = max(when or 0, since.get(run, 0))
    return since


def cancelled_among(run_ids: Sequence[str]) -> Script[list[str]]:
    """The runs among these for which cancel is requested, for them or for a run around them."""
    around = yield from run_tree.around(run_ids)
    outer = sorted({run.id for runs in around.values() for run in runs})
    ending = {row["id"] for row in (yield _ENDING(runs=outer)).rows}
    return [run for run in run_ids if any(one.id in ending for one in around[run])]


def running_in(owner: Owner) -> Script[list[str]]:
    """The running runs of an owner, without those inside steps."""
    return [row["id"] for row in (yield _RUNNING_IN(owner=owner.to_json())).rows]


def edits(run_ids: Sequence[str], after: int) -> Script[tuple[int, list[Request]]]:
    """Rows of these runs whose files people replaced since event `after`, and the last event there is."""
    last = (yield _LAST_EVENT()).one()["seq"]
    found: list[Request] = []
    for run in run_ids if last > after else ():
        edited = (yield _EDITED(run=run, after=after)).rows
        found += [Request(run, "edit", row["step_id"], row["item_index"]) for row in edited]
    return last, found
