# ruff: noqa: PT012 - a session raises its error where its block ends
"""S3: sessions."""

from __future__ import annotations

import asyncio

import anyio
import pytest
import sqlalchemy as sa

from tests.conformance.records import LAG, a_run, a_workflow, count, lag_during, refused
from towpath import store as api
from towpath.events import LogKept, StepDropped, StepReady
from towpath.model import StepStatus
from towpath.store import RunStore


async def test_S3_3_a_rollback_is_not_committed_by_another_session(store: RunStore) -> None:
    inside, go_on = anyio.Event(), anyio.Event()

    async def failing() -> None:
        with pytest.raises(ZeroDivisionError):
            async with store.session() as session:
                await api.create_chain(session, "lost")
                inside.set()
                await go_on.wait()
                raise ZeroDivisionError

    async def writing() -> None:
        await inside.wait()
        async with store.session() as session:
            assert await api.list_chains(session) == []  # what is not committed is not seen
        go_on.set()
        async with store.session() as session:
            await api.create_chain(session, "kept")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(failing)
        tasks.start_soon(writing)
    async with store.session() as session:
        assert [chain.name for chain in await api.list_chains(session)] == ["kept"]


async def test_S3_3_a_session_sees_its_own_writes(store: RunStore) -> None:
    async with store.session() as session:
        chain = await api.create_chain(session, "demo")
        assert await api.get_chain(session, chain.id) == chain


async def test_S3_4_the_loop_turns_during_a_thousand_writes(store: RunStore) -> None:
    lease = await a_run(store)

    async def writer() -> None:
        for _ in range(9):
            await store.record(lease, [StepDropped(store.new_id(), store.new_id(), None, "m", StepStatus.SKIPPED, "")])
        await a_workflow(store)

    async def all_of_them() -> None:
        await asyncio.gather(*(writer() for _ in range(100)))
        assert await count(store, "workflows") % 1000 == 0

    assert await lag_during(all_of_them) < LAG


async def test_a_write_inside_a_writing_session_is_refused_not_deadlocked(store: RunStore) -> None:
    lease = await a_run(store)
    with anyio.fail_after(60):
        async with store.session() as session:
            await api.create_chain(session, "demo")
            for work in (store.record(lease, [LogKept("x", 1, "")]), store.claim(lease.run_id), a_workflow(store)):
                await refused(work, "E_SESSION_NESTED")
        await a_workflow(store)


@pytest.mark.parametrize("way", ["session", "record"])
async def test_R17_cancelled_four_hundred_times(store: RunStore, way: str) -> None:
    """In one long-lived task; whatever was cancelled is there whole or not at all, and the store works on."""
    lease = await a_run(store)
    cancelled = 0
    for i in range(400):
        with anyio.move_on_after(i % 20 * 0.00005) as scope:
            if way == "session":
                async with store.session() as session:
                    chain = await api.create_chain(session, "pair")
                    await api.create_workflow(session, "pair", chain_id=chain.id, step_id="a")
            else:
                one, two = store.new_id(), store.new_id()
                await store.record(
                    lease,
                    [
                        StepReady(one, f"{i}", 0, "pair", started=True, attempt=1),
                        StepReady(two, f"{i}", 1, "pair", started=True, attempt=1),
                    ],
                )
        cancelled += scope.cancelled_caught
        if i % 20 == 0:
            await a_workflow(store)
    assert cancelled > 20
    async with store.session() as session:
        await session.begin()  # after everything that was queued
        chains = await session.fetch_all(sa.text("SELECT id FROM chains WHERE name = 'pair'"))
        rows = await session.fetch_all(sa.text("SELECT id FROM workflows WHERE workflow_name = 'pair'"))
    if way == "session":
        assert len(rows) == len(chains)
    else:
        assert len(rows) % 2 == 0
