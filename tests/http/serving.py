"""An app on a socket, for what a transport without one cannot show: streams, cuts, slow readers."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
import uvicorn
from starlette.applications import Starlette

from towpath.adapters.http.connections import ServerConfig

PATIENCE = 120.0  # seconds; longer than any wait on a busy machine, so that only a test that hangs fails by it


async def eventually(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Wait until a condition holds."""
    with anyio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for knows nothing of us
            await anyio.sleep(0.01)


@contextmanager
def _no_signals() -> Iterator[None]:
    yield


@asynccontextmanager
async def on_a_socket(app: Any, **options: Any) -> AsyncIterator[str]:
    """The app on a free port of this machine, in this event loop; its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = ServerConfig(app, lifespan="off", timeout_graceful_shutdown=2, **options)
    server = uvicorn.Server(config)
    server.capture_signals = _no_signals  # type: ignore[method-assign]
    with listener:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: server.serve(sockets=[listener]))
            await eventually(lambda: server.started)
            try:
                yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            finally:
                if isinstance(app, Starlette) and hasattr(app.state, "feed"):
                    app.state.feed.close()
                server.should_exit = True
