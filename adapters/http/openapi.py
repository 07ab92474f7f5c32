"""The OpenAPI 3.1 document. It is made from the route table, so that both agree."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

import msgspec
from msgspec import Struct

from .principals import ANYONE
from .route_table import PREFIX, ApiRoute, QueryParameter

_PATH_PARAMETER = re.compile(r"{(\w+)}")
_REF = "#/components/schemas/{name}"


class ErrorDetail(Struct):
    """An error: a stable code, a message, and the place of the problem."""

    code: str
    message: str
    file: str = ""
    line: int = 0
    column: int = 0
    step: str = ""
    field: str = ""
    found: str = ""
    allowed: str = ""
    cure: str = ""


class Error(Struct):
    """The body of every error response."""

    error: ErrorDetail


def document(routes: Iterable[ApiRoute]) -> dict[str, Any]:
    """The OpenAPI document of these routes."""
    rows = list(routes)
    kinds = {kind for row in rows for kind in (row.body, row.answer) if _is_struct(kind)}
    ordered = [Error, *sorted(kinds, key=lambda kind: str(kind.__name__))]
    schemas, components = msgspec.json.schema_components(ordered, ref_template=_REF)
    by_kind = dict(zip(ordered, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for row in rows:
        paths.setdefault(PREFIX + row.path, {})[row.method.lower()] = _operation(row, by_kind)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "towpath",
            "version": version("towpath"),
            "description": "Chains of steps, the files they make, and the decisions of people.",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A key: `towpath keys add NAME --role ROLE`.",
                }
            },
        },
        "security": [{"key": []}],
    }


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Struct)


def _operation(row: ApiRoute, schemas: dict[Any, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": row.endpoint.__name__,
        "summary": row.about,
        "tags": [row.path.split("/")[1]],
        "parameters": [
            *(
                {"name": n, "in": "path", "required": True, "schema": _segment()}
                for n in _PATH_PARAMETER.findall(row.path)
            ),
            *(_parameter(parameter) for parameter in row.parameters),
        ],
        "responses": _responses(row, schemas),
        "x-role": row.role,
    }
    if row.body is not None:
        schema = schemas.get(row.body, {"type": "string", "format": "binary"})
        content = {media: {"schema": schema if media != "multipart/form-data" else _form()} for media in row.body_types}
        operation["requestBody"] = {"required": True, "content": content}
    if row.role == ANYONE:
        operation["security"] = []
    return operation


def _segment() -> dict[str, Any]:
    return {"type": "string", "minLength": 1, "pattern": "^[^/]+$"}


def _form() -> dict[str, Any]:
    texts = {name: {"type": "string"} for name in ("by", "reason")}
    approve = {"type": "string", "enum": ["true", "false"]}
    file = {"type": "string", "format": "binary", "description": "the last part of the form"}
    return {"type": "object", "properties": {**texts, "approve": approve, "file": file}, "required": ["file"]}


def _parameter(parameter: QueryParameter) -> dict[str, Any]:
    description = {"description": parameter.about} if parameter.about else {}
    return {"name": parameter.name, "in": "query", "schema": parameter.schema, **description}


def _responses(row: ApiRoute, schemas: dict[Any, Any]) -> dict[str, Any]:
    schema = schemas.get(row.answer, {"type": "string", "format": "binary"})
    found: dict[str, Any] = {str(row.status): {"description": "done", "content": {row.answer_type: {"schema": schema}}}}
    if row.path.endswith("/raw"):
        found["206"] = {"description": "the requested part", "content": {"*/*": {"schema": schema}}}
        found["304"] = {"description": "not modified"}
    error = {"application/json": {"schema": schemas[Error]}}
    usual = (400, 422) if row.role == ANYONE else (400, 401, 403, 422, 429)
    with_body = (408, 413, 415) if row.body is not None else ()
    for status in sorted({*usual, *with_body, *row.errors}):
        found[str(status)] = {"description": "refused", "content": error}
    return found
