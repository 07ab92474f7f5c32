"""Routes for the caller itself, keys, sessions of browsers, ComfyUI servers and health."""

from __future__ import annotations

import secrets
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from . import csrf
from .access import engine_of, principal_of, records_of
from .authentication import COOKIE, SESSION_SECONDS, Authenticator, unknown_key
from .bodies import FORM, body_of, check_text, fields_of, media_type
from .errors import Refused
from .principals import ANYONE, Role, key_digest, key_name, new_key
from .query_parameters import list_parameters, list_response
from .requests import KeyBody, LoginBody
from .responses import Deleted, HealthOut, KeyRow, Me, NewKey, PageOut, ServerOut, json_response, page_type, shaped
from .route_table import ApiRoute

MAX_LOGIN = 16 * 1024  # bytes of a body that is read before the caller is known


async def health(request: Request) -> Response:
    return json_response(HealthOut(status="ok"))


async def me(request: Request) -> Response:
    who = principal_of(request)
    may = [what for what in ("view", "operate", "approve", "admin") if who.may(what)]
    return json_response(Me(name=who.name, role=who.role, way=who.way, may=may))


async def list_servers(request: Request) -> Response:
    """ComfyUI servers of this process, as of their last health check."""
    farm: Any = getattr(engine_of(request).adapter, "farm", None)
    rows = [] if farm is None else [_server(member) for member in farm.pool.members]
    return json_response(PageOut(rows=rows))


def _server(member: Any) -> ServerOut:
    health = member.health
    return ServerOut(
        name=member.server.name,
        url=member.server.url,
        ok=None if health is None and not member.trouble else not member.trouble,
        slots=member.server.slots,
        queue=None if health is None else health.queue,
        detail=member.trouble or "",
    )


async def list_keys(request: Request) -> Response:
    return await list_response(request, "keys", KeyRow)


async def post_key(request: Request) -> Response:
    body = await body_of(request, KeyBody)
    name = key_name(body.name)
    if body.role not in tuple(Role):
        raise Refused(422, "E_BODY_FIELD", "this is not a role", found=body.role, allowed=" ".join(Role))
    key = new_key()
    row = await records_of(request).add_key(name, body.role, key_digest(key), principal_of(request).name)
    return json_response(shaped(NewKey, row, key=key), 201)


async def revoke_key(request: Request) -> Response:
    name = request.path_params["name"]
    if not await records_of(request).revoke_key(name, principal_of(request).name):
        raise Refused(404, "E_KEY_MISSING", "there is no key of that name in use", found=name)
    return json_response(Deleted(id=name, deleted=True))


async def login(request: Request) -> Response:
    """Exchange a key for a session cookie. A form is redirected to a page, JSON gets JSON."""
    authenticator: Authenticator = request.app.state.authenticator
    address = request.client.host if request.client else ""
    too_many = authenticator.too_many(address)
    if too_many is not None:
        raise too_many
    by_form, target = media_type(request) == FORM, ""
    if by_form:
        form = await fields_of(request, MAX_LOGIN)
        csrf.check(request, form)
        key, target = str(form.get("key", "")).strip(), _local_page(str(form.get("next", "/")))
    else:
        key = (await body_of(request, LoginBody, MAX_LOGIN)).key
    found = await authenticator.find_key(key)
    if found is None:
        if by_form:
            return RedirectResponse("/login?failed=1", 303)
        raise unknown_key()
    authenticator.forget_attempt(address)
    response: Response = RedirectResponse(target, 303) if target else json_response(shaped(KeyRow, found))
    session = secrets.token_urlsafe(16)
    await records_of(request).sign_in(key_digest(session), found, SESSION_SECONDS)
    response.set_cookie(
        COOKIE,
        authenticator.cookies.cookie(session),
        SESSION_SECONDS,
        httponly=True,
        samesite="strict",
        secure=_by_tls(request),
    )
    return response


async def logout(request: Request) -> Response:
    by_form = media_type(request) == FORM
    if by_form:
        csrf.check(request, await fields_of(request, MAX_LOGIN))
    who = getattr(request.state, "principal", None)
    if who is not None and who.way == "session":
        await records_of(request).sign_out(key_digest(who.session), who.name)
    response: Response = RedirectResponse("/login", 303) if by_form else json_response(HealthOut(status="ok"))
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return response


def _by_tls(request: Request) -> bool:
    """Does the browser use TLS? A proxy may end TLS before this server; then the setting `url` says so."""
    public = urlsplit(request.app.state.settings.url)
    return "https" in (request.url.scheme, public.scheme if public.netloc == request.url.netloc else "")


def _local_page(target: str) -> str:
    """The page to open after the login: only pages of this server."""
    parts = urlsplit(check_text(target[:2_000]))
    local = target.startswith("/") and not target.startswith(("//", "/\\")) and not parts.netloc and not parts.scheme
    return target if local else "/"


ROUTES = (
    ApiRoute("GET", "/health", ANYONE, health, "Is the server up?", answer=HealthOut),
    ApiRoute("GET", "/me", Role.VIEWER, me, "The caller: name, role, and what it allows.", answer=Me),
    ApiRoute("GET", "/servers", Role.VIEWER, list_servers, "ComfyUI servers.", answer=page_type(ServerOut)),
    ApiRoute(
        "GET",
        "/keys",
        Role.ADMIN,
        list_keys,
        "Keys, without their secret part.",
        answer=page_type(KeyRow),
        listing="keys",
        parameters=list_parameters("keys"),
    ),
    ApiRoute(
        "POST", "/keys", Role.ADMIN, post_key, "Make a key. It is sent once.", body=KeyBody, answer=NewKey, status=201
    ),
    ApiRoute("DELETE", "/keys/{name}", Role.ADMIN, revoke_key, "Revoke a key for good.", answer=Deleted, errors=(404,)),
)
