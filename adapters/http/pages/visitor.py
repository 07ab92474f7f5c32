"""Who looks at a page and what they may do. The only place that knows how the server says so."""

from __future__ import annotations

from typing import Protocol, cast

from starlette.requests import Request


class Visitor(Protocol):
    """The person or program behind a request, as the server found out."""

    @property
    def name(self) -> str: ...

    @property
    def role(self) -> str: ...

    def may(self, what: str, /) -> bool:
        """May they do `what`: `view`, `operate` or `approve`?"""
        ...


class Nobody:
    """A visitor whom the server did not name: looks at the login page and at errors, and may do nothing."""

    name = ""
    role = ""

    def may(self, what: str, /) -> bool:
        return False


_NOBODY = Nobody()


def visitor(request: Request) -> Visitor:
    """The visitor of a request."""
    return cast("Visitor", getattr(request.state, "principal", _NOBODY))
