"""Runs that nobody works on, although there is something to do."""

from __future__ import annotations

import sqlalchemy as sa

from towpath.model import ApprovalStatus, ChainStatus

from .clock import now, since_boot
from .owners import this_boot
from .session import Session
from .tables import approvals, chains, workflows

_DEEPEST = 50


async def unattended_runs(session: Session) -> list[str]:
    """Outermost runs that may have to be gone on with, oldest first: new and running ones (whether their owner lives
    shows when they are claimed), interrupted ones, and those that wait at a gate which was decided, or whose time is
    over. Runs that somebody paused are left alone.
    """
    at = now()
    open_ = chains.c.status.in_([ChainStatus.PENDING, ChainStatus.RUNNING])
    interrupted = sa.and_(chains.c.status == ChainStatus.PAUSED, chains.c.status_reason == "interrupted")
    query = sa.select(chains.c.id).where(chains.c.parent_workflow_id.is_(None), sa.or_(open_, interrupted))
    found = [row["id"] for row in await session.fetch_all(query.order_by(chains.c.started_at, chains.c.id))]
    for inner in await _with_news(session, at):
        root = await _outermost(session, inner)
        if root is not None and root not in found:
            found.append(root)
    return found


async def _with_news(session: Session, at: int) -> list[str]:
    """Runs with a gate that was decided and not acted on, or whose time is over."""
    decided = sa.and_(approvals.c.status != ApprovalStatus.PENDING, approvals.c.delivered == 0)
    by_its_clock = sa.case((approvals.c.boot == this_boot(), approvals.c.booted_at + since_boot()), else_=at)
    late = sa.and_(approvals.c.status == ApprovalStatus.PENDING, approvals.c.expires_at <= by_its_clock)
    query = sa.select(approvals.c.chain_id).where(approvals.c.chain_id.is_not(None), sa.or_(decided, late)).distinct()
    return [row["chain_id"] for row in await session.fetch_all(query)]


async def _outermost(session: Session, chain_id: str) -> str | None:
    """The run around a run, if it waits at a gate."""
    for _ in range(_DEEPEST):
        query = (
            sa.select(chains.c.status, chains.c.status_reason, workflows.c.chain_id.label("around"))
            .join(workflows, workflows.c.id == chains.c.parent_workflow_id, isouter=True)
            .where(chains.c.id == chain_id)
        )
        row = await session.fetch_one(query)
        if row is None:
            return None
        if row["around"] is None:
            waits = row["status"] == ChainStatus.PAUSED and row["status_reason"] == "approval"
            return chain_id if waits else None
        chain_id = row["around"]
    return None
