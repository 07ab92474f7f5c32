"""Gates: who has to look at what, and what was decided.

A decision is one compare-and-set: the first one recorded wins, is bound to the versions that the person
saw, and carries `delivered = 0` until the owner of the run has acted on it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa

from towpath.errors import ApprovalRefused, InputInvalid
from towpath.model import ApprovalStatus, ArtifactApproval, Json

from . import transitions
from .clock import new_id, now
from .keyed import insert_once, page
from .rows import Record, encode, record, record_or_none
from .session import Session
from .tables import approvals, artifacts


async def create_approval(
    session: Session,
    workflow_id: str,
    artifact_ids: Collection[str],
    *,
    chain_id: str | None = None,
    step_id: str | None = None,
    item_index: int | None = None,
    policy: Json = None,
    expires_at: int | None = None,
    id: str | None = None,  # noqa: A002 - the column's name
    idempotency_key: str | None = None,
) -> Record:
    """Ask for an approval of these versions. A workflow has at most one pending at a time (E_DB_CONFLICT)."""
    at = now()
    values = {
        "id": id or new_id(),
        "workflow_id": workflow_id,
        "chain_id": chain_id,
        "step_id": step_id,
        "item_index": item_index,
        "status": ApprovalStatus.PENDING,
        "artifact_ids": encode(list(artifact_ids)),
        "policy": encode(policy or {}),
        "requested_at": at,
        "expires_at": expires_at,
        "delivered": 0,
        "created_at": at,
        "updated_at": at,
        "idempotency_key": idempotency_key,
    }
    return await insert_once(session, approvals, values)


async def get_approval(session: Session, approval_id: str) -> Record | None:
    """The approval of that id, or None."""
    return record_or_none(await session.fetch_one(sa.select(approvals).where(approvals.c.id == approval_id)))


async def list_approvals(
    session: Session,
    status: str | None = None,
    chain_id: str | None = None,
    limit: int = 100,
    offset: int = 0,
) -> list[Record]:
    """Approvals, oldest request first."""
    query = sa.select(approvals).order_by(approvals.c.requested_at, approvals.c.id)
    if status is not None:
        query = query.where(approvals.c.status == transitions.status(ApprovalStatus, status))
    if chain_id is not None:
        query = query.where(approvals.c.chain_id == chain_id)
    return [record(row) for row in await session.fetch_all(page(query, limit, offset))]


async def get_pending_approvals(session: Session, chain_id: str | None = None, limit: int = 100) -> list[Record]:
    """What waits for a person, oldest first."""
    return await list_approvals(session, ApprovalStatus.PENDING, chain_id, limit)


async def approve(
    session: Session, approval_id: str, by: str, *, seen: Collection[str] | None = None, reason: str = ""
) -> Record:
    """Approve the versions that the person saw (`seen`: artifact ids; default: those the gate asked about).

    Raises:
        ApprovalRefused: E_APPROVAL_MISSING, E_APPROVAL_DECIDED, E_APPROVAL_STALE if a version changed.
    """
    found = await _pending(session, approval_id)
    await _check_seen(session, found, seen)
    decided = await _decide(session, approval_id, ApprovalStatus.APPROVED, by, reason)
    latest = sa.update(artifacts).where(artifacts.c.workflow_id == found["workflow_id"], artifacts.c.is_latest == 1)
    values = {
        "approval_status": ArtifactApproval.APPROVED,
        "approved_by": by,
        "approved_at": decided["decided_at"],
    }
    await session.execute(latest.values(**values, updated_at=decided["decided_at"]))
    return decided


async def reject(session: Session, approval_id: str, by: str, *, reason: str = "") -> Record:
    """Reject; what follows is the gate's policy (`stop`: the chain ends failed).

    Raises:
        ApprovalRefused: E_APPROVAL_MISSING, E_APPROVAL_DECIDED.
    """
    found = await _pending(session, approval_id)
    decided = await _decide(session, approval_id, ApprovalStatus.REJECTED, by, reason)
    latest = sa.update(artifacts).where(artifacts.c.workflow_id == found["workflow_id"], artifacts.c.is_latest == 1)
    values = {"approval_status": ArtifactApproval.REJECTED, "approved_by": by, "rejection_reason": reason}
    await session.execute(latest.values(**values, updated_at=decided["decided_at"]))
    return decided


async def cancel_approval(session: Session, approval_id: str, by: str = "towpath", reason: str = "") -> Record:
    """Close a gate without a decision. Raises ApprovalRefused as `reject` does."""
    await _pending(session, approval_id)
    return await _decide(session, approval_id, ApprovalStatus.CANCELLED, by, reason)


async def _pending(session: Session, approval_id: str) -> Record:
    await session.begin()
    found = await get_approval(session, approval_id)
    if found is None:
        raise ApprovalRefused("E_APPROVAL_MISSING", "there is no such approval", found=approval_id)
    if found["status"] != ApprovalStatus.PENDING:
        raise _decided(found)
    return found


def _decided(found: Record) -> ApprovalRefused:
    by = f" by {found['decided_by']}" if found["decided_by"] else ""
    return ApprovalRefused("E_APPROVAL_DECIDED", f"this was {found['status']}{by} already; the first decision stands")


async def _check_seen(session: Session, approval: Record, seen: Collection[str] | None) -> None:
    query = sa.select(artifacts.c.id).where(
        artifacts.c.workflow_id == approval["workflow_id"], artifacts.c.is_latest == 1
    )
    current = {row["id"] for row in await session.fetch_all(query)}
    if current != set(approval["artifact_ids"] if seen is None else seen):
        raise ApprovalRefused(
            "E_APPROVAL_STALE",
            "the artifacts changed since they were looked at",
            cure="look at the latest versions, then decide again",
        )


async def _decide(session: Session, approval_id: str, status: ApprovalStatus, by: str, reason: str) -> Record:
    if not by.strip():
        raise InputInvalid("E_APPROVAL_BY", "a decision needs the name of the person who takes it")
    at = now()
    change = sa.update(approvals).where(approvals.c.id == approval_id, approvals.c.status == ApprovalStatus.PENDING)
    values: dict[str, Any] = {"status": status, "decided_at": at, "decided_by": by, "reason": reason or None}
    row = await session.fetch_one(change.values(**values, delivered=0, updated_at=at).returning(approvals))
    assert row is not None, "the write lock is held since the row was read"
    return record(row)
