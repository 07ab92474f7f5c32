"""Handles, and the nouns `Run` and `StepRun`."""

from __future__ import annotations

import anyio
import pytest

from tests.conformance import chain_steps as steps
from tests.conformance.adapter.conditions import branches
from tests.conformance.adapter.fan_out import fan_out
from tests.conformance.adapter.shapes import linear
from tests.conformance.runs import DONE, OpenEngine, settled
from towpath import Engine, Run, RunRefused, StepNotCompleted, chain
from towpath.model import StepStatus


async def test_a_handle_of_any_run(open_engine: OpenEngine) -> None:
    async with open_engine() as engine:
        run = await engine.run(linear, n=1)
    async with open_engine() as engine:
        handle = await engine.get(run.id)
        assert (await handle.result()).value == 4
        assert await handle.status() == "completed"
        with pytest.raises(RunRefused) as missing:
            await engine.get("nobody")
        assert missing.value.code == "E_RUN_MISSING"
        assert (await engine.snapshot(run.id)).plan == linear.plan
        await settled(engine, run)


async def test_a_run_and_its_steps(open_engine: OpenEngine) -> None:
    """The API of Run and StepRun on a run that failed half way."""
    async with open_engine() as engine:
        for run in (await engine.run(branches, run_id="r", check=False), await engine.snapshot("r")):
            assert run.id == "r"
            assert run["boom"].status == StepStatus.FAILED
            assert run["boom"].attempt == 1
            assert run["echo"].attempt == 0
            assert run["number"].error is None
            assert run["number"].artifacts == []
            assert run["number"].items == []
            with pytest.raises(StepNotCompleted, match="skipped"):
                _ = run["echo"].value
            with pytest.raises(StepNotCompleted, match="0 artifacts"):
                _ = run["number"].artifact
            with pytest.raises(KeyError, match="it has boom"):
                _ = run["bom"]
            assert "failed" in repr(run)
            assert "skipped" in repr(run["echo"])
            await settled(engine, run)


async def test_a_step_knows_where_it_is(open_engine: OpenEngine) -> None:
    @chain
    def knows():
        return steps.says()

    async with open_engine() as engine:
        run = await engine.run(knows, run_id="here")
        assert run.value == {"run": "here", "step": "says", "item": None, "attempt": 1, "key": "here/says"}
        assert await settled(engine, run) == {"says": DONE}


async def test_two_engines_on_one_store(open_engine: OpenEngine) -> None:
    """Both work at the same time; each sees the other's runs."""
    ends: list[Run] = []
    async with open_engine() as one, open_engine() as two:

        async def several(engine: Engine, n: int) -> None:
            for k in range(5):
                ends.append(await engine.run(fan_out, n=n + k))  # noqa: PERF401 - one after the other

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(several, one, 3)
            tasks.start_soon(several, two, 10)
        assert len(ends) == 10
        for run in ends:
            assert run.status == "completed"
            assert (await two.snapshot(run.id)).value == (await one.snapshot(run.id)).value
            assert set((await settled(two, run)).values()) == {DONE}
