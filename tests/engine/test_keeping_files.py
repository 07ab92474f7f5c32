"""How the files of a returned value are stored: several at a time, recorded in their order."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from towpath.artifact import File, KeptFile
from towpath.attempt import keep_outcome
from towpath.context import StepContext
from towpath.errors import StoreFailed

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class SlowFiles:
    """Stores nothing; says how many files were being stored at once, and finishes the last one first."""

    def __init__(self, *broken: bytes) -> None:
        self.now = self.most = self.ended = 0
        self._broken = broken

    async def keep(
        self, data: bytes | Path | AsyncIterable[bytes], filename: str | None, media: str | None, stem: str
    ) -> KeptFile:
        self.now += 1
        self.most = max(self.most, self.now)
        if isinstance(data, AsyncIterable):
            data = b"".join([chunk async for chunk in data])
        assert isinstance(data, bytes)
        for _ in range(20 - data[0]):
            await anyio.lowlevel.checkpoint()
        self.now -= 1
        self.ended += 1
        if data in self._broken:
            raise StoreFailed("E_DISK_IO", f"file {data[0]}")
        return KeptFile(f"{data[0]}.bin", "text/plain", 1, f"{data[0]}")


async def kept(value: object, files: Any) -> list[tuple[str, str]]:
    numbers = itertools.count()
    outcome = await keep_outcome(value, StepContext("run", "step", None, 1), files, lambda: f"id{next(numbers)}", {})
    return [(artifact.id, artifact.digest) for artifact in outcome.artifacts]


async def test_files_are_stored_at_once_and_recorded_in_their_order() -> None:
    files = SlowFiles()
    found = await kept([bytes([number]) for number in range(10)], files)
    assert found == [(f"id{number}", f"{number}") for number in range(10)]
    assert files.most == 10


async def test_the_first_error_in_their_order_is_raised_when_none_is_written_any_more() -> None:
    files = SlowFiles(bytes([3]), bytes([8]))
    with pytest.raises(StoreFailed, match="file 3"):
        await kept([bytes([number]) for number in range(10)], files)
    assert (files.now, files.ended) == (0, 10)


async def test_streams_run_code_of_the_user_so_they_are_read_one_after_the_other() -> None:
    async def stream(number: int) -> AsyncIterator[bytes]:
        yield bytes([number])

    files = SlowFiles()
    found = await kept([File(stream(0)), bytes([1]), File(stream(2))], files)
    assert [digest for _, digest in found] == ["0", "1", "2"]
    assert files.most == 1
