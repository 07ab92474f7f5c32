"""Artifacts on their way to servers: S5.4, S5.5, S6.5, H6, F2, T5, T6, T10."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.activities.made import bytes_of, files_below, large, outputs, received, stored, transfers
from tests.comfyui.graphs import inverted, painted
from tests.comfyui.running import ComfyServer, comfy_server
from tests.comfyui.talking import Client
from towpath.adapters.activities import (
    create_chain_record,
    create_workflow_record,
    execute_and_track_workflow,
    get_workflow_artifacts,
    transfer_artifacts_from_storage,
    transfer_outputs_to_input,
    transfer_rows,
)
from towpath.errors import ServerFailed, StoreFailed
from towpath.store import Record, RunStore, create_artifact, list_transfers, reject_artifact

pytestmark = pytest.mark.anyio

BIG = 9_000_000  # more than is checked in memory before it is sent


def uploads(server: ComfyServer) -> list[dict[str, Any]]:
    return server.log("/upload/image", "POST")


async def test_S5_4_the_consumer_gets_exactly_the_name_that_the_server_returned(
    one: ComfyServer, two: ComfyServer, store: RunStore
) -> None:
    workflow, (made,) = await stored(store, one, painted())
    consumer = await create_workflow_record("inverted", store=store)
    two.control(upload_rename=True)
    (name,) = await transfer_artifacts_from_storage(workflow, two.url, ["latest"], consumer, store=store)
    assert "/renamed_" in name
    assert hashlib.sha256(received(two, name)).hexdigest() == made["sha256"]
    done = await execute_and_track_workflow(two.url, inverted(name))
    assert done["status"] == "completed", done


@pytest.mark.parametrize("size", [0, 40_000, BIG])
async def test_T6_rows_go_from_pending_over_uploading_to_completed(
    one: ComfyServer, two: ComfyServer, store: RunStore, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def noted(function: Callable[..., Awaitable[Record]]) -> Callable[..., Awaitable[Record]]:
        async def noting(*args: Any, **more: Any) -> Record:
            row = await function(*args, **more)
            seen.append(row.status)
            return row

        return noting

    for name in ("update_transfer_status", "create_transfer"):
        monkeypatch.setattr(transfer_rows, name, noted(getattr(transfer_rows, name)))
    source = await create_workflow_record("source", store=store)
    data = b"\x07" * size
    async with store.session() as session:
        artifact = await create_artifact(session, source, "in.bin", data=data)
    target = await create_workflow_record("target", store=store)
    (name,) = await transfer_artifacts_from_storage(source, two.url, [artifact["id"]], target, store=store)
    assert seen == ["pending", "uploading", "completed"]
    (row,) = await transfers(store)
    assert (row["status"], row["target_name"], row["bytes"]) == ("completed", name, size)
    assert (row["artifact_id"], row["source_workflow_id"], row["target_workflow_id"]) == (
        artifact["id"],
        source,
        target,
    )
    assert row["duration_us"] > 0
    assert row["uploaded_at"] is not None
    assert received(two, name) == data


async def test_T5_F2_the_source_server_is_not_needed(
    store: RunStore, two: ComfyServer, tmp_path: Path, here: Path
) -> None:
    with comfy_server(tmp_path / "gone") as source:
        files = await outputs(source, painted())
        workflow, _ = await stored(store, source, painted())
        url = source.url
    (name,) = await transfer_artifacts_from_storage(workflow, two.url, ["latest"], store=store)
    assert received(two, name)
    (here / "towpath.toml").write_text("[comfyui]\nunreachable = 0.2\n")
    with pytest.warns(DeprecationWarning, match="deprecated"), pytest.raises(ServerFailed) as raised:
        await transfer_outputs_to_input(url, two.url, files)
    assert raised.value.code == "E_SERVER_UNREACHABLE"


async def test_S5_4_latest_is_every_output_and_ids_keep_their_order(
    one: ComfyServer, two: ComfyServer, store: RunStore
) -> None:
    graph = {**painted(batch_size=3), **{f"1{k}": v for k, v in large(30_000).items()}}
    workflow, made = await stored(store, one, graph)
    assert len(made) == 4
    names = await transfer_artifacts_from_storage(workflow, two.url, ["latest"], store=store)
    assert len(set(names)) == 4
    ids = [entry["artifact_id"] for entry in reversed(made)]
    named = await transfer_artifacts_from_storage(workflow, two.url, ids, store=store)
    assert sorted(named) == sorted(names)
    for entry, name in zip(reversed(made), named, strict=True):
        assert hashlib.sha256(received(two, name)).hexdigest() == entry["sha256"]
    assert sorted(await get_workflow_artifacts(workflow, store=store)) == sorted(ids)


async def test_S6_5_it_is_not_sent_again_while_the_server_has_it(
    one: ComfyServer, two: ComfyServer, store: RunStore
) -> None:
    workflow, _ = await stored(store, one, painted())
    first = await transfer_artifacts_from_storage(workflow, two.url, ["latest"], store=store)
    consumers = [await create_workflow_record(f"c{n}", store=store) for n in range(2)]
    for consumer in consumers:
        assert await transfer_artifacts_from_storage(workflow, two.url, ["latest"], consumer, store=store) == first
    assert await transfer_artifacts_from_storage(workflow, two.url, ["latest"], store=store) == first
    assert len(uploads(two)) == 1
    rows = await transfers(store)
    assert [row["status"] for row in rows] == ["completed"] * 3, "one for each target, however often it is asked for"
    assert [row["bytes"] for row in rows[1:]] == [0, 0]
    (two.folder / "input" / first[0]).unlink()
    assert await transfer_artifacts_from_storage(workflow, two.url, ["latest"], store=store) == first
    assert received(two, first[0])


async def test_S6_5_many_consumers_at_once_send_it_once(one: ComfyServer, two: ComfyServer, store: RunStore) -> None:
    workflow, _ = await stored(store, one, large(500_000))
    consumers = [await create_workflow_record(f"c{n}", store=store) for n in range(6)]
    names: list[str] = []

    async def call(consumer: str) -> None:
        names.extend(await transfer_artifacts_from_storage(workflow, two.url, ["latest"], consumer, store=store))

    async with anyio.create_task_group() as tasks:
        for consumer in consumers:
            tasks.start_soon(call, consumer)
    assert len(set(names)) == 1
    assert len(uploads(two)) == 1
    assert {row["target_workflow_id"] for row in await transfers(store)} == set(consumers)


async def test_S5_5_two_files_of_one_name_arrive_as_two(one: ComfyServer, two: ComfyServer, store: RunStore) -> None:
    """Two chains at once, each with a `ComfyUI_00001_.png` of its own."""
    sources: list[tuple[str, dict[str, Any]]] = []
    for color in (1, 2):
        chain = await create_chain_record(f"chain {color}", store=store)
        workflow = await create_workflow_record("w", chain_id=chain, step_id="s", store=store)
        async with store.session() as session:
            data = bytes([color]) * 20_000
            made = await create_artifact(session, workflow, "ComfyUI_00001_.png", data=data)
        sources.append((workflow, made))
    names: dict[str, str] = {}

    async def call(workflow: str) -> None:
        (names[workflow],) = await transfer_artifacts_from_storage(workflow, two.url, ["latest"], store=store)

    async with anyio.create_task_group() as tasks:
        for workflow, _ in sources:
            tasks.start_soon(call, workflow)
    for workflow, row in sources:
        assert hashlib.sha256(received(two, names[workflow])).hexdigest() == row["sha256"]
    assert len(set(names.values())) == 2


async def test_S5_4_what_is_not_there_is_an_error_and_nothing_is_sent(
    one: ComfyServer, two: ComfyServer, store: RunStore
) -> None:
    workflow, (made,) = await stored(store, one, painted())
    _, (strange,) = await stored(store, one, painted(color=3))
    empty = await create_workflow_record("empty", store=store)
    for call in (
        (workflow, two.url, [made["artifact_id"], "nothing"]),
        (workflow, two.url, [strange["artifact_id"]]),
        ("nobody", two.url, ["latest"]),
        (empty, two.url, ["latest"]),
        (workflow, two.url, ["latest"], "nobody"),
    ):
        with pytest.raises(StoreFailed) as raised:
            await transfer_artifacts_from_storage(*call, store=store)
        assert raised.value.code == "E_DB_REFERENCE"
    assert uploads(two) == []
    assert await transfers(store) == []


async def test_H6_a_rejected_artifact_is_sent_nowhere(one: ComfyServer, two: ComfyServer, store: RunStore) -> None:
    workflow, made = await stored(store, one, painted(batch_size=2))
    async with store.session() as session:
        await reject_artifact(session, made[1]["artifact_id"], "somebody", "too dark")
    for ids in (["latest"], [made[1]["artifact_id"]]):
        with pytest.raises(ServerFailed) as raised:
            await transfer_artifacts_from_storage(workflow, two.url, ids, store=store)
        assert raised.value.code == "E_ARTIFACT_REJECTED"
    assert uploads(two) == []
    assert len(await transfer_artifacts_from_storage(workflow, two.url, [made[0]["artifact_id"]], store=store)) == 1


def damage(blob: Path) -> None:
    """Flip one bit in the middle of a blob."""
    data = bytearray(bytes_of(blob))
    data[50_000] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(data)


@pytest.mark.parametrize("size", [100_000, BIG])
async def test_S5_4_a_damaged_blob_is_not_sent(one: ComfyServer, two: ComfyServer, tmp_path: Path, size: int) -> None:
    from towpath.store import open_store

    async with open_store(tmp_path / "damaged.db", durability="normal") as store:
        workflow, (made,) = await stored(store, one, large(size))
        damage(Path(made["local_path"]))
        with pytest.raises(StoreFailed) as raised:
            await transfer_artifacts_from_storage(workflow, two.url, ["latest"], store=store)
        assert raised.value.code == "E_BLOB_CORRUPT"
        async with store.session() as session:
            (row,) = await list_transfers(session)
        assert row["status"] == "failed"
        assert row["error_message"]
    assert not files_below(two.folder / "input")


async def test_T6_a_failure_is_recorded_and_the_next_call_mends_it(
    one: ComfyServer, two: ComfyServer, store: RunStore
) -> None:
    workflow, _ = await stored(store, one, painted(batch_size=3))
    two.control(upload_status=413, upload_status_times=1)
    with pytest.raises(ServerFailed) as raised:
        await transfer_artifacts_from_storage(workflow, two.url, ["latest"], store=store)
    assert raised.value.code == "E_UPLOAD_TOO_LARGE"
    rows = await transfers(store)
    assert {row["status"] for row in rows} <= {"failed", "completed"}, "no row waits for a call that is over"
    assert "failed" in {row["status"] for row in rows}
    names = await transfer_artifacts_from_storage(workflow, two.url, ["latest"], store=store)
    assert len(names) == 3
    assert [row["status"] for row in await transfers(store)] == ["completed"] * 3


async def test_T6_a_cancelled_transfer_leaves_no_row_waiting(
    one: ComfyServer, two: ComfyServer, store: RunStore
) -> None:
    workflow, _ = await stored(store, one, painted())
    two.control(answer_delay=5.0, only_path="/upload")
    with anyio.move_on_after(0.7):
        await transfer_artifacts_from_storage(workflow, two.url, ["latest"], store=store)
    (row,) = await transfers(store)
    assert (row["status"], row["error_message"]) == ("failed", "the transfer was cancelled")


# ---- from server to server


async def test_T10_the_old_way_still_works_and_warns(one: ComfyServer, two: ComfyServer, here: Path) -> None:
    files = [*await outputs(one, painted()), *await outputs(one, large(BIG))]
    with pytest.warns(DeprecationWarning, match="transfer_artifacts_from_storage") as warned:
        names = await transfer_outputs_to_input(one.url, two.url, files)
    assert warned[0].filename == __file__
    for entry, name in zip(files, names, strict=True):
        served = (one.folder / "output" / entry["subfolder"] / entry["filename"]).read_bytes()
        assert received(two, name) == served
    with Client(two) as client:
        place = {"filename": Path(names[0]).name, "subfolder": str(Path(names[0]).parent), "type": "input"}
        assert client.view(place).status_code == 200
    assert not [name for name in files_below(here) if not name.endswith(".jsonl")], "nothing is kept"


async def test_T10_a_file_that_is_gone_is_an_error(one: ComfyServer, two: ComfyServer) -> None:
    files = await outputs(one, painted())
    files[0]["filename"] = "gone.png"
    with pytest.warns(DeprecationWarning, match="deprecated"), pytest.raises(ServerFailed) as raised:
        await transfer_outputs_to_input(one.url, two.url, files)
    assert raised.value.code == "E_OUTPUT_MISSING"
    assert uploads(two) == []
