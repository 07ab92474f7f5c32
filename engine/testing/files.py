"""An artifact without a store, from bytes that a test has at hand."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from uuid import uuid4

from towpath.artifact import Artifact
from towpath.media import HEAD, media_type, safe_filename
from towpath.model import ArtifactRow

_CHUNK = 1024 * 1024


def artifact(
    data: bytes | str | os.PathLike[str],
    filename: str | None = None,
    *,
    name: str = "output",
    media: str | None = None,
    version: int = 1,
) -> Artifact:
    """An artifact as a step gets it, from bytes, a text, or the path of a file.

    It can be read in every way that a stored one can, also in the event loop's own thread. It belongs to no store: a
    chain that is run by an engine takes `File(b"…", filename="x.png")` as its input instead.
    """
    if isinstance(data, os.PathLike):
        filename = filename or Path(data).name
        data = Path(data).read_bytes()
    encoded = data.encode() if isinstance(data, str) else bytes(data)
    named = safe_filename(filename or ("output.txt" if isinstance(data, str) else "output.bin"))
    row = ArtifactRow(
        id=str(uuid4()),
        workflow_id=str(uuid4()),
        name=name,
        version=version,
        filename=named,
        media_type=media or media_type(named, encoded[:HEAD]),
        size=len(encoded),
        digest=hashlib.sha256(encoded).hexdigest(),
    )
    return Artifact(row, _InMemory(encoded))


class _InMemory:
    """The bytes of one artifact. Implements `ArtifactFiles`. A copy on disk is made when its path is asked for."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._lock = threading.Lock()
        self._copy: Path | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _InMemory, (self._data,)

    async def read_bytes(self, row: ArtifactRow) -> bytes:
        return self._data

    async def open(self, row: ArtifactRow) -> AsyncIterator[bytes]:
        for start in range(0, len(self._data), _CHUNK):
            yield self._data[start : start + _CHUNK]

    async def path(self, row: ArtifactRow) -> Path:
        return self.path_now(row)

    def read_now(self, row: ArtifactRow) -> bytes:
        return self._data

    def path_now(self, row: ArtifactRow) -> Path:
        with self._lock:
            if self._copy is None:
                folder = mkdtemp(prefix="towpath-")
                weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
                copy = Path(folder, row.filename)
                copy.write_bytes(self._data)
                self._copy = copy
            return self._copy

    def for_another_process(self, row: ArtifactRow) -> _InMemory:
        return self
