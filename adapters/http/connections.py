"""Connections before a request: ambiguous requests are refused, and slow clients cannot block others.

uvicorn reads HTTP with h11, which accepts sloppy requests: two equal lengths, lines without a carriage return, folded
headers. A proxy may read another end of such a request (request smuggling). So each head is checked as it arrives.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from towpath.errors import Problem

from .authentication import HEADERS
from .errors import problem_response

HEAD_BYTES = 64 * 1024
HEAD_SECONDS = 10.0  # until the head of a request is complete, or the rest of a refused body has arrived
MOST_HEADERS = 100
MOST_WAITING = 256  # connections without an active request; the oldest is closed for a new one
MOST_AT_ONCE = 1_000  # requests
_BLANK = re.compile(rb"\n\r?\n")
_START = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ [!-~]+ HTTP/1\.([01])")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*", re.DOTALL)
_LENGTH = re.compile(rb"[0-9]{1,19}")


class ServerConfig(uvicorn.Config):
    """The configuration of uvicorn: `HttpConnection` as protocol. All connections share `waiting`."""

    def __init__(self, app: Any, *, head_seconds: float = HEAD_SECONDS, **options: Any) -> None:
        super().__init__(
            app,
            http=HttpConnection,
            log_config=None,
            proxy_headers=False,
            server_header=False,
            ws="none",
            limit_concurrency=MOST_AT_ONCE + MOST_WAITING,
            h11_max_incomplete_event_size=HEAD_BYTES,
            **options,
        )
        self.head_seconds = head_seconds
        self.waiting: OrderedDict[HttpConnection, None] = OrderedDict()


def fault_of(head: bytes) -> str | None:
    """What is wrong with the head of a request (with its blank line), or None. Linear in its size."""
    lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    if not head.endswith(b"\r\n\r\n") or any(b"\r" in line or b"\n" in line or b"\0" in line for line in lines):
        return "a line does not end with CR LF, or holds a control character"
    start = _START.fullmatch(lines[0])
    if start is None:
        return "the request line is not of HTTP/1.0 or HTTP/1.1"
    if len(lines) > MOST_HEADERS + 1:
        return f"more than {MOST_HEADERS} headers"
    fields = [_FIELD.fullmatch(line) for line in lines[1:]]
    if None in fields:
        return "a header is folded or has no name"
    headers = [(field[1].lower(), field[2]) for field in fields if field is not None]
    return _fault_of_length(headers, old=start[1] == b"0")


def _fault_of_length(headers: list[tuple[bytes, bytes]], *, old: bool) -> str | None:
    """What makes the end of the body unclear, or None. `old` is HTTP/1.0."""
    lengths = [value for name, value in headers if name == b"content-length"]
    codings = [value for name, value in headers if name == b"transfer-encoding"]
    if len(lengths) + len(codings) > 1:
        return "the length of the body is given more than once"
    if lengths and not _LENGTH.fullmatch(lengths[0]):
        return "Content-Length is not a number"
    if codings and (old or codings[0].lower() != b"chunked"):
        return "Transfer-Encoding is not `chunked` with HTTP/1.1"
    return None


class StrictHead(h11.Connection):
    """h11 with a check of each raw head. The check runs once, when the head is complete."""

    def __init__(self, limit: int) -> None:
        super().__init__(h11.SERVER, limit)
        self._end = b""  # the last bytes of an incomplete head
        self._complete = False  # has the blank line arrived?

    def receive_data(self, data: bytes) -> None:
        if self.their_state is h11.IDLE:
            self._watch(data)
        super().receive_data(data)

    def start_next_cycle(self) -> None:
        super().start_next_cycle()
        self._end, self._complete = b"", False
        self._watch(self.trailing_data[0])  # sent by a client that did not wait for the response

    def _watch(self, data: bytes) -> None:
        seen = self._end + data
        self._complete = self._complete or _BLANK.search(seen) is not None
        self._end = seen[-3:]

    def next_event(self) -> Any:
        if self._complete and self.their_state is h11.IDLE:
            self._complete = False
            head = self.trailing_data[0]
            end = _BLANK.search(head)
            long = end is None or end.end() > HEAD_BYTES  # h11 limits only incomplete heads
            fault = "the head is too long" if long or end is None else fault_of(head[: end.end()])
            if fault is not None:
                raise h11.RemoteProtocolError(fault)
        return super().next_event()


class HttpConnection(H11Protocol):
    """One connection. Without an active request it is closed after a short time, or for another connection."""

    config: ServerConfig

    def __init__(self, config: uvicorn.Config, *args: Any, **options: Any) -> None:
        super().__init__(config, *args, **options)
        self.conn = StrictHead(HEAD_BYTES)
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._update_timer()

    def _unsupported_upgrade_warning(self) -> None:
        """Do not log it: any client may send the header, and it has no effect."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._update_timer()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._update_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def _update_timer(self) -> None:
        """Stop the timer during a request, else start it. More bytes of a head do not restart it."""
        active = self.cycle is not None and not self.cycle.response_complete
        if active or self.transport.is_closing():
            self._stop_timer()
        elif self._timer is None:
            self._timer = self.loop.call_later(self.config.head_seconds, self._too_slow)
            waiting = self.config.waiting
            waiting[self] = None
            if len(waiting) > MOST_WAITING:
                waiting.popitem(last=False)[0]._close()

    def _stop_timer(self) -> None:
        self.config.waiting.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close(self) -> None:
        self._stop_timer()
        self._unset_keepalive_if_required()
        self.transport.close()

    def _too_slow(self) -> None:
        if self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]:
            self._refuse(408, "E_BODY_TIME", "the head of the request did not arrive in time")
        self._close()

    def send_400_response(self, msg: str) -> None:
        """Refuse a malformed request, if no response was sent yet, and close the connection."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._refuse(400, "E_REQUEST", "this is not an HTTP request, or its end is unclear")
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._close()

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Send a refusal with the default headers, without the app."""
        answer = problem_response(status, Problem(code, message), {"Connection": "close"})
        there = {name for name, _ in answer.raw_headers}
        headers = [*answer.raw_headers, *(header for header in HEADERS if header[0] not in there)]
        for event in (
            h11.Response(status_code=status, headers=headers),
            h11.Data(bytes(answer.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
