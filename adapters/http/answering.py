"""Plain data as answers."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from towpath.model import Plan

from .access import records_of
from .errors import Refused
from .principals import Principal
from .query_parameters import cursor_for, page_of
from .responses import Definition, InputShape, Page, PlanStep, masked, shaped


def answer(data: Any, status: int = 200) -> Response:
    """Data as JSON."""
    return Response(msgspec.json.encode(data), status, media_type="application/json")


async def listed(request: Request, what: str, kind: Any, **fixed: Any) -> Response:
    """A page of a list as the query asks for it."""
    page = page_of(request, what, **fixed)
    found = await records_of(request).page(what, page)
    rows = [shaped(kind, row) for row in found.rows]
    return answer(Page(rows=rows, next=cursor_for(request, what, page, found.next)))


def there(row: Any, code: str, what: str) -> Any:
    """The row. Raises Refused (404) without one; the answer does not say why."""
    if row is None:
        raise Refused(404, code, f"there is no such {what}")
    return row


def principal_of(request: Request) -> Principal:
    """Who calls; behind a route that needs a role there always is somebody."""
    principal: Principal = request.state.principal
    return principal


def definition(plan: Plan) -> Definition:
    """A chain as it is told outside: without the folder it lies in."""
    return Definition(
        name=plan.name,
        description=plan.description,
        inputs=inputs_of(plan),
        levels=[list(level) for level in plan.levels],
        steps=[
            PlanStep(
                id=step.id,
                kind=step.kind,
                target=step.target,
                level=step.level,
                depends_on=list(step.depends_on),
                condition=step.condition,
                mapped=step.mapped,
                requires_approval=step.approval is not None,
                description=step.description,
                parameters=masked(step.parameters),
            )
            for step in plan.steps
        ],
        metadata=masked(plan.metadata),
    )


def inputs_of(plan: Plan) -> list[InputShape]:
    """The inputs that a chain declares."""
    return [
        InputShape(
            name=i.name,
            type=i.type,
            required=i.required,
            default=masked({i.name: i.default})[i.name],
            description=i.description,
        )
        for i in plan.inputs
    ]
