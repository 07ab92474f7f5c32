"""R21: what websockets do to a prompt: nothing. The result is that of polling alone, after one POST /prompt."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.adapters import conftest as adapters
from tests.comfyui import farms
from tests.comfyui.farms import BRIEF, chain_of, code, execution_log, farming, sockets
from tests.comfyui.graphs import EMPTY, Graph, slow
from tests.comfyui.running import ComfyServer
from tests.comfyui.scripted import PNG as PICTURE
from tests.comfyui.scripted import Script, Talk, reply, scripted, sent, text_frame, websocket
from tests.comfyui.server.contents import without_metadata
from tests.comfyui.server.nodes import render
from tests.corpus import Case, cases
from towpath.adapters.comfyui import progress_socket
from towpath.adapters.comfyui.client import ComfyClient
from towpath.adapters.comfyui.connection import Connection
from towpath.adapters.comfyui.progress_socket import KEPT, NODES, PromptEvents
from towpath.adapters.comfyui.servers import given_server
from towpath.adapters.comfyui.tracking import follow

pytestmark = pytest.mark.anyio
anyio_backend, folder = adapters.anyio_backend, farms.folder

PNG = render("EmptyImage", EMPTY)
SCRIPT = "<script>alert(1)</script>"
LAG = 0.1  # seconds that everybody else may have to wait


@dataclass(frozen=True)
class Trouble:
    """Faults of the websocket, and how connections must have ended meanwhile; none must, if nothing is told."""

    faults: dict[str, Any]
    ended: tuple[str, ...] = ()
    graph: Graph = field(default_factory=lambda: slow(0.3))


TROUBLES = {
    "001": Trouble({"websocket_close_at_once": True}, ("1011",), slow(1.0)),
    "002": Trouble({"websocket_close_half_way": 1}, ("1006",), slow(2.0)),
    "005": Trouble({"websocket_big_frame": 100_000_000}, ("E_WS_TOO_LARGE",), slow(2.0)),
    "006": Trouble({"websocket_invalid_utf8": True}, ("1007",), slow(2.0)),
    "007": Trouble({"websocket_previews": True, "websocket_big_frame": 6_000_000}),
    "008": Trouble({"websocket_json_list": True, "websocket_garbage": True}),
    "010": Trouble({"websocket_error_then_success": True, "websocket_wrong_ids": True}),
    "011": Trouble({"websocket_absurd_progress": True}),
    "013": Trouble({}, graph={SCRIPT: slow()["1"], "2": slow(0.3)["2"], "3": slow()["3"]}),
}
TROUBLES["013"].graph["2"]["inputs"]["image"] = [SCRIPT, 0]


@pytest.mark.parametrize("case", [c for c in cases("websocket") if c.id[-3:] in TROUBLES], ids=lambda case: case.id)
async def test_R21_troubles(case: Case, folder: Path, server: ComfyServer) -> None:
    trouble = TROUBLES[case.id[-3:]]
    server.control(**trouble.faults)
    await rendered_once(folder, server, trouble.graph)
    ended = sockets(folder)
    assert set(trouble.ended) <= set(ended)
    assert bool(ended) == bool(trouble.ended), "a connection that nothing happens to stays open"


async def rendered_once(folder: Path, server: ComfyServer, graph: Graph) -> None:
    """Run a workflow that saves one picture: it comes home, and one prompt was sent for it."""
    # Only the websocket is sick: on a busy machine the rest may take its time.
    async with farming(folder, [server.url], timeouts=replace(BRIEF, read=10.0, reply=10.0)) as engine:
        with anyio.fail_after(20):
            run = await engine.run(chain_of(folder, graph))
        assert code(run) == "", run.error
        (artifact,) = run["picture"].artifacts
        assert without_metadata(await artifact.read_bytes()) == PNG
    assert len(server.log("/prompt", "POST")) == 1
    assert [line["status"] for line in server.log("/view", "GET")] == [200]


@pytest.mark.parametrize("refused", [True, False])
async def test_R21_polling_alone_gives_the_same(folder: Path, server: ComfyServer, refused: bool) -> None:
    """The result that all others are compared with."""
    server.control(websocket_refuse=refused)
    await rendered_once(folder, server, slow(0.3))
    assert (set(sockets(folder)) == {"InvalidStatus"}) == refused


async def test_R21_silent_sockets(folder: Path, server: ComfyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """websocket-003: open for ever and nothing comes. One that answers pings stays, one that does not is left."""
    server.control(websocket_silent=True)
    await rendered_once(folder, server, slow(0.3))
    assert sockets(folder) == []
    monkeypatch.setattr(progress_socket, "PING", 0.1)
    monkeypatch.setattr(progress_socket, "PONG", 0.1)
    run = await played(folder, websocket(), pending=8)
    assert code(run) == ""
    assert "1011" in sockets(folder)


async def played(folder: Path, socket: Script, pending: int = 0) -> Any:
    """Run a chain against a server with such a websocket, whose prompt runs for that many questions."""
    with scripted() as server:
        running = reply({"status": "in_progress"})
        server.on("GET /ws", socket)
        server.on("GET /api/jobs", *[running] * pending, lambda talk: talk.server.healthy(talk))
        async with farming(folder, [server.url]) as engine:
            with anyio.fail_after(20):
                run = await engine.run(chain_of(folder, slow()))
            assert [await a.read_bytes() for a in run["picture"].artifacts] == [PICTURE]
        assert len(server.asked("/prompt", "POST")) == 1
    return run


async def test_R21_ten_thousand_messages_a_second(folder: Path, server: ComfyServer) -> None:
    """websocket-012. A loop that is held up is so each time; a busy machine is the best of three."""
    lags = []
    for seed in range(3):
        server.control(websocket_flood=10_000)
        lag, stop = [0.0], anyio.Event()
        async with farming(folder, [server.url]) as engine, anyio.create_task_group() as tasks:
            tasks.start_soon(probe, lag, stop)
            run = await engine.run(chain_of(folder, slow(2.0, seed), name=f"flooded-{seed}"))
            stop.set()
        assert (code(run), len(run["picture"].artifacts)) == ("", 1)
        lags.append(lag[0])
        if lag[0] < LAG:
            break
    assert min(lags) < LAG, lags
    assert len(server.log("/prompt", "POST")) == len(lags)
    assert len(server.log("/api/jobs/", "GET")) < 40 * len(lags), "news of progress are no reason to ask"


async def probe(lag: list[float], stop: anyio.Event) -> None:
    """How late somebody else is at most who wants the loop every 5 ms."""
    while not stop.is_set():
        began = time.monotonic()
        await anyio.sleep(0.005)
        lag[0] = max(lag[0], time.monotonic() - began - 0.005)


def test_R21_the_whole_corpus_is_here() -> None:
    elsewhere = {"003": test_R21_silent_sockets, "012": test_R21_ten_thousand_messages_a_second}
    assert {case.id[-3:] for case in cases("websocket")} == TROUBLES.keys() | elsewhere.keys()


# ---- beyond the corpus


async def test_R21_a_node_named_as_a_script_is_text_in_the_log(folder: Path, server: ComfyServer) -> None:
    await rendered_once(folder, server, TROUBLES["013"].graph)
    assert SCRIPT in [line.get("node") for line in execution_log(folder)]


async def test_R21_a_half_open_socket_of_before_takes_nothing_away(
    folder: Path, server: ComfyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new socket gets nothing more; waiting for its events would delay the end by `LIVELY`."""
    monkeypatch.setattr("towpath.adapters.comfyui.tracking.LIVELY", 60.0)
    server.control(websocket_half_open=True, websocket_close_half_way=1)
    began = time.monotonic()
    await rendered_once(folder, server, slow(1.2))
    assert time.monotonic() - began < 40


async def test_R21_redirects_are_not_followed(folder: Path) -> None:
    """Neither to another server nor to another path: our secrets stay where they belong."""
    with scripted() as other:
        moved = reply(b"", 302, location=other.url.replace("http", "ws") + "/ws")
        assert code(await played(folder, moved, pending=4)) == ""
        assert other.requests == []
    assert set(sockets(folder)) == {"InvalidStatus"}


@pytest.mark.parametrize(
    "after",
    [
        sent(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"),
        sent(b"\x00\xffgarbage\r\n\r\n", Talk.fin),
        sent(Talk.rst),
        sent(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", Talk.hold),
        sent(b"HTTP/1.1 101 Switching Protocols\r\nX: " + b"x" * 200_000 + b"\r\n\r\n", Talk.hold),
        websocket(b"\xf3\x05hello"),  # reserved bits
        websocket(b"\x89\xfe" + bytes(2_000)),  # a masked ping of 126 bytes and more
        websocket(b"\x01\x05hello", b"\x01\x05hello"),  # a message in the middle of another
        websocket(b"\x88\x02\x03\xe7"),  # a close code that nobody may send
        websocket(b"\x80\x00" * 3),
    ],
)
async def test_R21_what_is_no_websocket(folder: Path, after: Script) -> None:
    assert code(await played(folder, after, pending=3)) == ""


async def test_R21_numbers_that_no_float_holds(folder: Path) -> None:
    """Progress of 400 digits, of text, of lists: shown as unknown, and no reason to stop."""
    odd = [10**400, -(10**400), 1e308, "7", None, [], {}, True, -1, 0]
    frames = [text_frame({"type": "progress", "data": {"value": value, "max": most}}) for value in odd for most in odd]
    assert code(await played(folder, websocket(*frames), pending=4)) == ""
    events = PromptEvents("p")
    for frame in frames:
        events.take(frame[2:].decode() if frame[1] < 126 else frame[10:].decode())
        assert events.total is None or 0 <= events.done <= events.total < math.inf
    assert events.frames == len(odd) ** 2


async def test_R21_ends_without_end_are_asked_for_in_peace() -> None:
    """A server that says a thousand times a second that a prompt may be over is asked twenty times a second."""
    with scripted() as server:
        server.on("GET /api/jobs", reply({"status": "in_progress"}))
        events = PromptEvents("p")
        async with Connection(given_server(server.url)) as connection, anyio.create_task_group() as tasks:
            tasks.start_soon(follow, ComfyClient(connection), "p", events)
            with anyio.move_on_after(1.0):
                while True:
                    events.take('{"type": "executing", "data": {"node": null, "prompt_id": "p"}}')
                    await anyio.sleep(0.001)
            tasks.cancel_scope.cancel()
        assert 5 <= len(server.asked("/api/jobs")) <= 21


async def test_R21_what_is_remembered_of_a_hostile_socket_has_an_end() -> None:
    told: list[str] = []
    events = PromptEvents("p", on_node=told.append)
    for number in range(2 * NODES):
        events.take(f'{{"type": "executing", "data": {{"node": "{number}", "prompt_id": "p"}}}}')
    for _ in range(10 * KEPT):
        events.ended("1006")
    events.take('{"type": "progress", "data": {"value": 1, "max": 2, "more": "' + "x" * 2_000_000 + '"}}')
    assert (len(told), len(events.closed), events.odd, events.total) == (NODES, KEPT, 1, None)


async def test_R21_an_error_inside_comes_out_as_it_is(folder: Path, server: ComfyServer) -> None:
    """A workflow that fails while its socket is open: the log says how it ended."""
    graph = slow(0.1)
    graph["2"] = {"class_type": "Fail", "inputs": {"image": ["1", 0], "message": "no"}}
    async with farming(folder, [server.url]) as engine:
        run = await engine.run(chain_of(folder, graph), check=False)
    assert code(run) == "E_NODE_FAILED"
    assert execution_log(folder)[-1]["event"] == "workflow.failed"
