"""H4, H6: a rejected step is made again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conformance import chain_steps as steps
from tests.conformance.chain_steps import let_go, noted
from tests.conformance.gates.pictures import facts_about, painted, versions_of
from tests.conformance.runs import (
    CANCELLED,
    DONE,
    FAILED,
    SKIPPED,
    WAITS,
    OpenEngine,
    is_now,
    pending,
    rows,
    settled,
    trail,
    until,
)
from towpath import ApprovalRefused, Engine, InputInvalid, ValueRefused, chain, load_chain


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
        run = await engine.resume(run_id, check=False)
        assert run.status == "failed"
        assert await settled(engine, run) == {"paint": FAILED, "first_line": SKIPPED, "after": SKIPPED}
        assert [v[1] for v in await versions_of(engine, run_id, "paint")] == ["rejected"] * 3


async def test_H3_a_regeneration_survives_the_end_of_its_process(open_engine: OpenEngine, folder: str) -> None:
    """Interrupted while it runs: the next engine uses the changed arguments and asks again."""

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
        run = await engine.resume(run.id, check=False)
        assert await settled(engine, run) == {"paint_slowly": FAILED, "first_line": SKIPPED}


async def test_H4_items_are_decided_one_by_one(open_engine: OpenEngine, folder: str) -> None:
    """One item is made again, one skipped (its place is null), one approved; then the step completes."""

    @chain
    def many(folder: str):
        pictures = steps.paint.map([folder] * 3, text="x").with_approval(on_rejected="regenerate", max_retries=1)
        return pictures, steps.first_line.map(pictures)

    async with open_engine() as engine:
        run = await engine.run(many, folder=folder)
        again, skipped, approved = sorted(await engine.approvals(run.id), key=lambda gate: gate["item"])
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
        _, second = sorted(await engine.approvals(run.id), key=lambda gate: gate["item"])
        await engine.reject(second, by="anna")
        run = await engine.resume(run.id, check=False)
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
    """An ordinary failure: no rejection stops the chain, and steps that watch its status run."""

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
    """Data behind a gate, first too large for its row and then small: the next step gets the new one."""

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
