"""Edits: people make new versions of what steps made."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance import chain_steps as steps
from tests.conformance.chain_steps import began, let_go
from tests.conformance.gates.pictures import facts_about, painted, versions_of
from tests.conformance.runs import DONE, RUNS, WAITS, OpenEngine, is_now, pending, rows, settled, status_of, until
from towpath import ApprovalRefused, Artifact, File, InputInvalid, ValueRefused, chain


async def test_N4_an_edit_decides_nothing_and_is_on_record(
    open_engine: OpenEngine, folder: str, tmp_path: Path
) -> None:
    """Bytes, a path, a File: version n+1 with parent, who and why; the gate lists it; who saw the old one is late."""
    new_file = tmp_path / "mine.txt"
    new_file.write_bytes(b"three\n")
    async with open_engine() as engine:
        run = await engine.run(painted(), folder=folder)
        gate = old = await pending(engine, run)
        edits: list[bytes | Path | File] = [b"two\n", new_file, File(b"four\n", filename="last.txt")]
        for n, data in enumerate(edits, 2):
            new = await engine.edit(gate.artifacts[0].id, data, by="anna", reason=f"try {n}")
            assert (new.version, new.parent_artifact_id, new.created_by) == (n, gate.artifacts[0].id, "anna")
            assert (new.approval_status, new.extra_metadata) == ("edited", {"reason": f"try {n}"})
            (gate,) = await engine.approvals(run.id)
            assert gate.artifact_ids == [new.id]
            assert await status_of(engine, run.id, "paint") == WAITS
        assert (gate.artifacts[0].filename, gate.artifacts[0].size) == ("last.txt", 5)
        for seen in ({}, {"seen": old.artifact_ids}):
            with pytest.raises(ApprovalRefused, match="E_APPROVAL_STALE"):
                await engine.approve(gate.id, by="ben", **seen)
        with pytest.raises(ApprovalRefused, match="E_APPROVAL_STALE"):
            await engine.approve(old, by="ben")
        await engine.approve(gate, by="ben", reason="good now")
        run = await engine.resume(run.id)
        assert run["first_line"].value == "four"
        kinds = ("ApprovalRequested", "ArtifactEdited", "DecisionRecorded", "DecisionApplied")
        told = await facts_about(engine, run.id, *kinds)
        assert [fact.get("by") for fact in told] == [None, "anna", "anna", "anna", "ben", None]
        assert [fact.get("reason") for fact in told[1:5]] == ["try 2", "try 3", "try 4", "good now"]
        assert {fact["step"] for fact in told} == {"paint"}
        assert told[4]["status"], told[4]["action"] == ("approved", "approve")
        assert told[5] == {"step": "paint", "approval": gate.id, "status": "completed"}
        assert set((await settled(engine, run)).values()) == {DONE}


async def test_an_edit_that_approves_is_one_transaction(open_engine: OpenEngine, folder: str) -> None:
    """Live: the owner continues with the new version. If the gate was decided before, the edit is only history."""

    @chain
    def busy(folder: str):
        return steps.first_line(steps.paint(folder, "x").with_approval()), steps.hold(folder, "beside")

    async with open_engine() as engine, open_engine() as other:
        handle = await engine.start(busy, folder=folder)
        await until(lambda: is_now(engine, handle.id, "paint", WAITS))
        shown = (await pending(other, handle.id)).artifacts[0]
        await other.edit(shown.id, b"better\n", by="anna", approve=True)
        await until(lambda: is_now(engine, handle.id, "first_line", DONE))
        let_go(folder, "beside")
        run = await handle.result()
        assert run["first_line"].value == "better"
        later = await engine.edit(shown.id, b"too late\n", by="ben", approve=True)
        assert (later.version, later.approval_status) == (3, "approved")
        assert (await engine.list_approvals(chain_id=run.id))[0].decided_by == "anna"
        assert set((await settled(engine, run)).values()) == {DONE}


async def test_an_edit_of_a_completed_step_is_history_for_its_run(open_engine: OpenEngine, folder: str) -> None:
    """A run that is over stays as it is; its rerun takes over what is latest now."""

    @chain
    def plain(folder: str):
        return steps.first_line(steps.paint(folder, "x"))

    async with open_engine() as engine:
        run = await engine.run(plain, folder=folder)
        before = await rows(engine, run)
        new = await engine.edit(run["paint"].artifact.id, b"afterwards\n", by="anna")
        assert new.version == 2
        after = await rows(engine, run)
        assert after["first_line"] == before["first_line"]
        assert after["paint"].latest_artifact_id == new.id
        assert (await engine.snapshot(run.id))["first_line"].value == "x plain"
        again = await engine.rerun(run, from_steps=["first_line"])
        assert again["first_line"].value == "afterwards"
        assert set((await settled(engine, run)).values()) == {DONE}


async def test_F3_an_edit_while_the_run_works_reaches_the_steps_that_start_after_it(
    open_engine: OpenEngine, folder: str
) -> None:
    """An edit needs no gate: `create_artifact` works too, and the step may be completed."""

    @chain
    def held(folder: str):
        picture = steps.paint(folder, "x")
        return steps.first_line(picture).after(steps.hold(folder, "between").after(picture))

    async with open_engine() as engine:
        handle = await engine.start(held, folder=folder)
        await began(folder, "between")
        paint = await engine.get_workflow_by_step(handle.id, "paint")
        first = await engine.get_latest_artifact(paint.id)
        second = await engine.create_artifact(paint.id, data=b"second\n", parent_artifact_id=first.id)
        await engine.edit(second.id, b"third\n", by="anna")
        let_go(folder, "between")
        run = await handle.result()
        assert run["first_line"].value == "third"
        assert run["paint"].artifact.version == 3
        assert set((await settled(engine, run)).values()) == {DONE}


async def test_an_edited_value_is_a_value(open_engine: OpenEngine) -> None:
    """What is no JSON, names a file that was not in it, or is too deep is refused."""

    @chain
    def proposed():
        return steps.echo(steps.proposal({"n": 1}))

    wrong = [b"{", b"\xff", b"NaN", b'{"$artifact": "value"}', b'{"$stored": "value"}', b"[" * 200 + b"]" * 200]
    async with open_engine() as engine:
        run = await engine.run(proposed)
        gate = await pending(engine, run)
        row, shown = (await rows(engine, run))["proposal"], gate.artifacts[0]
        for data in wrong:
            with pytest.raises(ValueRefused) as refused:
                await engine.edit(shown.id, data, by="anna")
            assert refused.value.code == "E_VALUE_TYPE", data
            with pytest.raises(ValueRefused):
                await engine.create_artifact(row.id, data=data, name="value")
        new = await engine.edit(shown.id, b' {"n": 2} ', by="anna")
        assert (new.media_type, new.filename) == ("application/json", shown.filename)
        await engine.approve((await engine.approvals(run.id))[0], by="anna")
        run = await engine.resume(run.id)
        assert run["echo"].value == {"n": 2}
        assert set((await settled(engine, run)).values()) == {DONE}


async def test_an_edited_value_may_keep_its_files(open_engine: OpenEngine) -> None:
    """A large value with files in it: they may be moved and left out, others cannot be named."""

    @chain
    def large():
        return steps.large_with_file(70_000).with_approval()

    async with open_engine() as engine:
        run = await engine.run(large)
        gate = await pending(engine, run)
        value = next(a for a in gate.artifacts if a.name == "value")
        with pytest.raises(ValueRefused, match="another file"):
            await engine.edit(value.id, b'{"file": {"$artifact": "elsewhere"}}', by="anna")
        await engine.edit(value.id, b'{"moved": [{"$artifact": "file"}]}', by="anna", approve=True)
        run = await run.resume()
        (moved,) = run["large_with_file"].value["moved"]
        assert isinstance(moved, Artifact)
        assert set((await settled(engine, run)).values()) == {DONE}


async def test_edits_that_are_refused(open_engine: OpenEngine, folder: str) -> None:
    """Nobody's, of nothing, and of what a step is making again."""

    @chain
    def slow(folder: str):
        return steps.paint_slowly(folder).with_approval(on_rejected="regenerate", max_retries=1)

    async with open_engine() as engine:
        handle = await engine.start(slow, folder=folder)
        run = await handle.result()
        gate = await pending(engine, run)
        with pytest.raises(InputInvalid, match="E_ARTIFACT_MISSING"):
            await engine.edit("nothing", b"x", by="anna")
        with pytest.raises(InputInvalid, match="E_APPROVAL_BY"):
            await engine.edit(gate.artifacts[0].id, b"x", by=" ")
        await engine.reject(gate, by="anna")
        handle = await engine.start(slow, run_id=run.id)
        await until(lambda: is_now(engine, run.id, "paint_slowly", RUNS))
        with pytest.raises(InputInvalid, match="E_ARTIFACT_BUSY"):
            await engine.edit(gate.artifacts[0].id, b"x", by="anna")
        let_go(folder, "slowly")
        run = await handle.result()
        assert await versions_of(engine, run.id, "paint_slowly") == [(1, "rejected", False), (2, "pending", True)]
        assert await settled(engine, run) == {"paint_slowly": WAITS}


async def test_numbers_of_deleted_versions_are_not_given_again(open_engine: OpenEngine, folder: str) -> None:
    """An edit was made and deleted at the gate: the regeneration counts on, live and after a restart."""
    async with open_engine() as engine:
        run = await engine.run(painted(on_rejected="regenerate", max_retries=1), folder=folder)
        gate = await pending(engine, run)
        new = await engine.edit(gate.artifacts[0].id, b"x", by="anna")
        await engine.delete_artifact(new.id)
        assert (await pending(engine, run)).artifact_ids == gate.artifact_ids
        await engine.reject(gate, by="anna")
        run = await engine.resume(run.id)
        assert [version for version, _, _ in await versions_of(engine, run.id, "paint")] == [1, 3]
        assert run.status == "paused"
