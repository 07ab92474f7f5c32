"""The Temporal adapter: the suite of all adapters, on a real server.

A few tests of the suite ask for what only one process can promise: an order among steps that wait for the same
slots, a number of commits, an end of the run's work with the end of its process. They are replaced here by
what holds on Temporal.
"""

from __future__ import annotations

import anyio
import pytest

from tests.adapters.conftest import OpenEngine
from tests.conformance import chain_steps as steps
from tests.conformance.adapter import *  # noqa: F403
from tests.conformance.adapter import CANCELLED, DONE, is_now, rows, settled, tenants_are_apart, until
from tests.conformance.chain_steps import PATIENCE, began, let_go, noted
from towpath import chain

pytestmark = pytest.mark.anyio


async def test_closing_the_engine_interrupts_and_resume_goes_on(open_engine: OpenEngine, folder: str) -> None:  # type: ignore[no-redef]
    """The run stays in the hands of Temporal: the next worker does what was not recorded, and only that."""

    @chain
    def line(folder: str):
        first = steps.third_time(folder)
        return steps.hold(folder, "second").after(first)

    async with open_engine() as engine:
        handle = await engine.start(line, folder=folder)
        await began(folder, "second")
    async with open_engine() as engine:
        assert (await engine.snapshot(handle.id)).status == "running"
        let_go(folder, "second")
        run = await engine.resume(handle.id)
        assert run.value == "second"
        assert noted(folder, "second.began") == ["1", "2"]
        assert len(noted(folder, "third_time")) == 3
        assert await settled(engine, run) == {"third_time": DONE, "hold": DONE}


@pytest.mark.parametrize("items", [40, pytest.param(300, marks=pytest.mark.full)])  # type: ignore[no-redef]
async def test_tenants_do_not_see_each_other(open_engine: OpenEngine, items: int) -> None:
    """Activities of several runs in one worker."""
    await tenants_are_apart(open_engine, items)


async def test_a_pause_reaches_the_runs_inside_steps(open_engine: OpenEngine, folder: str) -> None:  # type: ignore[no-redef]
    """Here it does not: a run inside a step goes on to its end, and the run around it pauses then."""

    @chain
    def line(folder: str):
        return steps.hold(folder, "second").named("second").after(steps.hold(folder, "first").named("first"))

    @chain
    def outer(folder: str):
        return steps.echo(line(folder))

    async with open_engine() as engine:
        handle = await engine.start(outer, folder=folder)
        await began(folder, "first")
        await handle.pause()
        let_go(folder, "first", "second")
        with anyio.fail_after(PATIENCE):
            assert (await handle.result()).status == "paused"
        assert (await rows(engine, handle.id))["line"].status == DONE
        run = await engine.resume(handle.id)
        assert run.value == "second"


async def test_S6_7_a_chains_own_limit(open_engine: OpenEngine, folder: str) -> None:  # type: ignore[no-redef]
    """Three places: the fourth step is seen waiting for one."""

    @chain(concurrency=3)
    def narrow(folder: str):
        return [steps.hold(folder, f"h{n}").named(f"h{n}") for n in range(4)]

    async with open_engine() as engine:
        handle = await engine.start(narrow, folder=folder)
        await began(folder, "h0", "h1", "h2")
        await anyio.sleep(0.3)
        assert not noted(folder, "h3.began")
        assert (await rows(engine, handle.id))["h3"].status == "queued"
        let_go(folder, "h0")
        await began(folder, "h3")
        let_go(folder, "h1", "h2", "h3")
        assert set((await settled(engine, await handle.result())).values()) == {DONE}


async def test_S6_7_concurrency_holds_under_a_thousand_ready_steps(open_engine: OpenEngine) -> None:  # type: ignore[no-redef]
    """Never more than the worker's limit at a time."""

    @chain
    def wide():
        return [steps.work(n) for n in range(100)]

    steps.Busy.reset()
    async with open_engine(concurrency=5) as engine:
        run = await engine.run(wide)
        assert run.value == list(range(100))
        assert 2 <= steps.Busy.most <= 5
        assert set((await settled(engine, run)).values()) == {DONE}


async def test_a_thousand_ready_steps_take_few_commits(open_engine: OpenEngine, commits) -> None:  # type: ignore[no-redef]
    """A step begins and ends in a transaction of its own; what is decided together is recorded together."""

    @chain
    def wide():
        return [steps.number(n) for n in range(100)]

    async with open_engine() as engine:
        before = commits(engine)
        run = await engine.run(wide)
        assert commits(engine) - before < 2 * 100 + 10
        assert len(await rows(engine, run)) == 100
        assert run.status == "completed"


async def test_runs_share_the_slots_fairly(open_engine: OpenEngine) -> None:  # type: ignore[no-redef]
    """A run that comes second does not wait for the end of the first."""

    @chain(concurrency=4)
    def many(whose: str, n: int):
        return steps.work.map(steps.up_to(n), whose=whose)

    steps.Busy.reset()
    async with open_engine() as engine:
        first = await engine.start(many, whose="a", n=60)
        await until(lambda: steps.Busy.order.count("a") > 5)
        second = await engine.start(many, whose="b", n=10)
        ends = [await first.result(), await second.result()]
        assert [r.status for r in ends] == ["completed", "completed"]
        last_b = max(i for i, whose in enumerate(steps.Busy.order) if whose == "b")
        assert "a" in steps.Busy.order[last_b:], "the second run had to wait for the end of the first"
        for run in ends:
            assert set((await settled(engine, run)).values()) == {DONE}


async def test_a_cancelled_run_leaves_its_place_to_others(open_engine: OpenEngine, folder: str) -> None:  # type: ignore[no-redef]
    """The places of a cancelled run go to a run that waits for one."""

    @chain
    def pair(folder: str):
        return [steps.hold(folder, f"q{n}").named(f"q{n}") for n in range(2)]

    @chain
    def lone(folder: str):
        return steps.hold(folder, "second")

    async with open_engine(concurrency=2) as engine:
        first = await engine.start(pair, folder=folder)
        await began(folder, "q0", "q1")
        second = await engine.start(lone, folder=folder)
        await anyio.sleep(0.3)
        assert not noted(folder, "second.began")
        assert not await is_now(engine, second.id, "hold", DONE)
        await first.cancel()
        let_go(folder, "second")
        with anyio.fail_after(PATIENCE):
            assert (await second.result()).status == "completed"
        assert await settled(engine, await first.result(check=False)) == {"q0": CANCELLED, "q1": CANCELLED}
