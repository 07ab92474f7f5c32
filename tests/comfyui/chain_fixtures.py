"""Fixtures of tests with chains over two stand-ins: `from tests.comfyui.chain_fixtures import *`."""

from __future__ import annotations

import json
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.adapters.conftest import OpenEngine, anyio_backend, open_engine, store
from tests.comfyui.chains import QUICK
from tests.comfyui.running import ComfyServer, shared_server
from towpath import Engine

__all__ = ["Farming", "anyio_backend", "farming", "one", "open_engine", "store", "two", "workflows"]


@pytest.fixture
def one(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ComfyServer:
    """A server that knows nothing and has no faults."""
    return shared_server(request.config, tmp_path_factory, "one")


@pytest.fixture
def two(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ComfyServer:
    """Another one."""
    return shared_server(request.config, tmp_path_factory, "two")


class Farming(Protocol):
    def __call__(self, *servers: Any, **options: Any) -> AbstractAsyncContextManager[Engine]: ...


@pytest.fixture
def workflows(tmp_path: Path) -> Path:
    """The folder of the test's workflow files."""
    folder = tmp_path / "workflows"
    folder.mkdir()
    return folder


@pytest.fixture
def farming(open_engine: OpenEngine, workflows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Farming:
    """Opens an engine over servers, with the test's workflow files and with short timeouts.

    `timeouts` takes its place under `[comfyui]`.
    """

    def opened(*servers: Any, timeouts: dict[str, Any] | None = None, **options: Any) -> Any:
        words = {**QUICK, **(timeouts or {})}
        lines = [f"{key} = {json.dumps(value)}" for key, value in words.items()]
        (tmp_path / "towpath.toml").write_text("[comfyui]\n" + "\n".join(lines) + "\n")
        monkeypatch.chdir(tmp_path)
        return open_engine(**{"servers": list(servers), "workflows": workflows, **options})

    return opened
