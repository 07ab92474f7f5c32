"""A page with its frame: who is signed in, how much waits, and the token for its forms."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from towpath.adapters.http import csrf
from towpath.adapters.http.access import records_of
from towpath.store.listing import Condition, Page

from .rendering import render

COUNTED = 100  # gates that the navigation counts; more are 99+
_PENDING = Page((Condition("status", "eq", ("pending",)),), limit=COUNTED)


async def show(request: Request, template: str, *, section: str = "", status: int = 200, **data: Any) -> Response:
    """Render a page of the site."""
    waiting = (await records_of(request).page("approvals", _PENDING)).rows
    return render(
        request,
        template,
        status=status,
        section=section,
        waiting_count=len(waiting),
        csrf=csrf.token(request),
        signed_in=bool(getattr(request.state, "signed_in", False)),
        **data,
    )
