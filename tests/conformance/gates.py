"""What gates must do on every adapter: the second half of the suite in `adapter.py`, with the same fixtures.

Every test ends with `settled`, which checks the rows; the store is checked as a whole when it is over.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.conformance import chain_steps as steps
from tests.conformance.adapter import (
    CANCELLED,
    DONE,
    FAILED,
    RUNS,
    SKIPPED,
    WAITS,
    OpenEngine,
    folder,
    pending,
    rows,
    settled,
    status_of,
    trail,
    until,
)
from tests.conformance.chain_steps import began, let_go, noted
from towpath import (
    ApprovalRefused,
    Artifact,
    Chain,
    Engine,
    File,
    InputInvalid,
    RunRefused,
    ValueRefused,
    chain,
    load_chain,
)

__all__ = ["folder"]  # pytest finds fixtures and tests by name; the tests are added at the end


def painted(*, beside: bool = False, **policy: Any) -> Chain[..., Any]:
    """A picture behind a gate, a step that reads it, one that looks at what became of it, and one `beside` them."""

    @chain
    def pictures(folder: str, text: str = "a boat"):
        picture = steps.paint(folder, text).with_approval(**policy)
        if beside:
            steps.hold(folder, "beside")
        steps.number(7).after(picture).when("paint.status != 'failed'").named("after")
        return steps.first_line(picture)

    return pictures


async def is_now(engine: Engine, run_id: str, step: str, status: str) -> bool:
    return await status_of(engine, run_id, step) == status


async def versions_of(engine: Engine, run_id: str, step: str) -> list[tuple[int, str, bool]]:
    """(version, what people said, is it the latest) of the only output of a step, oldest first."""
    row = (await rows(engine, run_id))[step]
    kept = await engine.get_artifacts_by_workflow(row.id, include_old_versions=True)
    return sorted((a.version, a.approval_status, a.is_latest) for a in kept)


async def facts_about(engine: Engine, run_id: str, *kinds: str) -> list[dict[str, Any]]:
    """What the audit trail says of these kinds, in order."""
    return [event["data"] for event in await engine.store.events(run_id) if event["type"] in kinds]


# ---- H1, H2: the seed's script


def edit_image(path: str) -> Path:
    """What a person does in another program: the original is read, the result is another file."""
    edited = Path(path).with_name("edited.png").parents[3] / "edited.txt"
    edited.write_bytes(b"a boat by hand\n" + Path(path).read_bytes())
    return edited


@chain
def reviewed(folder: str):
    picture = steps.paint(folder, "a boat").with_approval()
    return steps.first_line(picture), steps.describe(picture)


async def test_H1_the_seeds_script(open_engine: OpenEngine, folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Nearly verbatim: `await` and `engine.` are added, and the chain is told to wait by its gate."""
    async with open_engine() as engine:
        chain_run = await engine.run(reviewed, folder=folder)
        wf_123 = (await rows(engine, chain_run))["paint"].id

        # Step 1 completes
        workflow_1 = await engine.get_workflow(id=wf_123)
        artifact_1 = await engine.get_latest_artifact(workflow_1.id)

        # Pause chain execution
        # Human reviews artifact
        print(f"Review: {artifact_1.local_path}")

        # Human edits locally
        edited_file = edit_image(artifact_1.local_path)

        # Create new version
        artifact_2 = await engine.create_artifact(
            workflow_id=workflow_1.id,
            local_path=edited_file,
            parent_artifact_id=artifact_1.id,
            version=2,
            approval_status="approved",
        )
        # Automatically sets:
        # - artifact_1.is_latest = FALSE
        # - artifact_2.is_latest = TRUE
        # - workflow_1.latest_artifact_id = artifact_2.id
        old, new = await engine.get_artifact(artifact_1.id), await engine.get_artifact(artifact_2.id)
        assert (old.is_latest, new.is_latest) == (False, True)
        assert (await engine.get_workflow(workflow_1.id)).latest_artifact_id == artifact_2.id
        decided = (await engine.list_approvals(chain_id=chain_run.id))[0]
        assert (decided.status, decided.delivered, decided.artifact_ids) == ("approved", False, [artifact_2.id])

        # Resume chain - uses edited version
        done = await chain_run.resume()
        assert done["first_line"].value == "a boat by hand"
        assert (new.filename, new.file_type, new.approval_status, new.parent_artifact_id) == (
            "edited.txt",
            "text",
            "approved",
            artifact_1.id,
        )
        assert new.file_size == edited_file.stat().st_size
        assert chain_run.status == "paused", "a picture of the moment stays as it was"
        assert set((await settled(engine, done)).values()) == {DONE}
    assert "Review: /" in capsys.readouterr().out


async def test_H2_the_next_step_gets_the_edited_version(open_engine: OpenEngine, folder: str) -> None:
    """Its recorded arguments name version 2, and the bytes are those of the edit; the first version is still there."""
    async with open_engine() as engine:
        run = await engine.run(reviewed, folder=folder)
        first = run["paint"].artifact
        second = await engine.edit(first.id, b"a boat, edited\n", by="anna", reason="the sea was green", approve=True)
        run = await run.resume()
        assert run["first_line"].value == "a boat, edited"
        given = (await rows(engine, run))["first_line"].parameters["file"]
        assert (given["$artifact"], given["version"]) == (second.id, 2)
        assert (await first.read_bytes()).startswith(b"a boat plain")
        assert [v.id for v in await engine.get_artifact_versions(first.id)] == [first.id, second.id]
        assert set((await settled(engine, run)).values()) == {DONE}


# ---- H4: every answer at a gate

Came = tuple[str | None, str | None, str | None, str]
STOPPED: Came = (FAILED, SKIPPED, SKIPPED, "failed")
DROPPED: Came = (SKIPPED, SKIPPED, DONE, "completed")
PASSED: Came = (DONE, DONE, DONE, "completed")
AGAIN: Came = (WAITS, None, None, "paused")
ANSWERS: dict[str, tuple[dict[str, Any], str | None, Came]] = {
    "approve": ({}, "approve", PASSED),
    "approve-skip": ({"on_rejected": "skip"}, "approve", PASSED),
    "approve-regenerate": ({"on_rejected": "regenerate", "max_retries": 1}, "approve", PASSED),
    "stop": ({}, "reject", STOPPED),
    "skip": ({"on_rejected": "skip"}, "reject", DROPPED),
    "regenerate": ({"on_rejected": "regenerate", "max_retries": 1}, "reject", AGAIN),
    "regenerate-never": ({"on_rejected": "regenerate"}, "reject", STOPPED),
    "regenerate-by-name": ({"max_retries": 1}, "regenerate", AGAIN),
    "stop-by-name": ({"on_rejected": "skip"}, "stop", STOPPED),
    "skip-by-name": ({"on_rejected": "regenerate", "max_retries": 1}, "skip", DROPPED),
    "late-approve": ({"timeout_action": "auto_approve"}, None, PASSED),
    "late-approve-skip": ({"timeout_action": "auto_approve", "on_rejected": "skip"}, None, PASSED),
    "late-approve-regenerate": (
        {"timeout_action": "auto_approve", "on_rejected": "regenerate", "max_retries": 2},
        None,
        PASSED,
    ),
    "late-stop": ({}, None, STOPPED),
    "late-skip": ({"on_rejected": "skip"}, None, DROPPED),
    "late-regenerate": ({"on_rejected": "regenerate", "max_retries": 2}, None, STOPPED),
}


@pytest.mark.parametrize("live", [True, False], ids=["live", "resumed"])
@pytest.mark.parametrize("name", ANSWERS)
async def test_H4_every_answer(open_engine: OpenEngine, folder: str, name: str, live: bool) -> None:
    """Statuses of the step, of what needs it, of what looks at its status, and of the chain, live or at the resume."""
    policy, answer, expected = ANSWERS[name]
    if answer is None:
        policy = {**policy, "timeout": 0.3}

    async def act(engine: Engine, run_id: str) -> None:
        gate = await pending(engine, run_id)
        if answer == "approve":
            await engine.approve(gate.id, by="anna")
        elif answer == "reject":
            await engine.reject(gate.id, by="anna", reason="too blue")
        elif answer is not None:
            await engine.reject(gate.id, by="anna", reason="too blue", action=answer)

    async with open_engine() as engine:
        if live:
            handle = await engine.start(painted(beside=True, **policy), folder=folder)
            await until(lambda: is_now(engine, handle.id, "paint", WAITS))
            await act(engine, handle.id)
            await until(lambda: _acted_on(engine, handle.id), within=1.5)
            let_go(folder, "beside")
            run = await handle.result()
        else:
            run = await engine.run(painted(**policy), folder=folder)
            assert run.status == "paused"
            await act(engine, run.id)
            await anyio.sleep(0.35 if answer is None else 0)
            run = await engine.resume(run.id)
        statuses = await settled(engine, run)
        assert (*(statuses.get(s) for s in ("paint", "first_line", "after")), run.status) == expected
        gate = (await engine.list_approvals(chain_id=run.id))[0]
        word = "timed_out" if answer is None else "approved" if answer == "approve" else "rejected"
        assert (gate.status, gate.decided_by, gate.delivered) == (word, None if answer is None else "anna", True)
        said = {PASSED: "auto_approved" if answer is None else "approved"}.get(expected, "rejected")
        assert (await versions_of(engine, run.id, "paint"))[0][:2] == (1, said)
        if expected is STOPPED:
            assert run["paint"].error is not None
            assert run["paint"].error.code == "E_REJECTED"
            assert ("nobody decided" if answer is None else "by anna: too blue") in run["paint"].error.message
        if expected is DROPPED:
            row = (await rows(engine, run))["paint"]
            assert (row.error_code, "rejected" in row.error_message) == (None, True)
        if expected is AGAIN:
            assert await versions_of(engine, run.id, "paint") == [(1, "rejected", False), (2, "pending", True)]


async def _acted_on(engine: Engine, run_id: str) -> bool:
    return bool((await engine.list_approvals(chain_id=run_id))[0].delivered)


# ---- regenerate


async def test_H4_regenerate_makes_a_new_version_with_other_parameters(open_engine: OpenEngine, folder: str) -> None:
    """Attempt, arguments and key are new, and recorded; arguments stay changed; when none is left it stops."""
    async with open_engine() as engine:
        run = await engine.run(painted(on_rejected="regenerate", max_retries=3), folder=folder)
        changes: list[dict[str, Any] | None] = [{"style": "red"}, None, {"text": "a ship"}]
        for n, parameters in enumerate(changes, 2):
            gate = await pending(engine, run)
            await engine.reject(gate.id, by="anna", reason="again", parameters=parameters)
            assert (await engine.get_approval(gate.id)).decision_parameters == parameters
            run = await engine.resume(run.id)
            assert (run.status, run["paint"].attempt, run["paint"].artifact.version) == ("paused", n, n)
        assert [line.split(maxsplit=1)[1] for line in noted(folder, "paint")] == [
            "plain paint",
            "red paint/regeneration-1",
            "red paint/regeneration-2",
            "red paint/regeneration-3",
        ]
        row = (await rows(engine, run))["paint"]
        assert (row.parameters["style"], row.parameters["text"]) == ("red", "a ship")
        kept = await engine.get_artifacts_by_workflow(row.id, include_old_versions=True)
        made = [
            (a.version, a.attempt, a.parameters["text"], a.parameters.get("style"), a.approval_status) for a in kept
        ]
        assert made == [
            (4, 4, "a ship", "red", "pending"),
            (3, 3, "a boat", "red", "rejected"),
            (2, 2, "a boat", "red", "rejected"),
            (1, 1, "a boat", None, "rejected"),
        ]
        gate = await pending(engine, run)
        with pytest.raises(ApprovalRefused, match="E_APPROVAL_SPENT"):
            await engine.reject(gate.id, by="anna", action="regenerate")
        await engine.approve(gate.id, by="anna")
        run = await engine.resume(run.id)
        assert run["first_line"].value == "a ship red"
        assert set((await settled(engine, run)).values()) == {DONE}


async def test_H4_when_max_retries_are_spent_a_rejection_stops(open_engine: OpenEngine, folder: str) -> None:
    """Also when every decision is applied by another engine: regenerations are counted in the store."""
    run_id = ""
    for n in range(3):
        async with open_engine() as engine:
            if run_id:
                run = await engine.resume(run_id)
            else:
                run = await engine.run(painted(on_rejected="regenerate", max_retries=2), folder=folder)
                run_id = run.id
            assert (run.status, run["paint"].attempt) == ("paused", n + 1)
            await engine.reject((await pending(engine, run)).id, by="anna")
    async with open_engine() as engine:
        run = await engine.resume(run_id)
        assert run.status == "failed"
        assert await settled(engine, run) == {"paint": FAILED, "first_line": SKIPPED, "after": SKIPPED}
        assert [v[1] for v in await versions_of(engine, run_id, "paint")] == ["rejected"] * 3


async def test_H3_a_regeneration_survives_the_end_of_its_process(open_engine: OpenEngine, folder: str) -> None:
    """Broken off while it runs: the next engine goes on with the changed arguments, and asks once more."""

    @chain
    def slow(folder: str):
        picture = steps.paint_slowly(folder).with_approval(on_rejected="regenerate", max_retries=1)
        return steps.first_line(picture)

    async with open_engine() as engine:
        run = await engine.run(slow, folder=folder)
        await engine.reject((await pending(engine, run)).id, by="anna", parameters={"style": "blue"})
        handle = await engine.start(slow, run_id=run.id)
        await until(lambda: len(noted(folder, "slowly.began")) == 2)
    let_go(folder, "slowly")
    async with open_engine() as engine:
        run = await engine.resume(handle.id)
        assert noted(folder, "slowly.began") == ["1 plain", "2 blue", "3 blue"]
        assert (run.status, await run["paint_slowly"].artifact.read_bytes()) == ("paused", b"blue")
        await engine.reject((await pending(engine, run)).id, by="anna")
        run = await engine.resume(run.id)
        assert await settled(engine, run) == {"paint_slowly": FAILED, "first_line": SKIPPED}


async def test_H4_items_are_decided_one_by_one(open_engine: OpenEngine, folder: str) -> None:
    """One item is made again, one skipped (its place is null), one approved; then the step completes."""

    @chain
    def many(folder: str):
        pictures = steps.paint.map([folder] * 3, text="x").with_approval(on_rejected="regenerate", max_retries=1)
        return pictures, steps.first_line.map(pictures)

    async with open_engine() as engine:
        run = await engine.run(many, folder=folder)
        again, skipped, approved = sorted(await engine.approvals(run.id), key=lambda gate: int(gate.item))
        await engine.reject(again, by="anna", parameters={"style": "red"})
        await engine.reject(skipped, by="ben", action="skip")
        await engine.approve(approved, by="anna")
        run = await engine.resume(run.id)
        statuses = await settled(engine, run)
        assert [statuses[f"paint[{k}]"] for k in range(3)] == [WAITS, SKIPPED, DONE]
        assert [statuses.get(f"first_line[{k}]") for k in range(3)] == [None, SKIPPED, DONE]
        gate = await pending(engine, run)
        assert (gate.item, gate.artifacts[0].version) == (0, 2)
        await engine.approve(gate, by="anna")
        run = await engine.resume(run.id)
        pictures, lines = run.value
        assert lines == ["x red", None, "x plain"]
        assert [None if p is None else p.version for p in pictures] == [2, None, 1]
        assert run.status == "completed"
        assert (await settled(engine, run))["first_line[0]"] == DONE


async def test_a_rejected_item_without_retries_stops_the_chain(open_engine: OpenEngine, folder: str) -> None:
    @chain
    def many(folder: str):
        return steps.paint.map([folder] * 2, text="x").with_approval(on_rejected="regenerate")

    async with open_engine() as engine:
        run = await engine.run(many, folder=folder)
        _, second = sorted(await engine.approvals(run.id), key=lambda gate: int(gate.item))
        await engine.reject(second, by="anna")
        run = await engine.resume(run.id)
        assert run.status == "failed"
        assert await settled(engine, run) == {"paint": FAILED, "paint[0]": CANCELLED, "paint[1]": FAILED}
        assert await engine.approvals() == []


YAML = """
name: fewer
inputs: { folder: { type: string } }
steps:
  - id: made
    python: tests.conformance.chain_steps:fewer_files
    parameters: { folder: "{{ inputs.folder }}" }
    requires_approval: true
    approval: { on_rejected: regenerate, max_retries: 1 }
  - id: told
    python: tests.conformance.chain_steps:name_all
    depends_on: [made]
    parameters: { files: "{{ made.output.files }}" }
"""


@pytest.mark.parametrize("edited", [False, True])
async def test_H6_a_rejected_artifact_reaches_no_later_step(
    open_engine: OpenEngine, folder: str, tmp_path: Path, edited: bool
) -> None:
    """Also a file that the regeneration did not make again: neither this run's steps nor a rerun get it."""
    (tmp_path / "fewer.yaml").write_text(YAML)
    async with open_engine() as engine:
        run = await engine.run(load_chain(tmp_path / "fewer.yaml"), folder=folder)
        await engine.reject((await pending(engine, run)).id, by="anna")
        run = await engine.resume(run.id)
        gate = await pending(engine, run)
        assert [(a.name, a.version) for a in gate.artifacts] == [("a", 2)]
        if edited:
            await engine.edit(gate.artifacts[0].id, b"by hand", by="anna")
            (gate,) = await engine.approvals(run.id)
        await engine.approve(gate, by="anna")
        run = await engine.resume(run.id)
        assert run["told"].value == [f"a v{3 if edited else 2}"]
        row = (await rows(engine, run))["made"]
        said = {(a.name, a.version): a.approval_status for a in await engine.get_artifacts_by_workflow(row.id)}
        assert said == {("a", 3 if edited else 2): "approved", ("b", 1): "rejected"}
        again = await engine.rerun(run, from_steps=["told"])
        assert again["told"].value == ["a v1"], "versions count anew in a new run; b is not taken over"
        assert set((await settled(engine, run)).values()) == {DONE}


async def test_a_regeneration_that_fails_fails_the_step(open_engine: OpenEngine, folder: str) -> None:
    """An ordinary failure: no rejection stops the chain, and what looks at the status goes on."""

    @chain
    def once(folder: str):
        made = steps.paint_once(folder).with_approval(on_rejected="regenerate", max_retries=2)
        return steps.number(1).after(made).when("paint_once.status == 'failed'")

    async with open_engine() as engine:
        run = await engine.run(once, folder=folder)
        await engine.reject((await pending(engine, run)).id, by="anna")
        run = await engine.resume(run.id)
        assert run.status == "partial"
        assert run["paint_once"].error is not None
        assert run["paint_once"].error.code == "E_STEP_FAILED"
        assert await settled(engine, run) == {"paint_once": FAILED, "number": DONE}
        assert await versions_of(engine, run.id, "paint_once") == [(1, "rejected", True)]


async def test_a_value_is_made_again(open_engine: OpenEngine) -> None:
    """Data behind a gate, first too large for its row and then small: the value that goes on is the new one."""

    @chain
    def proposed():
        made = steps.large_proposal(1_000).with_approval(on_rejected="regenerate", max_retries=1)
        return steps.echo(made)

    async with open_engine() as engine:
        run = await engine.run(proposed)
        await engine.reject((await pending(engine, run)).id, by="anna", parameters={"size": 1, "text": "y"})
        run = await engine.resume(run.id)
        await engine.approve((await pending(engine, run)).id, by="anna")
        run = await engine.resume(run.id)
        assert run["echo"].value == run["large_proposal"].value == ["y" * 100]
        assert (await engine.snapshot(run.id))["echo"].value == ["y" * 100]
        assert set((await settled(engine, run)).values()) == {DONE}


@pytest.mark.parametrize("live", [True, False])
async def test_a_chain_inside_a_step_runs_anew(open_engine: OpenEngine, folder: str, live: bool) -> None:
    """A gate behind a chain: a rejection makes another run of that chain, with other inputs if need be."""

    @chain
    def inside(text: str, folder: str):
        return steps.paint(folder, text)

    @chain
    def around(folder: str):
        picture = inside("a boat", folder).named("inside")
        picture = picture.with_approval(on_rejected="regenerate", max_retries=1)
        return steps.first_line(picture), steps.hold(folder, "beside")

    async with open_engine() as engine:
        if not live:
            let_go(folder, "beside")
        handle = await engine.start(around, folder=folder)
        await until(lambda: is_now(engine, handle.id, "inside", WAITS))
        if not live:
            await handle.result()
        gate = await pending(engine, handle.id)
        with pytest.raises(InputInvalid, match="E_PARAMETER"):
            await engine.reject(gate.id, by="anna", parameters={"style": "red"})
        await engine.reject(gate.id, by="anna", parameters={"text": "a raft"})
        if not live:
            await engine.resume(handle.id)
        await until(lambda: _asked_again(engine, handle.id, gate.id))
        await engine.approve((await pending(engine, handle.id)).id, by="anna")
        let_go(folder, "beside")
        run = await handle.result() if live else await engine.resume(handle.id)
        assert run["first_line"].value == "a raft plain"
        runs = [row for row in await engine.list_chains() if row.name == "inside"]
        assert sorted(row.inputs["text"] for row in runs) == ["a boat", "a raft"]
        assert set((await settled(engine, run)).values()) == {DONE}


async def _asked_again(engine: Engine, run_id: str, before: str) -> bool:
    return [g for g in await engine.approvals(run_id) if g.id != before] != []


@pytest.mark.parametrize(
    ("parameters", "found"),
    [
        ({"colour": "red"}, "colour"),
        ({"style": b"bytes"}, "style"),
        ({"style": "x" * 70_000}, "70002 bytes"),
        ({"style": {"$artifact": "output"}}, ""),
    ],
    ids=["unknown", "file", "large", "reference"],
)
async def test_parameters_that_are_refused(
    open_engine: OpenEngine, folder: str, parameters: dict[str, Any], found: str
) -> None:
    """Before anything is decided; and a template in one is plain text."""
    async with open_engine() as engine:
        run = await engine.run(painted(on_rejected="regenerate", max_retries=1), folder=folder)
        gate = await pending(engine, run)
        with pytest.raises((InputInvalid, ValueRefused)) as refused:
            await engine.reject(gate.id, by="anna", parameters=parameters)
        assert refused.value.code == ("E_PARAMETER" if found else "E_VALUE_TYPE")
        assert found in refused.value.problem.found
        with pytest.raises(InputInvalid, match="E_PARAMETER"):
            await engine.reject(gate.id, by="anna", action="stop", parameters={"style": "red"})
        for wrong in ("approve", "perhaps"):
            with pytest.raises(InputInvalid, match="E_APPROVAL_ACTION"):
                await engine.reject(gate.id, by="anna", action=wrong)
        assert (await pending(engine, run)).id == gate.id
        await engine.reject(gate.id, by="anna", parameters={"style": "{{ inputs.text }}"})
        run = await engine.resume(run.id)
        assert noted(folder, "paint")[1].startswith("2 {{ inputs.text }} paint")
        assert (await settled(engine, run))["paint"] == WAITS


# ---- timeouts


async def test_H4_a_timeout_while_somebody_waits(open_engine: OpenEngine, folder: str) -> None:
    """`run(wait=True)` returns within about a second after the time is over."""
    async with open_engine() as engine:
        with anyio.fail_after(3):
            run = await engine.run(painted(timeout=0.5, timeout_action="auto_approve"), folder=folder, wait=True)
        assert run["first_line"].value == "a boat plain"
        gate = (await engine.list_approvals(chain_id=run.id))[0]
        assert gate.expires_at == gate.requested_at + 500_000
        assert gate.expires_at <= gate.decided_at <= gate.expires_at + 1_500_000
        (told,) = await facts_about(engine, run.id, "ApprovalTimedOut")
        assert told == {"step": "paint", "approval": gate.id, "action": "approve"}
        assert set((await settled(engine, run)).values()) == {DONE}


@pytest.mark.parametrize("beside", [True, False])
async def test_H4_a_timeout_inside_a_chain_inside(open_engine: OpenEngine, folder: str, beside: bool) -> None:
    """Seen by whoever works on the run around it, or waits for it."""

    @chain
    def inside(folder: str):
        return steps.first_line(steps.paint(folder, "x").with_approval(timeout=0.4, timeout_action="auto_approve"))

    @chain
    def around(folder: str):
        return inside(folder).named("inside"), steps.hold(folder, "beside")

    async with open_engine() as engine:
        if not beside:
            let_go(folder, "beside")
            with anyio.fail_after(3):
                run = await engine.run(around, folder=folder, wait=True)
        else:
            handle = await engine.start(around, folder=folder)
            await until(lambda: is_now(engine, handle.id, "inside", WAITS))
            await until(lambda: is_now(engine, handle.id, "inside", DONE), within=2)
            let_go(folder, "beside")
            run = await handle.result()
        assert run["inside"].value == "x plain"
        assert set((await settled(engine, run)).values()) == {DONE}


async def test_a_skip_leaves_other_gates_alone(open_engine: OpenEngine, folder: str) -> None:
    """Only a stop ends what waits elsewhere, in this chain or in chains inside its steps."""

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
        run = await engine.run(painted(timeout=0.2, on_rejected="skip"), folder=folder)
        gate = await pending(engine, run)
        await anyio.sleep(0.25)

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
        run = await engine.run(painted(timeout=0.5), folder=folder)
        await engine.approve(await pending(engine, run), by="anna")
        await anyio.sleep(0.6)
        run = await engine.resume(run.id)
        assert run.status == "completed"
        assert (await engine.list_approvals(chain_id=run.id))[0].status == "approved"
        assert set((await settled(engine, run)).values()) == {DONE}


# ---- H5: decided once, by whoever


async def test_H5_a_second_decision_is_told_of_the_first(open_engine: OpenEngine, folder: str) -> None:
    """Who, when and what; nothing changes."""
    async with open_engine() as engine:
        run = await engine.run(painted(), folder=folder)
        gate = await pending(engine, run)
        before = datetime.now(UTC)
        await engine.reject(gate.id, by="anna", action="skip", reason="no")
        for again in (engine.approve, engine.reject):
            with pytest.raises(ApprovalRefused) as late:
                await again(gate.id, by="ben")
            assert late.value.code == "E_APPROVAL_DECIDED"
            said = late.value.problem.message
            assert "rejected by anna already" in said
            assert f"{before:%Y-%m-%d %H:}" in said or before.minute == 59
            assert "skip" in said
        assert len(await facts_about(engine, run.id, "DecisionRecorded")) == 1
        run = await engine.resume(run.id)
        assert (await settled(engine, run))["paint"] == SKIPPED


async def test_H5_many_decisions_at_once(open_engine: OpenEngine, folder: str) -> None:
    """Two engines, ten decisions: one wins, the others are refused, and the run does what the winner said."""
    async with open_engine() as engine, open_engine() as other:
        for attempt in range(5):
            run = await engine.run(painted(on_rejected="skip"), folder=folder)
            gate = await pending(engine, run)
            won: list[str] = []
            codes: set[str] = set()

            async def decide(
                who: Engine, what: str, n: int, gate: Any = gate, won: list[str] = won, codes: set[str] = codes
            ) -> None:
                try:
                    await getattr(who, what)(gate, by=f"{what} {n}")
                    won.append(f"{what} {n}")
                except ApprovalRefused as refused:
                    codes.add(refused.code)

            async with anyio.create_task_group() as tasks:
                for n in range(5):
                    first, second = ("approve", "reject") if (n + attempt) % 2 else ("reject", "approve")
                    tasks.start_soon(decide, engine, first, n)
                    tasks.start_soon(decide, other, second, n)
            assert (len(won), codes) == (1, {"E_APPROVAL_DECIDED"})
            assert (await engine.get_approval(gate.id)).decided_by == won[0]
            run = await engine.resume(run.id)
            expected = DONE if won[0].startswith("approve") else SKIPPED
            assert (await settled(engine, run))["paint"] == expected


# ---- edits


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
    """Live: the owner goes on with the new version. A gate that is decided already leaves the edit as history."""

    @chain
    def busy(folder: str):
        return steps.first_line(steps.paint(folder, "x").with_approval()), steps.hold(folder, "beside")

    async with open_engine() as engine, open_engine() as other:
        handle = await engine.start(busy, folder=folder)
        await until(lambda: is_now(engine, handle.id, "paint", WAITS))
        shown = (await pending(other, handle.id)).artifacts[0]
        await other.edit(shown.id, b"better\n", by="anna", approve=True)
        await until(lambda: is_now(engine, handle.id, "first_line", DONE), within=1.5)
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
    """No gate is needed: also through `create_artifact`, and also of a step that is done."""

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
        await anyio.sleep(1.0)  # an edit by somebody else is seen within a second
        let_go(folder, "between")
        run = await handle.result()
        assert run["first_line"].value == "third"
        assert run["paint"].artifact.version == 3
        assert set((await settled(engine, run)).values()) == {DONE}


async def test_an_edited_value_is_a_value(open_engine: OpenEngine) -> None:
    """What is no JSON, names a file that was not in it, or is too deep is refused, whoever tries it."""

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


# ---- steering while a gate is open or a regeneration runs


@chain
def slowly(folder: str):
    return steps.first_line(steps.paint_slowly(folder).with_approval(on_rejected="regenerate", max_retries=1))


async def test_cancel_while_a_regeneration_runs(open_engine: OpenEngine, folder: str) -> None:
    """The row ends cancelled, nobody is asked, the rejected version stays rejected."""
    async with open_engine() as engine:
        run = await engine.run(slowly, folder=folder)
        await engine.reject((await pending(engine, run)).id, by="anna")
        handle = await engine.start(slowly, run_id=run.id)
        await until(lambda: len(noted(folder, "slowly.began")) == 2)
        await engine.cancel(run.id)
        run = await handle.result()
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
    """It is finished and asked about; a decision made while the run is paused is applied at the resume."""
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
        run = await engine.resume(run.id)
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
        run = await engine.resume(run.id)
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
        run = await engine.resume(run.id)
        assert run["inside"].error is not None
        assert run["inside"].error.code == "E_TEMPLATE_UNDEFINED"
        assert await settled(engine, run) == {"inside": FAILED}


async def test_the_trail_of_a_regeneration(open_engine: OpenEngine, folder: str) -> None:
    async with open_engine() as engine:
        run = await engine.run(painted(on_rejected="regenerate", max_retries=1), folder=folder)
        await engine.reject((await pending(engine, run)).id, by="anna", parameters={"style": "red"})
        run = await engine.resume(run.id)
        told = (await trail(engine, run.id))["paint"]
        asked = ["StepStarted", "ApprovalRequested", "StepWaiting"]
        assert told == [*asked, "DecisionRecorded", "DecisionApplied", *asked]
        (decided,) = await facts_about(engine, run.id, "DecisionRecorded")
        assert (decided["by"], decided["action"], decided["parameters"]) == ("anna", "regenerate", {"style": "red"})
        assert (await settled(engine, run))["paint"] == WAITS


__all__ += [name for name in globals() if name.startswith("test_")]
