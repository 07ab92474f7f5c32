"""The suites that every store must pass, on each backend."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import pytest

from tests.conformance.moments import *  # noqa: F403
from tests.conformance.store import *  # noqa: F403
from tests.store.conftest import sqlite
from towpath.store import RunStore, fsck

pytestmark = pytest.mark.anyio

Backend = Callable[[Path], AbstractAsyncContextManager[RunStore]]
BACKENDS: dict[str, Backend] = {
    "sqlite": partial(sqlite, durability="full"),
    "sqlite-normal": partial(sqlite, durability="normal"),
}
"""What opens a new store, given a folder of the test's own."""


@pytest.fixture(params=BACKENDS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RunStore]:
    async with BACKENDS[request.param](tmp_path) as opened:
        yield opened
        report = await fsck(opened)
        assert report.problems == (), str(report)
