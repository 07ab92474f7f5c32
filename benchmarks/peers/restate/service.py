"""A Restate service with its server: the service runs in this process, the server (a Rust binary) beside it."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from hypercorn.asyncio import serve
from hypercorn.config import Config

PATIENCE = 60.0
SERVER = "node_modules/@restatedev/restate-server-*/bin/restate-server"


class Restate:
    """Server and service, on free ports of this machine."""

    def __init__(self, app: Any, folder: Path) -> None:
        self._ports = free_ports(4)
        self._serve(app)
        service, self._ingress, self._admin, node = self._ports
        local = "127.0.0.1"
        settings = {
            "RESTATE_BASE_DIR": str(folder / "restate"),
            "RESTATE_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "1",
            "RUST_LOG": "error",
            "RESTATE_BIND_ADDRESS": f"{local}:{node}",
            "RESTATE_ADVERTISED_ADDRESS": f"http://{local}:{node}",
            "RESTATE_INGRESS__BIND_ADDRESS": f"{local}:{self._ingress}",
            "RESTATE_ADMIN__BIND_ADDRESS": f"{local}:{self._admin}",
        }
        binary = next(Path(os.environ["BENCH_ENVIRONMENT"]).glob(SERVER))
        self._process = subprocess.Popen([binary], env={**os.environ, **settings}, cwd=folder)
        self._post(self._admin, "/deployments", {"uri": f"http://{local}:{service}"})

    def _serve(self, app: Any) -> None:
        settings = Config()
        settings.bind, settings.loglevel = [f"127.0.0.1:{self._ports[0]}"], "ERROR"

        def forever() -> None:
            asyncio.run(serve(app, settings, shutdown_trigger=asyncio.Event().wait))

        threading.Thread(target=forever, daemon=True).start()

    def call(self, path: str, body: Any) -> Any:
        """Call a handler and wait for what it gives."""
        return self._post(self._ingress, path, body)

    def _post(self, port: int, path: str, body: Any) -> Any:
        """Retried while the server starts and until it knows the service."""
        end = time.monotonic() + PATIENCE
        kind = {"content-type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", json.dumps(body).encode(), kind)
        while True:
            try:
                with urllib.request.urlopen(request, timeout=PATIENCE * 5) as answer:
                    return json.loads(answer.read())
            except urllib.error.HTTPError as error:
                if error.code not in (404, 500, 503) or time.monotonic() > end:
                    raise RuntimeError(error.read()) from error
            except urllib.error.URLError:
                if time.monotonic() > end:
                    raise
            time.sleep(0.05)

    def stop(self) -> None:
        """End the server."""
        self._process.terminate()
        self._process.wait()


def free_ports(count: int) -> list[int]:
    """Ports that are free now, all different."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
