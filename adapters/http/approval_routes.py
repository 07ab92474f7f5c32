"""Gates over HTTP: what waits, deciding it, and links with which somebody without a key decides one."""

from __future__ import annotations

import csv
import io
import unicodedata
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from towpath.errors import ApprovalRefused
from towpath.store.listing import MAX_PAGE
from towpath.store.listing import Page as ListPage

from .access import engine_of, records_of
from .answering import answer, principal_of, there
from .bodies import body_of
from .errors import Refused
from .gate_files import listed_files
from .links import LINK_PATH, make_link
from .principals import Role
from .query_parameters import cursor_for, list_parameters, page_of
from .requests import ApproveBody, LinkLife, RejectBody
from .responses import ApprovalRow, Link, Page, page_type, shaped
from .route_table import Route

_COLUMNS = (
    "id chain_id step_id item_index status action decided_by decided_at reason requested_at expires_at artifact_ids"
).split()
_FORMULA = tuple("=+-@")
_UNSEEN = ("Cc", "Cf")  # signs that nobody sees, which a spreadsheet may drop as well
_CELL_BREAKS = tuple("\t\r\n")  # a spreadsheet drops them, and what follows begins the cell


async def list_approvals(request: Request) -> Response:
    """Gates with what they list; those that wait first asked first."""
    page = page_of(request, "approvals")
    found = await records_of(request).page("approvals", page)
    rows = [shaped(ApprovalRow, row, artifacts=await listed_files(engine_of(request), row)) for row in found.rows]
    return answer(Page(rows=rows, next=cursor_for(request, "approvals", page, found.next)))


async def export_approvals(request: Request) -> Response:
    """The audit of decisions as CSV, oldest first. Nothing in it is a formula to a spreadsheet."""
    made = io.StringIO()
    sheet = csv.writer(made)
    sheet.writerow(_COLUMNS)
    after: tuple[Any, str] | None = None
    while True:
        found = await records_of(request).page("approvals", ListPage(after=after, limit=MAX_PAGE))
        for row in found.rows:
            sheet.writerow([_cell(row[name]) for name in _COLUMNS])
        after = found.next
        if after is None:
            break
    headers = {"Content-Disposition": "attachment; filename=approvals.csv"}
    return Response(made.getvalue(), headers=headers, media_type="text/csv; charset=utf-8")


def _cell(value: Any) -> str:
    text = "" if value is None else " ".join(value) if isinstance(value, list) else str(value)
    seen = next((sign for sign in text if not sign.isspace() and unicodedata.category(sign) not in _UNSEEN), "")
    first = unicodedata.normalize("NFKC", seen)  # full-width signs are taken for the plain ones
    return f"'{text}" if first in _FORMULA or text.startswith(_CELL_BREAKS) else text


async def get_approval(request: Request) -> Response:
    row = there(await engine_of(request).get_approval(_id(request)), "E_APPROVAL_MISSING", "approval")
    return answer(shaped(ApprovalRow, row, artifacts=await listed_files(engine_of(request), row)))


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
    there(await engine_of(request).get_approval(_id(request)), "E_APPROVAL_MISSING", "approval")
    hours = body.hours or settings.link_hours
    token, expires = await make_link(
        records_of(request), request.app.state.secret, _id(request), hours, principal_of(request).name
    )
    base = settings.url.rstrip("/") or str(request.base_url).rstrip("/")
    return answer(Link(url=f"{base}{LINK_PATH.format(token=token)}", expires_at=expires), 201)


async def _decide(request: Request, what: str, by: str, **how: Any) -> Response:
    engine = engine_of(request)
    decide = engine.approve if what == "approve" else engine.reject
    try:
        row = await decide(_id(request), by=principal_of(request).signed(by), **how)
    except ApprovalRefused as error:
        raise await _closed(request, error) from None
    request.app.state.background.look()
    return answer(shaped(ApprovalRow, row, artifacts=await listed_files(engine_of(request), row)))


async def _closed(request: Request, error: ApprovalRefused) -> Exception:
    """A gate that was closed because its run ended says so; any other refusal stays as it is."""
    row = await engine_of(request).get_approval(_id(request))
    if error.code == "E_APPROVAL_DECIDED" and row is not None and row["status"] == "cancelled":
        return Refused(409, "E_CHAIN_CLOSED", "the run was ended before anybody decided")
    return error


# ---- parts


def _id(request: Request) -> str:
    found: str = request.path_params["id"]
    return found


ROUTES = (
    Route(
        "GET",
        "/approvals",
        Role.VIEWER,
        list_approvals,
        "Gates, oldest first; `status=pending` are those that wait.",
        answer=page_type(ApprovalRow),
        listing="approvals",
        parameters=list_parameters("approvals"),
    ),
    Route(
        "GET",
        "/approvals.csv",
        Role.VIEWER,
        export_approvals,
        "Who decided what, when and why, for a spreadsheet.",
        answer_type="text/csv",
    ),
    Route("GET", "/approvals/{id}", Role.VIEWER, get_approval, "A gate.", answer=ApprovalRow, errors=(404,)),
    Route(
        "POST",
        "/approvals/{id}/approve",
        Role.APPROVER,
        approve,
        "Approve the versions that were `seen`.",
        body=ApproveBody,
        answer=ApprovalRow,
        errors=(404, 409),
    ),
    Route(
        "POST",
        "/approvals/{id}/reject",
        Role.APPROVER,
        reject,
        "Reject: stop the chain, skip the step, or make it again.",
        body=RejectBody,
        answer=ApprovalRow,
        errors=(404, 409),
    ),
    Route(
        "POST",
        "/approvals/{id}/link",
        Role.APPROVER,
        post_link,
        "Make a link with which somebody without a key decides this gate, once.",
        body=LinkLife,
        answer=Link,
        status=201,
        errors=(404, 409),
    ),
)
