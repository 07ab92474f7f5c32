"""The page where people enter their key. What the key is checked with is not here."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from towpath.adapters.http import csrf

from .rendering import render


async def login(request: Request) -> Response:
    """The form for a key."""
    failed = "failed" in request.query_params
    return login_page(request, refused="That key is not known, or was revoked." if failed else "")


def login_page(request: Request, *, refused: str = "", status: int = 200) -> Response:
    """The form for a key, with why the last one was refused."""
    return render(
        request, "login.html", status=status, refused=refused, csrf=csrf.token(request), onward=_onward(request)
    )


def _onward(request: Request) -> str:
    """Where to go afterwards; the door checks that it is a page of ours."""
    return request.query_params.get("next", "/")[:2_000]
