"""Recorded runs, whole or in part, read in one snapshot: scripts, and how rows become the engine's nouns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from towpath.errors import RunRefused, StoreFailed
from towpath.model import ArtifactRow, ChainStatus, ErrorInfo, Plan, StepStatus
from towpath.ports import NewRun, RunRow, RunStatus, StepRow
from towpath.run_labels import UNLABELLED, RunLabel

from . import definitions, gates, levels, rows, run_tree
from .backend import Row, Script
from .core import sa, t
from .statements import Statement, any_of
from .statements import param as b
from .versions import given, highest

_RUN = Statement(lambda: sa.select(t.chains).where(t.chains.c.id == b("run")))
_STATUS = Statement(
    lambda: sa.select(
        t.chains.c.status, t.chains.c.status_reason, t.chains.c.epoch, t.chains.c.owner, t.chains.c.cancel_requested_at
    ).where(t.chains.c.id == b("run"))
)


def _of_run() -> sa.ColumnElement[bool]:
    return t.workflows.c.chain_id == b("run")


_STEPS = Statement(lambda: sa.select(t.workflows).where(_of_run()).order_by(t.workflows.c.id))
_FILES = Statement(
    lambda: (
        sa.select(t.artifacts)
        .join(t.workflows, t.workflows.c.id == t.artifacts.c.workflow_id)
        .where(_of_run(), t.artifacts.c.is_latest == 1)
        .order_by(t.artifacts.c.id)
    )
)
_OPEN_VERSIONS = Statement(
    lambda: highest(
        given().c.workflow_id.in_(sa.select(t.workflows.c.id).where(_of_run(), t.workflows.c.completed_at.is_(None)))
    )
)
_CHILDREN = Statement(
    lambda: (
        sa.select(t.chains.c.id, t.chains.c.parent_workflow_id)
        .join(t.workflows, t.workflows.c.id == t.chains.c.parent_workflow_id)
        .where(_of_run())
        .order_by(sa.select(sa.func.min(t.events.c.seq)).where(t.events.c.chain_id == t.chains.c.id).scalar_subquery())
    )
)
_ROWS_OF_STEPS = Statement(lambda: sa.select(t.workflows).where(_of_run(), any_of(t.workflows.c.step_id, "steps")))
_ROWS_OF_ITEMS = Statement(
    lambda: sa.select(t.workflows).where(
        _of_run(), t.workflows.c.step_id == b("step"), any_of(t.workflows.c.item_index, "items")
    )
)
_FILES_OF_ROWS = Statement(
    lambda: (
        sa.select(t.artifacts)
        .where(any_of(t.artifacts.c.workflow_id, "rows"), t.artifacts.c.is_latest == 1)
        .order_by(t.artifacts.c.id)
    )
)
_GATES_OF_ROWS = Statement(
    lambda: sa.select(t.approvals).where(any_of(t.approvals.c.workflow_id, "rows")).order_by(t.approvals.c.id)
)
_VERSIONS_OF_ROWS = Statement(lambda: highest(any_of(given().c.workflow_id, "rows")))


# ---- a whole run


@dataclass(frozen=True, slots=True)
class Recorded:
    """The rows of a run as they are in the tables, in one snapshot."""

    chain: Row
    definition: str
    steps: list[Row]
    parts: Parts
    children: list[Row]
    root: str
    level: int


@dataclass(frozen=True, slots=True)
class Parts:
    """What belongs to rows of `workflows`: latest files, highest versions, gates."""

    files: list[Row]
    versions: list[Row]
    gates: list[Row]


def recorded(run_id: str) -> Script[Recorded | None]:
    """The whole record of a run."""
    chain = (yield _RUN(run=run_id)).first()
    if chain is None:
        return None
    around = yield from run_tree.around([run_id])
    return Recorded(
        chain=chain,
        definition=(yield from _definition(chain)),
        steps=(yield _STEPS(run=run_id)).rows,
        parts=Parts(
            files=(yield _FILES(run=run_id)).rows,
            versions=(yield _OPEN_VERSIONS(run=run_id)).rows,
            gates=(yield gates.OF_RUN(run=run_id)).rows,
        ),
        children=(yield _CHILDREN(run=run_id)).rows,
        root=around[run_id][-1].id,
        level=(yield from _level(chain)),
    )


def _level(chain: Row) -> Script[int]:
    found = yield from levels.of_runs([chain["id"]])
    return found.get(chain["id"], int(chain["current_level"]))


def _definition(chain: Row) -> Script[str]:
    """The JSON of a run's plan, from its row or from the table of large ones."""
    digest = definitions.elsewhere(chain["chain_definition"])
    if digest is None:
        return chain["chain_definition"] or ""
    found = (yield definitions.FIND(sha256=digest)).first()
    return found["definition"] if found else ""


def run_row(run_id: str, found: Recorded) -> RunRow:
    """A run as the engine knows it. Raises StoreFailed (E_DB_VALUE)."""
    chain, pasts = found.chain, gates.pasts(found.parts.gates)
    return RunRow(
        id=run_id,
        plan=_plan(chain, found.definition),
        status=rows.word(ChainStatus, chain["status"], "chains", run_id, "status"),
        inputs=rows.decode(chain["inputs"]) or {},
        rows=tuple(_step_rows(found.steps, found.parts, pasts)),
        reason=chain["status_reason"] or "",
        level=found.level,
        error=ErrorInfo(chain["error_code"], chain["error_message"] or "") if chain["error_code"] else None,
        parent_workflow_id=chain["parent_workflow_id"],
        parent_run_id=chain["parent_run_id"],
        started_at=chain["started_at"],
        completed_at=chain["completed_at"],
        cancel_requested=chain["cancel_requested_at"] is not None,
        pause_requested=chain["pause_requested_at"] is not None,
        children=gates.runs_inside(found.children, pasts),
        root=found.root,
        label=_label(chain),
    )


def _label(chain: Row) -> RunLabel:
    if chain["run_name"] is None and chain["tags"] == rows.NO_TAGS:
        return UNLABELLED
    tags = rows.decode(chain["tags"])
    return RunLabel(chain["run_name"], tags if isinstance(tags, dict) else {})


def newborn(new: NewRun, at: int) -> RunRow:
    """A run that was just made, as it would be loaded. Raises StoreFailed (E_DB_VALUE)."""
    inputs = rows.decode(rows.encode(new.inputs))
    return RunRow(
        id=new.id,
        plan=new.plan,
        status=ChainStatus.PENDING,
        inputs=inputs if isinstance(inputs, dict) else {},
        rows=(),
        parent_run_id=new.parent_run_id,
        started_at=at,
        root=new.id,
        label=new.label,
    )


def _plan(chain: Row, definition: str) -> Plan:
    try:
        return msgspec.json.decode(definition, type=Plan)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise StoreFailed(
            "E_DB_VALUE",
            f"chains.chain_definition of row {chain['id']} has no plan",
            found=chain["chain_definition"],
            cure="a chain made by `create_chain` alone is only a record, and cannot run",
        ) from None


# ---- parts of a run, for drivers that do not hold all of it in memory


def rows_of(run_id: str, steps: Sequence[str], items: Sequence[tuple[str, int]]) -> Script[list[StepRow]]:
    """The recorded rows of some steps with all their items, and of some items."""
    found = {row["id"]: row for row in (yield _ROWS_OF_STEPS(run=run_id, steps=steps)).rows}
    by_step: dict[str, list[int]] = {}
    for step, item in items:
        by_step.setdefault(step, []).append(item)
    for step, indexes in by_step.items():
        found.update({row["id"]: row for row in (yield _ROWS_OF_ITEMS(run=run_id, step=step, items=indexes)).rows})
    if not found:
        return []
    ours = sorted(found)
    parts = Parts(
        files=(yield _FILES_OF_ROWS(rows=ours)).rows,
        versions=(yield _VERSIONS_OF_ROWS(rows=ours)).rows,
        gates=(yield _GATES_OF_ROWS(rows=ours)).rows,
    )
    return _step_rows([found[row] for row in ours], parts, gates.pasts(parts.gates))


def status_of(run_id: str) -> Script[RunStatus]:
    """The status of a run now. Raises RunRefused (E_RUN_MISSING)."""
    found = (yield _STATUS(run=run_id)).first()
    if found is None:
        raise missing(run_id)
    return RunStatus(
        rows.word(ChainStatus, found["status"], "chains", run_id, "status"),
        found["status_reason"] or "",
        found["epoch"],
        found["owner"] is not None,
        found["cancel_requested_at"] is not None,
    )


# ---- rows of steps


def _step_rows(found: Sequence[Row], parts: Parts, pasts: dict[str, gates.Past]) -> list[StepRow]:
    files: dict[str, list[ArtifactRow]] = {}
    for row in parts.files:
        files.setdefault(row["workflow_id"], []).append(rows.artifact(row))
    given: dict[str, dict[str, int]] = {}
    for row in parts.versions:
        given.setdefault(row["workflow_id"], {})[row["name"]] = row["highest"]
    return [
        _step_row(row, tuple(files.get(row["id"], ())), given.get(row["id"], {}), pasts.get(row["id"]) or gates.Past())
        for row in found
    ]


def _step_row(row: Row, files: tuple[ArtifactRow, ...], versions: dict[str, int], past: gates.Past) -> StepRow:
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


def missing(run_id: str) -> RunRefused:
    return RunRefused("E_RUN_MISSING", f"there is no run {run_id}", cure="`towpath ls` lists the runs of a store")
