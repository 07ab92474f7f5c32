"""Approval links: the hash of a token and its end, in the row of the gate that it decides."""

from __future__ import annotations

from . import gates
from .clock import now
from .core import sa, t
from .rows import Record
from .session import Session


async def keep_link(session: Session, approval_id: str, token_sha256: str, expires_at: int) -> int:
    """Store a new link of a pending gate, in place of an earlier one. Returns its expiry, at the latest the gate's.

    Raises ApprovalRefused: E_APPROVAL_MISSING, E_APPROVAL_DECIDED, E_APPROVAL_EXPIRED.
    """
    gate = await session.write(gates.undecided, approval_id)
    ends = expires_at if gate["expires_at"] is None else min(expires_at, gate["expires_at"])
    values = {"link_token_hash": token_sha256, "link_expires_at": ends, "updated_at": now()}
    await session.execute(sa.update(t.approvals).where(t.approvals.c.id == approval_id).values(values))
    return int(ends)


async def link_over(session: Session, gate: Record) -> bool:
    """Has a gate's link expired? Once expired, it stays so.

    Setting the clock back does not make it valid again: the last line of the audit trail has the latest time.
    """
    ends = gate["link_expires_at"]
    if ends is None:
        return True
    last = await session.fetch_one(sa.select(t.events.c.at).order_by(t.events.c.seq.desc()).limit(1))
    if max(now(), 0 if last is None else last["at"]) < ends:
        return False
    if ends:
        change = sa.update(t.approvals).where(t.approvals.c.id == gate["id"], t.approvals.c.link_expires_at == ends)
        await session.execute(change.values(link_expires_at=0))
    return True
