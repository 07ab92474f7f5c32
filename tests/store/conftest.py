"""An open store for each test; when the test is over it must still be whole."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from towpath.store import RunStore, fsck, open_store


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[RunStore]:
    """A new store without fsync; the test ends with `fsck`."""
    async with open_store(tmp_path / "towpath.db", durability="normal", busy_timeout=5) as opened:
        yield opened
        report = await fsck(opened)
        assert report.problems == (), str(report)
