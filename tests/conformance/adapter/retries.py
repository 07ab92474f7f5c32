"""A step is tried again, with the arguments of the first attempt."""

from __future__ import annotations

from tests.conformance import chain_steps as steps
from tests.conformance.chain_steps import noted
from tests.conformance.runs import DONE, FAILED, OpenEngine, settled, trail
from towpath import chain


async def test_a_retry_gets_its_arguments_as_they_were(open_engine: OpenEngine) -> None:
    """An attempt that changes its arguments does not change those of the next attempt."""

    @chain
    def changing():
        return steps.changes_its_argument([7]), steps.changes_its_argument.map([[1], [2]])

    async with open_engine() as engine:
        run = await engine.run(changing)
        assert run.value == [[7, 2], [[1, 2], [2, 2]]]
        assert set((await settled(engine, run)).values()) == {DONE}


async def test_positional_arguments_are_there_for_a_retry(open_engine: OpenEngine) -> None:
    @chain
    def positional():
        return steps.by_position(5)

    async with open_engine() as engine:
        run = await engine.run(positional)
        assert (run.value, run["by_position"].attempt) == (5, 2)
        assert await settled(engine, run) == {"by_position": DONE}


async def test_retries_with_growing_waits(open_engine: OpenEngine, folder: str) -> None:
    """Each failed attempt but the last is a fact; the row is one and counts the attempts."""

    @chain
    def retried(folder: str):
        return steps.third_time(folder)

    async with open_engine() as engine:
        run = await engine.run(retried, folder=folder)
        assert (run.value, run["third_time"].attempt) == (3, 3)
        times = [float(line) for line in noted(folder, "third_time")]
        assert times[1] - times[0] >= 0.02
        assert times[2] - times[1] >= 0.04
        assert (await trail(engine, run.id))["third_time"] == [
            "StepStarted",
            "StepRetried",
            "StepStarted",
            "StepRetried",
            "StepStarted",
            "StepCompleted",
        ]
        told = [e["data"] for e in await engine.store.events(run.id) if e["type"] == "StepRetried"]
        assert [(e["attempt"], e["delay"]) for e in told] == [(1, 0.02), (2, 0.04)]
        assert told[0]["error"]["code"] == "E_STEP_RAISED"
        assert await settled(engine, run) == {"third_time": DONE}


async def test_a_step_that_refuses_is_not_tried_again(open_engine: OpenEngine, folder: str) -> None:
    @chain
    def refused(folder: str):
        return steps.refuses(folder)

    async with open_engine() as engine:
        run = await engine.run(refused, folder=folder)
        error = run["refuses"].error
        assert error is not None
        assert (error.code, error.message) == ("E_NO_FACE", "never")
        assert len(noted(folder, "refuses")) == 1
        assert await settled(engine, run) == {"refuses": FAILED}
