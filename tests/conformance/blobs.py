"""What every blob store must do. A test module takes the suite with `from tests.conformance.blobs import *`
and gives two fixtures:

- `blobs`: an empty store, with the methods of `towpath.store.blobs.FileBlobs`;
- `damage`: `damage(digest, data)` changes the kept bytes behind the store's back; `data=None` removes them.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from towpath.errors import StoreFailed, ValueRefused
from towpath.store.blobs import Blob, FileBlobs

Damage = Callable[[str, bytes | None], None]
MIB = 1 << 20
EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
SIZES = (0, 1, 4096, MIB - 1, MIB, MIB + 1, 3 * MIB + 17)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def chunked(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def joined(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


async def received(chunks: AsyncIterator[bytes]) -> tuple[bytes, str]:
    """What came before the error, and its code ("" for none)."""
    got = b""
    try:
        async for chunk in chunks:
            got += chunk
    except StoreFailed as error:
        return got, error.code
    return got, ""


async def kinds(blobs: FileBlobs) -> list[str]:
    return sorted([found.kind async for found in blobs.scan()])


class CancelledAt:
    """Awaits `work`, and calls `cancel` when it is suspended for the n-th time (from 1)."""

    def __init__(self, work: Awaitable[Any], n: int, cancel: Callable[[], object]) -> None:
        self.work, self.n, self.cancel, self.suspended = work, n, cancel, 0

    def __await__(self) -> Generator[Any, Any, Any]:
        inner: Generator[Any, Any, Any] = self.work.__await__()
        error: BaseException | None = None
        while True:
            try:
                future = inner.throw(error) if error else inner.send(None)
            except StopIteration as stop:
                return stop.value
            self.suspended += 1
            if self.suspended == self.n:
                self.cancel()
            error = None
            try:
                yield future
            except BaseException as thrown:
                error = thrown


async def cancelled_at(n: int, how: str, work: Callable[[], Awaitable[Any]]) -> bool:
    """Run `work`, cancelled at its n-th suspension by `scope` (anyio) or `task` (asyncio).

    False: it came to its end with fewer suspensions.
    """
    driven: CancelledAt | None = None

    async def body() -> None:
        nonlocal driven
        task = asyncio.current_task()
        assert task is not None
        with anyio.CancelScope() as scope:
            driven = CancelledAt(work(), n, scope.cancel if how == "scope" else task.cancel)
            await driven

    task = asyncio.ensure_future(body())
    await asyncio.wait((task,))
    if not task.cancelled():
        task.result()
    assert driven is not None
    return driven.suspended >= n


@pytest.mark.parametrize("size", SIZES)
async def test_put_then_read(blobs: FileBlobs, size: int) -> None:
    data = os.urandom(size)
    assert await blobs.put(data) == Blob(sha(data), size)
    assert await blobs.read(sha(data)) == data
    assert await joined(blobs.open(sha(data))) == data
    assert await blobs.exists(sha(data))
    assert await blobs.size(sha(data)) == size
    await blobs.verify(sha(data))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("cut", [1000, 65536, MIB, 2 * MIB + 3])
async def test_put_stream_then_read(blobs: FileBlobs, size: int, cut: int) -> None:
    data = os.urandom(size)
    assert await blobs.put_stream(chunked(data, cut)) == Blob(sha(data), size)
    assert await blobs.read(sha(data)) == data


async def test_empty_content(blobs: FileBlobs) -> None:
    assert await blobs.put(b"") == Blob(EMPTY, 0)
    assert await blobs.put_stream(chunked(b"", 1)) == Blob(EMPTY, 0)
    assert await blobs.read(EMPTY) == b""
    assert await joined(blobs.open(EMPTY, size=0)) == b""


async def test_uneven_and_empty_chunks_and_reused_buffers(blobs: FileBlobs) -> None:
    parts = [b"", b"a", os.urandom(MIB), b"", os.urandom(3 * MIB + 1), b"z"]

    async def reused() -> AsyncIterator[bytes]:
        buffer = bytearray(4 * MIB)
        for part in parts:
            buffer[: len(part)] = part
            yield memoryview(buffer)[: len(part)]  # type: ignore[misc]

    whole = b"".join(parts)
    assert await blobs.put_stream(reused()) == Blob(sha(whole), len(whole))
    assert await blobs.read(sha(whole)) == whole


@pytest.mark.parametrize("chunk", [1, 7, 4096])
async def test_open_in_chunks(blobs: FileBlobs, chunk: int) -> None:
    data = os.urandom(5000)
    await blobs.put(data)
    chunks = [c async for c in blobs.open(sha(data), size=5000, chunk=chunk)]
    assert b"".join(chunks) == data
    assert {len(c) for c in chunks[:-1]} <= {chunk}


async def test_open_left_early_keeps_no_handle(blobs: FileBlobs) -> None:
    blob = await blobs.put(os.urandom(100))
    before = len(os.listdir("/proc/self/fd"))
    reading = blobs.open(blob.digest, chunk=10)
    await anext(reading)
    await reading.aclose()
    assert len(os.listdir("/proc/self/fd")) == before


async def test_same_content_is_kept_once(blobs: FileBlobs) -> None:
    data = os.urandom(2 * MIB)
    first = await blobs.put(data)
    assert await blobs.put(data) == first
    assert await blobs.put_stream(chunked(data, 999)) == first
    assert await kinds(blobs) == ["blob"]


async def test_a_hundred_puts_of_the_same_content(blobs: FileBlobs) -> None:
    data = os.urandom(20_000)
    results: list[Blob] = []

    async def one(streamed: bool) -> None:
        results.append(await (blobs.put_stream(chunked(data, 999)) if streamed else blobs.put(data)))

    async with anyio.create_task_group() as group:
        for i in range(100):
            group.start_soon(one, i % 3 == 0)
    assert results == [Blob(sha(data), 20_000)] * 100
    assert await kinds(blobs) == ["blob"]
    assert await blobs.read(sha(data)) == data


async def test_limit(blobs: FileBlobs) -> None:
    data = os.urandom(3 * MIB)
    assert (await blobs.put_stream(chunked(data, 1000), limit=len(data))).size == len(data)
    for limit in (0, 10, len(data) - 1):
        with pytest.raises(StoreFailed) as caught:
            await blobs.put_stream(chunked(data[::-1], 1000), limit=limit)
        assert caught.value.code == "E_BLOB_SIZE"
    assert await kinds(blobs) == ["blob"]


async def test_error_of_the_source_passes_and_leaves_nothing(blobs: FileBlobs) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield os.urandom(2 * MIB)
        raise ConnectionResetError("the server hung up")

    with pytest.raises(ConnectionResetError, match="hung up"):
        await blobs.put_stream(broken())
    assert await kinds(blobs) == []


async def test_a_stream_of_text_is_refused(blobs: FileBlobs) -> None:
    async def text() -> AsyncIterator[Any]:
        yield "text"

    with pytest.raises(ValueRefused) as caught:
        await blobs.put_stream(text())
    assert caught.value.code == "E_VALUE_TYPE"
    assert await kinds(blobs) == []


async def test_missing(blobs: FileBlobs, tmp_path: Path) -> None:
    digest = sha(b"never put")
    assert not await blobs.exists(digest)
    assert await blobs.size(digest) is None
    assert not await blobs.delete(digest)
    for work in readers(blobs, digest, tmp_path / "x"):
        with pytest.raises(StoreFailed) as caught:
            await work
        assert caught.value.code == "E_BLOB_MISSING"
        assert digest in str(caught.value)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("text", ["", "../" * 20 + "etc/passwd", "A" * 64, "g" * 64, "a" * 63, "a" * 64 + "\n"])
async def test_only_a_digest_names_a_blob(blobs: FileBlobs, tmp_path: Path, text: str) -> None:
    for work in [
        *readers(blobs, text, tmp_path / "x"),
        blobs.exists(text),
        blobs.size(text),
        blobs.delete(text),
    ]:
        with pytest.raises(ValueError, match="SHA-256"):
            await work
    assert not (tmp_path / "x").exists()


async def test_delete(blobs: FileBlobs) -> None:
    blob = await blobs.put(b"here and gone")
    assert await blobs.delete(blob.digest)
    assert not await blobs.delete(blob.digest)
    assert not await blobs.exists(blob.digest)
    assert await kinds(blobs) == []
    assert await blobs.put(b"here and gone") == blob


async def test_scan_tells_digest_size_and_time(blobs: FileBlobs) -> None:
    kept = {(await blobs.put(os.urandom(size))) for size in range(20)}
    found = [f async for f in blobs.scan()]
    assert {Blob(f.digest, f.size) for f in found} == kept
    assert all(abs(f.mtime / 1e6 - time.time()) < 60 for f in found)


def readers(blobs: FileBlobs, digest: str, target: Path) -> list[Awaitable[Any]]:
    """Every way to get at the bytes; each must notice damage."""

    async def opened() -> bytes:
        return await joined(blobs.open(digest))

    return [blobs.read(digest), opened(), blobs.verify(digest), blobs.export(digest, target)]


@pytest.mark.parametrize("size", [1, 5000, 2 * MIB + 5])
@pytest.mark.parametrize("how", ["flip first", "flip last", "truncate", "empty", "longer", "delete"])
async def test_R24_damage_is_found_by_every_reader(
    blobs: FileBlobs, damage: Damage, tmp_path: Path, how: str, size: int
) -> None:
    data = os.urandom(size)
    changed: dict[str, bytes | None] = {
        "flip first": bytes([data[0] ^ 1]) + data[1:],
        "flip last": data[:-1] + bytes([data[-1] ^ 128]),
        "truncate": data[:-1],
        "empty": b"",
        "longer": data + b"\0",
        "delete": None,
    }
    await blobs.put(data)
    damage(sha(data), changed[how])
    target = tmp_path / "folder" / "copy"
    for work in readers(blobs, sha(data), target):
        with pytest.raises(StoreFailed) as caught:
            await work
        assert caught.value.code == ("E_BLOB_MISSING" if how == "delete" else "E_BLOB_CORRUPT")
        assert sha(data) in str(caught.value)
    assert not target.parent.exists() or not list(target.parent.iterdir())
    await blobs.delete(sha(data))
    await blobs.put(data)
    assert await blobs.read(sha(data)) == data


async def test_R24_a_damaged_blob_is_never_served_whole(blobs: FileBlobs, damage: Damage) -> None:
    data = b"x" * 100
    await blobs.put(data)
    for changed, size, served in ((data[:99] + b"!", None, 90), (data[:99], 100, 0), (data + b"!", 100, 0)):
        damage(sha(data), changed)
        got, error = await received(blobs.open(sha(data), size=size, chunk=10))
        assert (len(got), error) == (served, "E_BLOB_CORRUPT")


async def test_R24_a_put_mends_a_blob_of_the_wrong_size(blobs: FileBlobs, damage: Damage) -> None:
    data = os.urandom(1000)
    for streamed in (False, True):
        await blobs.put(data)
        damage(sha(data), b"short")
        await (blobs.put_stream(chunked(data, 10)) if streamed else blobs.put(data))
        assert await blobs.read(sha(data)) == data


async def test_export_is_a_copy_for_people(blobs: FileBlobs, tmp_path: Path) -> None:
    data = os.urandom(2 * MIB + 1)
    blob = await blobs.put(data)
    target = tmp_path / "run" / "step" / "Café 1.png"
    await blobs.export(blob.digest, target)
    assert target.read_bytes() == data
    assert not target.is_symlink()
    assert target.stat().st_nlink == 1
    with target.open("r+b") as file:
        file.write(b"edited by a person")
    assert await blobs.read(blob.digest) == data
    await blobs.export(blob.digest, target)
    assert target.read_bytes() == data
    assert os.listdir(target.parent) == ["Café 1.png"]


async def test_export_replaces_a_link_not_what_it_leads_to(blobs: FileBlobs, tmp_path: Path) -> None:
    blob = await blobs.put(b"new")
    (tmp_path / "precious").write_bytes(b"old")
    (tmp_path / "out").symlink_to(tmp_path / "precious")
    await blobs.export(blob.digest, tmp_path / "out")
    assert not (tmp_path / "out").is_symlink()
    assert (tmp_path / "out").read_bytes() == b"new"
    assert (tmp_path / "precious").read_bytes() == b"old"


async def test_put_file(blobs: FileBlobs, tmp_path: Path) -> None:
    data = os.urandom(3 * MIB + 1)
    (tmp_path / "a.bin").write_bytes(data)
    (tmp_path / "link").symlink_to("a.bin")
    assert await blobs.put_file(tmp_path / "a.bin") == Blob(sha(data), len(data))
    assert await blobs.put_file(tmp_path / "link") == Blob(sha(data), len(data))
    (tmp_path / "a.bin").write_bytes(b"changed later")
    assert await blobs.read(sha(data)) == data


@pytest.mark.parametrize("kind", ["missing", "folder", "FIFO", "device", "link to folder", "dangling", "NUL"])
async def test_put_file_refuses_what_is_no_regular_file(blobs: FileBlobs, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "thing"
    if kind == "folder":
        path.mkdir()
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind == "link to folder":
        path.symlink_to(tmp_path)
    elif kind == "dangling":
        path.symlink_to(tmp_path / "nowhere")
    path = {"device": Path("/dev/zero"), "NUL": Path("thing\0.png")}.get(kind, path)
    with anyio.fail_after(60), pytest.raises(ValueRefused) as caught:
        await blobs.put_file(path)
    assert caught.value.code == "E_VALUE_FILE"
    assert path.name.replace("\0", "\\x00") in str(caught.value)
    assert await kinds(blobs) == []


async def test_put_file_refuses_a_file_that_grows(blobs: FileBlobs, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(bytes(8 * MIB))

    async def grow() -> None:
        while True:
            with path.open("ab") as file:
                file.write(b"more")
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as group:
        group.start_soon(grow)
        with pytest.raises(ValueRefused, match="changed while"):
            await blobs.put_file(path)
        group.cancel_scope.cancel()
    assert await kinds(blobs) == []


@pytest.mark.parametrize("how", ["scope", "task"])
@pytest.mark.parametrize("what", ["put", "put_stream", "put_file", "export", "open"])
async def test_cancel_at_every_suspension(blobs: FileBlobs, tmp_path: Path, how: str, what: str) -> None:
    kept = await blobs.put(os.urandom(2 * MIB + 3))
    source, target = tmp_path / "source", tmp_path / "out" / "copy"
    handles = len(os.listdir("/proc/self/fd"))
    for n in range(1, 200):
        data = os.urandom(2 * MIB + n)
        source.write_bytes(data)
        works: dict[str, Callable[[], Awaitable[Any]]] = {
            "put": lambda data=data: blobs.put(data),  # type: ignore[misc]
            "put_stream": lambda data=data: blobs.put_stream(chunked(data, 400_000)),  # type: ignore[misc]
            "put_file": lambda: blobs.put_file(source),
            "export": lambda: blobs.export(kept.digest, target),
            "open": lambda: joined(blobs.open(kept.digest)),
        }
        went_on = await cancelled_at(n, how, works[what])
        with anyio.fail_after(60):  # a thread that asyncio's own cancel leaves behind has to come to its end
            while "temp" in await kinds(blobs) or (target.parent.exists() and len(os.listdir(target.parent)) > 1):
                assert how == "task"
                assert what in ("put", "export")
                await anyio.sleep(0.005)
        if await blobs.exists(sha(data)):
            assert await blobs.read(sha(data)) == data
            await blobs.delete(sha(data))
        if not went_on:
            break
    else:
        pytest.fail("it never came to its end")
    assert n > 1
    with anyio.fail_after(60):
        while len(os.listdir("/proc/self/fd")) > handles:  # noqa: ASYNC110 - nothing tells
            await anyio.sleep(0.005)
    assert await blobs.read(kept.digest)


@pytest.mark.parametrize("milliseconds", range(0, 30, 2))
async def test_cancel_after_a_while(blobs: FileBlobs, milliseconds: int) -> None:
    with anyio.move_on_after(milliseconds / 1000):
        await blobs.put_stream(chunked(os.urandom(8 * MIB), 50_000))
    assert "temp" not in await kinds(blobs)


async def test_a_long_put_is_cancelled_soon(blobs: FileBlobs, tmp_path: Path) -> None:
    with (tmp_path / "long").open("wb") as file:
        file.truncate(1 << 40)
    with anyio.fail_after(60), anyio.move_on_after(0.05):
        await blobs.put_file(tmp_path / "long")
    assert await kinds(blobs) == []


async def test_a_stream_is_never_whole_in_memory(blobs: FileBlobs) -> None:
    piece = os.urandom(100_000)

    async def source() -> AsyncIterator[bytes]:
        for _ in range(64 * MIB // len(piece)):
            yield bytes(bytearray(piece))

    await blobs.put(b"warm")
    tracemalloc.start()
    try:
        blob = await blobs.put_stream(source())
        async for _ in blobs.open(blob.digest):
            pass
        await blobs.verify(blob.digest)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * MIB
