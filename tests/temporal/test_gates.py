"""Gates on the Temporal adapter: the suite of all adapters, on a real server.

Any worker applies a decision at once. A test of a decision that is not applied has no worker.
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
    """The decision stays recorded, the run is cancelled, and no request is pending. The next worker finds the run over,
    and the run's workflow ends.
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

        await until(ended)
        assert set((await settled(engine, run.id)).values()) == {CANCELLED}
