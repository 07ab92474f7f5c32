"""The blob store on a local disk: the suite of all blob stores, fsync on and off, and what files add."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from blockbuster import blockbuster_ctx

from tests.conformance.blobs import *  # noqa: F403
from tests.conformance.blobs import MIB, Damage, chunked, joined, kinds, readers, sha
from tests.machine import needs
from towpath.errors import StoreFailed
from towpath.store import disk
from towpath.store.blobs import FileBlobs, disk_error
from towpath.store.disk import FolderSyncs

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=[True, False], ids=["fsync", "no-fsync"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> FileBlobs:
    return FileBlobs(tmp_path / "deep" / "store", durable=request.param)


@pytest.fixture
def damage(blobs: FileBlobs) -> Damage:
    def change(digest: str, data: bytes | None) -> None:
        path = blobs.path(digest)
        path.unlink()
        if data is not None:
            path.write_bytes(data)

    return change


@pytest.fixture
def durable(tmp_path: Path) -> FileBlobs:
    return FileBlobs(tmp_path / "store", durable=True)


def put(blobs: FileBlobs, data: bytes, streamed: bool) -> Any:
    return blobs.put_stream(chunked(data, 700_000)) if streamed else blobs.put(data)


both = pytest.mark.parametrize("streamed", [False, True], ids=["put", "put_stream"])


async def test_place_and_modes(blobs: FileBlobs) -> None:
    blob = await blobs.put(b"x")
    path = blobs.path(blob.digest)
    assert path == blobs.root / blob.digest[:2] / blob.digest
    assert blobs.key(blob.digest) == f"{blob.digest[:2]}/{blob.digest}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    for folder in (path.parent, blobs.root, blobs.root / "tmp", blobs.root.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


async def test_making_a_store_touches_no_disk(tmp_path: Path) -> None:
    blobs = FileBlobs(tmp_path / "store")
    assert [f async for f in blobs.scan()] == []
    assert not (tmp_path / "store").exists()


async def test_export_has_an_inode_of_its_own(blobs: FileBlobs, tmp_path: Path) -> None:
    blob = await blobs.put(b"x" * 10_000)
    await blobs.export(blob.digest, tmp_path / "copy")
    assert (tmp_path / "copy").stat().st_ino != blobs.path(blob.digest).stat().st_ino
    assert stat.S_IMODE((tmp_path / "copy").stat().st_mode) & 0o600 == 0o600


@both
async def test_the_same_content_is_written_once(blobs: FileBlobs, streamed: bool) -> None:
    data = os.urandom(MIB + 1)
    blob = await put(blobs, data, streamed)
    path = blobs.path(blob.digest)
    os.utime(path, (0, 0))
    before = path.stat()
    await put(blobs, data, streamed)
    after = path.stat()
    assert before.st_ino == after.st_ino
    assert after.st_mtime > time.time() - 60  # so that a collector's grace time starts anew


@pytest.mark.parametrize("kind", ["link", "dangling", "hard link of other", "FIFO", "folder", "device", "socket"])
async def test_R24_blob_replaced_by_something_else(blobs: FileBlobs, tmp_path: Path, kind: str) -> None:
    data = b"precious"
    digest = (await blobs.put(data)).digest
    path, other = blobs.path(digest), tmp_path / "other"
    path.unlink()
    other.write_bytes(data if kind == "link" else b"other")
    replace_with(path, other, kind)
    with anyio.fail_after(60):
        for work in readers(blobs, digest, tmp_path / "out"):
            with pytest.raises(StoreFailed) as caught:
                await work
            assert caught.value.code == "E_BLOB_CORRUPT"
        found = await kinds(blobs)
        assert found == {"folder": [], "hard link of other": ["blob"]}.get(kind, ["foreign"])
        assert await blobs.exists(digest) is (kind == "hard link of other")
        if kind == "folder":
            with pytest.raises(StoreFailed, match="E_BLOB_CORRUPT"):
                await blobs.put(data)
        else:
            await blobs.put(data)
            assert await blobs.read(digest) == data
    assert other.read_bytes() == (data if kind == "link" else b"other")
    assert not list((blobs.root / "tmp").iterdir())


def replace_with(path: Path, other: Path, kind: str) -> None:
    if kind == "link":
        path.symlink_to(other)
    elif kind == "dangling":
        path.symlink_to(other.parent / "nowhere")
    elif kind == "hard link of other":
        path.hardlink_to(other)
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        os.mknod(path, stat.S_IFSOCK | 0o600)
    else:
        needs("device")
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))  # /dev/zero: endless


async def test_scan_tells_temp_and_foreign_files_and_follows_no_link(blobs: FileBlobs, tmp_path: Path) -> None:
    blob = await blobs.put(b"x")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(b"x")
    (blobs.root / "tmp" / "left-over").write_bytes(b"123")
    (blobs.root / "note.txt").write_bytes(b"")
    (blobs.root / blob.digest).write_bytes(b"x")  # right name, wrong folder
    (blobs.root / "link").symlink_to(tmp_path / "outside")
    (blobs.root / "zz").symlink_to(blobs.root)
    found = {f.path.relative_to(blobs.root).as_posix(): (f.kind, f.digest) async for f in blobs.scan()}
    assert found.pop(blobs.path(blob.digest).relative_to(blobs.root).as_posix()) == ("blob", blob.digest)
    assert found.pop("tmp/left-over") == ("temp", "")
    assert found == {
        "note.txt": ("foreign", ""),
        blob.digest: ("foreign", ""),
        "link": ("foreign", ""),
        "zz": ("foreign", ""),
    }


async def test_nothing_blocks_the_event_loop(blobs: FileBlobs, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"s" * 10_000)
    with blockbuster_ctx():
        blob = await blobs.put(b"x" * 10_000)
        await blobs.put_stream(chunked(b"y" * 2_000_000, 1000))
        await blobs.put_file(tmp_path / "source")
        await blobs.read(blob.digest)
        await joined(blobs.open(blob.digest))
        await blobs.export(blob.digest, tmp_path / "copy")
        await blobs.verify(blob.digest)
        assert await kinds(blobs) == ["blob"] * 3
        await blobs.delete(blob.digest)


async def test_killed_before_the_rename_leaves_only_a_temp_file(tmp_path: Path) -> None:
    script = """
import anyio, os, signal, sys
from pathlib import Path
from towpath.store.blobs import FileBlobs
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
anyio.run(FileBlobs(Path(sys.argv[1])).put, b"never seen")
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "store")], check=False, timeout=60)  # noqa: ASYNC221
    assert done.returncode == -signal.SIGKILL
    blobs = FileBlobs(tmp_path / "store")
    assert await kinds(blobs) == ["temp"]
    assert not await blobs.exists(sha(b"never seen"))


# ---- faults


class Faults:
    """Makes the n-th call of `os.<name>` (from 1) and all later ones fail, or only the n-th with `once`."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch, self.calls = patch, 0

    def arm(self, name: str, number: int, at: int = 1, *, once: bool = False, only: str = "") -> None:
        real: Callable[..., Any] = getattr(os, name)
        self.calls = 0

        def failing(*args: Any, **options: Any) -> Any:
            if only and only not in str(args[0]):
                return real(*args, **options)
            self.calls += 1
            if self.calls == at or (self.calls > at and not once):
                raise OSError(number, os.strerror(number))
            return real(*args, **options)

        self.patch.setattr(os, name, failing)


@pytest.fixture
def faults() -> Iterator[Faults]:
    with pytest.MonkeyPatch.context() as patch:
        yield Faults(patch)


@both
async def test_R05_a_failed_fsync_fails_the_put_and_is_not_retried(
    durable: FileBlobs, faults: Faults, streamed: bool
) -> None:
    data = os.urandom(MIB)
    await durable.put(b"first")  # so that the first fsync is the file's, not that of the new root's entry
    faults.arm("fsync", errno.EIO)
    with pytest.raises(StoreFailed) as caught:
        await put(durable, data, streamed)
    assert caught.value.code == "E_DISK_IO"
    assert faults.calls == 1
    assert not await durable.exists(sha(data))
    assert await kinds(durable) == ["blob"]


@both
async def test_R05_every_fsync_counts(tmp_path: Path, faults: Faults, streamed: bool) -> None:
    """Whichever fsync fails, the put fails; and the next put of the content writes it anew."""
    data = os.urandom(5000)
    # the root's entry, the file, ab, the entry of ab
    for at in range(1, 5):
        blobs = FileBlobs(tmp_path / f"store{at}", durable=True)
        faults.arm("fsync", errno.EIO, at, once=True)
        with pytest.raises(StoreFailed, match="E_DISK_IO"):
            await put(blobs, data, streamed)
        assert faults.calls == at
        assert "temp" not in await kinds(blobs)
        path = blobs.path(sha(data))
        before = path.stat().st_ino if path.exists() else None
        await put(blobs, data, streamed)
        assert path.stat().st_ino != before
        assert await blobs.read(sha(data)) == data
        faults.patch.undo()
    faults.arm("fsync", errno.EIO, 5)
    await put(FileBlobs(tmp_path / "all", durable=True), data, streamed)
    assert faults.calls == 4


async def test_R05_known_content_is_synced_again_for_the_new_row(durable: FileBlobs, faults: Faults) -> None:
    await FileBlobs(durable.root, durable=False).put(b"written without fsync")
    faults.arm("fsync", errno.EIO)
    with pytest.raises(StoreFailed, match="E_DISK_IO"):
        await durable.put(b"written without fsync")


async def test_R05_no_fsync_without_durable(tmp_path: Path, faults: Faults) -> None:
    faults.arm("fsync", errno.EIO)
    blobs = FileBlobs(tmp_path / "store", durable=False)
    for streamed in (False, True):
        await put(blobs, b"x", streamed)
    assert faults.calls == 0


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, "E_DISK_FULL"),
        (errno.EDQUOT, "E_DISK_FULL"),
        (errno.EFBIG, "E_DISK_FULL"),
        (errno.EIO, "E_DISK_IO"),
        (errno.EROFS, "E_DISK_READONLY"),
        (errno.EACCES, "E_DISK_READONLY"),
        (errno.EPERM, "E_DISK_READONLY"),
        (errno.EMFILE, "E_DISK_HANDLES"),
        (errno.ENFILE, "E_DISK_HANDLES"),
        (errno.ENODEV, "E_DISK_IO"),
    ],
)
@pytest.mark.parametrize("call", ["open", "write", "replace", "fchmod"])
@both
async def test_R06_a_fault_has_its_code_and_leaves_nothing(
    blobs: FileBlobs, faults: Faults, call: str, number: int, code: str, streamed: bool
) -> None:
    if call == "write" and streamed:
        call = "open"  # aiofiles does not write through os.write; the test with a real limit covers its writes
    faults.arm(call, number, only=str(blobs.root / "tmp") if call in ("open", "replace") else "")
    with pytest.raises(StoreFailed) as caught:
        await put(blobs, os.urandom(MIB), streamed)
    assert caught.value.code == code
    if code != "E_DISK_HANDLES":
        assert str(blobs.root) in str(caught.value)
    faults.patch.undo()
    assert await kinds(blobs) == []


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@both
@pytest.mark.parametrize("allowed", [0, 1000, 2 * MIB + 7])
async def test_R06_a_real_limit_of_file_size(blobs: FileBlobs, allowed: int, streamed: bool) -> None:
    data = os.urandom(3 * MIB)
    with file_size_limit(allowed), pytest.raises(StoreFailed) as caught:
        await put(blobs, data, streamed)
    assert caught.value.code == "E_DISK_FULL"
    assert "bytes free" in str(caught.value)
    assert "towpath resume" in caught.value.problem.cure
    assert await kinds(blobs) == []
    await put(blobs, data, streamed)  # after space was freed
    assert await blobs.read(sha(data)) == data


async def test_R06_a_failed_export_leaves_nothing(blobs: FileBlobs, tmp_path: Path) -> None:
    blob = await blobs.put(os.urandom(2 * MIB))
    target = tmp_path / "out" / "copy"
    with file_size_limit(MIB), pytest.raises(StoreFailed, match="E_DISK_FULL"):
        await blobs.export(blob.digest, target)
    assert not list(target.parent.iterdir())
    target.mkdir()
    with pytest.raises(StoreFailed, match="E_DISK_IO"):
        await blobs.export(blob.digest, target)
    assert list(target.parent.iterdir()) == [target]


async def test_R06_no_handles_left(blobs: FileBlobs) -> None:
    await blobs.put(b"x")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, hard))
        with suppress(OSError):
            while True:
                taken.append(os.dup(0))
        for work in (blobs.put(b"y"), blobs.put_stream(chunked(b"y", 1)), blobs.read(sha(b"x"))):
            with pytest.raises(StoreFailed, match="E_DISK_HANDLES"):
                await work
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert await kinds(blobs) == ["blob"]


def test_R06_disk_error_names_folder_and_cure(tmp_path: Path) -> None:
    error = disk_error(OSError(errno.ENOSPC, "No space left on device"), tmp_path / "not" / "there" / "x")
    assert str(tmp_path / "not" / "there") in str(error)
    assert not error.problem.found.startswith("0 ")
    assert error.exit_code == 4


async def test_figures(tmp_path: Path) -> None:
    """Printed with `-s`, never asserted: what a put costs here."""
    blobs, piece = FileBlobs(tmp_path / "store", durable=False), os.urandom(MIB)

    async def source() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield piece

    times = []
    for _ in range(200):
        data = os.urandom(4096)
        start = time.perf_counter()
        await blobs.put(data)
        times.append(time.perf_counter() - start)
    start, hashed = time.perf_counter(), hashlib.sha256()
    with (tmp_path / "plain").open("wb", buffering=0) as file:
        for _ in range(64):
            file.write(piece)
            hashed.update(piece)
    plain = time.perf_counter() - start
    start = time.perf_counter()
    await blobs.put_stream(source())
    ratio = plain / (time.perf_counter() - start)
    print(f"\nput of 4 KiB: {sorted(times)[100] * 1e6:.0f} us; stream of 64 MiB: {ratio:.2f} of a plain loop")


# ---- stores made before: two levels of folders


def keep_as_before(blobs: FileBlobs, data: bytes) -> tuple[str, Path]:
    """A blob where older versions put it."""
    digest = sha(data)
    path = blobs.root / digest[:2] / digest[2:4] / digest
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(0o444)
    return digest, path


async def test_a_blob_of_an_older_store_is_found_by_every_reader(blobs: FileBlobs, tmp_path: Path) -> None:
    data = os.urandom(2 * MIB + 5)
    digest, path = keep_as_before(blobs, data)
    assert await blobs.read(digest) == data
    assert await joined(blobs.open(digest, size=len(data))) == data
    await blobs.verify(digest)
    await blobs.export(digest, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    assert (await blobs.exists(digest), await blobs.size(digest)) == (True, len(data))
    assert await blobs.places([digest, sha(b"never put")]) == [path, blobs.path(sha(b"never put"))]
    assert [(f.kind, f.digest, f.path) async for f in blobs.scan()] == [("blob", digest, path)]
    path.chmod(0o644)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    for work in readers(blobs, digest, tmp_path / "out"):
        with pytest.raises(StoreFailed, match="E_BLOB_CORRUPT"):
            await work
    assert await blobs.delete(digest)
    assert not await blobs.delete(digest)
    assert await kinds(blobs) == []


@both
async def test_both_layouts_in_one_store_never_hold_the_same_content_twice(blobs: FileBlobs, streamed: bool) -> None:
    data = os.urandom(2 * MIB)
    digest, path = keep_as_before(blobs, data)
    os.utime(path, (0, 0))
    new = await put(blobs, os.urandom(2 * MIB), streamed)
    assert (await put(blobs, data, streamed)).digest == digest
    assert {f.path async for f in blobs.scan()} == {path, blobs.path(new.digest)}
    assert path.stat().st_mtime > time.time() - 60  # so that a collector's grace time starts anew
    path.chmod(0o644)
    path.write_bytes(b"short")
    await put(blobs, data, streamed)
    assert await blobs.read(digest) == data
    assert {f.path async for f in blobs.scan()} == {blobs.path(digest), blobs.path(new.digest)}


async def test_collecting_from_an_older_store(blobs: FileBlobs) -> None:
    digest, path = keep_as_before(blobs, b"forgotten")
    await blobs.put(b"makes the folder for temp files")
    now = int(time.time() * 1e6)
    assert not blobs.collect(digest, now - 60_000_000)
    assert path.exists()
    assert blobs.collect(digest, now + 60_000_000)
    assert not path.exists()


@both
async def test_R05_every_fsync_counts_for_a_blob_of_an_older_store(
    tmp_path: Path, faults: Faults, streamed: bool
) -> None:
    data = os.urandom(5000)
    # the file, ab/cd, the entry of cd, the entry of ab
    for at in range(1, 5):
        blobs = FileBlobs(tmp_path / f"store{at}")
        digest, path = keep_as_before(blobs, data)
        faults.arm("fsync", errno.EIO, at, once=True)
        with pytest.raises(StoreFailed, match="E_DISK_IO"):
            await put(blobs, data, streamed)
        assert faults.calls == at
        await put(blobs, data, streamed)
        assert await blobs.read(digest) == data
        assert [f.path async for f in blobs.scan()] == [blobs.path(digest)]
        assert not path.exists()
        faults.patch.undo()


# ---- shared fsyncs of folders


async def test_R05_a_folder_of_an_earlier_process_is_anchored_once(durable: FileBlobs, faults: Faults) -> None:
    """The first put syncs the entries of all folders that are there: one fsync of the root."""
    contents = [os.urandom(100) for _ in range(50)]
    for data in contents:
        await durable.put(data)
    again = FileBlobs(durable.root)
    for data in contents:
        await durable.delete(sha(data))
    faults.arm("fsync", errno.EIO, 10_000)
    for data in contents:
        await again.put(data)
    assert faults.calls == 2 * len(contents) + 1  # each file, its folder, and the root


class Counted(dict[Any, Any]):
    """A dict that counts who looked for a round."""

    asked = 0

    def setdefault(self, *given: Any) -> Any:
        self.asked += 1
        return super().setdefault(*given)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("fails", [False, True])
def test_R05_one_fsync_of_a_folder_answers_all_who_asked_before_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    began, go_on = [], threading.Semaphore(0)

    def slow(folder: Path) -> None:
        began.append(folder)
        assert go_on.acquire(timeout=60)
        if fails and began.count(tmp_path) == 2 and folder == tmp_path:
            raise OSError(errno.EIO, "no")

    monkeypatch.setattr(disk, "fsync_folder", slow)
    syncs = FolderSyncs()
    waiting = syncs._coming = Counted()
    with ThreadPoolExecutor(10) as pool:
        first = pool.submit(syncs.sync, tmp_path)
        until(lambda: len(began) == 1)
        # The running call may have begun before their renames.
        later = [pool.submit(syncs.sync, tmp_path) for _ in range(8)]
        until(lambda: waiting.asked == 9)
        assert began == [tmp_path]
        go_on.release()
        assert first.exception(60) is None
        until(lambda: len(began) == 2)
        other = pool.submit(syncs.sync, tmp_path / "other")
        until(lambda: len(began) == 3)  # another folder does not wait
        go_on.release(2)
        assert other.exception(60) is None
        assert [one.exception(60) is not None for one in later] == [fails] * 8
    assert began == [tmp_path, tmp_path, tmp_path / "other"]
    assert waiting == {}


def test_an_fsync_of_a_folder_that_was_not_made_answers_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever kept the call from being made: who waited for it must not take its file for durable."""

    def no_memory(folder: Path) -> None:
        raise MemoryError

    monkeypatch.setattr(disk, "fsync_folder", no_memory)
    syncs = FolderSyncs()
    waiting = syncs._coming = Counted()
    running = syncs._running[tmp_path] = threading.Lock()
    with ThreadPoolExecutor(4) as pool:
        with running:
            asked = [pool.submit(syncs.sync, tmp_path) for _ in range(4)]
            until(lambda: waiting.asked == 4)
        raised = [type(one.exception(60)) for one in asked]
    assert sorted(kind.__name__ for kind in raised) == ["MemoryError", "OSError", "OSError", "OSError"]
