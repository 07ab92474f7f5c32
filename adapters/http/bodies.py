"""Bodies of requests: limited in size and time, strict JSON, typed by msgspec."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import AsyncGenerator, Callable
from typing import Any, NoReturn, TypeVar
from urllib.parse import parse_qsl

import anyio
import msgspec
from anyio.to_thread import run_sync
from starlette.datastructures import FormData
from starlette.requests import ClientDisconnect, Request

from .errors import Refused

T = TypeVar("T")

MAX_DEPTH = 64
MAX_DIGITS = 30
MAX_FLOAT = 1_000  # characters of a number; a float needs far fewer
DISK_CHECK = 64 * 1024 * 1024  # bytes of an upload between two checks of the free disk space
SLOWEST = 1_024  # bytes a second: the least average speed of an upload
MAX_FORM = 256 * 1024  # bytes of a form without a file: a long reason, percent-encoded
MAX_FIELDS = 50
FORM = "application/x-www-form-urlencoded"
INLINE = 64 * 1024  # bytes; a larger body is parsed in a thread, so that the event loop is not blocked
AT_ONCE = 2  # bodies parsed in threads at the same time; more would only share the processor
# A text without its closing quote is a token, too: else each quote in it would start a new search.
_TOKENS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


async def body_of(request: Request, kind: type[T], limit: int | None = None) -> T:
    """The JSON body as `kind`. An empty body is read as `{}`. `limit` is in bytes; the default is `max_json`.

    Raises Refused: 415 E_MEDIA_TYPE, 413 E_BODY_SIZE, 408 E_BODY_TIME, 400 E_JSON_… E_TEXT_…, 422 E_BODY_FIELD.
    """
    settings = request.app.state.settings
    data = await whole_body(request, settings.max_json if limit is None else limit, settings.body_seconds)
    media = media_type(request)
    if media != "application/json" and (data or media):
        raise Refused(415, "E_MEDIA_TYPE", "the body must be JSON", found=media, allowed="application/json")
    return await parsed(request, lambda text: as_kind(strict_json(text) if text else {}, kind), data)


async def parsed(request: Request, parse: Callable[[bytes], T], data: bytes) -> T:
    """Parse a body: in a thread if it is large."""
    if len(data) <= INLINE:
        return parse(data)
    return await run_sync(parse, data, limiter=request.app.state.parsers)


def as_kind(data: Any, kind: type[T]) -> T:
    """Plain data as `kind`. Raises Refused (422 E_BODY_FIELD)."""
    try:
        return msgspec.convert(data, kind, strict=True)
    except msgspec.ValidationError as error:
        raise Refused(422, "E_BODY_FIELD", str(error)) from None


def media_type(request: Request) -> str:
    """The media type of the body, in lower case and without options; "" without a Content-Type."""
    return request.headers.get("content-type", "").split(";")[0].strip().lower()


async def fields_of(request: Request, limit: int = MAX_FORM, most: int = MAX_FIELDS) -> FormData:
    """A form without a file, of `limit` bytes and `most` fields.

    Raises Refused: 400 E_BODY, 413 E_BODY_SIZE, 408 E_BODY_TIME.
    """
    data = await whole_body(request, limit, request.app.state.settings.body_seconds)
    return await parsed(request, lambda text: _fields(text, most), data)


def _fields(data: bytes, most: int) -> FormData:
    try:
        text = data.decode("utf-8", "replace")
        pairs: list[tuple[str, Any]] = [*parse_qsl(text, keep_blank_values=True, max_num_fields=most)]
    except ValueError:
        raise Refused(400, "E_BODY", "the form has too many fields", allowed=f"{most} fields") from None
    return FormData(pairs)


async def whole_body(request: Request, limit: int, seconds: float) -> bytes:
    """A small body. Raises Refused: 413 E_BODY_SIZE (before reading, if Content-Length tells), 408 E_BODY_TIME."""
    declared_size(request, limit)
    data = bytearray()
    try:
        with anyio.fail_after(seconds):
            async for chunk in request.stream():
                data += chunk
                if len(data) > limit:
                    raise too_large(limit)
    except TimeoutError:
        raise Refused(408, "E_BODY_TIME", f"the body did not arrive within {seconds:g} s", headers=_CLOSE) from None
    except ClientDisconnect:
        raise Refused(400, "E_BODY", "the body ended early") from None
    return bytes(data)


def declared_size(request: Request, limit: int) -> int | None:
    """The Content-Length, or None. Raises Refused: 400 E_BODY, 413 E_BODY_SIZE."""
    given = request.headers.get("content-length")
    if given is None:
        return None
    if not (given.isascii() and given.isdigit()) or len(given) > 20:
        raise Refused(400, "E_BODY", "Content-Length is not a number", found=given)
    if int(given) > limit:
        raise too_large(limit)
    return int(given)


def too_large(limit: int) -> Refused:
    """413. The connection is closed, and the rest of the body is not read."""
    return Refused(413, "E_BODY_SIZE", "the body is too large", allowed=f"{limit} bytes", headers=_CLOSE)


_CLOSE = {"Connection": "close"}


async def chunks_of(request: Request, limit: int, idle: float) -> AsyncGenerator[bytes, None]:
    """A large body as a stream, while the disk has room for it.

    Raises Refused: 413 E_BODY_SIZE, 507 E_DISK_FULL, 408 E_BODY_TIME if no byte arrives for `idle` seconds, or if the
    average speed is below `SLOWEST`.
    """
    room, received, checked = await _room(request), 0, 0
    if room < (declared_size(request, limit) or 0):
        raise _no_room()
    began = anyio.current_time()
    stream = aiter(request.stream())
    while True:
        try:
            with anyio.fail_after(idle):
                chunk = await anext(stream, None)
        except TimeoutError:
            raise Refused(408, "E_BODY_TIME", f"no byte arrived for {idle:g} s", headers=_CLOSE) from None
        except ClientDisconnect:
            raise Refused(400, "E_BODY", "the upload ended early") from None
        if chunk is None:
            yield b""  # form parsers of older Starlette versions need it to end their last field
            return
        received += len(chunk)
        if received > limit:
            raise too_large(limit)
        if received - checked > DISK_CHECK:  # others write to the disk, too
            room, checked = received + await _room(request), received
        if received > room:
            raise _no_room()
        if anyio.current_time() - began > idle + received / SLOWEST:
            allowed = f"{SLOWEST} bytes a second"
            raise Refused(408, "E_BODY_TIME", "the body arrives too slowly", allowed=allowed, headers=_CLOSE)
        if chunk:
            yield chunk


async def _room(request: Request) -> int:
    """Free bytes of the disk, without those that the setting `keep_free` reserves for runs."""
    folder = request.app.state.engine.store.files.folder
    free: int = (await run_sync(shutil.disk_usage, folder)).free
    keep: int = request.app.state.settings.keep_free
    return max(0, free - keep)


def _no_room() -> Refused:
    return Refused(507, "E_DISK_FULL", "the disk of the server has no room for this file", headers=_CLOSE)


# ---- JSON


def strict_json(data: bytes) -> Any:
    """JSON as in RFC 8259, with texts that every database can keep.

    Raises Refused (400): E_JSON_SYNTAX, E_JSON_DEPTH, E_JSON_DUPLICATE, E_JSON_NUMBER, E_TEXT_UNICODE,
    E_TEXT_CONTROL.
    """
    _check_depth(data)
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_no_number,
            parse_int=_integer,
            parse_float=_float,
        )
    except UnicodeDecodeError:
        raise Refused(400, "E_TEXT_UNICODE", "the body is not UTF-8") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise Refused(400, "E_JSON_SYNTAX", f"the body is not JSON: {error.msg} at {place}") from None
    _check_texts(value)
    return value


def _check_depth(data: bytes) -> None:
    depth = 0
    for token in _TOKENS.finditer(data):
        mark = token.group()[:1]
        if mark in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise Refused(400, "E_JSON_DEPTH", "the body is nested too deeply", allowed=f"{MAX_DEPTH} levels")
        elif mark in b"]}":
            depth -= 1


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise Refused(400, "E_JSON_DUPLICATE", "a key occurs twice in one object", found=name)
        found[name] = value
    return found


def _no_number(word: str) -> NoReturn:
    raise Refused(400, "E_JSON_NUMBER", "this is not a JSON number", found=word)


def _integer(digits: str) -> int:
    value = int(digits) if len(digits) <= MAX_DIGITS else None
    if value is None or not -(2**63) <= value < 2**64:
        raise Refused(400, "E_JSON_NUMBER", "this integer does not fit in 64 bits", found=digits)
    return value


def _float(digits: str) -> float:
    if len(digits) > MAX_FLOAT:
        raise Refused(400, "E_JSON_NUMBER", "this number has too many digits", allowed=f"{MAX_FLOAT} characters")
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise Refused(400, "E_JSON_NUMBER", "this number is too large", found=digits)
    return value


def _check_texts(value: Any) -> None:
    left = [value]
    while left:
        part = left.pop()
        if isinstance(part, str):
            check_text(part)
        elif isinstance(part, list):
            left.extend(part)
        elif isinstance(part, dict):
            left.extend(part)
            left.extend(part.values())


def check_text(text: str, *, limit: int | None = None, name: str = "a text") -> str:
    """Text that every database can keep. Raises Refused: 400 E_TEXT_UNICODE, E_TEXT_CONTROL; 422 E_PARAM_RANGE."""
    if limit is not None and len(text) > limit:
        raise Refused(422, "E_PARAM_RANGE", f"{name} is too long", allowed=f"{limit} characters")
    if _SURROGATE.search(text):
        raise Refused(400, "E_TEXT_UNICODE", "a text holds half of a surrogate pair")
    if _CONTROL.search(text):
        raise Refused(400, "E_TEXT_CONTROL", "a text holds a control character", found=text)
    return text
