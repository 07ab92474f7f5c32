"""A worker for ComfyUI steps that dies at a chosen point: `comfyui_victim.py FOLDER ADAPTER [POINT AT]`.

The points are those of `tests/reliability/comfyui_victim.py`. Servers and workflows are as the folder's `towpath.toml`
says.
"""

from __future__ import annotations

import os
import sys

import anyio

from tests.reliability.comfyui_victim import Death
from tests.temporal import STICKY
from towpath.adapters.comfyui.client import ComfyClient
from towpath.adapters.temporal import worker
from towpath.adapters.wiring import open_worker


async def main(folder: str, adapter: str) -> None:
    os.chdir(folder)
    worker.STICKY = STICKY
    async with open_worker("sqlite:///towpath.db", adapter=adapter, grace=0):
        print("ready", flush=True)
        await anyio.sleep_forever()


if __name__ == "__main__":
    if len(sys.argv) > 3:
        death = Death(sys.argv[3], int(sys.argv[4]))
        death.lurk()
        ComfyClient.submit = death.around(ComfyClient.submit, "recorded")  # type: ignore[method-assign]
    anyio.run(main, sys.argv[1], sys.argv[2])
