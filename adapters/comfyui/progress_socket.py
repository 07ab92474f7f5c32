"""The websocket of a prompt: it shows progress and says when to poll. No result depends on it.

Events are lost while it is down, it may be silent for ever, and custom nodes write into it. So errors here are
only counted and logged. The state of a prompt comes from polling.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit

import anyio
import anyio.lowlevel
import msgspec
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from towpath.logs import guarded_logger

from .connection import proxy_of, tls_context
from .servers import Server

MAX_FRAME = 32 * 1024 * 1024  # bytes; previews and images sent as frames are some megabytes
PING = 30.0  # seconds between pings
PONG = 300.0  # seconds to wait for a pong: while a node holds the interpreter, none comes for minutes
RECONNECT = (0.2, 5.0)  # seconds before a reconnect: the first wait and the longest
SHOWN = 0.1  # seconds between two reports of progress
QUEUED = 4  # frames that wait to be read; each may be as large as MAX_FRAME
MAX_TEXT = 1024 * 1024  # characters of a message; decoding a larger one would block the event loop
NODES = 10_000  # nodes that are reported; a workflow has fewer
KEPT = 100  # closed connections that are remembered
_OVER = frozenset({"execution_success", "execution_error", "execution_interrupted"})

_log = guarded_logger("towpath.comfyui")
_frames = guarded_logger("towpath.comfyui.frames")
_frames.setLevel(logging.INFO)  # at DEBUG it logs addresses and headers with their secrets


OnProgress = Callable[[float, float | None], None]
"""Called with how much is done, and of how much; None if that is unknown."""


@dataclass(slots=True)
class PromptEvents:
    """What the socket of one prompt has reported so far. `poll_now` is set when the prompt may have ended.

    `last` is the time of the last message about the prompt, if no connection has closed since; `closed` says how
    connections ended; `odd` counts messages that could not be read.
    """

    prompt_id: str
    poll_now: anyio.Event = field(default_factory=anyio.Event)
    node: str = ""
    done: float = 0.0
    total: float | None = None
    last: float = -math.inf
    odd: int = 0
    frames: int = 0
    closed: list[str] = field(default_factory=list)
    on_node: Callable[[str], None] | None = None
    on_progress: OnProgress | None = None
    _shown: float = -math.inf
    _nodes: int = 0

    def take(self, frame: str | bytes) -> None:
        """Read one frame. Previews, which are binary, are ignored; other unreadable frames are counted."""
        self.frames += 1
        if isinstance(frame, bytes):
            return
        try:
            message = msgspec.json.decode(frame) if len(frame) <= MAX_TEXT else None
        except (msgspec.DecodeError, RecursionError):
            message = None
        if not isinstance(message, dict) or not isinstance(message.get("data"), dict):
            self.odd += 1
            return
        data = message["data"]
        about = data.get("prompt_id")
        if about not in (None, self.prompt_id):
            return
        if about is not None and not self.closed:
            self.last = anyio.current_time()
        self._read(str(message.get("type")), data)

    def _read(self, kind: str, data: dict[str, Any]) -> None:
        if kind in _OVER or (kind == "executing" and data.get("node") is None):
            self.poll_now.set()
        elif kind == "executing" and data.get("prompt_id") == self.prompt_id:
            self.node = str(data["node"])[:100]
            self._nodes += 1
            if self.on_node is not None and self._nodes <= NODES:
                self._call(self.on_node, self.node)
        elif kind == "progress":
            self._progress(data.get("value"), data.get("max"))

    def _progress(self, value: Any, most: Any) -> None:
        """Report progress; a value that makes no sense is reported as unknown."""
        sensible = _number(value) and _number(most) and most > 0 and 0 <= value <= most
        self.done, self.total = (float(value), float(most)) if sensible else (0.0, None)
        now = anyio.current_time()
        if self.on_progress is not None and (now - self._shown >= SHOWN or self.done == self.total):
            self._shown = now
            self._call(self.on_progress, self.done, self.total)

    def _call(self, listener: Callable[..., None], *values: Any) -> None:
        """Call a listener. An error of it stops neither the connection nor the step."""
        try:
            listener(*values)
        except Exception:
            self.on_node, self.on_progress = None, None
            _log.exception("a listener of prompt %s failed and was removed; the prompt continues", self.prompt_id)

    def ended(self, why: str) -> None:
        """Note that a connection has closed. From now on silence means nothing: when the server cleans up the old
        connection, it may drop the new one with it.
        """
        self.last = -math.inf
        self.closed.append(why)
        del self.closed[:-KEPT]


class _Handshake(connect):
    """Connects to this address only: a redirect would take the secrets in headers along."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


async def listen(server: Server, client_id: str, events: PromptEvents, opened: anyio.Event) -> None:
    """Read a prompt's events until cancelled; `opened` is set when the first connection is open, or has failed."""
    wait, longest = RECONNECT
    while True:
        began = anyio.current_time()
        try:
            async with _Handshake(
                _address(server, client_id),
                additional_headers=server.headers,
                ssl=tls_context(server),
                compression=None,
                max_size=MAX_FRAME,
                max_queue=QUEUED,
                ping_interval=PING,
                ping_timeout=PONG,
                open_timeout=10,
                close_timeout=1,
                proxy=proxy_of(server.url),
                logger=_frames,
            ) as socket:
                opened.set()
                async for frame in socket:
                    events.take(frame)
                    if events.frames % 256 == 0:
                        await anyio.lowlevel.checkpoint()  # a flood of messages must not starve other tasks
        except ConnectionClosed as closed:
            _note(events, closed.rcvd.code if closed.rcvd else closed.sent.code if closed.sent else 1006)
        except (WebSocketException, OSError, TimeoutError, ValueError, EOFError, ImportError) as error:
            events.ended(type(error).__name__)
        opened.set()
        events.poll_now.set()  # the prompt may have ended; a poll costs little
        if anyio.current_time() - began > longest:
            wait = RECONNECT[0]
        await anyio.sleep(wait)
        wait = min(wait * 2, longest)


def _note(events: PromptEvents, code: int) -> None:
    word = "E_WS_TOO_LARGE" if code == 1009 else str(code)
    events.ended(word)
    _log.debug("the socket of prompt %s closed: %s", events.prompt_id, word)


def _address(server: Server, client_id: str) -> str:
    parts = urlsplit(server.url)
    scheme = "wss" if parts.scheme == "https" else "ws"
    query = urlencode({**server.query, "clientId": client_id})
    return urlunsplit((scheme, parts.netloc, f"{parts.path}/ws", query, ""))


def _number(value: Any) -> bool:
    """A number that a float can hold; JSON has larger ones."""
    whole = isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
    return whole or (isinstance(value, float) and math.isfinite(value))
