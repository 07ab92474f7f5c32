"""The door: under which name the server may be called, who calls, and whether a browser was talked into it.

Pure ASGI, in front of everything. Nothing is reachable that is not in the route table; what is there needs a
key, a session, or (while no key was ever made) to come from this machine.
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
from starlette.routing import Match
from starlette.routing import Route as Routed
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from towpath.errors import TowpathError

from . import csrf
from .access import Records
from .errors import Refused, internal, refusal
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
_MOST_ADDRESSES = 1_000
_MOST_ECHOES = 60  # refusals of one key in `WINDOW` that repeat what was sent


class Sessions:
    """Cookies of people who showed a key once. A session ends with its key, when they sign out, or after 12 hours."""

    def __init__(self, secret: str) -> None:
        self._signer = URLSafeTimedSerializer(secret, salt="towpath-session")

    def cookie(self, session: str) -> str:
        """The value of a new session's cookie."""
        return str(self._signer.dumps({"session": session}))

    def of(self, connection: HTTPConnection) -> str | None:
        """The session that a request's cookie names, or None without a cookie that is ours and young enough."""
        cookie = _cookie(connection.headers.getlist("cookie"))
        try:
            held = self._signer.loads(cookie, max_age=SESSION_SECONDS) if cookie else None
        except BadSignature:
            return None
        return held["session"] if isinstance(held, dict) and isinstance(held.get("session"), str) else None


def _cookie(headers: list[str]) -> str:
    """The value of our cookie. Others are not read: unquoting them is more work than they are long."""
    for header in headers:
        for part in header.split(";"):
            name, _, value = part.strip().partition("=")
            if name == COOKIE:
                return value if len(value) <= MAX_COOKIE else ""
    return ""


class Tries:
    """Counts what each of many does within a minute, so that too much of it can be refused."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._seen: OrderedDict[str, deque[float]] = OrderedDict()

    def take_back(self, address: str) -> None:
        """The last one does not count after all."""
        times = self._seen.get(address)
        if times:
            times.pop()

    def count(self, address: str) -> float | None:
        """Note one more. Seconds to wait if there were too many, else None."""
        now = time.monotonic()
        times = self._seen.setdefault(address, deque(maxlen=self._most + 1))
        self._seen.move_to_end(address)
        while len(self._seen) > _MOST_ADDRESSES:
            self._seen.popitem(last=False)
        while times and now - times[0] > WINDOW:
            times.popleft()
        times.append(now)
        return WINDOW - (now - times[0]) if len(times) > self._most else None


class Doorkeeper:
    """Lets requests in. `open_routes` need nobody's name."""

    def __init__(self, *, hosts: Iterable[str], failed_keys: int, changes: int, secret: str, records: Records) -> None:
        self.hosts = frozenset(hosts) | _LOCAL_HOSTS
        self.open_routes: list[Routed] = []
        self.sessions = Sessions(secret)
        self._wrong = Tries(failed_keys)
        self._changes = Tries(changes)
        self._echoes = Tries(_MOST_ECHOES)
        self._records = records

    async def admit(self, scope: Scope) -> None:
        """Find out who calls, and note it in `request.state.principal`. Raises Refused: 400, 401, 403, 405, 429."""
        headers = Headers(scope=scope)
        self._check_host(headers)
        if scope["method"] not in METHODS:
            raise Refused(405, "E_METHOD", "this server does not know that method")
        _check_origin(scope, headers)
        principal = await self.who(HTTPConnection(scope), self._is_open(scope))
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
            raise Refused(429, "E_RATE", "your key changes too much at once; wait a minute", headers=later)

    def _check_host(self, headers: Headers) -> None:
        given = headers.getlist("host")
        host = _host_name(given[0]) if len(given) == 1 else ""
        if host not in self.hosts:
            raise Refused(
                400,
                "E_HOST",
                "this server does not go by that name",
                cure="call it by a name that it was started with (--allow-host)",
            )

    def _is_open(self, scope: Scope) -> bool:
        return any(route.matches(scope)[0] is Match.FULL for route in self.open_routes)

    # ---- who

    async def who(self, connection: HTTPConnection, may_be_nobody: bool) -> Principal | None:
        """Who calls; None for nobody in particular where that is enough. Raises Refused: 400, 401, 429 (E_AUTH_…)."""
        given = connection.headers.getlist("authorization")
        if len(given) > 1:
            raise Refused(400, "E_AUTH_AMBIGUOUS", "more than one Authorization header")
        if given:
            return await self._of_key(given[0], connection.client.host if connection.client else "")
        session = self.sessions.of(connection)
        if session is not None:
            found = await self._records.key_of_session(key_digest(session))
            if found is not None:
                return Principal(found["name"], Role(found["role"]), "session", session)
        if _is_this_machine(connection) and not await self._records.any_key():
            return local_visitor()
        if may_be_nobody:
            return None
        raise _nobody()

    async def _of_key(self, header: str, address: str) -> Principal:
        scheme, _, key = header.partition(" ")
        key = key.strip(" ")
        if scheme.lower() != "bearer" or not key:
            raise _nobody()
        found = await self.find_key(key)
        if found is not None:
            return Principal(found["name"], Role(found["role"]))
        raise self.wrong_key(address)

    async def find_key(self, key: str) -> Any:
        """The row of a key in use, or None."""
        if not 0 < len(key) <= MAX_KEY:
            return None
        digest = key_digest(key)
        found = await self._records.key_of_digest(digest)
        return found if found is not None and hmac.compare_digest(found["key_sha256"], digest) else None

    def wrong_key(self, address: str) -> Refused:
        """What to answer to a wrong key from an address."""
        return self.too_many(address) or unknown_key()

    def too_many(self, address: str) -> Refused | None:
        """Note a wrong key, or a sign-in before anything of it is read: what to answer if there were too many."""
        wait = self._wrong.count(address)
        if wait is None:
            return None
        later = {"Retry-After": str(int(wait) + 1), "Connection": "close"}
        return Refused(429, "E_AUTH_RATE", "too many wrong keys from your address; wait a minute", headers=later)

    def was_right(self, address: str) -> None:
        """The sign-in that was counted had a right key."""
        self._wrong.take_back(address)

    def may_echo(self, connection: HTTPConnection) -> bool:
        """May an answer repeat what was sent? Never to nobody, and not to a key that is refused again and again: it
        would tell which guesses at secrets are right.
        """
        principal: Principal | None = getattr(connection.state, "principal", None)
        return principal is not None and self._echoes.count(f"{principal.way} {principal.name}") is None

    async def still_good(self, principal: Principal, connection: HTTPConnection) -> bool:
        """Would they be let in again now? For streams that live longer than a key."""
        try:
            return await self.who(connection, may_be_nobody=False) == principal
        except (Refused, TowpathError):
            return False


class Guard:
    """The middleware in front of everything: the door, headers that every answer has, and what went wrong inside."""

    def __init__(self, app: ASGIApp, door: Doorkeeper) -> None:
        self.app = app
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope.setdefault("state", {})
        guarded = _Answer(send)
        try:
            await self._admitted(scope, receive, guarded)
        except Exception as error:
            if guarded.started:
                raise  # the connection is cut: nobody takes what came for the whole
            await refusal(internal(Request(scope), error))(scope, receive, guarded)

    async def _admitted(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self.app
        try:
            await self._door.admit(scope)
        except Refused as refused:
            app = _to_login(scope, refused) or refusal(refused, echo=False)
        except TowpathError as error:  # the store is busy, say: nobody is let in unseen
            app = refusal(error, echo=False)
        await app(scope, receive, send)


def unknown_key() -> Refused:
    """401 for a key that opens nothing."""
    challenge = {"WWW-Authenticate": 'Bearer realm="towpath"'}
    return Refused(401, "E_AUTH_INVALID", "that key is not known, or was revoked", headers=challenge)


def allows(request: Request, role: str) -> None:
    """Raises Refused (401 E_AUTH_MISSING, 403 E_ROLE) unless whoever calls may do what needs `role`."""
    principal: Principal | None = getattr(request.state, "principal", None)
    if principal is None:
        raise _nobody()
    if not principal.may(role):
        raise Refused(403, "E_ROLE", f"this needs a key of another role; yours is {principal.role}", allowed=role)


def _nobody() -> Refused:
    return Refused(
        401,
        "E_AUTH_MISSING",
        "this needs a key",
        cure="send `Authorization: Bearer KEY`; `towpath keys add NAME --role ROLE` makes one",
        headers={"WWW-Authenticate": 'Bearer realm="towpath"'},
    )


def _host_name(host: str) -> str:
    """The name in a Host header, in lower case, without its port; "" for one that is no name."""
    name, colon, port = host.lower().rpartition(":")
    if host.endswith("]") or not colon:
        return host.lower()
    return name if port.isascii() and port.isdigit() else ""


def _is_this_machine(connection: HTTPConnection) -> bool:
    """Does the caller sit here? Whatever a proxy passes on comes from somewhere else, whoever it says it is from."""
    if connection.client is None or any(name in connection.headers for name in _FORWARDED):
        return False
    try:
        return ip_address(connection.client.host).is_loopback
    except ValueError:
        return False


def _check_origin(scope: Scope, headers: Headers) -> None:
    """Pages of other sites get nothing, and make nothing happen."""
    host, site = headers.get("host", "").lower(), headers.get("sec-fetch-site", "none")
    for origin in headers.getlist("origin"):
        # Forms of our pages have the origin `null`: that is how browsers take `Referrer-Policy: no-referrer`.
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
    """Is it a form of a page? Those hold a token, which is checked where the form is read."""
    kind = headers.get("content-type", "").startswith(("application/x-www-form-urlencoded", "multipart/form-data"))
    return scope["method"] == "POST" and kind and not scope["path"].startswith(PREFIX)


def _check_session_post(scope: Scope, headers: Headers) -> None:
    """A cookie comes along by itself: there has to be a sign that a page of ours sent the request."""
    if headers.get("origin", "null") != "null" or headers.get("sec-fetch-site") == "same-origin":
        return
    request = Request(scope)
    if csrf.HEADER in headers and csrf.valid(request, headers[csrf.HEADER]):
        return
    if _is_form(scope, headers):
        return
    raise _forged()


def _forged() -> Refused:
    return Refused(403, "E_CSRF", "this request was not made by a page of this server")


def _to_login(scope: Scope, refused: Refused) -> Response | None:
    """People who are not signed in are shown the way."""
    path = scope["path"]
    wants_page = "text/html" in Headers(scope=scope).get("accept", "") and not path.startswith(PREFIX)
    if refused.code != "E_AUTH_MISSING" or not wants_page or scope["method"] not in _SAFE:
        return None
    return RedirectResponse(f"/login?next={quote(path[:1_000], safe='/')}", 303)


class _Answer:
    """Sends an answer with the headers that it has to have, unless it has others of these names."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            there = {name.lower() for name, _ in message["headers"]}
            message["headers"] = [*message["headers"], *(h for h in HEADERS if h[0] not in there)]
        await self._send(message)
