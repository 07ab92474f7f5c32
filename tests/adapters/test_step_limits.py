"""Places under limits: counted, in order, and given back (newcomer F19)."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from tests.adapters.conftest import OpenEngine
from towpath import chain
from towpath import step as towpath_step
from towpath.adapters.limits import Limits
from towpath.model import StepPlan

pytestmark = pytest.mark.anyio


def step(target: str = "m:f", limit: str | None = None, concurrency: int | None = None) -> StepPlan:
    return StepPlan("a", "python", target, limit=limit, concurrency=concurrency)


async def test_the_limit_counts_steps_of_all_functions() -> None:
    limits, started = Limits({"gpu": 2}), list[str]()

    async def one(name: str) -> None:
        await limits.wait(step(name, "gpu"))
        started.append(name)

    async with anyio.create_task_group() as tasks:
        for name in "abcd":
            tasks.start_soon(one, name)
        await anyio.wait_all_tasks_blocked()
        assert started == ["a", "b"]
        assert not limits.take(step("e", "gpu"))
        limits.give_back(step("a", "gpu"))
        await anyio.wait_all_tasks_blocked()
        assert started == ["a", "b", "c"]
        assert not limits.take(step("e", "gpu")), "it would overtake d"
        limits.give_back(step("b", "gpu"))
    assert started == ["a", "b", "c", "d"]


async def test_the_concurrency_of_a_function_counts_it_alone() -> None:
    limits = Limits({})
    assert limits.take(step("m:f", concurrency=1))
    assert not limits.take(step("m:f", concurrency=1))
    assert limits.take(step("m:f", concurrency=2)), "another place may have another number"
    assert limits.take(step("m:g", concurrency=1))
    assert limits.take(step("m:f"))


async def test_a_step_with_both_takes_both_or_none() -> None:
    limits = Limits({"gpu": 2})
    both = step("m:f", "gpu", 1)
    assert limits.take(both)
    assert not limits.take(both)
    assert limits.take(step("m:g", "gpu")), "the refused step took no place"
    assert not limits.take(step("m:g", "gpu"))
    limits.give_back(both)
    assert limits.take(both)


async def test_a_step_that_stops_waiting_leaves_its_place() -> None:
    limits = Limits({"gpu": 1})
    assert limits.take(step(limit="gpu"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(limits.wait, step(limit="gpu"))
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    limits.give_back(step(limit="gpu"))
    assert limits.take(step(limit="gpu"))


async def test_the_log_says_that_steps_may_wait_for_each_other(caplog: pytest.LogCaptureFixture) -> None:
    limits, outer, other = Limits({"gpu": 1, "disk": 2}), step("m:outer", "gpu"), step("m:other", "disk")
    assert limits.take(outer)
    assert limits.take(other)
    limits.hold_idle(other, 1)
    limits.ask(step("m:f", "gpu"), lambda: None)
    limits.ask(step("m:f", "disk"), lambda: None)
    assert not caplog.messages, "the step with the place works, so it will end"
    limits.hold_idle(outer, 1)
    limits.ask(step("m:f", "gpu"), lambda: None)
    (said,) = caplog.messages
    assert said.startswith("step a waits for limit gpu, and all steps that have its places wait for runs")


async def test_a_step_that_waits_for_a_run_of_its_own_limit_is_named(
    open_engine: OpenEngine, caplog: pytest.LogCaptureFixture
) -> None:
    @towpath_step(limit="gpu")
    async def inner() -> int:
        return 1

    @chain
    def inside():
        return inner()

    @towpath_step(limit="gpu", timeout=0.2)
    async def outer() -> Any:
        return (await engine.run(inside)).value

    @chain
    def outside():
        return outer()

    async with open_engine(limits={"gpu": 1}) as engine:
        run = await engine.run(outside, check=False)
        assert run.status == "failed"
        limits = engine.adapter.limits  # type: ignore[attr-defined]
        assert not +limits._running
        assert not +limits._held_idle
    assert "step inner waits for limit gpu" in caplog.text
