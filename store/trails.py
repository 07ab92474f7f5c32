"""Compares the audit trail with the rows: I12 of runs and steps, I14 of decisions at gates. Scripts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import sqlalchemy as sa

from towpath.errors import StoreFailed
from towpath.events import GateFact
from towpath.model import GateAction, StepStatus

from .backend import Row, Script
from .findings import PAGE, Finding, Pages, each, unreadable
from .invariants import approval_finding
from .statements import Made, any_of
from .statements import param as b
from .tables import approvals, chains, events, workflows

_ENDS = {
    "StepCompleted": "completed",
    "StepFailed": "failed",
    "StepSkipped": "skipped",
    "StepCancelled": "cancelled",
    "StepCached": "cached",
}
_RUNS = sa.select(chains.c.id, chains.c.status)
_LINES = Made(
    sa.select(events.c.seq, events.c.workflow_id, events.c.type, events.c.data, workflows.c.status)
    .select_from(events.outerjoin(workflows, workflows.c.id == events.c.workflow_id))
    .where(events.c.chain_id == b("run"), events.c.seq > b("after"))
    .order_by(events.c.seq)
    .limit(PAGE)
)


def trails() -> Script[list[Finding]]:
    """No fact follows the end of a run or row, there is one end, and the status is that of the last fact."""
    found: list[Finding] = []
    pages = Pages(_RUNS, chains.c.id, "")
    try:
        while runs := (yield from pages.next()):
            for run in runs:
                found += yield from _trail(run)
    except StoreFailed as error:
        found.append(unreadable("the check of events", error))
    return found


def _trail(run: Row) -> Script[list[Finding]]:
    facts = _Facts(run)
    after = -(2**63)
    while lines := (yield _LINES(run=run["id"], after=after)).rows:
        for line in lines:
            facts.add(line)
        after = lines[-1]["seq"]
    return [*facts.found, *facts.differences()]


class _Facts:
    """The facts of one run so far: how the run ended, and how each of its rows ended."""

    def __init__(self, run: Row) -> None:
        self.found: list[Finding] = []
        self._run = run
        self._run_ended = ""
        self._ended: dict[str, str] = {}
        self._status: dict[str, str] = {}

    def add(self, line: Row) -> None:
        kind = str(line["type"])  # of a damaged line it may be anything
        if kind.startswith("Chain") and line["workflow_id"] is None:
            self.found += self._of_run(kind, line["data"])
        elif line["status"] is not None:
            self.found += self._of_row(line["workflow_id"], line["status"], kind, line["data"])

    def _of_run(self, kind: str, data: str) -> Iterator[Finding]:
        run, ended = self._run["id"], self._run_ended
        if kind not in ("ChainCreated", "ChainStarted", "ChainPaused", "ChainEnded"):
            return
        if ended:
            yield Finding("I12", "E_FSCK_EVENTS", "chains", run, f"its facts say: {kind} after its end ({ended})")
        if kind == "ChainEnded":
            self._run_ended = ended = _decoded(data).get("status", "?")
            if ended != self._run["status"]:
                why = f"is {self._run['status']}, but its facts end with {ended}"
                yield Finding("I12", "E_FSCK_EVENTS", "chains", run, why)

    def _of_row(self, row: str, status: str, kind: str, data: str) -> Iterator[Finding]:
        self._status[row] = status
        ended = self._ended.get(row, "")
        if ended and (kind.startswith("Step") or kind == GateFact.APPLIED):
            why = "completed twice" if kind == "StepCompleted" and ended == "completed" else f"{kind} after its end"
            yield Finding("I12", "E_FSCK_EVENTS", "workflows", row, f"its facts say: {why} ({ended})")
        self._ended[row] = _end_of(kind, data) or ended

    def differences(self) -> Iterator[Finding]:
        """Rows whose status differs from their facts."""
        for row, status in self._status.items():
            ended = self._ended[row]
            if (ended or status in _ENDS.values()) and ended != status:
                last = f"its facts end with {ended}" if ended else "no fact says so"
                yield Finding("I12", "E_FSCK_EVENTS", "workflows", row, f"is {status}, but {last}")


def _end_of(kind: str, data: str) -> str:
    if kind == GateFact.APPLIED:
        status = _decoded(data).get("status", "")
        return status if status in _ENDS.values() else ""
    return _ENDS.get(kind, "")


def _decoded(data: str) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(data)
    except (msgspec.DecodeError, TypeError, UnicodeError):
        return {}
    return found if isinstance(found, dict) else {}


# ---- decisions

_DECISIONS = sa.select(events.c.seq, events.c.type, events.c.data).where(
    events.c.type.in_((GateFact.RECORDED, GateFact.TIMED_OUT, GateFact.APPLIED))
)
_ACTIONS = Made(sa.select(approvals.c.id, approvals.c.action).where(any_of(approvals.c.id, "approvals")))
_COMES_TO = {
    GateAction.APPROVE: (StepStatus.COMPLETED,),
    GateAction.SKIP: (StepStatus.SKIPPED,),
    GateAction.REGENERATE: (StepStatus.EXECUTING, StepStatus.FAILED),
}


def decisions() -> Script[list[Finding]]:
    """Each gate is decided once and acted on once, and the run did what was decided."""
    seen: dict[tuple[str, bool], int] = {}
    applied: list[tuple[str, str]] = []

    def collect(row: Row) -> Iterable[Finding]:
        data, acted = _decoded(row["data"]), row["type"] == GateFact.APPLIED
        gate = data.get("approval")
        if isinstance(gate, str):
            seen[gate, acted] = seen.get((gate, acted), 0) + 1
            applied.extend([(gate, data.get("status", ""))] if acted else [])
        return ()

    yield from each(_DECISIONS, events.c.seq, -(2**63), collect)
    twice = "its facts hold two decisions, or one that was acted on twice"
    found = [approval_finding("approvals", gate, twice) for (gate, _), many in seen.items() if many > 1]
    for start in range(0, len(applied), PAGE):
        found += yield from _other_decisions(applied[start : start + PAGE])
    return found


def _other_decisions(applied: list[tuple[str, str]]) -> Script[list[Finding]]:
    rows = (yield _ACTIONS(approvals=sorted({gate for gate, _ in applied}))).rows
    actions = {row["id"]: row["action"] for row in rows}
    why = "the run acted on another decision than the one recorded"
    return [
        approval_finding("approvals", gate, why)
        for gate, status in applied
        if gate in actions and status not in _COMES_TO.get(actions[gate], (StepStatus.FAILED,))
    ]
