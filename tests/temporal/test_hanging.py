"""No run hangs: workflows that are ended by hand, that fail, or that meet rows of an earlier workflow."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from pathlib import Path
from typing import Any

import anyio
import pytest
from temporalio.client import Client

from tests.adapters.conftest import OpenEngine
from tests.conformance import chain_steps as steps
from tests.conformance.adapter import CANCELLED, DONE, RUNS, folder, pending, settled, status_of, until
from tests.conformance.chain_steps import PATIENCE, began, let_go
from tests.temporal.dev_server import DevServer
from towpath import Engine, ServerFailed, StoreFailed, chain, context, step
from towpath.adapters.step_executor import Resources
from towpath.adapters.temporal import adapter as temporal_adapter
from towpath.adapters.temporal import messages, run_activities, run_driver, supervision, worker
from towpath.adapters.temporal.connection import parse_address
from towpath.adapters.temporal.run_activities import RunActivities
from towpath.store import open_store

__all__ = ["folder"]

pytestmark = pytest.mark.anyio


@pytest.fixture
def heartbeat() -> str:
    """A worker hears with a heartbeat that a workflow was cancelled by hand: every third of this time."""
    return "2s"


@chain
def inner(folder: str):
    return steps.echo(steps.hold(folder, "deep"))


@chain
def outer(folder: str):
    return steps.echo(inner(folder=folder)), steps.hold(folder, "flat")


@chain
def single(folder: str):
    return steps.echo(steps.hold(folder, "flat"))


@pytest.fixture
def client(temporal_server: DevServer) -> Any:
    """Connects to the server without towpath."""
    return lambda: Client.connect(temporal_server.target)


@pytest.fixture
def quick_orphan_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "ORPHAN_INTERVAL", 0.5)


@pytest.fixture
def no_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    """No workflow gets a signal: it hears of a cancel only by what its steps report."""

    async def lost(*address: Any) -> bool:
        return False

    for module in (temporal_adapter, supervision):
        monkeypatch.setattr(module, "signal_run", lost)


async def left_paused(engine: Engine, run_id: str) -> None:
    async def paused() -> bool:
        now = await engine.snapshot(run_id)
        return now.status == "paused" and now.reason == "interrupted"

    await until(paused)


async def test_a_workflow_ended_by_hand_leaves_its_run_to_be_resumed(
    open_engine: OpenEngine, adapter: str, client: Any, folder: str, quick_orphan_watch: None
) -> None:
    """Terminated on Temporal's pages: nothing is recorded as cancelled, in the run and in the run inside it. A waiting
    caller gets an error, and `resume` executes the rest.
    """
    async with open_engine() as engine:
        handle = await engine.start(outer, folder=folder)
        await began(folder, "deep", "flat")
        found = (await client()).get_workflow_handle(parse_address(adapter).workflow_id(handle.id))
        await found.terminate("by hand")
        with pytest.raises(ServerFailed) as failed:
            await handle.result()
        assert failed.value.code == "E_TEMPORAL_WORKFLOW"
        await left_paused(engine, handle.id)
        await anyio.sleep(1.5)  # in which the workers stop the steps
        assert await status_of(engine, handle.id, "hold") == RUNS
        let_go(folder, "deep", "flat")
        with anyio.fail_after(PATIENCE):
            run = await engine.resume(handle.id)
        assert run.value == ["deep", "flat"]
        assert set((await settled(engine, run)).values()) == {DONE}


async def test_a_workflow_ended_by_hand_while_nobody_waits(
    open_engine: OpenEngine, adapter: str, client: Any, folder: str, quick_orphan_watch: None
) -> None:
    """A worker pauses the run, and a cancel then ends it at once."""
    async with open_engine() as engine:
        async with open_engine(worker=False) as starting:
            run_id = (await starting.start(single, folder=folder)).id
            await began(folder, "flat")
        await (await client()).get_workflow_handle(parse_address(adapter).workflow_id(run_id)).terminate()
        await left_paused(engine, run_id)
        assert await engine.cancel(run_id) == "cancelled"
        assert (await settled(engine, run_id))["hold"] == CANCELLED


async def test_a_cancel_on_temporals_pages_is_a_cancel(
    open_engine: OpenEngine, adapter: str, client: Any, folder: str
) -> None:
    async with open_engine() as engine:
        handle = await engine.start(outer, folder=folder)
        await began(folder, "deep", "flat")
        await (await client()).get_workflow_handle(parse_address(adapter).workflow_id(handle.id)).cancel()
        with anyio.fail_after(PATIENCE):
            run = await handle.result(check=False)
        assert run.status == "cancelled"
        assert set((await settled(engine, run)).values()) == {CANCELLED}


async def test_a_step_that_stops_before_the_signal_comes_tells_of_the_cancel(
    open_engine: OpenEngine, folder: str, no_signals: None
) -> None:
    """A worker reads the cancel in the store. What its steps then report cancels the run and the run inside it."""
    async with open_engine() as engine:
        handle = await engine.start(outer, folder=folder)
        await began(folder, "deep", "flat")
        await handle.cancel()
        with anyio.fail_after(PATIENCE):
            run = await handle.result(check=False)
        assert run.status == "cancelled"
        assert set((await settled(engine, run)).values()) == {CANCELLED}


@step(cheap=True)
async def asks_for_a_cancel(store: str, name: str) -> str:
    """The last act of this step is a cancel of its run, so the next step of its group finds it before it starts."""
    async with open_store(Path(store)) as opened:
        await opened.request(context().run_id, "cancel")
    return name


@step(cheap=True)
async def cheap_echo(value: str) -> str:
    return value


@chain
def cancelled_within(store: str):
    return cheap_echo(asks_for_a_cancel(store, "a"))


async def test_a_later_step_of_a_group_tells_of_the_cancel(
    open_engine: OpenEngine, adapter: str, store: Path, no_signals: None
) -> None:
    async with open_engine(adapter=f"{adapter}&granularity=auto") as engine:
        handle = await engine.start(cancelled_within, store=str(store))
        with anyio.fail_after(PATIENCE):
            run = await handle.result(check=False)
        assert run.status == "cancelled"
        assert await settled(engine, run) == {"asks_for_a_cancel": DONE, "cheap_echo": CANCELLED}


async def test_an_error_in_workflow_code_leaves_the_run_to_be_resumed(
    open_engine: OpenEngine, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also an error in a task that is not awaited."""
    real = run_driver.RunDriver._result

    async def broken(self: Any, start: Any) -> Any:
        raise LookupError("a bug in workflow code")

    monkeypatch.setattr(run_driver.RunDriver, "_result", broken)
    async with open_engine() as engine:
        let_go(folder, "flat")
        with anyio.fail_after(PATIENCE), pytest.raises(ServerFailed) as failed:
            await engine.run(single, run_id="broken", folder=folder)
        assert "a bug in workflow code" in str(failed.value)
        await left_paused(engine, "broken")
        monkeypatch.setattr(run_driver.RunDriver, "_result", real)
        with anyio.fail_after(PATIENCE):
            run = await engine.resume("broken")
        assert run.value == "flat"


async def test_code_that_decides_otherwise_leaves_the_run_to_be_resumed(
    open_engine: OpenEngine, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release that breaks running workflows stops them with a clear error. A resume continues from the rows."""
    real, calls = messages.workflow_id, itertools.count()

    def other(*parts: str) -> str:
        return real(*parts, str(next(calls))) if len(parts) > 2 else real(*parts)

    let_go(folder, "flat")
    monkeypatch.setattr(worker, "CACHED", 0)
    monkeypatch.setattr(messages, "workflow_id", other)
    async with open_engine() as engine:
        with anyio.fail_after(PATIENCE), pytest.raises(ServerFailed) as failed:
            await engine.run(single, run_id="other", folder=folder)
        assert "ondetermin" in str(failed.value)
        await left_paused(engine, "other")
        monkeypatch.setattr(messages, "workflow_id", real)
        with anyio.fail_after(PATIENCE):
            assert (await engine.resume("other")).value == "flat"
        assert set((await settled(engine, "other")).values()) == {DONE}


async def test_an_error_while_a_run_is_taken_leaves_it_to_be_resumed(
    open_engine: OpenEngine, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan that is too large for Temporal says so, with a cure; the local adapter takes the run over."""
    monkeypatch.setattr(run_activities, "MAX_TEXT", 10)
    let_go(folder, "flat")
    async with open_engine() as engine:
        with anyio.fail_after(PATIENCE), pytest.raises(ServerFailed) as failed:
            await engine.run(single, run_id="large", folder=folder)
        assert "E_PLAN_SIZE" in str(failed.value) or "too large for a workflow" in str(failed.value)
        await left_paused(engine, "large")
    async with open_engine(adapter="local", worker=False) as engine:
        assert (await engine.resume("large")).value == "flat"


@pytest.mark.parametrize("code", ["E_TRANSITION", "E_DB_CONFLICT", "E_DB_VALUE"])
async def test_a_store_that_refuses_for_good_is_not_asked_for_ever(
    open_engine: OpenEngine, folder: str, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    real = RunActivities._carry_out

    async def refused(*_: Any) -> None:
        raise StoreFailed(code, "no")

    monkeypatch.setattr(RunActivities, "_carry_out", refused)
    let_go(folder, "flat")
    async with open_engine() as engine:
        with anyio.fail_after(PATIENCE), pytest.raises(ServerFailed):
            await engine.run(single, run_id="refused", folder=folder)
        await left_paused(engine, "refused")
        monkeypatch.setattr(RunActivities, "_carry_out", real)
        with anyio.fail_after(PATIENCE):
            assert (await engine.resume("refused")).value == "flat"


async def test_a_worker_that_stops_in_the_middle_of_recording(
    open_engine: OpenEngine, store: Any, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No grace, and a local activity in flight: the run continues with the next worker and does not fail."""
    real = RunActivities._read_for
    inside = asyncio.Event()

    async def slow(*given: Any) -> None:
        inside.set()
        await asyncio.sleep(3)
        await real(*given)

    @chain
    def decides(folder: str):
        first = steps.echo(1)
        return steps.hold(folder, "flat").after(first).when("echo.output == 1")

    let_go(folder, "flat")
    async with open_engine(worker=False) as engine:
        monkeypatch.setattr(RunActivities, "_read_for", slow)
        handle = await engine.start(decides, folder=folder)
        async with open_engine():
            with anyio.fail_after(PATIENCE):
                await inside.wait()
        monkeypatch.setattr(RunActivities, "_read_for", real)
        async with open_engine():
            with anyio.fail_after(PATIENCE):
                run = await handle.result()
        assert run.status == "completed"
        assert set((await settled(engine, run)).values()) == {DONE}


async def test_what_a_pause_keeps_waiting_fills_no_history(
    open_engine: OpenEngine, adapter: str, client: Any, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A paused run gets repeated signals for a decision that it must not apply yet. Its workflow continues as new, and
    still receives a resume.
    """

    @chain
    def gated(folder: str):
        return steps.read_text(steps.draft("x")), steps.hold(folder, "flat")

    from temporalio.workflow import Info

    monkeypatch.setattr(Info, "is_continue_as_new_suggested", lambda self: self.get_current_history_length() > 40)
    async with open_engine() as engine:
        handle = await engine.start(gated, folder=folder)
        await began(folder, "flat")
        await until(lambda: engine.approvals(handle.id))
        await engine.pause(handle.id)
        let_go(folder, "flat")
        assert (await handle.result()).reason == "requested"
        await engine.approve(await pending(engine, handle.id), by="anna")
        known = (await client()).get_workflow_handle(parse_address(adapter).workflow_id(handle.id))
        first = (await known.describe()).run_id

        async def continued() -> bool:
            await known.signal(messages.WAKE)
            return bool((await known.describe()).run_id != first)

        await until(continued)
        with anyio.fail_after(PATIENCE):
            run = await engine.resume(handle.id)
        assert run.status == "completed"
        assert set((await settled(engine, run)).values()) == {DONE}


async def test_recording_twice_is_recording_once(open_engine: OpenEngine, folder: str) -> None:
    """A worker dies between the commit of a decision and its report. The next worker records it again."""
    from temporalio.testing import ActivityEnvironment

    from towpath.commands import Decide, Finish, Pause, Skip
    from towpath.model import ChainStatus
    from towpath.new_run import new_run

    @chain
    def decides():
        first = steps.echo(1)
        return steps.double(first).when("echo.output == 2")

    def command(*given: Any) -> list[Any]:
        return messages.pack_commands(given)

    async with open_engine(worker=False) as engine:
        await engine.store.create_run(await new_run(engine.store, "twice", decides.plan, {}))
        one, env = RunActivities(Resources(engine.store)), ActivityEnvironment()
        begun = await env.run(one.begin_run, messages.ChainStart("twice", "q"))
        task = messages.StepTask("twice", begun.epoch, "echo", None, "python", "q", heartbeat=5)
        assert (await env.run(one.steps.run_step, task)).status == "succeeded"
        asked = messages.Advance("twice", begun.epoch, command(Decide("double")))
        answers = [(await env.run(RunActivities(Resources(engine.store)).advance_run, asked)).answers for _ in range(2)]
        assert answers == [[messages.Answer("decided", "double", 0)]] * 2
        for packed in (command(Skip("double", "condition is false", None)), command(Pause("requested"))):
            for _ in range(2):
                await env.run(
                    RunActivities(Resources(engine.store)).advance_run, messages.Advance("twice", begun.epoch, packed)
                )
        for _ in range(2):
            over = messages.Advance("twice", begun.epoch, command(Finish(ChainStatus.COMPLETED)))
            await env.run(RunActivities(Resources(engine.store)).advance_run, over)
        recorded = [e["type"] for e in await engine.store.events("twice")]
        for once in ("StepSkipped", "ChainEnded", "StepCompleted"):
            assert recorded.count(once) == 1, recorded


async def test_ids_stay_within_what_servers_take(open_engine: OpenEngine) -> None:
    """Long names of queue, run and step: ids are cut, and still differ."""
    from towpath.adapters.temporal.messages import workflow_id

    @chain
    def two():
        return [steps.number(n).named(f"{'s' * 98}{n}") for n in range(2)]

    assert len({workflow_id("q" * 200, "ü" * 200, str(n)) for n in range(9)}) == 9
    assert all(len(workflow_id("q" * 200, "ü" * 200, str(n)).encode()) <= 255 for n in range(9))
    async with open_engine() as engine:
        with anyio.fail_after(PATIENCE):
            run = await engine.run(two, run_id="ü" * 200)
        assert run.value == [0, 1]


async def test_R34_a_step_that_blocks_the_worker_is_named(
    open_engine: OpenEngine, caplog: pytest.LogCaptureFixture
) -> None:
    @chain
    def one():
        return blocks()

    with caplog.at_level(logging.WARNING, "towpath"):
        async with open_engine() as engine:
            assert (await engine.run(one)).value == 1
    assert any("blocks the event loop" in r.message and "blocks" in r.message for r in caplog.records)


@step
async def blocks() -> int:
    time.sleep(1.8)  # noqa: ASYNC251 - the test needs a blocked event loop
    return 1


# ---- steps whose own workflows are ended by hand


@step
async def hold_item(name: str, folder: str) -> Any:
    """`hold`, mapped over its names."""
    return await steps.hold(folder, name)


@chain
def held_items(folder: str):
    return steps.echo(hold_item.map(["a", "b", "c"], folder=folder))


@chain
def around(folder: str):
    return steps.echo(held_items(folder=folder))


# The chain; the steps that run then; those that may end afterwards; the workflow that is ended, how; the error code.
BY_HAND = [
    (single, ["flat"], [], "hold", "cancel", "E_STEP_CANCELLED"),
    (single, ["flat"], [], "hold", "terminate", "E_STEP_LOST"),
    (held_items, ["a", "b", "c"], ["a", "c"], "hold_item[1]", "cancel", "E_STEP_CANCELLED"),
    (held_items, ["a", "b", "c"], ["a", "b"], "hold_item[2]", "terminate", "E_STEP_LOST"),
    (outer, ["deep", "flat"], ["flat"], "inner", "cancel", "E_STEP_CANCELLED"),
    (around, ["a", "b", "c"], [], "held_items", "cancel", "E_STEP_CANCELLED"),
]


@pytest.mark.parametrize("by_hand", BY_HAND)
async def test_a_step_that_is_ended_by_hand_has_failed(
    open_engine: OpenEngine, adapter: str, client: Any, folder: str, by_hand: tuple[Any, ...]
) -> None:
    """No cancel of the run was requested, so the run fails and names the step, item or chain inside a step."""
    runnable, working, others, ended, how, code = by_hand
    async with open_engine() as engine:
        handle = await engine.start(runnable, folder=folder)
        await began(folder, *working)
        epoch = (await engine.store.status_of(handle.id)).epoch
        name = messages.workflow_id(parse_address(adapter).task_queue, handle.id, ended, str(epoch))
        await getattr((await client()).get_workflow_handle(name), how)()
        let_go(folder, *others)
        with anyio.fail_after(PATIENCE):
            run = await handle.result(check=False)
        step_id, _, item = ended.rstrip("]").partition("[")
        at = run[step_id].items[int(item)] if item else run[step_id]
        assert (run.status, at.status) == ("failed", "failed")
        assert run.error is not None
        assert at.error is not None
        assert at.error.code == code
        for row in await engine.list_chains(limit=10):
            assert row["status"] in ("failed", "cancelled"), "no chain is left that only looks as if it ran"


@step(cheap=True)
async def cheap_hold(folder: str, name: str) -> Any:
    """`hold`, for a group."""
    return await steps.hold(folder, name)


@chain
def grouped(folder: str):
    return steps.echo([cheap_hold(folder, "a"), cheap_hold(folder, "b")])


async def test_steps_whose_group_is_cancelled_by_hand_have_failed(
    open_engine: OpenEngine, adapter: str, client: Any, folder: str
) -> None:
    async with open_engine(adapter=f"{adapter}&granularity=auto") as engine:
        handle = await engine.start(grouped, folder=folder)
        await began(folder, "a", "b")
        epoch = (await engine.store.status_of(handle.id)).epoch
        name = messages.workflow_id(parse_address(adapter).task_queue, handle.id, "cheap_hold+1", str(epoch))
        await (await client()).get_workflow_handle(name).cancel()
        with anyio.fail_after(PATIENCE):
            run = await handle.result(check=False)
        assert run.status == "failed"
        for one in (run["cheap_hold"], run["cheap_hold_2"]):
            assert one.error is not None
            assert (one.status, one.error.code) == ("failed", "E_STEP_CANCELLED")
