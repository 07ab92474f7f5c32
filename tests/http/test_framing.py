"""What comes before a request is there: framing that two programs read differently, and connections that only wait."""

from __future__ import annotations

import json
import re
import socket
from contextlib import suppress

import anyio
import anyio.abc
import pytest
from anyio.to_thread import run_sync

from towpath.adapters.http import connections
from towpath.adapters.http.connections import fault_of

from .conftest import OpenSite
from .growth import assert_linear
from .serving import PATIENCE, eventually, on_a_socket

pytestmark = pytest.mark.anyio

HEALTH = b"GET /api/v1/health HTTP/1.1\r\nHost: 127.0.0.1\r\n"
POST = b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
SECOND = HEALTH + b"\r\n"
LAST = HEALTH + b"Connection: close\r\n\r\n"

UNCLEAR = {
    # Each of these ends at another place for somebody: that is the kind.
    "a length twice, the same": POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "a length twice, in one line": POST + b"Content-Length: 2, 2\r\n\r\n{}",
    "a length twice, written otherwise": POST + b"Content-Length: 2\r\ncontent-length: 02\r\n\r\n{}",
    "two lengths": POST + b"Content-Length: 2\r\nContent-Length: 40\r\n\r\n{}",
    "a length and chunks": POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "chunks and a length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "chunks of HTTP/1.0": POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "a coding before the chunks": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "chunked in two lines": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "nearly chunked": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked, quoted": POST + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "chunked with a control character": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "a coding that is nothing": POST + b"Transfer-Encoding: identity\r\n\r\n",
    "a signed length": POST + b"Content-Length: +2\r\n\r\n{}",
    "a negative length": POST + b"Content-Length: -2\r\n\r\n{}",
    "a length in hexadecimal": POST + b"Content-Length: 0x2\r\n\r\n{}",
    "a length with a part": POST + b"Content-Length: 2.0\r\n\r\n{}",
    "a length with a gap": POST + b"Content-Length: 1 0\r\n\r\n{}",
    "an empty length": POST + b"Content-Length: \r\n\r\n{}",
    "a length of other digits": POST + "Content-Length: ２\r\n\r\n{}".encode(),
    "a length beyond all numbers": POST + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n{}",
    "a folded length": POST + b"Content-Length:\r\n 2\r\n\r\n{}",
    "a folded header": HEALTH + b"X-Note: a\r\n\tContent-Length: 2\r\n\r\n",
    "a gap before the colon": POST + b"Content-Length : 2\r\n\r\n{}",
    "a gap before the name": b"GET /api/v1/health HTTP/1.1\r\n Host: 127.0.0.1\r\n\r\n",
    "a header without a name": HEALTH + b": x\r\n\r\n",
    "a header without a colon": HEALTH + b"Content-Length\r\n\r\n",
    "bare line feeds": HEALTH.replace(b"\r\n", b"\n") + b"\n",
    "one bare line feed": HEALTH + b"X-Note: a\nContent-Length: 2\r\n\r\n",
    "a bare line feed at the end": HEALTH + b"\n",
    "the last header's bare line feed": HEALTH[:-2] + b"\n\r\n",
    "a bare carriage return": HEALTH + b"X-Note: a\rContent-Length: 2\r\n\r\n",
    "a null": HEALTH + b"X-Note: a\0b\r\n\r\n",
    "a version of no HTTP": HEALTH.replace(b"HTTP/1.1", b"HTTP/1.7") + b"\r\n",
    "a version in small letters": HEALTH.replace(b"HTTP/1.1", b"http/1.1") + b"\r\n",
    "two gaps in the first line": HEALTH.replace(b"GET ", b"GET  ") + b"\r\n",
    "an empty line first": b"\r\n" + HEALTH + b"\r\n",
    "more headers than anybody needs": HEALTH + b"a: b\r\n" * 200 + b"\r\n",
    "a first line without an end": b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "a header without an end": HEALTH + b"a: " + b"b" * 70_000 + b"\r\n\r\n",
    "no HTTP at all": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def _spoken(url: str, sent: bytes) -> bytes:
    """All that a server says to these bytes until it closes."""
    port = int(url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as line:
        with suppress(OSError):  # it may have closed already
            line.sendall(sent)
        said = b""
        with suppress(ConnectionResetError):  # it may not have read the rest
            while more := line.recv(65_536):
                said += more
        return said


async def _until_closed(stream: anyio.abc.SocketStream) -> None:
    with anyio.fail_after(PATIENCE), suppress(anyio.EndOfStream, anyio.BrokenResourceError):
        while True:
            await stream.receive()


async def test_what_is_unclear_about_its_end_is_refused_and_the_connection_closed(open_site: OpenSite) -> None:
    """What stands behind it is never taken for a second request."""
    async with open_site() as site, on_a_socket(site.app) as url:
        for name, sent in UNCLEAR.items():
            said = await run_sync(_spoken, url, sent + SECOND)
            head, _, body = said.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 400 "), (name, said)
            assert said.count(b"HTTP/1.1") == 1, (name, said)
            assert json.loads(body)["error"]["code"] == "E_REQUEST", name
            assert b"connection: close" in head.lower() and b"x-content-type-options: nosniff" in head.lower(), name


async def test_what_is_clear_is_answered_also_one_after_the_other(open_site: OpenSite) -> None:
    async with open_site() as site, on_a_socket(site.app) as url:
        chunked = POST + b"Transfer-Encoding: Chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
        sized = POST + b"Content-Length: 2\r\n\r\n{}"
        said = await run_sync(_spoken, url, HEALTH + b"\r\n" + chunked + SECOND + sized + LAST)
        assert re.findall(rb"HTTP/1\.1 (\d+)", said) == [b"200", b"422", b"200", b"422", b"200"]
        unclear = await run_sync(_spoken, url, SECOND + UNCLEAR["a length twice, in one line"] + SECOND)
        assert unclear.count(b"HTTP/1.1 200") == 1 and unclear.count(b"HTTP/1.1 400") == 1, "in the second request, too"


async def test_a_head_that_comes_in_pieces_is_read_as_one(open_site: OpenSite) -> None:
    async with open_site() as site, on_a_socket(site.app) as url:
        for sent, status in ((SECOND, b"200"), (UNCLEAR["a bare line feed at the end"], b"400")):
            stream = await anyio.connect_tcp("127.0.0.1", int(url.rpartition(":")[2]))
            async with stream:
                for at in range(len(sent)):
                    await stream.send(sent[at : at + 1])
                assert (await stream.receive())[9:12] == status


async def test_connections_that_only_wait_shut_nobody_out(open_site: OpenSite, monkeypatch: pytest.MonkeyPatch) -> None:
    """More waiting connections than the limit: half a head, no byte, a slow refused body, an idle client."""
    monkeypatch.setattr(connections, "MOST_WAITING", 8)
    held = (b"GET / HTTP/1.1\r\nX:", b"", b"G", HEALTH, b"POST /runs HTTP/1.1\r\nHost: 127.0.0.1\r\n", SECOND)
    async with open_site() as site, on_a_socket(site.app) as url:
        port, lines = int(url.rpartition(":")[2]), []
        try:
            for at in range(60):
                line = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
                line.sendall(held[at % len(held)])
                lines.append(line)
            assert b" 200 " in await run_sync(_spoken, url, LAST)
        finally:
            for line in lines:
                line.close()


async def test_a_head_has_limited_time_and_more_bytes_do_not_set_it_back(open_site: OpenSite) -> None:
    async with open_site() as site, on_a_socket(site.app, head_seconds=0.3) as url:
        stream = await anyio.connect_tcp("127.0.0.1", int(url.rpartition(":")[2]))
        async with stream:
            said = b""

            async def listen() -> None:
                nonlocal said
                said = await stream.receive()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(listen)
                await stream.send(b"GET / HTTP/1.1\r\nX: ")
                with anyio.fail_after(PATIENCE):
                    while not said:
                        await stream.send(b"x")
                        await anyio.sleep(0.02)
            assert said.startswith(b"HTTP/1.1 408 ") and b"E_BODY_TIME" in said
            await _until_closed(stream)


async def test_the_rest_of_a_body_that_was_refused_has_limited_time(open_site: OpenSite) -> None:
    async with open_site() as site, on_a_socket(site.app, head_seconds=0.3) as url:
        stream = await anyio.connect_tcp("127.0.0.1", int(url.rpartition(":")[2]))
        async with stream:
            await stream.send(b"POST /api/v1/keys HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n\r\n")
            assert b" 401 " in await stream.receive()
            over = False

            async def trickle() -> None:
                nonlocal over
                while not over:
                    try:
                        await stream.send(b"x")
                    except anyio.BrokenResourceError:
                        return
                    await anyio.sleep(0.02)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(trickle)
                await _until_closed(stream)
                over = True


async def test_what_is_in_hand_may_take_its_time(open_site: OpenSite) -> None:
    """The time of a head is none of a body that is read, or of a stream of events."""
    async with open_site() as site, on_a_socket(site.app, head_seconds=1) as url:
        stream = await anyio.connect_tcp("127.0.0.1", int(url.rpartition(":")[2]))
        async with stream:
            await stream.send(POST + b"Content-Length: 2\r\n\r\n{")
            await anyio.sleep(2)
            await stream.send(b"}")
            assert b" 422 " in await stream.receive()


def test_looking_at_a_head_is_linear_work() -> None:
    for line in (b"a: b\r\n", b"a:" + b" " * 4 + b"\r\n", b"a\r\n", b"\r\r\n", b" folded\r\n", b"\t:\t\r\n"):
        assert_linear(fault_of, HEALTH + line * 90 + b"\r\n", HEALTH + line * 900 + b"\r\n")


async def test_no_connection_stays_in_the_list(open_site: OpenSite) -> None:
    """What is closed is forgotten; a list that only grows would be the next way to hold the server."""
    kept: list[connections.ServerConfig] = []
    original = connections.ServerConfig.__init__

    def noted(self: connections.ServerConfig, *args: object, **options: object) -> None:
        original(self, *args, **options)  # type: ignore[arg-type]
        kept.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connections.ServerConfig, "__init__", noted)
        async with open_site() as site, on_a_socket(site.app) as url:
            for sent in (LAST, UNCLEAR["a null"]):
                await run_sync(_spoken, url, sent)
            for sent in (SECOND, b"", HEALTH, POST + b"Content-Length: 9\r\n\r\n{"):
                with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=PATIENCE) as line:
                    line.sendall(sent)
                    await anyio.sleep(0.05)
            await eventually(lambda: not kept[0].waiting)
