"""Routes as rows of a table. Routing, the check of roles and the OpenAPI document are made from it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

PREFIX = "/api/v1"
Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class QueryParameter:
    """A query parameter. `schema` is its JSON Schema."""

    name: str
    schema: dict[str, Any]
    about: str = ""


@dataclass(frozen=True, slots=True)
class ApiRoute:
    """An address of the API.

    `role` is the least role that may call it, or `anyone`. `body` and `answer` are msgspec types; `body_types` and
    `answer_type` are their media types if they are not JSON. `listing` names the list whose filters and sorts the
    query may hold. `status` is the status of success, `errors` are possible others.
    """

    method: str
    path: str
    role: str
    endpoint: Endpoint
    about: str
    body: Any = None
    answer: Any = None
    parameters: tuple[QueryParameter, ...] = ()
    listing: str = ""
    body_types: tuple[str, ...] = ("application/json",)
    answer_type: str = "application/json"
    status: int = 200
    errors: tuple[int, ...] = ()
    tag: str = ""


@dataclass(frozen=True, slots=True)
class PageRoute:
    """An address outside of the API: a page or a form. It is not in the OpenAPI document."""

    method: str
    path: str
    role: str
    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class RouteTable:
    """All routes of an app. Those of the API are below `PREFIX`."""

    api: tuple[ApiRoute, ...]
    pages: tuple[PageRoute, ...] = ()

    @property
    def rows(self) -> list[PageRoute]:
        """All routes with their full paths."""
        return [*(PageRoute(row.method, PREFIX + row.path, row.role, row.endpoint) for row in self.api), *self.pages]
