"""Files on a disk that is not trusted: opened without following links, and with every error reported.

`blobs.py` uses these parts: reading with a check, writing with a hash, and the errors that users see for an `OSError`.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
import secrets
import stat
import threading
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self, TypeVar

import aiofiles
from anyio import CancelScope, from_thread
from anyio.lowlevel import checkpoint_if_cancelled
from anyio.to_thread import run_sync

from towpath.errors import StoreFailed, ValueRefused

if TYPE_CHECKING:
    from aiofiles.threadpool.binary import AsyncFileIO

T = TypeVar("T")

CHUNK = 1 << 20  # bytes; for smaller chunks the thread hop (about 120 us) costs too much
FICLONE = 0x40049409  # ioctl of Linux: share the data of another file (copy on write)
# NONBLOCK: opening a FIFO in the place of a blob must not block. With NOFOLLOW, a link cannot lead out of the store.
READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
CREATE = os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
_OURS = frozenset({errno.EIO, errno.EMFILE, errno.ENFILE})  # errors of the machine, not of the user's path


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes that are stored durably: their SHA-256 in lowercase hex, and their number."""

    digest: str
    size: int


def disk_error(error: OSError, path: Path) -> StoreFailed:
    """The error that a user sees for an `OSError` at `path`. It names the folder, not the file."""
    folder, reason = path.parent, error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        cure = "free space (or raise the quota or file size limit), then `towpath resume`"
        message = f"no space to write in {folder}: {reason}"
        return StoreFailed("E_DISK_FULL", message, found=f"{_free(folder)} bytes free", cure=cure)
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        cure = "make the folder writable for this user, then `towpath resume`"
        return StoreFailed("E_DISK_READONLY", f"access to {folder} is denied: {reason}", cure=cure)
    if error.errno in (errno.EMFILE, errno.ENFILE):
        cure = "raise the limit (`ulimit -n`) or run fewer steps at once"
        return StoreFailed("E_DISK_HANDLES", f"too many open files: {reason}", cure=cure, retryable=True)
    cure = "check the disk and the kernel's log, then `towpath fsck`"
    return StoreFailed("E_DISK_IO", f"the disk failed in {folder}: {reason}", cure=cure)


class Upload:
    """Cuts a stream into writes of at least 1 MiB, and counts and hashes it.

    The first MiB is held back: if nothing follows, `whole` has all bytes, and the file was never opened.
    """

    __slots__ = ("_file", "_limit", "_pending", "_seen", "_size")

    def __init__(self, file: SteadyFile, limit: int | None) -> None:
        self._file, self._limit = file, limit
        self._pending: bytes | bytearray = b""
        self._seen, self._size = hashlib.sha256(), 0

    @property
    def whole(self) -> bytes | bytearray | None:
        """All bytes so far, None after the first write."""
        return self._pending if self._size == len(self._pending) else None

    async def take(self, chunk: bytes) -> None:
        if not isinstance(chunk, (bytes, bytearray, memoryview)):
            raise ValueRefused("E_VALUE_TYPE", "a stream of bytes yielded something else", found=type(chunk))
        view = memoryview(chunk).cast("B")
        self._size += len(view)
        if self._limit is not None and self._size > self._limit:
            cure = "make the data smaller or raise the limit"
            raise StoreFailed("E_BLOB_SIZE", f"more than {self._limit} bytes", cure=cure)
        if self._size <= CHUNK and not self._pending and isinstance(chunk, bytes):
            self._pending = chunk  # most small files come in one piece: it is not copied
            return
        if isinstance(self._pending, bytes):
            self._pending = bytearray(self._pending)
        if self._size <= CHUNK:
            self._pending += view
            return
        if self._pending:
            room = CHUNK - len(self._pending)
            self._pending += view[:room]
            view = view[room:]
            if len(self._pending) == CHUNK:
                full, self._pending = self._pending, bytearray()
                await self._write(memoryview(full))
        if len(view) >= CHUNK:
            await self._write(view)
        else:
            self._pending += view

    async def finish(self) -> Blob:
        if self._pending:
            await self._write(memoryview(self._pending))
        return Blob(self._seen.hexdigest(), self._size)

    async def _write(self, data: memoryview) -> None:
        await self._file.opened()
        await self._file.write(data, run_sync(self._seen.update, data))


class SteadyFile:
    """A file opened with aiofiles. Every call runs to its end, also if its task is cancelled.

    If a call were cancelled, its thread would continue: it could still create the temp file that was just removed, or
    use a descriptor that was just closed. Cancellation takes effect between the calls.
    """

    def __init__(self, path: Path, opener: Callable[[], int], mode: Literal["rb", "wb"] = "wb") -> None:
        self._path, self._opener = path, opener
        self._mode: Literal["rb", "wb"] = mode
        self._file: AsyncFileIO | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._file is not None:
            with disk_errors(self._path):
                await to_end(self._file.close())

    async def opened(self) -> None:
        """Open the file if it is not. Leaving its `async with` closes it."""
        if self._file is None:
            await to_end(self._open())

    async def _open(self) -> None:
        with disk_errors(self._path):
            self._file = await aiofiles.open(self._path, self._mode, buffering=0, opener=lambda *_: self._opener())

    def fileno(self) -> int:
        """The descriptor of the file, which must be open."""
        assert self._file is not None
        return self._file.fileno()

    async def read(self, size: int, *beside: Awaitable[None]) -> bytes:
        """At most `size` bytes, b"" at the end. `beside` runs at the same time, in another thread."""
        assert self._file is not None
        with disk_errors(self._path):
            data, *_ = await to_end(asyncio.gather(self._file.read(size), *beside))
        await checkpoint_if_cancelled()
        assert isinstance(data, bytes)
        return data

    async def write(self, data: memoryview, *beside: Awaitable[None]) -> None:
        """Write all of `data`. `beside` runs at the same time, in another thread."""
        with disk_errors(self._path):
            await to_end(asyncio.gather(self._write(data), *beside))
        await checkpoint_if_cancelled()

    async def _write(self, data: memoryview) -> None:
        assert self._file is not None
        while data:
            data = data[await self._file.write(data) :]


async def to_end(work: Awaitable[T]) -> T:
    """The result of `work`, which is never cancelled. A cancellation is raised when `work` has ended."""
    task, cancelled = asyncio.ensure_future(work), None
    with CancelScope(shield=True):  # for anyio's cancel scopes; the loop is for `task.cancel()`
        while not task.done():
            try:
                await asyncio.wait((task,))
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is not None:
        task.exception()  # marks the exception as retrieved; the cancellation is raised instead
        raise cancelled
    return task.result()


async def source_chunks(source: Path) -> AsyncGenerator[bytes, None]:
    """A user's file in chunks. Raises `E_VALUE_FILE` if its size or time changes meanwhile."""
    async with SteadyFile(source, lambda: _open_source(source), "rb") as file:
        await file.opened()
        before, total = os.fstat(file.fileno()), 0
        while chunk := await file.read(CHUNK):
            total += len(chunk)
            if total > before.st_size:
                break  # the file grows, perhaps faster than it is read
            yield chunk
        _refuse_changed(source, file.fileno(), before, total)


def whole_file(source: Path, most: int) -> bytes | None:
    """All bytes of a user's file, None if there are more than `most`. Raises as `source_chunks`. Blocks."""
    with disk_errors(source), os.fdopen(_open_source(source), "rb") as file:
        before = os.fstat(file.fileno())
        if before.st_size > most:
            return None
        data = file.read(before.st_size + 1)
        _refuse_changed(source, file.fileno(), before, len(data))
    return data


def _refuse_changed(source: Path, fd: int, before: os.stat_result, total: int) -> None:
    if total != before.st_size or os.fstat(fd).st_mtime_ns != before.st_mtime_ns:
        raise refused(source, "changed while it was read", "return it when it is complete")


def _open_source(source: Path) -> int:
    if "\0" in str(source):  # Python refuses it before the file is opened
        raise refused(source, "is not a valid path")
    try:
        fd = os.open(source, READ)
    except OSError as error:
        if error.errno in _OURS:
            raise
        raise refused(source, f"cannot be read: {error.strerror}") from error
    kind = stat.S_IFMT(os.fstat(fd).st_mode)
    if kind != stat.S_IFREG:
        os.close(fd)
        if kind == stat.S_IFDIR:
            raise refused(
                source, "is a folder", "give its files, `list(folder.iterdir())`, or its path as text (`str`)"
            )
        raise refused(source, f"is {_KINDS.get(kind, 'a device')}")
    return fd


def open_blob(path: Path, digest: str, size: int | None = None) -> int:
    """A descriptor of the blob. It is a regular file and not a link, of `size` bytes if that is given."""
    try:
        fd = os.open(path, READ | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        cure = "bring the file back from a copy, or run the step that made it again"
        raise StoreFailed("E_BLOB_MISSING", f"blob {digest} is not in the store", cure=cure) from None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise corrupt(digest, "a link or a socket in its place") from None
        raise
    found = os.fstat(fd)
    kind = stat.S_IFMT(found.st_mode)
    if kind == stat.S_IFREG and size in (None, found.st_size):
        return fd
    os.close(fd)
    other = f"{found.st_size} bytes instead of {size}"
    raise corrupt(digest, other if kind == stat.S_IFREG else f"{_KINDS.get(kind, 'a device')} in its place")


def checked(fd: int, path: Path, digest: str) -> Iterator[memoryview]:
    """The bytes behind `fd` in pieces, each valid until the next one. Raises at the end if the digest differs."""
    seen, buffer, total = hashlib.sha256(), bytearray(CHUNK), 0
    while True:
        _stop_if_cancelled()
        with disk_errors(path):
            count = os.readv(fd, [buffer])
        if not count:
            break
        piece = memoryview(buffer)[:count]
        seen.update(piece)
        total += count
        yield piece
    if seen.hexdigest() != digest:
        raise corrupt(digest, f"{total} bytes of other content")


def _stop_if_cancelled() -> None:
    with suppress(RuntimeError):  # a thread that no task waits for
        from_thread.check_cancelled()


def reflinked(source: int, target: int) -> bool:
    try:
        fcntl.ioctl(target, FICLONE, source)
    except OSError:
        return False  # another file system, or one without this feature
    return True


def write_whole(data: bytes, target: Path, *, durable: bool) -> None:
    """Write `data` to `target`, completely or not at all. Replaces a file there, and makes missing folders."""
    temp = target.parent / f".towpath-{secrets.token_hex(8)}.tmp"
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with os.fdopen(os.open(temp, os.O_WRONLY | CREATE, 0o666), "wb", buffering=0) as file:
                rest = memoryview(data)
                while rest:
                    rest = rest[file.write(rest) or 0 :]
                if durable:
                    os.fsync(file.fileno())
            os.replace(temp, target)
        except BaseException:
            remove(temp)
            raise


async def write_stream(chunks: AsyncIterable[bytes], target: Path) -> Blob:
    """Write a stream to `target`, complete or not at all; digest and size of its bytes.

    Errors of `chunks` are raised as they are, and leave no file. Raises StoreFailed: E_DISK_….
    """
    temp = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        async with SteadyFile(temp, lambda: os.open(temp, os.O_WRONLY | CREATE, 0o666)) as file:
            upload = Upload(file, None)
            async for chunk in chunks:
                await upload.take(chunk)
            blob = await upload.finish()
            await file.opened()  # also for a stream without bytes
            await to_end(run_sync(_publish, file.fileno(), temp, target))
    except BaseException:
        await to_end(run_sync(remove, temp))
        raise
    return blob


def _publish(fd: int, temp: Path, target: Path) -> None:
    with disk_errors(target):
        os.fsync(fd)
        os.replace(temp, target)
        fsync_folder(target.parent)


class FolderSyncs:
    """fsync of folders for many threads: one call answers all who asked for the folder before it began.

    A call that began before a thread renamed its file proves nothing for that file: the thread waits for the next one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._coming: dict[Path, _Round] = {}  # for each folder the round that has not begun
        self._running: dict[Path, threading.Lock] = {}

    def sync(self, folder: Path) -> None:
        """Return when the entries that are in `folder` now are durable. Raises the OSError of the call."""
        with self._lock:
            one = self._coming.setdefault(folder, _Round())
            running = self._running.setdefault(folder, threading.Lock())
        with running:
            if not one.over:
                self._make(folder, one)
        if one.error is not None:
            raise OSError(one.error.errno, one.error.strerror)

    def _make(self, folder: Path, one: _Round) -> None:
        with self._lock:
            del self._coming[folder]  # who asks from now on may have renamed too late for this call
        try:
            fsync_folder(folder)
            one.error = None
        except OSError as error:
            one.error = error
        finally:
            one.over = True


class _Round:
    """One fsync of a folder: not begun, running or over; how it failed."""

    __slots__ = ("error", "over")

    def __init__(self) -> None:
        self.over = False
        self.error: OSError | None = OSError(errno.EIO, "the folder was not synced")  # until it is


def fsync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove(path: Path) -> bool:
    with disk_errors(path):
        try:
            path.unlink()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True


def size_of(path: Path) -> int | None:
    with disk_errors(path):
        try:
            found = path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None


def _free(folder: Path) -> int:
    for place in (folder, *folder.parents):
        with suppress(OSError):
            status = os.statvfs(place)
            return status.f_bavail * status.f_frsize
    return 0


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise disk_error(error, path) from error


def corrupt(digest: str, found: str) -> StoreFailed:
    cure = "`towpath fsck` lists what is damaged; run the step that made it again"
    return StoreFailed("E_BLOB_CORRUPT", f"blob {digest} is damaged", found=found, cure=cure)


def refused(source: Path, why: str, cure: str = "give a regular file that can be read") -> ValueRefused:
    return ValueRefused("E_VALUE_FILE", f"{str(source)!r} {why}", cure=cure)
