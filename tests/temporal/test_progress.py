"""Progress on Temporal: in the heartbeats of the activity, and across workers."""

from __future__ import annotations

from typing import Any

import pytest

from tests.adapters.conftest import OpenEngine
from tests.conformance import log_steps as steps
from tests.conformance.chain_steps import began, let_go
from tests.conformance.runs import folder, until
from towpath import Engine, chain

__all__ = ["folder"]

pytestmark = pytest.mark.anyio


async def heartbeats(engine: Engine) -> list[Any]:
    """The details of the last heartbeats of the activities that run now."""
    client = engine.adapter.client  # type: ignore[attr-defined]
    found: list[Any] = []
    async for execution in client.list_workflows('ExecutionStatus = "Running"'):
        known = client.get_workflow_handle(execution.id, run_id=execution.run_id)
        for pending in (await known.describe()).raw_description.pending_activities:
            found += await client.data_converter.decode(pending.heartbeat_details.payloads)
    return found


async def test_heartbeats_say_how_far_the_step_is(open_engine: OpenEngine, folder: str) -> None:
    """F3: who looks at Temporal's own pages sees it there."""

    @chain
    def halves(folder: str):
        return steps.half.map([4], folder=folder)

    expected = {"step": "half", "item": 0, "done": 4, "total": 10}
    async with open_engine() as engine:
        handle = await engine.start(halves, folder=folder)
        await began(folder, "half")
        await until(lambda: _told(engine, expected))
        let_go(folder, "half")
        assert (await handle.result()).value == [4]


async def _told(engine: Engine, expected: dict[str, Any]) -> bool:
    return expected in await heartbeats(engine)
