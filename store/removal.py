"""Removing runs that are over: what goes with a run, and what space its files free. Scripts."""

from __future__ import annotations

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

_INPUTS = "inputs"  # the row of file inputs is no step
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


_KEEP_NAMES = Statement(_keep_names)
_STEPS = Statement(
    lambda: sa.select(sa.func.count().label("steps")).where(
        t.workflows.c.chain_id == b("run"), t.workflows.c.item_index.is_(None), t.workflows.c.step_id != _INPUTS
    )
)
_FILES = Statement(
    lambda: (
        sa.select(t.artifacts.c.sha256, t.artifacts.c.file_size)
        .join(t.workflows, t.workflows.c.id == t.artifacts.c.workflow_id)
        .where(t.workflows.c.chain_id == b("run"))
    )
)
_KEPT = Statement(lambda: sa.select(t.artifacts.c.sha256).where(any_of(t.artifacts.c.sha256, "digests")).distinct())


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
    steps, files = 0, 0
    sizes: dict[str, int] = {}
    for one in runs:
        steps += (yield _STEPS(run=one)).one()["steps"]
        found = (yield _FILES(run=one)).rows
        files += len(found)
        sizes |= {row["sha256"]: row["file_size"] for row in found}
    yield from delete(run_id)
    kept = {row["sha256"] for row in (yield _KEPT(digests=list(sizes))).rows}
    named = {} if run["run_name"] is None else {"name": run["run_name"]}
    yield line(None, None, "ChainDeleted", now(), {"run_id": run_id, **named, "by": by})
    return Removed(run_id, tuple(runs), steps, files, sum(size for one, size in sizes.items() if one not in kept))


def _refuse(run_id: str, run: Row) -> None:
    if run["outer"] is not None:
        outer = run["outer"]
        cure = f"remove run {outer}: the runs inside it go with it"
        raise RunRefused("E_RUN_INSIDE", f"run {run_id} is inside a step of another run", found=outer, cure=cure)
    if run["status"] not in {str(status) for status in ChainStatus if status.final}:
        cure = f"cancel it first (`towpath cancel {run_id}`), or let it end"
        raise RunRefused("E_RUN_ACTIVE", f"run {run_id} is {run['status']} and not over", cure=cure)
