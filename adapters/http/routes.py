"""The route table of the server: every address in one place."""

from __future__ import annotations

from functools import cache
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from . import access_routes, approval_routes, artifact_routes, link_routes, openapi, run_routes
from .principals import ANYONE, Role
from .responses import json_response
from .route_table import ApiRoute, PageRoute, RouteTable


async def get_openapi(request: Request) -> Response:
    return json_response(api_document())


API: tuple[ApiRoute, ...] = (
    *run_routes.ROUTES,
    *artifact_routes.ROUTES,
    *approval_routes.ROUTES,
    *access_routes.ROUTES,
    ApiRoute("GET", "/openapi.json", Role.VIEWER, get_openapi, "This document."),
)

OUTER: tuple[PageRoute, ...] = (
    PageRoute("POST", "/login", ANYONE, access_routes.login),
    PageRoute("POST", "/logout", ANYONE, access_routes.logout),
    *link_routes.PAGES,
)


@cache
def api_document() -> dict[str, Any]:
    """The OpenAPI document."""
    return openapi.document(route for route in API if route.path != "/openapi.json")


def route_table(pages: tuple[PageRoute, ...] = ()) -> RouteTable:
    """All routes: of the API, of logins and links, and of the pages."""
    return RouteTable(API, (*OUTER, *pages))
