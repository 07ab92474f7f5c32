"""A step is tried again, with the arguments of the first attempt."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance import chain_steps as steps
from tests.conformance import retry_steps as kinds
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
        run = await engine.run(refused, folder=folder, check=False)
        error = run["refuses"].error
        assert error is not None
        assert (error.code, error.message) == ("E_NO_FACE", "never")
        assert len(noted(folder, "refuses")) == 1
        assert await settled(engine, run) == {"refuses": FAILED}


@pytest.mark.parametrize("listed", [kinds.listed, kinds.listed_by_name])
@pytest.mark.parametrize(
    ("what", "tries"), [("connection", 3), ("busy", 3), ("value", 1), ("two", 3), ("mixed", 1)], ids=str
)
async def test_retry_on_names_what_is_tried_again(
    open_engine: OpenEngine, folder: str, listed: Any, what: str, tries: int
) -> None:
    """Types and names mean the same, subclasses count, and of a group every member must be named."""

    @chain
    def failing(folder: str, what: str):
        return listed(folder, what).named("a")

    async with open_engine() as engine:
        run = await engine.run(failing, folder=folder, what=what, check=False)
        assert len(noted(folder, what)) == tries
        error = run["a"].error
        assert error is not None
        assert error.code == "E_STEP_RAISED"
        assert await settled(engine, run) == {"a": FAILED}


async def test_retry_on_counts_a_timeout_as_a_timeout_error(open_engine: OpenEngine, folder: str) -> None:
    @chain
    def slow(folder: str):
        return kinds.listed_without_timeouts(folder).named("once"), kinds.listed_timeouts(folder).named("twice")

    async with open_engine() as engine:
        run = await engine.run(slow, folder=folder, check=False)
        assert [(run[name].error.code, run[name].attempt) for name in ("once", "twice")] == [
            ("E_STEP_TIMEOUT", 1),
            ("E_STEP_TIMEOUT", 2),
        ]


async def test_retry_if_is_asked_about_the_exception(open_engine: OpenEngine, folder: str) -> None:
    @chain
    def failing(folder: str):
        return kinds.judged(folder, "connection").named("yes"), kinds.judged(folder, "value").named("no")

    async with open_engine() as engine:
        run = await engine.run(failing, folder=folder, check=False)
        assert (run["yes"].attempt, run["no"].attempt) == (3, 1)


async def test_a_retry_if_that_raises_ends_the_step_and_says_so(open_engine: OpenEngine, folder: str) -> None:
    @chain
    def failing(folder: str):
        return kinds.badly_judged(folder, "value").named("a")

    async with open_engine() as engine:
        run = await engine.run(failing, folder=folder, check=False)
        error = run["a"].error
        assert error is not None
        assert error.code == "E_STEP_RAISED"
        assert error.message == "ValueError: wrong (not tried again: retry_if raised LookupError: who knows)"
        assert run["a"].attempt == 1


async def test_a_group_of_one_is_shown_as_that_one(open_engine: OpenEngine, folder: str) -> None:
    """Its code, type, message and traceback; and `retryable=False` inside counts."""

    @chain
    def failing(folder: str):
        given_up = kinds.in_a_group(folder, "gives-up").named("gives_up")
        return given_up, kinds.in_a_group(folder, "raises").named("raises")

    async with open_engine() as engine:
        run = await engine.run(failing, folder=folder, check=False)
        final, tried = run["gives_up"].error, run["raises"].error
        assert final is not None
        assert tried is not None
        assert (final.code, final.type, final.message) == ("E_NO_FACE", "StepFailed", "no face found")
        assert run["gives_up"].attempt == 1
        assert (tried.code, tried.type, tried.message) == ("E_STEP_RAISED", "KeyError", "KeyError: 'first'")
        assert run["raises"].attempt == 3
        for error, last in ((final, "_gives_up"), (tried, "_raises")):
            assert last in error.traceback
            assert "ExceptionGroup" not in error.traceback
