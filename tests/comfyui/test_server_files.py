"""The stand-in's files, versions, tokens and restarts are those of a real server."""

from __future__ import annotations

import hashlib
import json
import uuid
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from tests.comfyui.graphs import EMPTY, inverted, node, painted, slow
from tests.comfyui.running import ComfyServer, comfy_server
from tests.comfyui.server.contents import image
from tests.comfyui.server.nodes import render, render_movie, saved_digest, with_metadata
from tests.comfyui.talking import PATIENCE, PNG, Client, events, kinds, listen

# Files.


def test_names_of_uploads(client: Client) -> None:
    def named(name: str, data: bytes = PNG, overwrite: str = "") -> str:
        return str(client.upload(name, data, overwrite=overwrite).json()["name"])

    assert [named("a.png"), named("a.png")] == ["a.png", "a.png"], "the same bytes keep the name"
    assert [named("a.png", b"1"), named("a.png", b"2")] == ["a (1).png", "a (2).png"]
    big = bytes(3_000_000)
    assert [named("b.mp4", big), named("b.mp4", big), named("b.mp4", big[1:])] == ["b.mp4", "b.mp4", "b (1).mp4"]
    assert named("a.png", b"3", overwrite="True") == "a (3).png", "only true and 1 are true"
    assert named("a.png", b"4", overwrite="true") == "a.png"
    assert client.get("/view?filename=a.png&type=input").content == b"4"


def test_uploads_that_are_refused(client: Client) -> None:
    assert client.upload("a.png", subfolder="../..").status_code == 400
    assert client.upload("../../a.png").status_code == 400
    assert client.upload("nowhere/a.png").status_code == 500
    assert client.upload("a.png", type="models").status_code == 500
    assert client.post("/upload/image", data={"subfolder": "x"}).status_code == 400


def test_uploads_over_the_limit(tmp_path: Path) -> None:
    with comfy_server(tmp_path, max_upload=1000) as server, Client(server) as client:
        assert client.upload("a.png", bytes(2000)).status_code == 413
        assert client.post("/prompt", json={"prompt": painted("x" * 2000)}).status_code == 413
        assert client.get("/features").json()["max_upload_size"] == 1000


def test_rules_of_view(client: Client) -> None:
    client.run(painted("x") | {"3": node("PreviewImage", images=["1", 0])})
    client.upload("a..b.png")

    def status(**query: str) -> int:
        return client.get("/view", params=query).status_code

    assert status(filename="x_00001_.png") == 200
    assert status(filename="sub/x_00001_.png") == 200, "a path in the name is dropped"
    assert status(filename="a..b.png", type="input") == 400, "two dots anywhere"
    assert (status(filename="/etc/passwd"), status(filename="x_00001_.png", type="models")) == (400, 400)
    assert status(filename="x_00001_.png", subfolder="../..") == 403
    assert status(filename="x_00002_.png") == 404


def test_parts_of_a_file(client: Client) -> None:
    graph = {"1": node("SaveBytes", size=300_000, seed=4, extension="mp4")}
    item = client.run(graph)["outputs"]["1"]["images"][0]
    whole = client.view(item)
    assert hashlib.sha256(whole.content).hexdigest() == saved_digest(300_000, 4, "mp4")
    assert (whole.headers["content-type"], whole.headers["content-length"]) == ("video/mp4", "300000")
    part = client.view(item, Range="bytes=100000-")
    assert (part.status_code, part.headers["content-range"]) == (206, "bytes 100000-299999/300000")
    assert whole.content[:100_000] + part.content == whole.content
    assert client.view(item, Range="bytes=300000-").status_code == 416
    assert client.view(item, **{"If-None-Match": whole.headers["etag"]}).status_code == 304
    assert client.head("/view", params=item).headers["content-length"] == "300000"


def test_a_cached_prompt_names_the_old_files_even_if_they_are_gone(client: Client, server: ComfyServer) -> None:
    first = client.run(painted())
    (server.folder / "output" / "ComfyUI_00001_.png").unlink()
    with listen(server, "me") as socket:
        again = client.ended(client.queue(painted(), client_id="me"))
        messages = events(socket)
    assert sorted(dict(messages)["execution_cached"]["nodes"]) == ["1", "2"]
    assert "executed" in kinds(messages)
    assert (again["outputs"], again["status"]["status_str"]) == (first["outputs"], "success")
    assert client.view(again["outputs"]["2"]["images"][0]).status_code == 404


def test_a_long_memory_gives_the_pixels_of_another_prompt(tmp_path: Path) -> None:
    with comfy_server(tmp_path, cache_lru=True) as server, Client(server) as client:
        first = client.run(painted(color=1))["outputs"]["2"]["images"][0]
        (tmp_path / "output" / first["filename"]).unlink()
        other = painted(color=2)
        assert client.run(other)["outputs"]["2"]["images"] == [first], "the name is free again"
        assert client.run(painted(color=1))["outputs"]["2"]["images"] == [first]
        assert client.view(first).content == with_metadata(render("EmptyImage", EMPTY | {"color": 2}), other)


def test_a_changed_input_runs_again_and_numbers_go_on(client: Client) -> None:
    graph = inverted("in.png")
    client.upload("in.png")
    first = client.run(graph)["outputs"]["3"]["images"][0]["filename"]
    client.upload("in.png", image("another", 8, 8), overwrite="true")
    second = client.run(graph)["outputs"]["3"]["images"][0]["filename"]
    assert (first, second) == ("ComfyUI_00001_.png", "ComfyUI_00002_.png")


def test_saving_outside_the_folder_is_an_error_of_the_node(client: Client) -> None:
    kind, error = client.run(painted("../../x"))["status"]["messages"][-1]
    assert (kind, error["node_id"]) == ("execution_error", "2")
    assert "outside the output folder" in error["exception_message"]
    item = client.run(painted("%year%/%width%x"))["outputs"]["2"]["images"][0]
    assert (len(item["subfolder"]), item["filename"]) == (4, "16x_00001_.png")


def test_kinds_of_outputs(client: Client) -> None:
    graph = {
        "1": node("EmptyImage", **EMPTY),
        "2": node("EmptyAudio", duration=1.0),
        "3": node("VHS_VideoCombine", images=["1", 0], frame_rate=8.0, loop_count=0, filename_prefix="v",
                  format="video/h264-mp4", pingpong=False, save_output=True),
        "4": node("SaveAudio", audio=["2", 0], filename_prefix="a"),
        "5": node("SaveText", text="words", filename_prefix="t"),
        "6": node("Save3D", filename_prefix="m"),
        "7": node("PreviewAudio", audio=["2", 0]),
        "8": node("SaveOdd", items='[null, "text", {"filename": "../x"}]', key="odd"),
        "9": node("Preview3D", model_file="m.glb"),
    }  # fmt: skip
    outputs = client.run(graph)["outputs"]
    gif = outputs["3"]["gifs"][0]
    assert (gif["filename"], gif["format"], gif["workflow"]) == ("v_00001.mp4", "video/h264-mp4", "v_00001.png")
    assert client.view(gif).content[4:8] == b"ftyp"
    sound = render_movie("wav", "EmptyAudio", {"duration": 1.0}, [])
    saved = render_movie("flac", "SaveAudio", {}, [sound])
    assert client.view(outputs["4"]["audio"][0]).content == saved
    assert (outputs["5"]["text"], outputs["5"]["files"][0]["filename"]) == (["words"], "t_00001_.txt")
    assert client.view(outputs["6"]["3d"][0]).content.startswith(b"glTF")
    assert outputs["7"]["audio"][0]["type"] == "temp"
    assert outputs["8"] == {"odd": [None, "text", {"filename": "../x"}]}
    assert outputs["9"] == {"result": ["m.glb", None, None]}


# The server.


def test_object_info_speaks_two_dialects(client: Client) -> None:
    client.upload("b.png")
    info = client.get("/object_info").json()
    assert info["LoadImage"]["input"]["required"]["image"] == [["b.png"], {"image_upload": True}]
    assert info["SaveVideo"]["input"]["required"]["format"][0] == "COMBO"
    assert (info["SaveImage"]["output_node"], info["EmptyImage"]["output"]) == (True, ["IMAGE"])
    assert client.get("/object_info/KSampler").json() == {}


@pytest.mark.parametrize(
    ("version", "jobs", "cancel", "any_id"),
    [
        ("0.3.40", 404, 404, 200),
        ("0.6.0", 200, 404, 200),
        ("0.25.0", 200, 404, 400),
        ("0.26.0", 200, 200, 400),
        ("0.28.0", 200, 200, 400),
    ],
)
def test_versions(tmp_path: Path, version: str, jobs: int, cancel: int, any_id: int) -> None:
    with comfy_server(tmp_path, version=version) as server, Client(server) as client:
        assert client.get("/system_stats").json()["system"]["comfyui_version"] == version
        assert client.get("/api/jobs").status_code == jobs
        assert client.post(f"/api/jobs/{uuid.uuid4()}/cancel").status_code == cancel
        assert client.post("/prompt", json={"prompt": painted(), "prompt_id": "7"}).status_code == any_id
        running = client.queue(slow(0.5))
        client.starts(running)
        client.post("/interrupt", json={"prompt_id": str(uuid.uuid4())})
        hit = client.ended(running)["status"]["status_str"] == "error"
        assert hit == (version == "0.3.40"), "the id of an interrupt counts since 0.3.57"
        cached = [client.run(painted("c"))["outputs"] for _ in range(2)]
        assert (cached[1] == {}) == (version != "0.28.0"), "without a client, before 0.28"


def test_a_token_is_wanted_everywhere(tmp_path: Path) -> None:
    with comfy_server(tmp_path, token="s3cret", prefix="/base") as server, Client(server) as client:
        refused = client.get("/prompt")
        assert (refused.status_code, refused.headers["content-type"]) == (401, "text/html; charset=utf-8")
        assert client.get("/prompt?token=s3cret").status_code == 200
        headers = {"Authorization": "Bearer s3cret"}
        assert client.get("/api/prompt", headers=headers).status_code == 200
        assert client.get(server.url.removesuffix("/base") + "/prompt", headers=headers).status_code == 404
        with pytest.raises(InvalidStatus, match="401"):
            listen(server, "me")
        with listen(server, "me", additional_headers=headers) as socket:
            assert json.loads(socket.recv(PATIENCE))["data"]["sid"] == "me"


def test_a_restart_forgets_everything_but_files(tmp_path: Path) -> None:
    with comfy_server(tmp_path) as server, Client(server) as client:
        client.run(painted())
        prompt_id = client.queue(painted("x") | {"3": node("PreviewImage", images=["1", 0])})
        client.ended(prompt_id)
        running = client.queue(slow())
        client.starts(running)
        server.kill()
        with pytest.raises(httpx.ConnectError):
            httpx.get(server.url, trust_env=False)
        server.start()
        assert (client.get("/queue").json(), client.get("/history").json()) == (
            {"queue_running": [], "queue_pending": []},
            {},
        )
        assert client.get(f"/api/jobs/{running}").status_code == 404
        assert client.get("/view?filename=x_00001_.png").status_code == 200
        assert not list((tmp_path / "temp").iterdir())
        assert client.post("/prompt", json={"prompt": painted()}).json()["number"] == 0
        assert len(server.log("/prompt", "POST")) == 4, "the log goes on over restarts"


def test_the_log_tells_what_was_sent(server: ComfyServer, client: Client) -> None:
    client.post("/queue", json={"delete": ["x"]}, headers={"X-Mine": "1"})
    client.upload("a.png")
    client.get("/view?filename=none.png&type=input")
    first, second, third = server.log()
    assert (first["method"], first["path"], first["body"], first["headers"]["x-mine"]) == (
        "POST", "/queue", {"delete": ["x"]}, "1"
    )  # fmt: skip
    assert (second["status"], second["body"], second["size"] > len(PNG)) == (200, None, True)
    assert (third["query"], third["status"]) == ({"filename": "none.png", "type": "input"}, 404)


def test_a_loopback_server_refuses_other_sites(client: Client) -> None:
    assert client.get("/prompt", headers={"Origin": "http://elsewhere.example"}).status_code == 403
    assert client.get("/prompt", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    own = str(client.base_url).rstrip("/")
    assert client.get("/prompt", headers={"Origin": own}).status_code == 200
