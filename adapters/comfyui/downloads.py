"""Files of a server as streams, with limits of size and time; their media type is read from their bytes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio
import httpx

from towpath.errors import ServerFailed
from towpath.media import HEAD, extension, media_of_bytes, media_of_name

from .concurrency import map_all
from .connection import CHUNK, Connection
from .endings import Ended, Ending
from .file_names import display_name, folder_type, subfolder
from .replies import OutputFile

AT_ONCE = 4  # downloads of one prompt at the same time
MAX_FILE = 64 * 1024**3  # bytes
DOWNLOAD_SECONDS = 3600.0
RESUMES = 3  # connections in a row that break without a new byte before a download fails
_MEDIA = ("image", "video", "audio", "model")
_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Limits:
    """`size` in bytes and `seconds` for one file, retries included."""

    size: int = MAX_FILE
    seconds: float = DOWNLOAD_SECONDS


@dataclass(frozen=True, slots=True)
class Download:
    """A file that is being downloaded: its name for people, its media type, and its bytes, to be read once.

    If the server's name is not fit for people, `filename` is `node-<node id>` and `refused_name` is the code that
    says why.
    """

    filename: str
    media_type: str
    chunks: AsyncIterator[bytes]
    refused_name: str = ""


Keep = Callable[[OutputFile, Download], Awaitable[T]]


async def bring_all(
    connection: Connection,
    files: Sequence[OutputFile],
    keep: Keep[T],
    limits: Limits,
    *,
    failed: Callable[[OutputFile, ServerFailed], T] | None = None,
) -> list[T]:
    """Download files, 4 at a time, and give each to `keep`; returns its results in the order of `files`.

    `failed` returns the result for a file that cannot be downloaded. Without it the first error cancels the other
    downloads.

    Raises:
        ServerFailed: as `download`. Whatever `keep` and `failed` raise.
    """

    async def bring(file: OutputFile) -> T:
        try:
            async with download(connection, file, limits) as one:
                return await keep(file, one)
        except ServerFailed as error:
            if failed is None:
                raise
            return failed(file, error)

    return await map_all(bring, files, AT_ONCE)


@asynccontextmanager
async def download(connection: Connection, file: OutputFile, limits: Limits) -> AsyncGenerator[Download, None]:
    """Open a file of a server. Its connection is closed with the context.

    Raises:
        ServerFailed: E_DOWNLOAD_INCOMPLETE, E_DOWNLOAD_UNVERIFIED, E_DOWNLOAD_PROTOCOL, E_DOWNLOAD_TOO_LARGE,
            E_DOWNLOAD_TIMEOUT, E_DOWNLOAD_ENCODING, E_OUTPUT_MISSING, E_OUTPUT_REFUSED, E_ARTIFACT_EMPTY,
            E_ARTIFACT_TYPE, E_SUBFOLDER, E_FOLDER_TYPE, E_NAME_UNICODE, E_SERVER_…; also while the chunks are read.
    """
    if file.text is not None:
        yield Download(f"node-{file.node}.txt", "text/plain", _text(file.text))
        return
    query = _query(file)
    name, refused = shown_name(file)
    async with aclosing(_body(connection, query, limits)) as body:
        head, chunks = await _peeked(body)
        media = content_type(name, head)
        yield Download(f"{name}{extension(media)}" if refused else name, media, chunks, refused)


async def _text(text: str) -> AsyncIterator[bytes]:
    yield text.encode("utf-8", "replace")


def _query(file: OutputFile) -> dict[str, str]:
    """The query of `/view` for a file. The server's words are only ever sent back to that server.

    Raises ServerFailed: E_SUBFOLDER, E_FOLDER_TYPE, E_NAME_TYPE, E_NAME_UNICODE.
    """
    if not isinstance(file.filename, str) or not file.filename:
        raise ServerFailed("E_NAME_TYPE", f"node {file.node} names no file", found=file.filename, retryable=False)
    try:
        file.filename.encode()
    except UnicodeEncodeError:
        message = f"the name of a file of node {file.node} is not valid Unicode"
        raise ServerFailed("E_NAME_UNICODE", message, retryable=False) from None
    return {"filename": file.filename, "subfolder": subfolder(file.subfolder), "type": folder_type(file.folder)}


def shown_name(file: OutputFile) -> tuple[str, str]:
    """The name of a file for people, and the code that says why the server's name was refused, "" if it was not."""
    try:
        return display_name(file.filename), ""
    except ServerFailed as refused:
        return f"node-{file.node}", refused.code


def content_type(name: str, head: bytes) -> str:
    """The media type of a file, from its bytes, or from its name if the bytes do not show it.

    Raises ServerFailed: E_ARTIFACT_EMPTY, E_ARTIFACT_TYPE for a web page or text in place of a picture.
    """
    expected, found = media_of_name(name), media_of_bytes(head)
    major = expected.partition("/")[0]
    if not head and major in _MEDIA:
        raise ServerFailed("E_ARTIFACT_EMPTY", f"{name} has no bytes")
    if major not in _MEDIA or found == "application/octet-stream":
        return expected if expected != "application/octet-stream" else found
    if found.startswith("text/") or found in ("application/json", "application/xml"):
        if expected == "image/svg+xml" or (major == "model" and not _is_page(head)):
            return expected
        raise ServerFailed("E_ARTIFACT_TYPE", f"{name} holds {found}, not {expected}")
    same = found.partition("/")[0] == major or {major, found.partition("/")[0]} <= {"audio", "video"}
    return expected if same else found


def _is_page(head: bytes) -> bool:
    start = head.lstrip()[:64].lower()
    return start.startswith((b"<!doctype html", b"<html", b"<head", b"<body"))


async def _peeked(body: AsyncGenerator[bytes, None]) -> tuple[bytes, AsyncIterator[bytes]]:
    """The first bytes of a stream, and the complete stream."""
    head: list[bytes] = []
    size = 0
    async for chunk in body:
        head.append(chunk)
        size += len(chunk)
        if size >= HEAD:
            break
    first = b"".join(head)

    async def whole() -> AsyncIterator[bytes]:
        if first:
            yield first
        async for chunk in body:
            yield chunk

    return first[:HEAD], whole()


async def _body(connection: Connection, query: dict[str, str], limits: Limits) -> AsyncGenerator[bytes, None]:
    """The bytes of a file. A broken connection is resumed. If no length was sent, the end is verified."""
    got, ending, digest = _Progress(connection, query, limits), Ending(), hashlib.sha256()
    while not got.complete:
        before = got.size
        try:
            async with aclosing(got.part()) as part:
                async for chunk in part:
                    if not got.length_known:
                        ending.see(chunk)
                        digest.update(chunk)
                    yield chunk
        except ServerFailed as error:
            got.broken = 1 if got.size > before else got.broken + 1
            if not got.may_resume(error):
                raise got.as_download_error(error) from None
    if not got.length_known:
        verdict = ending.verdict()
        if verdict is Ended.CUT:
            raise got.unverified("it ends in the middle of the file")
        if verdict is Ended.UNKNOWN and not got.end_known:
            await got.compare(digest.digest())


class _Progress:
    """How much of a file has been downloaded, and how the server described it."""

    def __init__(self, connection: Connection, query: dict[str, str], limits: Limits) -> None:
        self._connection, self._query, self._limits = connection, query, limits
        self._last_bytes = anyio.current_time()
        self._until = self._last_bytes + limits.seconds
        self.size = 0
        self.broken = 0
        self.complete = False
        self._whole: int | None = None
        self.end_known = False  # a chunked body says itself where it ends
        self._tag = ""

    @property
    def length_known(self) -> bool:
        """Whether the server sent the length of the file."""
        return self._whole is not None

    async def compare(self, digest: bytes) -> None:
        """Ask for the bytes after the last one: the end of a connection does not prove the end of a file.

        A server that supports ranges answers that there are none, or sends them; another one sends the file again.
        """
        async with AsyncExitStack() as stack:
            try:
                response = await self._in_time(self._opened(stack))
                status = response.status_code
                if status == 416:
                    total = response.headers.get("content-range", "").removeprefix("bytes */")
                    same = total == str(self.size)
                else:
                    same = status == 200 and await self._in_time(self._same(response, digest))
            except httpx.TransportError:
                same = False
        if not same:
            raise self.unverified("a second request found another end")

    async def _same(self, response: httpx.Response, digest: bytes) -> bool:
        again, size = hashlib.sha256(), 0
        async for chunk in response.aiter_raw():
            again.update(chunk)
            size += len(chunk)
            if size > self.size:
                return False
        return again.digest() == digest

    def unverified(self, why: str) -> ServerFailed:
        """The error for a file without a length that seems to be incomplete."""
        message = f"the connection ended after {self.size} bytes, no length was sent, and {why}"
        return self._error(
            "E_DOWNLOAD_UNVERIFIED",
            message,
            cure="let the server, or the proxy in front of it, send Content-Length",
            retryable=True,
        )

    async def part(self) -> AsyncGenerator[bytes, None]:
        """The bytes of one connection."""
        async with AsyncExitStack() as stack:
            response = await self._in_time(self._opened(stack))
            self._check(response)
            async for chunk in self._gathered(response.aiter_raw()):
                yield chunk
        if self._whole is not None and self.size < self._whole:
            raise self._error("E_DOWNLOAD_INCOMPLETE", f"received {self.size} of {self._whole} bytes")
        self.complete = True

    async def _opened(self, stack: AsyncExitStack) -> httpx.Response:
        # The connection is not used again: bytes that a server sends after the file must not answer another request.
        headers = {"Connection": "close"}
        if self.size:
            headers["Range"] = f"bytes={self.size}-"
            if self._tag and not self._tag.startswith("W/"):
                headers["If-Range"] = self._tag
        await self._connection.backoff.wait()
        opened = self._connection.open("GET", "/view", params=self._query, headers=headers)
        return await stack.enter_async_context(opened)

    async def _gathered(self, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """Larger chunks. If the connection breaks, the bytes before that are yielded first."""
        ended = False
        while not ended:
            held: list[bytes] = []
            broke = None
            try:
                ended = await self._in_time(self._fill(held, chunks))
            except (httpx.TransportError, ServerFailed) as error:
                broke = error
            if held:
                self.size += sum(map(len, held))
                self._last_bytes = anyio.current_time()
                yield b"".join(held)
            if broke is not None:
                raise broke

    async def _fill(self, held: list[bytes], chunks: AsyncIterator[bytes]) -> bool:
        """Collect what comes until it is enough for one chunk. True at the end of the connection."""
        size = 0
        async for chunk in chunks:
            size += len(chunk)
            if self.size + size > self._limits.size:
                raise self._too_large()
            held.append(chunk)
            if size >= CHUNK:
                return False
        return True

    async def _in_time(self, coming: Awaitable[T]) -> T:
        """The result, if it arrives before the deadline, which is for the complete file and not for one read."""
        with anyio.move_on_after(max(self._until - anyio.current_time(), 0)) as deadline:
            return await coming
        assert deadline.cancelled_caught
        raise self._error("E_DOWNLOAD_TIMEOUT", f"not complete after {self._limits.seconds:g} s", retryable=True)

    def _check(self, response: httpx.Response) -> None:
        status = response.status_code
        if status == 404:
            raise self._error("E_OUTPUT_MISSING", "the server does not have the file (any more)")
        if status == 416 or (self.size and status == 200):
            raise self._changed()
        if status == 400:
            raise self._error("E_OUTPUT_REFUSED", "the server refuses to send a file that it named", retryable=False)
        if status not in (200, 206):
            raise self._connection.refused(status, b"")
        encoding = response.headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":
            raise self._error("E_DOWNLOAD_ENCODING", "the bytes are encoded", found=encoding, retryable=False)
        whole = self._length(response)
        if self.size and whole != self._whole:
            raise self._changed()
        self._whole = whole
        self.end_known = "chunked" in response.headers.get("transfer-encoding", "").lower()
        if whole is not None and whole > self._limits.size:
            raise self._too_large()
        self._tag = response.headers.get("etag", "")

    def _length(self, response: httpx.Response) -> int | None:
        """The length of the complete file in this response's headers. Raises ServerFailed for another range."""
        length = response.headers.get("content-length")
        size = self.size + int(length) if length is not None else None
        if response.status_code == 200:
            return size
        found = _RANGE.fullmatch(response.headers.get("content-range", ""))
        total = None if found is None or found[3] == "*" else int(found[3])
        if found is None or int(found[1]) != self.size or (total is not None and size not in (None, total)):
            given = response.headers.get("content-range", "")
            raise self._error("E_DOWNLOAD_PROTOCOL", "the server sent a range that was not requested", found=given)
        if total is None and not self.size:
            return None  # a range of a file whose size the server does not know
        return size if total is None else total

    def may_resume(self, error: ServerFailed) -> bool:
        """Whether the download continues with a new connection after this error."""
        now = anyio.current_time()
        broke = error.code in ("E_SERVER_LOST", "E_REPLY_PROTOCOL", "E_SERVER_TIMEOUT", "E_DOWNLOAD_INCOMPLETE")
        resumable = self.size == 0 or self._whole is not None
        busy = error.code in ("E_SERVER_BUSY", "E_SERVER_UNREACHABLE")
        if busy:
            self.broken -= 1  # `rest` paces these; timeouts and the deadline end them
            return resumable and now < min(self._until, self._last_bytes + self._connection.retry_seconds(error))
        return broke and resumable and self.broken < RESUMES and now < self._until

    def as_download_error(self, error: ServerFailed) -> ServerFailed:
        """The error of a connection as an error of the download."""
        if error.code == "E_SERVER_LOST":
            return self._error("E_DOWNLOAD_INCOMPLETE", f"the connection broke after {self.size} bytes")
        if error.code == "E_REPLY_PROTOCOL":
            return self._error("E_DOWNLOAD_PROTOCOL", error.problem.message)
        return error

    def _changed(self) -> ServerFailed:
        return self._error("E_DOWNLOAD_INCOMPLETE", "the file changed, or the server cannot resume it")

    def _too_large(self) -> ServerFailed:
        limit = f"{self._limits.size} bytes"
        return self._error("E_DOWNLOAD_TOO_LARGE", "the file is too large", allowed=limit, retryable=False)

    def _error(self, code: str, message: str, **more: Any) -> ServerFailed:
        return self._connection.error(code, f"{message}: {self._query['filename'][:80]!r}", **more)
