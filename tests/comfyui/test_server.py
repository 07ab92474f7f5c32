"""The stand-in behaves as a real server was seen to behave; everything else in this folder rests on that."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

import pytest

from tests.comfyui.graphs import EMPTY, Graph, inverted, node, painted, slow, through
from tests.comfyui.running import ComfyServer
from tests.comfyui.server.nodes import render, with_metadata
from tests.comfyui.talking import PATIENCE, PNG, Client, events, kinds, listen

UUID = "1b4e28ba-2fa1-41d2-883f-0016d3cca427"

# Prompts.


def test_what_is_saved_can_be_computed(client: Client) -> None:
    graph = painted("a/b")
    item = client.run(graph)["outputs"]["2"]["images"][0]
    assert item == {"filename": "b_00001_.png", "subfolder": "a", "type": "output"}
    assert client.view(item).content == with_metadata(render("EmptyImage", EMPTY), graph)


def test_an_upload_goes_through_a_graph(client: Client) -> None:
    name = client.upload("in.png", subfolder="sub").json()
    graph = inverted(f"{name['subfolder']}/{name['name']}")
    item = client.run(graph)["outputs"]["3"]["images"][0]
    assert client.view(item).content == with_metadata(render("ImageInvert", {}, [PNG]), graph)
    again = inverted("ComfyUI_00001_.png [output]", "again")
    item = client.run(again)["outputs"]["3"]["images"][0]
    twice = render("ImageInvert", {}, [render("ImageInvert", {}, [PNG])])
    assert client.view(item).content == with_metadata(twice, again)


def test_a_duplicate_prompt_id_runs_twice_and_the_second_result_stays(client: Client) -> None:
    prompt_id = str(uuid.uuid4())
    running = client.queue(slow(seed=1))
    client.starts(running)
    numbers = [client.post("/prompt", json={"prompt": painted(p), "prompt_id": prompt_id}).json() for p in ("x", "y")]
    assert numbers[1]["number"] == numbers[0]["number"] + 1
    client.post("/interrupt", json={"prompt_id": running})
    client.ended(running)
    deadline = time.monotonic() + PATIENCE
    while client.ended(prompt_id)["outputs"]["2"]["images"][0]["filename"] != "y_00001_.png":
        assert time.monotonic() < deadline
    assert len(client.get("/history").json()) == 2


@pytest.mark.parametrize("prompt_id", ["7", UUID.upper(), UUID.replace("-", ""), f"{{{UUID}}}", 5])
def test_a_prompt_id_has_to_be_a_canonical_uuid(client: Client, prompt_id: object) -> None:
    answer = client.post("/prompt", json={"prompt": painted(), "prompt_id": prompt_id})
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_prompt_id")


def test_a_graph_with_one_good_output_is_accepted_without_the_others(client: Client) -> None:
    graph = painted() | {"3": node("SaveImage", images=["1", 0])}
    answer = client.post("/prompt", json={"prompt": graph})
    assert answer.status_code == 200
    assert answer.json()["node_errors"]["3"]["errors"][0]["type"] == "required_input_missing"
    assert list(client.ended(answer.json()["prompt_id"])["outputs"]) == ["2"]


WRONG: dict[str, tuple[Graph, str]] = {
    "missing input": ({"1": node("SaveImage", filename_prefix="x")}, "required_input_missing"),
    "too small": (painted(width=0), "value_smaller_than_min"),
    "too big": (painted(width=5000), "value_bigger_than_max"),
    "no number": (painted() | {"1": node("EmptyImage", **EMPTY | {"width": "wide"})}, "invalid_input_type"),
    "long link": (painted() | {"2": node("SaveImage", images=["1", 0, 0], filename_prefix="x")}, "bad_linked_input"),
    "no such node": (
        {"2": node("SaveImage", images=["9", 0], filename_prefix="x")},
        "exception_during_validation",
    ),
    "no such node below": (
        {"2": node("ImageInvert", image=["9", 0]), "3": node("SaveImage", images=["2", 0], filename_prefix="x")},
        "exception_during_inner_validation",
    ),
    "wrong type": (
        {"1": node("EmptyAudio", duration=1.0), "2": node("SaveImage", images=["1", 0], filename_prefix="x")},
        "return_type_mismatch",
    ),
    "missing file": (inverted("nobody.png"), "custom_validation_failed"),
    "cycle": (
        {
            "1": node("ImageInvert", image=["2", 0]),
            "2": node("ImageInvert", image=["1", 0]),
            "3": node("SaveImage", images=["1", 0], filename_prefix="x"),
        },
        "dependency_cycle",
    ),
    "not in list": (
        {
            "1": node("EmptyImage", **EMPTY),
            "2": node("CreateVideo", images=["1", 0], fps=8.0),
            "3": node("SaveVideo", video=["2", 0], filename_prefix="v", format="avi", codec="auto"),
        },
        "value_not_in_list",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_a_graph_is_told_by_node(client: Client, case: str) -> None:
    graph, kind = WRONG[case]
    answer = client.post("/prompt", json={"prompt": graph})
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "prompt_outputs_failed_validation"
    told = [error for node_error in answer.json()["node_errors"].values() for error in node_error["errors"]]
    assert [error["type"] for error in told] == [kind]


@pytest.mark.parametrize(
    ("graph", "kind"),
    [
        ({"1": node("EmptyImage", **EMPTY)}, "prompt_no_outputs"),
        ({}, "prompt_no_outputs"),
        ({"1": node("KSampler")}, "missing_node_type"),
        ({"1": {"inputs": {}}}, "missing_node_type"),
    ],
)
def test_a_graph_that_cannot_be_run_at_all_has_no_node_errors(client: Client, graph: Graph, kind: str) -> None:
    answer = client.post("/prompt", json={"prompt": graph})
    assert (answer.status_code, answer.json()["error"]["type"], answer.json()["node_errors"]) == (400, kind, {})


def test_bodies_of_the_wrong_shape_are_crashes(client: Client) -> None:
    ui_format = {"last_node_id": 3, "nodes": [{"id": 1, "type": "SaveImage"}], "links": []}
    crashes: list[Any] = [
        {"prompt": ui_format},
        {"prompt": [1]},
        {"prompt": painted(), "extra_data": None},
        {"prompt": painted(), "number": "abc"},
    ]
    answers = [client.post("/prompt", json=body) for body in crashes] + [client.post("/prompt", content=b"{")]
    assert {(answer.status_code, answer.text.splitlines()[-1]) for answer in answers} == {
        (500, "Server got itself in trouble")
    }
    whole_file = client.post("/prompt", json=ui_format)
    assert (whole_file.status_code, whole_file.json()["error"]["type"]) == (400, "no_prompt")


def test_partial_targets_front_and_secrets(client: Client) -> None:
    running = client.queue(slow())
    client.starts(running)
    last = client.queue(painted("last"))
    graph = painted("kept") | {"3": node("PreviewImage", images=["1", 0])}
    extra = {"api_key_comfy_org": "s3cret", "mine": {"a": 1}, "extra_pnginfo": {"workflow": {"id": "w"}}}
    first = client.queue(graph, front=True, partial_execution_targets=["2"], extra_data=extra)
    assert [each[1] for each in client.get("/queue").json()["queue_pending"]] == [first, last]
    client.post(f"/api/jobs/{running}/cancel")
    entry = client.ended(first)
    assert (list(entry["outputs"]), entry["prompt"][4], entry["prompt"][0] < 0) == (["2"], ["2"], True)
    assert (entry["prompt"][3]["mine"], "s3cret" in json.dumps(entry)) == ({"a": 1}, False)
    assert client.get(f"/api/jobs/{first}").json()["workflow_id"] == "w"
    client.ended(last)


# Messages.


def test_the_order_of_messages(server: ComfyServer, client: Client) -> None:
    with listen(server, "me") as socket:
        prompt_id = client.queue(slow(0.05), client_id="me")
        messages = events(socket)
    assert messages[0] == ("status", {"status": {"exec_info": {"queue_remaining": 0}}, "sid": "me"})
    ours = [each for each in messages if each[0] != "status"]
    assert kinds(ours)[:4] == ["execution_start", "execution_cached", "progress_state", "executing"]
    assert kinds(messages)[-4:] == ["progress_state", "execution_success", "status", "executing"]
    assert {data["prompt_id"] for _, data in ours} == {prompt_id}
    assert [data["node"] for kind, data in ours if kind == "executing"] == ["1", "2", "3", None]
    assert [data["value"] for kind, data in ours if kind == "progress"] == list(range(1, 11))
    assert [data["node"] for kind, data in ours if kind == "executed"] == ["3"]


def test_a_prompt_without_a_client_tells_everybody_its_progress_and_nothing_else(
    server: ComfyServer, client: Client
) -> None:
    with listen(server, "me") as socket:
        client.run(painted())
        client.queue(painted("end"), client_id="me")
        messages = events(socket)
    others = messages[: kinds(messages).index("execution_start")]
    assert set(kinds(others)) == {"status", "progress_state"}


def test_a_late_client_gets_the_node_without_the_prompt_id(server: ComfyServer, client: Client) -> None:
    prompt_id = client.queue(slow(), client_id="me")
    client.starts(prompt_id)
    time.sleep(0.3)
    with listen(server, "me") as socket:
        assert json.loads(socket.recv(PATIENCE))["type"] == "status"
        assert json.loads(socket.recv(PATIENCE)) == {"type": "executing", "data": {"node": "2"}}


def test_a_failed_node(server: ComfyServer, client: Client) -> None:
    graph = through("Fail", message="no luck") | {"4": node("SaveImage", images=["1", 0], filename_prefix="early")}
    graph = {"4": graph.pop("4"), **graph}
    with listen(server, "me") as socket:
        prompt_id = client.queue(graph, client_id="me")
        messages = events(socket)
    assert kinds(messages)[-3:] == ["execution_error", "status", "executing"]
    error = messages[-3][1]
    assert (error["node_id"], error["exception_type"], error["exception_message"]) == ("2", "ValueError", "no luck\n")
    assert any("odd_nodes.py" in line for line in error["traceback"])
    entry = client.ended(prompt_id)
    assert (entry["status"]["status_str"], entry["status"]["completed"]) == ("error", False)
    assert list(entry["outputs"]) == ["4"], "what was finished before is there"
    assert client.get(f"/api/jobs/{prompt_id}").json()["execution_error"]["node_id"] == "2"


def test_out_of_memory_as_often_as_wanted(client: Client) -> None:
    graph = through("OutOfMemory", times=1)
    kind, error = client.run(graph)["status"]["messages"][-1]
    assert (kind, error["exception_type"]) == ("execution_error", "torch.OutOfMemoryError")
    assert client.run(graph)["status"]["status_str"] == "success"


def test_a_blocked_prompt_sends_an_error_and_succeeds(server: ComfyServer, client: Client) -> None:
    with listen(server, "me") as socket:
        prompt_id = client.queue(through("Blocked", message="not today"), client_id="me")
        messages = events(socket)
    assert kinds(messages).index("execution_error") < kinds(messages).index("execution_success")
    entry = client.ended(prompt_id)
    assert (entry["status"]["status_str"], entry["outputs"]) == ("success", {})
    assert "execution_error" not in [kind for kind, _ in entry["status"]["messages"]]


def test_pictures_over_the_websocket_leave_nothing_in_history(server: ComfyServer, client: Client) -> None:
    graph = {"1": node("EmptyImage", **EMPTY), "2": node("SaveImageWebsocket", images=["1", 0])}
    with listen(server, "me") as socket:
        prompt_id = client.queue(graph, client_id="me")
        frames: list[bytes] = []
        while not frames:
            frames += [said for said in [socket.recv(PATIENCE)] if isinstance(said, bytes)]
    assert frames[0] == bytes([0, 0, 0, 1, 0, 0, 0, 2]) + render("EmptyImage", EMPTY)
    assert client.ended(prompt_id)["outputs"] == {}


def test_feature_flags_change_the_form_of_previews(server: ComfyServer, client: Client) -> None:
    graph = {"1": node("EmptyImage", **EMPTY), "2": node("SaveImageWebsocket", images=["1", 0])}
    with listen(server, "me") as socket:
        socket.send(json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}}))
        said = [json.loads(socket.recv(PATIENCE)) for _ in range(2)]
        assert said[1]["data"]["max_upload_size"] == 100 << 20
        client.queue(graph, client_id="me")
        while not isinstance(frame := socket.recv(PATIENCE), bytes):
            pass
    length = int.from_bytes(frame[4:8], "big")
    assert (frame[:4], json.loads(frame[8 : 8 + length])["node_id"]) == (b"\0\0\0\4", "2")


# Queue, cancel, history, jobs.


def test_the_four_places_of_a_prompt(client: Client) -> None:
    running, waiting, unknown = client.queue(slow(seed=2)), client.queue(painted()), str(uuid.uuid4())
    client.starts(running)
    assert [client.get(f"/history/{each}").json() for each in (running, waiting, unknown)] == [{}, {}, {}]
    states = [client.get(f"/api/jobs/{each}") for each in (running, waiting, unknown)]
    assert [state.json().get("status") for state in states] == ["in_progress", "pending", None]
    assert (states[2].status_code, states[2].json()) == (404, {"error": "Job not found"})
    assert client.get("/prompt").json() == {"exec_info": {"queue_remaining": 2}}
    assert client.post(f"/api/jobs/{waiting}/cancel").json() == {"cancelled": True}
    assert client.post(f"/api/jobs/{waiting}/cancel").json() == {"cancelled": False}
    assert client.get(f"/api/jobs/{waiting}").status_code == 404, "a cancelled prompt that waited leaves no trace"
    assert client.get(f"/history/{waiting}").json() == {}
    assert client.post("/api/jobs/cancel", json={"job_ids": [running]}).json() == {"cancelled": True}
    entry = client.ended(running)
    assert (entry["status"]["status_str"], entry["status"]["messages"][-1][0]) == ("error", "execution_interrupted")
    assert client.get(f"/api/jobs/{running}").json()["status"] == "cancelled"


def test_an_interrupt_by_id_touches_nobody_else(client: Client) -> None:
    running, waiting = client.queue(slow(0.3)), client.queue(painted())
    client.starts(running)
    assert client.post("/interrupt", json={"prompt_id": waiting}).status_code == 200
    assert client.post("/queue", json={"delete": [running]}).status_code == 200
    assert [client.ended(each)["status"]["status_str"] for each in (running, waiting)] == ["success", "success"]
    running = client.queue(slow())
    client.starts(running)
    client.post("/interrupt")
    assert client.ended(running)["status"]["status_str"] == "error", "without an id whatever runs is stopped"


def test_pages_of_history_and_jobs(client: Client) -> None:
    ids = [client.queue(painted(f"p{number}")) for number in range(3)]
    client.ended(ids[2])
    assert list(client.get("/history?max_items=2").json()) == ids[1:]
    assert list(client.get("/history?max_items=2&offset=0").json()) == ids[:2]
    assert client.get("/history?max_items=x").status_code == 500
    page = client.get("/api/jobs", params={"status": "completed", "sort_order": "asc", "limit": 2}).json()
    assert page["pagination"] == {"offset": 0, "limit": 2, "total": 3, "has_more": True}
    assert client.get("/jobs").status_code == 404, "this route is below /api only"
    client.post("/history", json={"delete": [ids[0]]})
    assert list(client.get("/history").json()) == ids[1:]
