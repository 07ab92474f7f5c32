"""Looking at a run that works: taken by the test modules of adapters, beside a fixture `open_engine`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel

from tests.conformance import chain_steps as steps
from towpath import Engine, chain
from towpath.adapters.temporal.run_cache import RunCache


@chain
def pictures():
    made: list[Any] = []
    for n in range(60):
        one = steps.text_file(f"text {n}")
        made.append(one.after(made[-1]) if made else one)
    return made


async def test_looking_at_a_run_never_sees_a_step_without_its_file(open_engine: Callable[..., Any]) -> None:
    """`snapshot` beside the working run, and the view that a worker makes which joins in."""
    async with open_engine() as engine:
        handle = await engine.start(pictures)
        looks = await _looks(engine, handle.id)
        assert (await handle.result()).status == "completed"
        assert looks > 3


async def _looks(engine: Engine, run_id: str) -> int:
    looks = 0
    while True:
        seen = await engine.snapshot(run_id)
        for one in seen.steps:
            if one.status == "completed":
                assert one.value is not None
        view = await RunCache(engine.store).get(run_id)
        for planned in view.plan.steps:
            row = view.ledger.row(planned.id)
            assert row is None or not row.status.done or row.artifacts, f"{planned.id} has lost its file"
        looks += 1
        if seen.status.final:
            return looks
        await anyio.lowlevel.checkpoint()
