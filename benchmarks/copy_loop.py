"""What moving files costs without an engine, a database or a network: the plainest program that keeps them as safely.

Pass in: read a file, hash it, write it under its digest, with the calls of fsync that make file and name durable.
Pass out: read it, compare the digest, write it to where it is wanted; no fsync, as a server takes uploads.
One file after another, in chunks of 1 MiB.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

CHUNK = 1 << 20


def copy_in_and_out(sources: Sequence[Path], store: Path, out: Path) -> list[str]:
    """Move files into a store and out of it again; their digests."""
    store.mkdir()
    out.mkdir(parents=True)
    digests = [_take_in(source, store) for source in sources]
    for number, digest in enumerate(digests):
        _give_out(store / digest[:2] / digest[2:4] / digest, digest, out / f"{number:05}")
    return digests


def _take_in(source: Path, store: Path) -> str:
    temp = store / "incoming"
    with open(temp, "wb", buffering=0) as target:
        digest = _copied(source, target.fileno())
        os.fsync(target.fileno())
    folder = store / digest[:2] / digest[2:4]
    made = [each for each in (folder.parent, folder) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    temp.rename(folder / digest)
    for each in (folder, *(new.parent for new in made)):
        _sync_folder(each)
    return digest


def _give_out(blob: Path, digest: str, target: Path) -> None:
    with open(target, "wb", buffering=0) as file:
        assert _copied(blob, file.fileno()) == digest


def _copied(source: Path, target: int) -> str:
    seen, buffer = hashlib.sha256(), bytearray(CHUNK)
    with open(source, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            piece = memoryview(buffer)[:count]
            seen.update(piece)
            while piece:
                piece = piece[os.write(target, piece) :]
    return seen.hexdigest()


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
