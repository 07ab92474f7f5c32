"""What a step returns and what the next step gets: data, references, templates."""

from __future__ import annotations

import msgspec
import pytest
from msgspec.structs import replace

from tests.conformance import chain_steps as steps
from tests.conformance.chain_steps import began, let_go
from tests.conformance.runs import DONE, FAILED, SKIPPED, OpenEngine, of_plan, rows, settled
from towpath import chain


async def test_none_is_a_value(open_engine: OpenEngine) -> None:
    """A step that returned None completed, and None is what the next one gets."""

    @chain
    def none():
        return steps.echo([steps.nothing(), steps.nothing().named("other")])

    async with open_engine() as engine:
        run = await engine.run(none)
        assert run.value == [None, None]
        assert run["nothing"].value is None
        assert await settled(engine, run) == {"nothing": DONE, "other": DONE, "echo": DONE}


@chain
def one_wrong(kind: str):
    return steps.echo(steps.not_data(kind))


@pytest.mark.parametrize(
    "kind",
    "nan,infinity,complex,tuple key,wide,object,deep,reserved,stored,generator,exception".split(","),
)
async def test_values_that_are_refused(open_engine: OpenEngine, kind: str) -> None:
    """What is neither JSON data nor a file fails the step, naming the place; it is not tried again."""
    async with open_engine() as engine:
        run = await engine.run(one_wrong, kind=kind, check=False)
        error = run["not_data"].error
        assert error is not None
        assert error.code == "E_VALUE_TYPE"
        assert await settled(engine, run) == {"not_data": FAILED, "echo": SKIPPED}


@chain
def parts_of_a_large_value(size: int):
    return steps.length_of(steps.long_text(size)["text"])


async def test_large_values_are_artifacts_and_read_transparently(open_engine: OpenEngine) -> None:
    """JSON over 64 KiB is kept as the artifact `value`; `.value`, references and later engines read it."""
    async with open_engine() as engine:
        run = await engine.run(parts_of_a_large_value, size=70_000)
        assert run["length_of"].value == 70_000
        assert len(run["long_text"].value["text"]) == 70_000
        assert run["long_text"].artifacts == []
        row = (await rows(engine, run))["long_text"]
        assert len(msgspec.json.encode(row.value)) < 100
        kept = await engine.get_artifacts_by_workflow(row.id)
        assert [(a.name, a.media_type) for a in kept] == [("value", "application/json")]
        parameters = (await rows(engine, run))["length_of"].parameters
        assert len(msgspec.json.encode(parameters)) < 1_000
        assert await settled(engine, run) == {"long_text": DONE, "length_of": DONE}
    async with open_engine() as engine:
        again = await engine.snapshot(run.id)
        assert len(again["long_text"].value["text"]) == 70_000


async def test_a_large_value_is_read_after_resume(open_engine: OpenEngine, folder: str) -> None:
    """A step that starts after a restart gets the large value of one that completed before it."""

    @chain
    def large_then_hold(folder: str):
        large = steps.long_text(100_000)
        return steps.length_of(large["text"]).after(steps.hold(folder, "between").after(large))

    async with open_engine() as engine:
        handle = await engine.start(large_then_hold, folder=folder)
        await began(folder, "between")
    let_go(folder, "between")
    async with open_engine() as engine:
        run = await engine.resume(handle.id)
        assert run["length_of"].value == 100_000
        assert await settled(engine, run) == {"long_text": DONE, "hold": DONE, "length_of": DONE}
        assert (await rows(engine, run))["long_text"].attempt == 1


async def test_parameters_are_recorded(open_engine: OpenEngine) -> None:
    """The row says what the step was called with; an artifact stands there by id, name and version."""

    @chain
    def recorded(n: int):
        return steps.add({"n": [n, steps.number(2)]}["n"][0], steps.number(5).named("five")), steps.describe(
            steps.text_file("x")
        )

    async with open_engine() as engine:
        run = await engine.run(recorded, n=3)
        named = await rows(engine, run)
        assert named["add"].parameters == {"a": 3, "b": 5}
        file = run["text_file"].artifact
        assert named["describe"].parameters == {"file": {"$artifact": file.id, "name": "output", "version": 1}}
        assert set((await settled(engine, run)).values()) == {DONE}


async def test_S4_5_a_part_that_is_not_there(open_engine: OpenEngine) -> None:
    """A reference to a missing part fails the step that wanted it, naming step and key."""

    @chain
    def missing():
        return steps.echo(steps.many_files()["deep"]["nowhere"])

    async with open_engine() as engine:
        run = await engine.run(missing, check=False)
        error = run["echo"].error
        assert error is not None
        assert error.code == "E_TEMPLATE_UNDEFINED"
        assert "many_files" in error.message
        assert "nowhere" in error.message
        assert await settled(engine, run) == {"many_files": DONE, "echo": FAILED}


async def test_S4_5_templates_keep_types(open_engine: OpenEngine) -> None:
    """A lone expression keeps its type, "007" stays "007", and a mixed text is text."""

    @chain
    def base():
        return steps.echo(steps.echo({"n": 7, "zeros": "007", "list": [1, {"a": None}]}).named("source"))

    plan = base.plan
    last = replace(
        plan.step("echo"),
        parameters={
            "value": {
                "whole": {"$template": "{{ source.output }}"},
                "zeros": {"$template": "{{ source.output.zeros }}"},
                "deep": {"$template": "{{ source.output.list[1].a }}"},
                "mixed": {"$template": "n={{ source.output.n }} {{ source.status }}"},
                "parameter": {"$template": "{{ source.parameters.value.n }}"},
            }
        },
    )
    plan = replace(plan, steps=(plan.steps[0], last))
    async with open_engine() as engine:
        run = await engine.run(of_plan(plan))
        assert run["echo"].value == {
            "whole": {"n": 7, "zeros": "007", "list": [1, {"a": None}]},
            "zeros": "007",
            "deep": None,
            "mixed": "n=7 completed",
            "parameter": 7,
        }
        assert await settled(engine, run) == {"source": DONE, "echo": DONE}
