"""Files of servers, into a folder and into the store: S5.1 to S5.3, S5.6, S7.1."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.activities.made import bytes_of, files_below, large, outputs, stored
from tests.comfyui.graphs import EMPTY, Graph, node, painted
from tests.comfyui.running import ROOT, ComfyServer
from tests.comfyui.server.contents import saved_digest
from towpath.adapters.activities import (
    create_workflow_record,
    download_and_store_artifacts,
    download_and_store_images,
)
from towpath.errors import ServerFailed, StoreFailed
from towpath.store import RunStore, get_artifact, get_artifacts_by_workflow, get_workflow

pytestmark = pytest.mark.anyio

FIELDS = "filename original_filename local_path node_id server_address file_size file_type file_format downloaded_at"
BATCH: Graph = {
    "1": node("EmptyImage", **{**EMPTY, "batch_size": 3}),
    "2": node("SaveImage", images=["1", 0], filename_prefix="batch"),
    "3": node("PreviewAny", source="a word"),
}
HOSTILE = ["../../x.png", "/etc/passwd", "C:\\x.png", "nul", "a\u202egnp.exe", "x" * 300 + ".png", "", "..", "~root"]


async def rows(store: RunStore, workflow: str) -> list[dict[str, Any]]:
    async with store.session() as session:
        return [dict(row) for row in await get_artifacts_by_workflow(session, workflow, True)]


def blob_files(store: RunStore) -> list[str]:
    return files_below(store.files.blobs.root)


# ---- into a folder


async def test_S5_3_without_a_database_each_file_under_a_name_of_its_own(one: ComfyServer, here: Path) -> None:
    found = await outputs(one, BATCH)
    first = await download_and_store_images(one.url, found)
    again = await download_and_store_images(one.url, found, folder=here / "deep" / "er")
    assert [set(FIELDS.split()) - set(entry) for entry in first] == [set()] * 4
    assert all("artifact_id" not in entry for entry in first)
    assert len({entry["local_path"] for entry in first + again}) == 8
    for entry in first + again:
        data = bytes_of(entry["local_path"])
        assert (len(data), hashlib.sha256(data).hexdigest()) == (entry["file_size"], entry["sha256"])
        assert entry["filename"] == Path(entry["local_path"]).name
    assert [entry["file_type"] for entry in first] == ["image"] * 3 + ["text"]
    assert bytes_of(first[3]["local_path"]) == b"a word"
    assert len(files_below(here / "artifacts")) == 4
    assert not [name for name in files_below(here) if name.endswith(".db")]


async def test_S5_3_a_failed_download_is_told_for_its_file(one: ComfyServer, here: Path) -> None:
    found = await outputs(one, BATCH)
    found[1]["filename"] = "gone.png"
    brought = await download_and_store_images(one.url, found)
    assert [entry.get("code") for entry in brought] == [None, "E_OUTPUT_MISSING", None, None]
    failed = brought[1]
    assert failed["original_filename"] == "gone.png"
    assert failed["error"]
    assert failed["retryable"] is True
    assert len(files_below(here / "artifacts")) == 3


async def test_S5_3_a_page_under_the_name_of_a_picture_is_no_picture(one: ComfyServer, here: Path) -> None:
    found = await outputs(one, painted())
    one.control(view_html=1)
    (brought,) = await download_and_store_images(one.url, found)
    assert brought["code"] == "E_ARTIFACT_TYPE"
    assert not files_below(here / "artifacts")


async def test_S7_1_with_a_workflow_the_files_are_artifacts(one: ComfyServer, store: RunStore, here: Path) -> None:
    workflow = await create_workflow_record("standalone", store=store)
    brought = await download_and_store_images(one.url, await outputs(one, painted()), workflow, store=store)
    assert [row["id"] for row in await rows(store, workflow)] == [brought[0]["artifact_id"]]
    assert not (here / "artifacts").exists()


@pytest.mark.parametrize("name", HOSTILE)
async def test_S5_6_a_servers_name_never_leads_out_of_the_folder(
    one: ComfyServer, store: RunStore, here: Path, tmp_path: Path, name: str
) -> None:
    (one.folder / "output" / "real.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"x" * 20_000)
    before = set(files_below(tmp_path))
    entry = {"filename": name, "subfolder": "", "type": "output", "node_id": "../7"}
    (brought,) = await download_and_store_images(one.url, [entry])
    assert brought["code"].startswith("E_"), "there is no such file"
    assert set(files_below(tmp_path)) == before
    # The same name, and bytes behind it.
    workflow = await create_workflow_record("w", store=store)
    text = {**entry, "text": "words", "type": ""}
    (brought,) = await download_and_store_images(one.url, [text])
    assert Path(brought["local_path"]).parent == here / "artifacts"
    await download_and_store_artifacts(workflow, one.url, [text], store=store)


async def test_S5_6_a_name_that_no_file_can_have_is_replaced(one: ComfyServer, store: RunStore, here: Path) -> None:
    data = b"\x89PNG\r\n\x1a\n" + b"x" * 20_000
    names = ["CON.png", "a\u202egnp.png", ".hidden.png", "a:b.png"]
    for name in names:
        (one.folder / "output" / name).write_bytes(data)
    entries = [{"filename": name, "subfolder": "", "type": "output", "node_id": "9"} for name in names]
    brought = await download_and_store_images(one.url, entries)
    assert [entry["original_filename"] for entry in brought] == names
    assert all(Path(entry["local_path"]).name.isascii() for entry in brought), brought
    workflow = await create_workflow_record("w", store=store)
    kept = await download_and_store_artifacts(workflow, one.url, entries, store=store)
    assert {row["filename"] for row in await rows(store, workflow)} <= {"node-9.png"}
    assert len({entry["artifact_id"] for entry in kept}) == 4


# ---- into the store


async def test_S5_1_every_file_has_its_row_with_digest_size_and_origin(one: ComfyServer, store: RunStore) -> None:
    workflow, brought = await stored(store, one, BATCH)
    assert [set(FIELDS.split()) - set(entry) for entry in brought] == [set()] * 4
    assert [entry["name"] for entry in brought] == ["2.image[0]", "2.image[1]", "2.image[2]", "3.text[0]"]
    for entry in brought:
        async with store.session() as session:
            row = await get_artifact(session, entry["artifact_id"])
        assert row is not None
        assert (row.sha256, row.file_size) == (entry["sha256"], entry["file_size"])
        assert row.node_id == entry["node_id"]
        assert row.is_latest
        if entry["node_id"] == "2":
            assert row.subfolder.startswith("towpath/")
            assert row.comfy_folder_type == "output"
            served = (one.folder / "output" / row.subfolder / entry["original_filename"]).read_bytes()
            assert hashlib.sha256(served).hexdigest() == row.sha256
    async with store.session() as session:
        found = await get_workflow(session, workflow)
    assert found is not None
    assert found.latest_artifact_id == brought[0]["artifact_id"]


async def test_S5_1_a_large_file_has_a_blob(one: ComfyServer, store: RunStore) -> None:
    _, (brought,) = await stored(store, one, large(3_000_000))
    assert brought["sha256"] == saved_digest(3_000_000, 1, "mp4")
    assert hashlib.sha256(bytes_of(brought["local_path"])).hexdigest() == brought["sha256"]
    assert brought["file_type"] == "video"
    assert brought["filename"] == Path(brought["local_path"]).name


@pytest.mark.parametrize(
    "fault",
    [{"view_empty": 9}, {"view_html": 9}, {"view_cut_after": 0, "view_cuts": 99}],
    ids=lambda f: next(iter(f)),
)
async def test_S5_1_any_failure_raises_and_leaves_nothing(
    one: ComfyServer, store: RunStore, fault: dict[str, int]
) -> None:
    found = [*await outputs(one, large(100_000, filename_prefix="a")), *await outputs(one, large(90_000, seed=2))]
    workflow = await create_workflow_record("w", store=store)
    one.control(**fault)
    with pytest.raises(ServerFailed):
        await download_and_store_artifacts(workflow, one.url, found, store=store)
    assert await rows(store, workflow) == []
    assert [name for name in blob_files(store) if name.startswith("tmp")] == []


async def test_S5_1_one_missing_file_and_no_row_for_any(one: ComfyServer, store: RunStore) -> None:
    found = await outputs(one, BATCH)
    found[2]["filename"] = "gone.png"
    workflow = await create_workflow_record("w", store=store)
    with pytest.raises(ServerFailed) as raised:
        await download_and_store_artifacts(workflow, one.url, found, store=store)
    assert raised.value.code == "E_OUTPUT_MISSING"
    assert await rows(store, workflow) == []


async def test_S5_1_a_workflow_that_is_not_there_is_told_before_anything_is_fetched(
    one: ComfyServer, store: RunStore
) -> None:
    found = await outputs(one, painted())
    with pytest.raises(StoreFailed) as raised:
        await download_and_store_artifacts("nobody", one.url, found, store=store)
    assert raised.value.code == "E_DB_REFERENCE"
    assert one.log("/view") == []


async def test_S5_2_twice_gives_the_same_artifacts_without_a_second_download(one: ComfyServer, store: RunStore) -> None:
    workflow, first = await stored(store, one, painted())
    found = [
        {"filename": e["original_filename"], "subfolder": row["subfolder"], "type": "output", "node_id": e["node_id"]}
        for e, row in zip(first, await rows(store, workflow), strict=True)
    ]
    assert await download_and_store_artifacts(workflow, one.url, found, store=store) == first
    assert len(one.log("/view")) == 1
    assert len(await rows(store, workflow)) == 1


async def test_S5_2_two_calls_at_once_give_one_row_each(one: ComfyServer, store: RunStore) -> None:
    found = await outputs(one, BATCH)
    workflow = await create_workflow_record("w", store=store)
    results: list[list[dict[str, Any]]] = []

    async def call() -> None:
        results.append(await download_and_store_artifacts(workflow, one.url, found, store=store))

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(call)
    assert [r == results[0] for r in results] == [True] * 4
    assert len(await rows(store, workflow)) == 4


async def test_the_files_of_a_second_prompt_are_new_versions(one: ComfyServer, store: RunStore) -> None:
    workflow, (first,) = await stored(store, one, painted())
    second_files = await outputs(one, painted(color=7))
    (second,) = await download_and_store_artifacts(workflow, one.url, second_files, store=store)
    assert (first["name"], first["version"]) == ("2.image[0]", 1)
    assert (second["name"], second["version"]) == ("2.image[0]", 2)


KILLED = """
import json, os, signal, sys
import anyio
from towpath.adapters.activities import download_artifacts_db as module
from towpath.store import open_store
from pathlib import Path

path, workflow, url, files, when = sys.argv[1:]
create, made = module.create_artifact, []

async def killing(*args, **more):
    made.append(await create(*args, **more))
    if len(made) == int(when):
        os.kill(os.getpid(), signal.SIGKILL)
    return made[-1]

async def main():
    async with open_store(Path(path)) as store:
        found = await module.download_and_store_artifacts(workflow, url, json.loads(files), store=store)
        print(json.dumps(found))

if when != "0":
    module.create_artifact = killing
anyio.run(main)
"""


@pytest.mark.parametrize("when", [1, 4])
async def test_S5_2_killed_between_write_and_commit(one: ComfyServer, store: RunStore, when: int) -> None:
    found = await outputs(one, BATCH) + await outputs(one, large(50_000))
    workflow = await create_workflow_record("w", store=store)

    def run(kill: int) -> subprocess.CompletedProcess[str]:
        words = [str(store.database.identity), workflow, one.url, json.dumps(found), str(kill)]
        command = [sys.executable, "-c", KILLED, *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=os.getcwd())

    killed = await anyio.to_thread.run_sync(run, when)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert await rows(store, workflow) == []
    again = await anyio.to_thread.run_sync(run, 0)
    assert again.returncode == 0, again.stderr
    once = json.loads(again.stdout)
    assert await download_and_store_artifacts(workflow, one.url, found, store=store) == once
    assert len(await rows(store, workflow)) == 5
    assert len(blob_files(store)) == 1, "one blob of the one large file"


GROWTH = """
import json, resource, sys
from pathlib import Path
import anyio
from towpath.adapters.activities import create_workflow_record, download_and_store_artifacts
from towpath.store import open_store

async def main():
    url, files, small = sys.argv[2], json.loads(sys.argv[3]), json.loads(sys.argv[4])
    async with open_store(Path(sys.argv[1]), durability="normal") as store:
        workflow = await create_workflow_record("w", store=store)
        await download_and_store_artifacts(workflow, url, small, store=store)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found = await download_and_store_artifacts(workflow, url, files, store=store)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(json.dumps([grown * 1024, found[0]["sha256"], found[0]["file_size"]]))

anyio.run(main)
"""


@pytest.mark.parametrize("size", [192 << 20, pytest.param(1 << 30, marks=pytest.mark.full)], ids=["192 MiB", "1 GiB"])
async def test_S5_1_memory_stays_bounded(one: ComfyServer, tmp_path: Path, size: int) -> None:
    """At most 48 MiB more than a small file takes."""
    small, found = await outputs(one, painted()), await outputs(one, large(size))
    words = [str(tmp_path / "grown.db"), one.url, json.dumps(found), json.dumps(small)]

    def run() -> str:
        command = [sys.executable, "-c", GROWTH, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout

    grown, digest, kept = json.loads(await anyio.to_thread.run_sync(run))
    assert (digest, kept) == (saved_digest(size, 1, "mp4"), size)
    assert grown < 48 << 20
