"""Requests to one ComfyUI server: headers, limits, timeouts, redirects, and retries with backoff.

A server that answers 503, or does not answer, does not fail a step at once. Requests that may be repeated are retried
for as long as `Timeouts` says. During a backoff all requests wait; one at a time is sent to test the server.
"""

from __future__ import annotations

import json
import random
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import anyio
import httpx
import msgspec

from towpath.errors import InputInvalid, ServerFailed
from towpath.redaction import SHORTEST, remember

from .addresses import redirect_target
from .servers import Server

MAX_REPLY = 32 * 1024 * 1024  # bytes of a JSON reply
MAX_REDIRECTS = 5
CHUNK = 1024 * 1024
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_BUSY = frozenset({429, 502, 503, 504, 520, 521, 522, 523, 524})  # from 520: a proxy cannot reach the server
_SHOWN = 1_000  # bytes of an error reply that are read
_OF_A_PROMPT = ("/history", "/api/jobs")  # replies that decide the result of a step
_COOKIES = 50  # no server needs more


@dataclass(frozen=True, slots=True)
class Timeouts:
    """All in seconds.

    How long requests are retried while a server refuses connections (`unreachable`), accepts them and does not
    answer (`silent`: a node may hold the interpreter for minutes while the job runs), says that it is busy (`busy`),
    or answers 500 or something that is not HTTP (`broken`). `connect` is for one connection, `read` for one read,
    `reply` for a complete reply. A prompt that the server does not know is lost after `lost`.
    """

    connect: float = 5.0
    read: float = 60.0
    reply: float = 120.0
    unreachable: float = 60.0
    silent: float = 600.0
    busy: float = 600.0
    broken: float = 10.0
    lost: float = 5.0


class Backoff:
    """The pauses between requests to a server that fails. All tasks share them; one task at a time retries."""

    def __init__(self) -> None:
        self.failures = 0
        self._until = 0.0
        self._trying = False
        self._over = anyio.Event()

    async def wait(self) -> None:
        """Return when a request may be sent: the server is healthy, or it is this task's turn to retry."""
        while self.failures:
            now = anyio.current_time()
            if now >= self._until and not self._trying:
                self._trying = True
                return
            over = self._over
            with anyio.move_on_after(max(self._until - now, 0.05)):
                await over.wait()

    def failed(self, retry_after: float | None = None) -> None:
        """Note a failed request. Of requests that fail at the same time, only the first makes the pause longer.

        `retry_after` is the shortest pause in seconds, as the server asked for it.
        """
        now = anyio.current_time()
        self._trying = False
        if self.failures and now < self._until:
            self._until = max(self._until, now + (retry_after or 0.0))
            return
        self.failures += 1
        wait = min(5.0, 0.25 * 2.0 ** min(self.failures, 8)) * random.uniform(1.0, 1.5)  # noqa: S311 - jitter
        self._until = now + max(wait, retry_after or 0.0)

    def succeeded(self) -> None:
        """Note a request that the server answered: the pauses end for all tasks."""
        self._trying = False
        if self.failures:
            self.failures = 0
            self._over.set()
            self._over = anyio.Event()

    def released(self) -> None:
        """Note a request that ended without saying whether the server is healthy; another task may retry."""
        self._trying = False


class _CredentialsTransport(httpx.AsyncBaseTransport):
    """Adds the server's own headers and parameters to each request just before it is sent.

    They may be secret. The client above logs addresses and puts requests into its errors, so it must not see them.
    """

    def __init__(self, server: Server, inner: httpx.AsyncBaseTransport) -> None:
        self._server = server
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        headers = httpx.Headers(request.headers)
        headers.update(self._server.headers)
        url = request.url.copy_merge_params(self._server.query) if self._server.query else request.url
        return await self._inner.handle_async_request(
            httpx.Request(request.method, url, headers=headers, stream=request.stream, extensions=request.extensions)
        )

    async def aclose(self) -> None:
        await self._inner.aclose()


class Connection:
    """All requests of this process to one server. Use it as `async with Connection(server) as connection`.

    Raises InputInvalid (E_SERVER_CONFIG) if the CA file of the server cannot be read.
    """

    def __init__(self, server: Server, timeouts: Timeouts | None = None) -> None:
        self.server = server
        self.timeouts = timeouts or Timeouts()
        self.backoff = Backoff()
        wait = self.timeouts
        verify = tls_context(server) or False
        transport = httpx.AsyncHTTPTransport(
            verify=verify,
            limits=httpx.Limits(max_connections=64, max_keepalive_connections=16),
            proxy=proxy_of(server.url),
        )
        self._http = httpx.AsyncClient(
            headers={"Accept-Encoding": "identity"},
            timeout=httpx.Timeout(wait.read, connect=wait.connect, pool=None),
            transport=_CredentialsTransport(server, transport),
            verify=verify,  # the default would read a CA file that is not used
            trust_env=False,
        )
        found = {text for value in server.headers.values() for text in (value, value.rpartition(" ")[2])}
        found |= set(server.query.values())
        self._secrets = sorted((text for text in found if len(text) >= SHORTEST), key=len, reverse=True)
        for secret in self._secrets:
            remember(secret)  # so that it is redacted everywhere in this process

    async def __aenter__(self) -> Connection:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    # ---- replies that are data

    async def json(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        accept: frozenset[int] = frozenset({200}),
        retry: bool = True,
    ) -> Any:
        """The decoded reply of a request. With `retry` it is repeated for as long as `Timeouts` says.

        Raises:
            ServerFailed: E_SERVER_UNREACHABLE, E_SERVER_TIMEOUT, E_SERVER_BUSY, E_SERVER_AUTH, E_SERVER_TLS,
                E_SERVER_STATUS, E_REPLY_JSON, E_REPLY_TOO_LARGE, E_REPLY_PROTOCOL, E_URL_…, E_TOO_MANY_REDIRECTS.
        """
        _, data = await self.answer(method, path, params=params, body=body, accept=accept, retry=retry)
        return data

    async def answer(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        accept: frozenset[int] = frozenset({200}),
        retry: bool = True,
    ) -> tuple[int, Any]:
        """Like `json`, with the status. Only statuses in `accept` are answers.

        An empty reply is None; so is a reply that is not JSON, if its status is not 200.
        """
        content = None if body is None else msgspec.json.encode(body)
        began = anyio.current_time()
        while True:
            await self.backoff.wait()
            try:
                return await self._once(method, path, params, content, accept)
            except ServerFailed as error:
                if not retry or not error.retryable or anyio.current_time() - began >= self.retry_seconds(error):
                    raise

    async def _once(
        self, method: str, path: str, params: Mapping[str, Any] | None, content: bytes | None, accept: frozenset[int]
    ) -> tuple[int, Any]:
        headers = {} if content is None else {"Content-Type": "application/json"}
        try:
            with anyio.fail_after(self.timeouts.reply):
                async with self.open(method, path, params=params, content=content, headers=headers) as response:
                    raw = await self.whole(response, accept)
        except TimeoutError:
            raise self.too_late(self.timeouts.reply) from None
        if response.status_code == 200:
            return 200, self.decoded(raw, response)
        with suppress(ServerFailed):
            return response.status_code, self.decoded(raw, response)
        return response.status_code, None

    async def whole(self, response: httpx.Response, accept: frozenset[int] = frozenset({200})) -> bytes:
        """All bytes of a reply. Nothing is decompressed: a few bytes could become gigabytes.

        Raises ServerFailed for a status that is not accepted, and for a reply that is too large or encoded.
        """
        if response.status_code not in accept:
            raise self.refused(response.status_code, await _beginning(response, _SHOWN))
        encoding = response.headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":
            raise self.error("E_REPLY_PROTOCOL", "its reply is encoded", found=encoding, retryable=False)
        found: list[bytes] = []
        size = int(response.headers.get("content-length", 0))
        if size <= MAX_REPLY:
            size = 0
            async for chunk in response.aiter_raw():
                size += len(chunk)
                if size > MAX_REPLY:
                    break
                found.append(chunk)
        if size > MAX_REPLY:
            raise self.error("E_REPLY_TOO_LARGE", "a reply is too large", allowed=f"{MAX_REPLY} bytes", retryable=False)
        return b"".join(found)

    def too_late(self, seconds: float) -> ServerFailed:
        """The error for a reply that is not complete in time."""
        self.backoff.failed()
        return self.error("E_SERVER_TIMEOUT", f"no complete reply within {seconds:g} s")

    def decoded(self, raw: bytes, response: httpx.Response) -> Any:
        """The data of a JSON reply."""
        if not raw:
            return None
        try:
            data = msgspec.json.decode(raw)
            if response.url.path.rpartition("/")[0].endswith(_OF_A_PROMPT):
                _refuse_doubled(raw)
            return data
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, _Doubled) as error:
            kind = response.headers.get("content-type", "")
            raise self.error("E_REPLY_JSON", f"its reply is not JSON: {error}", found=kind, retryable=False) from None

    def retry_seconds(self, error: ServerFailed) -> float:
        """Seconds for which requests are retried after an error of this kind."""
        wait = self.timeouts
        waits = {"E_SERVER_UNREACHABLE": wait.unreachable, "E_SERVER_BUSY": wait.busy}
        waits |= dict.fromkeys(("E_SERVER_STATUS", "E_REPLY_PROTOCOL"), wait.broken)
        return waits.get(error.code, wait.silent)

    # ---- replies that are streams

    @asynccontextmanager
    async def open(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        content: bytes | AsyncIterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[httpx.Response, None]:
        """One request; its reply is not read yet. Errors of the connection are raised as ServerFailed.

        Redirects of GET and HEAD are followed if they lead to this server.
        """
        url, query = f"{self.server.url}{path}", params or None
        try:
            for _ in range(MAX_REDIRECTS + 1):
                request = self._http.build_request(method, url, params=query, content=content, headers=headers)
                response = await self._http.send(request, stream=True)
                try:
                    self._note(response)
                    if response.status_code not in _REDIRECTS:
                        yield response
                        return
                    url, query = self._redirected(method, url, response), None
                finally:
                    with anyio.CancelScope(shield=True):
                        await response.aclose()
            raise self.error("E_TOO_MANY_REDIRECTS", f"it redirects more than {MAX_REDIRECTS} times", retryable=False)
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, ssl.SSLError, OSError) as error:
            raise self._trouble(error) from None
        except BaseException:
            self.backoff.released()
            raise

    def _redirected(self, method: str, url: str, response: httpx.Response) -> str:
        if method not in ("GET", "HEAD"):
            raise self.error("E_SERVER_STATUS", f"it redirects a {method}", found=response.status_code, retryable=False)
        return redirect_target(url, response.headers.get("location", ""), (self.server.url,))

    def _note(self, response: httpx.Response) -> None:
        """Update the backoff, which all tasks share, from the status of a response."""
        if response.status_code in _BUSY:
            self.backoff.failed(_retry_after(response))
        elif response.status_code >= 500:
            self.backoff.failed()
        else:
            self.backoff.succeeded()
        cookies = len(response.headers.get_list("set-cookie"))
        if max(cookies, len(self._http.cookies.jar)) > _COOKIES:
            self._http.cookies.clear()
        if cookies > _COOKIES:
            raise self.error("E_REPLY_PROTOCOL", f"{cookies} cookies in one reply", allowed=f"{_COOKIES} cookies")

    def refused(self, status: int, raw: bytes) -> ServerFailed:
        """The error for a status that is not accepted."""
        text = raw[:200].decode("utf-8", "replace")
        if status in (401, 403):
            cure = "put the credentials into `headers` or `query` of the server in towpath.toml"
            return self.error("E_SERVER_AUTH", f"it refuses the request with {status}", cure=cure, retryable=False)
        if status in _BUSY:
            return self.error("E_SERVER_BUSY", f"it is busy: {status}")
        if status == 413:
            return self.error("E_UPLOAD_TOO_LARGE", "the file is larger than it accepts", retryable=False)
        return self.error("E_SERVER_STATUS", f"it answers {status}", found=text, retryable=status >= 500)

    def _trouble(self, error: Exception) -> ServerFailed:
        if isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol | httpx.LocalProtocolError):
            self.backoff.released()  # the text of these errors may hold a header or an address
            return self.error(
                "E_REPLY_PROTOCOL", f"the request cannot be sent: {type(error).__name__}", retryable=False
            )
        tls = _tls_problem(error)
        if tls:
            self.backoff.released()
            cure = "set `verify` of the server in towpath.toml to the CA file that signed its certificate"
            return self.error("E_SERVER_TLS", f"no trusted connection: {tls}", cure=cure, retryable=False)
        self.backoff.failed()
        if isinstance(error, httpx.RemoteProtocolError) and not _broke_off(error):
            return self.error("E_REPLY_PROTOCOL", f"its reply is not HTTP: {str(error)[:200]}")
        if str(error).startswith("Server disconnected without"):
            return self.error("E_SERVER_TIMEOUT", "it closed the connection without a reply")
        if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
            return self.error("E_SERVER_TIMEOUT", f"it sent nothing for {self.timeouts.read:g} s")
        if isinstance(error, httpx.ReadError | httpx.WriteError | httpx.RemoteProtocolError):
            return self.error("E_SERVER_LOST", "the connection broke")
        return self.error("E_SERVER_UNREACHABLE", f"it cannot be reached: {str(error) or type(error).__name__}")

    def error(self, code: str, message: str, **more: Any) -> ServerFailed:
        """A ServerFailed that names the server. Replies may echo secrets of the request; these are removed."""
        redacted: dict[str, Any] = {
            key: self.without_secrets(text) if isinstance(text, str) else text for key, text in more.items()
        }
        return ServerFailed(code, self.without_secrets(f"server {self.server.name}: {message}"), **redacted)

    def without_secrets(self, text: str) -> str:
        """A text with this server's secrets replaced by `***`."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


async def _beginning(response: httpx.Response, limit: int) -> bytes:
    found = b""
    async for chunk in response.aiter_raw():
        found += chunk
        if len(found) >= limit:
            break
    return found[:limit]


class _Doubled(ValueError):
    """Two values under one key: parsers differ in which one they take."""


def _refuse_doubled(raw: bytes) -> None:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise _Doubled(f"the key {twice[:100]!r} occurs twice in one object")
        return found

    json.loads(raw, object_pairs_hook=once)


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds of a Retry-After header, at most 60; None if it is missing or invalid."""
    try:
        seconds = float(response.headers.get("retry-after", ""))
    except ValueError:
        return None
    return min(seconds, 60.0) if 0 <= seconds < float("inf") else None


def _broke_off(error: httpx.RemoteProtocolError) -> bool:
    """Whether the connection ended too early. Otherwise the reply was not HTTP. Only the error's text differs."""
    return str(error).startswith(("peer closed", "Server disconnected"))


def _tls_problem(error: BaseException) -> str:
    """What is wrong with a server's TLS, "" if the error is not about TLS. A broken connection is not."""
    at: BaseException | None = error
    seen: list[BaseException] = []
    while at is not None and at not in seen:
        seen.append(at)
        if isinstance(at, ssl.SSLCertVerificationError):
            return f"its certificate is not valid: {at.verify_message}"
        if isinstance(at, ssl.SSLError) and not isinstance(at, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            return f"the TLS handshake failed: {at.reason}"
        at = at.__cause__ or at.__context__
    return ""


def tls_context(server: Server) -> ssl.SSLContext | None:
    """The TLS settings for HTTP and the websocket; None for a server without TLS.

    Raises InputInvalid (E_SERVER_CONFIG).
    """
    if not server.url.startswith("https"):
        return None
    try:
        return _context(server.verify)
    except OSError as error:
        why = error.strerror or type(error).__name__
        message = f"the CA file of server {server.name} cannot be read: {why}"
        raise InputInvalid("E_SERVER_CONFIG", message, found=server.verify, allowed="a PEM file") from None


@lru_cache(maxsize=16)
def _context(verify: bool | str) -> ssl.SSLContext:
    if isinstance(verify, str):
        return ssl.create_default_context(cafile=verify)
    return httpx.create_ssl_context(verify=verify)


def proxy_of(url: str) -> str | None:
    """The proxy that the environment sets for a server; None for this host and private networks."""
    parts = urlsplit(url)
    if _nearby(url) or proxy_bypass(parts.hostname or ""):
        return None
    known = getproxies()
    found = known.get(parts.scheme) or known.get("all")
    return found if not found or "://" in found else f"http://{found}"


def _nearby(url: str) -> bool:
    """Whether an address is of this host or a private network, which are reached without a proxy."""
    host = urlsplit(url).hostname or ""
    try:
        return not ip_address(host).is_global
    except ValueError:
        return host == "localhost" or "." not in host
