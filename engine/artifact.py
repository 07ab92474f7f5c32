"""`Artifact`, a stored file, and `File`, a file to be stored."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from .model import ArtifactRow


class ArtifactFiles(Protocol):
    """Reads the bytes of artifacts; a store implements it."""

    async def read_bytes(self, row: ArtifactRow) -> bytes:
        """All bytes, verified against the digest."""
        ...

    def open(self, row: ArtifactRow) -> AsyncIterator[bytes]:
        """The bytes as a stream, verified at its end."""
        ...

    async def path(self, row: ArtifactRow) -> Path:
        """A readable local file under the artifact's human name."""
        ...


@dataclass(frozen=True, slots=True)
class Artifact:
    """One version of one named output file of a step.

    `name` is its logical place in what the step returned, `filename` the name for people, `size` bytes,
    `digest` the SHA-256 of the bytes in hex. Steps get artifacts as arguments; the bytes are read on
    demand and are checked against the digest.
    """

    row: ArtifactRow
    _files: ArtifactFiles = field(repr=False, compare=False)

    @property
    def id(self) -> str:
        return self.row.id

    @property
    def name(self) -> str:
        return self.row.name

    @property
    def version(self) -> int:
        return self.row.version

    @property
    def filename(self) -> str:
        return self.row.filename

    @property
    def digest(self) -> str:
        return self.row.digest

    @property
    def size(self) -> int:
        return self.row.size

    @property
    def media_type(self) -> str:
        return self.row.media_type

    @property
    def kind(self) -> str:
        """`image video audio text model` or `file`."""
        return self.row.kind

    async def read_bytes(self) -> bytes:
        """All bytes. Raises StoreFailed (E_BLOB_MISSING, E_BLOB_CORRUPT)."""
        return await self._files.read_bytes(self.row)

    def open(self) -> AsyncIterator[bytes]:
        """The bytes in chunks of about 1 MiB: `async for chunk in artifact.open()`."""
        return self._files.open(self.row)

    async def path(self) -> Path:
        """A local copy under its human name, made on demand. Editing it changes no version."""
        return await self._files.path(self.row)


@dataclass(frozen=True, slots=True)
class KeptFile:
    """A file whose bytes are durable, or are in `inline` until they are recorded with its row.

    `local_path` is the key of its blob, relative to the store's blobs; None for bytes in the database.
    """

    filename: str
    media_type: str
    size: int
    digest: str
    local_path: str | None = None
    inline: bytes | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a ComfyUI server had a file: the node that made it, and its folder there."""

    node: str
    subfolder: str = ""
    folder: str = "output"


@dataclass(frozen=True, slots=True)
class File:
    """A file that a step returns, with the name people will see: `File(data, filename="poster.png")`."""

    data: bytes | Path | AsyncIterator[bytes] | KeptFile
    filename: str | None = None
    media_type: str | None = None
    origin: Origin | None = None
