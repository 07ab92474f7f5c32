"""Rows of chains and workflows under the seed's names: S5.7, S6.1, T2, T3, T7, T8."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from towpath.adapters.activities import (
    create_chain_record,
    create_workflow_record,
    get_workflow_artifacts,
    update_chain_status_activity,
    update_workflow_status_activity,
)
from towpath.errors import InputInvalid, StoreFailed
from towpath.store import RunStore, create_artifact, get_chain, get_workflow, list_chains, list_workflows, open_store

pytestmark = pytest.mark.anyio


async def test_S5_7_the_seeds_flow(store: RunStore) -> None:
    """The executor's calls, word for word."""
    chain = await create_chain_record("video", "temporal-1", "run-1", {"name": "video"}, "two steps", store=store)
    await update_chain_status_activity(chain, "executing_level_0", 0, store=store)
    workflow = await create_workflow_record(
        "imageSave", "http://gpu-1:8188", "pending", chain, "frame", "temporal-1-frame", None, {"1": {}}, {"w": 1},
        store=store,
    )  # fmt: skip
    async with store.session() as session:
        row = await get_workflow(session, workflow)
    assert row is not None
    assert (row.status, row.prompt_id, row.step_id, row.parameters) == ("queued", None, "frame", {"w": 1})
    await update_workflow_status_activity(workflow, "executing", prompt_id="p-1", store=store)
    async with store.session() as session:
        first = await create_artifact(session, workflow, "a.png", data=b"a", name="2.image[0]")
        second = await create_artifact(session, workflow, "b.png", data=b"b", name="1.image[0]")
    assert await get_workflow_artifacts(workflow, store=store) == [first["id"], second["id"]]
    await update_workflow_status_activity(workflow, "completed", store=store)
    await update_chain_status_activity(chain, "executing_level_1", store=store)
    await update_chain_status_activity(chain, "completed", store=store)
    async with store.session() as session:
        row, run = await get_workflow(session, workflow), await get_chain(session, chain)
    assert row is not None
    assert run is not None
    assert (row.status, row.prompt_id) == ("completed", "p-1")
    assert row.queued_at <= row.started_at <= row.completed_at
    assert (run.status, run.current_level, run.chain_definition) == ("completed", 1, {"name": "video"})


async def test_S5_7_a_repeated_create_gives_the_row_made_then(store: RunStore) -> None:
    chains = {await create_chain_record("video", "temporal-1", "run-1", store=store) for _ in range(3)}
    (chain,) = chains
    steps = {await create_workflow_record("w", None, None, chain, "a", store=store) for _ in range(3)}
    alone = {await create_workflow_record("w", store=store, idempotency_key="k") for _ in range(3)}
    assert (len(steps), len(alone)) == (1, 1)
    assert len({await create_workflow_record("w", store=store) for _ in range(2)}) == 2
    async with store.session() as session:
        assert len(await list_chains(session)) == 1
        assert len(await list_workflows(session)) == 4


async def test_S5_7_creates_at_the_same_moment_make_one_row(store: RunStore) -> None:
    made: set[str] = set()

    async def call() -> None:
        chain = await create_chain_record("video", "temporal-1", "run-1", store=store)
        made.add(await create_workflow_record("w", None, None, chain, "a", store=store))

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(call)
    assert len(made) == 1


async def test_S5_7_a_status_that_cannot_be_written_is_an_error(store: RunStore) -> None:
    chain = await create_chain_record("video", store=store)
    workflow = await create_workflow_record("w", store=store)
    await update_workflow_status_activity(workflow, "failed", "why", store=store)
    for call, code in (
        (update_workflow_status_activity(workflow, "executing", store=store), "E_TRANSITION"),
        (update_workflow_status_activity("nobody", "executing", store=store), "E_DB_REFERENCE"),
        (update_chain_status_activity("nobody", "running", store=store), "E_DB_REFERENCE"),
        (get_workflow_artifacts("nobody", store=store), "E_DB_REFERENCE"),
        (create_workflow_record("w", chain_id="nobody", step_id="a", store=store), "E_DB_REFERENCE"),
    ):
        with pytest.raises(StoreFailed) as raised:
            await call
        assert raised.value.code == code
    with pytest.raises(InputInvalid) as invalid:
        await update_chain_status_activity(chain, "executing_level_x", store=store)
    assert invalid.value.code == "E_STATUS"


class Lock:
    """The write lock of a database, held by somebody else."""

    def __init__(self, path: Path, seconds: float) -> None:
        self._path, self._seconds = path, seconds
        self._held, self._free = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._hold)

    def _hold(self) -> None:
        with closing(sqlite3.connect(self._path, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            self._held.set()
            self._free.wait(self._seconds)
            database.execute("ROLLBACK")

    def __enter__(self) -> None:
        self._thread.start()
        assert self._held.wait(60)

    def __exit__(self, *_: object) -> None:
        self._free.set()
        self._thread.join()


@pytest.mark.parametrize(("seconds", "written"), [(0.8, True), (60.0, False)], ids=["for a while", "for long"])
async def test_S5_7_a_busy_database_is_tried_again_and_then_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, written: bool
) -> None:
    from towpath.adapters.activities import database_operations

    if not written:
        monkeypatch.setattr(database_operations, "WAITS", (0.01, 0.02))
    async with open_store(tmp_path / "busy.db", durability="normal", busy_timeout=0.2) as store:
        workflow = await create_workflow_record("w", store=store)
        with Lock(Path(store.database.identity), seconds):
            if written:
                await update_workflow_status_activity(workflow, "executing", store=store)
            else:
                with pytest.raises(StoreFailed) as raised:
                    await update_workflow_status_activity(workflow, "executing", store=store)
                assert raised.value.code == "E_DB_BUSY"
        async with store.session() as session:
            row = await get_workflow(session, workflow)
        assert row is not None
        assert row.status == ("executing" if written else "queued")


async def test_without_a_store_it_is_the_configured_one(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "towpath.toml").write_text('store = "sqlite:///mine.db"\n')
    chain = await create_chain_record("video")
    assert (here / "mine.db").exists()
    monkeypatch.setenv("TOWPATH_STORE", f"sqlite:///{here}/other.db")
    assert await create_chain_record("video") != chain
    assert (here / "other.db").exists()
    monkeypatch.delenv("TOWPATH_STORE")
    await update_chain_status_activity(chain, "running")
    async with open_store(here / "mine.db") as store, store.session() as session:
        row = await get_chain(session, chain)
    assert row is not None
    assert row.status == "running"
