"""Reading artifacts around the life of an engine: afterwards, while it closes, without its loop, after edits."""

from __future__ import annotations

import asyncio
import copy
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from tests.adapters.conftest import OpenEngine
from tests.conformance.reading_steps import content, tables
from towpath import Artifact, Engine, StoreFailed, TowpathError, chain

pytestmark = pytest.mark.anyio
SIZES = pytest.mark.parametrize("which", [0, 1], ids=["in the database", "in a blob"])


@chain
def two_tables() -> Any:
    return tables()


async def made(engine: Engine) -> list[Artifact]:
    run = await engine.run(two_tables)
    found: list[Artifact] = run["tables"].artifacts
    return sorted(found, key=lambda artifact: artifact.size)


async def in_thread(call: Callable[[], Any]) -> Any:
    """What a call returns, or raises, in a thread that anyio does not know. A hang fails the test."""
    answer: list[Any] = []

    def work() -> None:
        try:
            answer.append(call())
        except Exception as error:
            answer.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    with anyio.fail_after(20):
        while not answer:  # noqa: ASYNC110 - the thread knows no loop
            await anyio.sleep(0.01)
    return answer[0]


@SIZES
async def test_files_are_read_after_the_run(open_engine: OpenEngine, which: int) -> None:
    async with open_engine() as engine:
        artifact = (await made(engine))[which]
        assert await in_thread(artifact.bytes) == content(artifact.size)
        assert await in_thread(lambda: open(artifact, "rb").read()) == content(artifact.size)  # noqa: SIM115
        assert await anyio.to_thread.run_sync(artifact.bytes) == content(artifact.size)
        with pytest.raises(TowpathError, match="E_SYNC_IN_LOOP"):
            artifact.bytes()


@SIZES
async def test_a_closed_engine_says_so(open_engine: OpenEngine, which: int) -> None:
    async with open_engine() as engine:
        artifact = (await made(engine))[which]
    for way in (artifact.bytes, artifact.text, artifact.__fspath__):
        error = await in_thread(way)
        assert isinstance(error, StoreFailed)
        assert error.code == "E_DB_CLOSED"
        assert "before the engine is closed" in error.problem.cure


async def test_threads_that_read_while_the_engine_closes_all_end(open_engine: OpenEngine) -> None:
    """Each gets the bytes or E_DB_CLOSED."""
    ended: list[object] = []
    async with open_engine() as engine:
        artifacts = await made(engine)

        def read(number: int) -> None:
            artifact = artifacts[number % 2]
            try:
                while True:
                    assert artifact.bytes() == content(artifact.size)
                    Path(artifact)
            except Exception as error:
                ended.append(error)

        threads = [threading.Thread(target=read, args=(n,), daemon=True) for n in range(100)]
        for thread in threads:
            thread.start()
        await anyio.sleep(0.1)
    for thread in threads:
        await anyio.to_thread.run_sync(thread.join, 20)
    assert {getattr(error, "code", error) for error in ended} == {"E_DB_CLOSED"}
    assert len(ended) == 100


def test_an_engine_that_was_never_closed_does_not_hang_a_reader(store: Path) -> None:
    """Its loop is gone. The bytes, or one error; soon."""

    async def opened() -> list[Artifact]:
        return await made(await Engine.open(store))

    artifacts = asyncio.run(opened())
    began = time.monotonic()
    for artifact in artifacts:
        for way in (artifact.bytes, artifact.__fspath__):
            try:
                way()
            except StoreFailed as error:
                assert error.code == "E_DB_CLOSED"  # noqa: PT017
    assert time.monotonic() - began < 20


async def test_an_edited_copy_stays_and_no_step_gets_it(open_engine: OpenEngine, store: Path) -> None:
    """Also if its size is the same, or a folder is in its place. The version is what it was."""
    async with open_engine() as engine:
        for artifact in await made(engine):
            whole = content(artifact.size)
            first = await artifact.path()
            assert await artifact.path() == first
            assert not set("[]") & set(first.name)
            first.write_bytes(whole.upper().replace(b"12", b"21"))
            second = await artifact.path()
            assert (second.parent, second.suffix, second.read_bytes()) == (first.parent, first.suffix, whole)
            assert second != first
            assert first.read_bytes() != whole
            second.write_bytes(b"edited too")
            assert (await artifact.path()).read_bytes() == whole
            first.unlink()
            first.mkdir()
            assert (await artifact.path()).read_bytes() == whole
            assert await artifact.read_bytes() == whole


async def test_a_copy_of_an_older_version_of_towpath_is_used(open_engine: OpenEngine) -> None:
    """Its time does not say that it is whole: its digest does."""
    async with open_engine() as engine:
        for artifact in await made(engine):
            copied = await artifact.path()
            os.utime(copied, (1, 1))
            assert await artifact.path() == copied
            assert copied.stat().st_mtime_ns % 10**9  # it is marked, so the next look costs nothing


async def test_damaged_bytes_are_never_given(open_engine: OpenEngine, store: Path) -> None:
    async with open_engine() as engine:
        _, artifact = await made(engine)
        (blob,) = (p for p in store.with_name("towpath-store").rglob(artifact.digest))
        whole = blob.read_bytes()
        blob.chmod(0o600)
        blob.write_bytes(whole.replace(b"1", b"2"))
        for way in (artifact.bytes, artifact.text, artifact.__fspath__):
            assert (await in_thread(way)).code == "E_BLOB_CORRUPT"
        blob.write_bytes(whole)
        assert await in_thread(artifact.bytes) == whole


async def test_a_copy_of_an_artifact_is_the_artifact(open_engine: OpenEngine) -> None:
    async with open_engine() as engine:
        (artifact, _) = await made(engine)
        assert copy.copy(artifact) is copy.deepcopy({"in": [artifact]})["in"][0] is artifact


@SIZES
async def test_a_forked_child_reads_or_is_refused(open_engine: OpenEngine, which: int) -> None:
    """It has no connection to the database. What is a file can be read; for the rest it is told what to do."""
    async with open_engine() as engine:
        artifact = (await made(engine))[which]

        def forked(read: Callable[[], Any]) -> bytes:
            reading, writing = os.pipe()
            child = os.fork()
            if child == 0:
                try:
                    os.write(writing, str(len(read())).encode())
                except TowpathError as error:
                    os.write(writing, error.code.encode())
                finally:
                    os._exit(0)
            os.close(writing)
            with open(reading, "rb") as answer:
                found = answer.read()
            os.waitpid(child, 0)
            return found

        expected = b"E_DB_FORKED" if which == 0 else str(artifact.size).encode()
        assert await in_thread(lambda: forked(artifact.bytes)) == expected
        assert await in_thread(lambda: forked(lambda: Path(artifact))) == b"E_DB_FORKED"
        place = await artifact.path()
        assert await in_thread(lambda: forked(place.read_bytes)) == str(artifact.size).encode()
