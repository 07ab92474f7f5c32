"""A step that takes as long as the environment says, for tests that kill the process meanwhile."""

from __future__ import annotations

import os

import anyio

from towpath import File, step


@step
async def slow(text: str) -> File:
    await anyio.sleep(float(os.environ.get("TOWTEST_SLOW", "0")))
    return File(text.encode(), filename="note.txt")
