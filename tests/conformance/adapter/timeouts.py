"""Limits of time: for one attempt, and for all attempts of a step."""

from __future__ import annotations

import anyio
import pytest

from tests.conformance import chain_steps as steps
from tests.conformance.chain_steps import let_go, noted
from tests.conformance.runs import FAILED, OpenEngine, settled
from towpath import chain


async def test_a_timeout_is_per_attempt(open_engine: OpenEngine) -> None:
    @chain
    def late():
        return steps.slow()

    async with open_engine() as engine:
        run = await engine.run(late, check=False)
        error = run["slow"].error
        assert error is not None
        assert (error.code, run["slow"].attempt) == ("E_STEP_TIMEOUT", 2)
        assert await settled(engine, run) == {"slow": FAILED}


@pytest.mark.parametrize("name", ["tries_long", "waits_long", "takes_long"])
async def test_a_total_timeout_is_over_all_attempts_and_waits(open_engine: OpenEngine, name: str) -> None:
    """Neither many attempts nor a long wait before the next one outlast it."""

    @chain
    def late():
        return getattr(steps, name)()

    async with open_engine() as engine:
        with anyio.fail_after(steps.PATIENCE):  # the waits that it cuts short are longer
            run = await engine.run(late, check=False)
        error = run[name].error
        assert error is not None
        assert error.code == "E_STEP_TOTAL_TIMEOUT"
        if name == "waits_long":
            assert "the cause" in error.message
        assert await settled(engine, run) == {name: FAILED}


async def test_a_thread_that_takes_too_long_is_left_to_itself(open_engine: OpenEngine, folder: str) -> None:
    """The run is over while the thread still works."""

    @chain
    def late(folder: str):
        return steps.slow_thread(folder)

    async with open_engine() as engine:
        run = await engine.run(late, folder=folder, check=False)
        assert not noted(folder, "slow_thread.ended")
        let_go(folder, "slow_thread")
        assert run["slow_thread"].error is not None
        assert run["slow_thread"].error.code == "E_STEP_TIMEOUT"
        assert await settled(engine, run) == {"slow_thread": FAILED}
