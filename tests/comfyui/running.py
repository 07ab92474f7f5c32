"""Starts, hurts and stops the stand-in for a ComfyUI server in tests."""

from __future__ import annotations

import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.comfyui.server.visits import LOG, read_log

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 30.0  # seconds that a start may take on a busy machine


class ComfyServer:
    """One stand-in as a process. Its port is its own as long as this object lives, so a restart gets it again.

    `options` are those of the command line: `version="0.24.0"`, `token="s3cret"`, `max_upload=1_000_000`,
    `prefix="/base"`, `cache_lru=True`.
    """

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        self.options = options
        self.process: subprocess.Popen[bytes] | None = None
        # Bound, but never listening: nobody else gets the port, and a client is refused while the server is down.
        self._place = socket.socket()
        self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._place.bind(("127.0.0.1", 0))
        self.port: int = self._place.getsockname()[1]
        self._root = f"http://127.0.0.1:{self.port}"
        self.url = self._root + str(options.get("prefix", ""))

    def start(self) -> None:
        """Start it and wait until it listens."""
        command = [sys.executable, "-m", "tests.comfyui.server", "--port", str(self.port), "--folder", str(self.folder)]
        for name, value in self.options.items():
            flag = f"--{name.replace('_', '-')}"
            command += [flag] if value is True else [flag, str(value)]
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log)
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
        assert ready, "the server does not say that it is ready"
        assert self.process.stdout.readline().startswith(b"ready "), (self.folder / "server.log").read_text()

    def stop(self) -> None:
        """SIGTERM; it stops at once."""
        self._end("terminate")

    def kill(self) -> None:
        """SIGKILL, as a crash or a power cut would end it."""
        self._end("kill")

    def _end(self, how: str) -> None:
        if self.process is not None:
            getattr(self.process, how)()
            self.process.communicate(timeout=PATIENCE)
            self.process = None

    def restart(self) -> None:
        """Start it again on the same port and folder: its queue, history and counter are gone, its files are not."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Stop it and give its port back."""
        self.kill()
        self._place.close()

    def control(self, **faults: Any) -> dict[str, Any]:
        """Switch faults (`server/faults.py` lists them); what is switched now."""
        switched: dict[str, Any] = self._said("POST", "/test/faults", faults)
        return switched

    def log(self, path: str = "", method: str = "") -> list[dict[str, Any]]:
        """The requests so far, in order: method, path, query, headers, status, body (of JSON), size (of the body),
        and the ids of the prompts that waited or ran when it was answered.

        With `path` and `method` only those whose path holds it. A status of None: not answered (yet). Those before
        a restart are in it too; the server need not be alive.
        """
        lines = read_log(self.folder / LOG)
        return [line for line in lines if path in line["path"] and method in {"", line["method"]}]

    def reset(self) -> None:
        """Forget log, faults, queue, history, cache and files, stop what runs, cut the websockets."""
        self._said("POST", "/test/reset")

    def _said(self, method: str, path: str, body: object = None) -> Any:
        # There is no TLS here, and setting it up would take longer than the request.
        with httpx.Client(trust_env=False, verify=False, timeout=PATIENCE) as client:
            answer = client.request(method, self._root + path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()


_SHARED = pytest.StashKey[dict[str, ComfyServer]]()


def shared_server(config: pytest.Config, folders: pytest.TempPathFactory, name: str, **options: Any) -> ComfyServer:
    """The stand-in of that name for all tests of this process, as if it had just been started."""
    servers = config.stash.setdefault(_SHARED, {})
    if name not in servers:
        servers[name] = ComfyServer(folders.mktemp(name), **options)
        config.add_cleanup(servers[name].close)
    server = servers[name]
    if server.process is None:  # it is new, or an earlier test stopped it
        server.start()
    server.reset()
    return server


@contextmanager
def comfy_server(folder: Path, **options: Any) -> Iterator[ComfyServer]:
    """A running stand-in, killed at the end."""
    server = ComfyServer(folder, **options)
    try:
        server.start()
        yield server
    finally:
        server.close()
