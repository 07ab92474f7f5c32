"""Each attempt has a task and variables of its own."""

from __future__ import annotations

import anyio
import pytest

from tests.conformance import chain_steps as steps
from tests.conformance import isolation_steps as alone
from tests.conformance.chain_steps import PATIENCE, began, let_go
from tests.conformance.runs import DONE, OpenEngine, pending, settled
from towpath import chain


async def test_tenants_do_not_see_each_other(open_engine: OpenEngine) -> None:
    """Default settings: the slots that one run gives up go to the other."""
    await tenants_are_apart(open_engine, 300)


async def tenants_are_apart(open_engine: OpenEngine, items: int) -> None:
    """Three runs at a time, of which two set a variable; more items than there are slots for them."""

    @chain
    def alice():
        return alone.sets.map(list(range(items)), value="alice")

    @chain
    def bob():
        return alone.who.map(list(range(items)))

    @chain
    def carol():
        return alone.keeps.map([f"carol {n}" for n in range(50)])

    async with open_engine() as engine:
        with anyio.fail_after(PATIENCE):
            handles = [await engine.start(tenant) for tenant in (alice, bob, carol)]
            first, second, third = [await handle.result() for handle in handles]
        assert first.value == list(range(items))
        assert set(second.value) == {"none"}
        assert third.value == [f"carol {n}" for n in range(50)]
        assert set((await settled(engine, second)).values()) == {DONE}


@pytest.mark.parametrize("concurrency", [1, 2, 256])
async def test_a_line_hands_on_values_and_no_variables(open_engine: OpenEngine, concurrency: int) -> None:
    """Neither a step after another one, nor an item after another one, in tasks and in threads."""

    @chain
    def line():
        first = alone.sets_at_once("kim")
        second = alone.who(first).named("second")
        third = alone.sets_in_a_thread("lee").after(second)
        fourth = alone.who(third).named("fourth")
        items = alone.sets_at_once.map(["a", "b", "c", "d"]).named("items").after(fourth)
        bound = alone.binds(tenant="kim").named("bound").after(items)
        again = alone.binds(other="lee").named("again").after(bound)
        told = alone.attaches("kim").named("told").after(again)
        return first, second, third, fourth, items, bound, again, told, alone.attaches("lee").after(told).named("last")

    async with open_engine(concurrency=concurrency) as engine:
        run = await engine.run(line)
        assert run.value == ["none"] * 4 + [["none"] * 4] + [{}, {}, None, None]


async def test_variables_do_not_depend_on_gates_and_pauses(open_engine: OpenEngine, folder: str) -> None:
    """With a gate and a pause in between, a step sees what it sees without them."""

    @chain
    def halting(folder: str):
        first = alone.sets_at_once("kim")
        seen = alone.who(first).with_approval().named("seen")
        held = steps.hold(folder, "held").after(seen)
        return seen, held, alone.who(held).named("last")

    async with open_engine() as engine:
        run = await engine.run(halting, folder=folder)
        await engine.approve(await pending(engine, run), by="Jo")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(engine.resume, run.id)
            await began(folder, "held")
            await engine.pause(run.id)
            let_go(folder, "held")
    async with open_engine() as engine:
        run = await engine.resume(run.id)
        assert run.value == ["none", "held", "none"]


@pytest.mark.parametrize("how", ["by hand", "from its child", "from a callback"])
async def test_a_step_that_cancels_its_own_task_fails_alone(open_engine: OpenEngine, how: str) -> None:
    @chain
    def beside(how: str):
        return alone.cancels_itself(how).named("odd"), alone.who.map(list(range(20))).named("good")

    async with open_engine(concurrency=4) as engine:
        with anyio.fail_after(PATIENCE):
            run = await engine.run(beside, how=how, check=False)
        statuses = await settled(engine, run)
        assert statuses.pop("odd") == "failed"
        assert set(statuses.values()) == {DONE}
        assert run["odd"].error is not None
        assert "cancelled" in run["odd"].error.message


async def test_timeouts_scopes_and_tasks_are_those_of_a_plain_program(open_engine: OpenEngine) -> None:
    @chain
    def plain():
        return [alone.timed().named(f"t{n}") for n in range(3)], alone.own_task.map(list(range(50)))

    alone.Seen.tasks.clear()
    async with open_engine(concurrency=4) as engine:
        run = await engine.run(plain)
        timed, own = run.value
        assert timed == [["timeout", "moved on", "failed", "cancelling 0"]] * 3
        assert own == [True] * 50


async def test_a_scope_that_is_never_left_hurts_nobody(open_engine: OpenEngine) -> None:
    @chain
    def leaking():
        return alone.timed().after(alone.leaves_a_scope.map(list(range(5))))

    async with open_engine(concurrency=2) as engine:
        run = await engine.run(leaking)
        statuses = await settled(engine, run)
        assert run["timed"].value == ["timeout", "moved on", "failed", "cancelling 0"], statuses


@pytest.mark.parametrize("library", ["asyncio", "anyio"])
async def test_errors_of_task_groups_are_named(open_engine: OpenEngine, library: str) -> None:
    """One leaf is shown as itself, of several the first and how many more; all end only their own step."""

    kinds = [f"{library} one", f"{library} two", f"{library} final"]

    @chain
    def groups():
        failing = [alone.fails_in_a_group(kind).named(f"g{n}") for n, kind in enumerate(kinds)]
        return [*failing, alone.who().named("good")]

    async with open_engine() as engine:
        run = await engine.run(groups, check=False)
        one, two, final = (run[f"g{n}"].error for n in range(3))
        assert one is not None
        assert two is not None
        assert final is not None
        assert (one.code, one.message) == ("E_STEP_RAISED", "ValueError: first")
        assert two.message == "ExceptionGroup: ValueError: first (and 1 more)"
        assert (final.code, final.message) == ("E_FINAL", "not worth a retry")
        assert (await settled(engine, run))["good"] == DONE


@pytest.mark.parametrize("concurrency", [3, 256])
async def test_a_row_is_recorded_as_executing_before_its_function_is_called(
    open_engine: OpenEngine, concurrency: int
) -> None:
    """With its attempt, for a reader on another connection: first steps of a run, later ones, items and retries."""

    @chain
    def seen(path: str):
        first = [alone.sees_its_row(n, path).named(f"f{n}") for n in range(6)]
        second = alone.sees_its_row_in_a_thread(1, path).named("thread").after(*first)
        items = alone.sees_its_row.map(list(range(20)), path=path).named("items").after(second)
        threads = alone.sees_its_row_in_a_thread.map(list(range(6)), path=path).named("threads").after(items)
        return first, items, threads

    async with open_engine(concurrency=concurrency) as engine:
        path: str = engine.store.database.identity  # type: ignore[attr-defined]
        run = await engine.run(seen, path=path)
        assert run.value == [list(range(6)), list(range(20)), list(range(6))]
