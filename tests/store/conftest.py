"""An open store for each test; when the test is over it must still be whole."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from tests.adapters.conftest import warm_cli
from towpath.store import RunStore, fsck, open_store

__all__ = ["warm_cli"]

pytest.register_assert_rewrite("tests.conformance")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def sqlite(folder: Path, durability: str = "normal") -> AbstractAsyncContextManager[RunStore]:
    """A SQLite store in a folder, without fsync unless `durability` is "full"."""
    return open_store(folder / "towpath.db", durability=durability, busy_timeout=5)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[RunStore]:
    """A new store without fsync; the test ends with `fsck`."""
    async with sqlite(tmp_path) as opened:
        yield opened
        report = await fsck(opened)
        assert report.problems == (), str(report)
