"""Every fault of the stand-in does what its line in `server/faults.py` says: one that is none would test nothing."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection

from tests.comfyui.graphs import node, painted, slow, through
from tests.comfyui.running import ComfyServer
from tests.comfyui.talking import PATIENCE, PNG, Client, events, kinds, listen


def test_an_unknown_fault_is_refused(server: ComfyServer) -> None:
    with pytest.raises(AssertionError, match="no fault"):
        server.control(no_such_fault=1)


# Every request.


def test_answers_of_a_busy_server(server: ComfyServer, client: Client) -> None:
    server.control(answer_status=429, answer_status_requests=2, retry_after="3", only_path="/prompt")
    assert client.get("/queue").status_code == 200
    answers = [client.get("/prompt") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [429, 429, 200]
    assert answers[0].headers["retry-after"] == "3"
    server.control(answer_status=503, answer_status_seconds=1.0, retry_after="", only_path="")
    assert client.get("/queue").status_code == 503
    with pytest.raises(InvalidStatus, match="503"):
        listen(server, "me")
    time.sleep(1.05)
    assert client.get("/queue").status_code == 200


def test_slow_answers_and_cut_requests(server: ComfyServer, client: Client) -> None:
    server.control(answer_delay=0.2)
    began = time.monotonic()
    client.get("/queue")
    assert time.monotonic() - began >= 0.2
    server.control(answer_delay=0, cut_requests=1)
    with pytest.raises(httpx.TransportError):
        client.get("/queue")
    assert client.get("/queue").status_code == 200
    assert [line["status"] for line in server.log("/queue")] == [200, None, 200]


# POST /prompt.


def test_a_lost_answer_and_a_lost_prompt(server: ComfyServer, client: Client) -> None:
    for fault, arrives in (("drop_prompt_answer", True), ("refuse_prompt", False)):
        server.control(**{fault: 1})
        prompt_id = str(uuid.uuid4())
        with pytest.raises(httpx.TransportError):
            client.queue(painted(fault), prompt_id=prompt_id)
        client.idle()
        assert bool(client.get(f"/history/{prompt_id}").json()) == arrives
        assert server.log("/prompt", "POST")[-1]["status"] is None
    assert server.log("/prompt", "POST")[0]["body"]["prompt_id"], "what was sent is in the log all the same"


def test_answers_to_a_prompt_that_mislead(server: ComfyServer, client: Client) -> None:
    server.control(prompt_delay=0.2)
    began = time.monotonic()
    client.queue(painted())
    assert time.monotonic() - began >= 0.2
    ours = str(uuid.uuid4())
    server.control(prompt_delay=0, prompt_other_id=1)
    theirs = client.queue(painted("other"), prompt_id=ours)
    client.ended(theirs)
    assert (theirs != ours, client.get(f"/history/{ours}").json()) == (True, {})
    server.control(prompt_node_errors=1)
    answer = client.post("/prompt", json={"prompt": painted("errors")})
    assert (answer.status_code, list(answer.json()["node_errors"])) == (200, ["1"])
    assert client.ended(answer.json()["prompt_id"])["outputs"]


# Where a job stands.


def after_success(server: ComfyServer, client: Client, prefix: str) -> str:
    """Run a prompt to its execution_success; its id."""
    with listen(server, "me") as socket:
        prompt_id = client.queue(painted(prefix), client_id="me")
        while json.loads(socket.recv(PATIENCE))["type"] != "execution_success":
            pass
    return prompt_id


def test_a_late_history(server: ComfyServer, client: Client) -> None:
    server.control(history_late=1.0)
    prompt_id = after_success(server, client, "late")
    assert client.get(f"/history/{prompt_id}").json() == {}
    assert client.get(f"/api/jobs/{prompt_id}").json()["status"] == "in_progress"
    assert client.ended(prompt_id)["outputs"]


def test_a_gap_between_queue_and_history(server: ComfyServer, client: Client) -> None:
    server.control(history_gap=1.0)
    prompt_id = after_success(server, client, "gap")
    client.idle()
    assert client.get("/queue").json() == {"queue_running": [], "queue_pending": []}
    assert client.get(f"/api/jobs/{prompt_id}").status_code == 404
    assert client.ended(prompt_id)["outputs"]


def test_histories_that_take_reads_or_never_come(server: ComfyServer, client: Client) -> None:
    server.control(history_late_reads=2)
    prompt_id = after_success(server, client, "reads")
    client.idle()
    first, second = client.get(f"/history/{prompt_id}"), client.get(f"/api/jobs/{prompt_id}")
    assert (first.json(), second.status_code) == ({}, 404)
    assert client.get(f"/api/jobs/{prompt_id}").json()["status"] == "completed"
    server.control(history_late_reads=0, history_never=True)
    prompt_id = after_success(server, client, "never")
    client.idle()
    assert client.get(f"/history/{prompt_id}").json() == {}
    assert client.get(f"/api/jobs/{prompt_id}").status_code == 404


def test_no_jobs_route(server: ComfyServer, client: Client) -> None:
    prompt_id = client.queue(painted())
    client.ended(prompt_id)
    server.control(jobs_route=False)
    answers = [client.get(path) for path in ("/api/jobs", f"/api/jobs/{prompt_id}")]
    answers.append(client.post(f"/api/jobs/{prompt_id}/cancel"))
    assert [answer.text for answer in answers] == ["404: Not Found"] * 3


# The websocket.


def test_sockets_that_do_not_come_to_speak(server: ComfyServer, client: Client) -> None:
    server.control(websocket_refuse=True)
    with pytest.raises(InvalidStatus, match="403"):
        listen(server, "me")
    server.control(websocket_refuse=False, websocket_close_at_once=True)
    with listen(server, "me") as socket, pytest.raises(ConnectionClosed):
        socket.recv(PATIENCE)
    server.control(websocket_close_at_once=False, websocket_silent=True)
    with listen(server, "me") as socket:
        assert json.loads(socket.recv(PATIENCE))["type"] == "status"
        client.run(painted(), client_id="me")
        assert rest(socket) == []


def test_a_socket_that_is_cut_half_way(server: ComfyServer, client: Client) -> None:
    server.control(websocket_close_half_way=1)
    with listen(server, "me") as socket:
        prompt_id = client.queue(slow(0.3), client_id="me")
        with pytest.raises(ConnectionClosed):
            events(socket)
    assert client.ended(prompt_id)["status"]["status_str"] == "success"


@pytest.mark.parametrize("half_open", [False, True])
def test_the_clean_up_of_a_half_open_socket_takes_the_new_one_away(
    server: ComfyServer, client: Client, half_open: bool
) -> None:
    server.control(websocket_half_open=half_open)
    prompt_id = client.queue(slow(1.5), client_id="me")
    with listen(server, "me") as old:
        old.recv(PATIENCE)
    with listen(server, "me") as socket:
        client.ended(prompt_id)
        said = [json.loads(frame)["type"] for frame in rest(socket)]
    assert said[0] == "status"
    assert ("execution_success" in said) == (not half_open)


def rest(socket: ClientConnection) -> list[str | bytes]:
    """Everything that still comes."""
    found: list[str | bytes] = []
    with suppress(TimeoutError):
        while True:
            found.append(socket.recv(0.3))
    return found


def raw(socket: ClientConnection) -> list[str | bytes]:
    """All frames up to the success of a prompt."""
    found: list[str | bytes] = []
    while not (found and isinstance(found[-1], str) and found[-1].startswith('{"type": "execution_success"')):
        found.append(socket.recv(PATIENCE))
    return found


@pytest.mark.parametrize(
    ("faults", "expected"),
    [
        ({"websocket_json_list": True}, '["executing"'),
        ({"websocket_garbage": True}, "no JSON at all"),
        ({"websocket_garbage": True}, '{"type": "progress", "data": null}'),
        ({"websocket_error_then_success": True}, '{"type": "execution_error"'),
        ({"websocket_absurd_progress": True}, '{"type": "progress", "data": {"value": 1e+308, "max": 0'),
    ],
)
def test_text_that_no_client_expects(
    server: ComfyServer, client: Client, faults: dict[str, Any], expected: str
) -> None:
    server.control(**faults)
    with listen(server, "me") as socket:
        client.queue(painted(), client_id="me")
        assert any(isinstance(frame, str) and frame.startswith(expected) for frame in raw(socket))


def test_ends_of_prompts_that_nobody_knows(server: ComfyServer, client: Client) -> None:
    server.control(websocket_wrong_ids=True)
    with listen(server, "me") as socket:
        prompt_id = client.queue(slow(0.05), client_id="me")
        messages = events(socket)
        assert messages[-1][1]["prompt_id"] != prompt_id, "a whole prompt seems to be over"
        others = [kind for kind, data in messages if data.get("prompt_id") not in {None, prompt_id}]
        assert others == ["execution_success", "execution_error", "execution_interrupted", "executing"]
        assert events(socket)[-1][1]["prompt_id"] == prompt_id


def test_frames_that_are_big_binary_or_broken(server: ComfyServer, client: Client) -> None:
    server.control(websocket_big_frame=6_000_000, websocket_previews=True)
    with listen(server, "me") as socket:
        client.queue(slow(0.05), client_id="me")
        sizes = [len(frame) for frame in raw(socket) if isinstance(frame, bytes)]
    assert (sizes[0], len(sizes)) == (6_000_008, 11)
    server.control(websocket_big_frame=0, websocket_previews=False, websocket_invalid_utf8=True)
    with listen(server, "me") as socket:
        prompt_id = client.queue(slow(0.1, seed=1), client_id="me")
        with pytest.raises(ConnectionClosed) as closed:
            raw(socket)
    assert closed.value.sent is not None
    assert closed.value.sent.code == 1007, "the client has to close on text that is no UTF-8"
    assert client.ended(prompt_id)["outputs"]


def test_a_flood_of_messages(server: ComfyServer, client: Client) -> None:
    server.control(websocket_flood=10_000)
    with listen(server, "me") as socket:
        client.queue(slow(2), client_id="me")  # long enough for a busy machine: 20,000 are due
        assert kinds(events(socket)).count("progress") > 2_000


def test_a_server_that_holds_its_lock_answers_nothing_and_finishes(server: ComfyServer, client: Client) -> None:
    prompt_id = client.queue(through("HoldLock", seconds=2.0))
    time.sleep(0.2)
    with pytest.raises(httpx.TimeoutException):
        client.get("/prompt", timeout=0.3)
    assert client.ended(prompt_id)["status"]["status_str"] == "success"


# Uploads and downloads.


def test_uploads_that_go_wrong(server: ComfyServer, client: Client) -> None:
    server.control(upload_cuts=1, upload_cut_after=100_000)
    with pytest.raises(httpx.TransportError):
        client.upload("cut.mp4", bytes(20_000_000))
    assert client.get("/view?filename=cut.mp4&type=input").status_code == 404
    for status in (500, 413):
        server.control(upload_status=status, upload_status_times=1)
        assert client.upload("a.png").status_code == status
    assert client.upload("a.png").status_code == 200
    server.control(upload_rename=True)
    assert client.upload("b.png").json()["name"] == "renamed_b.png"
    assert client.get("/view?filename=renamed_b.png&type=input").content == PNG


def until_cut(client: Client, item: dict[str, str]) -> Iterator[bytes]:
    """What comes of a file, whose length was told, before the connection ends."""
    with client.stream("GET", "/view", params=item) as answer:
        assert answer.headers["content-length"] == "500000"
        try:
            yield from answer.iter_raw()
        except httpx.RemoteProtocolError:
            return
    raise AssertionError("the file came whole")


def test_downloads_that_go_wrong(server: ComfyServer, client: Client) -> None:
    item = client.run({"1": node("SaveBytes", size=500_000)})["outputs"]["1"]["images"][0]
    right = client.view(item).content
    server.control(view_cuts=1, view_cut_after=100_000)
    got = b"".join(until_cut(client, item))
    assert got == right[:100_000]
    assert got + client.view(item, Range="bytes=100000-").content == right
    server.control(view_wrong_bytes=1)
    wrong = client.view(item).content
    assert (len(wrong), wrong == right) == (len(right), False)
    server.control(view_empty=1, view_html=1)
    page = client.view(item)
    assert (page.status_code, page.headers["content-type"], page.text[:14]) == (200, "image/png", "<!DOCTYPE html")
    assert client.view(item).content == b""
    server.control(view_rate=2_000_000)
    began = time.monotonic()
    assert client.view(item).content == right
    assert time.monotonic() - began > 0.2
