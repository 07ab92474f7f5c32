"""Runs, steps and versions as tests of stores make them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from towpath import store as api
from towpath.errors import InputInvalid, RunRefused, StoreFailed
from towpath.events import ChainResumed, StepEnded, StepReady
from towpath.model import Plan, StepPlan, StepStatus
from towpath.ports import Lease, NewRun
from towpath.store import Record, RunStore

PLAN = Plan("demo", tuple(StepPlan(name, "python", f"mod:{name}") for name in ("a", "b", "c")))
LAG = 0.1  # seconds that the event loop may compute between two turns, at most


async def a_workflow(store: RunStore, status: str = "executing") -> str:
    """The id of a step's row in a new chain."""
    async with store.session() as session:
        chain = await api.create_chain(session, "demo", "running")
        row = await api.create_workflow(session, "a", chain_id=chain.id, step_id="a", status=status)
    return str(row.id)


async def a_version(store: RunStore, workflow: str, data: bytes = b"x", **more: Any) -> Record:
    """A new version of an output."""
    async with store.session() as session:
        return await api.create_artifact(session, workflow, "x.bin", data=data, **more)


async def a_run(store: RunStore, run_id: str = "", **more: Any) -> Lease:
    """The lease of a new, running run."""
    run_id = run_id or store.new_id()
    assert await store.create_run(NewRun(run_id, PLAN, {}, **more))
    lease = await store.claim(run_id)
    await store.record(lease, [ChainResumed()])
    return lease


async def a_step(store: RunStore, lease: Lease, step: str = "a") -> str:
    """The row of a step that was started."""
    row = store.new_id()
    await store.record(lease, [StepReady(row, step, None, f"mod:{step}", started=True, attempt=1)])
    return row


def ended(row: str, status: StepStatus, step: str = "a", **more: Any) -> StepEnded:
    return StepEnded(row, step, None, status, **more)


async def refused(work: Any, code: str) -> None:
    with pytest.raises((StoreFailed, InputInvalid, RunRefused)) as caught:
        await work
    assert caught.value.code == code


async def count(store: RunStore, table: str) -> int:
    async with store.session() as session:
        rows = await session.fetch_all(sa.select(sa.func.count().label("n")).select_from(sa.table(table)))
    return int(rows[0]["n"])


async def lag_during(work: Callable[[], Awaitable[object]]) -> float:
    """The longest time that the event loop's thread computes between two turns of the loop while `work` is done.

    In seconds of CPU time, so that other programs on the machine do not count. A call that blocks without computing is
    found by `blockbuster` elsewhere. The result is the best of three rounds.
    """
    rounds: list[float] = []
    while len(rounds) < 3 and (not rounds or rounds[-1] >= LAG):
        longest = 0.0

        async def probe() -> None:
            nonlocal longest
            while True:
                before = time.thread_time()
                await asyncio.sleep(0.002)
                longest = max(longest, time.thread_time() - before)

        probing = asyncio.create_task(probe())
        await work()
        probing.cancel()
        rounds.append(longest)
    return min(rounds)


async def at_once(works: Sequence[Any]) -> list[Any]:
    return await asyncio.gather(*works, return_exceptions=True)
