"""A ComfyUI server that moves files as fast as the machine can: the tests' stand-in with other file routes.

    python -m benchmarks.file_server --folder DIR

GET /view goes out with sendfile, POST /upload/image is written as it comes in, both below HTTP libraries;
the answers are the stand-in's. Everything else (prompts, queue, history, websockets, /features, …) is the
stand-in itself. Two nodes more: `SaveMany` saves files that were made before, `TakeMany` only looks at
files. Neither renders, because the time to make a file is not measured here.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import secrets
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import h11
import uvicorn

from tests.comfyui.server.application import application
from tests.comfyui.server.files import Folders, Refused, media_type
from tests.comfyui.server.nodes import NODES
from tests.comfyui.server.slots import Call, Made, Node, text, whole
from tests.comfyui.server.wire import Protocol

SOURCE = "source"  # the folder in output with the files that SaveMany saves
PLAIN = {"filename", "subfolder", "type"}  # a query of these is a file as it is
MAX_UPLOAD = 1 << 40
_HEADER = re.compile(rb"^([^:\r\n]+):[ \t]*([^\r\n]*)\r$", re.MULTILINE)
_FIELD = re.compile(rb'Content-Disposition: form-data; name="(\w+)"(?:; filename="([^"]*)")?')


# ---- nodes


async def save_many(call: Call) -> Made:
    """Save `count` files, as SaveImage does with a batch: files of the folder `source`, from the `first` on."""
    naming = call.folders.numbered(call.get("filename_prefix", "many"))
    source = call.folders.root / "output" / SOURCE
    items = []
    for number in range(call.get("first"), call.get("first") + call.get("count")):
        name = f"{naming.base}_{naming.number:05}_.mp4"
        os.link(source / source_name(number), naming.folder / name)
        naming.number += 1
        items.append({"filename": name, "subfolder": naming.subfolder, "type": naming.kind})
    return Made(ui={"images": items})


async def take_many(call: Call) -> Made:
    """Look at every file that it was given: how many bytes they are."""
    sizes = [call.folders.named(str(name)).stat().st_size for name in call.literal.values()]
    return Made(ui={"text": [f"{len(sizes)} files, {sum(sizes)} bytes"]})


def source_name(number: int) -> str:
    """The name of a prepared file."""
    return f"{number:05}.mp4"


NODES["SaveMany"] = Node(
    run=save_many,
    required={"first": whole(0, 0), "count": whole(1, 1)},
    optional={"filename_prefix": text("many")},
    output=True,
)
NODES["TakeMany"] = Node(run=take_many, any_inputs=True, output=True)


# ---- file routes


class Upload:
    """The body of one POST /upload/image whose last part is the file; it is written as it comes."""

    def __init__(self, folders: Folders, boundary: bytes, length: int) -> None:
        self._folders = folders
        self._tail = b"\r\n--" + boundary + b"--\r\n"
        self._left = length  # bytes of the body that are still to come
        self._head = b""
        self._fields: dict[str, str] = {}
        self._file = -1
        self._rest = 0  # bytes of the file that are still to come
        self._end = b""
        self._temp = folders.root / "temp" / secrets.token_hex(8)

    def take(self, data: bytes) -> bool:
        """A piece of the body; true if it was the last one."""
        self._left -= len(data)
        if self._file < 0:
            self._head += data
            data = self._opened()
        if self._rest:
            piece = memoryview(data)[: self._rest]
            self._rest -= len(piece)
            data = data[len(piece) :]
            while piece:
                piece = piece[os.write(self._file, piece) :]
        self._end += data
        return self._left <= 0

    def _opened(self) -> bytes:
        """Read the fields before the file, open it, and give what of the file is here already."""
        start = self._head.find(b'filename="')
        end = self._head.find(b"\r\n\r\n", start)
        if start < 0 or end < 0:
            return b""
        for part in self._head[:end].split(self._tail[2:-4] + b"\r\n"):
            lines, _, value = part.partition(b"\r\n\r\n")
            if found := _FIELD.search(lines):
                said = value.removesuffix(b"\r\n") if found[2] is None else found[2]
                self._fields[found[1].decode()] = said.decode()
        data = self._head[end + 4 :]
        self._rest = len(data) + self._left - len(self._tail)
        self._file = os.open(self._temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        return data

    def kept(self) -> dict[str, str]:
        """Put the file in its place; the answer. Raises Refused as the stand-in does, and for other forms."""
        if self._file < 0 or self._end != self._tail:
            raise Refused(400)
        os.close(self._file)
        self._file = -1
        name, kind = self._fields.get("image", ""), self._fields.get("type") or "input"
        subfolder = self._fields.get("subfolder", "")
        within = self._folders.place_for(name, subfolder, kind)
        if (within / name).exists():
            with open(self._temp, "rb") as file:
                name = self._folders.keep(file, within, name, False)
            self._temp.unlink()
        else:
            self._temp.rename(within / name)
        return {"name": name, "subfolder": subfolder, "type": kind}

    def close(self) -> None:
        """Forget what did not become a file."""
        if self._file >= 0:
            os.close(self._file)
        self._temp.unlink(missing_ok=True)


class FileProtocol(Protocol):
    """The stand-in's protocol; requests for whole files and uploads do not get as far as its parser."""

    folders: Folders

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._buffer: bytes | None = None  # a request of ours whose headers are not all here
        self._upload: Upload | None = None
        self._sending: asyncio.Task[None] | None = None

    def data_received(self, data: bytes) -> None:
        if self._upload is not None:
            self._receive(data)
        elif self._buffer is not None:
            self._enter(self._buffer + data)
        elif self.conn.our_state is h11.IDLE and data.startswith((b"GET /view?", b"POST /upload/image ")):
            self._unset_keepalive_if_required()
            self._enter(data)
        else:
            super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._upload is not None:
            self._upload.close()

    def _enter(self, data: bytes) -> None:
        head, end, body = data.partition(b"\r\n\r\n")
        self._buffer = data
        if not end:
            return
        self._buffer = None
        headers = {name.lower(): value for name, value in _HEADER.findall(head.partition(b"\n")[2] + b"\r")}
        if head.startswith(b"GET"):
            self._view(data, head.split(b" ", 2)[1].decode("ascii"), headers)
        else:
            boundary = headers[b"content-type"].partition(b"boundary=")[2]
            self._upload = Upload(self.folders, boundary, int(headers[b"content-length"]))
            self._receive(body)

    def _view(self, data: bytes, target: str, headers: dict[bytes, bytes]) -> None:
        query = dict(parse_qsl(urlsplit(target).query, keep_blank_values=True))
        if b"range" in headers or query.keys() - PLAIN:
            super().data_received(data)
            return
        try:
            subfolder = query.get("subfolder")
            path = self.folders.viewed(query["filename"], subfolder, query.get("type", "output"))
        except Refused as refused:
            self._answer(refused.status, b"")
            return
        self._sending = asyncio.get_running_loop().create_task(self._send(path))

    async def _send(self, path: Path) -> None:
        loop = asyncio.get_running_loop()
        with open(path, "rb") as file:  # noqa: ASYNC230 - as quick as the rest; a thread would cost more
            size = os.fstat(file.fileno()).st_size
            self.transport.write(_head(200, size, media_type(path)))
            try:
                await loop.sendfile(self.transport, file, fallback=False)
            except (ConnectionError, RuntimeError):
                self.transport.abort()

    def _receive(self, data: bytes) -> None:
        assert self._upload is not None
        if not self._upload.take(data):
            return
        upload, self._upload = self._upload, None
        try:
            self._answer(200, json.dumps(upload.kept()).encode(), "application/json")
        except Refused as refused:
            self._answer(refused.status, b"")
        finally:
            upload.close()

    def _answer(self, status: int, body: bytes, kind: str = "text/plain") -> None:
        self.transport.write(_head(status, len(body), kind) + body)


def _head(status: int, size: int, kind: str) -> bytes:
    return f"HTTP/1.1 {status} -\r\ncontent-length: {size}\r\ncontent-type: {kind}\r\n\r\n".encode("ascii")


# ---- the process


class Server(uvicorn.Server):
    """Says when it listens; leaves signals alone."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        assert sockets
        print(f"http://127.0.0.1:{sockets[0].getsockname()[1]}", flush=True)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def main() -> None:
    """Serve until a signal comes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="input, output and temp are below it")
    parser.add_argument("--stand-in", action="store_true", help="with the file routes of the stand-in")
    given = parser.parse_args()
    folder = Path(os.path.abspath(given.folder))
    app = application(folder, max_upload=MAX_UPLOAD)
    FileProtocol.folders = Folders(folder)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    # asyncio switches Nagle's delay off only where the protocol is named.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        http=Protocol if given.stand_in else FileProtocol,
        ws="websockets-sansio",
        ws_ping_interval=None,
        ws_per_message_deflate=False,
        log_level="critical",
        access_log=False,
        lifespan="on",
    )
    Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
