"""Starting a run: its record, its id, what is refused."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from msgspec.structs import replace

from tests.conformance import chain_steps as steps
from tests.conformance.adapter.chains_inside import nested
from tests.conformance.adapter.shapes import diamond, linear
from tests.conformance.chain_steps import began, let_go, noted
from tests.conformance.runs import DONE, RUNS, OpenEngine, of_plan, pending, rows, settled
from towpath import FeatureMissing, InputInvalid, Run, RunRefused, chain
from towpath.model import InputSpec


async def test_S6_1_the_record_is_there_before_the_first_step(open_engine: OpenEngine, folder: str) -> None:
    """With its whole definition; a second start with the same id attaches to the run."""

    @chain
    def held(folder: str):
        return steps.hold(folder, "only")

    async with open_engine() as engine:
        handle = await engine.start(held, folder=folder, run_id="mine")
        await began(folder, "only")
        row = await engine.get_chain("mine")
        assert (row.name, row.status, row.inputs) == ("held", "running", {"folder": folder})
        assert [s["id"] for s in row.chain_definition["steps"]] == ["hold"]
        assert (await rows(engine, "mine"))["hold"].status == RUNS
        ends: list[Run] = []

        async def attach() -> None:
            ends.append(await engine.run(held, folder=folder, run_id="mine"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(attach)
            tasks.start_soon(attach)
            await anyio.sleep(0.05)
            let_go(folder, "only")
        assert [(r.id, r.status) for r in ends] == [("mine", "completed")] * 2
        assert (await handle.result()).status == "completed"
        after = await engine.run(held, folder=folder, run_id="mine")
        assert after.value == "only"
        assert noted(folder, "only.began") == ["1"]
        assert await settled(engine, after) == {"hold": DONE}


async def test_a_run_id_of_another_chain(open_engine: OpenEngine) -> None:
    """A known id with another chain, another version of it, or other inputs is refused."""

    def version(by: int) -> Any:
        @chain
        def versioned(n: int):
            return steps.add(n, by)

        return versioned

    async with open_engine() as engine:
        await engine.run(linear, n=1, run_id="taken")
        with pytest.raises(RunRefused) as refused:
            await engine.run(diamond, n=1, run_id="taken")
        assert refused.value.code == "E_RUN_CHAIN"
        with pytest.raises(RunRefused) as refused:
            await engine.run(linear, n=2, run_id="taken")
        assert refused.value.code == "E_RUN_INPUTS"
        assert (await engine.run(linear, n=1, run_id="taken")).status == "completed"
        assert (await engine.run(version(2), n=1, run_id="versioned")).value == 3
        with pytest.raises(RunRefused) as refused:
            await engine.start(version(3), n=1, run_id="versioned")
        assert refused.value.code == "E_RUN_CHAIN"
        assert (await engine.run(version(2), n=1, run_id="versioned")).value == 3
        for wrong in ("", "a/b", ".hidden", "x" * 201, "line\nbreak"):
            with pytest.raises(InputInvalid, match="run id"):
                await engine.run(linear, run_id=wrong)
        assert set((await settled(engine, "taken")).values()) == {DONE}


@pytest.mark.parametrize(
    "changes",
    [
        {"cache": True},
        {"server": "gpu-1"},
        {"requires": {"tags": ["a100"]}},
        {"kind": "workflow"},
    ],
    ids=str,
)
async def test_what_is_not_built_is_refused_before_anything_starts(
    open_engine: OpenEngine, changes: dict[str, Any]
) -> None:
    """No row of `chains`, also where the key stands in a chain inside a step."""
    plan = linear.plan
    bad = replace(plan, steps=(*plan.steps[:2], replace(plan.steps[2], **changes)))
    nest = replace(nested.plan, steps=(replace(nested.plan.steps[0], chain=bad), *nested.plan.steps[1:]))
    target = replace(plan, inputs=(InputSpec("n", "integer", False, 1, target="78.image"),))
    async with open_engine() as engine:
        for refused in (bad, nest, target):
            with pytest.raises(FeatureMissing) as missing:
                await engine.run(of_plan(refused), n=1)
            assert missing.value.code == "E_FEATURE_MISSING"
            assert missing.value.problem.cure
        assert await engine.list_chains() == []


async def test_start_continues_a_paused_run(open_engine: OpenEngine) -> None:
    """`start` with the id of a paused run continues the run: the handle does not return the old, paused result."""

    @chain
    def simple():
        return steps.read_text(steps.draft("x"))

    async with open_engine() as engine:
        run = await engine.run(simple, run_id="mine")
        await engine.approve((await pending(engine, run)).id, by="anna")
        handle = await engine.start(simple, run_id="mine")
        run = await handle.result()
        assert run.value == "x"
        assert await settled(engine, run) == {"draft": DONE, "read_text": DONE}
        again = await engine.start(simple, run_id="mine")
        assert (await again.result()).value == "x"
