"""Gates on the Temporal adapter: the suite of all adapters, on a real server.

A decision is applied by whatever worker there is, at once: what asks for one that nobody applies needs no worker.
"""

from __future__ import annotations

import pytest

from tests.adapters.conftest import OpenEngine
from tests.conformance.adapter import CANCELLED, pending, settled, until
from tests.conformance.gates import *  # noqa: F403
from tests.conformance.gates import slowly
from towpath.adapters.temporal.connection import connect, parse_address

pytestmark = pytest.mark.anyio


async def test_cancel_after_a_decision_that_nobody_applied(  # type: ignore[no-redef]
    open_engine: OpenEngine, adapter: str, folder: str
) -> None:
    """The decision stays on record, the run is cancelled, nothing is left to be delivered; the worker that comes next
    finds it over, and its workflow ends.
    """
    async with open_engine() as engine:
        run = await engine.run(slowly, folder=folder)
    async with open_engine(worker=False) as engine:
        gate = await pending(engine, run)
        await engine.approve(gate, by="anna")
        assert await engine.cancel(run.id) == "cancelled"
        row = await engine.get_approval(gate.id)
        assert (row.status, row.delivered) == ("approved", True)
        assert set((await settled(engine, run.id)).values()) == {CANCELLED}
    address = parse_address(adapter)
    workflow = (await connect(address)).get_workflow_handle(address.workflow_id(run.id))
    async with open_engine() as engine:

        async def ended() -> bool:
            status = (await workflow.describe()).status
            return status is not None and status.name == "COMPLETED"

        await until(ended, within=30)
        assert set((await settled(engine, run.id)).values()) == {CANCELLED}
