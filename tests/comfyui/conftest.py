"""One stand-in for all tests of this folder; each test finds it as if it had just been started."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.comfyui.running import ComfyServer, shared_server
from tests.comfyui.talking import Client


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ComfyServer:
    """A ComfyUI server that knows nothing and has no faults."""
    return shared_server(request.config, tmp_path_factory, "comfyui")


@pytest.fixture
def client(server: ComfyServer) -> Iterator[Client]:
    """HTTP to `server`."""
    with Client(server) as client:
        yield client
