"""A server that plays scripts: byte for byte what a sick or hostile ComfyUI server could send, and how it hangs up.

A route without a script is answered as a healthy server would: a prompt is done as soon as it is sent, and made
one picture. A script is what is sent in answer to one request; the last one of a route is played again and again.
"""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha1
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.comfyui.graphs import EMPTY
from tests.comfyui.server.nodes import render

PNG = render("EmptyImage", EMPTY)
VERSION = "0.33.0"
PATIENCE = 30.0  # seconds that a client may take between two of its own bytes
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


@dataclass(frozen=True, slots=True)
class Request:
    """One request that came in, whole."""

    at: float
    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes
    connection: int

    def json(self) -> Any:
        """Its body."""
        return json.loads(self.body)


class Talk:
    """What a script does with the connection of one request. Every method may raise OSError: the client hung up."""

    def __init__(self, server: Scripted, link: socket.socket, request: Request) -> None:
        self.server, self.link, self.request = server, link, request
        self.over = False

    def send(self, data: bytes) -> None:
        """Bytes as they are."""
        self.link.sendall(data)

    def wait(self, seconds: float) -> None:
        """Nothing for a while; ends at once when the server stops."""
        if self.server.stopping.wait(seconds):
            raise ConnectionAbortedError

    def fin(self) -> None:
        """Hang up as a program does that ends well."""
        self.over = True
        with suppress(OSError):
            self.link.shutdown(socket.SHUT_RDWR)

    def rst(self) -> None:
        """Hang up with a reset."""
        self.over = True
        self.link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.link.close()

    def half_close(self) -> None:
        """Say that nothing more will be sent, and go on listening."""
        self.link.shutdown(socket.SHUT_WR)

    def hold(self) -> None:
        """Neither send nor hang up."""
        self.over = True
        self.wait(600.0)


Script = Callable[[Talk], None]


def reply(body: bytes | Any = b"", status: int = 200, **headers: str) -> Script:
    """A proper answer: bytes, or data as JSON. `content_type="text/html"` becomes a header."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = {"content-type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    head = f"HTTP/1.1 {status} Scripted\r\ncontent-length: {len(raw)}\r\n{lines}\r\n".encode()

    def play(talk: Talk) -> None:
        talk.send(head + (b"" if talk.request.method == "HEAD" else raw))

    return play


def sent(*parts: bytes | float | Callable[[Talk], None]) -> Script:
    """Bytes as they are, pauses in seconds, and methods of `Talk`, one after another. Nothing else hangs up."""

    def play(talk: Talk) -> None:
        for part in parts:
            if isinstance(part, bytes):
                talk.send(part)
            elif isinstance(part, int | float):
                talk.wait(part)
            else:
                part(talk)

    return play


def endless(head: bytes, piece: bytes, every: float = 0.0) -> Script:
    """A beginning, and then the same again and again until the client hangs up."""

    def play(talk: Talk) -> None:
        talk.send(head)
        while not talk.server.stopping.is_set():
            talk.send(piece)
            if every:
                talk.wait(every)

    return play


def websocket(*frames: bytes, then: Callable[[Talk], None] = Talk.hold) -> Script:
    """A proper handshake, these frames as they are, and then `then`."""

    def play(talk: Talk) -> None:
        key = talk.request.headers["sec-websocket-key"].encode()
        accept = b64encode(sha1(key + _GUID).digest())
        talk.send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        for frame in frames:
            talk.send(frame)
        then(talk)
        talk.over = True

    return play


def text_frame(data: Any) -> bytes:
    """A text frame as servers send it; data becomes JSON, bytes stay what they are."""
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    if len(raw) < 126:
        return struct.pack(">BB", 0x81, len(raw)) + raw
    return struct.pack(">BBQ", 0x81, 127, len(raw)) + raw


@dataclass
class Scripted:
    """The server, in threads of this process. `on` gives a route its scripts; `requests` is what came in."""

    context: ssl.SSLContext | None = None
    version: str = VERSION
    requests: list[Request] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._scripts: dict[tuple[str, str], list[Script]] = {}
        self._lock = threading.Lock()
        self._links: list[socket.socket] = []
        self._prompts: dict[str, Any] = {}
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{'https' if self.context else 'http'}://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def on(self, route: str, *scripts: Script) -> None:
        """Scripts for `"GET /view"`; the last one goes on for ever. `"*"` is for every route without its own."""
        method, _, path = route.partition(" ")
        self._scripts[method, path] = list(scripts)

    def asked(self, path: str, method: str = "") -> list[Request]:
        """The requests whose path begins so."""
        with self._lock:
            return [r for r in self.requests if r.path.startswith(path) and method in ("", r.method)]

    def stop(self) -> None:
        """Hang up everywhere."""
        self.stopping.set()
        for link in [self._listener, *self._links]:
            with suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
            with suppress(OSError):
                link.close()

    # ---- connections

    def _accept(self) -> None:
        number = 0
        while not self.stopping.is_set():
            try:
                link, _ = self._listener.accept()
            except OSError:
                return
            number += 1
            threading.Thread(target=self._serve, args=(link, number), daemon=True).start()

    def _serve(self, link: socket.socket, number: int) -> None:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link.settimeout(PATIENCE)
        with suppress(OSError):
            if self.context is not None:
                link = self.context.wrap_socket(link, server_side=True)
            with self._lock:
                self._links.append(link)
            while (request := _read(link, number)) is not None:
                with self._lock:
                    self.requests.append(request)
                talk = Talk(self, link, request)
                self._script(request)(talk)
                if talk.over or request.headers.get("connection") == "close":
                    break
        with suppress(OSError):
            link.close()

    def _script(self, request: Request) -> Script:
        with self._lock:
            for method, path in ((request.method, request.path), (request.method, _stem(request.path)), ("*", "")):
                scripts = self._scripts.get((method, path))
                if scripts:
                    return scripts.pop(0) if len(scripts) > 1 else scripts[0]
        return self.healthy

    # ---- a healthy server

    def healthy(self, talk: Talk) -> None:
        """What a server says that is well."""
        request = talk.request
        name = request.path.rpartition("/")[2]
        match request.method, _stem(request.path):
            case "POST", "/prompt":
                body = request.json()
                self._prompts[body["prompt_id"]] = body["prompt"]
                found: Script = reply({"prompt_id": body["prompt_id"], "number": 1, "node_errors": {}})
            case "GET", "/prompt":
                found = reply({"exec_info": {"queue_remaining": 0}})
            case "GET", "/queue":
                found = reply({"queue_running": [], "queue_pending": []})
            case "GET", "/history":
                found = reply(self.history(name, {"2": {"images": [PICTURE]}}) if name in self._prompts else {})
            case "GET", "/api/jobs" if name in self._prompts:
                found = reply({"id": name, "status": "completed"})
            case "GET", "/api/jobs":
                found = reply({"error": "Job not found"}, 404)
            case "GET", "/view":
                found = reply(PNG, content_type="image/png")
            case "GET", "/system_stats":
                found = reply({"system": {"comfyui_version": self.version}, "devices": []})
            case "GET", "/object_info" | "/features":
                found = reply({})
            case _:
                found = reply(b"404: Not Found", 404, content_type="text/plain")
        found(talk)

    def history(self, prompt_id: str, outputs: Any) -> dict[str, Any]:
        """The history of a prompt that is done."""
        status = {"status_str": "success", "completed": True, "messages": []}
        return {prompt_id: {"prompt": [], "outputs": outputs, "status": status, "meta": {}}}


PICTURE = {"filename": "made_00001_.png", "subfolder": "", "type": "output"}


def made(server: Scripted, outputs: Any) -> Script:
    """A history that says of the prompt that is asked for that it is done, with these outputs."""

    def play(talk: Talk) -> None:
        reply(server.history(talk.request.path.rpartition("/")[2], outputs))(talk)

    return play


def _stem(path: str) -> str:
    """A path without the id behind it."""
    for stem in ("/history", "/api/jobs", "/object_info"):
        if path.startswith(f"{stem}/"):
            return stem
    return path


def _read(link: socket.socket, number: int) -> Request | None:
    raw = b""
    while b"\r\n\r\n" not in raw:
        some = link.recv(65_536)
        if not some:
            return None
        raw += some
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    pieces, size = [body], len(body)
    while size < int(headers.get("content-length", 0)):
        some = link.recv(1 << 20)
        if not some:
            return None
        pieces.append(some)
        size += len(some)
    parts = urlsplit(target)
    query = parse_qs(parts.query, keep_blank_values=True)
    return Request(time.monotonic(), method, parts.path, query, headers, b"".join(pieces), number)


@contextmanager
def scripted(**options: Any) -> Iterator[Scripted]:
    """A running server, stopped at the end."""
    server = Scripted(**options)
    try:
        yield server
    finally:
        server.stop()
