"""Blobs on disk: bytes stored once, under their SHA-256, at `<root>/ab/<sha256>`.

To write: a temp file in `<root>/tmp`, hashed while it is written, mode 0444, fsync, rename to the digest, fsync of the
folder. Only then does `put` return, and only then may a row name the digest. A crash leaves at most a temp file, or a
blob that no row names. Reads never trust the disk: the digest is computed again.

Older stores have two levels of folders, `<root>/ab/cd/<sha256>`. A blob that is there is found, and stays there.

An `OSError` of the store's own files becomes `StoreFailed` (`disk_error`). An error of the caller's iterator is raised
unchanged: the disk is not its cause.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
from collections.abc import AsyncGenerator, AsyncIterable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from anyio import CapacityLimiter
from anyio.to_thread import run_sync

from .disk import (
    CHUNK,
    CREATE,
    READ,
    FolderSyncs,
    SteadyFile,
    Upload,
    checked,
    corrupt,
    disk_errors,
    fsync_folder,
    open_blob,
    reflinked,
    remove,
    size_of,
    source_chunks,
    to_end,
    whole_file,
)
from .disk import Blob as Blob  # noqa: PLC0414 - for those who use the blob store
from .disk import disk_error as disk_error  # noqa: PLC0414

WRITERS = 8  # threads that write blobs: more wait for the same disk and the same interpreter lock
SMALL = 4 << 20  # bytes: a user's file up to this size is whole in memory while it is copied
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)


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


class FileBlobs:
    """The blob store on a local disk. Any number of tasks and processes may use one root at once.

    `durable=False` leaves out every fsync: fast, and a power cut may take or empty recent blobs. Methods
    raise `StoreFailed` for trouble with the disk, `ValueError` for a digest that is not 64 lowercase hex.
    """

    def __init__(self, root: Path, *, durable: bool = True) -> None:
        self.root = Path(os.path.abspath(root))
        self.durable = durable
        self._syncs = FolderSyncs()
        self._anchored: set[str] = set()  # names in the root that are durable, as far as this process knows
        self._unsure: set[str] = set()  # digests after a failed fsync: they are written again
        self._writers = CapacityLimiter(WRITERS)

    def key(self, digest: str) -> str:
        """The name of a blob within the store: its path below the root, wherever the root is."""
        if not is_digest(digest):
            raise ValueError(f"not a SHA-256 in lowercase hex: {digest[:80]!r}")
        return f"{digest[:2]}/{digest}"

    def path(self, digest: str) -> Path:
        """The path for new bytes of `digest`, whether or not they exist. Never pass it on for writing."""
        return self.root / self.key(digest)

    async def places(self, digests: Sequence[str]) -> list[Path]:
        """Where the bytes of each digest are; where they would be written if they are nowhere."""
        return await run_sync(lambda: [self._place(digest) for digest in digests])

    def _place(self, digest: str) -> Path:
        path = self.path(digest)
        for place in (path, self._old_path(digest)):
            with disk_errors(place), suppress(FileNotFoundError, NotADirectoryError):
                place.lstat()
                return place
        return path

    def _old_path(self, digest: str) -> Path:
        return self.root / digest[:2] / digest[2:4] / digest

    async def put(self, data: bytes | bytearray) -> Blob:
        """Keep bytes that are in memory; one thread hop for everything."""
        return await run_sync(self._put, data, limiter=self._writers)

    async def probe(self) -> None:
        """Write and remove a file of 64 KiB. Raises StoreFailed (E_DISK_…) if the disk does not take it."""
        await run_sync(self._probe)

    def _probe(self) -> None:
        temp = self._temp()
        try:
            with disk_errors(temp):
                fd = self._create(temp)
                try:
                    os.write(fd, bytes(64 * 1024))
                    os.fsync(fd)
                finally:
                    os.close(fd)
        finally:
            remove(temp)

    async def put_stream(self, chunks: AsyncIterable[bytes], *, limit: int | None = None) -> Blob:
        """Keep a stream, never whole in memory. More than `limit` bytes: `E_BLOB_SIZE`.

        An error or a cancellation leaves nothing behind. Errors of `chunks` pass through.
        """
        temp = self._temp()
        try:
            async with SteadyFile(temp, lambda: self._create(temp)) as file:
                upload = Upload(file, limit)
                async for chunk in chunks:
                    await upload.take(chunk)
                if upload.whole is not None:  # the stream is short: all the rest is done in one thread hop
                    return await to_end(self.put(upload.whole))
                blob = await upload.finish()
                await to_end(run_sync(self._settle, file.fileno(), temp, blob, limiter=self._writers))
        except BaseException:
            await to_end(run_sync(remove, temp))
            raise
        return blob

    async def put_file(self, source: Path) -> Blob:
        """Store a copy of a user's file, or of the file that a link leads to.

        Raises ValueRefused (E_VALUE_FILE) if it is not a regular file, or changes while it is read.
        """
        small = await self.put_small_file(source)
        if small is not None:
            return small[0]
        async with aclosing(source_chunks(source)) as chunks:
            return await self.put_stream(chunks)

    async def put_small_file(self, source: Path, unless: int = -1) -> tuple[Blob, bytes] | None:
        """As `put_file`, in one thread hop; returns the bytes too, or None if there are more than 4 MiB.

        A file of up to `unless` bytes is only read.
        """
        return await to_end(run_sync(self._put_small_file, source, unless, limiter=self._writers))

    async def read(self, digest: str) -> bytes:
        """The bytes, whole and checked. Raises `E_BLOB_MISSING` or `E_BLOB_CORRUPT`."""
        return await run_sync(self.read_now, digest)

    def open(self, digest: str, *, size: int | None = None, chunk: int = CHUNK) -> AsyncGenerator[bytes, None]:
        """The bytes in chunks of `chunk` bytes, checked at the end. Raises as `read` does.

        The last chunk is yielded only after the digest is verified. So a reader that reads to the end has the right
        bytes, and a damaged blob is always incomplete. With `size`, another size is refused at once.
        """
        assert chunk > 0, "a chunk has at least one byte"
        self.key(digest)
        return self._stream(digest, size, chunk)

    async def export(self, digest: str, target: Path) -> None:
        """Write a verified copy of the blob to `target`, completely or not at all. Replaces a file there.

        The copy is for people: it is writable, and never the same inode as the blob. Missing folders are made.
        """
        await run_sync(self.export_now, digest, target)

    async def verify(self, digest: str) -> None:
        """Read everything and compare. Raises `E_BLOB_MISSING` or `E_BLOB_CORRUPT`."""
        await run_sync(self._verify, digest)

    async def exists(self, digest: str) -> bool:
        """True if a regular file is in the blob's place; its content is not checked."""
        return await self.size(digest) is not None

    async def size(self, digest: str) -> int | None:
        """The size on disk in bytes, None without a regular file there; the content is not checked."""
        return await run_sync(lambda: size_of(self._place(digest)))

    async def delete(self, digest: str) -> bool:
        """Remove the blob; False if it was not there. A damaged blob is repaired by `delete`, then put."""
        return await run_sync(lambda: any([remove(self.path(digest)), remove(self._old_path(digest))]))

    async def scan(self) -> AsyncGenerator[FoundFile, None]:
        """Every file below the root, sorted by folder. Follows no links, and skips files that disappear meanwhile."""
        files, folders = await run_sync(self._level, self.root)
        for file in files:
            yield file
        for folder in folders:
            for file in await run_sync(self._walk, folder):
                yield file

    # ---- plain functions, each called in one worker thread

    def read_now(self, digest: str) -> bytes:
        """As `read`, in the calling thread."""
        path = self._place(digest)
        with disk_errors(path), os.fdopen(open_blob(path, digest), "rb", buffering=0) as file:
            data = file.read()
        if hashlib.sha256(data).hexdigest() != digest:
            raise corrupt(digest, f"{len(data)} bytes of other content")
        return data

    def export_now(self, digest: str, target: Path) -> None:
        """As `export`, in the calling thread."""
        path = self._place(digest)
        temp = target.parent / f".towpath-{secrets.token_hex(8)}.tmp"
        with disk_errors(target), os.fdopen(open_blob(path, digest), "rb", buffering=0) as source:
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with os.fdopen(os.open(temp, os.O_RDWR | CREATE, 0o666), "r+b", buffering=0) as copy:
                    if reflinked(source.fileno(), copy.fileno()):
                        for _ in checked(copy.fileno(), target, digest):
                            pass
                    else:
                        for piece in checked(source.fileno(), path, digest):
                            rest = piece
                            while rest:
                                rest = rest[copy.write(rest) or 0 :]
                    if self.durable:
                        os.fsync(copy.fileno())  # else a power cut can leave an empty file with this name
                os.replace(temp, target)
            except BaseException:
                remove(temp)
                raise

    def _put(self, data: bytes | bytearray) -> Blob:
        blob = _blob(data)
        temp = self._temp()
        try:
            with disk_errors(self.root / "tmp"):
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
            remove(temp)
            raise
        return blob

    def _put_small_file(self, source: Path, unless: int) -> tuple[Blob, bytes] | None:
        data = whole_file(source, SMALL)
        if data is None:
            return None
        return (_blob(data) if len(data) <= unless else self._put(data)), data

    def _settle(self, fd: int, temp: Path, blob: Blob) -> None:
        """Make the finished temp file the blob, unless the same content is there already."""
        target = self.path(blob.digest)
        with disk_errors(target):
            if self._kept(blob):
                remove(temp)
                return
            os.fchmod(fd, 0o444)
            if self.durable:
                os.fsync(fd)  # not repeated if it fails: the kernel may have dropped the pages
            try:
                os.replace(temp, target)
            except FileNotFoundError:
                self._make(target.parent)
                os.replace(temp, target)
            except IsADirectoryError:
                raise corrupt(blob.digest, "a folder in its place") from None
            self._sync(blob.digest, target.parent)
            self._unsure.discard(blob.digest)
            with suppress(OSError):  # a damaged copy at the place of older stores: there is never more than one
                os.unlink(self._old_path(blob.digest))

    def _kept(self, blob: Blob) -> bool:
        """Is the content there, with the right size? If so, it is made as durable as a new blob."""
        if blob.digest in self._unsure:
            return False
        return any(self._kept_at(place, blob) for place in (self.path(blob.digest), self._old_path(blob.digest)))

    def _kept_at(self, path: Path, blob: Blob) -> bool:
        try:
            fd = os.open(path, READ | os.O_NOFOLLOW)
        except OSError:
            return False  # a real error will occur again when it is written
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_size != blob.size:
                return False
            # Another process may have written it without fsync, or before its fsync: our row needs our own fsync.
            self._sync(blob.digest, path.parent, fd)
            with suppress(OSError):
                os.utime(fd)  # starts the grace time of `collect` again: our row is not written yet
            return _is_at(path, found)  # if not, `collect` moved it before it saw the new time
        finally:
            os.close(fd)

    def collect(self, digest: str, before: int) -> bool:
        """Remove a blob that was not stored again since `before` (microseconds); False if it was. Blocks.

        The blob is first moved aside, then its time is checked. A writer that stores the same content meanwhile either
        set a new time before (then the blob is put back), or finds the place empty and writes it again.
        """
        gone = [self._collected(place, before) for place in (self.path(digest), self._old_path(digest))]
        return any(gone)

    def _collected(self, path: Path, before: int) -> bool:
        aside = self._temp()
        with disk_errors(path):
            try:
                os.rename(path, aside)
            except (FileNotFoundError, NotADirectoryError):
                return False
            young = aside.lstat().st_mtime_ns // 1000 > before
            if young:
                with suppress(FileExistsError):
                    os.link(aside, path)
            aside.unlink()
        return not young

    def _sync(self, digest: str, folder: Path, *files: int) -> None:
        """fsync `files`, the folder of the blob, and once per process the entries of the folders above it."""
        if not self.durable:
            return
        try:
            for fd in files:
                os.fsync(fd)
            self._syncs.sync(folder)
            self._anchor(folder)
        except OSError:
            self._unsure.add(digest)
            raise

    def _anchor(self, folder: Path) -> None:
        """Make the entries of the folders above a blob durable: one fsync of the root for all that are there."""
        if folder.parent != self.root:  # the layout of older stores
            self._syncs.sync(folder.parent)
            folder = folder.parent
        if folder.name not in self._anchored:
            there = os.listdir(self.root)
            self._syncs.sync(self.root)
            self._anchored.update(there)

    def _temp(self) -> Path:
        return self.root / "tmp" / f"{os.getpid()}-{secrets.token_hex(8)}"

    def _create(self, temp: Path) -> int:
        with disk_errors(temp):
            try:
                return os.open(temp, os.O_WRONLY | CREATE, 0o600)
            except FileNotFoundError:
                self._make(temp.parent)
                return os.open(temp, os.O_WRONLY | CREATE, 0o600)

    def _make(self, folder: Path) -> None:
        with suppress(FileExistsError):
            try:
                folder.mkdir(mode=0o700)
            except FileNotFoundError:
                self._make(folder.parent)
                folder.mkdir(mode=0o700)
            if self.durable and self.root.is_relative_to(folder):
                fsync_folder(folder.parent)  # folders below the root are synced by `_sync`

    def _verify(self, digest: str) -> None:
        path = self._place(digest)
        with disk_errors(path), os.fdopen(open_blob(path, digest), "rb", buffering=0) as file:
            for _ in checked(file.fileno(), path, digest):
                pass

    async def _stream(self, digest: str, size: int | None, chunk: int) -> AsyncGenerator[bytes, None]:
        seen, total = hashlib.sha256(), 0
        async with SteadyFile(self.path(digest), lambda: open_blob(self._place(digest), digest, size), "rb") as file:
            await file.opened()
            ahead = await file.read(chunk)
            while data := ahead:
                total += len(data)
                ahead = await file.read(chunk, run_sync(seen.update, data))
                if ahead or seen.hexdigest() == digest:
                    yield data
        if seen.hexdigest() != digest:
            raise corrupt(digest, f"{total} bytes of other content")

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
        with disk_errors(folder / "*"), suppress(FileNotFoundError), os.scandir(folder) as entries:
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
            elif is_digest(path.name) and path in (self.path(path.name), self._old_path(path.name)):
                kind = "blob"
        digest = path.name if kind == "blob" else ""
        return FoundFile(path, kind, digest, status.st_size, status.st_mtime_ns // 1000)


def is_digest(text: str) -> bool:
    """Is it a SHA-256 as the store writes it: 64 lowercase hex digits?"""
    return _DIGEST.fullmatch(text) is not None


def _blob(data: bytes | bytearray) -> Blob:
    return Blob(hashlib.sha256(data).hexdigest(), len(data))


def _is_at(path: Path, found: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.lstat(), found)
    except FileNotFoundError:
        return False
