"""Runs with pending work and no live owner."""

from __future__ import annotations

from towpath.model import ChainStatus

from . import requests, run_tree
from .backend import Script
from .clock import now
from .core import sa, t
from .session import Session
from .statements import Statement, any_of, one_of

_STARTED = Statement(
    lambda: (
        sa.select(t.chains.c.id)
        .where(
            t.chains.c.parent_workflow_id.is_(None),
            sa.or_(
                one_of(t.chains.c.status, [ChainStatus.PENDING, ChainStatus.RUNNING]),
                sa.and_(t.chains.c.status == ChainStatus.PAUSED, t.chains.c.status_reason == "interrupted"),
            ),
        )
        .order_by(t.chains.c.started_at, t.chains.c.id)
    )
)
_AT_A_GATE = Statement(
    lambda: (
        sa.select(t.chains.c.id)
        .where(
            any_of(t.chains.c.id, "runs"),
            t.chains.c.status == ChainStatus.PAUSED,
            t.chains.c.status_reason == "approval",
        )
        .order_by(t.chains.c.started_at, t.chains.c.id)
    )
)


async def unattended_runs(session: Session) -> list[str]:
    """Top-level runs that may need to be resumed, oldest first.

    These are: new and running ones (a claim shows whether their owner lives), interrupted ones, and those that
    wait at a gate that was decided, or whose time is over. A run that a person paused is not among them.
    """
    return await session.read(_unattended, now())


def _unattended(at: int) -> Script[list[str]]:
    found = [row["id"] for row in (yield _STARTED()).rows]
    decided = yield from requests.runs_with_decisions(at)
    outermost = [runs[-1].id for runs in (yield from run_tree.around(list(decided))).values() if runs]
    return found + [row["id"] for row in (yield _AT_A_GATE(runs=outermost)).rows]
