"""`limit=` and `concurrency=` of steps, counted over all runs of a process."""

from __future__ import annotations

import anyio
import pytest

from tests.conformance import chain_steps as steps
from tests.conformance.chain_steps import began, let_go, noted
from tests.conformance.runs import DONE, OpenEngine, is_now, settled, status_of, until
from towpath import InputInvalid, chain


async def test_steps_of_two_runs_share_a_named_limit(open_engine: OpenEngine, folder: str) -> None:
    """Two places, one step in each run has one: the third step waits `queued`, and a step without a limit does not."""

    @chain
    def rendering(folder: str, name: str):
        return steps.hold.with_options(limit="gpu")(folder, name)

    async with open_engine(limits={"gpu": 2}) as engine:
        handles = [await engine.start(rendering, folder=folder, name="a")]
        await began(folder, "a")
        handles.append(await engine.start(rendering, folder=folder, name="b"))
        await began(folder, "b")
        handles.append(await engine.start(rendering, folder=folder, name="c"))
        await until(lambda: is_now(engine, handles[2].id, "hold", "queued"))
        assert (await engine.run(free)).value == 1
        assert not noted(folder, "c.began")
        let_go(folder, "a")
        await began(folder, "c")
        let_go(folder, "b", "c")
        for handle in handles:
            assert await settled(engine, await handle.result()) == {"hold": DONE}


@chain
def free():
    return steps.number()


async def test_the_concurrency_of_a_function_holds_for_its_items(open_engine: OpenEngine, folder: str) -> None:
    @chain
    def narrow(folder: str):
        return steps.hold.with_options(concurrency=1).map([folder, folder], name="x")

    async with open_engine() as engine:
        handle = await engine.start(narrow, folder=folder)
        await began(folder, "x")
        await anyio.sleep(0.3)
        assert len(noted(folder, "x.began")) == 1
        let_go(folder, "x")
        assert (await handle.result()).status == "completed"
        assert len(noted(folder, "x.began")) == 2


async def test_a_step_that_waits_under_a_limit_can_be_cancelled(open_engine: OpenEngine, folder: str) -> None:
    @chain
    def rendering(folder: str, name: str):
        return steps.hold.with_options(limit="gpu")(folder, name)

    async with open_engine(limits={"gpu": 1}) as engine:
        first = await engine.start(rendering, folder=folder, name="a")
        await began(folder, "a")
        second = await engine.start(rendering, folder=folder, name="b")
        third = await engine.start(rendering, folder=folder, name="c")
        await until(lambda: is_now(engine, second.id, "hold", "queued"))
        await second.cancel()
        assert (await second.result(check=False)).status == "cancelled"
        assert await status_of(engine, first.id, "hold") == "executing"
        let_go(folder, "a")
        await began(folder, "c")
        let_go(folder, "c")
        assert [(await one.result()).status for one in (first, third)] == ["completed", "completed"]
        assert not noted(folder, "b.began")


async def test_an_unknown_limit_is_refused_before_the_run_starts(open_engine: OpenEngine) -> None:
    @chain
    def rendering():
        return steps.number.with_options(limit="gpu")()

    async with open_engine(limits={"api": 1}) as engine:
        with pytest.raises(InputInvalid) as refused:
            await engine.run(rendering)
        assert refused.value.code == "E_LIMIT_UNKNOWN"
        assert await engine.list_chains() == []
