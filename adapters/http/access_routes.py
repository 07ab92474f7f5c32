"""The door itself over HTTP: who am I, keys, sessions of browsers, ComfyUI servers, health."""

from __future__ import annotations

import secrets
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from . import csrf
from .access import engine_of, records_of
from .answering import answer, listed, principal_of
from .authentication import COOKIE, SESSION_SECONDS, Doorkeeper, unknown_key
from .bodies import FORM, body_of, check_text, fields_of, media_type
from .errors import Refused
from .principals import ANYONE, Role, key_digest, key_name, new_key
from .query_parameters import list_parameters
from .requests import KeyBody, LoginBody
from .responses import Deleted, Health, KeyRow, Me, NewKey, Page, Server, page_type, shaped
from .route_table import Route

MAX_LOGIN = 16 * 1024  # bytes of a body that is read before it is known whose it is


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
    name = key_name(body.name)
    if body.role not in tuple(Role):
        raise Refused(422, "E_BODY_FIELD", "there is no such role", found=body.role, allowed=" ".join(Role))
    key = new_key()
    row = await records_of(request).add_key(name, body.role, key_digest(key), principal_of(request).name)
    return answer(shaped(NewKey, row, key=key), 201)


async def revoke_key(request: Request) -> Response:
    name = request.path_params["name"]
    if not await records_of(request).revoke_key(name, principal_of(request).name):
        raise Refused(404, "E_KEY_MISSING", "there is no key of that name in use", found=name)
    return answer(Deleted(id=name, deleted=True))


async def login(request: Request) -> Response:
    """A key for a cookie: a form leads on to a page, JSON is answered."""
    door: Doorkeeper = request.app.state.door
    address = request.client.host if request.client else ""
    too_many = door.too_many(address)
    if too_many is not None:
        raise too_many
    by_form, onward = media_type(request) == FORM, ""
    if by_form:
        form = await fields_of(request, MAX_LOGIN)
        csrf.check(request, form)
        key, onward = str(form.get("key", "")).strip(), _onward(str(form.get("next", "/")))
    else:
        key = (await body_of(request, LoginBody, MAX_LOGIN)).key
    found = await door.find_key(key)
    if found is None:
        if by_form:
            return RedirectResponse("/login?failed=1", 303)
        raise unknown_key()
    door.was_right(address)
    made: Response = RedirectResponse(onward, 303) if onward else answer(shaped(KeyRow, found))
    session = secrets.token_urlsafe(16)
    await records_of(request).sign_in(key_digest(session), found, SESSION_SECONDS)
    made.set_cookie(
        COOKIE,
        door.sessions.cookie(session),
        SESSION_SECONDS,
        httponly=True,
        samesite="strict",
        secure=_by_tls(request),
    )
    return made


async def logout(request: Request) -> Response:
    by_form = media_type(request) == FORM
    if by_form:
        csrf.check(request, await fields_of(request, MAX_LOGIN))
    who = getattr(request.state, "principal", None)
    if who is not None and who.way == "session":
        await records_of(request).sign_out(key_digest(who.session), who.name)
    made: Response = RedirectResponse("/login", 303) if by_form else answer(Health(status="ok"))
    made.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return made


def _by_tls(request: Request) -> bool:
    """Does the browser come by TLS? Where it does, TLS ends before this server, and the server's `url` says so."""
    public = urlsplit(request.app.state.settings.url)
    return "https" in (request.url.scheme, public.scheme if public.netloc == request.url.netloc else "")


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
