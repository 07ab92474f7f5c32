"""Connections before a request is there: what is no clear request is refused, and nobody holds a place by waiting.

uvicorn reads HTTP with h11, which forgives much: two lengths that are equal, lines without a carriage return, folded
headers. A proxy that forgives otherwise sees another end of the same request. So a head is looked at as it came.
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
from .errors import problem_answer

HEAD_BYTES = 64 * 1024
HEAD_SECONDS = 10.0  # until a request's head is there; as long for the rest of a body that nobody wants any more
MOST_HEADERS = 100
MOST_WAITING = 256  # connections without a request in hand; the oldest makes room for a new one
MOST_AT_ONCE = 1_000  # requests
_BLANK = re.compile(rb"\n\r?\n")
_START = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ [!-~]+ HTTP/1\.([01])")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*", re.DOTALL)
_LENGTH = re.compile(rb"[0-9]{1,19}")


class ServerConfig(uvicorn.Config):
    """How the app is served: by `Connection`s, which share what they know of each other."""

    def __init__(self, app: Any, *, head_seconds: float = HEAD_SECONDS, **options: Any) -> None:
        super().__init__(
            app,
            http=Connection,
            log_config=None,
            proxy_headers=False,
            server_header=False,
            ws="none",
            limit_concurrency=MOST_AT_ONCE + MOST_WAITING,
            h11_max_incomplete_event_size=HEAD_BYTES,
            **options,
        )
        self.head_seconds = head_seconds
        self.waiting: OrderedDict[Connection, None] = OrderedDict()


def fault_of(head: bytes) -> str | None:
    """What makes the head of a request, up to and with its blank line, unclear; or None. Linear in its size."""
    lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    if not head.endswith(b"\r\n\r\n") or any(b"\r" in line or b"\n" in line or b"\0" in line for line in lines):
        return "a line does not end with CR LF, or holds a control character"
    start = _START.fullmatch(lines[0])
    if start is None:
        return "the request line is none of HTTP/1.0 or HTTP/1.1"
    if len(lines) > MOST_HEADERS + 1:
        return f"more than {MOST_HEADERS} headers"
    fields = [_FIELD.fullmatch(line) for line in lines[1:]]
    if None in fields:
        return "a header is folded, or has no name"
    told = [(field[1].lower(), field[2]) for field in fields if field is not None]
    return _fault_of_body(told, old=start[1] == b"0")


def _fault_of_body(told: list[tuple[bytes, bytes]], *, old: bool) -> str | None:
    """What leaves open where the body ends."""
    lengths = [value for name, value in told if name == b"content-length"]
    codings = [value for name, value in told if name == b"transfer-encoding"]
    if len(lengths) + len(codings) > 1:
        return "the length of the body is told more than once"
    if lengths and not _LENGTH.fullmatch(lengths[0]):
        return "Content-Length is no number"
    if codings and (old or codings[0].lower() != b"chunked"):
        return "Transfer-Encoding is not `chunked` of HTTP/1.1"
    return None


class StrictHead(h11.Connection):
    """h11, after a look at each head as it came. The head is looked at once, when all of it is there."""

    def __init__(self, limit: int) -> None:
        super().__init__(h11.SERVER, limit)
        self._end = b""  # the last bytes that came while a head was awaited
        self._whole = False  # is there a blank line among what came?

    def receive_data(self, data: bytes) -> None:
        if self.their_state is h11.IDLE:
            self._watch(data)
        super().receive_data(data)

    def start_next_cycle(self) -> None:
        super().start_next_cycle()
        self._end, self._whole = b"", False
        self._watch(self.trailing_data[0])  # of a client that did not wait for the answer

    def _watch(self, data: bytes) -> None:
        seen = self._end + data
        self._whole = self._whole or _BLANK.search(seen) is not None
        self._end = seen[-3:]

    def next_event(self) -> Any:
        if self._whole and self.their_state is h11.IDLE:
            self._whole = False
            head = self.trailing_data[0]
            end = _BLANK.search(head)
            long = end is None or end.end() > HEAD_BYTES  # h11 asks only of a head that is not whole yet
            fault = "the head is too long" if long or end is None else fault_of(head[: end.end()])
            if fault is not None:
                raise h11.RemoteProtocolError(fault)
        return super().next_event()


class Connection(H11Protocol):
    """One connection. As long as no request is in hand it has little time, and makes room for others."""

    config: ServerConfig

    def __init__(self, config: uvicorn.Config, *args: Any, **options: Any) -> None:
        super().__init__(config, *args, **options)
        self.conn = StrictHead(HEAD_BYTES)
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._look()

    def _unsupported_upgrade_warning(self) -> None:
        """Not logged: anybody may ask, with or without a key, and is answered as if they had not."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        self._settle()
        super().connection_lost(exc)

    def _look(self) -> None:
        """Is a request in hand? Else the time runs, from when there was none; more bytes do not set it back."""
        in_hand = self.cycle is not None and not self.cycle.response_complete
        if in_hand or self.transport.is_closing():
            self._settle()
        elif self._timer is None:
            self._timer = self.loop.call_later(self.config.head_seconds, self._too_slow)
            waiting = self.config.waiting
            waiting[self] = None
            if len(waiting) > MOST_WAITING:
                waiting.popitem(last=False)[0]._make_room()

    def _settle(self) -> None:
        self.config.waiting.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _make_room(self) -> None:
        self._settle()
        self._unset_keepalive_if_required()
        self.transport.close()

    def _too_slow(self) -> None:
        if self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]:
            self._refuse(408, "E_BODY_TIME", "the head of the request did not arrive in time")
        self._make_room()

    def send_400_response(self, msg: str) -> None:
        """What is no request is answered, if nothing was answered yet, and its connection closed."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._refuse(400, "E_REQUEST", "this is no HTTP request, or not clear about where it ends")
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._make_room()

    def _refuse(self, status: int, code: str, message: str) -> None:
        """An answer with the headers that every answer has, without the app."""
        answer = problem_answer(status, Problem(code, message), {"Connection": "close"})
        there = {name for name, _ in answer.raw_headers}
        headers = [*answer.raw_headers, *(header for header in HEADERS if header[0] not in there)]
        for event in (
            h11.Response(status_code=status, headers=headers),
            h11.Data(bytes(answer.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
