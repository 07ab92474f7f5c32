"""Events and logs of a run."""

from __future__ import annotations

import itertools

import anyio

from tests.conformance import chain_steps as steps
from tests.conformance.chain_steps import PATIENCE, began, let_go
from tests.conformance.runs import DONE, OpenEngine, settled, trail, until
from towpath import Engine, chain


async def test_the_trail_of_a_run(open_engine: OpenEngine) -> None:
    """F1: facts per step in order, between the chain's own."""

    @chain
    def story():
        return steps.echo(steps.boom_if_kept.map([1, 2], bad=[2])), steps.number(1).when("echo.output == 3")

    async with open_engine() as engine:
        run = await engine.run(story)
        assert await trail(engine, run.id) == {
            "": ["ChainCreated", "ChainStarted", "ChainEnded"],
            "boom_if_kept": ["StepStarted", "StepCompleted"],
            "boom_if_kept[0]": ["StepStarted", "StepCompleted"],
            "boom_if_kept[1]": ["StepStarted", "StepFailed"],
            "echo": ["StepStarted", "StepCompleted"],
            "number": ["StepSkipped"],
        }
        told = await engine.store.events(run.id)
        assert [e["seq"] for e in told] == sorted(e["seq"] for e in told)
        assert all(a["at"] <= b["at"] for a, b in itertools.pairwise(told))
        assert told[-1]["type"] == "ChainEnded"
        assert told[-1]["data"]["status"] == "partial"
        await settled(engine, run)


async def test_events_of_a_handle_follow_the_run(open_engine: OpenEngine, folder: str) -> None:
    """`handle.events()` yields old and new events, and ends with the run."""

    @chain
    def held(folder: str):
        return steps.echo(steps.hold(folder, "it"))

    async with open_engine() as engine:
        handle = await engine.start(held, folder=folder)
        told: list[str] = []
        with anyio.fail_after(PATIENCE):
            async for event in handle.events():
                told.append(event["type"])
                if event["type"] == "StepStarted":
                    let_go(folder, "it")
        assert told == [
            "ChainCreated",
            "ChainStarted",
            "StepStarted",
            "StepCompleted",
            "StepStarted",
            "StepCompleted",
            "ChainEnded",
        ]
        run = await handle.result()
        later = [e["type"] async for e in handle.events(after=0)]
        assert later == told
        assert await settled(engine, run) == {"hold": DONE, "echo": DONE}


async def test_logs_are_kept_and_seen_while_the_step_runs(open_engine: OpenEngine, folder: str) -> None:
    @chain
    def logging(folder: str):
        return steps.logs(folder)

    async with open_engine() as engine:
        handle = await engine.start(logging, folder=folder)
        await began(folder, "logs")
        await until(lambda: _logged(engine, handle.id, "the first line"))
        assert engine.adapter.progress(handle.id) == {("logs", None): (2, 8)}
        assert await engine.progress(handle.id) == {("logs", None): (2, 8)}
        let_go(folder, "logs")
        run = await handle.result()
        kept = await engine.store.logs(run.id)
        assert [(r["step_id"], r["attempt"]) for r in kept] == [("logs", 1)]
        lines = kept[0]["text"].splitlines()
        assert "INFO    the first line" in lines[0]
        assert "WARNING the last line" in lines[1]
        assert await settled(engine, run) == {"logs": DONE}


async def _logged(engine: Engine, run_id: str, text: str) -> bool:
    return any(text in r["text"] for r in await engine.store.logs(run_id))
