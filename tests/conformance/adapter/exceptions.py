"""Whatever a step raises is a failure of that step alone."""

from __future__ import annotations

import anyio
import pytest

from tests.conformance import chain_steps as steps
from tests.conformance.chain_steps import PATIENCE
from tests.conformance.runs import DONE, FAILED, OpenEngine, rows, settled
from towpath import chain


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("cancelled", "CancelledError"),
        ("exit", "SystemExit"),
        ("group", "ExceptionGroup"),
        ("odd", "Odd"),
        ("deep", "at the bottom"),
        ("long", "xxxx"),
    ],
)
async def test_what_a_step_raises_is_its_own_failure(open_engine: OpenEngine, what: str, names: str) -> None:
    """What a step raises is recorded, and ends no other step and no other run."""

    @chain
    def raising(what: str):
        return steps.raises(what), steps.number(3)

    async with open_engine() as engine:
        run = await engine.run(raising, what=what, check=False)
        error = run["raises"].error
        assert error is not None
        assert error.code == "E_STEP_RAISED"
        assert names in error.message
        assert len(error.message) <= 2_000
        assert len(error.traceback.encode()) <= 16 * 1024
        assert "chain_steps.py" in error.traceback
        for ours in ("attempt.py", "local_run.py", "anyio/"):
            assert ours not in error.traceback
        assert await settled(engine, run) == {"raises": FAILED, "number": DONE}
        stored = (await rows(engine, run))["raises"].error
        assert stored["traceback"] == error.traceback


@pytest.mark.parametrize("what", ["exit", "stop", "cancelled"])
async def test_what_a_thread_raises(open_engine: OpenEngine, what: str) -> None:
    @chain
    def raising(what: str):
        return steps.raises_in_thread(what), steps.number(3)

    async with open_engine() as engine:
        with anyio.fail_after(PATIENCE):
            run = await engine.run(raising, what=what, check=False)
        assert run["raises_in_thread"].error is not None
        assert run["raises_in_thread"].error.code == "E_STEP_RAISED"
        assert await settled(engine, run) == {"raises_in_thread": FAILED, "number": DONE}
