"""The order of steps, levels, and how many steps work at a time."""

from __future__ import annotations

import anyio

from tests.conformance import chain_steps as steps
from tests.conformance.chain_steps import PATIENCE, began, let_go
from tests.conformance.runs import (
    CANCELLED,
    DONE,
    QUEUED,
    RUNS,
    Commits,
    OpenEngine,
    is_now,
    rows,
    settled,
    status_of,
    until,
)
from towpath import chain


async def test_S6_3_a_step_waits_for_its_own_dependencies_only(open_engine: OpenEngine, folder: str) -> None:
    """The right branch ends while the left one's first step still runs."""

    @chain
    def two_branches(folder: str):
        left = steps.echo(steps.hold(folder, "left")).named("left_end")
        return left, steps.double(steps.double(steps.number(1)))

    async with open_engine() as engine:
        handle = await engine.start(two_branches, folder=folder)
        await began(folder, "left")
        await until(lambda: is_now(engine, handle.id, "double_2", DONE))
        assert await status_of(engine, handle.id, "hold") == RUNS
        let_go(folder, "left")
        run = await handle.result()
        assert set((await settled(engine, run)).values()) == {DONE}


async def test_S6_2_the_level_is_recorded_while_running(open_engine: OpenEngine, folder: str) -> None:
    @chain
    def levels(folder: str):
        return steps.hold(folder, "c", steps.hold(folder, "b", steps.hold(folder, "a").named("a")).named("b")).named(
            "c"
        )

    assert levels.plan.levels == (("a",), ("b",), ("c",))
    async with open_engine() as engine:
        handle = await engine.start(levels, folder=folder)
        for level, name in enumerate("abc"):
            await began(folder, name)
            assert (await engine.get_chain(handle.id)).current_level == level
            assert (await engine.get_chain(handle.id)).status == "running"
            let_go(folder, name)
        run = await handle.result()
        assert set((await settled(engine, run)).values()) == {DONE}


async def test_S6_7_concurrency_holds_under_a_thousand_ready_steps(open_engine: OpenEngine, commits: Commits) -> None:
    """Never more than the engine's limit at a time, and far fewer transactions than steps."""

    @chain
    def wide():
        return [steps.work(n) for n in range(1_000)]

    steps.Busy.reset()
    async with open_engine(concurrency=50) as engine:
        before = commits(engine)
        run = await engine.run(wide)
        assert run.value == list(range(1_000))
        assert steps.Busy.most == 50
        assert commits(engine) - before < 300
        assert set((await settled(engine, run)).values()) == {DONE}


async def test_a_thousand_ready_steps_take_few_commits(open_engine: OpenEngine, commits: Commits) -> None:
    @chain
    def wide():
        return [steps.number(n) for n in range(1_000)]

    async with open_engine() as engine:
        before = commits(engine)
        run = await engine.run(wide)
        assert commits(engine) - before < 100
        assert len(await rows(engine, run)) == 1_000
        assert run.status == "completed"


async def test_S6_7_a_chains_own_limit(open_engine: OpenEngine) -> None:
    @chain(concurrency=3)
    def narrow():
        return steps.work.map(steps.up_to(60))

    steps.Busy.reset()
    async with open_engine() as engine:
        run = await engine.run(narrow)
        assert (steps.Busy.most, run.value) == (3, list(range(60)))
        assert set((await settled(engine, run)).values()) == {DONE}


async def test_runs_share_the_slots_fairly(open_engine: OpenEngine) -> None:
    """A run that comes second does not wait for the end of the first."""

    @chain
    def many(whose: str, n: int):
        return steps.work.map(steps.up_to(n), whose=whose)

    steps.Busy.reset()
    async with open_engine(concurrency=4) as engine:
        first = await engine.start(many, whose="a", n=200)
        await until(lambda: steps.Busy.order.count("a") > 10)
        second = await engine.start(many, whose="b", n=40)
        ends = [await first.result(), await second.result()]
        assert [r.status for r in ends] == ["completed", "completed"]
        last_b = max(i for i, whose in enumerate(steps.Busy.order) if whose == "b")
        assert "a" in steps.Busy.order[last_b:], "the second run had to wait for the end of the first"
        assert steps.Busy.most <= 4
        for run in ends:
            assert set((await settled(engine, run)).values()) == {DONE}


async def test_a_cancelled_run_leaves_its_place_to_others(open_engine: OpenEngine, folder: str) -> None:
    """A run waits for a slot behind one that is cancelled while a third keeps the other slot."""

    @chain
    def long_one(folder: str, name: str):
        return steps.hold(folder, name)

    @chain
    def queue(folder: str):
        return [steps.hold(folder, f"q{n}") for n in range(3)]

    async with open_engine(concurrency=2) as engine:
        long = await engine.start(long_one, folder=folder, name="long")
        await began(folder, "long")
        first = await engine.start(queue, folder=folder)
        await began(folder, "q0")
        second = await engine.start(long_one, folder=folder, name="second")
        await until(lambda: is_now(engine, second.id, "hold", QUEUED))
        await first.cancel()
        let_go(folder, "second")
        with anyio.fail_after(PATIENCE):
            assert (await second.result()).status == "completed"
        let_go(folder, "long")
        assert (await long.result()).status == "completed"
        assert await settled(engine, await first.result(check=False)) == {
            "hold": CANCELLED,
            "hold_2": CANCELLED,
            "hold_3": CANCELLED,
        }
