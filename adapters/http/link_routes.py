"""Approval links: whoever holds one sees what it is about, and decides that one gate. GET shows, POST decides.

Browsers get the page, programs JSON. A form needs the page's token; a file that the gate lists is at
`/a/{token}/files/{id}`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from towpath.errors import TowpathError
from towpath.store.rows import artifact as artifact_row

from . import csrf
from .access import engine_of
from .answering import answer, there
from .bodies import FORM, as_kind, body_of, check_text, fields_of, media_type
from .downloads import artifact_answer
from .errors import Refused
from .gate_files import listed_files
from .links import LINK_PATH, decide_by_link, open_link
from .principals import ANYONE
from .requests import LinkBody
from .responses import ApprovalRow, shaped
from .route_table import Page

LinkPage = Callable[[Request, Mapping[str, Any], Refused | TowpathError | None], Awaitable[Response]]


async def show_link(request: Request) -> Response:
    """What a link is about. Decides nothing, whoever asks and however often."""
    opened = await open_link(request, request.path_params["token"])
    if "text/html" in request.headers.get("accept", ""):
        return await _page(request, opened.gate, opened.problem)
    if opened.problem is not None:
        raise opened.problem
    return answer(shaped(ApprovalRow, opened.gate, artifacts=await listed_files(engine_of(request), opened.gate)))


async def show_file(request: Request) -> Response:
    """The bytes of a file that the gate of a link lists."""
    opened = await open_link(request, request.path_params["token"])
    if opened.problem is not None:
        raise opened.problem
    wanted = request.path_params["id"]
    row = await engine_of(request).get_artifact(wanted) if wanted in opened.gate["artifact_ids"] else None
    return await artifact_answer(request, artifact_row(there(row, "E_ARTIFACT_MISSING", "artifact")))


async def approve_by_link(request: Request) -> Response:
    body = await _body(request)
    return await _decide(request, "approve", body, seen=body.seen, reason=body.reason)


async def reject_by_link(request: Request) -> Response:
    body = await _body(request)
    return await _decide(request, "reject", body, reason=body.reason, action=body.action, parameters=body.parameters)


async def _body(request: Request) -> LinkBody:
    """JSON, or a form with a token from the page of this link. Nothing is read before the link is known to be ours."""
    await open_link(request, request.path_params["token"])
    if media_type(request) != FORM:
        return await body_of(request, LinkBody)
    form = await fields_of(request)
    csrf.check(request, form)
    data: dict[str, Any] = {}
    for name in ("by", "decided_by", "reason", "action"):
        text = form.get(name)
        if isinstance(text, str) and text:
            data[name] = check_text(text)
    return as_kind({**data, "seen": form.getlist("seen")}, LinkBody)


async def _decide(request: Request, what: str, body: LinkBody, **how: Any) -> Response:
    token = request.path_params["token"]
    by_form = media_type(request) == FORM
    try:
        row = await decide_by_link(request, token, what, body.by or body.decided_by, **how)
    except (Refused, TowpathError) as error:
        if not by_form:
            raise
        return await _page(request, (await open_link(request, token)).gate, error)
    request.app.state.background.look()
    if by_form:
        return await _page(request, row, None)
    return answer(shaped(ApprovalRow, row, artifacts=await listed_files(engine_of(request), row)))


async def _page(request: Request, gate: Mapping[str, Any], problem: Refused | TowpathError | None) -> Response:
    """The page of the link, which the app brings along: pages stand above routes."""
    page: LinkPage = request.app.state.link_page
    return await page(request, gate, problem)


PAGES = (
    Page("GET", LINK_PATH, ANYONE, show_link),
    Page("GET", f"{LINK_PATH}/files/{{id}}", ANYONE, show_file),
    Page("POST", f"{LINK_PATH}/approve", ANYONE, approve_by_link),
    Page("POST", f"{LINK_PATH}/reject", ANYONE, reject_by_link),
)
