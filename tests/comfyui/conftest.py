"""One stand-in for all tests of this folder; each test finds it as if it had just been started."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.comfyui.running import ComfyServer, comfy_server
from tests.comfyui.talking import Client


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """The process behind `server`."""
    with comfy_server(tmp_path_factory.mktemp("comfyui")) as server:
        yield server


@pytest.fixture
def server(shared_server: ComfyServer) -> ComfyServer:
    """A ComfyUI server that knows nothing and has no faults."""
    shared_server.reset()
    return shared_server


@pytest.fixture
def client(server: ComfyServer) -> Iterator[Client]:
    """HTTP to `server`."""
    with Client(server) as client:
        yield client
