"""H4: gates with a time limit."""

from __future__ import annotations

import anyio
import pytest

from tests.conformance import chain_steps as steps
from tests.conformance.chain_steps import PATIENCE, let_go
from tests.conformance.gates.pictures import facts_about, painted, versions_of
from tests.conformance.runs import DONE, SKIPPED, WAITS, OpenEngine, is_now, pending, settled, trail, until
from towpath import ApprovalRefused, chain


async def test_H4_a_timeout_while_somebody_waits(open_engine: OpenEngine, folder: str) -> None:
    """`run(wait=True)` returns after the time limit, without a decision."""
    async with open_engine() as engine:
        with anyio.fail_after(PATIENCE):
            run = await engine.run(painted(timeout=0.5, timeout_action="auto_approve"), folder=folder, wait=True)
        assert run["first_line"].value == "a boat plain"
        gate = (await engine.list_approvals(chain_id=run.id))[0]
        assert gate["expires_at"] == gate.requested_at + 500_000
        assert gate["expires_at"] <= gate["decided_at"]
        (told,) = await facts_about(engine, run.id, "ApprovalTimedOut")
        assert told == {"step": "paint", "approval": gate.id, "action": "approve"}
        assert set((await settled(engine, run)).values()) == {DONE}


@pytest.mark.parametrize("beside", [True, False])
async def test_H4_a_timeout_inside_a_chain_inside(open_engine: OpenEngine, folder: str, beside: bool) -> None:
    """The owner of the run around the gate notices the end of the time, and so does a waiting caller."""

    @chain
    def inside(folder: str):
        return steps.first_line(steps.paint(folder, "x").with_approval(timeout=2, timeout_action="auto_approve"))

    @chain
    def around(folder: str):
        return inside(folder).named("inside"), steps.hold(folder, "beside")

    async with open_engine() as engine:
        if not beside:
            let_go(folder, "beside")
            with anyio.fail_after(PATIENCE):
                run = await engine.run(around, folder=folder, wait=True)
        else:
            handle = await engine.start(around, folder=folder)
            await until(lambda: is_now(engine, handle.id, "inside", DONE))
            let_go(folder, "beside")
            run = await handle.result()
            assert "StepWaiting" in (await trail(engine, run.id))["inside"]
        assert run["inside"].value == "x plain"
        assert set((await settled(engine, run)).values()) == {DONE}


async def test_a_skip_leaves_other_gates_alone(open_engine: OpenEngine, folder: str) -> None:
    """Other gates, in this chain and in chains inside its steps, stay open: only a stop would close them."""

    @chain
    def inside(folder: str):
        return steps.paint(folder, "inside").with_approval()

    @chain
    def around(folder: str):
        steps.paint(folder, "x").with_approval(on_rejected="skip").named("skipped")
        steps.hold(folder, "beside")
        return inside(folder).named("inside")

    async with open_engine() as engine:
        handle = await engine.start(around, folder=folder)
        await until(lambda: is_now(engine, handle.id, "inside", WAITS))
        await until(lambda: is_now(engine, handle.id, "skipped", WAITS))
        await engine.reject(await pending(engine, handle.id), by="anna")
        await until(lambda: is_now(engine, handle.id, "skipped", SKIPPED))
        let_go(folder, "beside")
        run = await handle.result()
        assert await settled(engine, run) == {"skipped": SKIPPED, "inside": WAITS, "hold": DONE}
        (gate,) = await engine.approvals(run.id)
        await engine.approve(gate, by="anna")
        run = await engine.resume(run.id)
        assert run.status == "completed"
        assert (await settled(engine, run))["inside"] == DONE


@pytest.mark.parametrize("decision", ["approve", "reject", "edit"])
async def test_H4_a_decision_after_the_time_is_refused(open_engine: OpenEngine, folder: str, decision: str) -> None:
    """The timeout takes effect instead, at once, and is applied at the resume."""
    async with open_engine() as engine:
        run = await engine.run(painted(timeout=3, on_rejected="skip"), folder=folder)
        gate = await pending(engine, run)  # it must not be over yet, on a slow machine either
        await anyio.sleep(3.05)

        async def decide() -> None:
            if decision == "edit":
                await engine.edit(gate.artifacts[0].id, b"late", by="anna", approve=True)
            else:
                await getattr(engine, decision)(gate, by="anna")

        with pytest.raises(ApprovalRefused) as late:
            await decide()
        assert late.value.code == "E_APPROVAL_EXPIRED"
        if decision == "edit":  # the edit was refused as a whole; without approving it is an edit like any other
            assert len(await versions_of(engine, run.id, "paint")) == 1
        else:
            assert (await engine.get_approval(gate.id)).status == "timed_out"
            with pytest.raises(ApprovalRefused, match="E_APPROVAL_EXPIRED"):
                await decide()
        run = await engine.resume(run.id)
        assert await settled(engine, run) == {"paint": SKIPPED, "first_line": SKIPPED, "after": DONE}


async def test_H4_a_decision_before_the_time_wins_though_it_is_applied_later(
    open_engine: OpenEngine, folder: str
) -> None:
    async with open_engine() as engine:
        run = await engine.run(painted(timeout=2), folder=folder)
        await engine.approve(await pending(engine, run), by="anna")
        await anyio.sleep(2.1)
        run = await engine.resume(run.id)
        assert run.status == "completed"
        assert (await engine.list_approvals(chain_id=run.id))[0].status == "approved"
        assert set((await settled(engine, run)).values()) == {DONE}
