"""Every request on its way through the server, and the log of them.

The log is a file, so that it is still there when the server was killed, and readable while it answers nobody.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, Response
from starlette.types import Message, Receive, Scope, Send

from tests.comfyui.server.faults import Faults
from tests.comfyui.server.wire import cut

Line = dict[str, Any]
LOG = "requests.jsonl"  # in the folder of the server
UPLOADS = ("/upload/image", "/upload/mask")


class ConnectionCut(Exception):
    """The request ends without an answer."""


class TooBig(Exception):
    """A body is over the limit."""


@dataclass(slots=True)
class RequestLog:
    """A file of lines; a later line of the same request replaces the earlier one."""

    path: Path
    count: int = 0

    def number(self) -> str:
        """A name for the next request, unlike those of earlier processes."""
        self.count += 1
        return f"{os.getpid()}-{self.count}"

    def write(self, line: Line) -> None:
        """Add what is known of a request by now."""
        with open(self.path, "a", encoding="ascii") as file:
            file.write(json.dumps(line) + "\n")

    def lines(self) -> list[Line]:
        """All requests in order."""
        return read_log(self.path)

    def clear(self) -> None:
        """Forget."""
        self.path.unlink(missing_ok=True)


def read_log(path: Path) -> list[Line]:
    """The requests in the log of a server, alive or not."""
    if not path.exists():
        return []
    return _newest(json.loads(line) for line in path.read_text("ascii").splitlines() if line.endswith("}"))


def _newest(lines: Iterable[Line]) -> list[Line]:
    found: dict[str, Line] = {}
    for line in lines:
        found[line.pop("request")] = line
    return list(found.values())


class Visit:
    """One request: its line in the log, the count of its bytes, its answer."""

    def __init__(
        self,
        log: RequestLog,
        scope: Scope,
        receive: Receive,
        send: Send,
        faults: Faults,
        max_upload: int,
        queued: Callable[[], list[str]] = list,
    ) -> None:
        self.log, self.scope, self.max_upload, self._queued = log, scope, max_upload, queued
        self._receive, self._send = receive, send
        connection = HTTPConnection(scope)
        self.headers = connection.headers
        self.started = False
        self.size = 0
        self.json = bytearray() if "json" in self.headers.get("content-type", "") else None
        cuts = scope["path"].endswith(UPLOADS) and faults.take("upload_cuts")
        self.cut_after = faults.upload_cut_after if cuts else None
        self.line: Line = {
            "request": log.number(),
            "method": scope.get("method", "GET"),
            "path": scope["path"],
            "query": dict(connection.query_params),
            "headers": dict(self.headers),
            "status": None,
            "body": None,
            "size": 0,
            "queued": [],  # the prompts that wait or run when the answer starts
        }
        log.write(self.line)

    async def receive(self) -> Message:
        """The next piece of the body, counted."""
        message = await self._receive()
        if message["type"] == "http.request":
            self.size += len(message.get("body", b""))
            self.line["size"] = self.size
            if self.cut_after is not None and self.size > self.cut_after:
                raise ConnectionCut
            if self.size > self.max_upload:
                raise TooBig
            if self.json is not None:
                self.json += message.get("body", b"")
            if not message.get("more_body"):
                self._read_body()
        return message

    def _read_body(self) -> None:
        if self.json:
            with contextlib.suppress(ValueError):
                self.line["body"] = json.loads(self.json)
        if self.size:
            self.log.write(self.line)

    async def send(self, message: Message) -> None:
        """A piece of the answer; its status goes to the log."""
        match message["type"]:
            case "http.response.start" | "websocket.http.response.start":
                self._note(message["status"])
            case "websocket.accept":
                self._note(101)
            case "websocket.close" if not self.started:
                self._note(403)
        await self._send(message)

    def _note(self, status: int) -> None:
        self.started = True
        self.line["status"] = status
        self.line["queued"] = self._queued()
        self.log.write(self.line)

    async def answer(self, response: Response) -> None:
        """Answer without asking a route, also to a handshake."""
        await response(self.scope, self.receive, self.send)

    async def cut(self) -> None:
        """End the connection instead of answering."""
        cut(self.scope)
        await anyio.sleep(0.01)

    def too_big(self) -> bool:
        """Whether the body says that it is over the limit."""
        return self.cut_after is None and int(self.headers.get("content-length", 0)) > self.max_upload

    async def refuse_size(self) -> None:
        """Answer to a body over the limit, when all of it was read and thrown away."""
        while (message := await self._receive()).get("more_body"):
            self.size += len(message["body"])
        size = self.headers.get("content-length", self.size)
        words = f"Maximum request body size {self.max_upload} exceeded, actual body size {size}"
        await self.answer(PlainTextResponse(words, 413))
