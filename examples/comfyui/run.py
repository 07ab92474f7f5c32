"""Run it: python examples/comfyui/run.py

With a server of your own: python examples/comfyui/run.py http://127.0.0.1:8188

Without an address it starts the stand-in server of towpath's tests, which speaks ComfyUI's protocol and returns
generated pictures.
"""

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from towpath import load_chain, open_engine

HERE = Path(__file__).resolve().parent


@contextmanager
def stand_in() -> Iterator[str]:
    """The stand-in server for as long as the block lasts; yields its address."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tests.comfyui.server", "--folder", folder]
        process = subprocess.Popen(command, cwd=HERE.parents[1], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        try:
            yield process.stdout.readline().removeprefix("ready ").strip()
        finally:
            process.terminate()
            process.wait()


async def main(server: str) -> None:
    """Run the chain on one server, and say where the files are."""
    async with open_engine("sqlite:///towpath.db", servers=[server]) as engine:
        run = await engine.run(load_chain(HERE / "chain.yaml"), colour=0x336699)
        for step in run.steps:
            print(step.id, step.status, step.server or "", await step.artifact.path())


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(main(sys.argv[1]))
    else:
        with stand_in() as address:
            asyncio.run(main(address))
