"""The corpus group `secrets`, as far as the server shows, logs or keeps anything."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
import sqlalchemy as sa
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.corpus import Case
from towpath import open_engine
from towpath.adapters.http.errors import safe_text
from towpath.adapters.http.responses import masked
from towpath.adapters.http.settings import Webhook
from towpath.errors import TowpathError
from towpath.store.tables import webhook_cursors

from .conftest import OpenSite, Site
from .corpus_cases import ids, of_corpus, played
from .serving import eventually, on_a_socket
from .steps import leaky, lost, plain, secretive
from .test_deciding import YAML as PLAIN

pytestmark = pytest.mark.anyio

SECRET = "S3CRET-CANARY"


async def cursors(site: Site) -> int:
    """How many receivers of webhooks the store knows."""
    async with site.app.state.records.session() as session:
        return len(await session.fetch_all(sa.select(webhook_cursors)))


@pytest.fixture
def guarded_logs() -> Iterator[None]:
    """The loggers as `towpath serve` sets them up; as they were afterwards."""
    from towpath.adapters.cli.server import QUIET, _guard_logs

    before = {name: logging.getLogger(name).level for name in QUIET}
    access = list(logging.getLogger("uvicorn.access").filters)
    _guard_logs()
    yield
    logging.getLogger("uvicorn.access").filters[:] = access
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


@of_corpus("secrets-001")
async def test_a_password_in_an_address_is_not_told(wanted: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by the error that names a database, nor by an answer that tells of one."""
    address = f"postgresql://u:{SECRET}@h/db"
    monkeypatch.delenv("TOWPATH_STORE", raising=False)
    monkeypatch.setenv("DATABASE_URL", address)
    with pytest.raises(TowpathError) as error:
        async with open_engine():
            pass
    assert SECRET not in str(error.value)
    monkeypatch.delenv("DATABASE_URL")
    told = safe_text(f"cannot connect to {address}")
    assert told == "cannot connect to postgresql://u:***@h/db"
    assert told.rpartition(" ")[2] in wanted.expect


@of_corpus("secrets-002")
async def test_headers_of_callers_are_not_logged(
    open_site: OpenSite, caplog: pytest.LogCaptureFixture, wanted: Case
) -> None:
    """With every logger at its most talkative, whatever is answered, a fault of ours included."""
    caplog.set_level(logging.DEBUG)
    async with open_site() as site:
        key = site.keys["viewer"]
        for path in ("/api/v1/chains", "/api/v1/nothing", "/api/v1/chains/x", "/api/v1/artifacts?limit=x"):
            await site.get(path)
        async with site.client() as browser:
            cookie = (await browser.post("/login", json={"key": key})).headers["set-cookie"].split("=")[1].split(";")[0]
            await browser.get("/api/v1/me")
        monkeyed = site.app.state.records
        monkeyed.page = None
        assert (await site.get("/api/v1/chains")).status_code == 500, wanted.expect
    assert "NoneType" in caplog.text, "the fault itself is logged"
    assert key not in caplog.text
    assert cookie not in caplog.text


@of_corpus("secrets-006")
@pytest.mark.usefixtures("guarded_logs")
async def test_headers_of_webhooks_are_not_logged(
    open_site: OpenSite, caplog: pytest.LogCaptureFixture, wanted: Case
) -> None:
    """Neither what is sent under, nor what a receiver answers with, although the root logger tells everything."""
    heard: list[str] = []

    async def hook(request: Request) -> Response:
        heard.append(request.headers["webhook-signature"])
        return Response(status_code=200, headers={"Set-Cookie": SECRET})

    caplog.set_level(logging.DEBUG)
    receiver = Starlette(routes=[Route("/hook", hook, methods=["POST"])])
    async with (
        on_a_socket(receiver) as url,
        open_site(webhooks=(Webhook(f"{url}/hook", "0123456789abcdef-secret"),)) as site,
    ):
        while not await cursors(site):  # noqa: ASYNC110 - a row in the store
            await anyio.sleep(0.01)
        await site.engine.run(plain)
        await eventually(lambda: bool(heard))
    assert SECRET not in caplog.text, wanted.expect
    assert heard[0] not in caplog.text


@of_corpus("secrets-003")
async def test_an_input_that_is_called_like_a_secret_is_not_shown(site: Site, wanted: Case) -> None:
    """`***` in the run, its definition, its steps and its events; other inputs are shown."""
    run = await site.engine.run(secretive, api_key=SECRET, text="fine")
    texts = [
        (await site.get(path)).text
        for path in (
            f"/api/v1/chains/{run.id}",
            f"/api/v1/chains/{run.id}/definition",
            f"/api/v1/chains/{run.id}/events",
            f"/api/v1/workflows?chain_id={run.id}",
        )
    ]
    assert all(SECRET not in text for text in texts)
    assert '"api_key":"***"' in texts[0]
    assert '"text":"fine"' in texts[0]
    assert "shown as ***" in wanted.expect


@of_corpus("secrets-005")
async def test_a_secret_of_this_process_in_an_exception(
    site: Site, store: Path, monkeypatch: pytest.MonkeyPatch, wanted: Case
) -> None:
    """A step's text that holds a secret of the environment is kept and sent without the secret."""
    monkeypatch.setenv("UPSTREAM_TOKEN", SECRET)
    run = await site.engine.run(leaky, check=False)
    for path in (f"/api/v1/chains/{run.id}", f"/api/v1/chains/{run.id}/events", "/api/v1/workflows"):
        answer = await site.get(path)
        assert SECRET not in answer.text
        assert answer.status_code == 200
    kept = [file for file in store.parent.rglob("*") if file.is_file() and SECRET.encode() in file.read_bytes()]
    assert kept == [], wanted.expect


@of_corpus("secrets-007")
@pytest.mark.usefixtures("guarded_logs")
async def test_statements_are_not_logged(open_site: OpenSite, caplog: pytest.LogCaptureFixture, wanted: Case) -> None:
    """Even with the root logger at DEBUG, no log holds a statement with its values."""
    caplog.set_level(logging.DEBUG)
    async with open_site() as site:
        await site.engine.run(secretive, api_key=SECRET)
        await site.get("/api/v1/chains", params={"search": SECRET})
    assert SECRET not in caplog.text, wanted.expect
    assert logging.getLogger("databases").getEffectiveLevel() >= logging.INFO


def test_masking_leaves_everything_else_as_it_is() -> None:
    """By name, at any depth, texts only."""
    data = {"a": [{"password": "x", "max_tokens": 5, "n": 1.5}], "secretary": "", "token": None, "x": "token"}
    assert masked(data) == {
        "a": [{"password": "***", "max_tokens": 5, "n": 1.5}],
        "secretary": "",
        "token": None,
        "x": "token",
    }


def test_masking_goes_into_what_is_named_like_a_secret() -> None:
    """A list of keys, and a table of credentials, are no less secret than a lone one."""
    data = {"api_keys": ["x", {"id": "y", "n": 1}], "credentials": {"user": "u", "more": ["z", None]}}
    assert masked(data) == {
        "api_keys": ["***", {"id": "***", "n": 1}],
        "credentials": {"user": "***", "more": ["***", None]},
    }


async def test_a_default_that_is_called_like_a_secret_is_not_shown(site: Site, tmp_path: Path) -> None:
    """A chain file may hold one: neither its list nor the definition of its runs shows it."""
    text = PLAIN.replace(
        "inputs: {", f"metadata: {{ token: {SECRET} }}\ninputs: {{ api_key: {{ type: string, default: {SECRET} }}, "
    )
    run = (await site.post("/api/v1/chains", "operator", json={"yaml": text})).json()["id"]
    answer = await site.get(f"/api/v1/chains/{run}/definition")
    assert answer.status_code == 200
    assert SECRET not in answer.text
    assert '"default":"hello"' in answer.text


async def test_events_show_no_folder_however_deep_it_lies(site: Site) -> None:
    """An error in a fact is sent without the folders of this machine."""
    run = await site.engine.run(lost, check=False)
    answer = await site.get(f"/api/v1/chains/{run.id}/events")
    assert "…/photo.png" in answer.text
    assert "/srv/private" not in answer.text


def test_access_log_tells_no_token_and_no_query() -> None:
    """What uvicorn logs of a request goes through the filter."""
    from towpath.adapters.cli.server import WithoutTokens

    record = logging.LogRecord(
        "uvicorn.access",
        logging.INFO,
        "",
        0,
        '%s - "%s %s HTTP/%s" %d',
        ("127.0.0.1:1", "GET", "/a/tok.en?x=y", "1.1", 200),
        None,
    )
    assert WithoutTokens().filter(record)
    assert record.getMessage() == '127.0.0.1:1 - "GET /a/*** HTTP/1.1" 200'


def test_every_case_of_the_group_is_played() -> None:
    """No case was left out: each is the parameter of a test, which is named by it."""
    elsewhere = {"secrets-008"}  # inputs of Temporal workflows are another adapter's
    assert ids("secrets") - played(sys.modules[__name__]) == elsewhere
