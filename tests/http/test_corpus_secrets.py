"""The corpus group `secrets`, as far as the server shows, logs or keeps anything."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.corpus import cases
from towpath.adapters.http.refusals import safe_text
from towpath.adapters.http.shapes import masked

from .conftest import OpenSite, Site
from .steps import leaky, secretive

pytestmark = pytest.mark.anyio

CASES = {case.id: case for case in cases("secrets")}
SECRET = "S3CRET-CANARY"


def test_secrets_001_a_password_in_an_address_is_not_told() -> None:
    """An error that names a database names it without its password."""
    assert safe_text("cannot connect to postgresql://u:S3CRET@h/db") == "cannot connect to postgresql://u:***@h/db"
    assert "u:***@h/db" in CASES["secrets-001"].expect


async def test_secrets_002_006_headers_are_not_logged(open_site: OpenSite, caplog: pytest.LogCaptureFixture) -> None:
    """Not those of callers, not those of ours, with every logger at its most talkative."""
    caplog.set_level(logging.DEBUG)
    async with open_site() as site:
        key = site.keys["viewer"]
        for path in ("/api/v1/chains", "/api/v1/nothing", "/api/v1/chains/x", "/api/v1/artifacts?limit=x"):
            await site.get(path)
        async with site.client() as browser:
            cookie = (await browser.post("/login", json={"key": key})).headers["set-cookie"].split("=")[1].split(";")[0]
            await browser.get("/api/v1/me")
    assert key not in caplog.text
    assert cookie not in caplog.text
    assert "not logged" in CASES["secrets-002"].expect
    assert "no header values" in CASES["secrets-006"].expect


async def test_secrets_003_an_input_that_is_called_like_a_secret_is_not_shown(site: Site) -> None:
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
    assert "shown as ***" in CASES["secrets-003"].expect


async def test_secrets_005_a_secret_of_this_process_in_an_exception(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a step says of a secret that the environment holds is told without it."""
    monkeypatch.setenv("UPSTREAM_TOKEN", SECRET)
    run = await site.engine.run(leaky)
    for path in (f"/api/v1/chains/{run.id}", f"/api/v1/chains/{run.id}/events", "/api/v1/workflows"):
        answer = await site.get(path)
        assert SECRET not in answer.text
        assert answer.status_code == 200
    assert "redacted" in CASES["secrets-005"].expect


async def test_secrets_007_statements_are_not_logged(open_site: OpenSite) -> None:
    """The server keeps the loggers quiet that would tell statements with their values."""
    from towpath.adapters.cli.serving import _guard_logs

    _guard_logs()
    for name in ("databases", "aiosqlite", "httpx", "httpcore"):
        assert logging.getLogger(name).getEffectiveLevel() >= logging.INFO, name
    assert "never below INFO" in CASES["secrets-007"].expect


def test_secrets_008_has_no_place_here() -> None:
    """Temporal inputs are another adapter's."""
    assert "Temporal" in CASES["secrets-008"].input


def test_masking_leaves_everything_else_as_it_is() -> None:
    """By name, at any depth, texts only."""
    data = {"a": [{"password": "x", "max_tokens": 5, "n": 1.5}], "secretary": "", "token": None, "x": "token"}
    assert masked(data) == {
        "a": [{"password": "***", "max_tokens": 5, "n": 1.5}],
        "secretary": "",
        "token": None,
        "x": "token",
    }


def test_access_log_tells_no_token_and_no_query() -> None:
    """What uvicorn logs of a request goes through the filter."""
    from towpath.adapters.cli.serving import WithoutTokens

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


def test_every_case_of_the_group_is_tested() -> None:
    """No case was left out."""
    source = Path(__file__).read_text()
    assert sorted(i for i in CASES if f'"{i}"' not in source) == []
