"""Chain runs: rows of `chains`. Functions take a session first and never commit."""

from __future__ import annotations

from itertools import product
from typing import Any

from towpath.model import ChainStatus, Json

from . import levels, transitions
from .clock import new_id, now
from .core import sa, t
from .definitions import FIND, elsewhere
from .idempotency import check_page, insert_once
from .rows import Record, decode, encode, record, record_or_none
from .run_tree import inside
from .session import Session, of_one_moment
from .statements import Statement, each, json_object, json_text, one_of
from .statements import param as b

_ONE = Statement(lambda: sa.select(t.chains).where(t.chains.c.id == b("run")))


def _newest(by_status: bool, inner: bool | None) -> sa.Select[*tuple[Any, ...]]:
    query = sa.select(t.chains).order_by(t.chains.c.started_at.desc(), t.chains.c.id.desc())
    if by_status:
        query = query.where(t.chains.c.status == b("status"))
    if inner is not None:
        parent = t.chains.c.parent_workflow_id
        query = query.where(parent.is_not(None) if inner else parent.is_(None))
    return query.limit(b("limit")).offset(b("offset"))


_NEWEST = each(product((False, True), (None, False, True)), lambda filters: _newest(*filters))


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
    return await insert_once(session, t.chains, values)


@of_one_moment
async def get_chain(session: Session, chain_id: str) -> Record | None:
    """The chain run of that id, or None."""
    found = await _as_recorded(session, chain_id)
    if found is not None:
        await levels.shown(session, [found])
    return found


async def _as_recorded(session: Session, chain_id: str) -> Record | None:
    rows = await session.select(_ONE(run=chain_id))
    found = record(rows[0]) if rows else None
    digest = None if found is None else elsewhere(found["chain_definition"])
    if found is not None and digest is not None:
        large = await session.select(FIND(sha256=digest))
        found["chain_definition"] = decode(large[0]["definition"]) if large else None
    return found


@of_one_moment
async def get_chain_by_temporal_id(session: Session, temporal_workflow_id: str) -> Record | None:
    """The chain run that a Temporal workflow executes, or None."""
    found = sa.select(t.chains).where(t.chains.c.temporal_workflow_id == temporal_workflow_id)
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
    change = sa.update(t.chains).where(t.chains.c.id == chain_id, one_of(t.chains.c.status, transitions.CHAIN[new]))
    changed = await session.fetch_one(change.values(values).returning(t.chains))
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
    check_page(limit, offset)
    word = None if status is None else transitions.status(ChainStatus, status)
    listed = _NEWEST[word is not None, inner](status=word, limit=limit, offset=offset)
    found = [record(row) for row in await session.select(listed)]
    await levels.shown(session, found)
    return found


async def delete_chain(session: Session, chain_id: str) -> bool:
    """Delete a run with its steps, artifacts, transfers and approvals. Did it exist?

    Audit lines that name a person are kept. Blobs that no row names any more are removed by `fsck --repair` after a
    grace time.
    """
    await _keep_names(session, chain_id)
    return await session.execute(sa.delete(t.chains).where(t.chains.c.id == chain_id)) > 0


async def _keep_names(session: Session, chain_id: str) -> None:
    """Keep the audit lines that name a person, of the run and of runs inside it: who, what and when, but no data of the
    run.
    """
    by = json_text(t.events.c.data, "by")
    kept = json_object(by=by, run_id=t.events.c.chain_id, step=json_text(t.events.c.data, "step"))
    named = sa.update(t.events).where(t.events.c.chain_id.in_(inside(sa.literal(chain_id))), by.is_not(None))
    await session.execute(named.values(data=kept, chain_id=None, workflow_id=None))


@of_one_moment
async def get_chain_details(session: Session, chain_id: str) -> Record | None:
    """A run with `workflows`, each with its latest `artifacts`: a few queries, however many steps."""
    chain = await _as_recorded(session, chain_id)
    if chain is None:
        return None
    rows = (
        sa.select(t.workflows)
        .where(t.workflows.c.chain_id == chain_id)
        .order_by(t.workflows.c.queued_at, t.workflows.c.id)
    )
    steps = [record(row) for row in await session.fetch_all(rows)]
    latest = (
        sa.select(t.artifacts)
        .join(t.workflows, t.workflows.c.id == t.artifacts.c.workflow_id)
        .where(t.workflows.c.chain_id == chain_id, t.artifacts.c.is_latest == 1)
        .order_by(t.artifacts.c.id)
    )
    by_step: dict[str, list[Record]] = {}
    for row in await session.fetch_all(latest):
        by_step.setdefault(row["workflow_id"], []).append(record(row))
    for step in steps:
        step["artifacts"] = by_step.get(step["id"], [])
    chain["workflows"] = steps
    levels.show(chain, steps)
    return chain
