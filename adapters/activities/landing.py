"""Streams that become files of a folder: whole under their name, or not there at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterable
from pathlib import Path

from anyio.to_thread import run_sync

from towpath.media import safe_filename
from towpath.store.disk import CREATE, Blob, SteadyFile, Upload, disk_errors, fsync_folder, remove, to_end


async def land(chunks: AsyncIterable[bytes], target: Path) -> Blob:
    """Write a stream to `target` through a file beside it; digest and size of what was written.

    An error or a cancellation leaves nothing behind; errors of `chunks` pass through. Raises StoreFailed: E_DISK_….
    """
    temp = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        async with SteadyFile(temp, lambda: os.open(temp, os.O_WRONLY | CREATE, 0o666)) as file:
            upload = Upload(file, None)
            async for chunk in chunks:
                await upload.take(chunk)
            blob = await upload.finish()
            await to_end(run_sync(_settle, file.fileno(), temp, target))
    except BaseException:
        await to_end(run_sync(remove, temp))
        raise
    return blob


def _settle(fd: int, temp: Path, target: Path) -> None:
    with disk_errors(target):
        os.fsync(fd)
        os.replace(temp, target)
        fsync_folder(target.parent)


async def made_folder(folder: str | os.PathLike[str]) -> Path:
    """The folder, made if it is not there. Raises StoreFailed: E_DISK_…."""
    return await run_sync(_made, Path(folder))


def _made(folder: Path) -> Path:
    path = folder.absolute()
    with disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def unique_name(filename: str) -> str:
    """A name that no other file has, is one path component everywhere, and still tells people what it is."""
    return f"{secrets.token_hex(8)}-{safe_filename(filename)}"
