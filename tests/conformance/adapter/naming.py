"""Names and tags of runs (S6: they are recorded with the run, on every adapter)."""

from __future__ import annotations

import pytest

from tests.conformance import chain_steps as steps
from tests.conformance.adapter.chains_inside import nested
from tests.conformance.runs import DONE, OpenEngine, child_of, settled
from towpath import InputInvalid, RunRefused, chain


@chain
def greeting(n: int, name: str = "you", tags: list[str] | None = None):
    return steps.echo([name, tags]), steps.double(n)


@chain
def doubled(n: int):
    return steps.double(n)


async def test_a_name_and_tags_are_recorded_with_the_run(open_engine: OpenEngine) -> None:
    """On the run, its row, a snapshot and a rerun. Several runs may have the same."""
    async with open_engine() as engine:
        run = await engine.run(doubled, n=1, name="media-12", tags={"client": "x", "urgent": ""})
        handle = await engine.start(doubled, n=2, name="media-12", tags=["draft"])
        other = await handle.result()
        assert (run.name, run.tags) == ("media-12", {"client": "x", "urgent": ""})
        assert (other.name, other.tags) == ("media-12", {"draft": ""})
        row = await engine.get_chain(run.id)
        assert (row.name, row.run_name, row.tags) == ("doubled", "media-12", {"client": "x", "urgent": ""})
        assert (await engine.snapshot(other.id)).tags == {"draft": ""}
        again = await engine.rerun(run, from_steps=["double"])
        renamed = await engine.rerun(run, name="media-13", tags={})
        assert (again.name, again.tags) == (run.name, run.tags)
        assert (renamed.name, renamed.tags) == ("media-13", {})
        plain = await engine.run(doubled, n=1)
        assert (plain.name, plain.tags) == (None, {})
        assert await settled(engine, again) == {"double": DONE}


async def test_a_chain_with_an_input_called_name(open_engine: OpenEngine) -> None:
    """The keyword is the input, as it always was; with the input in `inputs` it is the name of the run."""
    async with open_engine() as engine:
        run = await engine.run(greeting, n=1, name="Ana", tags=["a"])
        assert (run.name, run.tags, run["echo"].value) == (None, {}, ["Ana", ["a"]])
        run = await engine.run(greeting, n=1, inputs={"name": "Bo", "tags": None}, name="run", tags={"k": "v"})
        assert (run.name, run.tags, run["echo"].value) == ("run", {"k": "v"}, ["Bo", None])


async def test_runs_inside_steps_have_no_name(open_engine: OpenEngine) -> None:
    """They are found by the run around them."""
    async with open_engine() as engine:
        run = await engine.run(nested, n=4, name="outer", tags={"k": "v"})
        child = await child_of(engine, run, "inner")
        assert (child.run_name, child.tags) == (None, {})
        assert [row.id for row in await engine.list_chains(tags={"k": "v"})] == [run.id]


async def test_a_wrong_label_is_refused_before_anything_starts(open_engine: OpenEngine) -> None:
    async with open_engine() as engine:
        for wrong in ({"name": "last"}, {"name": ""}, {"tags": {"n": 1}}, {"tags": "client=x"}):
            with pytest.raises(InputInvalid, match=r"E_RUN_NAME|E_RUN_TAGS"):
                await engine.run(doubled, n=1, **wrong)
        assert await engine.list_chains() == []


async def test_removing_a_run(open_engine: OpenEngine) -> None:
    """With all inside it, its files and the copies of them; the audit trail says who did it."""
    async with open_engine() as engine:
        run = await engine.run(nested, n=4, name="gone")
        kept = await engine.run(nested, n=5)
        child = await child_of(engine, run, "inner")
        copy = await run["inner"].artifact.path()
        with pytest.raises(RunRefused, match="E_RUN_INSIDE"):
            await engine.remove(child.id)
        gone = await engine.remove(run.id, by="ana")
        assert (gone.id, {*gone.runs}, gone.steps) == (run.id, {run.id, child.id}, 5)
        assert gone.files > 0
        assert gone.bytes == 0, "another run has the same file"
        assert not copy.exists()
        with pytest.raises(RunRefused, match="E_RUN_MISSING"):
            await engine.remove(run.id)
        left = {row.id for row in await engine.list_chains(inner=False)}
        assert left == {kept.id}
        assert await engine.get_chain(child.id) is None
