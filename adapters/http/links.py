"""Approval links: an address that lets whoever holds it decide one gate, once, for a time.

The address holds a signed token with the gate's id and a random part; the gate's row holds the token's hash and
its expiry. GET shows, POST decides. A newer version of what it shows makes an old look void, not the link.
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
from towpath.store import Record, approval_links, approvals, audit_lines
from towpath.store.clock import now

from .principals import link_visitor
from .records import Records, engine_of, records_of
from .refusals import Refused, safe_text

LINK_PATH = "/a/{token}"
MAX_TOKEN = 500


@dataclass(frozen=True, slots=True)
class Opened:
    """A link that was opened: its gate, and the problem with it, if it is over."""

    gate: Record
    problem: Refused | None


def token_digest(token: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def _signer(secret: str) -> URLSafeSerializer:
    return URLSafeSerializer(secret, salt="towpath-approval-link", signer_kwargs={"digest_method": hashlib.sha256})


async def make_link(records: Records, secret: str, approval_id: str, hours: float, by: str = "") -> tuple[str, int]:
    """A new link's token and when it ends (UTC microseconds). A link of the same gate made before is void.

    Raises ApprovalRefused: E_APPROVAL_MISSING, E_APPROVAL_DECIDED, E_APPROVAL_EXPIRED.
    """
    token = str(_signer(secret).dumps([approval_id, secrets.token_urlsafe(16)]))
    expires = now() + int(hours * 3600e6)
    async with records.session() as session:
        ends = await approval_links.keep_link(session, approval_id, token_digest(token), expires)
        gate = await approvals.get_approval(session, approval_id)
        run = None if gate is None else gate["chain_id"]
        await audit_lines.note(session, "LinkMade", by, run=run, approval=approval_id, expires_at=ends)
        return token, ends


async def open_link(request: Request, token: str) -> Opened:
    """The gate behind a token. Raises Refused (404 E_LINK_INVALID) for a token that was never ours, or is void.

    Sets `request.state.link` and who calls, for the token in the form of its page.
    """
    try:
        approval_id, _ = _signer(request.app.state.secret).loads(token[:MAX_TOKEN])
    except (BadSignature, ValueError, TypeError):
        raise _invalid() from None
    digest = token_digest(token)
    async with records_of(request).session() as session:
        gate = await approvals.get_approval(session, str(approval_id))
        late = gate is not None and await approval_links.link_over(session, gate)
    if gate is None or not hmac.compare_digest(gate["link_token_hash"] or "", digest):
        raise _invalid()
    request.state.link = digest
    if getattr(request.state, "principal", None) is None:
        request.state.principal = link_visitor()
    return Opened(gate, _problem(gate, late))


def _invalid() -> Refused:
    return Refused(404, "E_LINK_INVALID", "this link leads nowhere", cure="ask for a new one")


def _problem(gate: Record, late: bool) -> Refused | None:
    if gate["status"] == "cancelled":
        return Refused(409, "E_CHAIN_CLOSED", "the run was ended before anybody decided")
    if gate["status"] == "timed_out":
        return Refused(410, "E_LINK_EXPIRED", f"the time for this decision was over {_clock(gate['expires_at'])}")
    if gate["status"] != "pending":
        by = f" by {gate['decided_by']}" if gate["decided_by"] else ""
        more = {"decided_by": gate["decided_by"], "decided_at": gate["decided_at"], "decision": gate["status"]}
        sentence = f"this was {gate['status']}{by} already, {_clock(gate['decided_at'])}"
        return Refused(409, "E_LINK_USED", safe_text(sentence), **more)
    if late:
        return Refused(410, "E_LINK_EXPIRED", "the time of this link is over", cure="ask for a new one")
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
        raise Refused(422, "E_BODY_FIELD", "say which versions were `seen`", allowed="the ids that the link shows")
    engine = engine_of(request)
    name = f"{by.strip()} (link)" if by.strip() else "link"
    try:
        decide = engine.approve if decision == "approve" else engine.reject
        decided = await decide(opened.gate["id"], by=name, **how)
    except ApprovalRefused as error:
        if error.code == "E_APPROVAL_STALE":
            told = error.problem
            raise Refused(409, "E_ARTIFACT_SUPERSEDED", told.message, cure=told.cure) from None
        again = (await open_link(request, token)).problem  # somebody was faster
        raise again or error from None
    except InputInvalid as error:
        if error.code == "E_PARAMETER":
            told = error.problem
            raise Refused(422, "E_PARAM_UNKNOWN", told.message, found=told.found, allowed=told.allowed) from None
        raise
    return decided
