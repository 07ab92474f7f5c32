"""Run it: python examples/on_temporal.py

The chain of `script.py`, unchanged, on Temporal. The script starts a server for trying things out, which keeps
everything in memory, and a worker inside this process. With a server of your own, set `TOWPATH_ADAPTER` and start
workers with `towpath worker --import examples/script.py`: then this file is `script.py` again.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from script import READINGS, weather

from towpath import open_engine

TOWPATH = Path(sys.executable).with_name("towpath")


@contextmanager
def dev_server() -> Iterator[str]:
    """A Temporal server on free ports for as long as the block lasts; yields the address for `adapter=`."""
    port, pages = free_port(), free_port()
    command = [str(TOWPATH), "temporal", "dev", "--port", str(port), "--ui-port", str(pages)]
    process = subprocess.Popen(command)
    try:
        yield f"temporal://127.0.0.1:{port}/default"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def free_port() -> int:
    """A port that no program listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


async def wait_until_ready(adapter: str) -> None:
    """Wait until the server takes connections."""
    host, _, port = adapter.removeprefix("temporal://").removesuffix("/default").partition(":")
    while True:
        try:
            _, writer = await asyncio.open_connection(host, int(port))
        except OSError:
            await asyncio.sleep(0.1)
        else:
            return writer.close()


async def main(adapter: str) -> None:
    """The same two lines as in `script.py`, with another adapter."""
    await wait_until_ready(adapter)
    async with open_engine("sqlite:///towpath.db", adapter=adapter, worker=True) as engine:
        run = await engine.run(weather, stations=sorted(READINGS))
        print((await run.value.read_bytes()).decode())
        print(f"run {run.id} {run.status} on {adapter}")


if __name__ == "__main__":
    if "TOWPATH_ADAPTER" in os.environ:
        asyncio.run(main(os.environ["TOWPATH_ADAPTER"]))
    else:
        with dev_server() as address:
            asyncio.run(main(address))
