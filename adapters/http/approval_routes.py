"""Routes for gates: list them, decide them, and make links that decide one gate without a key."""

from __future__ import annotations

import csv
import io
import unicodedata
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from towpath.errors import ApprovalRefused

from . import reading
from .access import engine_of, id_of, principal_of, records_of
from .bodies import body_of
from .errors import Refused
from .links import LINK_PATH, make_link
from .principals import Role
from .query_parameters import cursor_for, list_parameters, page_of
from .requests import ApproveBody, LinkLife, RejectBody
from .responses import ApprovalRow, Link, PageOut, approval_of, json_response, page_type
from .route_table import ApiRoute

_COLUMNS = (
    "id chain_id step_id item_index status action decided_by decided_at reason requested_at expires_at artifact_ids"
).split()
_FORMULA = tuple("=+-@")
_INVISIBLE = ("Cc", "Cf")  # categories of invisible characters, which a spreadsheet may drop
_CELL_BREAKS = tuple("\t\r\n")  # a spreadsheet drops them, so that the next character begins the cell


async def list_approvals(request: Request) -> Response:
    """Gates with the files they list, oldest first."""
    page = page_of(request, "approvals")
    views, following = await reading.gate_views(records_of(request), page)
    return json_response(
        PageOut(rows=list(map(approval_of, views)), next=cursor_for(request, "approvals", page, following))
    )


async def export_approvals(request: Request) -> Response:
    """The decisions as CSV, oldest first. A spreadsheet takes no cell for a formula."""
    table = io.StringIO()
    sheet = csv.writer(table)
    sheet.writerow(_COLUMNS)
    async for row in reading.every_gate(records_of(request)):
        sheet.writerow([_cell(row[name]) for name in _COLUMNS])
    headers = {"Content-Disposition": "attachment; filename=approvals.csv"}
    return Response(table.getvalue(), headers=headers, media_type="text/csv; charset=utf-8")


def _cell(value: Any) -> str:
    text = "" if value is None else " ".join(value) if isinstance(value, list) else str(value)
    first = next((sign for sign in text if not sign.isspace() and unicodedata.category(sign) not in _INVISIBLE), "")
    first = unicodedata.normalize("NFKC", first)  # a spreadsheet reads full-width signs as plain ones
    return f"'{text}" if first in _FORMULA or text.startswith(_CELL_BREAKS) else text


async def get_approval(request: Request) -> Response:
    return json_response(approval_of(await reading.gate_view(records_of(request), id_of(request))))


async def approve(request: Request) -> Response:
    body = await body_of(request, ApproveBody)
    return await _decide(request, "approve", body.by, seen=body.seen, reason=body.reason)


async def reject(request: Request) -> Response:
    body = await body_of(request, RejectBody)
    how = {"reason": body.reason, "action": body.action, "parameters": body.parameters}
    return await _decide(request, "reject", body.by, **how)


async def post_link(request: Request) -> Response:
    body = await body_of(request, LinkLife)
    settings = request.app.state.settings
    await reading.gate_view(records_of(request), id_of(request))
    hours = body.hours or settings.link_hours
    token, expires = await make_link(
        records_of(request), request.app.state.secret, id_of(request), hours, principal_of(request).name
    )
    base = settings.url.rstrip("/") or str(request.base_url).rstrip("/")
    return json_response(Link(url=f"{base}{LINK_PATH.format(token=token)}", expires_at=expires), 201)


async def _decide(request: Request, what: str, by: str, **how: Any) -> Response:
    engine = engine_of(request)
    decide = engine.approve if what == "approve" else engine.reject
    try:
        await decide(id_of(request), by=principal_of(request).signed(by), **how)
    except ApprovalRefused as error:
        raise await _closed(request, error) from None
    request.app.state.unattended.wake()
    return json_response(approval_of(await reading.gate_view(records_of(request), id_of(request))))


async def _closed(request: Request, error: ApprovalRefused) -> Exception:
    """E_CHAIN_CLOSED if the gate was closed because its run ended; else the error itself."""
    row = await engine_of(request).get_approval(id_of(request))
    if error.code == "E_APPROVAL_DECIDED" and row is not None and row["status"] == "cancelled":
        return Refused(409, "E_CHAIN_CLOSED", "the run ended before a decision was made")
    return error


def _id(request: Request) -> str:
    found: str = request.path_params["id"]
    return found


ROUTES = (
    ApiRoute(
        "GET",
        "/approvals",
        Role.VIEWER,
        list_approvals,
        "Gates, oldest first; `status=pending` selects those that wait.",
        answer=page_type(ApprovalRow),
        listing="approvals",
        parameters=list_parameters("approvals"),
    ),
    ApiRoute(
        "GET",
        "/approvals.csv",
        Role.VIEWER,
        export_approvals,
        "All decisions (who, what, when, why) for a spreadsheet.",
        answer_type="text/csv",
    ),
    ApiRoute("GET", "/approvals/{id}", Role.VIEWER, get_approval, "A gate.", answer=ApprovalRow, errors=(404,)),
    ApiRoute(
        "POST",
        "/approvals/{id}/approve",
        Role.APPROVER,
        approve,
        "Approve the versions in `seen`.",
        body=ApproveBody,
        answer=ApprovalRow,
        errors=(404, 409),
    ),
    ApiRoute(
        "POST",
        "/approvals/{id}/reject",
        Role.APPROVER,
        reject,
        "Reject: stop the chain, skip the step, or run the step again.",
        body=RejectBody,
        answer=ApprovalRow,
        errors=(404, 409),
    ),
    ApiRoute(
        "POST",
        "/approvals/{id}/link",
        Role.APPROVER,
        post_link,
        "Make a link that decides this gate once, without a key.",
        body=LinkLife,
        answer=Link,
        status=201,
        errors=(404, 409),
    ),
)
