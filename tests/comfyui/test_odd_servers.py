"""Servers as people have them: behind a token, below a path, years old; and what they echo or make up."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.adapters import conftest as adapters
from tests.comfyui import farms
from tests.comfyui.farms import BRIEF, chain_of, code, execution_log, farming, kept, sockets
from tests.comfyui.graphs import EMPTY, inverted, painted, slow
from tests.comfyui.running import ComfyServer, comfy_server, shared_server
from tests.comfyui.scripted import PICTURE, PNG, Talk, made, reply, scripted
from tests.comfyui.server.contents import without_metadata
from tests.comfyui.server.nodes import render
from towpath import Run, open_engine
from towpath.adapters.comfyui.client import ComfyClient
from towpath.adapters.comfyui.connection import Connection
from towpath.adapters.comfyui.replies import PromptRecord, PromptState, job_state, node_problems, outputs_of
from towpath.adapters.comfyui.servers import given_server
from towpath.chain_file import ChainFile, load_chain_from_dict
from towpath.errors import InputInvalid, ServerFailed

pytestmark = pytest.mark.anyio

OfVersion = Callable[[str], ComfyServer]


@pytest.fixture
def of_version(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> OfVersion:
    """A server of a version of ComfyUI that knows nothing and has no faults."""
    return lambda version: shared_server(request.config, tmp_path_factory, f"v{version}", version=version)


anyio_backend, folder = adapters.anyio_backend, farms.folder

SECRET = "s3cret-of-the-server"
VERSIONS = ["0.3.40", "0.5.0", "0.24.0", "0.33.0"]  # from the third on they have jobs
INVERTED = render("ImageInvert", {}, [render("EmptyImage", EMPTY)])


def two_steps(folder: Path) -> ChainFile:
    """A picture that is made, sent back and inverted: every route is used."""
    chain_of(folder, slow(0.2), name="first")
    chain_of(folder, inverted("none.png"), name="second")
    once = {"retry": {"attempts": 1}}
    first = {"id": "picture", "workflow": "first", **once}
    again: dict[str, Any] = {"id": "again", "workflow": "second", "depends_on": ["picture"], **once}
    again["parameters"] = {"1.image": "{{ picture.output.image }}"}
    return load_chain_from_dict({"name": "two", "steps": [first, again]})


async def inverted_at_last(run: Run) -> None:
    assert run.status == "completed", run.error
    (artifact,) = run["again"].artifacts
    assert without_metadata(await artifact.read_bytes()) == INVERTED


# ---- secrets


@pytest.mark.parametrize(
    "shown", [{"headers": {"Authorization": f"Bearer {SECRET}"}}, {"query": {"token": SECRET}}], ids=["header", "query"]
)
async def test_tokens_reach_every_route_and_nothing_that_is_kept(
    shown: dict[str, Any], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """HTTP, /view, uploads and the websocket show the token; logs at DEBUG, files and the database do not hold it."""
    caplog.set_level(logging.DEBUG)
    with comfy_server(folder / "server", token=SECRET, prefix="/base") as server:
        server.control(websocket_close_half_way=1)
        patient = replace(BRIEF, read=10.0, reply=30.0)
        async with farming(folder, [{"name": "guarded", "url": server.url, **shown}], timeouts=patient) as engine:
            run = await engine.run(two_steps(folder))
            await inverted_at_last(run)
            server.stop()
            lost = await engine.run(two_steps(folder), check=False)
            assert lost.status == "failed"
        asked = server.log()
    assert {line["status"] for line in asked} <= {101, 200, 404}
    paths = {line["path"].removeprefix("/base").split("/")[1] for line in asked}
    assert {"ws", "prompt", "view", "upload", "api", "history", "object_info", "system_stats"} <= paths
    assert all(SECRET in json.dumps([line["query"], line["headers"]]) for line in asked)
    assert_secret(caplog, folder)


def assert_secret(caplog: pytest.LogCaptureFixture, folder: Path) -> None:
    """No log line and no file of the store holds the secret."""
    assert len(caplog.records) > 10
    assert SECRET not in caplog.text
    files = [path for path in folder.glob("towpath*/**/*") if path.is_file()] + list(folder.glob("towpath.db*"))
    assert files
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []


@pytest.mark.parametrize("status", [400, 401, 403, 404, 418, 500])
async def test_a_server_that_echoes_what_it_was_sent_tells_no_secrets(
    status: int, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    def echo(talk: Talk) -> None:
        told = f"you sent {talk.request.headers} and {talk.request.query}"
        reply({"error": {"type": "echo", "message": told}, "told": told}, status)(talk)

    entry = {"name": "echo", "headers": {"X-Key": SECRET}, "query": {"token": SECRET}}
    with scripted() as server:
        for route in ("POST /prompt", "GET /history"):
            server.on(route, echo)
            async with farming(folder, [{**entry, "url": server.url}]) as engine:
                run = await engine.run(chain_of(folder, painted()), check=False)
                assert code(run) != ""
                assert SECRET not in str(run.error)
            server.on(route, lambda talk: talk.server.healthy(talk))
        assert SECRET in str(server.requests)
    assert_secret(caplog, folder)


async def test_a_login_page_is_no_picture(folder: Path) -> None:
    """Without the token everything is 401 with a page: said at once, and nothing of it is kept."""
    with comfy_server(folder / "server", token=SECRET) as server:
        began = time.monotonic()
        async with farming(folder, [server.url]) as engine:
            run = await engine.run(chain_of(folder, painted(), attempts=3), check=False)
        assert (code(run), run["picture"].attempt, kept(folder)) == ("E_SERVER_AUTH", 1, [])
        assert time.monotonic() - began < 30


async def test_a_redirect_within_the_server_keeps_the_token(folder: Path) -> None:
    """A proxy that adds a slash or a prefix; whoever leads elsewhere is asked for nothing."""
    with scripted() as server, scripted() as other:
        server.on("GET /view", reply(b"", 307, location="/files?filename=a.png"))
        server.on("GET /files", reply(PNG))
        entry = {"name": "moved", "url": server.url, "headers": {"X-Key": SECRET}, "query": {"token": SECRET}}
        async with farming(folder, [entry]) as engine:
            run = await engine.run(chain_of(folder, painted()))
            assert code(run) == ""
            (request,) = server.asked("/files")
            assert (request.query, request.headers["x-key"]) == ({"filename": ["a.png"], "token": [SECRET]}, SECRET)
            for place in (other.url, f"{server.url}@{other.url.removeprefix('http://')}", "//127.0.0.1:1/"):
                server.on("GET /view", reply(b"", 302, location=f"{place}/view"))
                run = await engine.run(chain_of(folder, painted()), check=False)
                assert code(run) in ("E_URL_BLOCKED", "E_URL_USERINFO")
        assert other.requests == []


async def test_authorities_that_cannot_be_read(folder: Path) -> None:
    entry = {"name": "tls", "url": "https://127.0.0.1:1", "verify": str(folder / "none.pem")}
    with pytest.raises(InputInvalid, match="E_SERVER_CONFIG"):
        async with open_engine(f"sqlite:///{folder}/towpath.db", servers=[entry]):
            raise AssertionError("it opened")


# ---- old servers, and websockets that help or do not


@pytest.mark.parametrize("version", VERSIONS)
async def test_S7_2_old_servers(version: str, folder: Path, of_version: OfVersion) -> None:
    server = of_version(version)
    async with farming(folder, [server.url]) as engine:
        await inverted_at_last(await engine.run(two_steps(folder)))
    assert len(server.log("/prompt", "POST")) == 2
    assert bool(server.log("/api/jobs")) == (version in VERSIONS[2:])


@pytest.mark.parametrize("version", ["0.5.0", "0.33.0"])
@pytest.mark.parametrize(
    ("name", "faults"),
    [
        ("HTTP only", {"websocket_refuse": True}),
        ("finished before the socket speaks", {"websocket_silent": True}),
        ("binary frames", {"websocket_previews": True, "websocket_big_frame": 2_000_000}),
        ("drop", {"websocket_close_half_way": 1}),
        ("no jobs", {"jobs_route": False}),
        ("late history", {"history_late": 0.3}),
        ("gap", {"history_gap": 0.3}),
    ],
)
async def test_S7_2_tracking(
    version: str, name: str, faults: dict[str, Any], folder: Path, of_version: OfVersion
) -> None:
    server = of_version(version)
    server.control(**faults)
    async with farming(folder, [server.url]) as engine:
        with anyio.fail_after(30):
            run = await engine.run(chain_of(folder, slow(0.3)))
    assert (code(run), len(run["picture"].artifacts)) == ("", 1)
    assert len(server.log("/prompt", "POST")) == 1


async def test_S7_2_the_socket_alone_tells_the_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch, server: ComfyServer
) -> None:
    """With polling so slow that it would never come to it, the end is noticed at once."""
    for name in ("FAST", "SLOW", "LIVELY"):
        monkeypatch.setattr(f"towpath.adapters.comfyui.tracking.{name}", 60.0)
    async with farming(folder, [server.url]) as engine:
        with anyio.fail_after(30):
            run = await engine.run(chain_of(folder, slow(0.5)))
    assert (code(run), sockets(folder)) == ("", [])
    assert len(server.log("/api/jobs")) <= 4


async def test_S7_2_a_prompt_that_is_over_before_the_socket_stands(folder: Path) -> None:
    """The handshake takes longer than anybody waits for it."""
    with scripted() as server:
        server.on("GET /ws", Talk.hold)
        async with farming(folder, [server.url]) as engine:
            with anyio.fail_after(30):
                run = await engine.run(chain_of(folder, painted()))
        assert (code(run), len(run["picture"].artifacts)) == ("", 1)


# ---- what servers make up


@pytest.mark.parametrize("given", ["../../../evil", "a" * 101, "", "a/b", "x\0y", 7, None, ["p"]])
async def test_ids_that_servers_make_up_lead_nowhere(given: Any, folder: Path) -> None:
    """A prompt's id becomes a part of addresses and of a file's name."""
    with scripted() as server:
        server.on("POST /prompt", lambda talk: taken(talk, given))
        async with farming(folder, [server.url]) as engine:
            run = await engine.run(chain_of(folder, painted()))
        (request,) = server.asked("/prompt", "POST")
        assert (code(run), run["picture"].prompt_id) == ("", request.json()["prompt_id"])
    assert not list(folder.parent.glob("**/*evil*"))
    assert execution_log(folder)


def taken(talk: Talk, given: Any) -> None:
    talk.server._prompts[talk.request.json()["prompt_id"]] = {}
    reply({"prompt_id": given, "node_errors": {}})(talk)


@pytest.mark.parametrize("version", ["9" * 5000 + ".1", "1.2." + "3" * 5000, "none", "", 7, None, "٣.٤", "-1.-2"])
async def test_versions_that_servers_make_up(version: Any) -> None:
    with scripted() as server:
        server.on("GET /system_stats", reply({"system": {"comfyui_version": version}}))
        async with Connection(given_server(server.url), BRIEF) as connection:
            assert len(await ComfyClient(connection).version()) == 3
            assert len((await ComfyClient(connection).health()).version) < 30


async def test_names_of_nodes_are_one_part_of_an_address() -> None:
    names = ["Image Scale/8", "../queue", "a?b#c", "50%", "ｎ 🔧"]
    with scripted() as server:
        async with Connection(given_server(server.url), BRIEF) as connection:
            await ComfyClient(connection).object_info(frozenset(names))
        assert sorted(server.asked("/object_info/"), key=lambda r: r.path) == sorted(
            server.requests, key=lambda r: r.path
        )
        assert {request.path.count("/") for request in server.requests} == {2}
        assert all(request.query == {} for request in server.requests)


def test_a_reply_about_another_prompt_says_nothing() -> None:
    assert job_state({"id": "p", "status": "failed"}, "p") is PromptState.FAILED
    assert job_state({"id": "q", "status": "failed"}, "p") is PromptState.UNKNOWN
    assert job_state({"status": "failed"}, "p") is PromptState.FAILED, "older servers do not repeat the id"


def test_large_replies_take_no_time() -> None:
    """A million texts, a million odd things, a hundred thousand problems: seconds, and a hundred lines."""
    began = time.monotonic()
    found = outputs_of(
        PromptRecord(PromptState.COMPLETED, {"1": {"text": ["x"] * 1_000_000, "images": [7] * 1_000_000}})
    )
    assert (len(found.texts["1"]), len(found.odd)) == (1_000_000, 101)
    assert found.odd[-1] == "and 999900 more"
    problems = node_problems({"1": {"errors": [{"message": "x" * 5_000}] * 100_000}}, {})
    assert (len(problems), max(map(len, problems))) == (101, 2_000)
    assert time.monotonic() - began < 30


async def test_more_files_than_any_prompt_makes(folder: Path) -> None:
    with scripted() as server:
        server.on("GET /history", made(server, {"2": {"images": [PICTURE] * 20_001}}))
        async with farming(folder, [server.url]) as engine:
            run = await engine.run(chain_of(folder, painted()), check=False)
        assert (code(run), server.asked("/view"), kept(folder)) == ("E_REPLY_TOO_LARGE", [], [])


async def test_cookies_without_end_are_forgotten() -> None:
    """A few are kept: proxies tell with them which of their servers has our prompts."""
    with scripted() as server:

        def sweet(talk: Talk) -> None:
            reply({}, set_cookie=f"c{len(server.requests)}=1; Path=/")(talk)

        server.on("GET /prompt", sweet)
        async with Connection(given_server(server.url), BRIEF) as connection:
            for _ in range(120):
                await connection.json("GET", "/prompt")
        sizes = [request.headers.get("cookie", "").count("=") for request in server.requests]
        assert sizes[1:3] == [1, 2]
        assert max(sizes) <= 50


@pytest.mark.parametrize(
    ("status", "expected", "again"),
    [
        (401, "E_SERVER_AUTH", False),
        (403, "E_SERVER_AUTH", False),
        (404, "E_SERVER_STATUS", False),
        (413, "E_UPLOAD_TOO_LARGE", False),
        (429, "E_SERVER_BUSY", True),
        (500, "E_SERVER_STATUS", True),
        (503, "E_SERVER_BUSY", True),
        (521, "E_SERVER_BUSY", True),
    ],
)
async def test_refusals(status: int, expected: str, again: bool) -> None:
    """The status decides, however large, packed or broken the page behind it is."""
    pages = [reply(b"x" * 40_000_000, status), reply(b"no gzip", status, content_encoding="gzip"), reply(b"", status)]
    for page in pages:
        with scripted() as server:
            server.on("GET /queue", page)
            async with Connection(given_server(server.url), replace(BRIEF, read=60.0, reply=60.0)) as connection:
                with pytest.raises(ServerFailed) as raised:
                    await connection.json("GET", "/queue", retry=False)
        assert (raised.value.code, raised.value.retryable) == (expected, again)
