"""Gates: what people must decide, and what they decided.

A decision is bound to the versions that the person saw. `gates.py` records it, so that the first decision wins and
the owner of the run acts on it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from towpath.errors import ApprovalRefused, InputInvalid
from towpath.model import ApprovalStatus, GateAction, Json

from . import gates, transitions
from .clock import new_id, now
from .core import sa, t
from .idempotency import check_page, insert_once, page
from .rows import Record, encode, record, record_or_none
from .run_tree import inside
from .session import Session, of_one_moment
from .statements import Statement, any_of, each, word_of
from .statements import param as b


def _pending(of_run: bool) -> sa.Select[*tuple[Any, ...]]:
    query = sa.select(t.approvals).where(t.approvals.c.status == word_of(ApprovalStatus.PENDING))
    if of_run:
        query = query.where(t.approvals.c.chain_id.in_(inside(b("run"))))
    return query.order_by(t.approvals.c.requested_at, t.approvals.c.id).limit(b("limit"))


_PENDING = each((False, True), _pending)
_LISTED = Statement(  # the latest versions behind gates
    lambda: (
        sa.select(
            *(t.artifacts.c[name] for name in ("id", "name", "version", "filename", "media_type")),
            t.artifacts.c.file_size.label("size"),
        )
        .join(t.approvals, t.approvals.c.workflow_id == t.artifacts.c.workflow_id)
        .where(any_of(t.approvals.c.id, "gates"), t.artifacts.c.is_latest == 1)
    )
)


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
    return await insert_once(session, t.approvals, values)


async def get_approval(session: Session, approval_id: str) -> Record | None:
    """The approval of that id, or None."""
    return record_or_none(await session.fetch_one(sa.select(t.approvals).where(t.approvals.c.id == approval_id)))


async def list_approvals(
    session: Session,
    status: str | None = None,
    chain_id: str | None = None,
    limit: int = 100,
    offset: int = 0,
) -> list[Record]:
    """Approvals, oldest request first."""
    query = sa.select(t.approvals).order_by(t.approvals.c.requested_at, t.approvals.c.id)
    if status is not None:
        query = query.where(t.approvals.c.status == transitions.status(ApprovalStatus, status))
    if chain_id is not None:
        query = query.where(t.approvals.c.chain_id == chain_id)
    return [record(row) for row in await session.fetch_all(page(query, limit, offset))]


@of_one_moment
async def get_pending_approvals(session: Session, chain_id: str | None = None, limit: int = 100) -> list[Record]:
    """The gates that wait for a person, oldest first: all, or those in a run and in the runs inside its steps.

    Each row also has `run`, `step` and `item`, and `artifacts`: the files to look at, each with its `id name
    version filename media_type size`. Two queries.
    """
    check_page(limit, 0)
    pending = _PENDING[chain_id is not None](run=chain_id, limit=limit)
    waiting = [record(row) for row in await session.select(pending)]
    listed = await session.select(_LISTED(gates=[gate["id"] for gate in waiting]))
    files = {row["id"]: Record(row) for row in listed}
    for gate in waiting:
        gate["run"], gate["step"], gate["item"] = gate["chain_id"], gate["step_id"], gate["item_index"]
        gate["artifacts"] = [files[artifact] for artifact in gate["artifact_ids"] if artifact in files]
    return waiting


async def approve(
    session: Session, approval_id: str, by: str, *, seen: Collection[str] | None = None, reason: str = ""
) -> Record:
    """Approve the versions that the person saw (`seen`: artifact ids; default: what the step itself made).

    Raises:
        ApprovalRefused: E_APPROVAL_MISSING, E_APPROVAL_DECIDED, E_APPROVAL_EXPIRED, E_APPROVAL_STALE if a version
            changed. InputInvalid: E_APPROVAL_BY.
    """
    _named(by)
    gate = await session.write(gates.undecided, approval_id)
    await _check_seen(session, gate, seen)
    decision = gates.Decision(ApprovalStatus.APPROVED, GateAction.APPROVE, by, reason)
    return await session.write(gates.decide, gate, decision)


async def reject(
    session: Session,
    approval_id: str,
    by: str,
    *,
    reason: str = "",
    action: str | None = None,
    parameters: dict[str, Json] | None = None,
) -> Record:
    """Reject what a gate lists. The effect is the `action`, by default the `on_rejected` of its policy.

    `parameters` are arguments for a regeneration. When `max_retries` are used up, the policy's `regenerate` acts as
    `stop`; an explicit `regenerate` is refused.

    Raises:
        ApprovalRefused: E_APPROVAL_MISSING, E_APPROVAL_DECIDED, E_APPROVAL_EXPIRED, E_APPROVAL_SPENT.
        InputInvalid: E_APPROVAL_BY, E_APPROVAL_ACTION; E_PARAMETER for parameters that nothing would use.
    """
    _named(by)
    gate = await session.write(gates.undecided, approval_id)
    chosen = _action(action or gate["policy"].get("on_rejected", GateAction.STOP))
    if parameters and chosen is not GateAction.REGENERATE:
        raise InputInvalid(
            "E_PARAMETER",
            f"this rejection means {chosen}, so the step would not run with these parameters",
            found=" ".join(parameters),
            cure="reject with the action `regenerate`",
        )
    most = gate["policy"].get("max_retries", 0)
    spent = chosen is GateAction.REGENERATE and await gates.regenerations(session, gate["workflow_id"]) >= most
    if action and spent:
        raise ApprovalRefused(
            "E_APPROVAL_SPENT",
            "no regeneration is left",
            allowed=f"max_retries: {most}",
            cure="`stop` or `skip` it, or replace the artifact and approve that",
        )
    decision = gates.Decision(ApprovalStatus.REJECTED, chosen, by, reason, parameters)
    return await session.write(gates.decide, gate, decision)


async def cancel_approval(session: Session, approval_id: str, by: str = "towpath", reason: str = "") -> Record:
    """Close a gate without a decision; a run that waits for it stops. Raises ApprovalRefused as `reject` does."""
    _named(by)
    gate = await session.write(gates.undecided, approval_id)
    return await session.write(gates.decide, gate, gates.Decision(ApprovalStatus.CANCELLED, None, by, reason))


async def _check_seen(session: Session, gate: Record, seen: Collection[str] | None) -> None:
    listed = gate["artifact_ids"]
    fits = set(listed) == set(seen) if seen is not None else not await _changed(session, gate)
    if not fits:
        raise ApprovalRefused(
            "E_APPROVAL_STALE",
            "the artifacts changed after they were seen",
            cure="look at the latest versions, then decide again and give their ids (`seen`)",
        )


async def _changed(session: Session, gate: Record) -> bool:
    """Was an output of the step replaced, so that the caller must say which version is meant?"""
    newer = sa.or_(
        t.artifacts.c.parent_artifact_id.is_not(None),
        t.artifacts.c.created_by.is_not(None),
        t.artifacts.c.created_at > gate["requested_at"],
    )
    query = sa.select(t.artifacts.c.id).where(t.artifacts.c.id.in_(gate["artifact_ids"]), newer)
    return bool(await session.fetch_all(query))


def _action(word: str) -> GateAction:
    allowed = [action for action in GateAction if action is not GateAction.APPROVE]
    if word not in allowed:
        raise InputInvalid("E_APPROVAL_ACTION", "a rejection has no such action", found=word, allowed=" ".join(allowed))
    return GateAction(word)


def _named(by: str) -> None:
    if not by.strip():
        raise InputInvalid("E_APPROVAL_BY", "a decision needs the name of the person who makes it")
