# ruff: noqa: ASYNC240 - tests and steps meet through files
"""A step that waits for a decision, and the edit of its output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.conformance import chain_steps as steps
from tests.conformance.chain_steps import PATIENCE, began, let_go, noted
from tests.conformance.runs import (
    CANCELLED,
    DONE,
    FAILED,
    QUEUED,
    SKIPPED,
    WAITS,
    OpenEngine,
    is_now,
    pending,
    rows,
    settled,
    status_of,
    trail,
    until,
)
from towpath import ApprovalRefused, chain


@chain
def gated(folder: str):
    checked = steps.draft("the draft")
    return steps.read_text(checked), steps.double(steps.hold(folder, "beside", 4))


async def test_H3_a_gate_waits_while_other_branches_go_on(open_engine: OpenEngine, folder: str) -> None:
    """A gate is a row, not a coroutine: it is there after a restart. Its approval starts the next step."""
    async with open_engine() as engine:
        handle = await engine.start(gated, folder=folder)
        await until(lambda: is_now(engine, handle.id, "draft", WAITS))
        assert await handle.status() == "running"
        let_go(folder, "beside")
        run = await handle.result()
        assert (run.status, run.reason, run["double"].value) == ("paused", "approval", 8)
        assert await settled(engine, run) == {"draft": WAITS, "hold": DONE, "double": DONE}
        gate = await pending(engine, run)
        assert (gate.step_id, gate.artifact_ids) == ("draft", [run["draft"].artifact.id])
        assert run["draft"].artifact.row.approval_status == "pending"
        assert (await trail(engine, run.id))["draft"] == ["StepStarted", "ApprovalRequested", "StepWaiting"]
    async with open_engine() as engine:
        assert (await engine.snapshot(handle.id)).status == "paused", "opening a store starts no work"
        await engine.approve(gate.id, by="anna", reason="fine")
        run = await engine.resume(handle.id)
        assert run.value == ["the draft", 8]
        row = await engine.get_approval(gate.id)
        assert (row.status, row.decided_by, row.reason, row.delivered) == ("approved", "anna", "fine", True)
        kept = await engine.get_artifact(run["draft"].artifact.id)
        assert (kept.approval_status, kept.approved_by) == ("approved", "anna")
        assert set((await settled(engine, run)).values()) == {DONE}


async def test_a_gate_decided_while_the_run_goes_on(open_engine: OpenEngine, folder: str) -> None:
    """In process and from another engine: the owner acts on it while another step works."""
    async with open_engine() as engine, open_engine() as other:
        for who in (engine, other):
            for file in Path(folder).iterdir():
                file.unlink()
            handle = await engine.start(gated, folder=folder)
            await until(lambda: is_now(engine, handle.id, "draft", WAITS))  # noqa: B023 - used at once
            await who.approve((await pending(who, handle.id)).id, by="anna")
            await until(lambda: is_now(engine, handle.id, "read_text", DONE))  # noqa: B023
            let_go(folder, "beside")
            run = await handle.result()
            assert run.status == "completed"
            assert set((await settled(engine, run)).values()) == {DONE}


async def test_reject_stops_the_chain(open_engine: OpenEngine, folder: str) -> None:
    """The row fails, running steps finish, nothing new starts, queued ones included; the chain fails."""

    @chain(concurrency=1)
    def busy(folder: str):
        gate = steps.draft("x")
        held = steps.hold(folder, "running").named("running")
        queued = steps.hold(folder, "queued").named("queued")
        return steps.read_text(gate), steps.echo(held), queued

    async with open_engine() as engine:
        handle = await engine.start(busy, folder=folder)
        await began(folder, "running")
        assert await status_of(engine, handle.id, "queued") == QUEUED
        await engine.reject((await pending(engine, handle.id)).id, by="anna", reason="ugly")
        await until(lambda: is_now(engine, handle.id, "draft", FAILED))
        let_go(folder, "running", "queued")
        run = await handle.result(check=False)
        assert run.status == "failed"
        assert run.error is not None
        assert run.error.code == "E_REJECTED"
        assert "ugly" in run.error.message
        assert not noted(folder, "queued.began")
        assert noted(folder, "running.ended")
        statuses = await settled(engine, run)
        assert (statuses["draft"], statuses["running"], statuses["read_text"]) == (FAILED, DONE, SKIPPED)
        assert statuses["queued"] in (SKIPPED, CANCELLED)
        assert statuses["echo"] == SKIPPED


@pytest.mark.parametrize("decision", ["approve", "reject"])
async def test_H5_a_decision_without_an_engine_is_applied_at_resume(open_engine: OpenEngine, decision: str) -> None:
    """The functions of the store decide. The first decision counts, and a second one is refused."""

    @chain
    def simple():
        return steps.read_text(steps.draft("x"))

    async with open_engine() as engine:
        run = await engine.run(simple)
        gate = await pending(engine, run)
    async with open_engine() as engine:
        await getattr(engine._gates, decision)(gate.id, "anna")  # what another process would call
        for again in (engine.approve, engine.reject):
            with pytest.raises(ApprovalRefused) as second:
                await again(gate.id, by="bert")
            assert second.value.code == "E_APPROVAL_DECIDED"
        assert await status_of(engine, run.id, "draft") == WAITS
        assert (await engine.get_approval(gate.id)).delivered is False
    async with open_engine() as engine:
        run = await engine.resume(run.id, check=False)
        expected = (DONE, DONE) if decision == "approve" else (FAILED, SKIPPED)
        statuses = await settled(engine, run)
        assert (statuses["draft"], statuses["read_text"]) == expected
        row = await engine.get_approval(gate.id)
        assert (row.decided_by, row.delivered) == ("anna", True)


async def test_F3_an_edit_is_what_the_next_step_gets(open_engine: OpenEngine) -> None:
    """A new version does not decide; approving needs the versions that were seen (E_APPROVAL_STALE)."""

    @chain
    def edited():
        checked = steps.draft("first")
        return steps.read_text(checked), steps.describe(checked)

    async with open_engine() as engine:
        run = await engine.run(edited)
        gate = await pending(engine, run)
        old = run["draft"].artifact
        row = (await rows(engine, run))["draft"]
        new = await engine.create_artifact(row.id, data=b"second", parent_artifact_id=old.id, created_by="anna")
        assert (new.version, new.name) == (2, "output")
        assert await status_of(engine, run.id, "draft") == WAITS
        for seen in (None, [old.id], [], [old.id, new.id]):
            with pytest.raises(ApprovalRefused) as stale:
                await engine.approve(gate.id, by="anna", seen=seen)
            assert stale.value.code == "E_APPROVAL_STALE"
        await engine.approve(gate.id, by="anna", seen=[new.id])
        run = await engine.resume(run.id)
        assert run["read_text"].value == "second"
        assert run["describe"].value["version"] == 2
        assert run["draft"].artifact.version == 2
        assert set((await settled(engine, run)).values()) == {DONE}


async def test_an_edit_while_the_run_goes_on(open_engine: OpenEngine, folder: str) -> None:
    """The engine that works on the run hands on the new version too."""
    async with open_engine() as engine:
        handle = await engine.start(gated, folder=folder)
        await until(lambda: is_now(engine, handle.id, "draft", WAITS))
        row = (await rows(engine, handle.id))["draft"]
        gate = await pending(engine, handle.id)
        new = await engine.create_artifact(row.id, data=b"better", parent_artifact_id=gate.artifact_ids[0])
        await engine.approve(gate.id, by="anna", seen=[new.id])
        let_go(folder, "beside")
        run = await handle.result()
        assert run["read_text"].value == "better"
        assert set((await settled(engine, run)).values()) == {DONE}


@pytest.mark.parametrize("live", [True, False])
async def test_a_gate_on_a_value_shows_it_as_an_artifact(open_engine: OpenEngine, folder: str, live: bool) -> None:
    """A person sees data as the artifact `value`; the next step gets the edited version."""

    @chain
    def proposed(folder: str):
        return steps.add(steps.proposal(20), 1), steps.hold(folder, "beside")

    async with open_engine() as engine:
        if not live:
            let_go(folder, "beside")
        handle = await engine.start(proposed, folder=folder)
        await until(lambda: is_now(engine, handle.id, "proposal", WAITS))
        gate = await pending(engine, handle.id)
        row = (await rows(engine, handle.id))["proposal"]
        shown = await engine.get_artifacts_by_workflow(row.id)
        assert [(a.name, a.media_type) for a in shown] == [("value", "application/json")]
        assert gate.artifact_ids == [shown[0].id]
        new = await engine.create_artifact(row.id, data=b"41", parent_artifact_id=shown[0].id, filename="v.json")
        if not live:
            assert (await handle.result()).status == "paused"
        await engine.approve(gate.id, by="anna", seen=[new.id])
        let_go(folder, "beside")
        run = await handle.result() if live else await engine.resume(handle.id)
        assert run["proposal"].value == 41
        assert run["add"].value == 42
        assert (await engine.snapshot(run.id))["proposal"].value == 41
        assert set((await settled(engine, run)).values()) == {DONE}


async def test_a_gate_per_item(open_engine: OpenEngine) -> None:
    """The step waits until all items are decided; items are approved one by one."""

    @chain
    def gated_items():
        return steps.read_text.map(steps.draft.map(["a", "b", "c"]))

    async with open_engine() as engine:
        run = await engine.run(gated_items)
        # No order among items is promised.
        gates = sorted(await engine.approvals(run.id), key=lambda g: g["item_index"])
        assert [g.item_index for g in gates] == [0, 1, 2]
        statuses = await settled(engine, run)
        assert [statuses[f"draft[{i}]"] for i in range(3)] == [WAITS] * 3
        await engine.approve(gates[1].id, by="anna")
        run = await engine.resume(run.id)
        assert run.status == "paused"
        statuses = await settled(engine, run)
        assert (statuses["draft[1]"], statuses["read_text[1]"], statuses["draft[0]"]) == (DONE, DONE, WAITS)
        for gate in await engine.approvals(run.id):
            await engine.approve(gate.id, by="anna")
        run = await engine.resume(run.id)
        assert run.value == ["a", "b", "c"]
        assert set((await settled(engine, run)).values()) == {DONE}


async def test_H5_two_gates_are_independent(open_engine: OpenEngine) -> None:
    @chain
    def two():
        return steps.read_text(steps.draft("a").named("a")), steps.read_text(steps.draft("b").named("b"))

    async with open_engine() as engine:
        run = await engine.run(two)
        assert len(await engine.approvals(run.id)) == 2
        await engine.approve((await pending(engine, run, "b")).id, by="anna")
        run = await engine.resume(run.id)
        assert await settled(engine, run) == {"a": WAITS, "b": DONE, "read_text_2": DONE}
        await engine.approve((await pending(engine, run, "a")).id, by="anna")
        run = await engine.resume(run.id)
        assert run.value == ["a", "b"]
        assert set((await settled(engine, run)).values()) == {DONE}


async def test_run_with_wait_returns_after_the_decision(open_engine: OpenEngine) -> None:
    @chain
    def simple():
        return steps.read_text(steps.draft("x"))

    async with open_engine() as engine, open_engine() as other, anyio.create_task_group() as tasks:

        async def decide() -> None:
            await until(lambda: other.approvals("waited"))
            await anyio.sleep(0.05)
            await other.approve((await pending(other, "waited")).id, by="anna")

        tasks.start_soon(decide)
        with anyio.fail_after(PATIENCE):
            run = await engine.run(simple, run_id="waited", wait=True)
        assert run.value == "x"
        assert await settled(engine, run) == {"draft": DONE, "read_text": DONE}


@pytest.mark.parametrize("wait", [False, True])
async def test_a_run_that_goes_on_before_its_pause_is_noticed(
    open_engine: OpenEngine, folder: str, wait: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decision, and the next step, are faster than the caller that reads of the pause: it waits for the end."""

    @chain
    def simple(folder: str):
        return steps.hold(folder, "last", steps.read_text(steps.draft("x")))

    async with open_engine() as engine, open_engine() as other, anyio.create_task_group() as tasks:
        execute = engine.adapter.execute

        async def late(run_id: str, *more: Any) -> Any:
            ended = await execute(run_id, *more)
            if ended.status == "paused":
                await other.approve((await pending(other, run_id)).id, by="anna")
                tasks.start_soon(other.resume, run_id)
                await began(folder, "last")
                tasks.start_soon(_let_go_later, folder)
            return ended

        monkeypatch.setattr(engine.adapter, "execute", late)
        with anyio.fail_after(PATIENCE):
            run = await engine.run(simple, folder=folder, run_id="fast", wait=wait)
        assert run.value == "x"


async def _let_go_later(folder: str) -> None:
    await anyio.sleep(0.3)
    let_go(folder, "last")


async def test_decisions_about_nothing(open_engine: OpenEngine) -> None:
    async with open_engine() as engine:
        with pytest.raises(ApprovalRefused) as missing:
            await engine.approve("nobody", by="anna")
        assert missing.value.code == "E_APPROVAL_MISSING"
        assert await engine.approvals() == []
