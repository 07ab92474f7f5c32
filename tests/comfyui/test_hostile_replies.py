"""R18: what sick and hostile servers answer, byte for byte. The right error, nothing kept of it, the store clean."""

from __future__ import annotations

import gzip
import json
import ssl
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
import trustme

from tests.adapters import conftest as adapters
from tests.comfyui import farms
from tests.comfyui.farms import BRIEF, chain_of, code, farming, kept, until
from tests.comfyui.graphs import node, painted, slow
from tests.comfyui.running import ROOT, ComfyServer
from tests.comfyui.scripted import PNG, Script, Scripted, Talk, endless, made, reply, scripted, sent
from tests.comfyui.server.contents import saved_digest, without_metadata
from tests.corpus import Case, cases
from towpath import Run
from towpath.adapters.comfyui.connection import Timeouts
from towpath.adapters.comfyui.downloads import Limits

pytestmark = pytest.mark.anyio
anyio_backend, folder = adapters.anyio_backend, farms.folder

OK = b"HTTP/1.1 200 OK\r\n"
PICTURE = OK + b"Content-Type: image/png\r\n"
LOGIN = b"<!DOCTYPE html><html><body><form>Password</form></body></html>"
SMUGGLED = b'HTTP/1.1 200 OK\r\nContent-Length: 21\r\n\r\n{"status": "completed"}'
MEMORY = 64 * 1024 * 1024  # bytes


def chunked(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


@dataclass(frozen=True)
class Play:
    """What a server plays, and what must come of a step that meets it: an error, or a picture."""

    route: str
    scripts: tuple[Script, ...]
    expected: str = ""
    attempts: int = 1
    limits: Limits = field(default_factory=Limits)
    timeouts: Timeouts = BRIEF
    data: bytes = PNG
    after: Callable[[Scripted, Run], None] | None = None


def view(*scripts: Script, expected: str = "", **more: Any) -> Play:
    """In answer to GET /view."""
    return Play("GET /view", scripts, expected, **more)


def history(*scripts: Script, expected: str = "", **more: Any) -> Play:
    """In answer to GET /history."""
    return Play("GET /history", scripts, expected, **more)


def tried_twice(server: Scripted, run: Run) -> None:
    """The step had two tries, each went on from where the connection broke, and one prompt was enough."""
    assert run["picture"].attempt == 2
    assert any(request.headers.get("range") == "bytes=40-" for request in server.asked("/view"))
    assert len(server.asked("/prompt", "POST")) == 1


def few(server: Scripted, run: Run) -> None:
    """The redirects were not followed for ever."""
    assert len(server.asked("/view")) <= 6


def half(how: Callable[[Talk], None]) -> Script:
    """40 bytes of 100; the next answer is the same, whatever was asked for."""
    return sent(PICTURE + b"Content-Length: 100\r\n\r\n" + PNG[:40], how)


def to_itself(talk: Talk) -> None:
    reply(b"", 302, location=f"{talk.server.url}/view?again=1")(talk)


PLAYS: dict[str, Play] = {
    "001": view(half(Talk.fin), expected="E_DOWNLOAD_INCOMPLETE", attempts=2, after=tried_twice),
    "002": view(half(Talk.rst), expected="E_DOWNLOAD_INCOMPLETE", attempts=2, after=tried_twice),
    "003": view(sent(PICTURE + b"Content-Length: 10\r\n\r\n" + PNG[:10] + SMUGGLED), data=PNG[:10]),
    "005": view(
        sent(PICTURE + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(PNG[:20]) + b"40\r\n" + PNG[20:40], Talk.fin),
        expected="E_DOWNLOAD_INCOMPLETE",
    ),
    "006": view(
        sent(PICTURE + b"Content-Length: 10\r\nContent-Length: 20\r\n\r\n" + PNG[:20], Talk.fin),
        expected="E_DOWNLOAD_PROTOCOL",
    ),
    "007": view(sent(PICTURE + b"Content-Length: -1\r\n\r\n" + PNG, Talk.fin), expected="E_DOWNLOAD_PROTOCOL"),
    "008": view(
        endless(PICTURE + b"Content-Length: 10737418240\r\n\r\n", bytes(65_536)),
        expected="E_DOWNLOAD_TOO_LARGE",
        limits=Limits(size=8 * 1024 * 1024),
    ),
    "010": view(
        reply(b"no gzip at all", content_type="image/png", content_encoding="gzip"), expected="E_DOWNLOAD_ENCODING"
    ),
    "011": view(
        endless(PICTURE + b"Content-Length: 100000\r\n\r\n" + PNG[:20], b"x", every=0.4),
        expected="E_DOWNLOAD_TIMEOUT",
        limits=Limits(seconds=1.0),
    ),
    "012": Play("* ", (sent(Talk.hold),), "E_SERVER_TIMEOUT"),
    "013": Play("* ", (sent(Talk.half_close, Talk.hold),), "E_SERVER_TIMEOUT"),
    "015": view(reply(b"", 302, location="http://169.254.169.254/latest/meta-data/"), expected="E_URL_BLOCKED"),
    "016": view(to_itself, expected="E_TOO_MANY_REDIRECTS", after=few),
    "017": view(reply(b"", 302, location="file:///etc/passwd"), expected="E_URL_SCHEME"),
    "018": view(
        sent(OK + b"X-Large: " + b"x" * 2_000_000 + b"\r\n\r\n" + PNG, Talk.fin), expected="E_DOWNLOAD_PROTOCOL"
    ),
    "020": view(
        sent(b"\x00\xff\xfegarbage in place of a status line\r\n\r\n", Talk.fin), expected="E_DOWNLOAD_PROTOCOL"
    ),
    "021": history(reply(b'{"never": "closed"'), expected="E_REPLY_JSON"),
    "022": history(reply(b"[" * 1_000_000), expected="E_REPLY_JSON"),
    "023": history(
        reply(b'["' + b"x" * 200_000_000 + b'"]'),
        expected="E_REPLY_TOO_LARGE",
        timeouts=replace(BRIEF, read=60.0, reply=60.0),
    ),
    "025": history(lambda talk: made(talk.server, {})(talk), expected="E_NO_OUTPUT"),
    "030": Play("GET /prompt", (reply(b"", 429, retry_after="-1"), reply({"exec_info": {"queue_remaining": 0}}))),
    "031": view(reply(LOGIN, 401, content_type="text/html"), expected="E_SERVER_AUTH"),
    "032": view(reply(LOGIN, content_type="image/png"), expected="E_ARTIFACT_TYPE"),
    "033": view(reply(PNG, content_type="text/html")),
    "035": view(reply(b"", content_type="image/png"), expected="E_ARTIFACT_EMPTY"),
}


@pytest.mark.parametrize("case", [c for c in cases("server_response") if c.id[-3:] in PLAYS], ids=lambda case: case.id)
async def test_R18_replies(case: Case, folder: Path) -> None:
    play = PLAYS[case.id[-3:]]
    run, server = await played(folder, play)
    assert code(run) == play.expected, run.error
    assert case.codes in ((play.expected,), ()) or case.id[-3:] in DIFFERENT
    if play.after is not None:
        play.after(server, run)


DIFFERENT = {"003": "of the two that are allowed we take the bytes that were told"}


async def played(folder: Path, play: Play) -> tuple[Run, Scripted]:
    """Run a chain of one step against it: a picture, or nothing is kept. The fixture checks the store."""
    with scripted() as server:
        server.on(play.route, *play.scripts)
        async with farming(folder, [server.url], limits=play.limits, timeouts=play.timeouts) as engine:
            with anyio.fail_after(60):
                run = await engine.run(chain_of(folder, painted(), attempts=play.attempts), check=False)
            found = [await a.read_bytes() for a in run["picture"].artifacts]
        assert found == ([] if play.expected else [play.data])
        assert bool(kept(folder)) == bool(found)
        assert len(server.asked("/prompt", "POST")) <= 1
    return run, server


@pytest.mark.parametrize(
    "length",
    [
        b"Transfer-Encoding: chunked",
        pytest.param(b"Content-Length: 10737418240", marks=pytest.mark.full),
        pytest.param(b"Connection: close", marks=pytest.mark.full),
    ],
)
async def test_R18_memory_stays_small_whatever_comes(length: bytes, folder: Path) -> None:
    """Zeros for ever, with a length, in chunks, and up to the end of the connection."""
    piece = bytes(65_536)
    with scripted() as server:
        server.on(
            "GET /view", endless(PICTURE + length + b"\r\n\r\n", chunked(piece) if b"chunked" in length else piece)
        )
        told = await in_a_process(folder, server, "--max-file", str(200 << 20))
    assert (told["code"], told["files"]) == ("E_DOWNLOAD_TOO_LARGE", [])
    assert told["grown"] < MEMORY
    assert kept(folder) == []


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"[" * 1_000_000, "E_REPLY_JSON"),
        pytest.param(b'{"a":' * 1_000_000, "E_REPLY_JSON", marks=pytest.mark.full),
        (b'["' + b"x" * 200_000_000 + b'"]', "E_REPLY_TOO_LARGE"),
    ],
    ids=["lists", "objects", "200 MB"],
)
async def test_R18_memory_stays_small_whatever_json_comes(body: bytes, expected: str, folder: Path) -> None:
    with scripted() as server:
        server.on("GET /history", reply(body))
        told = await in_a_process(folder, server)
    assert (told["code"], told["files"]) == (expected, [])
    assert told["grown"] < MEMORY


async def test_R18_a_bomb_of_packed_json_is_not_unpacked(folder: Path) -> None:
    with scripted() as server:
        server.on("GET /history", reply(gzip.compress(bytes(500_000_000), 1), content_encoding="gzip"))
        told = await in_a_process(folder, server)
    assert (told["code"], told["files"]) == ("E_REPLY_PROTOCOL", [])
    assert told["grown"] < MEMORY


async def test_S5_1_a_file_of_200_MB_needs_no_memory(folder: Path, server: ComfyServer) -> None:
    await large_file(folder, server, 200_000_000)


@pytest.mark.full
async def test_S5_1_a_file_of_2_GB_needs_no_memory(folder: Path, server: ComfyServer) -> None:
    await large_file(folder, server, 2_000_000_000)


async def large_file(folder: Path, server: ComfyServer, size: int) -> None:
    """Bring a file home, in a process that tells how much more memory it had at most than before."""
    chain_of(folder, {"1": node("SaveBytes", size=size, seed=5)})
    told = await in_a_process(folder, server, write=False)
    digest = await anyio.to_thread.run_sync(saved_digest, size, 5, "mp4")
    assert (told["code"], told["files"]) == ("", [[size, digest]])
    assert told["grown"] < MEMORY


async def in_a_process(
    folder: Path,
    server: Scripted | ComfyServer,
    *options: str,
    write: bool = True,
) -> dict[str, Any]:
    """Run the chain of one step in a process of its own; what it tells of itself."""
    if write:
        chain_of(folder, painted())
    command = [sys.executable, "-m", "tests.comfyui.farms", str(folder), server.url, *options]
    with anyio.fail_after(300):
        done = await anyio.run_process(command, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr.decode()
    told: dict[str, Any] = json.loads(done.stdout)
    return told


# ---- more than one reply


async def test_R18_what_is_sent_behind_a_reply_answers_nothing(folder: Path) -> None:
    """Stray bytes that look like a reply, behind every reply: nobody takes them for the answer to what follows."""
    lie = b'{"id": "somebody-else", "status": "failed"}'
    stray = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(lie) + lie

    def followed(talk: Talk) -> None:
        talk.server.healthy(talk)
        talk.send(stray)

    with scripted() as server:
        for route in ("GET /view", "GET /api/jobs", "GET /system_stats"):
            server.on(route, followed)
        async with farming(folder, [server.url], timeouts=replace(BRIEF, broken=10.0)) as engine:
            for _ in range(3):
                run = await engine.run(chain_of(folder, painted()))
                assert (code(run), [await a.read_bytes() for a in run["picture"].artifacts]) == ("", [PNG])
        assert len(server.asked("/prompt", "POST")) == 3


async def test_R18_a_prompt_that_a_restarted_server_forgot_is_sent_again(folder: Path, server: ComfyServer) -> None:
    """It had the prompt: a request that was killed while it was read is another case, and its line has no body."""
    async with farming(folder, [server.url], timeouts=replace(BRIEF, unreachable=60.0, silent=60.0)) as engine:
        handle = await engine.start(chain_of(folder, slow(1.5), attempts=2))
        await until(lambda: any(line["status"] == 200 for line in server.log("/prompt", "POST")))
        server.kill()
        server.start()
        run = await handle.result()
        retries = [e["data"]["error"]["code"] for e in await engine.store.events(run.id) if e["type"] == "StepRetried"]
        assert (code(run), len(run["picture"].artifacts)) == ("", 1)
    ids = {line["body"]["prompt_id"] for line in server.log("/prompt", "POST")}
    assert (retries, len(server.log("/prompt", "POST")), ids) == (["E_PROMPT_LOST"], 2, {run["picture"].prompt_id})


@pytest.mark.parametrize("first", ["refuse_prompt", "drop_prompt_answer"])
async def test_R18_an_id_of_the_servers_own_gives_one_version(folder: Path, server: ComfyServer, first: str) -> None:
    server.control(**{first: 1, "prompt_other_id": 2})
    async with farming(folder, [server.url]) as engine:
        run = await engine.run(chain_of(folder, painted()))
        rows = await engine.list_artifacts()
        (artifact,) = run["picture"].artifacts
        assert without_metadata(await artifact.read_bytes()) == PNG
    sent_id = server.log("/prompt", "POST")[-1]["body"]["prompt_id"]
    assert [(row["version"], row["is_latest"]) for row in rows] == [(1, True)]
    assert run["picture"].prompt_id not in (None, sent_id)


@pytest.mark.parametrize("wrong", ["expired", "for another host", "of nobody"])
async def test_R18_certificates(folder: Path, wrong: str) -> None:
    authority, past = trustme.CA(), datetime.now(UTC) - timedelta(days=2)
    await through_tls(folder, authority, "127.0.0.1")
    if wrong == "expired":
        expired: dict[str, Any] = {"not_before": past - timedelta(days=9), "not_after": past}
        run, server = await through_tls(folder, authority, "127.0.0.1", **expired)
    elif wrong == "for another host":
        run, server = await through_tls(folder, authority, "other.example")
    else:
        run, server = await through_tls(folder, trustme.CA(), "127.0.0.1", trusted=authority)
    assert (code(run), server.requests) == ("E_SERVER_TLS", [])


async def through_tls(
    folder: Path,
    authority: trustme.CA,
    host: str,
    *,
    trusted: trustme.CA | None = None,
    **more: Any,
) -> tuple[Run, Scripted]:
    """Run a chain against a server with such a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host, **more).configure_cert(context)
    file = folder / f"authority-{id(trusted or authority)}.pem"
    (trusted or authority).cert_pem.write_to_path(file)
    with scripted(context=context) as server:
        entry = {"name": f"tls-{server.port}", "url": server.url, "verify": str(file)}
        async with farming(folder, [entry]) as engine:
            run = await engine.run(chain_of(folder, painted(), name=f"on-{server.port}"), check=False)
        if not code(run):
            assert len(run["picture"].artifacts) == 1
            assert server.asked("/ws"), "the websocket trusts whom HTTP trusts"
    return run, server


async def test_R18_a_server_that_is_busy_for_a_while(folder: Path) -> None:
    """503 for some seconds, then fine: asked ever more slowly, and the step does not fail."""
    with scripted() as server:
        began = time.monotonic()
        server.on("* ", lambda talk: (reply(b"", 503) if time.monotonic() < began + 3 else talk.server.healthy)(talk))
        async with farming(folder, [server.url], timeouts=replace(BRIEF, busy=60.0)) as engine:
            run = await engine.run(chain_of(folder, painted()))
        assert code(run) == ""
        assert 2 <= len([r for r in server.requests if r.at < began + 3]) <= 7


def test_R18_the_whole_corpus_is_here() -> None:
    elsewhere = {
        "026": test_R18_a_prompt_that_a_restarted_server_forgot_is_sent_again,
        "027": test_R18_an_id_of_the_servers_own_gives_one_version,
        "028": test_R18_a_server_that_is_busy_for_a_while,
        "036": test_R18_certificates,
        "037": test_R18_certificates,
    }
    assert {case.id[-3:] for case in cases("server_response")} == PLAYS.keys() | elsewhere.keys()
