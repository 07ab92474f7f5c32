"""Routes of approval links: a link shows one gate and decides it. GET shows, POST decides.

Browsers get a page, programs get JSON. A form needs the token of the page. The files that the gate lists are at
`/a/{token}/files/{id}`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from towpath.errors import TowpathError

from . import csrf, reading
from .access import id_of, records_of
from .bodies import FORM, as_kind, body_of, check_text, fields_of, media_type
from .downloads import artifact_answer
from .errors import Refused, missing
from .links import LINK_PATH, decide_by_link, open_link
from .principals import ANYONE
from .requests import LinkBody
from .responses import approval_of, json_response
from .route_table import PageRoute

LinkPage = Callable[[Request, Mapping[str, Any], Refused | TowpathError | None], Awaitable[Response]]


async def show_link(request: Request) -> Response:
    """The gate of a link. Decides nothing, however often it is called."""
    opened = await open_link(request, request.path_params["token"])
    if "text/html" in request.headers.get("accept", ""):
        return await _page(request, opened.gate, opened.problem)
    if opened.problem is not None:
        raise opened.problem
    return json_response(approval_of(await reading.gate_view(records_of(request), opened.gate["id"])))


async def show_file(request: Request) -> Response:
    """The bytes of a file that the gate of a link lists."""
    opened = await open_link(request, request.path_params["token"])
    if opened.problem is not None:
        raise opened.problem
    wanted = id_of(request)
    if wanted not in opened.gate["artifact_ids"]:
        raise missing("artifact")
    return await artifact_answer(request, reading.artifact_row(await reading.artifact(records_of(request), wanted)))


async def approve_by_link(request: Request) -> Response:
    body = await _body(request)
    return await _decide(request, "approve", body, seen=body.seen, reason=body.reason)


async def reject_by_link(request: Request) -> Response:
    body = await _body(request)
    return await _decide(request, "reject", body, reason=body.reason, action=body.action, parameters=body.parameters)


async def _body(request: Request) -> LinkBody:
    """JSON, or a form with the token of this link's page. The link is checked before the body is read."""
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
    request.app.state.unattended.wake()
    if by_form:
        return await _page(request, row, None)
    return json_response(approval_of(await reading.gate_view(records_of(request), row["id"])))


async def _page(request: Request, gate: Mapping[str, Any], problem: Refused | TowpathError | None) -> Response:
    """The page of the link. The app provides it, because routes do not import pages."""
    page: LinkPage = request.app.state.link_page
    return await page(request, gate, problem)


PAGES = (
    PageRoute("GET", LINK_PATH, ANYONE, show_link),
    PageRoute("GET", f"{LINK_PATH}/files/{{id}}", ANYONE, show_file),
    PageRoute("POST", f"{LINK_PATH}/approve", ANYONE, approve_by_link),
    PageRoute("POST", f"{LINK_PATH}/reject", ANYONE, reject_by_link),
)
