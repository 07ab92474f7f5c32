"""The table: every address, in one place. Whatever is not here does not exist."""

from __future__ import annotations

from functools import cache
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from . import access_routes, approval_routes, artifact_routes, link_routes, openapi, run_routes
from .answering import answer
from .principals import ANYONE, Role
from .route_table import Page, Route, Table


async def get_openapi(request: Request) -> Response:
    return answer(api_document())


API: tuple[Route, ...] = (
    *run_routes.ROUTES,
    *artifact_routes.ROUTES,
    *approval_routes.ROUTES,
    *access_routes.ROUTES,
    Route("GET", "/openapi.json", Role.VIEWER, get_openapi, "This document."),
)

OUTER: tuple[Page, ...] = (
    Page("POST", "/login", ANYONE, access_routes.login),
    Page("POST", "/logout", ANYONE, access_routes.logout),
    *link_routes.PAGES,
)


@cache
def api_document() -> dict[str, Any]:
    """The OpenAPI document."""
    return openapi.document(route for route in API if route.path != "/openapi.json")


def table(pages: tuple[Page, ...] = ()) -> Table:
    """All routes, with those of the pages for people."""
    return Table(API, (*OUTER, *pages))
