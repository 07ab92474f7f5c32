"""A worker process that dies at a chosen moment: `victim.py STORE ADAPTER [MOMENT STEP]`. Without a moment it lives.

Moments: `before-begin`, `after-begin`, `after-function`, `before-report` (what the step made is recorded).
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import anyio

import tests.conformance.chain_steps  # noqa: F401 - its steps are what the worker can do
from tests.temporal import STICKY
from towpath.adapters.temporal import worker
from towpath.adapters.temporal.step_attempt import StepAttempt
from towpath.adapters.wiring import open_worker


def die() -> None:
    """Die as if the kernel killed the process for its memory."""
    os.kill(os.getpid(), signal.SIGKILL)


def arm(moment: str, step: str) -> None:
    """Die at that moment of that step."""
    place = {
        "before-begin": ("begin", True),
        "after-begin": ("begin", False),
        "after-function": ("attempt", False),
        "before-report": ("end", False),
    }
    method, before = place[moment]
    real: Any = getattr(StepAttempt, method)

    async def wrapped(self: StepAttempt, *arguments: Any) -> Any:
        if before and self.step.id == step:
            die()
        result = await real(self, *arguments)
        if self.step.id == step:
            die()
        return result

    setattr(StepAttempt, method, wrapped)


async def main(store: str, adapter: str) -> None:
    worker.STICKY = STICKY
    async with open_worker(f"sqlite:///{store}", adapter=adapter, grace=0):
        print("ready", flush=True)
        await anyio.sleep_forever()


if __name__ == "__main__":
    if len(sys.argv) > 3:
        arm(sys.argv[3], sys.argv[4])
    anyio.run(main, sys.argv[1], sys.argv[2])
