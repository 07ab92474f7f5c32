"""Approval links: an address that can decide one gate, once, until it expires.

The address holds a signed token of the gate's id and a random part. The gate's row holds the token's hash and expiry.
If a newer version of a listed file appears, the decision is refused and the link stays valid.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from itsdangerous import BadSignature, URLSafeSerializer
from starlette.requests import Request

from towpath.errors import ApprovalRefused, InputInvalid
from towpath.records import Gate
from towpath.store import Record, approval_links, approvals, event_log
from towpath.store.clock import now

from .access import ServerRecords, engine_of, records_of
from .errors import Refused, safe_text
from .principals import link_visitor

LINK_PATH = "/a/{token}"
MAX_TOKEN = 500


@dataclass(frozen=True, slots=True)
class Opened:
    """The gate of a link, and the problem if the link can no longer decide it."""

    gate: Record
    problem: Refused | None


def token_digest(token: str) -> str:
    """The digest that is kept of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def _signer(secret: str) -> URLSafeSerializer:
    return URLSafeSerializer(secret, salt="towpath-approval-link", signer_kwargs={"digest_method": hashlib.sha256})


async def make_link(
    records: ServerRecords, secret: str, approval_id: str, hours: float, by: str = ""
) -> tuple[str, int]:
    """A new link's token and its expiry (UTC microseconds). It replaces an earlier link of the gate.

    Raises ApprovalRefused: E_APPROVAL_MISSING, E_APPROVAL_DECIDED, E_APPROVAL_EXPIRED.
    """
    token = str(_signer(secret).dumps([approval_id, secrets.token_urlsafe(16)]))
    expires = now() + int(hours * 3600e6)
    async with records.session() as session:
        ends = await approval_links.keep_link(session, approval_id, token_digest(token), expires)
        gate = await approvals.get_approval(session, approval_id)
        run = None if gate is None else gate["chain_id"]
        await event_log.note(session, "LinkMade", by, run=run, approval=approval_id, expires_at=ends)
        return token, ends


async def open_link(request: Request, token: str) -> Opened:
    """The gate of a token. Raises Refused (404 E_LINK_INVALID) for a token that is forged or replaced.

    Sets `request.state.link` and the principal, which the tokens in the page's forms are bound to.
    """
    try:
        approval_id, _ = _signer(request.app.state.secret).loads(token[:MAX_TOKEN])
    except (BadSignature, ValueError, TypeError):
        raise _invalid() from None
    digest = token_digest(token)
    async with records_of(request).session() as session:
        gate = await approvals.get_approval(session, str(approval_id))
        expired = gate is not None and await approval_links.link_over(session, gate)
    if gate is None or not hmac.compare_digest(gate["link_token_hash"] or "", digest):
        raise _invalid()
    request.state.link = digest
    if getattr(request.state, "principal", None) is None:
        request.state.principal = link_visitor()
    return Opened(gate, _problem(gate, expired))


def _invalid() -> Refused:
    return Refused(404, "E_LINK_INVALID", "this link is not valid", cure="ask for a new one")


def _problem(gate: Record, expired: bool) -> Refused | None:
    if gate["status"] == "cancelled":
        return Refused(409, "E_CHAIN_CLOSED", "the run ended before a decision was made")
    if gate["status"] == "timed_out":
        return Refused(410, "E_LINK_EXPIRED", f"the time for this decision ended {_clock(gate['expires_at'])}")
    if gate["status"] != "pending":
        by = f" by {gate['decided_by']}" if gate["decided_by"] else ""
        more = {"decided_by": gate["decided_by"], "decided_at": gate["decided_at"], "decision": gate["status"]}
        sentence = f"this was already {gate['status']}{by}, {_clock(gate['decided_at'])}"
        return Refused(409, "E_LINK_USED", safe_text(sentence), **more)
    if expired:
        return Refused(410, "E_LINK_EXPIRED", "this link has expired", cure="ask for a new one")
    return None


def _clock(at: int | None) -> str:
    return f"at {datetime.fromtimestamp((at or 0) / 1e6, UTC):%Y-%m-%d %H:%M:%S} UTC"


async def decide_by_link(request: Request, token: str, decision: str, by: str, **how: Any) -> Gate:
    """Decide the gate behind a link: `approve` (`seen`, `reason`) or `reject` (`reason`, `action`, `parameters`).

    Raises Refused: 404 E_LINK_INVALID, 410 E_LINK_EXPIRED, 409 E_LINK_USED, E_CHAIN_CLOSED, E_ARTIFACT_SUPERSEDED,
    422 E_BODY_FIELD, E_PARAM_UNKNOWN; ApprovalRefused, InputInvalid.
    """
    opened = await open_link(request, token)
    if opened.problem is not None:
        raise opened.problem
    if decision == "approve" and how.get("seen") is None:
        raise Refused(
            422,
            "E_BODY_FIELD",
            "`seen` is missing: the versions that you looked at",
            allowed="the ids that the link shows",
        )
    engine = engine_of(request)
    name = f"{by.strip()} (link)" if by.strip() else "link"
    try:
        decide = engine.approve if decision == "approve" else engine.reject
        decided = await decide(opened.gate["id"], by=name, **how)
    except ApprovalRefused as error:
        if error.code == "E_APPROVAL_STALE":
            raise Refused(409, "E_ARTIFACT_SUPERSEDED", error.problem.message, cure=error.problem.cure) from None
        closed = (await open_link(request, token)).problem  # another decision came first
        raise closed or error from None
    except InputInvalid as error:
        if error.code == "E_PARAMETER":
            known = error.problem
            raise Refused(422, "E_PARAM_UNKNOWN", known.message, found=known.found, allowed=known.allowed) from None
        raise
    return decided
