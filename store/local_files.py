"""Reading artifacts whose blobs are on this disk, in any thread, with any event loop or none.

The functions that block wait for no event loop: the loop may be blocked itself, or wait for the calling thread.

A copy for people is theirs: they may edit it. So a copy that is there already is used only if it is as it was made. The
fraction of a second of its modification time says so (`_mark`), or else its digest. An edited copy is left alone, and
another one is made beside it.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

from anyio.to_thread import run_sync

from towpath.artifact import ArtifactFiles
from towpath.errors import StoreFailed
from towpath.media import extension, safe_filename
from towpath.model import ArtifactRow

from .blobs import FileBlobs
from .disk import write_whole

INLINE = 16 * 1024  # bytes; up to this size, writing a row durably is 10 to 66 times faster than a file
_NO_PATTERN = str.maketrans({"[": "-", "]": None, "{": "-", "}": None})  # polars and others take a path for a pattern
_SECOND = 10**9


class LocalFiles(ABC):
    """Reads artifacts. A subclass knows where the bytes of small ones are, and the names for people."""

    def __init__(self, blobs: FileBlobs, folder: Path) -> None:
        self.blobs = blobs
        self.folder = folder

    @abstractmethod
    def check_waiting(self) -> None:
        """Raises InputInvalid (E_SYNC_IN_LOOP), StoreFailed (E_DB_CLOSED) if this thread cannot wait for a file."""

    @abstractmethod
    def _small(self, row: ArtifactRow) -> bytes | None:
        """The bytes of a small artifact, None if they are in a blob. Blocks."""

    @abstractmethod
    def _human_folder(self, row: ArtifactRow) -> Path:
        """The folder below `files` for copies of what this step made. Blocks."""

    # ---- in any thread

    def read_now(self, row: ArtifactRow) -> bytes:
        """All bytes of an artifact, verified. Raises StoreFailed (E_BLOB_MISSING, E_BLOB_CORRUPT), InputInvalid."""
        self.check_waiting()
        small = self._inline_now(row)
        return small if small is not None else self.blobs.read_now(row.digest)

    def path_now(self, row: ArtifactRow) -> Path:
        """A copy under the file's own name, of which programs make other names:
        `files/<run>/<step>/[<item>/]v<n>/<name>/<filename>`.
        """
        self.check_waiting()
        place = Path(f"v{row.version}", _plain(row.name), _plain(row.filename))
        return self._copy_at(self._human_folder(row) / place, row)

    def _labelled_now(self, row: ArtifactRow) -> Path:
        """A copy whose name says what it is: `files/<run>/<step>/[<item>/]<name>.v<n>.<ext>`."""
        self.check_waiting()
        suffix = Path(row.filename).suffix or extension(row.media_type)
        return self._copy_at(self._human_folder(row) / f"{_plain(row.name)}.v{row.version}{suffix}", row)

    def _copy_at(self, place: Path, row: ArtifactRow) -> Path:
        target = self.folder / "files" / place
        beside = target.with_name(f"{target.stem}.{row.digest[:8]}{target.suffix}")
        with _locks[hash(target) % len(_locks)]:
            for path in (target, beside):
                if _is_as_made(path, row):
                    return path
                if not os.path.lexists(path):
                    break
            self.write_now(row, path)
            _mark(path, row)
        return path

    def write_now(self, row: ArtifactRow, target: Path) -> None:
        """Write an artifact's bytes to `target`, whole or not at all."""
        small = self._inline_now(row)
        if small is None:
            self.blobs.export_now(row.digest, target)
        else:
            write_whole(small, target, durable=self.blobs.durable)

    def _inline_now(self, row: ArtifactRow) -> bytes | None:
        return None if row.size > INLINE else verified(self._small(row), row)

    def for_another_process(self, row: ArtifactRow) -> ArtifactFiles:
        """What reads this artifact in another process: it has the bytes of a small one, and opens no database."""
        self.check_waiting()
        return SentFiles(
            self.blobs.root, self.folder, self.blobs.durable, self._inline_now(row), self._human_folder(row)
        )

    # ---- in any event loop

    async def read_bytes(self, row: ArtifactRow) -> bytes:
        """All bytes of an artifact, verified. Raises StoreFailed (E_BLOB_MISSING, E_BLOB_CORRUPT)."""
        small = await self._inline(row)
        return small if small is not None else await self.blobs.read(row.digest)

    async def open(self, row: ArtifactRow) -> AsyncIterator[bytes]:
        """The bytes of an artifact in chunks, verified at the end."""
        small = await self._inline(row)
        if small is not None:
            yield small
            return
        async for chunk in self.blobs.open(row.digest, size=row.size):
            yield chunk

    async def path(self, row: ArtifactRow) -> Path:
        """As `_labelled_now`."""
        return await run_sync(self._labelled_now, row)

    async def _inline(self, row: ArtifactRow) -> bytes | None:
        return None if row.size > INLINE else await run_sync(self._inline_now, row)


class SentFiles(LocalFiles):
    """Reads one artifact in another process, with what was sent there."""

    def __init__(self, root: Path, folder: Path, durable: bool, small: bytes | None, place: Path) -> None:
        super().__init__(FileBlobs(root, durable=durable), folder)
        self._sent = (root, folder, durable, small, place)

    def __reduce__(self) -> tuple[type[SentFiles], tuple[Path, Path, bool, bytes | None, Path]]:
        return SentFiles, self._sent

    def check_waiting(self) -> None:
        """No event loop of this process belongs to the store."""

    def _small(self, row: ArtifactRow) -> bytes | None:
        return self._sent[3]

    def _human_folder(self, row: ArtifactRow) -> Path:
        return self._sent[4]


def _plain(name: str) -> str:
    return safe_filename(name).translate(_NO_PATTERN)


def verified(data: bytes | None, row: ArtifactRow) -> bytes | None:
    """Bytes from the database, if there are any. Raises StoreFailed (E_BLOB_CORRUPT)."""
    if data is not None and (len(data) != row.size or hashlib.sha256(data).hexdigest() != row.digest):
        raise StoreFailed("E_BLOB_CORRUPT", f"the bytes of {row.filename} changed in the database", found=row.digest)
    return data


_locks = [threading.Lock() for _ in range(64)]  # of threads that make the same copy, only one writes it


def _fresh_locks() -> None:
    """Threads of the parent may have held these locks, and do not exist in a forked child."""
    _locks[:] = [threading.Lock() for _ in _locks]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_fresh_locks)


def _fraction(row: ArtifactRow) -> int:
    return int(row.digest[:12], 16) % _SECOND


def _mark(path: Path, row: ArtifactRow) -> None:
    at = time.time_ns() // _SECOND * _SECOND + _fraction(row)
    with suppress(OSError):  # without a mark its digest is compared
        os.utime(path, ns=(at, at))


def _is_as_made(path: Path, row: ArtifactRow) -> bool:
    """Is the file there, with the bytes of the artifact?"""
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_size != row.size:
            return False
        if found.st_mtime_ns % _SECOND == _fraction(row):
            return True
        with path.open("rb") as file:
            same = hashlib.file_digest(file, "sha256").hexdigest() == row.digest
    except OSError:
        return False
    if same:
        _mark(path, row)
    return same
