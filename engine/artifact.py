"""`Artifact`, a stored file, and `File`, a file to be stored."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from .late import Late
from .model import ArtifactRow

_notebook = Late("towpath.notebook")
Bytes: TypeAlias = bytes  # inside `Artifact`, `bytes` is a method


class ArtifactFiles(Protocol):
    """Reads the bytes of artifacts; a store implements it. The async functions work in every event loop.

    `read_now` and `path_now` block the calling thread, and wait for no event loop. In the thread of the loop that the
    store was opened in they raise InputInvalid (E_SYNC_IN_LOOP).
    """

    async def read_bytes(self, row: ArtifactRow) -> bytes:
        """All bytes, verified against the digest."""
        ...

    def open(self, row: ArtifactRow) -> AsyncIterator[bytes]:
        """The bytes as a stream, verified at its end."""
        ...

    async def path(self, row: ArtifactRow) -> Path:
        """A readable local file whose name says which output and version it is."""
        ...

    def read_now(self, row: ArtifactRow) -> bytes:
        """As `read_bytes`; blocks."""
        ...

    def path_now(self, row: ArtifactRow) -> Path:
        """A readable local file under the artifact's `filename`; blocks."""
        ...

    def for_another_process(self, row: ArtifactRow) -> ArtifactFiles:
        """What reads this one artifact in another process of this machine. It can be pickled. Blocks."""
        ...


@dataclass(frozen=True, slots=True)
class Artifact:
    """One version of one named output file of a step.

    `name` is its logical place in what the step returned, `filename` the name for people, `size` bytes,
    `digest` the SHA-256 of the bytes in hex. Steps get artifacts as arguments; the bytes are read on
    demand and are checked against the digest.

    A plain `def` step uses it like a path: `open(artifact)`, `pd.read_csv(artifact)`, `Image.open(artifact)`; or reads
    it with `bytes()` and `text()`. These block their thread, so in the thread of the event loop they raise InputInvalid
    (E_SYNC_IN_LOOP): there `await` the functions `read_bytes` and `path`, which work in every event loop.
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

    def bytes(self) -> Bytes:
        """All bytes; blocks. Raises StoreFailed (E_BLOB_MISSING, E_BLOB_CORRUPT), InputInvalid (E_SYNC_IN_LOOP)."""
        return self._files.read_now(self.row)

    def text(self, encoding: str = "utf-8") -> str:
        """All bytes as text; blocks. Raises UnicodeDecodeError, and as `bytes`."""
        return self._files.read_now(self.row).decode(encoding)

    def __fspath__(self) -> str:
        """The path of a local copy that is called `filename`; blocks. Raises as `bytes`."""
        return os.fspath(self._files.path_now(self.row))

    async def read_bytes(self) -> Bytes:
        """All bytes. Raises StoreFailed (E_BLOB_MISSING, E_BLOB_CORRUPT)."""
        return await self._files.read_bytes(self.row)

    def open(self) -> AsyncIterator[Bytes]:
        """The bytes in chunks of about 1 MiB: `async for chunk in artifact.open()`."""
        return self._files.open(self.row)

    async def path(self) -> Path:
        """A local copy, made on demand, called by output and version: `photo.v2.png`. Editing it changes no version."""
        return await self._files.path(self.row)

    def __repr__(self) -> str:
        return f"<artifact {self.filename} v{self.version}, {self.size} B, {self.id}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process of this machine can read it too, without the engine. Blocks; raises as `bytes`."""
        return Artifact, (self.row, self._files.for_another_process(self.row))

    def _repr_html_(self) -> str:
        return str(_notebook.artifact_html(self))

    def __copy__(self) -> Artifact:
        return self

    def __deepcopy__(self, memo: object) -> Artifact:
        return self  # nothing in it can be changed


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


@dataclass(frozen=True, slots=True, init=False)
class File:
    """A file that a step returns, with the name people will see: `File(data, filename="poster.png")`.

    `data` is its bytes, its text (written as UTF-8), a path, or an async stream of bytes. Raises TypeError for others.
    """

    data: bytes | Path | AsyncIterator[bytes] | KeptFile
    filename: str | None = None
    media_type: str | None = None
    origin: Origin | None = None

    def __init__(
        self,
        data: bytes | bytearray | memoryview | str | Path | AsyncIterator[bytes] | KeptFile,
        filename: str | None = None,
        media_type: str | None = None,
        origin: Origin | None = None,
    ) -> None:
        keep = object.__setattr__
        keep(self, "data", data if type(data) is bytes else _file_data(data))
        keep(self, "filename", filename)
        keep(self, "media_type", media_type)
        keep(self, "origin", origin)


def _file_data(data: Any) -> Any:
    """What a file is made of. As everywhere, a `str` is text, and never a path."""
    if isinstance(data, str):
        return data.encode()
    if isinstance(data, bytearray | memoryview):
        return bytes(data)
    if isinstance(data, bytes | Path | KeptFile | Artifact) or hasattr(data, "__aiter__"):
        return data
    cure = "; give file.getvalue()" if hasattr(data, "getvalue") else ""
    message = "a File is made of bytes, text, a pathlib.Path or an async stream of bytes, not of"
    raise TypeError(f"{message} {type(data).__name__}{cure}")
