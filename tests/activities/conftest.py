"""Two stand-ins for ComfyUI, a store that must be whole at the end, and a folder of the test's own to be in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.comfyui.running import ComfyServer, comfy_server
from towpath.store import RunStore, fsck, open_store


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def shared_pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ComfyServer, ComfyServer]]:
    """The processes behind `one` and `two`."""
    folder = tmp_path_factory.mktemp("servers")
    with comfy_server(folder / "one") as first, comfy_server(folder / "two") as second:
        yield first, second


@pytest.fixture
def one(shared_pair: tuple[ComfyServer, ComfyServer]) -> ComfyServer:
    """A server that knows nothing."""
    shared_pair[0].reset()
    return shared_pair[0]


@pytest.fixture
def two(shared_pair: tuple[ComfyServer, ComfyServer]) -> ComfyServer:
    """Another one."""
    shared_pair[1].reset()
    return shared_pair[1]


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
