"""Chain runs: rows of `chains`. Functions take a session first and never commit."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from itertools import product
from typing import Any

from towpath.model import ChainStatus, Json
from towpath.run_labels import tag_asked, tag_key, tag_value

from . import levels, removal, transitions
from .clock import new_id, now
from .core import sa, t
from .definitions import FIND, elsewhere
from .idempotency import check_page, insert_once
from .rows import Record, decode, encode, record, record_or_none
from .session import Session, of_one_moment
from .statements import Statement, each, one_of
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
    session: Session,
    limit: int = 100,
    offset: int = 0,
    status: str | Collection[str] | None = None,
    *,
    inner: bool | None = None,
    chain: str | None = None,
    run_name: str | None = None,
    tags: Mapping[str, str | None] | Collection[str] = (),
    since: int | datetime | None = None,
    until: int | datetime | None = None,
) -> list[Record]:
    """Chain runs, newest first. With `inner` only those inside steps of others, or (False) only the outermost.

    `status` is one or several, `chain` the name of the chain, `run_name` a part of the name that the run was given.
    All `tags` must be there: keys, or keys with their values (None for any). A run matches that started at or after
    `since` and before `until`: a datetime, or UTC microseconds.
    Raises InputInvalid: E_PAGE, E_STATUS, E_RUN_TAGS.
    """
    check_page(limit, offset)
    words = [transitions.status(ChainStatus, word) for word in ((status,) if isinstance(status, str) else status or ())]
    asked = _conditions(chain, run_name, tags, since, until)
    if asked or len(words) > 1:
        rows = await session.fetch_all(_matching(asked, words, inner).limit(limit).offset(offset))
    else:
        listed = _NEWEST[bool(words), inner](status=words[0] if words else None, limit=limit, offset=offset)
        rows = await session.select(listed)
    found = [record(row) for row in rows]
    await levels.shown(session, found)
    return found


def _conditions(
    chain: str | None,
    run_name: str | None,
    tags: Mapping[str, str | None] | Collection[str],
    since: int | datetime | None,
    until: int | datetime | None,
) -> list[tuple[str, str, Any]]:
    """The filters that were given: field, operator and value."""
    wanted = [(tag_key(key), None if value is None else tag_value(key, value)) for key, value in _pairs(tags)]
    given = [
        ("name", "eq", chain),
        ("run_name", "contains", run_name),
        ("tag", "eq", wanted or None),
        ("started_at", "gte", _microseconds(since)),
        ("started_at", "lt", _microseconds(until)),
    ]
    return [one for one in given if one[2] is not None]


def _pairs(tags: Mapping[str, str | None] | Collection[str]) -> Iterable[tuple[str, str | None]]:
    if isinstance(tags, str):
        return [tag_asked(tags)]
    return tags.items() if isinstance(tags, Mapping) else [(key, None) for key in tags]


def _microseconds(moment: int | datetime | None) -> int | None:
    return int(moment.timestamp() * 1e6) if isinstance(moment, datetime) else moment


def _matching(
    asked: list[tuple[str, str, Any]], words: list[ChainStatus], inner: bool | None
) -> sa.Select[*tuple[Any, ...]]:
    from . import listing  # noqa: PLC0415 - columns and filters, which most lists need not

    conditions = [listing.Condition(*one) for one in asked]
    conditions += [listing.Condition("status", "eq", words)] if words else []
    conditions += [] if inner is None else [listing.Condition("inner", "eq", inner)]
    newest = (t.chains.c.started_at.desc(), t.chains.c.id.desc())
    return sa.select(t.chains).where(*listing.filters("chains", conditions)).order_by(*newest)


async def delete_chain(session: Session, chain_id: str) -> bool:
    """Delete a run with its steps, artifacts, transfers and approvals. Did it exist?

    Audit lines that name a person are kept. Blobs that no row names any more are removed by `fsck --repair` after a
    grace time.
    """
    return await session.write(removal.delete, chain_id)


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
