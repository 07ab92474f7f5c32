"""Chain runs: rows of `chains`. Functions take a session first and never commit."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from towpath.model import ChainStatus, Json

from . import levels, transitions
from .clock import new_id, now
from .definitions import elsewhere
from .idempotency import insert_once, page
from .rows import Record, decode, encode, record, record_or_none
from .run_tree import inside
from .session import Session, of_one_moment
from .statements import json_object, json_text, one_of
from .tables import artifacts, chains, definitions, events, workflows


async def create_chain(
    session: Session,
    name: str,
    status: str = "pending",
    *,
    temporal_workflow_id: str | None = None,
    temporal_run_id: str | None = None,
    chain_definition: Json = None,
    description: str | None = None,
    id: str | None = None,  # noqa: A002 - the column's name
    idempotency_key: str | None = None,
    **columns: Any,
) -> Record:
    """Insert a chain run and return its row; with a key seen before, the row made then.

    Raises:
        InputInvalid: E_STATUS for an unknown status.
        StoreFailed: E_DB_CONFLICT if the id or the Temporal id is taken.
    """
    at = now()
    word = transitions.status(ChainStatus, status)
    values = {
        "id": id or new_id(),
        "name": name,
        "status": word,
        "description": description,
        "temporal_workflow_id": temporal_workflow_id,
        "temporal_run_id": temporal_run_id,
        "chain_definition": encode(chain_definition),
        "current_level": 0,
        "epoch": 0,
        "started_at": at,
        "completed_at": at if word.final else None,
        "created_at": at,
        "updated_at": at,
        "idempotency_key": idempotency_key,
        **columns,
    }
    return await insert_once(session, chains, values)


@of_one_moment
async def get_chain(session: Session, chain_id: str) -> Record | None:
    """The chain run of that id, or None."""
    found = record_or_none(await session.fetch_one(sa.select(chains).where(chains.c.id == chain_id)))
    digest = None if found is None else elsewhere(found["chain_definition"])
    if found is not None and digest is not None:
        large = await session.fetch_one(sa.select(definitions).where(definitions.c.sha256 == digest))
        found["chain_definition"] = None if large is None else decode(large["definition"])
    if found is not None:
        await levels.shown(session, [found])
    return found


@of_one_moment
async def get_chain_by_temporal_id(session: Session, temporal_workflow_id: str) -> Record | None:
    """The chain run that a Temporal workflow executes, or None."""
    found = sa.select(chains).where(chains.c.temporal_workflow_id == temporal_workflow_id)
    row = record_or_none(await session.fetch_one(found))
    if row is not None:
        await levels.shown(session, [row])
    return row


async def update_chain_status(
    session: Session,
    chain_id: str,
    status: str,
    current_level: int | None = None,
    error_message: str | None = None,
) -> Record | None:
    """Change a run's status; final ones set `completed_at` and cannot be changed again.

    Returns None if there is no such run. Raises StoreFailed (E_TRANSITION), InputInvalid (E_STATUS).
    """
    new = transitions.status(ChainStatus, status)
    at = now()
    values: dict[str, Any] = {"status": new, "updated_at": at}
    if current_level is not None:
        values["current_level"] = current_level
    if error_message is not None:
        values["error_message"] = error_message
    if new.final:
        values["completed_at"] = at
    change = sa.update(chains).where(chains.c.id == chain_id, one_of(chains.c.status, transitions.CHAIN[new]))
    changed = await session.fetch_one(change.values(values).returning(chains))
    if changed is not None:
        return record(changed)
    current = await get_chain(session, chain_id)
    if current is None or current["status"] == new:
        return current
    raise transitions.refused("chain", chain_id, current["status"], new)


@of_one_moment
async def list_chains(
    session: Session, limit: int = 100, offset: int = 0, status: str | None = None, *, inner: bool | None = None
) -> list[Record]:
    """Chain runs, newest first. With `inner` only those inside steps of others, or (False) only the outermost."""
    query = sa.select(chains).order_by(chains.c.started_at.desc(), chains.c.id.desc())
    if status is not None:
        query = query.where(chains.c.status == transitions.status(ChainStatus, status))
    if inner is not None:
        parent = chains.c.parent_workflow_id
        query = query.where(parent.is_not(None) if inner else parent.is_(None))
    found = [record(row) for row in await session.fetch_all(page(query, limit, offset))]
    await levels.shown(session, found)
    return found


async def delete_chain(session: Session, chain_id: str) -> bool:
    """Delete a run with its steps, artifacts, transfers and approvals. Did it exist?

    Audit lines that name a person are kept. Blobs that no row names any more are removed by `fsck --repair` after a
    grace time.
    """
    await _keep_names(session, chain_id)
    return await session.execute(sa.delete(chains).where(chains.c.id == chain_id)) > 0


async def _keep_names(session: Session, chain_id: str) -> None:
    """Keep the audit lines that name a person, of the run and of runs inside it: who, what and when, but no data of the
    run.
    """
    by = json_text(events.c.data, "by")
    kept = json_object(by=by, run_id=events.c.chain_id, step=json_text(events.c.data, "step"))
    named = sa.update(events).where(events.c.chain_id.in_(inside(sa.literal(chain_id))), by.is_not(None))
    await session.execute(named.values(data=kept, chain_id=None, workflow_id=None))


@of_one_moment
async def get_chain_details(session: Session, chain_id: str) -> Record | None:
    """A run with `workflows`, each with its latest `artifacts`: a few queries, however many steps."""
    chain = await get_chain(session, chain_id)
    if chain is None:
        return None
    rows = sa.select(workflows).where(workflows.c.chain_id == chain_id).order_by(workflows.c.queued_at, workflows.c.id)
    steps = [record(row) for row in await session.fetch_all(rows)]
    latest = (
        sa.select(artifacts)
        .join(workflows, workflows.c.id == artifacts.c.workflow_id)
        .where(workflows.c.chain_id == chain_id, artifacts.c.is_latest == 1)
        .order_by(artifacts.c.id)
    )
    by_step: dict[str, list[Record]] = {}
    for row in await session.fetch_all(latest):
        by_step.setdefault(row["workflow_id"], []).append(record(row))
    for step in steps:
        step["artifacts"] = by_step.get(step["id"], [])
    chain["workflows"] = steps
    return chain
