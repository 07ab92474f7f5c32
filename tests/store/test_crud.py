# ruff: noqa: PT012 - what a session refuses is told where its block ends
"""The seed's functions: found and not found, filters, pages, order. S2.1 of the acceptance list."""

from __future__ import annotations

import inspect
import json
from operator import eq
from typing import Any

import pytest

from tests.conformance.records import a_run, a_step, a_version, a_workflow
from towpath import store as api
from towpath.errors import ApprovalRefused, InputInvalid, StoreFailed
from towpath.store import RunStore, artifacts, chains, transfers, workflows
from towpath.store.facade import Records

pytestmark = pytest.mark.anyio

SEED = {
    chains: "create_chain get_chain get_chain_by_temporal_id update_chain_status list_chains delete_chain",
    workflows: "create_workflow get_workflow get_workflow_by_prompt get_workflow_by_step get_workflows_by_chain "
    "update_workflow_status update_workflow_latest_artifact list_workflows delete_workflow",
    artifacts: "create_artifact get_artifact get_latest_artifact get_artifacts_by_workflow get_artifact_versions "
    "update_artifact_latest_flag approve_artifact reject_artifact list_artifacts delete_artifact",
    transfers: "create_transfer get_transfer update_transfer_status list_transfers delete_transfer",
}


def test_S2_1_the_seeds_names_are_there_each_taking_a_session_first() -> None:
    for module, names in SEED.items():
        for name in names.split():
            function = getattr(module, name)
            assert getattr(api, name) is function
            assert name in api.__all__
            assert inspect.iscoroutinefunction(function)
            assert next(iter(inspect.signature(function).parameters)) == "session"
            assert function.__doc__


async def test_S2_1_what_is_not_there_is_none_or_false(store: RunStore) -> None:
    async with store.session() as session:
        none: list[Any] = [
            await api.get_chain(session, "x"),
            await api.get_chain_by_temporal_id(session, "x"),
            await api.update_chain_status(session, "x", "running"),
            await api.get_workflow(session, "x"),
            await api.get_workflow_by_prompt(session, "pending"),
            await api.get_workflow_by_step(session, "x", "y"),
            await api.update_workflow_status(session, "x", "executing"),
            await api.get_artifact(session, "x"),
            await api.get_latest_artifact(session, "x"),
            await api.update_artifact_latest_flag(session, "x", True),
            await api.approve_artifact(session, "x", "me"),
            await api.reject_artifact(session, "x", "me"),
            await api.get_transfer(session, "x"),
            await api.update_transfer_status(session, "x", "uploading"),
            await api.get_approval(session, "x"),
        ]
        assert none == [None] * len(none)
        for delete in (api.delete_chain, api.delete_workflow, api.delete_artifact, api.delete_transfer):
            assert await delete(session, "x") is False
        assert await api.get_artifact_versions(session, "x") == []
        assert await api.get_workflows_by_chain(session, "x") == []
        with pytest.raises(ApprovalRefused, match="E_APPROVAL_MISSING"):
            await api.approve(session, "x", "me")


async def test_S2_1_chains_newest_first_by_status_in_pages(store: RunStore) -> None:
    async with store.session() as session:
        made = [await api.create_chain(session, f"c{i}", "running" if i % 2 else "pending") for i in range(7)]
        listed = await api.list_chains(session)
        assert [c.id for c in listed] == [c.id for c in reversed(made)]
        assert [c.name for c in await api.list_chains(session, limit=2, offset=3)] == ["c3", "c2"]
        assert [c.name for c in await api.list_chains(session, status="running")] == ["c5", "c3", "c1"]
        assert await api.list_chains(session, offset=7) == []
        for limit, offset in ((0, 0), (-1, 0), (10_001, 0), (1, -1)):
            with pytest.raises(InputInvalid, match="E_PAGE"):
                await api.list_chains(session, limit, offset)
        with pytest.raises(InputInvalid, match="E_STATUS"):
            await api.list_chains(session, status="executing_level_1")
        temporal = await api.create_chain(session, "t", temporal_workflow_id="wf-1", chain_definition={"steps": []})
        assert await api.get_chain_by_temporal_id(session, "wf-1") == temporal
        assert temporal.chain_definition == {"steps": []}


async def test_S2_1_a_temporal_id_is_taken_once(store: RunStore) -> None:
    with pytest.raises(StoreFailed, match="E_DB_CONFLICT"):
        async with store.session() as session:
            await api.create_chain(session, "t", temporal_workflow_id="wf-1")
            await api.create_chain(session, "t", temporal_workflow_id="wf-1")


async def test_S2_1_workflows(store: RunStore) -> None:
    async with store.session() as session:
        chain = await api.create_chain(session, "demo")
        a = await api.create_workflow(session, "a", "gpu-1", "p-1", chain_id=chain.id, step_id="a", parameters={"n": 1})
        items = [
            await api.create_workflow(session, "b", chain_id=chain.id, step_id="b", item_index=i) for i in range(3)
        ]
        alone = await api.create_workflow(session, "alone", status="executing")
        assert await api.get_workflow_by_prompt(session, "p-1") == a
        assert await api.get_workflow_by_step(session, chain.id, "a") == a
        assert await api.get_workflow_by_step(session, chain.id, "b") is None
        assert await api.get_workflow_by_step(session, chain.id, "b", 2) == items[2]
        assert await api.get_workflows_by_chain(session, chain.id) == [a, *items]
        assert [w.id for w in await api.list_workflows(session)] == [w.id for w in reversed([a, *items, alone])]
        assert await api.list_workflows(session, status="executing") == [alone]
        assert await api.list_workflows(session, chain_id=chain.id, limit=1) == [items[2]]
        sent = await api.update_workflow_status(session, a.id, "executing", server_address="gpu-2", prompt_id="p-2")
        assert sent is not None
        assert (sent.server_address, sent.prompt_id, sent.parameters) == ("gpu-2", "p-2", {"n": 1})
        assert await api.delete_workflow(session, alone.id)
    for again in ({"step_id": "a"}, {"step_id": "b", "item_index": 1}):
        with pytest.raises(StoreFailed, match="E_DB_CONFLICT"):
            async with store.session() as session:
                await api.create_workflow(session, "x", chain_id=chain.id, **again)
    with pytest.raises(StoreFailed, match="E_DB_REFERENCE"):
        async with store.session() as session:
            await api.create_workflow(session, "x", chain_id="nothing", step_id="a")


async def test_S2_1_artifacts(store: RunStore, tmp_path: Any) -> None:
    workflow = await a_workflow(store)
    (tmp_path / "cat.png").write_bytes(b"\x89PNG picture")
    async with store.session() as session:
        first = await api.create_artifact(session, workflow, local_path=tmp_path / "cat.png")
        big = await api.create_artifact(session, workflow, "big.mp4", data=b"v" * 20_000, name="video")
        # the seed's call for an edited picture
        edited = await api.create_artifact(
            session,
            workflow_id=workflow,
            local_path=str(tmp_path / "cat.png"),
            parent_artifact_id=first.id,
            version=2,
            approval_status="approved",
            created_by="anna",
        )
        assert (first.filename, first.file_type, first.file_format, first.file_size) == ("cat.png", "image", "png", 12)
        assert (first.local_path, big.local_path is not None, big.file_type) == (None, True, "video")
        assert (edited.version, edited.approved_by, edited.is_latest) == (2, "anna", True)
        assert [a.id for a in await api.list_artifacts(session)] == [edited.id, big.id, first.id]
        assert [a.id for a in await api.list_artifacts(session, is_latest=False)] == [first.id]
        assert [a.id for a in await api.list_artifacts(session, approval_status="approved")] == [edited.id]
        assert [a.id for a in await api.list_artifacts(session, workflow_id=workflow, limit=1, offset=1)] == [big.id]
        row = await api.get_workflow(session, workflow)
        assert row is not None
        assert len(await api.list_artifacts(session, chain_id=row.chain_id)) == 3
        rejected = await api.reject_artifact(session, big.id, "ben", "too dark")
        assert rejected is not None
        assert (rejected.approval_status, rejected.rejection_reason) == ("rejected", "too dark")
        approved = await api.approve_artifact(session, big.id, "anna")
        assert approved is not None
        assert (approved.approval_status, approved.approved_by, approved.rejection_reason) == ("approved", "anna", None)


async def test_S2_1_transfers(store: RunStore) -> None:
    workflow = await a_workflow(store)
    artifact = await a_version(store, workflow)
    async with store.session() as session:
        one = await api.create_transfer(session, artifact.id, workflow, "gpu-1", target_subfolder="in")
        two = await api.create_transfer(session, artifact.id, workflow, "gpu-2")
        assert [t.id for t in await api.list_transfers(session)] == [one.id, two.id]
        for word in ("uploading", "failed", "uploading"):
            assert await api.update_transfer_status(
                session, one.id, word, error_message="lost" if word == "failed" else None
            )
        done = await api.update_transfer_status(
            session, one.id, "completed", size=1, duration_us=5, target_name="x (1).bin"
        )
        assert done is not None
        assert (done.attempt, done.bytes, done.target_name, done.error_message) == (2, 1, "x (1).bin", None)
        assert done.uploaded_at is not None
        assert await api.list_transfers(session, artifact.id, status="completed") == [done]
        assert [t.id for t in await api.list_transfers(session, limit=1, offset=1)] == [two.id]
        with pytest.raises(StoreFailed, match="E_TRANSITION"):
            await api.update_transfer_status(session, one.id, "uploading")
        assert await api.delete_transfer(session, two.id)
        assert (await api.create_transfer(session, artifact.id, workflow, "gpu-3", status="completed")).uploaded_at


async def test_S2_1_approvals_the_first_decision_stands(store: RunStore) -> None:
    workflow = await a_workflow(store)
    artifact = await a_version(store, workflow, approval_status="pending")
    async with store.session() as session:
        gate = await api.create_approval(session, workflow, [artifact.id])
        (waiting,) = await api.get_pending_approvals(session)
        assert gate.items() <= waiting.items()
        assert [(a.id, a.version, a.size) for a in waiting.artifacts] == [(artifact.id, 1, 1)]
    with pytest.raises(StoreFailed, match="E_DB_CONFLICT"):
        async with store.session() as session:
            await api.create_approval(session, workflow, [artifact.id])
    newer = await a_version(store, workflow, approval_status="edited")
    async with store.session() as session:
        with pytest.raises(ApprovalRefused, match="E_APPROVAL_STALE"):
            await api.approve(session, gate.id, "anna")
        with pytest.raises(InputInvalid, match="E_APPROVAL_BY"):
            await api.approve(session, gate.id, " ", seen=[newer.id])
        decided = await api.approve(session, gate.id, "anna", seen=[newer.id])
        assert (decided.status, decided.decided_by, decided.delivered) == ("approved", "anna", False)
        for again in (api.approve, api.reject, api.cancel_approval):
            with pytest.raises(ApprovalRefused, match="approved by anna already"):
                await again(session, gate.id, "ben")
        second = await api.create_approval(session, workflow, [newer.id])
        assert (await api.reject(session, second.id, "ben", reason="blurred")).reason == "blurred"
        found = await api.get_artifact(session, newer.id)
        assert found is not None
        assert (found.approval_status, found.rejection_reason) == ("rejected", "blurred")


async def test_records_are_the_same_functions_in_a_transaction_of_their_own(store: RunStore) -> None:
    records = Records(store)
    chain = await records.create_chain("demo", description="ü")
    assert (await records.get_chain(chain.id)).description == "ü"
    assert set(" ".join(SEED.values()).split()) <= set(dir(records))
    with pytest.raises(AttributeError, match="steal"):
        _ = getattr(records, "steal")  # noqa: B009


async def test_records_have_every_column_that_the_functions_return(store: RunStore) -> None:
    lease = await a_run(store)
    row = await a_step(store, lease)
    await a_version(store, row)
    run, records = lease.run_id, Records(store)
    gate = await records.create_approval(row, [], chain_id=run)
    assert [(item.files, item.approval) for item in await records.list_items(run, "a", after=-2)] == [(1, gate.id)]
    async with store.session() as session:
        for found, rows in (
            (await records.list_items(run, "a", after=-2), await workflows.list_items(session, run, "a", after=-2)),
            (await records.list_workflows(), await api.list_workflows(session)),
            (await records.list_chains(), await api.list_chains(session)),
            (await records.list_artifacts(), await api.list_artifacts(session)),
            (await records.list_approvals(), await api.list_approvals(session)),
            (await records.get_pending_approvals(), await api.get_pending_approvals(session)),
            ([await records.get_chain_details(run)], [await api.get_chain_details(session, run)]),
        ):
            assert len(found) == 1
            assert all(map(eq, found, rows))
            assert json.loads(json.dumps(found, default=dict)) == rows


@pytest.mark.parametrize(
    "name", ["a" * 1_000_000, "ü" * 500, "a" * 300 + ".png", "/".join("ab") * 1000, "\ud800.png", ""]
)
async def test_a_strange_file_name_costs_nothing_and_fits_everywhere(store: RunStore, name: str) -> None:
    workflow = await a_workflow(store)
    artifact = await a_version_called(store, workflow, name)
    assert 0 < len(artifact.filename.encode()) <= 200
    assert "/" not in artifact.filename
    (row,) = await store.latest_artifacts(workflow)
    assert (await store.files.path(row)).read_bytes() == b"x"


async def a_version_called(store: RunStore, workflow: str, name: str) -> api.Record:
    async with store.session() as session:
        return await api.create_artifact(session, workflow, name, data=b"x")
