"""Chains in a line and in a diamond."""

from __future__ import annotations

from tests.conformance import chain_steps as steps
from tests.conformance.runs import DONE, OpenEngine, rows, settled, trail
from towpath import chain


@chain
def linear(n: int = 1):
    return steps.double(steps.double(steps.number(n)))


@chain
def diamond(n: int = 1):
    first = steps.number(n)
    return steps.add(steps.double(first), steps.double(first))


async def test_linear(open_engine: OpenEngine) -> None:
    """Each step gets the value of the one before; the chain's value is what the function returned."""
    async with open_engine() as engine:
        run = await engine.run(linear, n=3)
        assert (run.status, run.value, run["number"].value, run["double"].value) == ("completed", 12, 3, 6)
        assert [s.id for s in run.steps] == ["number", "double", "double_2"]
        assert await settled(engine, run) == {"number": DONE, "double": DONE, "double_2": DONE}
        named = await rows(engine, run)
        assert named["number"].completed_at <= named["double"].queued_at <= named["double_2"].queued_at


async def test_diamond(open_engine: OpenEngine) -> None:
    """A step with two dependencies starts once, after both."""
    async with open_engine() as engine:
        run = await engine.run(diamond, n=2)
        assert run.value == 8
        assert run.plan.levels == (("number",), ("double", "double_2"), ("add",))
        assert set((await settled(engine, run)).values()) == {DONE}
        assert (await trail(engine, run.id))["add"] == ["StepStarted", "StepCompleted"]
