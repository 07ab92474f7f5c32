"""Uploaded files, as streams: the body itself, or the last part of a form.

No file is held in memory as a whole. Forms are parsed by python-multipart; parts, headers and text fields are limited.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from towpath.media import safe_filename

from .bodies import check_text, chunks_of
from .errors import Refused

MAX_PARTS = 20
MAX_FIELD = 64 * 1024  # bytes of a text field
MAX_HEADERS = 8 * 1024  # bytes of a part's headers
MAX_NAME = 255
MAX_TYPE = 500  # characters of a Content-Type
FORM = "multipart/form-data"


@dataclass(frozen=True, slots=True)
class IncomingFile:
    """A file that is being uploaded, and the text fields before it."""

    chunks: AsyncIterator[bytes]
    filename: str | None
    fields: dict[str, str] = field(default_factory=dict)


async def upload_of(request: Request) -> IncomingFile:
    """The file in the body: the body itself (`?filename=` names it), or the last part of a form.

    Raises Refused: 400 E_BODY, E_NAME_PATH; 413 E_BODY_SIZE; 415 E_MEDIA_TYPE; 422 E_BODY_FIELD.
    """
    settings = request.app.state.settings
    given = content_type(request)
    media = given.split(";")[0].strip().lower()
    chunks = chunks_of(request, settings.max_upload, settings.idle_seconds)
    if media == "application/x-www-form-urlencoded":
        raise Refused(415, "E_MEDIA_TYPE", "send the file as the body, or as a part of a form", allowed=f"*/*, {FORM}")
    if media == FORM:
        return await _Form(given, chunks).upload()
    name = request.query_params.get("filename")
    return IncomingFile(chunks, None if name is None else display_name(name))


def content_type(request: Request) -> str:
    """The Content-Type with its options. Raises Refused (400 E_BODY) if it is long: parsing it is not linear."""
    given: str = request.headers.get("content-type", "application/octet-stream")
    if len(given) > MAX_TYPE:
        raise Refused(400, "E_BODY", "the Content-Type is too long", allowed=f"{MAX_TYPE} characters")
    return given


def display_name(name: str) -> str:
    """The name of a file. Raises Refused: 400 E_NAME_PATH for a path or an unusable name."""
    check_text(name)
    bare = name.strip()
    if not bare or len(bare) > MAX_NAME or re.search(r"[/\\]|^\.{1,2}$", bare) or safe_filename(bare) == "":
        raise Refused(400, "E_NAME_PATH", "this is not a file name", found=name, allowed="a name without / and \\")
    return bare


class _Form:
    """Reads one form: from events of the parser to text fields and the chunks of one file."""

    def __init__(self, content_type: str, chunks: AsyncIterator[bytes]) -> None:
        _, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if not 0 < len(boundary) <= 200:
            raise Refused(400, "E_BODY", "the form has no boundary")
        self._chunks = chunks
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_part_data": lambda data, start, end: self._events.append(("data", data[start:end])),
                "on_part_end": lambda: self._events.append(("end", b"")),
                "on_header_field": lambda data, start, end: self._header(data[start:end], name=True),
                "on_header_value": lambda data, start, end: self._header(data[start:end], name=False),
                "on_header_end": self._header_end,
                "on_headers_finished": lambda: self._events.append(("part", dict(self._headers))),
                "on_end": lambda: self._events.append(("over", b"")),
            },
        )
        self._events: deque[tuple[str, Any]] = deque()
        self._headers: dict[str, bytes] = {}
        self._name = bytearray()
        self._value = bytearray()
        self._parts = 0

    # ---- called by the parser

    def _begin(self) -> None:
        self._headers = {}
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise Refused(413, "E_BODY_SIZE", "the form has too many parts", allowed=f"{MAX_PARTS} parts")

    def _header(self, data: bytes, *, name: bool) -> None:
        (self._name if name else self._value).extend(data)
        size = len(self._name) + len(self._value) + sum(map(len, self._headers.values()))
        if size > MAX_HEADERS:
            raise Refused(400, "E_BODY", "the headers of a part are too long", allowed=f"{MAX_HEADERS} bytes")

    def _header_end(self) -> None:
        self._headers[self._name.decode("latin-1").lower()] = bytes(self._value)
        self._name.clear()
        self._value.clear()

    # ---- reading

    async def upload(self) -> IncomingFile:
        fields: dict[str, str] = {}
        events = self._read()
        async for kind, headers in events:
            if kind == "over":
                raise Refused(
                    422, "E_BODY_FIELD", "the form holds no file", allowed="a part with a filename, as the last part"
                )
            if kind != "part":
                continue
            name, filename = _described(headers)
            if filename is not None:
                return IncomingFile(self._file(events), display_name(filename), fields)
            fields[name] = await _text(events)
        raise Refused(400, "E_BODY", "the form ended too early")

    async def _file(self, events: AsyncIterator[tuple[str, Any]]) -> AsyncIterator[bytes]:
        ended = False
        async for kind, data in events:
            if kind == "over":
                return
            if kind == "part":
                cure = "send the fields before the file"
                raise Refused(422, "E_BODY_FIELD", "the file must be the last part of the form", cure=cure)
            ended = ended or kind == "end"
            if kind == "data":
                yield bytes(data)
        raise Refused(400, "E_BODY", "the form ended too early")

    async def _read(self) -> AsyncIterator[tuple[str, Any]]:
        async for chunk in self._chunks:
            try:
                self._parser.write(chunk)
            except FormParserError as error:
                raise Refused(400, "E_BODY", f"the form cannot be read: {error}") from None
            while self._events:
                yield self._events.popleft()


def _described(headers: dict[str, bytes]) -> tuple[str, str | None]:
    """A part's name and file name. Its type is ignored: the file's type comes from its name and bytes."""
    _, options = parse_options_header(headers.get("content-disposition", b""))
    filename = options.get(b"filename")
    named = None if filename is None else _decoded(filename)
    extended = options.get(b"filename*")
    if extended is not None:
        named = unquote(_decoded(extended).rpartition("'")[2], errors="replace")
    return _decoded(options.get(b"name", b"")), named


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused(400, "E_TEXT_UNICODE", "a name in the form is not UTF-8") from None


async def _text(events: AsyncIterator[tuple[str, Any]]) -> str:
    text = bytearray()
    async for kind, data in events:
        if kind == "end":
            return check_text(_decoded(bytes(text)))
        text += data
        if len(text) > MAX_FIELD:
            raise Refused(413, "E_BODY_SIZE", "a field of the form is too long", allowed=f"{MAX_FIELD} bytes")
    raise Refused(400, "E_BODY", "the form ended too early")
