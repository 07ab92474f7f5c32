"""What a route is: one row of the table that routing, roles and the OpenAPI document are made from."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

PREFIX = "/api/v1"
Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A query parameter. `schema` is its JSON Schema."""

    name: str
    schema: dict[str, Any]
    about: str = ""


@dataclass(frozen=True, slots=True)
class Route:
    """An address of the API.

    `role` is the least that is needed (or `anyone`). `body` and `answer` are msgspec types; `body_types` and
    `answer_type` are media types where they are not JSON. `listing` names the table whose filters and sorts
    it takes. `status` is that of success.
    """

    method: str
    path: str
    role: str
    endpoint: Endpoint
    about: str
    body: Any = None
    answer: Any = None
    parameters: tuple[Parameter, ...] = ()
    listing: str = ""
    body_types: tuple[str, ...] = ("application/json",)
    answer_type: str = "application/json"
    status: int = 200
    errors: tuple[int, ...] = ()
    tag: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """A page for people. Its forms carry a token (`csrf`); it is not in the OpenAPI document."""

    method: str
    path: str
    role: str
    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class Table:
    """All routes of an app; those of the API lie under `PREFIX`."""

    api: tuple[Route, ...]
    pages: tuple[Page, ...] = ()

    @property
    def rows(self) -> list[Page]:
        """Everything there is, with whole paths."""
        return [*(Page(row.method, PREFIX + row.path, row.role, row.endpoint) for row in self.api), *self.pages]
