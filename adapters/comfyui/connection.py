"""Requests to one ComfyUI server: headers, limits, deadlines, redirects, and patience when it is busy.

A server that answers 503, or nothing at all, is not a failed job. Requests that may be repeated are repeated
for as long as `Patience` says; while a server is in trouble everybody waits and one request at a time tries.
"""

from __future__ import annotations

import random
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx
import msgspec

from towpath.errors import ServerFailed

from .addresses import redirect_target
from .servers import Server

MAX_REPLY = 32 * 1024 * 1024  # bytes of a JSON reply
MAX_REDIRECTS = 5
CHUNK = 1024 * 1024
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_BUSY = frozenset({429, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for what, in seconds.

    `unreachable` is for a server that refuses connections, `silent` for one that takes them and does not
    answer (a node may hold the interpreter for minutes; the job goes on), `busy` for one that says so.
    """

    connect: float = 5.0
    read: float = 60.0
    reply: float = 120.0
    unreachable: float = 60.0
    silent: float = 600.0
    busy: float = 600.0
    lost: float = 5.0
    download: float = 3600.0


class Rest:
    """A server in trouble: all tasks wait together, one at a time tries again, ever more slowly."""

    def __init__(self) -> None:
        self.failures = 0
        self._until = 0.0
        self._trying = False
        self._over = anyio.Event()

    async def wait(self) -> None:
        """Back when the server may be asked: it is well, or it is our turn to try."""
        while self.failures:
            now = anyio.current_time()
            if now >= self._until and not self._trying:
                self._trying = True
                return
            over = self._over
            with anyio.move_on_after(max(self._until - now, 0.05)):
                await over.wait()

    def failed(self, retry_after: float | None = None) -> None:
        """It is (still) in trouble."""
        self.failures += 1
        wait = min(5.0, 0.25 * 2.0 ** min(self.failures, 8)) * random.uniform(1.0, 1.5)  # noqa: S311 - jitter
        self._until = anyio.current_time() + max(wait, retry_after or 0.0)
        self._trying = False

    def well(self) -> None:
        """It answered."""
        self._trying = False
        if self.failures:
            self.failures = 0
            self._over.set()
            self._over = anyio.Event()

    def gave_up(self) -> None:
        """Whoever tried went away without an answer; the next one may."""
        self._trying = False


class Connection:
    """All requests of this process to one server. Use it as `async with Connection(server) as connection`."""

    def __init__(self, server: Server, patience: Patience | None = None) -> None:
        self.server = server
        self.patience = patience or Patience()
        self.rest = Rest()
        wait = self.patience
        self._http = httpx.AsyncClient(
            headers={"Accept-Encoding": "identity", **server.headers},
            verify=_tls(server.verify),
            timeout=httpx.Timeout(wait.read, connect=wait.connect, pool=None),
            limits=httpx.Limits(max_connections=64, max_keepalive_connections=16),
            trust_env=not _nearby(server.url),
        )

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
        patient: bool = True,
    ) -> Any:
        """The decoded reply of a request; with `patient` it is repeated while the server is in trouble.

        Raises:
            ServerFailed: E_SERVER_UNREACHABLE, E_SERVER_TIMEOUT, E_SERVER_BUSY, E_SERVER_AUTH, E_SERVER_TLS,
                E_SERVER_STATUS, E_REPLY_JSON, E_REPLY_TOO_LARGE, E_REPLY_PROTOCOL, E_URL_…, E_TOO_MANY_REDIRECTS.
        """
        _, data = await self.answer(method, path, params=params, body=body, accept=accept, patient=patient)
        return data

    async def answer(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        accept: frozenset[int] = frozenset({200}),
        patient: bool = True,
    ) -> tuple[int, Any]:
        """Like `json`, with the status. Only statuses in `accept` are answers; an empty reply is None."""
        content = None if body is None else msgspec.json.encode(body)
        began = anyio.current_time()
        while True:
            await self.rest.wait()
            try:
                return await self._once(method, path, params, content, accept)
            except ServerFailed as error:
                if not patient or not error.retryable or anyio.current_time() - began >= self.longest(error):
                    raise

    async def _once(
        self, method: str, path: str, params: Mapping[str, Any] | None, content: bytes | None, accept: frozenset[int]
    ) -> tuple[int, Any]:
        headers = {} if content is None else {"Content-Type": "application/json"}
        try:
            with anyio.fail_after(self.patience.reply):
                async with self.open(method, path, params=params, content=content, headers=headers) as response:
                    raw = await _whole(response, MAX_REPLY)
        except TimeoutError:
            self.rest.failed()
            raise self.error("E_SERVER_TIMEOUT", f"no whole answer within {self.patience.reply:g} s") from None
        if response.status_code not in accept:
            raise self.refused(response.status_code, raw)
        return response.status_code, self.decoded(raw, response)

    def decoded(self, raw: bytes, response: httpx.Response) -> Any:
        """The data of a JSON reply."""
        if not raw:
            return None
        try:
            return msgspec.json.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            kind = response.headers.get("content-type", "")
            raise self.error("E_REPLY_JSON", f"its answer is not JSON: {error}", found=kind, retryable=False) from None

    def longest(self, error: ServerFailed) -> float:
        """Seconds to go on trying after an error of this kind."""
        waits = {"E_SERVER_UNREACHABLE": self.patience.unreachable, "E_SERVER_BUSY": self.patience.busy}
        return waits.get(error.code, self.patience.silent)

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
        """One request, its reply not read yet. What goes wrong on the way is told as ServerFailed.

        Redirects of GET and HEAD are followed as long as they stay with this server.
        """
        url = f"{self.server.url}{path}"
        query: Mapping[str, Any] | None = {**self.server.query, **(params or {})}
        try:
            for _ in range(MAX_REDIRECTS + 1):
                request = self._http.build_request(method, url, params=query or None, content=content, headers=headers)
                response = await self._http.send(request, stream=True)
                try:
                    if response.status_code not in _REDIRECTS:
                        self._note(response)
                        yield response
                        return
                    url, query = self._redirected(method, url, response), None
                finally:
                    with anyio.CancelScope(shield=True):
                        await response.aclose()
            raise self.error("E_TOO_MANY_REDIRECTS", "it sends us from place to place", retryable=False)
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, ssl.SSLError, OSError) as error:
            raise self._trouble(error) from None
        except anyio.get_cancelled_exc_class():
            self.rest.gave_up()
            raise

    def _redirected(self, method: str, url: str, response: httpx.Response) -> str:
        if method not in ("GET", "HEAD"):
            raise self.error("E_SERVER_STATUS", f"it redirects a {method}", found=response.status_code, retryable=False)
        return redirect_target(url, response.headers.get("location", ""), (self.server.url,))

    def _note(self, response: httpx.Response) -> None:
        """Everybody learns from every answer whether the server is well."""
        if response.status_code in _BUSY:
            self.rest.failed(_retry_after(response))
        else:
            self.rest.well()

    def refused(self, status: int, raw: bytes) -> ServerFailed:
        """The error for a status that is no answer."""
        text = raw[:200].decode("utf-8", "replace")
        if status in (401, 403):
            cure = "give the server's `headers` or `query` in towpath.toml what it wants to see"
            return self.error("E_SERVER_AUTH", f"it refuses us with {status}", cure=cure, retryable=False)
        if status in _BUSY:
            return self.error("E_SERVER_BUSY", f"it is busy: {status}")
        if status == 413:
            return self.error("E_UPLOAD_TOO_LARGE", "that is more than it takes", retryable=False)
        return self.error("E_SERVER_STATUS", f"it answers {status}", found=text, retryable=status >= 500)

    def _trouble(self, error: Exception) -> ServerFailed:
        if isinstance(error, httpx.ConnectError) and _is_tls(error):
            self.rest.gave_up()
            cure = "`verify` of the server in towpath.toml names the file of its authority"
            return self.error("E_SERVER_TLS", f"its certificate is not good: {error}", cure=cure, retryable=False)
        if isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol | httpx.LocalProtocolError):
            self.rest.gave_up()
            return self.error("E_REPLY_PROTOCOL", f"{error}", retryable=False)
        if isinstance(error, httpx.RemoteProtocolError):
            self.rest.failed()
            return self.error("E_REPLY_PROTOCOL", f"it does not speak HTTP: {error}")
        self.rest.failed()
        if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
            return self.error("E_SERVER_TIMEOUT", f"it said nothing for {self.patience.read:g} s")
        if isinstance(error, httpx.ReadError | httpx.WriteError):
            return self.error("E_SERVER_LOST", "the connection broke")
        return self.error("E_SERVER_UNREACHABLE", f"it cannot be reached: {str(error) or type(error).__name__}")

    def error(self, code: str, message: str, **more: Any) -> ServerFailed:
        """A ServerFailed that names the server."""
        return ServerFailed(code, f"server {self.server.name}: {message}", **more)


async def _whole(response: httpx.Response, limit: int) -> bytes:
    found: list[bytes] = []
    size = 0
    async for chunk in response.aiter_bytes():
        size += len(chunk)
        if size > limit:
            raise ServerFailed("E_REPLY_TOO_LARGE", "an answer is too large", allowed=f"{limit} bytes", retryable=False)
        found.append(chunk)
    return b"".join(found)


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds of a Retry-After header, at most a minute; anything odd counts as absent."""
    try:
        seconds = float(response.headers.get("retry-after", ""))
    except ValueError:
        return None
    return min(seconds, 60.0) if 0 <= seconds < float("inf") else None


def _is_tls(error: BaseException) -> bool:
    at: BaseException | None = error
    while at is not None:
        if isinstance(at, ssl.SSLError) or "SSL" in str(at):
            return True
        at = at.__cause__ or at.__context__
    return False


def _tls(verify: bool | str) -> ssl.SSLContext | bool:
    return ssl.create_default_context(cafile=verify) if isinstance(verify, str) else verify


def _nearby(url: str) -> bool:
    """This host or a private network: no proxy of the environment stands between us and such a server."""
    host = urlsplit(url).hostname or ""
    try:
        return not ip_address(host).is_global
    except ValueError:
        return host == "localhost" or "." not in host
