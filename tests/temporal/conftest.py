"""What tests of the Temporal adapter share: one real server per session, a task queue per test, long deadlines."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.adapters.conftest import OpenEngine, anyio_backend, check, commits, store
from towpath import Engine
from towpath import open_engine as open_real_engine
from towpath.adapters.temporal import worker

from . import STICKY
from .dev_server import DevServer, needs_server

__all__ = ["anyio_backend", "commits", "store"]


@pytest.fixture(autouse=True)
def short_sticky_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests stop and kill workers. Do not wait long for a worker that is gone."""
    monkeypatch.setattr(worker, "STICKY", STICKY)


@pytest.fixture(scope="session")
def temporal_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevServer]:
    """A Temporal server in memory."""
    needs_server()
    server = DevServer(tmp_path_factory.mktemp("temporal") / "server.log")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def heartbeat() -> str:
    """The heartbeat timeout. A busy machine must not lose steps, so modules that kill workers have a shorter one."""
    return "6s"


@pytest.fixture
def adapter(temporal_server: DevServer, heartbeat: str) -> str:
    """The adapter's address, with a task queue of the test's own."""
    return f"temporal://{temporal_server.target}/default?task_queue=test-{uuid.uuid4().hex[:12]}&heartbeat={heartbeat}"


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of a developer's own settings."""
    for name in ("TOWPATH_STORE", "TOWPATH_BLOBS", "TOWPATH_ADAPTER", "DATABASE_URL", "TEMPORAL_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TEMPORAL_CONFIG_FILE", "/dev/null")


@pytest.fixture
def open_engine(store: Path, adapter: str, clean_environment: None) -> Iterator[OpenEngine]:
    """Opens an engine with a worker on the test's store. After the test the store is checked from top to bottom."""

    def opened(**options: Any) -> AbstractAsyncContextManager[Engine]:
        given = {"durability": "normal", "adapter": adapter, "worker": True, **options}
        return open_real_engine(f"sqlite:///{store}", **given)

    yield opened
    if store.exists():
        check(store)
