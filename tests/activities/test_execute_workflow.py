"""One workflow on one server, and the log of it: S4.3, S7.3, T9."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.activities.made import bytes_of, files_below, outputs
from tests.comfyui.graphs import EMPTY, node, painted, slow, through
from tests.comfyui.running import ComfyServer
from tests.comfyui.talking import Client
from towpath.adapters.activities import (
    create_execution_log,
    download_and_store_images,
    execute_and_track_workflow,
    get_server_output_files,
    select_best_server,
)
from towpath.errors import InputInvalid, ServerFailed

pytestmark = pytest.mark.anyio


def events(path: Path) -> list[str]:
    """The events of the one log below a folder."""
    (log,) = (path / "prompts").iterdir()
    return [json.loads(line)["event"] for line in log.read_text().splitlines()]


def prompts(server: ComfyServer) -> list[dict[str, Any]]:
    return [line["body"] for line in server.log("/prompt", "POST")]


async def test_T9_a_standalone_workflow_works_without_any_database(one: ComfyServer, here: Path) -> None:
    address = await select_best_server(servers=[one.url])
    done = await execute_and_track_workflow(address, painted(), "painted")
    assert done["status"] == "completed"
    assert done["server_address"] == one.url
    files = await get_server_output_files(address, done)
    (picture,) = await download_and_store_images(address, files)
    assert bytes_of(picture["local_path"]).startswith(b"\x89PNG")
    kinds = {Path(name).suffix for name in files_below(here)}
    assert kinds == {".png", ".jsonl"}, "no database, no part of a file"


async def test_S4_3_the_log_of_a_success_with_progress(one: ComfyServer, here: Path) -> None:
    told: list[tuple[float, float | None]] = []
    done = await execute_and_track_workflow(
        one.url, slow(0.5), logs="logs", on_progress=lambda done, total: told.append((done, total))
    )
    assert done["status"] == "completed"
    assert told[-1] == (10, 10)
    found = events(here / "logs")
    assert found[:2] == ["server.selected", "workflow.submitted"]
    assert "workflow.queued" in found  # a node may begin before the answer is here
    assert "node.executing" in found
    assert found[-2:] == ["history.complete", "workflow.success"]


async def test_S4_3_S7_3_a_failing_node_is_a_value_that_names_it(one: ComfyServer, here: Path) -> None:
    done = await execute_and_track_workflow(one.url, through("Fail", message="too dark"), logs="logs")
    assert (done["status"], done["code"], done["retryable"]) == ("failed", "E_NODE_FAILED", False)
    assert "node 2" in done["nodes"][0]
    assert "too dark" in done["error"]
    assert "outputs" not in done
    assert events(here / "logs")[-1] == "workflow.failed"


async def test_S7_3_a_refused_workflow_is_a_value_and_sent_once(one: ComfyServer) -> None:
    graph = painted()
    graph["1"]["inputs"]["width"] = "wide"
    done = await execute_and_track_workflow(one.url, graph)
    assert (done["status"], done["code"]) == ("failed", "E_PROMPT_INVALID")
    assert "node 1" in done["nodes"][0]
    assert len(prompts(one)) == 1


async def test_outputs_that_would_be_left_out_are_a_failure(one: ComfyServer) -> None:
    one.control(prompt_node_errors=1)
    done = await execute_and_track_workflow(one.url, painted())
    assert (done["status"], done["code"]) == ("failed", "E_PROMPT_PARTIAL")


async def test_nothing_made_is_a_failure(one: ComfyServer) -> None:
    graph = {
        "1": node("EmptyImage", **EMPTY),
        "2": node("SaveImageWebsocket", images=["1", 0]),
    }
    done = await execute_and_track_workflow(one.url, graph)
    assert (done["status"], done["code"]) == ("failed", "E_NO_OUTPUT")


async def test_a_known_prompt_is_followed_and_not_sent_again(one: ComfyServer) -> None:
    prompt_id = str(uuid.uuid4())
    with Client(one) as client:
        client.queue(slow(0.5), prompt_id=prompt_id)
    first = await execute_and_track_workflow(one.url, slow(0.5), prompt_id=prompt_id)
    again = await execute_and_track_workflow(one.url, slow(0.5), prompt_id=prompt_id.upper())
    assert first == again
    assert first["status"] == "completed"
    assert len(prompts(one)) == 1


async def test_a_prompt_whose_answer_was_lost_is_not_sent_again(one: ComfyServer) -> None:
    one.control(drop_prompt_answer=1)
    done = await execute_and_track_workflow(one.url, painted())
    assert done["status"] == "completed"
    assert len(prompts(one)) == 1


async def test_every_prompt_saves_into_a_folder_of_its_own(one: ComfyServer) -> None:
    first, second = await outputs(one, painted()), await outputs(one, painted())
    assert first[0]["filename"] == second[0]["filename"]
    assert first[0]["subfolder"] != second[0]["subfolder"]
    assert first[0]["subfolder"].startswith("towpath/")


async def test_S4_3_cancelling_the_call_cancels_its_prompt_and_no_other(one: ComfyServer, here: Path) -> None:
    prompt_id = str(uuid.uuid4())
    with Client(one) as client:
        other = client.queue(slow(0.5, seed=1))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(
                lambda: execute_and_track_workflow(one.url, slow(30, seed=2), prompt_id=prompt_id, logs="logs")
            )
            await anyio.to_thread.run_sync(client.ended, other)
            await anyio.to_thread.run_sync(client.starts, prompt_id)
            tasks.cancel_scope.cancel()
        ended = client.ended(prompt_id)
        assert "execution_interrupted" in [kind for kind, _ in ended["status"]["messages"]]
        assert client.ended(other)["status"]["status_str"] == "success"
    assert events(here / "logs")[-1] == "workflow.cancelled"


async def test_too_slow_is_a_failure_and_cancelled(one: ComfyServer, here: Path) -> None:
    done = await execute_and_track_workflow(one.url, slow(30), timeout=0.7, logs="logs")
    assert (done["status"], done["code"]) == ("failed", "E_STEP_TIMEOUT")
    assert events(here / "logs")[-1] == "workflow.failed"
    with Client(one) as client:
        client.idle()


async def test_trouble_with_the_server_is_raised(one: ComfyServer, here: Path, tmp_path: Path) -> None:
    (here / "towpath.toml").write_text("[comfyui]\nunreachable = 0.5\nlost = 0.5\n")
    dead = ComfyServer(tmp_path / "dead")
    try:
        with pytest.raises(ServerFailed) as raised:
            await execute_and_track_workflow(dead.url, painted(), logs="logs")
        assert (raised.value.code, raised.value.retryable) == ("E_SERVER_UNREACHABLE", True)
        assert events(here / "logs")[-1] == "workflow.failed"
    finally:
        dead.close()
    one.control(history_never=True)
    with pytest.raises(ServerFailed) as lost:
        await execute_and_track_workflow(one.url, painted())
    assert (lost.value.code, lost.value.retryable) == ("E_PROMPT_LOST", True)


async def test_what_is_no_workflow_or_no_id_is_refused_before_anything_is_sent(one: ComfyServer) -> None:
    with pytest.raises(InputInvalid) as graph:
        await execute_and_track_workflow(one.url, {"nodes": [], "links": []})
    assert graph.value.code == "E_WORKFLOW_FORMAT"
    with pytest.raises(InputInvalid) as ident:
        await execute_and_track_workflow(one.url, painted(), prompt_id="../../etc/x")
    assert ident.value.code == "E_PROMPT_ID"
    assert one.log() == []


async def test_S4_3_the_log_written_afterwards_from_history(one: ComfyServer, here: Path) -> None:
    with Client(one) as client:
        good, bad = client.queue(painted()), client.queue(through("Fail", message="too dark"))
        client.ended(bad)
        histories = {id_: client.get(f"/history/{id_}").json() for id_ in (good, bad)}
        again = client.queue(painted())
        client.ended(again)
        histories[again] = client.get(f"/history/{again}").json()
    found: dict[str, list[dict[str, Any]]] = {}
    for id_, history in histories.items():
        path = Path(await create_execution_log(id_, one.url, painted(), history, folder=here / "logs"))
        assert path.parent == here / "logs" / "prompts"
        assert id_ in path.name
        found[id_] = [json.loads(line) for line in bytes_of(path).splitlines()]
        assert {line["prompt_id"] for line in found[id_]} == {id_}
    told = {id_: [line["event"] for line in lines] for id_, lines in found.items()}
    assert told[good][0] == "workflow.submitted"
    assert told[good][-3:] == ["execution.complete", "workflow.success", "history.complete"]
    assert told[bad][-3:] == ["execution.error", "workflow.failed", "history.complete"]
    assert "too dark" in found[bad][-2]["message"]
    assert any(line.get("cached") for line in found[again]), "the second time nothing was run again"
    entry = histories[good][good]
    assert await create_execution_log("../../x", one.url, painted(), entry, folder=here / "odd")
    assert len(files_below(here / "odd")) == 1
