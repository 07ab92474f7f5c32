"""Tokens against forged forms: a token proves that the sender read a page of this server.

It is bound to the session, or to an approval link.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from itsdangerous import BadSignature, URLSafeTimedSerializer
from starlette.requests import Request

from .errors import Refused

FIELD = "csrf"
HEADER = "x-csrf-token"
MAX_AGE = 24 * 3600  # seconds; an approval page may stay open over night


def token(request: Request) -> str:
    """A token for the forms of a page, as the hidden field `csrf`."""
    return str(_signer(request).dumps(_subject(request)))


def check(request: Request, form: Mapping[str, Any]) -> None:
    """Raises Refused (403 E_CSRF) unless the form holds a token of this session. Calls with a key need none."""
    principal = getattr(request.state, "principal", None)
    if principal is not None and principal.way == "key":
        return
    given = form.get(FIELD) or request.headers.get(HEADER, "")
    if not isinstance(given, str) or not valid(request, given):
        raise Refused(
            403,
            "E_CSRF",
            "this form did not come from a page of this server",
            cure="reload the page, then send the form again",
        )


def valid(request: Request, given: str) -> bool:
    """Is it a token of this session, and at most a day old?"""
    try:
        return bool(_signer(request).loads(given[:1_000], max_age=MAX_AGE) == _subject(request))
    except BadSignature:
        return False


def _signer(request: Request) -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(request.app.state.secret, salt="towpath-form")


def _subject(request: Request) -> str:
    principal = getattr(request.state, "principal", None)
    link = getattr(request.state, "link", "")
    return f"{getattr(principal, 'way', '')}:{getattr(principal, 'session', '')}:{link}"
