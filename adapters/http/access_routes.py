"""The door itself over HTTP: who am I, keys, sessions of browsers, ComfyUI servers, health."""

from __future__ import annotations

import secrets
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from . import csrf
from .answering import answer, listed, principal_of
from .asked import KeyBody, LoginBody
from .bodies import body_of, check_text
from .doorkeeper import COOKIE, SESSION_SECONDS, Doorkeeper
from .principals import ANYONE, Role, key_digest, new_key
from .queries import list_parameters
from .records import engine_of, records_of
from .refusals import Refused
from .route_table import Route
from .shapes import Deleted, Health, KeyRow, Me, NewKey, Page, Server, page_type, shaped

_FORM = "application/x-www-form-urlencoded"


async def health(request: Request) -> Response:
    return answer(Health(status="ok"))


async def me(request: Request) -> Response:
    who = principal_of(request)
    may = [what for what in ("view", "operate", "approve", "admin") if who.may(what)]
    return answer(Me(name=who.name, role=who.role, way=who.way, may=may))


async def list_servers(request: Request) -> Response:
    """ComfyUI servers of this process, as they were when they were last looked at."""
    farm: Any = getattr(engine_of(request).adapter, "farm", None)
    rows = [] if farm is None else [_server(member) for member in farm.pool.members]
    return answer(Page(rows=rows))


def _server(member: Any) -> Server:
    health = member.health
    return Server(
        name=member.server.name,
        url=member.server.url,
        ok=None if health is None and not member.trouble else not member.trouble,
        slots=member.server.slots,
        queue=None if health is None else health.queue,
        detail=member.trouble or "",
    )


async def list_keys(request: Request) -> Response:
    return await listed(request, "keys", KeyRow)


async def post_key(request: Request) -> Response:
    body = await body_of(request, KeyBody)
    name = check_key_name(body.name)
    if body.role not in tuple(Role):
        raise Refused(422, "E_BODY_FIELD", "there is no such role", found=body.role, allowed=" ".join(Role))
    key = new_key()
    row = await records_of(request).add_key(name, body.role, key_digest(key))
    return answer(shaped(NewKey, row, key=key), 201)


def check_key_name(name: str) -> str:
    """The name of a key: it is shown as the name of whoever decides. Raises Refused (422 E_KEY_NAME)."""
    if not name.strip() or name != name.strip() or not name.isprintable() or len(name) > 100:
        raise Refused(422, "E_KEY_NAME", "that is no name for a key", found=name, allowed="printable characters")
    return name


async def revoke_key(request: Request) -> Response:
    name = request.path_params["name"]
    if not await records_of(request).revoke_key(name):
        raise Refused(404, "E_KEY_MISSING", "there is no key of that name in use", found=name)
    return answer(Deleted(id=name, deleted=True))


async def login(request: Request) -> Response:
    """A key for a cookie: a form leads on to a page, JSON is answered."""
    door: Doorkeeper = request.app.state.door
    media = request.headers.get("content-type", "").split(";")[0].strip().lower()
    onward = ""
    if media == _FORM:
        form = await request.form(max_fields=10, max_part_size=10_000)
        csrf.check(request, form)
        key, onward = str(form.get("key", "")).strip(), _onward(str(form.get("next", "/")))
    else:
        key = (await body_of(request, LoginBody)).key
    found = await door.find_key(key)
    if found is None:
        refused = door.wrong_key(request.client.host if request.client else "")
        if media == _FORM and refused.status_code == 401:
            return RedirectResponse("/login?failed=1", 303)
        raise refused
    made: Response = RedirectResponse(onward, 303) if onward else answer(shaped(KeyRow, found))
    cookie = door.sessions.cookie(found["id"], secrets.token_urlsafe(16))
    secure = request.url.scheme == "https"
    made.set_cookie(COOKIE, cookie, SESSION_SECONDS, httponly=True, samesite="strict", secure=secure)
    return made


async def logout(request: Request) -> Response:
    media = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if media == _FORM:
        csrf.check(request, await request.form(max_fields=10, max_part_size=10_000))
    made: Response = RedirectResponse("/login", 303) if media == _FORM else answer(Health(status="ok"))
    made.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return made


def _onward(target: str) -> str:
    """A page of ours to go on with."""
    parts = urlsplit(check_text(target[:2_000]))
    local = target.startswith("/") and not target.startswith(("//", "/\\")) and not parts.netloc and not parts.scheme
    return target if local else "/"


ROUTES = (
    Route("GET", "/health", ANYONE, health, "Does the server answer?", answer=Health),
    Route("GET", "/me", Role.VIEWER, me, "Who you are to this server.", answer=Me),
    Route("GET", "/servers", Role.VIEWER, list_servers, "ComfyUI servers.", answer=page_type(Server)),
    Route(
        "GET",
        "/keys",
        Role.ADMIN,
        list_keys,
        "Keys, without the keys.",
        answer=page_type(KeyRow),
        listing="keys",
        parameters=list_parameters("keys"),
    ),
    Route(
        "POST", "/keys", Role.ADMIN, post_key, "Make a key; it is shown once.", body=KeyBody, answer=NewKey, status=201
    ),
    Route("DELETE", "/keys/{name}", Role.ADMIN, revoke_key, "Revoke a key for good.", answer=Deleted, errors=(404,)),
)
