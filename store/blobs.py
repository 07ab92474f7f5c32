"""Blobs on disk: bytes kept once, under their SHA-256, at `<root>/ab/cd/<sha256>`.

Writing is: temp file in `<root>/tmp`, hashed while written, mode 0444, fsync, rename to the digest, fsync of
the folder. Only then does a put return, and only then may a row name the digest. A crash leaves at worst a
temp file or a blob that no row names. Reading never trusts the disk: the digest is computed again.

An `OSError` of the store's own files leaves as `StoreFailed` (`disk_error`). An error of the caller's
iterator passes through untouched: it is not the disk's.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
import re
import secrets
import stat
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
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

CHUNK = 1 << 20  # bytes; a thread hop costs about 120 us, and 1 MiB is where it stops to matter
FICLONE = 0x40049409  # ioctl of Linux: share the extents of another file, copied on write
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
# NONBLOCK: a FIFO put in a blob's place must not hang us. NOFOLLOW: a link must not lead us out of the store.
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
_CREATE = os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
_OURS = frozenset({errno.EIO, errno.EMFILE, errno.ENFILE})  # trouble of the machine, not of the user's path


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes that are safely kept: their SHA-256 in lowercase hex, and how many they are."""

    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file below the root. `digest` is "" unless `kind` is blob; `mtime` is UTC microseconds since 1970.

    `blob` is a regular file in the right place (its content is not checked), `temp` one that a put is writing
    or a crash left behind, `foreign` everything else: links, devices, files that towpath did not put there.
    """

    path: Path
    kind: Literal["blob", "temp", "foreign"]
    digest: str
    size: int
    mtime: int


def disk_error(error: OSError, path: Path) -> StoreFailed:
    """The error that a user sees for `error`, which happened at `path`; it names the folder, not the file."""
    folder, reason = path.parent, error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        cure = "free space (or raise the quota or file size limit), then `towpath resume`"
        message = f"no space to write in {folder}: {reason}"
        return StoreFailed("E_DISK_FULL", message, found=f"{_free(folder)} bytes free", cure=cure)
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        cure = "make the folder writable for this user, then `towpath resume`"
        return StoreFailed("E_DISK_READONLY", f"not allowed in {folder}: {reason}", cure=cure)
    if error.errno in (errno.EMFILE, errno.ENFILE):
        cure = "raise the limit (`ulimit -n`) or run fewer steps at once"
        return StoreFailed("E_DISK_HANDLES", f"too many open files: {reason}", cure=cure, retryable=True)
    cure = "check the disk and the kernel's log, then `towpath fsck`"
    return StoreFailed("E_DISK_IO", f"the disk failed in {folder}: {reason}", cure=cure)


class FileBlobs:
    """The blob store on a local disk. Any number of tasks and processes may use one root at once.

    `durable=False` leaves out every fsync: fast, and a power cut may take or empty recent blobs. Methods
    raise `StoreFailed` for trouble with the disk, `ValueError` for a digest that is not 64 lowercase hex.
    """

    def __init__(self, root: Path, *, durable: bool = True) -> None:
        self.root = Path(os.path.abspath(root))
        self.durable = durable
        self._anchored: set[Path] = set()  # folders whose own entry this process has synced
        self._unsure: set[str] = (
            set()
        )  # digests that a failed fsync makes doubtful: written again, not trusted

    def path(self, digest: str) -> Path:
        """Where the bytes of `digest` lie, whether or not they are there. Never hand it out for writing."""
        if not _DIGEST.fullmatch(digest):
            raise ValueError(f"not a SHA-256 in lowercase hex: {digest[:80]!r}")
        return self.root / digest[:2] / digest[2:4] / digest

    async def put(self, data: bytes) -> Blob:
        """Keep bytes that are in memory; one thread hop for everything."""
        return await run_sync(self._put, data)

    async def put_stream(self, chunks: AsyncIterable[bytes], *, limit: int | None = None) -> Blob:
        """Keep a stream, never whole in memory. More than `limit` bytes: `E_BLOB_SIZE`.

        An error or a cancellation leaves nothing behind. Errors of `chunks` pass through.
        """
        temp = self._temp()
        try:
            async with _File(temp, lambda: self._create(temp)) as file:
                upload = _Upload(file, limit)
                async for chunk in chunks:
                    await upload.take(chunk)
                blob = await upload.finish()
                await _to_end(run_sync(self._settle, file.fileno(), temp, blob))
        except BaseException:
            await _to_end(run_sync(_remove, temp))
            raise
        return blob

    async def put_file(self, source: Path) -> Blob:
        """Keep a copy of a user's file, or of the file a link leads to. Anything but a regular file that
        holds still while it is read: `ValueRefused` `E_VALUE_FILE`."""
        if "\0" in str(source):  # Python refuses it before our own open is asked
            raise _refused(source, "is no path")
        async with aclosing(_source_chunks(source)) as chunks:
            return await self.put_stream(chunks)

    async def read(self, digest: str) -> bytes:
        """The bytes, whole and checked. Raises `E_BLOB_MISSING` or `E_BLOB_CORRUPT`."""
        return await run_sync(self._read, digest)

    def open(
        self, digest: str, *, size: int | None = None, chunk: int = CHUNK
    ) -> AsyncGenerator[bytes, None]:
        """The bytes in chunks of `chunk` bytes, checked at the end. Raises as `read` does.

        The last chunk is held back until the digest is known to be right, so whoever got everything got the
        right bytes, and a damaged blob is always cut short. With `size`, another size is refused at once.
        """
        assert chunk > 0, "a chunk has at least one byte"
        return self._stream(self.path(digest), digest, size, chunk)

    async def export(self, digest: str, target: Path) -> None:
        """Put a checked copy of the blob at `target`, at once or not at all; a file there is replaced.

        The copy is people's: writable, and never the same inode as the blob. Missing folders are made.
        """
        await run_sync(self._export, digest, target)

    async def verify(self, digest: str) -> None:
        """Read everything and compare. Raises `E_BLOB_MISSING` or `E_BLOB_CORRUPT`."""
        await run_sync(self._verify, digest)

    async def exists(self, digest: str) -> bool:
        """True if a regular file is in the blob's place; its content is not checked."""
        return await self.size(digest) is not None

    async def size(self, digest: str) -> int | None:
        """The size on disk in bytes, None without a regular file there; the content is not checked."""
        return await run_sync(_size, self.path(digest))

    async def delete(self, digest: str) -> bool:
        """Remove the blob; False if it was not there. A damaged blob is repaired by `delete`, then put."""
        return await run_sync(_remove, self.path(digest))

    async def scan(self) -> AsyncGenerator[FoundFile, None]:
        """Every file below the root, sorted by folder, following no links; vanishing ones left out."""
        files, folders = await run_sync(self._level, self.root)
        for file in files:
            yield file
        for folder in folders:
            for file in await run_sync(self._walk, folder):
                yield file

    # ---- below: plain functions, each called inside one worker thread

    def _put(self, data: bytes) -> Blob:
        blob = Blob(hashlib.sha256(data).hexdigest(), len(data))
        temp = self._temp()
        try:
            with _disk(self.root / "tmp"):
                if self._kept(blob):
                    return blob
                fd = self._create(temp)
                try:
                    rest = memoryview(data)
                    while rest:
                        rest = rest[os.write(fd, rest) :]
                    self._settle(fd, temp, blob)
                finally:
                    os.close(fd)
        except BaseException:
            _remove(temp)
            raise
        return blob

    def _settle(self, fd: int, temp: Path, blob: Blob) -> None:
        """Make the finished temp file the blob, unless the same content is there already."""
        target = self.path(blob.digest)
        with _disk(target):
            if self._kept(blob):
                _remove(temp)
                return
            os.fchmod(fd, 0o444)
            if self.durable:
                os.fsync(fd)  # if this fails it is not tried again: the kernel may have dropped the pages
            try:
                os.replace(temp, target)
            except FileNotFoundError:
                self._make(target.parent)
                os.replace(temp, target)
            except IsADirectoryError:
                raise _corrupt(blob.digest, "a folder in its place") from None
            self._sync_folders(blob.digest, target.parent)
            self._unsure.discard(blob.digest)

    def _kept(self, blob: Blob) -> bool:
        """True if the content is there with the right size; then it is as durable as a new one would be."""
        path = self.path(blob.digest)
        if blob.digest in self._unsure:
            return False
        try:
            fd = os.open(path, _READ | os.O_NOFOLLOW)
        except OSError:
            return False  # if something is really wrong, writing will say so
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_size != blob.size:
                return False
            # Its writer may be another process, without fsync or not yet there: our row needs our own fsync.
            self._sync_folders(blob.digest, path.parent, fd)
            with suppress(OSError):
                os.utime(fd)  # a collector's grace time starts anew: our row is not written yet
        finally:
            os.close(fd)
        return True

    def _sync_folders(self, digest: str, folder: Path, *files: int) -> None:
        """fsync `files`, the blob's folder and, once a process, the entries of the folders above it."""
        if not self.durable:
            return
        try:
            for fd in files:
                os.fsync(fd)
            _fsync_folder(folder)
            for child in (folder, folder.parent):
                if child not in self._anchored:
                    _fsync_folder(child.parent)
                    self._anchored.add(child)
        except OSError:
            self._unsure.add(digest)
            raise

    def _temp(self) -> Path:
        return self.root / "tmp" / f"{os.getpid()}-{secrets.token_hex(8)}"

    def _create(self, temp: Path) -> int:
        with _disk(temp):
            try:
                return os.open(temp, os.O_WRONLY | _CREATE, 0o600)
            except FileNotFoundError:
                self._make(temp.parent)
                return os.open(temp, os.O_WRONLY | _CREATE, 0o600)

    def _make(self, folder: Path) -> None:
        with suppress(FileExistsError):
            try:
                folder.mkdir(mode=0o700)
            except FileNotFoundError:
                self._make(folder.parent)
                folder.mkdir(mode=0o700)
            if self.durable and self.root.is_relative_to(folder):
                _fsync_folder(folder.parent)  # those below the root: `_sync_folders`

    def _read(self, digest: str) -> bytes:
        path = self.path(digest)
        with _disk(path), os.fdopen(_open_blob(path, digest), "rb", buffering=0) as file:
            data = file.read()
        if hashlib.sha256(data).hexdigest() != digest:
            raise _corrupt(digest, f"{len(data)} bytes of other content")
        return data

    def _verify(self, digest: str) -> None:
        path = self.path(digest)
        with _disk(path), os.fdopen(_open_blob(path, digest), "rb", buffering=0) as file:
            for _ in _checked(file.fileno(), path, digest):
                pass

    async def _stream(
        self, path: Path, digest: str, size: int | None, chunk: int
    ) -> AsyncGenerator[bytes, None]:
        seen, total = hashlib.sha256(), 0
        async with _File(path, lambda: _open_blob(path, digest, size), "rb") as file:
            ahead = await file.read(chunk)
            while data := ahead:
                total += len(data)
                ahead = await file.read(chunk, run_sync(seen.update, data))
                if ahead or seen.hexdigest() == digest:
                    yield data
        if seen.hexdigest() != digest:
            raise _corrupt(digest, f"{total} bytes of other content")

    def _export(self, digest: str, target: Path) -> None:
        path = self.path(digest)
        temp = target.parent / f".towpath-{secrets.token_hex(8)}.tmp"
        with _disk(target), os.fdopen(_open_blob(path, digest), "rb", buffering=0) as source:
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with os.fdopen(os.open(temp, os.O_RDWR | _CREATE, 0o666), "r+b", buffering=0) as copy:
                    if _reflinked(source.fileno(), copy.fileno()):
                        for _ in _checked(copy.fileno(), target, digest):
                            pass
                    else:
                        for piece in _checked(source.fileno(), path, digest):
                            rest = piece
                            while rest:
                                rest = rest[copy.write(rest) or 0 :]
                    if self.durable:
                        os.fsync(copy.fileno())  # without it a power cut can leave the name with no bytes
                os.replace(temp, target)
            except BaseException:
                _remove(temp)
                raise

    def _walk(self, folder: Path) -> list[FoundFile]:
        found, folders = self._level(folder)
        while folders:
            files, below = self._level(folders.pop(0))
            found += files
            folders = below + folders
        return found

    def _level(self, folder: Path) -> tuple[list[FoundFile], list[Path]]:
        files: list[FoundFile] = []
        folders: list[Path] = []
        with _disk(folder / "*"), suppress(FileNotFoundError), os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda e: e.name):
                if entry.is_dir(follow_symlinks=False):
                    folders.append(folder / entry.name)
                    continue
                with suppress(FileNotFoundError):
                    files.append(self._found(folder / entry.name, entry.stat(follow_symlinks=False)))
        return files, folders

    def _found(self, path: Path, status: os.stat_result) -> FoundFile:
        kind: Literal["blob", "temp", "foreign"] = "foreign"
        if stat.S_ISREG(status.st_mode):
            if path.parent == self.root / "tmp":
                kind = "temp"
            elif _DIGEST.fullmatch(path.name) and path == self.path(path.name):
                kind = "blob"
        digest = path.name if kind == "blob" else ""
        return FoundFile(path, kind, digest, status.st_size, status.st_mtime_ns // 1000)


class _Upload:
    """Cuts a stream into writes of at least 1 MiB, and counts and hashes it."""

    __slots__ = ("_file", "_limit", "_pending", "_seen", "_size")

    def __init__(self, file: _File, limit: int | None) -> None:
        self._file, self._limit = file, limit
        self._pending, self._seen, self._size = bytearray(), hashlib.sha256(), 0

    async def take(self, chunk: bytes) -> None:
        if not isinstance(chunk, (bytes, bytearray, memoryview)):
            raise ValueRefused("E_VALUE_TYPE", "a stream of bytes gave something else", found=type(chunk))
        view = memoryview(chunk).cast("B")
        self._size += len(view)
        if self._limit is not None and self._size > self._limit:
            cure = "make the data smaller or raise the limit"
            raise StoreFailed("E_BLOB_SIZE", f"more than {self._limit} bytes", cure=cure)
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
        await self._file.write(data, run_sync(self._seen.update, data))


class _File:
    """A file opened with aiofiles whose every call runs to its end, whatever is cancelled meanwhile.

    A call that is given up leaves its thread at work: it would still create the temp file that was just
    removed, or use a descriptor that was just closed. Cancellation takes effect between the calls.
    """

    def __init__(self, path: Path, opener: Callable[[], int], mode: Literal["rb", "wb"] = "wb") -> None:
        self._path, self._opener, self._mode = path, opener, mode
        self._file: AsyncFileIO | None = None

    async def __aenter__(self) -> Self:
        try:
            await _to_end(self._open())
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._file is not None:
            with _disk(self._path):
                await _to_end(self._file.close())

    async def _open(self) -> None:
        with _disk(self._path):
            self._file = await aiofiles.open(
                self._path, self._mode, buffering=0, opener=lambda *_: self._opener()
            )

    def fileno(self) -> int:
        assert self._file is not None
        return self._file.fileno()

    async def read(self, size: int, *beside: Awaitable[None]) -> bytes:
        """At most `size` bytes, b"" at the end; `beside` is done at the same time, in another thread."""
        assert self._file is not None
        with _disk(self._path):
            data, *_ = await _to_end(asyncio.gather(self._file.read(size), *beside))
        await checkpoint_if_cancelled()
        assert isinstance(data, bytes)
        return data

    async def write(self, data: memoryview, *beside: Awaitable[None]) -> None:
        """All of `data`; `beside` is done at the same time, in another thread."""
        with _disk(self._path):
            await _to_end(asyncio.gather(self._write(data), *beside))
        await checkpoint_if_cancelled()

    async def _write(self, data: memoryview) -> None:
        assert self._file is not None
        while data:
            data = data[await self._file.write(data) :]


async def _to_end(work: Awaitable[T]) -> T:
    """The result of `work`, which is never cancelled: a cancellation meanwhile is raised when it is over."""
    task, cancelled = asyncio.ensure_future(work), None
    with CancelScope(shield=True):  # against anyio's cancel scopes; the loop is against `task.cancel()`
        while not task.done():
            try:
                await asyncio.wait((task,))
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is not None:
        task.exception()  # seen: the cancellation says more
        raise cancelled
    return task.result()


async def _source_chunks(source: Path) -> AsyncGenerator[bytes, None]:
    """A user's file in chunks. A change of size or time while it is read: `E_VALUE_FILE`."""
    async with _File(source, lambda: _open_source(source), "rb") as file:
        before, total = os.fstat(file.fileno()), 0
        while chunk := await file.read(CHUNK):
            total += len(chunk)
            if total > before.st_size:
                break  # it grows, perhaps faster than we read
            yield chunk
        if total != before.st_size or os.fstat(file.fileno()).st_mtime_ns != before.st_mtime_ns:
            raise _refused(source, "changed while it was read", "return it when it is complete")


def _open_source(source: Path) -> int:
    try:
        fd = os.open(source, _READ)
    except OSError as error:
        if error.errno in _OURS:
            raise
        raise _refused(source, f"cannot be read: {error.strerror}") from error
    kind = stat.S_IFMT(os.fstat(fd).st_mode)
    if kind != stat.S_IFREG:
        os.close(fd)
        raise _refused(source, f"is {_KINDS.get(kind, 'a device')}")
    return fd


def _open_blob(path: Path, digest: str, size: int | None = None) -> int:
    """A descriptor of the blob, surely a regular file and no link, of `size` bytes if that is given."""
    try:
        fd = os.open(path, _READ | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        cure = "bring the file back from a copy, or run the step that made it again"
        raise StoreFailed("E_BLOB_MISSING", f"blob {digest} is not in the store", cure=cure) from None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise _corrupt(digest, "a link or a socket in its place") from None
        raise
    found = os.fstat(fd)
    kind = stat.S_IFMT(found.st_mode)
    if kind == stat.S_IFREG and size in (None, found.st_size):
        return fd
    os.close(fd)
    other = f"{found.st_size} bytes instead of {size}"
    raise _corrupt(digest, other if kind == stat.S_IFREG else f"{_KINDS.get(kind, 'a device')} in its place")


def _checked(fd: int, path: Path, digest: str) -> Iterator[memoryview]:
    """The bytes behind `fd` in pieces, each valid until the next one; raises at the end if they are wrong."""
    seen, buffer, total = hashlib.sha256(), bytearray(CHUNK), 0
    while True:
        from_thread.check_cancelled()
        with _disk(path):
            count = os.readv(fd, [buffer])
        if not count:
            break
        piece = memoryview(buffer)[:count]
        seen.update(piece)
        total += count
        yield piece
    if seen.hexdigest() != digest:
        raise _corrupt(digest, f"{total} bytes of other content")


def _reflinked(source: int, target: int) -> bool:
    try:
        fcntl.ioctl(target, FICLONE, source)
    except OSError:
        return False  # another file system, or one that cannot
    return True


def _fsync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _remove(path: Path) -> bool:
    with _disk(path):
        try:
            path.unlink()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True


def _size(path: Path) -> int | None:
    with _disk(path):
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
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise disk_error(error, path) from error


def _corrupt(digest: str, found: str) -> StoreFailed:
    cure = "`towpath fsck` lists what is damaged; run the step that made it again"
    return StoreFailed("E_BLOB_CORRUPT", f"blob {digest} is damaged", found=found, cure=cure)


def _refused(source: Path, why: str, cure: str = "return a regular file that can be read") -> ValueRefused:
    return ValueRefused("E_VALUE_FILE", f"{str(source)!r} {why}", cure=cure)
