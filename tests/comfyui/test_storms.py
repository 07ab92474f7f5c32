"""R19 and R20: bodies without an end, and servers that are too busy: size, time and asking all have a limit."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.adapters import conftest as adapters
from tests.comfyui import farms
from tests.comfyui.farms import BRIEF, chain_of, code, farming, kept, until
from tests.comfyui.graphs import painted
from tests.comfyui.scripted import PNG, Script, Scripted, Talk, endless, reply, scripted, sent
from towpath import ChainStatus
from towpath.adapters.comfyui.client import ComfyClient
from towpath.adapters.comfyui.connection import Connection, Timeouts
from towpath.adapters.comfyui.downloads import Limits, download
from towpath.adapters.comfyui.replies import OutputFile
from towpath.adapters.comfyui.servers import given_server
from towpath.errors import ServerFailed

pytestmark = pytest.mark.anyio
anyio_backend, folder = adapters.anyio_backend, farms.folder

OK = b"HTTP/1.1 200 OK\r\n"
FILE = OutputFile("2", "images", "made.png")
SLOWLY: dict[str, Script] = {
    "a body": endless(OK + b"Content-Length: 100000\r\n\r\n" + PNG[:20], b"x", every=0.4),
    "a header": endless(OK + b"X-Long: ", b"x", every=0.4),
    "a status line": endless(b"", b"H", every=0.4),
    "interim answers": endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n", every=0.4),
    "broken connections": sent(OK + b"Content-Length: 100000\r\n\r\n" + PNG[:20], 0.2, Talk.fin),
    "nothing": sent(Talk.hold),
    "busy": reply(b"", 503),
}


@pytest.mark.parametrize("name", SLOWLY)
async def test_R19_the_deadline_is_for_the_whole_file(name: str, folder: Path) -> None:
    await in_time(folder, SLOWLY[name], 1.2)


@pytest.mark.full
@pytest.mark.parametrize("name", SLOWLY)
async def test_R19_the_deadline_is_for_the_whole_file_and_a_long_one(name: str, folder: Path) -> None:
    await in_time(folder, SLOWLY[name], 20.0)


async def in_time(folder: Path, script: Script, seconds: float) -> None:
    """A download that will not end is over by its deadline, give or take a second, and leaves nothing."""
    with scripted() as server:
        server.on("GET /view", script)
        timeouts = replace(BRIEF, read=60.0, reply=60.0, silent=60.0, busy=60.0)
        async with farming(folder, [server.url], timeouts=timeouts, limits=Limits(seconds=seconds)) as engine:
            await engine.list_artifacts()
            chain, began = chain_of(folder, painted()), time.monotonic()
            run = await engine.run(chain, check=False)
            took = time.monotonic() - began
        assert server.asked("/view")
    assert code(run).startswith(("E_DOWNLOAD_", "E_SERVER_")), run.error
    assert took <= seconds + 20.0  # the timeouts of the server are 60 s
    assert kept(folder) == []


@pytest.mark.parametrize("length", [b"Transfer-Encoding: chunked\r\n", b"Content-Length: 10737418240\r\n", b""])
async def test_R19_zeros_for_ever(length: bytes, folder: Path) -> None:
    piece = b"10000\r\n" + bytes(65_536) + b"\r\n" if b"chunked" in length else bytes(65_536)
    with scripted() as server:
        server.on("GET /view", endless(OK + length + b"\r\n", piece))
        async with farming(folder, [server.url], limits=Limits(size=20 << 20)) as engine:
            run = await engine.run(chain_of(folder, painted()), check=False)
    assert code(run) == "E_DOWNLOAD_TOO_LARGE"
    assert kept(folder) == []


@pytest.mark.parametrize("route", ["GET /prompt", "GET /history", "POST /prompt"])
@pytest.mark.parametrize("name", ["a body", "a header", "interim answers"])
async def test_R19_the_deadline_of_a_reply(route: str, name: str) -> None:
    with scripted() as server:
        server.on(route, SLOWLY[name])
        async with Connection(given_server(server.url), replace(BRIEF, reply=0.6, read=60.0)) as connection:
            method, _, path = route.partition(" ")
            began = time.monotonic()
            with pytest.raises(ServerFailed, match="E_SERVER_TIMEOUT"):
                await connection.json(method, path, retry=False)
            assert time.monotonic() - began < 30  # a read may take 60 s


async def test_R19_the_answer_to_an_upload_has_limits_too() -> None:
    """A body without an end, fast and slow, in answer to a file."""

    async def chunks() -> Any:
        yield PNG

    with scripted() as server:
        server.on(
            "POST /upload/image",
            endless(OK + b"\r\n", bytes(65_536)),
            endless(OK + b"\r\n", b" ", every=0.2),
        )
        for expected, reply_seconds in (("E_REPLY_TOO_LARGE", 60.0), ("E_SERVER_TIMEOUT", 0.6)):
            timeouts = replace(BRIEF, reply=reply_seconds, read=60.0)
            async with Connection(given_server(server.url), timeouts) as connection:
                with pytest.raises(ServerFailed, match=expected), anyio.fail_after(50):
                    await ComfyClient(connection).upload("a.png", "folder", chunks, len(PNG))


# ---- bytes of files that come in pieces


async def brought(server: Scripted, limits: Limits | None = None) -> bytes:
    """The bytes of a file of that server."""
    async with (
        Connection(given_server(server.url), BRIEF) as connection,
        download(connection, FILE, limits or Limits()) as one,
    ):
        return b"".join([chunk async for chunk in one.chunks])


DATA = PNG + bytes(range(256)) * 1500  # less than one chunk of ours


def cut_at(size: int, *, tag: str = '"one"', total: int = len(DATA), shift: int = 0, grown: int = 0) -> Script:
    """A server that hangs up after so many bytes of each answer; ranges are answered, perhaps with a lie.

    A file that has `grown` is another one.
    """

    def play(talk: Talk) -> None:
        wanted = talk.request.headers.get("range", "")
        start = int(wanted[6:-1]) if wanted else 0
        more = grown if start else 0
        head = f"ETag: {tag}\r\nContent-Length: {len(DATA) - start + more}\r\n"
        if start:
            head += f"Content-Range: bytes {start + shift}-{len(DATA) - 1 + more}/{total + more}\r\n"
        status = b"HTTP/1.1 206 Partial Content\r\n" if start else OK
        talk.send(status + head.encode() + b"\r\n" + (DATA + bytes(more))[start : start + size])
        talk.wait(0.05)
        talk.fin()

    return play


async def test_R19_a_file_comes_home_in_pieces() -> None:
    """Each connection breaks before a chunk of ours is full; what came is kept all the same."""
    with scripted() as server:
        server.on("GET /view", cut_at(100_000))
        assert await brought(server) == DATA
        ranges = [request.headers.get("range") for request in server.asked("/view")]
        assert ranges == [None, "bytes=100000-", "bytes=200000-", "bytes=300000-"]
        assert {request.headers.get("if-range") for request in server.asked("/view")} == {None, '"one"'}
        assert {request.connection for request in server.asked("/view")} == {1, 2, 3, 4}


async def test_R19_a_weak_tag_is_no_promise() -> None:
    with scripted() as server:
        server.on("GET /view", cut_at(200_000, tag='W/"one"'))
        assert await brought(server) == DATA
        assert {request.headers.get("if-range") for request in server.asked("/view")} == {None}


@pytest.mark.parametrize(
    ("lie", "expected"),
    [
        ({"shift": 1}, "E_DOWNLOAD_PROTOCOL"),
        ({"total": len(DATA) + 1}, "E_DOWNLOAD_PROTOCOL"),
        ({"grown": 7}, "E_DOWNLOAD_INCOMPLETE"),
    ],
)
async def test_R19_another_part_than_was_asked_for(lie: dict[str, Any], expected: str) -> None:
    with scripted() as server:
        server.on("GET /view", cut_at(300_000, **lie))
        with pytest.raises(ServerFailed, match=expected):
            await brought(server)


@pytest.mark.parametrize("head", ["", "Content-Range: bytes 0-99/400\r\n", "Content-Range: bytes 5-104/400\r\n"])
async def test_R19_a_part_that_nobody_asked_for_is_no_file(head: str) -> None:
    raw = f"HTTP/1.1 206 Partial Content\r\nContent-Length: 100\r\n{head}\r\n".encode() + bytes(100)
    with scripted() as server:
        server.on("GET /view", sent(raw, Talk.fin))
        with pytest.raises(ServerFailed, match="E_DOWNLOAD_PROTOCOL"):
            await brought(server)


async def test_R19_a_server_that_went_away_is_not_waited_for_until_the_deadline() -> None:
    """The timeouts are for the server, the deadline for the file."""
    with scripted() as server:
        server.on("GET /view", sent(OK + b"Content-Length: 100000\r\n\r\n" + PNG[:20], lambda talk: talk.server.stop()))
        began = time.monotonic()
        with pytest.raises(ServerFailed, match="E_SERVER_UNREACHABLE"):
            await brought(server, Limits(seconds=60))
        assert time.monotonic() - began < 40


# ---- servers that are too busy


async def storm(folder: Path, seconds: float, chains: int) -> None:
    """Three servers answer 503 for so long, and chains of one step want them."""
    with ExitStack() as stack:
        servers = [stack.enter_context(scripted()) for _ in range(3)]
        began = time.monotonic()
        for server in servers:
            server.on("* ", lambda talk: busy_until(began + seconds, talk))
        timeouts = replace(BRIEF, busy=seconds + 60, silent=60.0)
        async with farming(folder, [server.url for server in servers], timeouts=timeouts) as engine:
            chain = chain_of(folder, painted())
            handles = [await engine.start(chain) for _ in range(chains)]
            with anyio.fail_after(seconds + 60):
                runs = [await handle.result() for handle in handles]
            rows = await engine.list_artifacts(limit=1000)
        assert [run.status for run in runs] == [ChainStatus.COMPLETED] * chains
        assert len(rows) == chains
        assert sum(len(server.asked("/prompt", "POST")) for server in servers) == chains
        for server in servers:
            early = [request.at - began for request in server.requests if request.at < began + seconds]
            late = [at for at in early if at > 5]
            assert len(late) <= seconds - 5, early
            assert len(early) < 30, early


def busy_until(until: float, talk: Talk) -> None:
    """503 before, a healthy server afterwards."""
    (reply(b"", 503) if time.monotonic() < until else talk.server.healthy)(talk)


async def test_R20_a_storm_of_503(folder: Path) -> None:
    await storm(folder, 8.0, 50)


@pytest.mark.full
async def test_R20_a_long_storm_of_503(folder: Path) -> None:
    await storm(folder, 30.0, 50)


@pytest.mark.full
async def test_R20_503_for_half_a_minute(folder: Path) -> None:
    """One server, one chain: it does not fail, and the server is asked fewer than 30 times meanwhile."""
    await storm(folder, 30.0, 1)


@pytest.mark.parametrize("status", [500, 503])
@pytest.mark.parametrize("route", ["GET /prompt", "POST /prompt", "POST /upload/image"])
async def test_R20_no_error_is_answered_with_a_flood_of_requests(status: int, route: str) -> None:
    """Whatever is asked for, a server in trouble gets a few requests in two seconds, not thousands."""
    method, _, path = route.partition(" ")
    with scripted() as server:
        server.on(route, reply(b"no", status))
        async with Connection(given_server(server.url), Timeouts(busy=9.0, broken=9.0, silent=9.0)) as connection:
            with anyio.move_on_after(2.0):
                await insisted(ComfyClient(connection), route)
        assert 2 <= len(server.asked(path, method)) <= 5


async def insisted(client: ComfyClient, route: str) -> None:
    """Ask until it is refused for good."""

    async def chunks() -> Any:
        yield PNG

    error = ServerFailed("E_SERVER_BUSY", "not asked yet")
    while error.retryable:
        try:
            if route == "POST /upload/image":
                await client.upload("a.png", "folder", chunks, len(PNG))
            elif route == "POST /prompt":
                await client.submit(painted(), "p", "c")
            else:
                await client.connection.json("GET", "/prompt")
        except ServerFailed as failed:
            error = failed


async def test_R20_many_failures_at_once_are_one(folder: Path) -> None:
    """Sixty requests in flight that all fail do not make a server rest sixty times longer."""
    with scripted() as server:
        server.on("GET /prompt", *[reply(b"", 503)] * 60, reply({}))
        async with Connection(given_server(server.url), BRIEF) as connection, anyio.create_task_group() as tasks:
            for _ in range(60):
                tasks.start_soon(fetch, connection)
            await until(lambda: connection.backoff.failures > 0)
            await anyio.sleep(0.2)
            assert connection.backoff.failures <= 3
            tasks.cancel_scope.cancel()


async def fetch(connection: Connection) -> None:
    await connection.json("GET", "/prompt")


@pytest.mark.parametrize(
    "answer",
    [
        reply(b"", 302, location="http://169.254.169.254/"),
        reply(b"", 302, location="file:///etc/passwd"),
        lambda talk: reply(b"", 302, location=f"{talk.server.url}/queue")(talk),
        reply(b"[", 200),
        reply(b"", 401),
        reply(b"x", content_encoding="gzip"),
        sent(b"garbage\r\n\r\n", Talk.fin),
    ],
)
async def test_R20_whoever_tries_a_server_again_lets_others_try_too(answer: Script) -> None:
    """A server in trouble is tried by one at a time: however that ends, the next one gets its turn."""
    with scripted() as server:
        server.on("GET /queue", reply(b"", 503), answer)
        async with Connection(given_server(server.url), replace(BRIEF, broken=5.0)) as connection:
            for _ in range(2):
                with pytest.raises(ServerFailed):
                    await connection.json("GET", "/queue", retry=False)
            with anyio.fail_after(30):
                assert await connection.json("GET", "/prompt") == {"exec_info": {"queue_remaining": 0}}
