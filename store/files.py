"""The bytes of artifacts: small ones in the database, larger ones as blobs, copies for people on demand."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

from anyio.to_thread import run_sync

from towpath.artifact import KeptFile
from towpath.errors import StoreFailed, ValueRefused, shown
from towpath.media import HEAD, extension, media_type, safe_filename
from towpath.model import ArtifactRow

from .backend import Backend, Row
from .blobs import Blob, FileBlobs, is_digest
from .core import sa, t
from .local_files import INLINE, LocalFiles, verified
from .statements import Statement, param

_Stored = tuple[Blob, bytes, bytes | None]  # the blob, its first bytes, all bytes if they go into the database

_INLINE = Statement(lambda: sa.select(t.blobs.c.data).where(t.blobs.c.sha256 == param("sha256")))
_PLACE = Statement(
    lambda: (
        sa.select(t.workflows.c.chain_id, t.workflows.c.step_id, t.workflows.c.item_index)
        .join(t.artifacts, t.artifacts.c.workflow_id == t.workflows.c.id)
        .where(t.artifacts.c.id == param("artifact_id"))
    )
)


class StoredFiles(LocalFiles):
    """Stores and finds the bytes of artifacts. Implements the engine's `ArtifactFiles` port."""

    def __init__(self, database: Backend, blob_store: FileBlobs, folder: Path) -> None:
        super().__init__(blob_store, folder)
        self._database = database

    async def keep(
        self,
        data: bytes | Path | AsyncIterable[bytes],
        filename: str | None = None,
        media: str | None = None,
        stem: str = "output",
    ) -> KeptFile:
        """Keep bytes, a file or a stream. `stem` names a file that has no name of its own.

        Raises:
            ValueRefused: E_VALUE_FILE for a path that is not a plain file. StoreFailed: E_DISK_….
        """
        blob, head, small = await (
            self._keep_file(data)
            if isinstance(data, Path)
            else self._keep_bytes(data)
            if isinstance(data, bytes)
            else self._keep_stream(data)
        )
        media = media or media_type(filename, head)
        suffix = (data.suffix if isinstance(data, Path) else "") or extension(media)
        named = safe_filename(filename or f"{safe_filename(stem)}{suffix}")
        key = None if small is not None else self.blobs.key(blob.digest)
        return KeptFile(named, media, blob.size, blob.digest, key, small)

    async def _keep_bytes(self, data: bytes) -> _Stored:
        if len(data) <= INLINE:
            return Blob(hashlib.sha256(data).hexdigest(), len(data)), data[:HEAD], data
        return await self.blobs.put(data), data[:HEAD], None

    async def _keep_file(self, source: Path) -> _Stored:
        small = await self.blobs.put_small_file(source, unless=INLINE)
        if small is None:
            blob = await self.blobs.put_file(source)
            return blob, await self._head(blob), None
        blob, data = small
        return blob, data[:HEAD], data if len(data) <= INLINE else None

    async def _keep_stream(self, stream: AsyncIterable[bytes]) -> _Stored:
        peeked = _Peek(aiter(stream))
        whole = await peeked.whole()
        if whole is not None:
            return await self._keep_bytes(whole)
        return await self.blobs.put_stream(peeked.chunks()), peeked.head[:HEAD], None

    async def _head(self, blob: Blob) -> bytes:
        async with aclosing(self.blobs.open(blob.digest, chunk=HEAD)) as chunks:
            return await anext(chunks, b"")

    async def is_failing(self) -> bool:
        """Are writes failing now? So a full or broken disk is not taken for an error of a step."""
        try:
            await self.blobs.probe()
        except StoreFailed:
            return True
        return False

    def key_of(self, row: ArtifactRow) -> str | None:
        """The name within the store of the blob that holds an artifact's bytes; None for bytes in the database."""
        return None if row.size <= INLINE else self.blobs.key(row.digest)

    async def place(self, row: ArtifactRow) -> Path | None:
        """The file that holds an artifact's bytes, whether or not it exists; None for bytes in the database."""
        return None if row.size <= INLINE else (await self.blobs.places([row.digest]))[0]

    async def located(self, rows: list[Row]) -> list[Row]:
        """Rows of artifacts whose `local_path` is the file that holds the bytes now.

        The column has a key below the store's blobs, in older rows a path; neither leads to a store that was moved.
        """
        kept = [row for row in rows if row.get("local_path") is not None and is_digest(row["sha256"])]
        if kept:
            places = await self.blobs.places([row["sha256"] for row in kept])
            for row, place in zip(kept, places, strict=True):
                row["local_path"] = str(place)
        return rows

    async def remove_copies(self, runs: Iterable[str]) -> None:
        """Remove the copies for people of these runs. What is open elsewhere, or cannot be removed, stays."""
        for run in runs:
            folder = self.folder / "files" / safe_filename(run)
            await run_sync(partial(shutil.rmtree, folder, ignore_errors=True))

    async def write_to(self, row: ArtifactRow, target: Path) -> None:
        """Write an artifact's bytes to `target`, whole or not at all."""
        await run_sync(self.write_now, row, target)

    def check_waiting(self) -> None:
        """Raises InputInvalid (E_SYNC_IN_LOOP), StoreFailed (E_DB_CLOSED) if this thread cannot wait for a file."""
        self._database.check_waiting()

    def _small(self, row: ArtifactRow) -> bytes | None:
        return _data_of(self._database.fetch_now(_INLINE(sha256=row.digest)))

    async def _inline(self, row: ArtifactRow) -> bytes | None:
        if row.size > INLINE or not self._database.is_in_loop():
            return await super()._inline(row)
        return verified(_data_of(await self._database.fetch(_INLINE(sha256=row.digest))), row)

    def _human_folder(self, row: ArtifactRow) -> Path:
        found = self._database.fetch_now(_PLACE(artifact_id=row.id))
        where = found[0] if found else {"chain_id": None, "step_id": None, "item_index": None}
        parts = [
            safe_filename(where["chain_id"] or "standalone"),
            safe_filename(where["step_id"] or row.workflow_id),
        ]
        if where["item_index"] is not None:
            parts.append(str(where["item_index"]))
        return Path(*parts)


def _data_of(found: list[Row]) -> bytes | None:
    return bytes(found[0]["data"]) if found else None


class _Peek:
    """A stream whose first bytes were read: a small one is returned whole, a larger one stays a stream."""

    def __init__(self, source: AsyncIterator[bytes]) -> None:
        self._source = source
        self.head = b""

    async def whole(self) -> bytes | None:
        """All bytes if they are few enough for the database, else None."""
        async for chunk in self._source:
            self.head += _bytes_of(chunk)
            if len(self.head) > INLINE:
                return None
        return self.head

    async def chunks(self) -> AsyncIterator[bytes]:
        yield self.head
        async for chunk in self._source:
            yield _bytes_of(chunk)


def _bytes_of(chunk: Any) -> bytes:
    """A part of a stream that the user's code gives. `bytes(3)` would be three zeros."""
    if type(chunk) is bytes:
        return chunk
    try:
        return bytes(memoryview(chunk))
    except TypeError:
        kind = shown(type(chunk).__name__)
        raise ValueRefused(
            "E_VALUE_TYPE",
            f"an async stream has to give bytes, and gives {kind}",
            found=kind,
            allowed="bytes",
            cure="yield text.encode() to make a file; for data, return a list",
        ) from None
