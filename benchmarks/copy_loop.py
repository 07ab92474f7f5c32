"""What files cost without an engine, a database or a network: the simplest programs that keep them as safely.

Pass in: hash the bytes, write them under their digest, with the fsync calls that make the file and its name durable.
Pass out: read, compare the digest, write to where it is wanted; no fsync, as a server takes uploads.
One file after another, in chunks of 1 MiB.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

CHUNK = 1 << 20


def copy_in_and_out(sources: Sequence[Path], store: Path, out: Path) -> list[str]:
    """Move files into a store and out of it again; their digests."""
    store.mkdir()
    out.mkdir(parents=True)
    digests = [_keep(_pieces(source), store) for source in sources]
    for number, digest in enumerate(digests):
        with open(out / f"{number:05}", "wb", buffering=0) as file:
            assert _written(_pieces(store / digest[:2] / digest), file.fileno()) == digest
    return digests


def keep_all(contents: Iterable[bytes], store: Path) -> list[str]:
    """Keep each of these as a file; their digests."""
    return [_keep([content], store) for content in contents]


def _keep(pieces: Iterable[bytes | memoryview], store: Path) -> str:
    temp = store / "incoming"
    with open(temp, "wb", buffering=0) as target:
        digest = _written(pieces, target.fileno())
        os.fsync(target.fileno())
    folder = store / digest[:2]
    new = not folder.exists()
    folder.mkdir(exist_ok=True)
    temp.rename(folder / digest)
    _sync_folder(folder)
    if new:
        _sync_folder(store)
    return digest


def _pieces(source: Path) -> Iterator[memoryview]:
    buffer = bytearray(CHUNK)
    with open(source, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            yield memoryview(buffer)[:count]


def _written(pieces: Iterable[bytes | memoryview], target: int) -> str:
    seen = hashlib.sha256()
    for each in pieces:
        seen.update(each)
        piece = memoryview(each)
        while piece:
            piece = piece[os.write(target, piece) :]
    return seen.hexdigest()


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
