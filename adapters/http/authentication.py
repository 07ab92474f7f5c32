"""Authentication: the server's host names, who calls, and protection against forged browser requests.

Pure ASGI, in front of all routes. A request needs a key or a session. Before the first key is made, requests from this
machine need neither.
"""

from __future__ import annotations

import hmac
import time
from collections import OrderedDict, deque
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any
from urllib.parse import quote, urlsplit

from itsdangerous import BadSignature, URLSafeTimedSerializer
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from towpath.errors import TowpathError

from . import csrf
from .access import ServerRecords
from .errors import Refused, error_response, internal_error
from .principals import MAX_KEY, Principal, Role, key_digest, local_visitor
from .route_table import PREFIX

COOKIE = "towpath_session"
SESSION_SECONDS = 12 * 3600
MAX_COOKIE = 1_000  # characters
METHODS = frozenset("GET HEAD POST PUT PATCH DELETE OPTIONS".split())
_SAFE = frozenset("GET HEAD OPTIONS".split())
_LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip", "via", "x-forwarded-host")
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'; sandbox"),
    (b"cache-control", b"no-store"),
)
WINDOW = 60.0  # seconds in which wrong keys, and changes, are counted
_MOST_CALLERS = 1_000
_MOST_ECHOES = 60  # refusals to one key in `WINDOW` that may repeat parts of the request


class SessionCookies:
    """Signed cookies of browser sessions. A session ends with its key, at sign-out, or after 12 hours."""

    def __init__(self, secret: str) -> None:
        self._signer = URLSafeTimedSerializer(secret, salt="towpath-session")

    def cookie(self, session: str) -> str:
        """The value of a new session's cookie."""
        return str(self._signer.dumps({"session": session}))

    def session_of(self, connection: HTTPConnection) -> str | None:
        """The session id in a request's cookie, or None without a valid cookie."""
        cookie = _cookie(connection.headers.getlist("cookie"))
        try:
            data = self._signer.loads(cookie, max_age=SESSION_SECONDS) if cookie else None
        except BadSignature:
            return None
        return data["session"] if isinstance(data, dict) and isinstance(data.get("session"), str) else None


def _cookie(headers: list[str]) -> str:
    """The value of the session cookie. Other cookies are not parsed: unquoting them is not linear in their length."""
    for header in headers:
        for part in header.split(";"):
            name, _, value = part.strip().partition("=")
            if name == COOKIE:
                return value if len(value) <= MAX_COOKIE else ""
    return ""


class RateLimit:
    """Counts events per caller within a minute, and says when there are too many."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._seen: OrderedDict[str, deque[float]] = OrderedDict()

    def uncount(self, caller: str) -> None:
        """Remove the last event."""
        times = self._seen.get(caller)
        if times:
            times.pop()

    def count(self, caller: str) -> float | None:
        """Count one event. The seconds to wait if there are too many, else None."""
        now = time.monotonic()
        times = self._seen.setdefault(caller, deque(maxlen=self._most + 1))
        self._seen.move_to_end(caller)
        while len(self._seen) > _MOST_CALLERS:
            self._seen.popitem(last=False)
        while times and now - times[0] > WINDOW:
            times.popleft()
        times.append(now)
        return WINDOW - (now - times[0]) if len(times) > self._most else None


class Authenticator:
    """Finds out who calls. `open_routes` need no principal."""

    def __init__(
        self, *, hosts: Iterable[str], failed_keys: int, changes: int, secret: str, records: ServerRecords
    ) -> None:
        self.hosts = frozenset(hosts) | _LOCAL_HOSTS
        self.open_routes: list[Route] = []
        self.cookies = SessionCookies(secret)
        self._wrong = RateLimit(failed_keys)
        self._changes = RateLimit(changes)
        self._echoes = RateLimit(_MOST_ECHOES)
        self._records = records

    async def authenticate(self, scope: Scope) -> None:
        """Set `request.state.principal`, if there is one. Raises Refused: 400, 401, 403, 405, 429."""
        headers = Headers(scope=scope)
        self._check_host(headers)
        if scope["method"] not in METHODS:
            raise Refused(405, "E_METHOD", "this server does not know this method")
        _check_origin(scope, headers)
        principal = await self._identify(HTTPConnection(scope), anonymous=self._is_open(scope))
        if principal is None:
            return
        scope["state"]["principal"] = principal
        scope["state"]["signed_in"] = principal.way == "session"
        if scope["method"] in _SAFE:
            return
        if principal.way == "session":
            _check_session_post(scope, headers)
        wait = self._changes.count(f"{principal.way} {principal.name}")
        if wait is not None:
            later = {"Retry-After": str(int(wait) + 1)}
            raise Refused(429, "E_RATE", "this key makes too many changes; wait a minute", headers=later)

    def _check_host(self, headers: Headers) -> None:
        given = headers.getlist("host")
        host = _host_name(given[0]) if len(given) == 1 else ""
        if host not in self.hosts:
            raise Refused(
                400,
                "E_HOST",
                "this server does not have this name",
                cure="use a name that the server was started with (--allow-host)",
            )

    def _is_open(self, scope: Scope) -> bool:
        return any(route.matches(scope)[0] is Match.FULL for route in self.open_routes)

    async def _identify(self, connection: HTTPConnection, *, anonymous: bool) -> Principal | None:
        """Who calls; None for a caller without key and session, if `anonymous`. Raises Refused: 400, 401, 429."""
        given = connection.headers.getlist("authorization")
        if len(given) > 1:
            raise Refused(400, "E_AUTH_AMBIGUOUS", "more than one Authorization header")
        if given:
            return await self._key_principal(given[0], connection.client.host if connection.client else "")
        session = self.cookies.session_of(connection)
        if session is not None:
            found = await self._records.key_of_session(key_digest(session))
            if found is not None:
                return Principal(found["name"], Role(found["role"]), "session", session)
        if _is_this_machine(connection) and not await self._records.any_key():
            return local_visitor()
        if anonymous:
            return None
        raise _key_needed()

    async def _key_principal(self, header: str, address: str) -> Principal:
        scheme, _, key = header.partition(" ")
        key = key.strip(" ")
        if scheme.lower() != "bearer" or not key:
            raise _key_needed()
        found = await self.find_key(key)
        if found is not None:
            return Principal(found["name"], Role(found["role"]))
        raise self.wrong_key(address)

    async def find_key(self, key: str) -> Any:
        """The row of a key that is not revoked, or None."""
        if not 0 < len(key) <= MAX_KEY:
            return None
        digest = key_digest(key)
        found = await self._records.key_of_digest(digest)
        return found if found is not None and hmac.compare_digest(found["key_sha256"], digest) else None

    def wrong_key(self, address: str) -> Refused:
        """The refusal of a wrong key, which is counted."""
        return self.too_many(address) or unknown_key()

    def too_many(self, address: str) -> Refused | None:
        """Count a wrong key, or a sign-in before its body is read. The refusal if there are too many, else None."""
        wait = self._wrong.count(address)
        if wait is None:
            return None
        later = {"Retry-After": str(int(wait) + 1), "Connection": "close"}
        return Refused(429, "E_AUTH_RATE", "too many wrong keys from your address; wait a minute", headers=later)

    def forget_attempt(self, address: str) -> None:
        """Do not count the last sign-in: its key was right."""
        self._wrong.uncount(address)

    def may_echo(self, connection: HTTPConnection) -> bool:
        """May a refusal repeat parts of the request? Not without a principal, and not if one is refused very often:
        guesses at secrets would be confirmed, since secrets are masked.
        """
        principal: Principal | None = getattr(connection.state, "principal", None)
        return principal is not None and self._echoes.count(f"{principal.way} {principal.name}") is None

    async def still_valid(self, principal: Principal, connection: HTTPConnection) -> bool:
        """Is the key or session of this connection still valid? For streams that last longer than a key."""
        try:
            return await self._identify(connection, anonymous=False) == principal
        except (Refused, TowpathError):
            return False


class AuthMiddleware:
    """The outermost middleware: authenticates, adds the default headers, and turns unexpected errors into 500."""

    def __init__(self, app: ASGIApp, authenticator: Authenticator) -> None:
        self.app = app
        self._authenticator = authenticator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope.setdefault("state", {})
        response = _WithHeaders(send)
        try:
            await self._authenticated(scope, receive, response)
        except Exception as error:
            if response.started:
                raise  # uvicorn closes the connection, so that the client sees an incomplete response
            await error_response(internal_error(Request(scope), error))(scope, receive, response)

    async def _authenticated(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self.app
        try:
            await self._authenticator.authenticate(scope)
        except Refused as refused:
            app = _to_login(scope, refused) or error_response(refused, echo=False)
        except TowpathError as error:  # the caller is unknown, because the store does not answer
            app = error_response(error, echo=False)
        await app(scope, receive, send)


def unknown_key() -> Refused:
    """401 for a key that is unknown or revoked."""
    challenge = {"WWW-Authenticate": 'Bearer realm="towpath"'}
    return Refused(401, "E_AUTH_INVALID", "this key is unknown or revoked", headers=challenge)


def allows(request: Request, role: str) -> None:
    """Raises Refused (401 E_AUTH_MISSING, 403 E_ROLE) unless the caller has the rights of `role`."""
    principal: Principal | None = getattr(request.state, "principal", None)
    if principal is None:
        raise _key_needed()
    if not principal.may(role):
        raise Refused(403, "E_ROLE", f"this needs another role; yours is {principal.role}", allowed=role)


def _key_needed() -> Refused:
    return Refused(
        401,
        "E_AUTH_MISSING",
        "this needs a key",
        cure="send `Authorization: Bearer KEY`; `towpath keys add NAME --role ROLE` makes one",
        headers={"WWW-Authenticate": 'Bearer realm="towpath"'},
    )


def _host_name(host: str) -> str:
    """The name in a Host header, in lower case and without the port; "" if the header is malformed."""
    name, colon, port = host.lower().rpartition(":")
    if host.endswith("]") or not colon:
        return host.lower()
    return name if port.isascii() and port.isdigit() else ""


def _is_this_machine(connection: HTTPConnection) -> bool:
    """Does the request come from this machine? One that a proxy forwards does not, whatever its headers say."""
    if connection.client is None or any(name in connection.headers for name in _FORWARDED):
        return False
    try:
        return ip_address(connection.client.host).is_loopback
    except ValueError:
        return False


def _check_origin(scope: Scope, headers: Headers) -> None:
    """Pages of other sites can neither read nor change anything. Raises Refused (403 E_CSRF)."""
    host, site = headers.get("host", "").lower(), headers.get("sec-fetch-site", "none")
    for origin in headers.getlist("origin"):
        # Forms of our own pages have the origin `null` where the page has `Referrer-Policy: no-referrer`.
        hidden = origin == "null" and (site == "same-origin" or _is_form(scope, headers))
        if not hidden and (_site_of(origin) != host or not host):
            raise _forged()
    if scope["method"] not in _SAFE and site not in ("same-origin", "none"):
        raise _forged()


def _site_of(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:  # half an IPv6 address
        return ""


def _is_form(scope: Scope, headers: Headers) -> bool:
    """Is it a form of a page? Its token is checked when the form is read."""
    kind = headers.get("content-type", "").startswith(("application/x-www-form-urlencoded", "multipart/form-data"))
    return scope["method"] == "POST" and kind and not scope["path"].startswith(PREFIX)


def _check_session_post(scope: Scope, headers: Headers) -> None:
    """Browsers send cookies by themselves: something else must prove that one of our pages sent the request."""
    if headers.get("origin", "null") != "null" or headers.get("sec-fetch-site") == "same-origin":
        return
    request = Request(scope)
    if csrf.HEADER in headers and csrf.valid(request, headers[csrf.HEADER]):
        return
    if _is_form(scope, headers):
        return
    raise _forged()


def _forged() -> Refused:
    return Refused(403, "E_CSRF", "this request did not come from a page of this server")


def _to_login(scope: Scope, refused: Refused) -> Response | None:
    """A redirect to the login page, for people who open a page without a session; else None."""
    path = scope["path"]
    wants_page = "text/html" in Headers(scope=scope).get("accept", "") and not path.startswith(PREFIX)
    if refused.code != "E_AUTH_MISSING" or not wants_page or scope["method"] not in _SAFE:
        return None
    return RedirectResponse(f"/login?next={quote(path[:1_000], safe='/')}", 303)


class _WithHeaders:
    """Sends a response with the default headers, where it has no others of the same name."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            there = {name.lower() for name, _ in message["headers"]}
            message["headers"] = [*message["headers"], *(h for h in HEADERS if h[0] not in there)]
        await self._send(message)
