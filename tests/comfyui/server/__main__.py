"""Start the stand-in: `python -m tests.comfyui.server --port 0 --folder DIR` prints `ready http://127.0.0.1:PORT`."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from tests.comfyui.server.application import application
from tests.comfyui.server.files import Folders
from tests.comfyui.server.wire import Protocol


class Server(uvicorn.Server):
    """Says when it listens; leaves signals alone."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        assert sockets
        print(f"ready http://127.0.0.1:{sockets[0].getsockname()[1]}", flush=True)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.comfyui.server", description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True, help="input, output and temp are below it")
    parser.add_argument("--version", default="0.33.0", help="behave as this version does")
    parser.add_argument("--token", default="", help="want it from every request")
    parser.add_argument("--max-upload", type=int, default=100 << 20, help="bytes")
    parser.add_argument("--prefix", default="", help="a path in front of all paths, as behind a proxy")
    parser.add_argument("--cache-lru", action="store_true", help="keep results that the next prompt does not use")
    return parser.parse_args()


def main() -> None:
    """Serve until a signal comes; then stop at once, whatever is going on."""
    chosen = options()
    folder = Path(os.path.abspath(chosen.folder))

    def stop(number: int, frame: object) -> None:
        Folders(folder).wipe_temp()
        os._exit(0)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    app = application(
        folder,
        version=chosen.version,
        token=chosen.token,
        max_upload=chosen.max_upload,
        prefix=chosen.prefix,
        keep_cache=chosen.cache_lru,
    )
    # The protocol is named, for asyncio switches Nagle's delay off only where it is.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", chosen.port))
    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="websockets-sansio",
        ws_ping_interval=None,  # the original sends no pings
        ws_per_message_deflate=False,
        log_level="critical",
        access_log=False,
        lifespan="on",
        server_header=False,
    )
    Server(config).run(sockets=[listener])


main()
