"""Steps for tests in which workers die."""

from __future__ import annotations

from typing import Any

from tests.conformance import chain_steps
from towpath import step


@step(retry={"attempts": 1, "delay": 0.1})
async def hold(folder: str, name: str) -> Any:
    """The suite's `hold`, but Temporal delivers it again soon after its worker died: the delay is 2 s by default."""
    return await chain_steps.hold(folder, name)
