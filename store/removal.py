"""Removing runs that are over: what goes with a run, and what space its files free. Scripts."""

from __future__ import annotations

from typing import Any

from towpath.errors import RunRefused
from towpath.model import ChainStatus
from towpath.ports import Removed

from .backend import Row, Script
from .clock import now
from .core import sa, t
from .event_log import line
from .run_tree import inside
from .statements import Statement, any_of, json_object, json_text
from .statements import param as b

_RUN = Statement(
    lambda: (
        sa.select(t.chains.c.status, t.chains.c.run_name, t.workflows.c.chain_id.label("outer"))
        .outerjoin(t.workflows, t.workflows.c.id == t.chains.c.parent_workflow_id)
        .where(t.chains.c.id == b("run"))
    )
)
_INSIDE = Statement(lambda: inside(b("run")))
_DELETE = Statement(lambda: sa.delete(t.chains).where(t.chains.c.id == b("run")))


def _keep_names() -> sa.Update:
    """Keep the audit lines that name a person: who, what and when, but no data of the run."""
    by = json_text(t.events.c.data, "by")
    kept = json_object(by=by, run_id=t.events.c.chain_id, step=json_text(t.events.c.data, "step"))
    named = sa.update(t.events).where(t.events.c.chain_id.in_(inside(b("run"))), by.is_not(None))
    return named.values(data=kept, chain_id=None, workflow_id=None)


def _counts() -> sa.Select[*tuple[Any, ...]]:
    rows = t.workflows.outerjoin(t.artifacts, t.artifacts.c.workflow_id == t.workflows.c.id)
    steps = sa.func.count(sa.case((t.workflows.c.item_index.is_(None), t.workflows.c.id)).distinct()).label("steps")
    files = sa.func.count(t.artifacts.c.id).label("files")
    return sa.select(steps, files).select_from(rows).where(any_of(t.workflows.c.chain_id, "runs"))


def _freed() -> sa.Select[*tuple[Any, ...]]:
    """The bytes of all contents that only these runs have."""
    other, made_by = t.artifacts.alias("other"), t.workflows.alias("made_by")
    row = t.workflows.c.id == t.artifacts.c.workflow_id
    ours = sa.select(t.artifacts.c.sha256, sa.func.max(t.artifacts.c.file_size).label("size")).join(t.workflows, row)
    ours = ours.where(any_of(t.workflows.c.chain_id, "runs")).group_by(t.artifacts.c.sha256)
    found = ours.subquery("ours")
    elsewhere = (
        sa.select(other.c.id)
        .join(made_by, made_by.c.id == other.c.workflow_id)
        .where(other.c.sha256 == found.c.sha256)
        .where(sa.or_(made_by.c.chain_id.is_(None), sa.not_(any_of(made_by.c.chain_id, "runs"))))
    )
    return sa.select(sa.func.coalesce(sa.func.sum(found.c.size), 0).label("bytes")).where(~elsewhere.exists())


_KEEP_NAMES = Statement(_keep_names)
_COUNTS = Statement(_counts)
_FREED = Statement(_freed)


def delete(run_id: str) -> Script[bool]:
    """Delete a run with its steps, files, transfers, gates and the runs inside it. Did it exist?"""
    yield _KEEP_NAMES(run=run_id)
    return (yield _DELETE(run=run_id)).touched > 0


def remove(run_id: str, by: str) -> Script[Removed | None]:
    """Delete a run that is over, and add a line to the audit trail. None if there is no such run.

    Raises RunRefused: E_RUN_ACTIVE, E_RUN_INSIDE.
    """
    run = (yield _RUN(run=run_id)).first()
    if run is None:
        return None
    _refuse(run_id, run)
    runs = [row["id"] for row in (yield _INSIDE(run=run_id)).rows]
    counts = (yield _COUNTS(runs=runs)).one()
    freed = (yield _FREED(runs=runs)).one()
    yield from delete(run_id)
    named = {} if run["run_name"] is None else {"name": run["run_name"]}
    yield line(None, None, "ChainDeleted", now(), {"run_id": run_id, **named, "by": by})
    return Removed(run_id, tuple(runs), counts["steps"], counts["files"], freed["bytes"])


def _refuse(run_id: str, run: Row) -> None:
    if run["outer"] is not None:
        outer = run["outer"]
        cure = f"remove run {outer}: the runs inside it go with it"
        raise RunRefused("E_RUN_INSIDE", f"run {run_id} is inside a step of another run", found=outer, cure=cure)
    if run["status"] not in {str(status) for status in ChainStatus if status.final}:
        cure = f"cancel it first (`towpath cancel {run_id}`), or let it end"
        raise RunRefused("E_RUN_ACTIVE", f"run {run_id} is {run['status']} and not over", cure=cure)
