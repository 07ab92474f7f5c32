"""Two stand-ins for ComfyUI, a store that must be whole at the end, and a folder of the test's own to be in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.comfyui.chain_fixtures import one, two
from towpath.store import RunStore, fsck, open_store

__all__ = ["anyio_backend", "here", "one", "store", "two"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with no settings in it nor in the environment."""
    for name in ("TOWPATH_STORE", "TOWPATH_BLOBS", "TOWPATH_ADAPTER", "TOWPATH_WORKFLOWS", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[RunStore]:
    """A new store without fsync; the test ends with `fsck`."""
    async with open_store(tmp_path / "towpath.db", durability="normal", busy_timeout=5) as opened:
        yield opened
        report = await fsck(opened)
        assert report.problems == (), str(report)
