"""S1: what the schema keeps true."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import sqlalchemy as sa

from tests.conformance.records import a_version, a_workflow, at_once, count, refused
from towpath import store as api
from towpath.errors import InputInvalid, StoreFailed
from towpath.model import ChainStatus, StepStatus
from towpath.store import Record, RunStore
from towpath.store.clock import new_id
from towpath.store.tables import artifacts


async def test_S1_2_creating_an_artifact_points_at_it_and_reading_is_one_query(store: RunStore) -> None:
    workflow = await a_workflow(store)
    first = await a_version(store, workflow)
    second = await a_version(store, workflow)
    async with store.session() as session:
        row = await api.get_workflow(session, workflow)
        assert row is not None
        assert row.latest_artifact_id == second.id != first.id
    async with store.session() as session:
        found = await api.get_latest_artifact(session, workflow)
        assert session.queries == 1
        by_name = await api.get_latest_artifact(session, workflow, "output")
        assert session.queries == 2
    assert found == by_name
    assert found is not None
    assert (found.id, found.version, found.is_latest) == (second.id, 2, True)


async def test_S1_3_a_second_latest_is_refused_by_the_database(store: RunStore) -> None:
    workflow = await a_workflow(store)
    first = await a_version(store, workflow)
    async with store.session() as session:
        row = await session.fetch_one(sa.select(artifacts).where(artifacts.c.id == first.id))
    assert row is not None
    for changed in ({"version": 2}, {"is_latest": 0}):  # two latest; the same version twice

        async def insert(changed: dict[str, Any] = changed) -> None:
            async with store.session() as session:
                await session.execute(sa.insert(artifacts).values({**row, "id": new_id(), **changed}))

        await refused(insert(), "E_DB_CONFLICT")
    assert await count(store, "artifacts") == 1


async def test_S1_3_fifty_concurrent_writers_end_with_one_latest(store: RunStore) -> None:
    workflow = await a_workflow(store)
    made = await asyncio.gather(*(a_version(store, workflow, b"%d" % i) for i in range(50)))
    assert sorted(row.version for row in made) == list(range(1, 51))
    async with store.session() as session:
        rows = await api.get_artifacts_by_workflow(session, workflow, include_old_versions=True)
        pointed = await api.get_latest_artifact(session, workflow)
    assert [row.version for row in rows] == list(range(50, 0, -1))
    assert [row.version for row in rows if row.is_latest] == [50]
    assert pointed == rows[0]


async def test_R09_eight_writers_of_25_versions_each(store: RunStore) -> None:
    workflow = await a_workflow(store)

    async def writer(number: int) -> None:
        for i in range(25):
            await a_version(store, workflow, b"%d %d" % (number, i))

    assert await at_once([writer(n) for n in range(8)]) == [None] * 8
    async with store.session() as session:
        rows = await api.get_artifacts_by_workflow(session, workflow, include_old_versions=True)
    assert [row.version for row in rows] == list(range(200, 0, -1))
    assert [row.version for row in rows if row.is_latest] == [200]


async def test_S1_4_three_outputs_are_three_latest(store: RunStore) -> None:
    workflow = await a_workflow(store)
    names = ("9.images[0]", "9.images[1]", "12.videos[0]")
    made = [await a_version(store, workflow, name=name) for name in names]
    async with store.session() as session:
        listed = await api.get_artifacts_by_workflow(session, workflow)
        for artifact in listed:
            await api.create_transfer(session, artifact.id, workflow, "gpu-1")
        sent = await api.list_transfers(session)
        row = await api.get_workflow(session, workflow)
    assert sorted(a.name for a in listed) == sorted(names)
    assert all(a.is_latest and a.version == 1 for a in listed)
    assert {t.artifact_id for t in sent} == {a.id for a in made}
    assert row is not None
    assert row.latest_artifact_id == made[0].id  # the primary output is the first


async def test_S1_5_lineage_from_any_member_in_one_query(store: RunStore) -> None:
    workflow = await a_workflow(store)
    made = [await a_version(store, workflow)]
    for parent in (0, 1, 1, 0, 3):  # a tree: 1 - 2 - (3, 4 - 6) and 1 - 5
        made.append(await a_version(store, workflow, parent_artifact_id=made[parent].id))
    await a_version(store, workflow, name="other")
    for member in made:
        async with store.session() as session:
            found = await api.get_artifact_versions(session, member.id)
            assert session.queries == 1
        assert [a.id for a in found] == [a.id for a in made]


async def test_S1_6_deleting_a_chain_deletes_all_of_it(store: RunStore) -> None:
    workflow = await a_workflow(store)
    artifact = await a_version(store, workflow)
    async with store.session() as session:
        row = await api.get_workflow(session, workflow)
        assert row is not None
        await api.create_transfer(session, artifact.id, workflow, "gpu-1")
        await api.create_approval(session, workflow, [artifact.id], chain_id=row.chain_id)
        inner = await api.create_chain(session, "inner", parent_workflow_id=workflow)
        await api.create_workflow(session, "x", chain_id=inner.id, step_id="x")
    async with store.session() as session:
        assert await api.delete_chain(session, row.chain_id)
    for table in ("chains", "workflows", "artifacts", "artifact_transfers", "approvals"):
        assert await count(store, table) == 0


async def test_S1_6_deleting_the_latest_promotes_the_one_before(store: RunStore) -> None:
    workflow = await a_workflow(store)
    made = [await a_version(store, workflow) for _ in range(3)]
    other = await a_version(store, workflow, name="other")

    async def delete(artifact: Record) -> tuple[str | None, list[int]]:
        async with store.session() as session:
            assert await api.delete_artifact(session, artifact.id)
            assert not await api.delete_artifact(session, artifact.id)
            row = await api.get_workflow(session, workflow)
            rows = await api.get_artifacts_by_workflow(session, workflow)
        assert row is not None
        return row.latest_artifact_id, [a.version for a in rows if a.name == "output"]

    assert await delete(made[2]) == (made[1].id, [2])
    assert await delete(made[0]) == (made[1].id, [2])
    again = await a_version(store, workflow)
    assert again.version == 4  # a number is never given twice
    await delete(again)
    assert await delete(made[1]) == (other.id, [])
    assert await delete(other) == (None, [])


async def test_the_only_version_is_the_latest_whatever_is_asked(store: RunStore) -> None:
    workflow = await a_workflow(store)
    first = await a_version(store, workflow, is_latest=False)
    assert first.is_latest
    second = await a_version(store, workflow, is_latest=False)
    assert not second.is_latest
    async with store.session() as session:
        await api.update_artifact_latest_flag(session, second.id, True)
        await api.update_artifact_latest_flag(session, second.id, False)
        assert (await api.get_latest_artifact(session, workflow)) == await api.get_artifact(session, first.id)
    async with store.session() as session:
        await api.delete_artifact(session, second.id)
        with pytest.raises(StoreFailed, match="E_ARTIFACT_LATEST"):
            await api.update_artifact_latest_flag(session, first.id, False)


async def test_the_pointer_takes_only_an_own_latest_version(store: RunStore) -> None:
    mine, other = await a_workflow(store), await a_workflow(store)
    old = await a_version(store, mine)
    new = await a_version(store, mine)
    strange = await a_version(store, other)

    async def point(artifact: str) -> Record | None:
        async with store.session() as session:
            return await api.update_workflow_latest_artifact(session, mine, artifact)

    for wrong in (old.id, strange.id, "nothing"):
        await refused(point(wrong), "E_DB_REFERENCE")
    pointed = await point(new.id)
    assert pointed is not None
    assert pointed.latest_artifact_id == new.id
    async with store.session() as session:
        assert await api.update_workflow_latest_artifact(session, "nothing", new.id) is None


FINAL_STEPS = ("completed", "failed", "skipped", "cancelled", "cached")
FINAL_CHAINS = ("completed", "partial", "failed", "cancelled")


@pytest.mark.parametrize("final", FINAL_STEPS)
async def test_S1_7_a_final_step_stays_as_it_is(store: RunStore, final: str) -> None:
    workflow = await a_workflow(store, final)
    for word in StepStatus:
        async with store.session() as session:
            if word == final:
                assert await api.update_workflow_status(session, workflow, word)
                continue
            with pytest.raises(StoreFailed, match="E_TRANSITION"):
                await api.update_workflow_status(session, workflow, word)


@pytest.mark.parametrize("final", FINAL_CHAINS)
async def test_S1_7_a_final_chain_stays_as_it_is(store: RunStore, final: str) -> None:
    async with store.session() as session:
        chain = await api.create_chain(session, "demo")
        await api.update_chain_status(session, chain.id, final)
        for word in ChainStatus:
            if word != final:
                with pytest.raises(StoreFailed, match="E_TRANSITION"):
                    await api.update_chain_status(session, chain.id, word)


async def test_S1_7_unknown_words_are_refused_by_function_and_by_database(store: RunStore) -> None:
    workflow = await a_workflow(store)
    async with store.session() as session:
        for word in ("executing_level_2", "", "COMPLETED", "done"):
            with pytest.raises(InputInvalid, match="E_STATUS"):
                await api.update_workflow_status(session, workflow, word)
            with pytest.raises(InputInvalid, match="E_STATUS"):
                await api.create_chain(session, "demo", word)

    async def past() -> None:
        async with store.session() as session:
            await session.execute(sa.text("UPDATE workflows SET status = 'executing_level_2'"))

    await refused(past(), "E_DB_VALUE")


async def test_S1_7_the_level_is_a_column(store: RunStore) -> None:
    async with store.session() as session:
        chain = await api.create_chain(session, "demo", "initializing")  # the seed's word for pending
        assert (chain.status, chain.current_level) == ("pending", 0)
        changed = await api.update_chain_status(session, chain.id, "running", current_level=2)
    assert changed is not None
    assert (changed.status, changed.current_level) == ("running", 2)
