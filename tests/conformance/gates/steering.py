"""Cancel, pause and rerun while a gate is open or a step is made again."""

from __future__ import annotations

import anyio
import pytest

from tests.conformance import chain_steps as steps
from tests.conformance.chain_steps import began, let_go, noted
from tests.conformance.gates.pictures import painted, versions_of
from tests.conformance.runs import CANCELLED, DONE, FAILED, WAITS, OpenEngine, is_now, pending, settled, until
from towpath import Engine, RunRefused, chain


@chain
def slowly(folder: str):
    return steps.first_line(steps.paint_slowly(folder).with_approval(on_rejected="regenerate", max_retries=1))


async def test_cancel_while_a_regeneration_runs(open_engine: OpenEngine, folder: str) -> None:
    """The row ends cancelled, no new gate opens, and the rejected version stays rejected."""
    async with open_engine() as engine:
        run = await engine.run(slowly, folder=folder)
        await engine.reject((await pending(engine, run)).id, by="anna")
        handle = await engine.start(slowly, run_id=run.id)
        await until(lambda: len(noted(folder, "slowly.began")) == 2)
        await engine.cancel(run.id)
        run = await handle.result(check=False)
        assert run.status == "cancelled"
        assert await settled(engine, run) == {"paint_slowly": CANCELLED, "first_line": CANCELLED}
        assert await engine.approvals() == []
        assert await versions_of(engine, run.id, "paint_slowly") == [(1, "rejected", True)]


async def test_cancel_after_a_decision_that_nobody_applied(open_engine: OpenEngine, folder: str) -> None:
    """The decision stays on record, the run is cancelled, nothing is left to be delivered."""
    async with open_engine() as engine:
        run = await engine.run(slowly, folder=folder)
        gate = await pending(engine, run)
        await engine.approve(gate, by="anna")
        assert await engine.cancel(run.id) == "cancelled"
        row = await engine.get_approval(gate.id)
        assert (row.status, row.delivered) == ("approved", True)
        assert set((await settled(engine, run.id)).values()) == {CANCELLED}


async def test_pause_while_a_regeneration_runs(open_engine: OpenEngine, folder: str) -> None:
    """The new attempt is finished and its gate opens. A decision while the run is paused is applied at the resume."""
    async with open_engine() as engine:
        run = await engine.run(slowly, folder=folder)
        await engine.reject((await pending(engine, run)).id, by="anna")
        handle = await engine.start(slowly, run_id=run.id)
        await until(lambda: len(noted(folder, "slowly.began")) == 2)
        await engine.pause(run.id)
        await anyio.sleep(0.05)
        let_go(folder, "slowly")
        run = await handle.result()
        assert (run.status, run.reason) == ("paused", "requested")
        assert await settled(engine, run) == {"paint_slowly": WAITS}
        await engine.approve((await pending(engine, run)).id, by="anna")
        run = await engine.resume(run.id)
        assert run["first_line"].value == "plain"
        assert set((await settled(engine, run)).values()) == {DONE}


async def test_a_regeneration_asked_for_while_the_run_is_pausing(open_engine: OpenEngine, folder: str) -> None:
    """The rejection is applied, the new attempt waits for the resume."""

    @chain
    def beside(folder: str):
        picture = steps.paint(folder, "x").with_approval(on_rejected="regenerate", max_retries=1)
        return steps.first_line(picture), steps.hold(folder, "beside")

    async with open_engine() as engine:
        handle = await engine.start(beside, folder=folder)
        await began(folder, "beside")
        await until(lambda: is_now(engine, handle.id, "paint", WAITS))
        gate = await pending(engine, handle.id)
        await engine.pause(handle.id)
        await anyio.sleep(0.05)
        await engine.reject(gate, by="anna", parameters={"style": "red"})
        await until(lambda: _delivered(engine, gate.id))
        let_go(folder, "beside")
        run = await handle.result()
        assert (run.reason, len(noted(folder, "paint"))) == ("requested", 1)
        run = await engine.resume(run.id)
        assert noted(folder, "paint")[1] == "2 red paint/regeneration-1"
        assert (await settled(engine, run))["paint"] == WAITS


async def _delivered(engine: Engine, approval: str) -> bool:
    return bool((await engine.get_approval(approval)).delivered)


async def test_rerun_while_a_gate_is_open(open_engine: OpenEngine, folder: str) -> None:
    """Refused while the run is open; a rerun of a rejected run makes the step again, and asks again."""
    async with open_engine() as engine:
        run = await engine.run(painted(), folder=folder)
        with pytest.raises(RunRefused, match="E_RUN_ACTIVE"):
            await engine.rerun(run)
        await engine.reject((await pending(engine, run)).id, by="anna")
        run = await engine.resume(run.id, check=False)
        with pytest.raises(RunRefused, match="E_RUN_OVER"):
            await run.resume()
        again = await engine.rerun(run)
        assert (again.status, again["paint"].artifact.version) == ("paused", 1)
        await engine.approve((await pending(engine, again)).id, by="anna")
        again = await again.resume()
        assert again["first_line"].value == "a boat plain"
        assert set((await settled(engine, again)).values()) == {DONE}


async def test_a_rejection_inside_does_not_stop_the_chain_around(open_engine: OpenEngine, folder: str) -> None:
    """Rejected inside: the step around failed, other branches go on, also when another engine continues."""

    @chain
    def inside(folder: str):
        return steps.paint(folder, "x").with_approval()

    @chain
    def around(folder: str):
        return inside(folder).named("inside"), steps.first_line(steps.paint_slowly(folder).with_approval())

    async with open_engine() as engine:
        run = await engine.run(around, folder=folder)
        gates = {gate.step: gate for gate in await engine.approvals(run.id)}
        assert gates["paint"].run != gates["paint_slowly"].run == run.id
        await engine.reject(gates["paint"], by="anna")
        run = await engine.resume(run.id)
        assert await settled(engine, run) == {"inside": FAILED, "paint_slowly": WAITS}
    async with open_engine() as engine:
        await engine.approve(gates["paint_slowly"], by="anna")
        run = await engine.resume(run.id, check=False)
        assert run.status == "failed"
        assert await settled(engine, run) == {"inside": FAILED, "paint_slowly": DONE, "first_line": DONE}


async def test_a_chain_that_returns_what_was_skipped_fails_the_step_around_it(
    open_engine: OpenEngine, folder: str
) -> None:
    """The chain inside completes; only what it should return is not there."""

    @chain
    def inside(folder: str):
        return steps.first_line(steps.paint(folder, "x").with_approval(on_rejected="skip"))

    @chain
    def around(folder: str):
        return inside(folder).named("inside")

    async with open_engine() as engine:
        run = await engine.run(around, folder=folder)
        (gate,) = await engine.approvals(run.id)
        assert gate.run != run.id
        await engine.reject(gate, by="anna")
        run = await engine.resume(run.id, check=False)
        assert run["inside"].error is not None
        assert run["inside"].error.code == "E_TEMPLATE_UNDEFINED"
        assert await settled(engine, run) == {"inside": FAILED}
