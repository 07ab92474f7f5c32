"""`granularity=auto`: several cheap steps in one child workflow, with the rows and facts that each would have alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.adapters.conftest import OpenEngine
from tests.conformance import chain_steps as steps
from tests.conformance.adapter import DONE, folder, pending, rows, settled, trail
from tests.conformance.chain_steps import PATIENCE, noted
from tests.temporal import cheap_steps as cheap
from tests.temporal.test_crashes import gone, worker
from towpath import Engine, Run, chain
from towpath.adapters.temporal.connection import connect, parse_address

__all__ = ["folder"]

pytestmark = pytest.mark.anyio


@pytest.fixture
def auto(adapter: str) -> str:
    return f"{adapter}&granularity=auto"


@chain
def mixed():
    """A line, a fan-out, files, a failure that is handled, a gate and a dear step between cheap ones."""
    at = cheap.plus(1)
    for _ in range(5):
        at = cheap.plus(at)
    wide = cheap.plus.map(steps.up_to(12))
    broken = cheap.fails(at)
    after = cheap.plus(broken).named("after")
    dear = steps.double(at)
    joined = cheap.total([cheap.size(cheap.as_file(dear)), dear])
    return cheap.total(wide), joined, steps.draft("x"), after


def masked(parameters: Any) -> str:
    """Parameters with the ids of artifacts left out."""
    return re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "…", json.dumps(parameters))


async def left_behind(engine: Engine, run: Run) -> dict[str, Any]:
    """What a run left, with ids, times and what depends on them masked."""
    facts = await trail(engine, run.id)
    facts = {place: [f for f in types if f != "StepQueued"] for place, types in facts.items()}
    seen: dict[str, Any] = {}
    for name, row in (await rows(engine, run)).items():
        kept = await engine.get_artifacts_by_workflow(row.id)
        files = sorted((a.name, a.version, a.sha256, a.filename, a.attempt) for a in kept)
        seen[name] = (
            row.status,
            row.attempt,
            row.value,
            row.error_code,
            row.error_message,
            masked(row.parameters),
            files,
        )
    return {"rows": seen, "facts": facts, "status": run.status, "error": run.error}


async def test_auto_leaves_what_step_and_local_leave(open_engine: OpenEngine, auto: str) -> None:
    """D2, F1. One setting; rows, artifacts, facts and errors are equal."""
    left = []
    for options in ({"adapter": "local", "worker": False}, {}, {"adapter": auto}):
        async with open_engine(**options) as engine:
            run = await engine.run(mixed, check=False)
            left.append(await left_behind(engine, run))
            await settled(engine, run)
    assert left[0]["status"] == "paused"
    for other in left[1:]:
        for part in ("rows", "facts"):
            for name, seen in left[0][part].items():
                assert other[part].get(name) == seen, name
        assert other == left[0]


async def test_auto_needs_few_children(open_engine: OpenEngine, auto: str) -> None:
    @chain
    def line():
        at = cheap.plus(0)
        for _ in range(99):
            at = cheap.plus(at)
        return at

    async with open_engine(adapter=auto) as engine:
        run = await engine.run(line)
        assert run.value == 100
        assert set((await settled(engine, run)).values()) == {DONE}
    address = parse_address(auto)
    client = await connect(address)
    history = await client.get_workflow_handle(address.workflow_id(run.id)).fetch_history()
    started = [e for e in history.events if e.HasField("start_child_workflow_execution_initiated_event_attributes")]
    assert len(started) == 2


async def test_R28_a_killed_group_goes_on_behind_what_is_recorded(
    open_engine: OpenEngine, store: Path, auto: str, folder: str
) -> None:
    @chain
    def line(folder: str):
        at = cheap.counted(0, folder).named("c0")
        for n in range(1, 8):
            at = cheap.counted(n, folder).after(at).named(f"c{n}")
        return at

    async with open_engine(adapter=auto, worker=False) as engine:
        handle = await engine.start(line, folder=folder)
        with worker(store, auto, "before-report", "c4") as victim:
            await gone(victim)
        with worker(store, auto), anyio.fail_after(PATIENCE):
            run = await handle.result()
        assert set((await settled(engine, run)).values()) == {DONE}
        assert [noted(folder, f"counted.{n}") for n in range(8)] == [["1"]] * 8


async def test_a_gate_between_cheap_steps(open_engine: OpenEngine, auto: str) -> None:
    @chain
    def gated():
        first = steps.draft("x")
        return cheap.plus(cheap.size(first))

    async with open_engine(adapter=auto) as engine:
        run = await engine.run(gated)
        await engine.approve((await pending(engine, run)).id, by="anna")
        run = await engine.resume(run.id)
        assert run.value == 2
