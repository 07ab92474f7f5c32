"""Rerun: what is taken over from the old run and what works again."""

from __future__ import annotations

import pytest

from tests.conformance import chain_steps as steps
from tests.conformance.adapter.chains_inside import inner
from tests.conformance.runs import CACHED, DONE, FAILED, SKIPPED, WAITS, OpenEngine, rows, settled
from towpath import File, InputInvalid, RunRefused, chain


@chain
def made_of_parts(n: int, folder: str = ""):
    base = steps.text_file("base")
    return steps.add(steps.double(n), 1), steps.describe(base)


async def test_rerun_from_a_step(open_engine: OpenEngine) -> None:
    """A new run: steps outside the part are rows `cached` with the same blobs and new ids."""
    async with open_engine() as engine:
        old = await engine.run(made_of_parts, n=2)
        run = await engine.rerun(old, from_steps=["double"])
        assert (run.status, run.value[0]) == ("completed", 5)
        assert run.id != old.id
        assert await settled(engine, run) == {"double": DONE, "add": DONE, "text_file": CACHED, "describe": CACHED}
        row = await engine.get_chain(run.id)
        assert (row.parent_run_id, row.regenerated_from_step_id) == (old.id, "double")
        before, after = old["text_file"].artifact, run["text_file"].artifact
        assert (before.digest, after.version) == (after.digest, 1)
        assert before.id != after.id
        assert await after.read_bytes() == b"base"
        assert await settled(engine, old) == dict.fromkeys(("text_file", "double", "add", "describe"), DONE)


async def test_rerun_with_other_inputs_and_parameters(open_engine: OpenEngine) -> None:
    """What uses a changed input (as an argument, for its fan-out or its condition) runs again."""

    @chain
    def uses(n: int, names: list[str], on: bool, other: int = 0):
        a = steps.double(n)
        b = steps.echo.map(names)
        c = steps.number(3).when("inputs.on")
        return a, b, c, steps.number(other).named("unused")

    async with open_engine() as engine:
        old = await engine.run(uses, n=1, names=["x"], on=True)
        run = await engine.rerun(old, inputs={"n": 5})
        assert run["double"].value == 10
        assert {n: s for n, s in (await settled(engine, run)).items() if s == DONE} == {"double": DONE}
        run = await engine.rerun(old, inputs={"names": ["y", "z"]})
        assert run["echo"].value == ["y", "z"]
        assert (await settled(engine, run))["double"] == CACHED
        run = await engine.rerun(old.id, inputs={"on": False})
        assert (await settled(engine, run))["number"] == SKIPPED
        run = await engine.rerun(old, parameters={"double.n": 50})
        assert run["double"].value == 100
        assert (await rows(engine, run))["double"].parameters == {"n": 50}
        for wrong in ({"nothing.n": 1}, {"double": 1}):
            with pytest.raises(InputInvalid) as parameter:
                await engine.rerun(old, parameters=wrong)
            assert parameter.value.code == "E_PARAMETER"
        with pytest.raises(InputInvalid) as step:
            await engine.rerun(old, from_steps=["nothing"])
        assert step.value.code == "E_STEP_UNKNOWN"
        with pytest.raises(InputInvalid) as unknown:
            await engine.rerun(old, inputs={"colour": 1})
        assert unknown.value.code == "E_INPUT_UNKNOWN"


async def test_rerun_of_what_did_not_complete(open_engine: OpenEngine) -> None:
    """Without `from_steps` the failed step and its descendants run again; the rest is taken over."""

    @chain
    def flaky():
        return steps.echo(steps.boom_if(steps.number(1), [1]))

    async with open_engine() as engine:
        old = await engine.run(flaky, check=False)
        assert old.status == "failed"
        run = await engine.rerun(old, parameters={"boom_if.bad": []})
        assert (run.status, run.value) == ("completed", 1)
        assert await settled(engine, run) == {"number": CACHED, "boom_if": DONE, "echo": DONE}
        assert (await settled(engine, old))["echo"] == SKIPPED, "a run that is over is never changed"
        again = await engine.rerun(old, check=False)
        assert again.status == "failed"
        assert await settled(engine, again) == {"number": CACHED, "boom_if": FAILED, "echo": SKIPPED}


async def test_rerun_of_a_partial_run(open_engine: OpenEngine) -> None:
    """A mapped step that kept failures runs again with all its items."""

    @chain
    def partial():
        return steps.total(steps.boom_if_kept.map(steps.up_to(3), bad=[1]))

    async with open_engine() as engine:
        old = await engine.run(partial)
        assert old.status == "partial"
        run = await engine.rerun(old, parameters={"boom_if_kept.bad": []})
        assert (run.status, run.value) == ("completed", 3)
        assert (await settled(engine, run))["up_to"] == CACHED
        taken = await engine.rerun(old, from_steps=["total"])
        assert (taken.status, taken["boom_if_kept"].value) == ("partial", [0, None, 2])
        statuses = await settled(engine, taken)
        assert (statuses["boom_if_kept"], statuses["boom_if_kept[1]"], statuses["total"]) == (CACHED, FAILED, DONE)


async def test_rerun_takes_over_mapped_files_large_values_and_inner_chains(open_engine: OpenEngine) -> None:
    @chain
    def all_kinds(photo: File):
        texts = steps.text_file.map(["a", "b"])
        large = steps.long_text(70_000)
        part = inner(3)
        last = steps.number(0).after(texts, large, part, steps.describe(photo))
        return steps.read_text.map(texts), steps.length_of(large["text"]), steps.add(part["n"], last), part["file"]

    async with open_engine() as engine:
        old = await engine.run(all_kinds, photo=b"photo bytes")
        run = await engine.rerun(old, from_steps=["number"])
        statuses = await settled(engine, run)
        assert statuses["inputs"] == DONE
        assert {n for n, s in statuses.items() if s == DONE} == {"inputs", "number", "add"}
        assert run.value[:3] == [["a", "b"], 70_000, 6]
        assert await run.value[3].read_bytes() == b"from inside"
        assert len(run["long_text"].value["text"]) == 70_000
        assert run["long_text"].artifacts == []
        assert [await item.artifact.read_bytes() for item in run["text_file"].items] == [b"a", b"b"]


async def test_a_run_that_is_not_over_cannot_be_rerun(open_engine: OpenEngine) -> None:
    @chain
    def simple():
        return steps.draft("x")

    async with open_engine() as engine:
        run = await engine.run(simple)
        with pytest.raises(RunRefused) as active:
            await engine.rerun(run)
        assert active.value.code == "E_RUN_ACTIVE"
        with pytest.raises(RunRefused) as missing:
            await engine.rerun("nobody")
        assert missing.value.code == "E_RUN_MISSING"
        assert await settled(engine, run) == {"draft": WAITS}
