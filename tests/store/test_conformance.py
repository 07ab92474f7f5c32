"""The suites that every store must pass, on each backend."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, closing
from functools import partial
from pathlib import Path

import pytest

from tests.conformance.moments import *  # noqa: F403
from tests.conformance.store import *  # noqa: F403
from tests.store.conftest import sqlite
from towpath.store import RunStore, fsck

pytestmark = pytest.mark.anyio

Backend = Callable[[Path], AbstractAsyncContextManager[RunStore]]
FIRST_SCHEMA_4 = Path(__file__).with_name("schema_4.sql")


def sqlite_made_earlier(folder: Path) -> AbstractAsyncContextManager[RunStore]:
    """A store whose tables have the first spelling of schema 4. It is opened and used as it is."""
    with closing(sqlite3.connect(folder / "towpath.db")) as connection:
        connection.executescript(FIRST_SCHEMA_4.read_text())
    return sqlite(folder)


BACKENDS: dict[str, Backend] = {
    "sqlite": partial(sqlite, durability="full"),
    "sqlite-normal": partial(sqlite, durability="normal"),
    "sqlite-made-earlier": sqlite_made_earlier,
}
"""What opens a new store, given a folder of the test's own."""


@pytest.fixture(params=BACKENDS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RunStore]:
    async with BACKENDS[request.param](tmp_path) as opened:
        yield opened
        report = await fsck(opened)
        assert report.problems == (), str(report)
