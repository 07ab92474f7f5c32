"""Downloads of artifacts: ranges, ETags, and headers that keep files from doing harm in a browser.

Browsers may show only the media types of the list below, and only if the first bytes of the file match. Any other file
is sent as an attachment without a type. Whole files are checked against their digest: small files before the first byte
is sent; of large files the last chunk is sent after the check, so that a damaged file never arrives complete.
"""

from __future__ import annotations

import base64
import os
import re
from collections import OrderedDict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from towpath.errors import StoreFailed
from towpath.json_form import MAX_VALUE
from towpath.logs import guarded_logger
from towpath.model import ArtifactRow
from towpath.ports import Files
from towpath.secrets import MARK, marks_in
from towpath.values import without_marks

from .access import engine_of
from .errors import Refused

_log = guarded_logger("towpath.http")

WHOLE = 8 * 1024 * 1024  # bytes; up to here a file is read and checked before its first byte is sent
CHECKED = 256 * 1024 * 1024  # bytes; up to here a file is checked before a range of it is sent
CHUNK = 256 * 1024
HEAD = 64
_RANGE = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))", re.ASCII)
_MAX_TAGS = 4_000  # characters of If-None-Match that are looked at

_INLINE: dict[str, tuple[bytes, ...]] = {
    "image/png": (b"\x89PNG\r\n\x1a\n",),
    "image/jpeg": (b"\xff\xd8\xff",),
    "image/gif": (b"GIF87a", b"GIF89a"),
    "image/webp": (b"RIFF....WEBP",),
    "image/avif": (b"....ftypavif", b"....ftypavis"),
    "video/mp4": (b"....ftyp",),
    "video/webm": (b"\x1a\x45\xdf\xa3",),
    "video/quicktime": (b"....ftyp",),
    "audio/mpeg": (b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2"),
    "audio/wav": (b"RIFF....WAVE",),
    "audio/x-wav": (b"RIFF....WAVE",),
    "audio/ogg": (b"OggS",),
    "audio/flac": (b"fLaC",),
    "audio/mp4": (b"....ftyp",),
    "text/plain": (),
    "text/csv": (),
    "text/markdown": (),
    "application/json": (),
}
"""Media types that browsers may show, with their first bytes (`.` is any). Text has none: `nosniff` keeps it text."""

_TEXT = frozenset({"text/plain", "text/csv", "text/markdown", "application/json"})
_SANDBOX = "default-src 'none'; style-src 'none'; script-src 'none'; frame-ancestors 'none'; sandbox"
_HARMLESS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": _SANDBOX,
    "Cross-Origin-Resource-Policy": "same-origin",
}


def may_be_shown(media_type: str) -> bool:
    """May a browser show this type, if the bytes match?"""
    return media_type in _INLINE


async def artifact_answer(request: Request, row: ArtifactRow, *, attachment: bool = False) -> Response:
    """The bytes of an artifact: all, a range, or 304 if the caller has them.

    Raises Refused (416 E_RANGE), StoreFailed (E_BLOB_MISSING, E_BLOB_CORRUPT).
    """
    shown = await value_shown(engine_of(request).store.files, row)
    if shown is not None:
        return _masked_answer(request, shown, row, attachment)
    tag = f'"{row.digest}"'
    common = {"ETag": tag, "Accept-Ranges": "bytes", "Cache-Control": "private, no-cache"}
    if _known(request.headers.get("if-none-match", ""), tag):
        return Response(status_code=304, headers=common)
    kept = _ArtifactBytes(request, row)
    headers = {**common, **await _headers(kept, row, attachment), "Repr-Digest": _repr_digest(row.digest)}
    part = None
    if request.method == "GET" and request.headers.get("if-range", tag) == tag:  # HEAD knows no parts
        part = _part(request.headers.getlist("range"), row.size)
    if part is None:
        headers["Content-Length"] = str(row.size)
        if request.method == "HEAD":
            return Response(status_code=200, headers=headers)
        return await kept.whole(headers)
    first, last = part
    headers["Content-Length"] = str(last - first + 1)
    headers["Content-Range"] = f"bytes {first}-{last}/{row.size}"
    return await kept.part(first, last, headers)


async def value_shown(files: Files, row: ArtifactRow) -> bytes | None:
    """A kept value with its secrets masked; None if there is nothing to mask.

    Raises StoreFailed (E_BLOB_MISSING, E_BLOB_CORRUPT).
    """
    if row.name != "value" or row.media_type != "application/json" or row.size > MAX_VALUE:
        return None
    data = await files.read_bytes(row)
    if MARK.encode() not in data:
        return None
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return msgspec.json.encode(without_marks(value)) if any(marks_in(value)) else None


def _masked_answer(request: Request, data: bytes, row: ArtifactRow, attachment: bool) -> Response:
    """Always the whole value: ranges and digests would be those of the kept bytes, which are different."""
    tag = f'"{row.digest}-shown"'
    headers = {
        "ETag": tag,
        "Cache-Control": "private, no-cache",
        "Content-Type": "application/octet-stream" if attachment else "application/json; charset=utf-8",
        "Content-Disposition": disposition(row.filename, inline=not attachment),
        **_HARMLESS,
    }
    if _known(request.headers.get("if-none-match", ""), tag):
        return Response(status_code=304, headers=headers)
    return Response(data, headers=headers)


def _known(tags: str, tag: str) -> bool:
    return any(one.strip().removeprefix("W/") in (tag, "*") for one in tags[:_MAX_TAGS].split(",") if one.strip())


def _repr_digest(digest: str) -> str:
    return f"sha-256=:{base64.b64encode(bytes.fromhex(digest)).decode()}:"


def _part(given: list[str], size: int) -> tuple[int, int] | None:
    """The first and last byte of the requested range, or None for all bytes. Raises Refused (416 E_RANGE)."""
    wanted = _RANGE.fullmatch(given[0].strip()) if len(given) == 1 else None
    if wanted is None:
        return None  # several ranges, or another unit: RFC 9110 allows to send everything
    if wanted[3] is not None:
        first, last = max(0, size - int(wanted[3])), size - 1
        fits = int(wanted[3]) > 0 and size > 0
    else:
        first, last = int(wanted[1]), min(int(wanted[2]) if wanted[2] else size - 1, size - 1)
        if wanted[2] and int(wanted[2]) < int(wanted[1]):
            return None
        fits = first < size
    if not fits:
        headers = {"Content-Range": f"bytes */{size}"}
        raise Refused(416, "E_RANGE", "the file has no such range", allowed=f"0 to {size - 1}", headers=headers)
    return first, last


async def _headers(kept: _ArtifactBytes, row: ArtifactRow, attachment: bool) -> dict[str, str]:
    shown = not attachment and may_be_shown(row.media_type) and _fits(row.media_type, await kept.head())
    media = row.media_type if shown else "application/octet-stream"
    if shown and row.media_type in _TEXT:
        media += "; charset=utf-8"
    return {
        "Content-Type": media,
        "Content-Disposition": disposition(row.filename, inline=shown),
        **_HARMLESS,
    }


def _fits(media_type: str, head: bytes) -> bool:
    """Do the first bytes match the type?"""
    wanted = _INLINE[media_type]
    if not wanted:
        return b"\0" not in head
    return any(
        len(head) >= len(magic) and all(want == ord(".") or want == got for want, got in zip(magic, head, strict=False))
        for magic in wanted
    )


def disposition(filename: str, *, inline: bool) -> str:
    """Content-Disposition. The name is percent-encoded, so that it can neither end the header nor add a parameter."""
    plain = filename.encode("utf-8", "replace").decode()
    return f"{'inline' if inline else 'attachment'}; filename*=UTF-8''{quote(plain, safe='')}"


class _Checked:
    """Files that this process has checked, by a fingerprint that changes with the file."""

    def __init__(self, most: int = 1_000) -> None:
        self._seen: OrderedDict[tuple[Any, ...], None] = OrderedDict()
        self._most = most

    def knows(self, fingerprint: tuple[Any, ...]) -> bool:
        return fingerprint in self._seen

    def add(self, fingerprint: tuple[Any, ...]) -> None:
        self._seen[fingerprint] = None
        while len(self._seen) > self._most:
            self._seen.popitem(last=False)


_checked = _Checked()


class _ArtifactBytes:
    """The bytes of one artifact, in the database or in a file."""

    def __init__(self, request: Request, row: ArtifactRow) -> None:
        self.row = row
        self.files = engine_of(request).store.files
        self._data: bytes | None = None

    async def head(self) -> bytes:
        """The first bytes. Raises StoreFailed."""
        if self.row.size <= WHOLE:
            return (await self._all())[:HEAD]
        await self._fingerprint()
        async with await anyio.open_file(await self._path(), "rb") as file:
            return await file.read(HEAD)

    async def whole(self, headers: dict[str, str]) -> Response:
        if self.row.size <= WHOLE:
            return Response(await self._all(), headers=headers)
        await self._fingerprint()
        return StreamingResponse(self._logged(self.files.open(self.row)), headers=headers)

    async def part(self, first: int, last: int, headers: dict[str, str]) -> Response:
        if self.row.size <= WHOLE:
            return Response((await self._all())[first : last + 1], 206, headers)
        fingerprint = await self._fingerprint()
        if self.row.size <= CHECKED and not _checked.knows(fingerprint):
            async for _ in self._logged(self.files.open(self.row)):
                pass
            _checked.add(fingerprint)
        return StreamingResponse(self._slice(first, last), 206, headers)

    async def _all(self) -> bytes:
        if self._data is None:
            try:
                self._data = await self.files.read_bytes(self.row)
            except StoreFailed as error:
                self._damaged(error)
                raise
        return self._data

    async def _fingerprint(self) -> tuple[Any, ...]:
        """Changes when the file changes. Raises StoreFailed if the file is missing or has another size."""
        try:
            found = await anyio.Path(await self._path()).stat()
        except FileNotFoundError:
            raise StoreFailed("E_BLOB_MISSING", "the bytes of this artifact are missing") from None
        if found.st_size != self.row.size:
            error = StoreFailed("E_BLOB_CORRUPT", "the bytes of this artifact have changed their size")
            self._damaged(error)
            raise error
        return self.row.digest, found.st_ino, found.st_mtime_ns, found.st_size

    async def _path(self) -> Path:
        path = await self.files.place(self.row)
        assert path is not None, "bytes in the database are sent whole"
        return path

    async def _slice(self, first: int, last: int) -> AsyncIterator[bytes]:
        left = last - first + 1
        async with await anyio.open_file(await self._path(), "rb") as file:
            await file.seek(first, os.SEEK_SET)
            while left and (data := await file.read(min(CHUNK, left))):
                left -= len(data)
                yield data

    async def _logged(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        try:
            async for chunk in chunks:
                yield chunk
        except StoreFailed as error:
            self._damaged(error)
            raise

    def _damaged(self, error: StoreFailed) -> None:
        _log.error("artifact %s is damaged: %s; `towpath fsck` lists all damage", self.row.id, error.code)
