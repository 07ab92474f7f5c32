"""The websockets: who is connected under which id, and what is sent to them.

Nothing is kept for those who are away. As in the original, the clean-up of a socket takes its id from the table,
even if a newer socket has that id by then: the newer one stays open and gets nothing more.
"""

from __future__ import annotations

import json
import struct
import uuid
from dataclasses import dataclass, field
from typing import Any

import anyio
from anyio.abc import TaskGroup
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from tests.comfyui.server.faults import Faults
from tests.comfyui.server.queue import Queue
from tests.comfyui.server.wire import cut, write_raw

Message = dict[str, Any]
PREVIEW, TEXT, PREVIEW_WITH_METADATA = 1, 3, 4  # kinds of binary frames
PNG = 2
CLEAN_UP = 0.05  # seconds after a return, when a half-open socket is noticed at last
FEATURES = {"supports_preview_metadata": True}


@dataclass(slots=True, eq=False)
class Connection:
    """One open socket. `waiting` is what it is going to be sent, in order."""

    socket: WebSocket
    flags: dict[str, Any] = field(default_factory=dict)
    waiting: list[str | bytes] = field(default_factory=list)
    news: anyio.Event = field(default_factory=anyio.Event)
    silent: bool = False

    def put(self, frame: str | bytes) -> None:
        """Send it when its turn comes."""
        if not self.silent:
            self.waiting.append(frame)
            self.news.set()


class Sockets:
    """All sockets by client id."""

    def __init__(self, faults: Faults, queue: Queue) -> None:
        self.faults = faults
        self.queue = queue
        self.features: dict[str, Any] = dict(FEATURES)
        self.open: dict[str, Connection] = {}
        self.half_open: set[str] = set()

    def send(self, kind: str, data: Message, client: str | None = None) -> None:
        """Send a message to one client, or to everybody."""
        self.send_frame(json.dumps({"type": kind, "data": data}), client)

    def send_frame(self, frame: str | bytes, client: str | None) -> None:
        """Send a frame as it is."""
        if client is None:
            for each in list(self.open.values()):
                each.put(frame)
        elif client in self.open:
            self.open[client].put(frame)

    def send_preview(self, picture: bytes, metadata: Message, client: str | None) -> None:
        """Send a picture in the binary form that each client understands."""
        plain = struct.pack(">II", PREVIEW, PNG) + picture
        told = json.dumps({**metadata, "image_type": "image/png"}).encode()
        detailed = struct.pack(">II", PREVIEW_WITH_METADATA, len(told)) + told + picture
        for sid in list(self.open) if client is None else [client]:
            if sid in self.open:
                understands = self.open[sid].flags.get("supports_preview_metadata")
                self.open[sid].put(detailed if understands else plain)

    def send_status(self) -> None:
        """Tell everybody how long the queue is."""
        self.send("status", self.queue.status())

    def cut(self, client: str | None) -> None:
        """Cut the connection of a client in the middle."""
        if client in self.open:
            cut(self.open[client].socket.scope)

    def send_invalid_text(self, client: str | None) -> None:
        """Send a text frame that is no UTF-8."""
        if client in self.open:
            write_raw(self.open[client].socket.scope, b"\x81\x04\xff\xfe\xc3\x28")

    async def forget(self) -> None:
        """Close all of them."""
        for each in list(self.open.values()):
            if each.socket.client_state is WebSocketState.CONNECTED:
                cut(each.socket.scope)
        self.open.clear()
        self.half_open.clear()

    async def serve(self, socket: WebSocket) -> None:
        """Take one socket from its handshake to its end."""
        if self.faults.websocket_refuse:
            await socket.close()
            return
        sid = socket.query_params.get("clientId") or uuid.uuid4().hex
        await socket.accept()
        if self.faults.websocket_close_at_once:
            await socket.close(1011)
            return
        connection = Connection(socket)
        self.open[sid] = connection
        try:
            async with anyio.create_task_group() as tasks:
                self._greet(sid, connection)
                tasks.start_soon(self._clean_up_late, sid)
                tasks.start_soon(self._write, connection)
                await self._read(connection, tasks)
        finally:
            if self.faults.websocket_half_open:
                self.half_open.add(sid)
            else:
                self.open.pop(sid, None)

    def _greet(self, sid: str, connection: Connection) -> None:
        connection.put(json.dumps({"type": "status", "data": {**self.queue.status(), "sid": sid}}))
        running = self.queue.running
        if running is not None and running.client_id == sid and self.queue.node is not None:
            connection.put(json.dumps({"type": "executing", "data": {"node": self.queue.node}}))
        connection.silent = self.faults.websocket_silent

    async def _clean_up_late(self, sid: str) -> None:
        if sid in self.half_open:
            self.half_open.discard(sid)
            await anyio.sleep(CLEAN_UP)
            self.open.pop(sid, None)

    async def _write(self, connection: Connection) -> None:
        while True:
            await connection.news.wait()
            connection.news = anyio.Event()
            frames, connection.waiting = connection.waiting, []
            for frame in frames:
                try:
                    await (
                        connection.socket.send_text(frame)
                        if isinstance(frame, str)
                        else connection.socket.send_bytes(frame)
                    )
                except (WebSocketDisconnect, RuntimeError):
                    return

    async def _read(self, connection: Connection, tasks: TaskGroup) -> None:
        first = True
        while True:
            message = await connection.socket.receive()
            if message["type"] == "websocket.disconnect":
                tasks.cancel_scope.cancel()
                return
            if first and message.get("text"):
                self._take_flags(connection, message["text"])
            first = False

    def _take_flags(self, connection: Connection, words: str) -> None:
        try:
            said = json.loads(words)
        except ValueError:
            return
        if isinstance(said, dict) and said.get("type") == "feature_flags":
            connection.flags = said.get("data", {})
            connection.put(json.dumps({"type": "feature_flags", "data": self.features}))
