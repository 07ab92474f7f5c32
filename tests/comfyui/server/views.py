"""GET /view: a file in pieces, with ranges and conditions as aiohttp answers them, and with what can break it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import anyio
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tests.comfyui.server import contents
from tests.comfyui.server.faults import Faults
from tests.comfyui.server.files import Folders, Refused, etag, file_digest, media_type
from tests.comfyui.server.wire import cut

PIECE = 1 << 18  # bytes read at once
RATE_TICKS = 20  # pieces a second, if the rate is limited
HTML = b"<!DOCTYPE html><html><body>Bad gateway</body></html>\n"


def view(request: Request, folders: Folders, faults: Faults) -> Response:
    """Answer GET or HEAD /view."""
    query = request.query_params
    if "filename" not in query:
        return Response(status_code=404)
    try:
        path = folders.viewed(query["filename"], query.get("subfolder"), query.get("type", "output"))
    except Refused as refused:
        return Response(status_code=refused.status)
    if "preview" in query or query.get("channel", "rgba") != "rgba":
        return _encoded_again(path, query.get("preview"), query.get("channel", "rgba"))
    if faults.take("view_html"):
        return Response(HTML, media_type="image/png")
    if faults.take("view_empty"):
        return Response(b"", media_type=media_type(path))
    return _file(request, path, faults)


def _encoded_again(path: Path, preview: str | None, channel: str) -> Response:
    """Other bytes for `preview=webp;90` and `channel=rgb`; a crash for what is no image."""
    with open(path, "rb") as file:
        if not contents.is_picture(file.read(64)):
            raise OSError(f"cannot identify image file '{path}'")
    cause = contents.fingerprint("view", {"preview": preview, "channel": channel}, [file_digest(path)])
    if preview is None:
        return Response(contents.image(cause, *contents.dimensions(path.read_bytes())), media_type="image/png")
    kind = "webp" if preview.split(";")[0] == "webp" else "jpg"
    return Response(contents.movie(kind, cause), media_type="image/webp" if kind == "webp" else "image/jpeg")


def _file(request: Request, path: Path, faults: Faults) -> Response:
    seen, tag = path.stat(), etag(path)
    headers = {
        "content-disposition": f'filename="{path.name}"'.encode("utf-8", "surrogateescape").decode("latin-1"),
        "etag": tag,
        "last-modified": formatdate(seen.st_mtime, usegmt=True),
        "accept-ranges": "bytes",
    }
    if (wanted := request.headers.get("if-match")) and wanted != "*" and tag not in wanted:
        return Response(status_code=412, headers=headers)
    if (known := request.headers.get("if-none-match")) and (known == "*" or tag in known):
        return Response(status_code=304, headers=headers)
    try:
        start, end = _range(request.headers.get("range"), seen.st_size)
    except ValueError:
        return Response(status_code=416, headers={"content-range": f"bytes */{seen.st_size}"})
    if "range" in request.headers:
        headers["content-range"] = f"bytes {start}-{end - 1}/{seen.st_size}"
    headers["content-length"] = str(end - start)
    headers["content-type"] = media_type(path)
    return Pieces(path, start, end, headers, faults)


def _range(header: str | None, size: int) -> tuple[int, int]:
    """First byte and the byte behind the last. If-Range is not looked at: the original takes dates alone there."""
    if header is None:
        return 0, size
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", header.strip())
    if match is None or match[0].endswith("=-"):
        raise ValueError(header)
    if not match[1]:
        return max(0, size - int(match[2])), size
    start, end = int(match[1]), min(size, int(match[2]) + 1) if match[2] else size
    if start >= size or end <= start:
        raise ValueError(header)
    return start, end


class Pieces(Response):
    """A part of a file, read and sent in pieces."""

    def __init__(self, path: Path, start: int, end: int, headers: dict[str, str], faults: Faults) -> None:
        super().__init__(status_code=206 if "content-range" in headers else 200, headers=headers)
        self.path, self.start, self.end, self.faults = path, start, end, faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        cut_at = self.start + self.faults.view_cut_after if self.faults.take("view_cuts") else self.end
        wrong, rate = self.faults.take("view_wrong_bytes"), self.faults.view_rate
        for data in _read(self.path, self.start, min(cut_at, self.end), max(1, rate // RATE_TICKS) if rate else PIECE):
            body = bytes(byte ^ 0x55 for byte in data) if wrong else data
            await send({"type": "http.response.body", "body": body, "more_body": True})
            if rate:
                await anyio.sleep(len(data) / rate)
        if cut_at < self.end:
            cut(scope, gently=True)
            await anyio.sleep(0.01)
            return
        await send({"type": "http.response.body", "body": b""})


def _read(path: Path, start: int, end: int, piece: int) -> Iterator[bytes]:
    with open(path, "rb") as file:
        file.seek(start)
        while start < end and (data := file.read(min(piece, end - start))):
            start += len(data)
            yield data
