"""Workflows: one row per step of a run, per item of a mapped step, or per standalone workflow."""

from __future__ import annotations

from typing import Any

from towpath.errors import StoreFailed
from towpath.model import Json, StepStatus

from . import event_log, transitions
from .backend import Row
from .clock import new_id, now
from .core import sa, t
from .idempotency import insert_once, page
from .rows import Record, encode, record, record_or_none
from .session import Session, of_one_moment
from .statements import Statement, one_of
from .statements import param as b

_OF_RUN = Statement(
    lambda: (
        sa.select(t.workflows)
        .where(t.workflows.c.chain_id == b("run"))
        .order_by(t.workflows.c.queued_at, t.workflows.c.id)
    )
)


async def create_workflow(
    session: Session,
    workflow_name: str,
    server_address: str | None = None,
    prompt_id: str | None = None,
    status: str = "queued",
    *,
    chain_id: str | None = None,
    step_id: str | None = None,
    item_index: int | None = None,
    temporal_workflow_id: str | None = None,
    temporal_run_id: str | None = None,
    workflow_definition: Json = None,
    parameters: Json = None,
    id: str | None = None,  # noqa: A002 - the column's name
    idempotency_key: str | None = None,
) -> Record:
    """Insert a workflow and return its row; with a key seen before, the row made then.

    Raises:
        InputInvalid: E_STATUS. StoreFailed: E_DB_REFERENCE without such a chain, E_DB_CONFLICT for a second
        row of the same step and item.
    """
    at = now()
    word = transitions.status(StepStatus, status)
    values = {
        "id": id or new_id(),
        "chain_id": chain_id,
        "step_id": step_id,
        "item_index": item_index,
        "workflow_name": workflow_name,
        "server_address": server_address,
        "prompt_id": prompt_id,
        "temporal_workflow_id": temporal_workflow_id,
        "temporal_run_id": temporal_run_id,
        "status": word,
        "attempt": 0,
        "queued_at": at,
        "started_at": at if word is StepStatus.EXECUTING else None,
        "completed_at": at if word.final else None,
        "workflow_definition": encode(workflow_definition),
        "parameters": encode(parameters),
        "created_at": at,
        "updated_at": at,
        "idempotency_key": idempotency_key,
    }
    return await insert_once(session, t.workflows, values)


async def get_workflow(session: Session, id: str) -> Record | None:  # noqa: A002 - the seed's name
    """The workflow of that id, or None."""
    return record_or_none(await session.fetch_one(sa.select(t.workflows).where(t.workflows.c.id == id)))


async def get_workflow_by_prompt(session: Session, prompt_id: str) -> Record | None:
    """The workflow that a server knows under `prompt_id`, or None."""
    found = sa.select(t.workflows).where(t.workflows.c.prompt_id == prompt_id).order_by(t.workflows.c.id.desc())
    return record_or_none(await session.fetch_one(found.limit(1)))


async def get_workflow_by_step(
    session: Session, chain_id: str, step_id: str, item_index: int | None = None
) -> Record | None:
    """The row of a step of a run (or of one item of it), or None."""
    found = sa.select(t.workflows).where(
        t.workflows.c.chain_id == chain_id,
        t.workflows.c.step_id == step_id,
        t.workflows.c.item_index.is_(None) if item_index is None else t.workflows.c.item_index == item_index,
    )
    return record_or_none(await session.fetch_one(found))


async def get_workflows_by_chain(session: Session, chain_id: str) -> list[Record]:
    """All rows of a run, in the order they came to be."""
    return [record(row) for row in await session.select(_OF_RUN(run=chain_id))]


async def list_items(
    session: Session, chain_id: str, step_id: str, *, status: str | None = None, after: int = -1, limit: int = 100
) -> list[Record]:
    """Items of a mapped step with an index above `after`, in order.

    Beside the columns `files` counts the latest files of an item, and `approval` is the gate that waits behind it.
    """
    columns = [column for column in t.workflows.c if column.name not in ("value", "parameters", "workflow_definition")]
    row, item = t.workflows.c.id, sa.func.coalesce(t.workflows.c.item_index, sa.literal_column("-1"))  # as in the index
    files = sa.select(sa.func.count()).where(t.artifacts.c.workflow_id == row, t.artifacts.c.is_latest == 1)
    gate = sa.select(t.approvals.c.id).where(t.approvals.c.workflow_id == row, t.approvals.c.status == "pending")
    query = sa.select(
        *columns, files.scalar_subquery().label("files"), gate.limit(1).scalar_subquery().label("approval")
    )
    query = query.where(t.workflows.c.chain_id == chain_id, t.workflows.c.step_id == step_id, after < item)
    if status is not None:
        query = query.where(t.workflows.c.status == status)
    return [record(row) for row in await session.fetch_all(query.order_by(item).limit(limit))]


@of_one_moment
async def count_items(session: Session, chain_id: str, step_id: str) -> tuple[dict[str, int], int]:
    """How many items of a mapped step have which status, and how many latest files the step has in all."""
    of_step = (t.workflows.c.chain_id == chain_id, t.workflows.c.step_id == step_id)
    many = sa.func.count().label("many")
    query = sa.select(t.workflows.c.status, many).where(*of_step, t.workflows.c.item_index.is_not(None))
    rows = await session.fetch_all(query.group_by(t.workflows.c.status))
    joined = t.artifacts.join(t.workflows, t.workflows.c.id == t.artifacts.c.workflow_id)
    files = await session.fetch_one(sa.select(many).select_from(joined).where(*of_step, t.artifacts.c.is_latest == 1))
    assert files is not None
    return {row["status"]: row["many"] for row in rows}, int(files["many"])


async def update_workflow_status(
    session: Session,
    workflow_id: str,
    status: str,
    error_message: str | None = None,
    *,
    server_address: str | None = None,
    prompt_id: str | None = None,
) -> Record | None:
    """Change a workflow's status: `started_at` is set once, `completed_at` with a final status.

    Returns None if there is no such workflow. Raises StoreFailed (E_TRANSITION), InputInvalid (E_STATUS).
    """
    new = transitions.status(StepStatus, status)
    at = now()
    values: dict[str, Any] = {"status": new, "updated_at": at}
    if new is StepStatus.EXECUTING:
        values["started_at"] = sa.func.coalesce(t.workflows.c.started_at, at)
    if new.final:
        values["completed_at"] = at
    optional = {"error_message": error_message, "server_address": server_address, "prompt_id": prompt_id}
    values.update({name: value for name, value in optional.items() if value is not None})
    change = sa.update(t.workflows).where(
        t.workflows.c.id == workflow_id, one_of(t.workflows.c.status, transitions.STEP[new])
    )
    changed = await session.fetch_one(change.values(values).returning(t.workflows))
    if changed is not None:
        await _log_status(session, changed, new, at)
        return record(changed)
    current = await get_workflow(session, workflow_id)
    if current is None or current["status"] == new:
        return current
    raise transitions.refused("workflow", workflow_id, current["status"], new)


async def _log_status(session: Session, row: Row, status: StepStatus, at: int) -> None:
    """The audit trail of a run has a line for every change of status."""
    if row["chain_id"] is not None:
        data = event_log.about_step(row["step_id"], row["item_index"])
        await session.note(event_log.line(row["chain_id"], row["id"], transitions.STEP_FACTS[status], at, data))


async def update_workflow_latest_artifact(session: Session, workflow_id: str, artifact_id: str) -> Record | None:
    """Point a workflow at its primary output: the latest version of one of its own outputs.

    Returns None if there is no such workflow. Raises StoreFailed (E_DB_REFERENCE) for any other artifact.
    """
    latest = sa.select(t.artifacts.c.id).where(
        t.artifacts.c.id == artifact_id, t.artifacts.c.workflow_id == workflow_id, t.artifacts.c.is_latest == 1
    )
    change = sa.update(t.workflows).where(t.workflows.c.id == workflow_id, latest.exists())
    values = {"latest_artifact_id": artifact_id, "updated_at": now()}
    changed = await session.fetch_one(change.values(values).returning(t.workflows))
    if changed is None and await get_workflow(session, workflow_id) is not None:
        raise StoreFailed(
            "E_DB_REFERENCE", f"this is not a latest version of workflow {workflow_id}", found=artifact_id
        )
    return record_or_none(changed)


async def list_workflows(
    session: Session,
    limit: int = 100,
    offset: int = 0,
    status: str | None = None,
    chain_id: str | None = None,
) -> list[Record]:
    """Workflows, newest first."""
    query = sa.select(t.workflows).order_by(t.workflows.c.queued_at.desc(), t.workflows.c.id.desc())
    if status is not None:
        query = query.where(t.workflows.c.status == transitions.status(StepStatus, status))
    if chain_id is not None:
        query = query.where(t.workflows.c.chain_id == chain_id)
    return [record(row) for row in await session.fetch_all(page(query, limit, offset))]


async def delete_workflow(session: Session, workflow_id: str) -> bool:
    """Delete a workflow with its artifacts, transfers and approvals; was it there?"""
    return await session.execute(sa.delete(t.workflows).where(t.workflows.c.id == workflow_id)) > 0
