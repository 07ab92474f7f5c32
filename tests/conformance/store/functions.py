# ruff: noqa: PT012 - a session raises its error where its block ends
"""S2: the functions of the store."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest
from msgspec import structs

from tests.conformance.records import a_run, a_version, a_workflow, count
from towpath import store as api
from towpath.errors import InputInvalid, StoreFailed
from towpath.events import Fact, NewArtifact, StepEnded, StepReady
from towpath.model import StepStatus
from towpath.store import RunStore


async def test_S2_2_an_error_leaves_no_row(store: RunStore) -> None:
    with pytest.raises(ZeroDivisionError):
        async with store.session() as session:
            chain = await api.create_chain(session, "demo")
            row = await api.create_workflow(session, "a", chain_id=chain.id, step_id="a")
            await api.create_artifact(session, row.id, "x", data=b"x")
            raise ZeroDivisionError
    for table in ("chains", "workflows", "artifacts", "blobs"):
        assert await count(store, table) == 0


async def test_S2_2_a_failed_statement_spoils_its_session_even_if_caught(store: RunStore) -> None:
    workflow = await a_workflow(store)
    await a_version(store, workflow)
    with pytest.raises(StoreFailed, match="E_SESSION_FAILED"):
        async with store.session() as session:
            await api.create_chain(session, "before")
            with pytest.raises(StoreFailed, match="E_DB_REFERENCE"):
                await api.create_artifact(session, "no such workflow", data=b"x")
            with pytest.raises(StoreFailed, match="E_SESSION_FAILED"):
                await api.get_chain(session, "x")
    assert await count(store, "chains") == 1
    assert (await a_version(store, workflow)).version == 2  # the store works on


async def test_S2_2_a_cancelled_statement_spoils_its_session_even_if_caught(store: RunStore) -> None:
    workflow = await a_workflow(store)
    with pytest.raises(StoreFailed, match="E_SESSION_FAILED"):
        async with store.session() as session:
            await api.create_chain(session, "before")
            with anyio.CancelScope() as scope:
                scope.cancel()
                await api.create_artifact(session, workflow, data=b"x", name="new")
            await session.begin()
            with anyio.CancelScope() as scope:
                scope.cancel()
                await api.create_chain(session, "cancelled")
    assert await count(store, "chains") == 1


async def test_S2_2_wrong_arguments_write_nothing(store: RunStore) -> None:
    workflow = await a_workflow(store)
    first = await a_version(store, workflow)
    other = await a_version(store, workflow, name="other")
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("E_STATUS", {"approval_status": "perhaps"}),
        ("E_ARTIFACT_VERSION", {"version": 1}),
        ("E_ARTIFACT_VERSION", {"version": 3}),
        ("E_ARTIFACT_PARENT", {"parent_artifact_id": "nothing"}),
        ("E_ARTIFACT_PARENT", {"parent_artifact_id": other.id, "name": "output"}),
        ("E_ARTIFACT_SOURCE", {"data": None}),
    ]
    async with store.session() as session:
        await session.begin()
        for code, options in wrong:
            with pytest.raises(InputInvalid, match=code):
                await api.create_artifact(session, workflow, **{"data": b"y", **options})
    async with store.session() as session:
        assert await api.get_latest_artifact(session, workflow) == first
        assert (await api.create_artifact(session, workflow, data=b"y", version=2)).version == 2


async def test_S2_3_times(store: RunStore) -> None:
    workflow = await a_workflow(store, "queued")
    async with store.session() as session:
        started = await api.update_workflow_status(session, workflow, "executing")
        again = await api.update_workflow_status(session, workflow, "executing")
        waiting = await api.update_workflow_status(session, workflow, "waiting_approval")
        done = await api.update_workflow_status(session, workflow, "completed")
        chain = await api.create_chain(session, "demo")
        running = await api.update_chain_status(session, chain.id, "running")
        over = await api.update_chain_status(session, chain.id, "failed", error_message="why")
    assert started is not None
    assert again is not None
    assert waiting is not None
    assert done is not None
    assert running is not None
    assert over is not None
    assert started.started_at == again.started_at == done.started_at
    assert started.completed_at is waiting.completed_at is running.completed_at is None
    assert done.completed_at >= done.started_at >= done.queued_at
    assert (over.completed_at >= over.started_at, over.error_message) == (True, "why")


@pytest.mark.parametrize("steps", [10, 1000])
async def test_S2_4_a_chain_with_all_steps_is_three_queries(store: RunStore, steps: int) -> None:
    lease = await a_run(store)
    facts: list[Fact] = []
    for i in range(steps):
        row = store.new_id()
        made = NewArtifact(store.new_id(), "output", 1, "x", "text/plain", 1, "a" * 64, inline=b"x")
        facts.append(StepReady(row, f"s{i}", None, "mod:a", started=True, attempt=1))
        facts.append(StepEnded(row, f"s{i}", None, StepStatus.COMPLETED, 1, artifacts=(made,)))
    digest = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"  # of b"x"
    facts = [_with_digest(fact, digest) for fact in facts]
    await store.record(lease, facts)
    async with store.session() as session:
        found = await api.get_chain_details(session, lease.run_id)
        assert session.queries == 3
        assert await api.get_chain_details(session, "nothing") is None
    assert found is not None
    assert len(found.workflows) == steps
    assert all(len(row["artifacts"]) == 1 for row in found.workflows)


def _with_digest(fact: Fact, digest: str) -> Fact:
    if not isinstance(fact, StepEnded):
        return fact
    return structs.replace(fact, artifacts=tuple(structs.replace(a, digest=digest) for a in fact.artifacts))


async def test_S2_5_every_create_with_a_known_key_returns_the_first_row(store: RunStore) -> None:
    workflow = await a_workflow(store)
    artifact = await a_version(store, workflow)
    creates = {
        "chains": lambda s: api.create_chain(s, "demo", idempotency_key="k"),
        "workflows": lambda s: api.create_workflow(s, "w", idempotency_key="k"),
        "artifacts": lambda s: api.create_artifact(s, workflow, data=b"k", idempotency_key="k"),
        "artifact_transfers": lambda s: api.create_transfer(s, artifact.id, workflow, "gpu", idempotency_key="k"),
        "approvals": lambda s: api.create_approval(s, workflow, [artifact.id], idempotency_key="k"),
    }
    for table, create in creates.items():
        before = await count(store, table)

        async def once(create: Any = create) -> str:
            async with store.session() as session:
                return str((await create(session)).id)

        ids = await asyncio.gather(*(once() for _ in range(10)))
        assert len(set(ids)) == 1, table
        assert await count(store, table) == before + 1, table
