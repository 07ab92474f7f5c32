"""Cancel, pause, resume, and closing an engine."""

from __future__ import annotations

import anyio
import pytest

from tests.conformance import chain_steps as steps
from tests.conformance.adapter.chains_inside import around_a_gate
from tests.conformance.adapter.shapes import linear
from tests.conformance.chain_steps import PATIENCE, began, let_go, noted
from tests.conformance.runs import CANCELLED, DONE, QUEUED, OpenEngine, child_of, is_now, pending, settled, trail, until
from towpath import ApprovalRefused, Engine, RunRefused, chain


@chain
def held_pair(folder: str):
    return steps.echo([steps.hold(folder, "a").named("a"), steps.hold(folder, "b").named("b")])


async def test_cancel(open_engine: OpenEngine, folder: str) -> None:
    """Recorded at once. Running and waiting steps are cancelled; a second cancel is refused."""
    async with open_engine() as engine:
        handle = await engine.start(held_pair, folder=folder)
        other = await engine.start(linear, n=1)
        await began(folder, "a", "b")
        await handle.cancel()
        with anyio.fail_after(PATIENCE):
            run = await handle.result(check=False)
        assert run.status == "cancelled"
        assert noted(folder, "a.cancelled")
        assert noted(folder, "b.cancelled")
        assert await settled(engine, run) == {"a": CANCELLED, "b": CANCELLED, "echo": CANCELLED}
        assert (await trail(engine, run.id))["a"] == ["StepStarted", "StepCancelled"]
        assert "CancelRequested" in (await trail(engine, run.id))[""]
        with pytest.raises(RunRefused) as over:
            await handle.cancel()
        assert over.value.code == "E_RUN_OVER"
        assert (await other.result()).status == "completed"
        with pytest.raises(RunRefused) as missing:
            await engine.cancel("nobody")
        assert missing.value.code == "E_RUN_MISSING"


async def test_cancel_from_another_engine(open_engine: OpenEngine, folder: str) -> None:
    """It reaches the owner, though this engine does not work on the run."""
    async with open_engine() as engine, open_engine() as other:
        handle = await engine.start(held_pair, folder=folder)
        await began(folder, "a", "b")
        seen = await other.get(handle.id)
        assert await seen.status() == "running"
        assert await seen.cancel() == "running"
        with anyio.fail_after(PATIENCE):
            run = await seen.result(check=False)
        assert run.status == "cancelled"
        assert await settled(other, run) == {"a": CANCELLED, "b": CANCELLED, "echo": CANCELLED}


async def test_cancel_a_mapped_step(open_engine: OpenEngine, folder: str) -> None:
    @chain
    def mapped(folder: str):
        return steps.total(steps.item_after.map([0, 1, 2], folder=folder))

    async with open_engine() as engine:
        handle = await engine.start(mapped, folder=folder)
        await until(lambda: is_now(engine, handle.id, "item_after[0]", DONE))
        await handle.cancel()
        with anyio.fail_after(PATIENCE):
            run = await handle.result(check=False)
        assert await settled(engine, run) == {
            "item_after": CANCELLED,
            "item_after[0]": DONE,
            "item_after[1]": CANCELLED,
            "item_after[2]": CANCELLED,
            "total": CANCELLED,
        }


async def test_cancel_while_a_step_waits_for_its_next_try(open_engine: OpenEngine, folder: str) -> None:
    @chain
    def napping(folder: str):
        return steps.naps(folder)

    async with open_engine() as engine:
        handle = await engine.start(napping, folder=folder)
        await until(lambda: _recorded(engine, handle.id, "naps", "StepRetried"))
        await handle.cancel()
        with anyio.fail_after(PATIENCE):
            run = await handle.result(check=False)
        assert (run.status, len(noted(folder, "naps.began"))) == ("cancelled", 1)
        assert await settled(engine, run) == {"naps": CANCELLED}


async def _recorded(engine: Engine, run_id: str, step: str, kind: str) -> bool:
    return kind in (await trail(engine, run_id)).get(step, [])


async def test_cancel_while_a_thread_works(open_engine: OpenEngine, folder: str) -> None:
    """A thread cannot be stopped. The run does not wait for it and ignores what it returns."""

    @chain
    def threaded(folder: str):
        return steps.echo(steps.hold_thread(folder, "thread"))

    async with open_engine() as engine:
        handle = await engine.start(threaded, folder=folder)
        await began(folder, "thread")
        await handle.cancel()
        with anyio.fail_after(PATIENCE):
            run = await handle.result(check=False)
        assert not noted(folder, "thread.ended")
        let_go(folder, "thread")
        await until(lambda: noted(folder, "thread.ended"))
        assert await settled(engine, run) == {"hold_thread": CANCELLED, "echo": CANCELLED}


async def test_pause_and_resume(open_engine: OpenEngine, folder: str) -> None:
    """Running steps finish and no new step starts. `resume` continues the run, also in another engine."""

    @chain
    def line(folder: str):
        return steps.echo(steps.hold(folder, "first"))

    async with open_engine() as engine:
        handle = await engine.start(line, folder=folder)
        await began(folder, "first")
        assert await handle.pause() == "running"
        let_go(folder, "first")
        run = await handle.result()
        assert (run.status, run.reason) == ("paused", "requested")
        statuses = await settled(engine, run)
        assert statuses.get("echo", QUEUED) == QUEUED
        assert statuses["hold"] == DONE
    async with open_engine() as engine:
        run = await engine.resume(handle.id)
        assert (run.status, run.value) == ("completed", "first")
        assert noted(folder, "first.began") == ["1"]
        assert await settled(engine, run) == {"hold": DONE, "echo": DONE}
        with pytest.raises(RunRefused) as over:
            await engine.resume(run.id)
        assert over.value.code == "E_RUN_OVER"


async def test_closing_the_engine_interrupts_and_resume_goes_on(open_engine: OpenEngine, folder: str) -> None:
    """S6.9 without the kill: recorded steps do not run again, the others do."""

    @chain
    def line(folder: str):
        first = steps.third_time(folder)
        return steps.hold(folder, "second").after(first)

    async with open_engine() as engine:
        handle = await engine.start(line, folder=folder)
        await began(folder, "second")
    async with open_engine() as engine:
        run = await engine.snapshot(handle.id)
        assert (run.status, run.reason) == ("paused", "interrupted")
        assert (await settled(engine, run))["third_time"] == DONE
        let_go(folder, "second")
        run = await engine.resume(handle.id)
        assert run.value == "second"
        assert noted(folder, "second.began") == ["1", "2"]
        assert len(noted(folder, "third_time")) == 3
        assert await settled(engine, run) == {"third_time": DONE, "hold": DONE}


async def test_cancel_a_paused_run(open_engine: OpenEngine) -> None:
    """The run has no owner, so the cancel ends it at once and closes its gate."""

    @chain
    def gated():
        return steps.read_text(steps.draft("x"))

    async with open_engine() as engine:
        run = await engine.run(gated)
        gate = await pending(engine, run)
        assert await engine.cancel(run.id) == "cancelled"
        run = await engine.snapshot(run.id)
        assert run.status == "cancelled"
        assert (await engine.get_approval(gate.id)).status == "cancelled"
        with pytest.raises(ApprovalRefused) as late:
            await engine.approve(gate.id, by="anna")
        assert late.value.code == "E_APPROVAL_DECIDED"
        assert (await settled(engine, run))["draft"] == CANCELLED


async def test_cancel_a_paused_run_with_a_gate_inside(open_engine: OpenEngine) -> None:
    async with open_engine() as engine:
        run = await engine.run(around_a_gate, text="x")
        child = await child_of(engine, run, "gate_inside")
        assert await engine.cancel(run.id) == "cancelled"
        assert (await engine.get_chain(child.id)).status == "cancelled"
        assert (await settled(engine, child.id))["draft"] == CANCELLED
        assert (await settled(engine, run.id))["gate_inside"] == CANCELLED
