"""Chains as steps of chains."""

from __future__ import annotations

import anyio
import pytest

from tests.conformance import chain_steps as steps
from tests.conformance.chain_steps import PATIENCE, began, let_go, noted
from tests.conformance.runs import (
    CANCELLED,
    DONE,
    FAILED,
    RUNS,
    SKIPPED,
    WAITS,
    OpenEngine,
    child_of,
    is_now,
    pending,
    settled,
    until,
)
from towpath import chain


@chain
def inner(n: int = 1):
    made = steps.text_file("from inside")
    return {"n": steps.double(n), "file": made}


@chain
def nested(n: int):
    part = inner(n)
    return steps.add(part["n"], 1), steps.read_text(part["file"])


async def test_a_chain_as_a_step(open_engine: OpenEngine) -> None:
    """It is a run of its own below the step's row; its value and its files go up."""
    async with open_engine() as engine:
        run = await engine.run(nested, n=4)
        assert run.value == [9, "from inside"]
        assert run["inner"].value["n"] == 8
        assert await run["inner"].artifact.read_bytes() == b"from inside"
        child = await child_of(engine, run, "inner")
        assert (child.name, child.status, child.inputs) == ("inner", "completed", {"n": 4})
        assert await settled(engine, child.id) == {"text_file": DONE, "double": DONE}
        assert await settled(engine, run) == {"inner": DONE, "add": DONE, "read_text": DONE}


async def test_a_chain_inside_a_chain_inside_a_chain(open_engine: OpenEngine) -> None:
    """With one slot: the steps of inner chains do not wait for the slots of those around them."""

    @chain
    def middle(n: int):
        return steps.double(inner(n)["n"])

    @chain
    def outer():
        return steps.double(middle(middle(1).named("first")))

    async with open_engine(concurrency=1) as engine:
        with anyio.fail_after(PATIENCE):
            run = await engine.run(outer)
        assert run.value == 32
        first = await child_of(engine, run, "first")
        innermost = await child_of(engine, first.id, "inner")
        assert (first.status, innermost.name, innermost.status) == ("completed", "inner", "completed")
        for run_id in (run.id, first.id, innermost.id):
            assert set((await settled(engine, run_id)).values()) == {DONE}


async def test_a_failure_inside_fails_the_step(open_engine: OpenEngine) -> None:
    @chain
    def failing():
        return steps.boom("deep down")

    @chain
    def around():
        return steps.echo(failing())

    async with open_engine() as engine:
        run = await engine.run(around, check=False)
        assert run.error is not None
        assert "deep down" in run.error.message
        assert await settled(engine, run) == {"failing": FAILED, "echo": SKIPPED}
        child = await child_of(engine, run, "failing")
        assert await settled(engine, child.id) == {"boom": FAILED}


async def test_an_input_that_the_inner_chain_refuses(open_engine: OpenEngine) -> None:
    """The inner chain's inputs are known only when the step starts: the step fails, not the engine."""

    @chain
    def around():
        return inner(steps.echo("not a number"))

    async with open_engine() as engine:
        run = await engine.run(around, check=False)
        assert run["inner"].error is not None
        assert run["inner"].error.code == "E_INPUT_TYPE"
        assert await settled(engine, run) == {"echo": DONE, "inner": FAILED}


async def test_a_cancel_goes_down(open_engine: OpenEngine, folder: str) -> None:
    @chain
    def holding(folder: str):
        return steps.echo(steps.hold(folder, "inside"))

    @chain
    def around(folder: str):
        return steps.echo(holding(folder))

    async with open_engine() as engine:
        handle = await engine.start(around, folder=folder)
        await began(folder, "inside")
        child = await child_of(engine, handle.id, "holding")
        await handle.cancel()
        with anyio.fail_after(PATIENCE):
            run = await handle.result(check=False)
        assert run.status == "cancelled"
        assert await settled(engine, run) == {"holding": CANCELLED, "echo": CANCELLED}
        assert await settled(engine, child.id) == {"hold": CANCELLED, "echo": CANCELLED}
        assert noted(folder, "inside.cancelled")
        assert not noted(folder, "inside.ended")


@chain
def gate_inside(text: str):
    return steps.read_text(steps.draft(text))


@chain
def around_a_gate(text: str):
    return steps.echo(gate_inside(text))


@chain
def around_around(text: str):
    return steps.echo(around_a_gate(text))


@pytest.mark.parametrize("reopened", [False, True])
async def test_a_gate_two_chains_down(open_engine: OpenEngine, reopened: bool) -> None:
    """The steps around the gate wait too and the run pauses. After the approval all of them complete."""
    async with open_engine() as engine:
        run = await engine.run(around_around, text="deep")
        assert (run.status, run.reason) == ("paused", "approval")
        assert await settled(engine, run) == {"around_a_gate": WAITS}
        middle = await child_of(engine, run, "around_a_gate")
        innermost = await child_of(engine, middle.id, "gate_inside")
        assert (middle.status, innermost.status) == ("paused", "paused")
        assert await settled(engine, innermost.id) == {"draft": WAITS}
        if not reopened:
            gate = await pending(engine, innermost.id)
            await engine.approve(gate.id, by="anna")
            run = await engine.resume(run.id)
    if reopened:
        async with open_engine() as engine:
            gate = await pending(engine, innermost.id)
            await engine.approve(gate.id, by="anna")
            named = await engine.resume(innermost.id)  # resumes the whole tree, whichever run of it was named
            assert (named.id, named.status) == (innermost.id, "completed")
    async with open_engine() as engine:
        done = await engine.snapshot(run.id)
        assert done.value == "deep"
        for run_id in (run.id, middle.id, innermost.id):
            assert (await engine.get_chain(run_id)).status == "completed"
            assert set((await settled(engine, run_id)).values()) == {DONE}


async def test_a_gate_inside_decided_while_the_rest_runs(open_engine: OpenEngine, folder: str) -> None:
    """A gate inside a step can be decided, and its chain continues, while the run around it works."""

    @chain
    def beside(folder: str):
        return gate_inside("x"), steps.hold(folder, "beside")

    async with open_engine() as engine:
        handle = await engine.start(beside, folder=folder)
        await began(folder, "beside")
        await until(lambda: is_now(engine, handle.id, "gate_inside", WAITS))
        child = await child_of(engine, handle.id, "gate_inside")
        await engine.approve((await pending(engine, child.id)).id, by="anna")
        await until(lambda: is_now(engine, handle.id, "gate_inside", DONE))
        let_go(folder, "beside")
        run = await handle.result()
        assert run.value == ["x", "beside"]
        assert await settled(engine, run) == {"gate_inside": DONE, "hold": DONE}


async def test_cancel_while_a_chain_inside_waits_for_a_person(open_engine: OpenEngine, folder: str) -> None:
    """The chain inside ends with its step, and its gate is closed."""

    @chain
    def beside(folder: str):
        return gate_inside("x"), steps.hold(folder, "beside")

    async with open_engine() as engine:
        handle = await engine.start(beside, folder=folder)
        await began(folder, "beside")
        await until(lambda: is_now(engine, handle.id, "gate_inside", WAITS))
        child = await child_of(engine, handle.id, "gate_inside")
        await handle.cancel()
        run = await handle.result(check=False)
        assert await settled(engine, run) == {"gate_inside": CANCELLED, "hold": CANCELLED}
        assert (await engine.get_chain(child.id)).status == "cancelled"
        assert (await settled(engine, child.id))["draft"] == CANCELLED
        assert await engine.approvals() == []


@pytest.mark.parametrize("inside_runs", [True, False])
async def test_reject_ends_chains_inside_too(open_engine: OpenEngine, folder: str, inside_runs: bool) -> None:
    """After a rejection the run does not wait for the gate of a chain inside a step, reached or not."""

    @chain
    def slow_gate(folder: str):
        return steps.read_text(steps.draft("inside").after(steps.hold(folder, "inside")))

    @chain
    def two_gates(folder: str):
        return steps.draft("outside"), slow_gate(folder), steps.hold(folder, "beside")

    async with open_engine() as engine:
        if not inside_runs:
            let_go(folder, "inside")
        handle = await engine.start(two_gates, folder=folder)
        await began(folder, "inside", "beside")
        await until(lambda: is_now(engine, handle.id, "slow_gate", RUNS if inside_runs else WAITS))
        await until(lambda: is_now(engine, handle.id, "draft", WAITS))
        child = await child_of(engine, handle.id, "slow_gate")
        await engine.reject((await pending(engine, handle.id)).id, by="anna")
        let_go(folder, "inside", "beside")
        with anyio.fail_after(PATIENCE):
            run = await handle.result(check=False)
        assert run.status == "failed"
        statuses = await settled(engine, run)
        assert (statuses["draft"], statuses["slow_gate"], statuses["hold"]) == (FAILED, CANCELLED, DONE)
        assert (await engine.get_chain(child.id)).status == "cancelled"
        assert await engine.approvals() == []


async def test_a_pause_reaches_the_runs_inside_steps(open_engine: OpenEngine, folder: str) -> None:
    """No step of theirs starts any more; the resume of the outermost run resumes them all."""

    @chain
    def line(folder: str):
        return steps.hold(folder, "second").named("second").after(steps.hold(folder, "first").named("first"))

    @chain
    def middle(folder: str):
        return line(folder)

    @chain
    def outer(folder: str):
        return middle(folder)

    async with open_engine() as engine:
        handle = await engine.start(outer, folder=folder)
        await began(folder, "first")
        await handle.pause()
        let_go(folder, "first", "second")
        with anyio.fail_after(PATIENCE):
            assert (await handle.result()).status == "paused"
        between = await child_of(engine, handle.id, "middle")
        innermost = await child_of(engine, between.id, "line")
        assert (between.status, innermost.status) == ("paused", "paused")
        assert not noted(folder, "second.began")
        run = await engine.resume(handle.id)
        assert run.value == "second"
        assert await settled(engine, innermost.id) == {"first": DONE, "second": DONE}
