"""Secrets and the server: `serve --execute` runs what has them, and no address of it shows one or opens another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from tests.adapters.conftest import check
from tests.conformance import secret_steps as steps
from tests.conformance.secrets import CANARY, recorded, traces
from towpath.adapters.http.responses import masked
from towpath.adapters.http.settings import Webhook

from .conftest import OpenSite, Site
from .serving import PATIENCE, on_a_socket
from .test_serve import served, until
from .test_webhooks import Receiver, begun, quick

__all__ = ["quick"]
pytestmark = pytest.mark.anyio

YAML = """
name: secretive
inputs:
  key: { type: string, secret: true }
  plain: { type: json, default: null }
steps:
  - id: login
    python: tests.conformance.secret_steps:login
    parameters: { key: "{{ inputs.key }}" }
  - id: bearer
    python: tests.conformance.secret_steps:ask
    depends_on: [login]
    parameters: { token: "Bearer {{ login.output }}", more: "{{ inputs.plain }}" }
  - id: review
    python: tests.conformance.secret_steps:reviewed
    depends_on: [login]
    parameters: { name: bob }
    requires_approval: true
  - id: boom
    python: tests.conformance.secret_steps:boom
    depends_on: [bearer]
    parameters: { token: "{{ inputs.key }}" }
"""
SIGNED = "0123456789abcdef-secret"


async def test_no_address_of_the_server_shows_a_secret(open_site: OpenSite, store: Path) -> None:
    """The API, the pages, event rows and a webhook, of a run that puts its secret everywhere it can."""
    heard = Receiver()
    async with (
        on_a_socket(heard.app) as url,
        open_site(webhooks=(Webhook(f"{url}/hook", SIGNED),), execute=True) as site,
    ):
        await begun(site)
        run = await site.engine.run(steps.failing, key=CANARY, check=False)
        other = await site.engine.run(steps.all_kinds, key=CANARY)
        await heard.until(2)
        texts = []
        for one in (run.id, other.id):
            rows = (await site.get(f"/api/v1/workflows?chain_id={one}")).json()["rows"]
            paths = [
                f"/api/v1/chains/{one}",
                f"/api/v1/chains/{one}/definition",
                f"/api/v1/chains/{one}/events?limit=1000",
                f"/api/v1/workflows?chain_id={one}",
                *(f"/api/v1/workflows/{row['id']}" for row in rows),
                f"/runs/{one}",
                *(f"/runs/{one}/steps/{row['step_id']}" for row in rows),
                f"/runs/{one}/history",
                "/runs",
            ]
            answers = [await site.get(path, "admin") for path in paths]
            assert {answer.status_code for answer in answers} <= {200, 404}
            assert sum(answer.status_code == 200 for answer in answers) > 6
            texts += [answer.text for answer in answers]
    told = "".join(texts) + "".join(str(body) for _, _, body in heard.heard)
    assert CANARY not in told
    assert "gAAAA" not in told, "nor what is kept of it"
    assert "***" in told
    assert traces(store) == []


def test_a_server_that_executes_runs_what_has_secrets(tmp_path: Path) -> None:
    """Started over HTTP, killed at a gate, resumed by the next server: it needs the key beside the store."""
    store = tmp_path / "towpath.db"
    words = ("--execute", "--import", "tests.conformance.secret_steps")
    with served(store, *words) as (url, process):
        body = {"yaml": YAML, "inputs": {"key": CANARY}}
        run = httpx.post(f"{url}/api/v1/chains", json=body).json()["id"]
        texts = [json.dumps(until(url, run, "paused"))]
        process.kill()
    with served(store, *words) as (url, _):
        (gate,) = httpx.get(f"{url}/api/v1/approvals?status=pending").json()["rows"]
        httpx.post(f"{url}/api/v1/approvals/{gate['id']}/approve", json={"seen": gate["artifact_ids"], "by": "Ann"})
        shown = until(url, run, "failed")
        texts += [json.dumps(shown), httpx.get(f"{url}/runs/{run}").text]
    by_id = {step["step_id"]: step for step in shown["steps"]}
    assert by_id["bearer"]["value"]["length"] == len(f"Bearer session-{CANARY}")
    assert by_id["login"]["value"] == "***"
    assert CANARY not in "".join(texts)
    assert traces(store) == []
    check(store)


@pytest.mark.parametrize(
    "inputs",
    [
        {"key": {"$secret": {"env": "HTTP_CANARY_KEY"}}},  # a mark as a secret input
        {"key": "x", "plain": {"$secret": {"env": "HTTP_CANARY_KEY"}}},  # a mark as any other input
        {"key": "x", "plain": [{"deep": {"$secret": {"sealed": "gAAAA"}}}]},  # inside of data
        {"key": "x", "plain": {"$secret": "HTTP_CANARY_KEY"}},  # of another form
    ],
)
async def test_no_request_opens_a_variable_of_the_server(
    inputs: dict[str, Any], site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only code and the command line may name a variable; in a request a mark is refused."""
    monkeypatch.setenv("HTTP_CANARY_KEY", CANARY)
    answer = await site.post("/api/v1/chains", "operator", json={"yaml": YAML, "inputs": inputs})
    assert answer.status_code == 422, answer.text
    assert (await site.get("/api/v1/chains")).json()["rows"] == []


@pytest.mark.parametrize(
    "change",
    [
        ("secret: true }", "secret: true, default: { $secret: { env: HTTP_CANARY_KEY } } }"),  # as a default
        ("default: null", "default: { $secret: { env: HTTP_CANARY_KEY } }"),  # of an input that is not secret
        ("name: bob", "name: { $secret: { env: HTTP_CANARY_KEY } }"),  # as an argument
        ("secret: true", "secret: true, env: HTTP_CANARY_KEY"),  # as a key that does not exist
    ],
)
async def test_no_chain_in_a_request_opens_a_variable_of_the_server(
    change: tuple[str, str], site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text in a request names no variable: it is refused, or the mark is plain data that opens nothing."""
    monkeypatch.setenv("HTTP_CANARY_KEY", CANARY)
    assert change[0] in YAML
    body = {"yaml": YAML.replace(*change), "inputs": {"key": "x"}}
    answer = await site.post("/api/v1/chains", "operator", json=body)
    if answer.status_code < 300:
        run = answer.json()["id"]
        with anyio.move_on_after(PATIENCE):
            await site.engine.resume(run, check=False)
        row = next(row for row in (await site.engine.store.load(run)).rows if row.step == "review")
        assert change[0] == "name: bob"
        assert row.error is not None, "the step got the mark itself, and what it returns cannot be one"
        assert row.error.code == "E_VALUE_TYPE"
        assert CANARY not in await recorded(site.engine, run)
    else:
        assert answer.status_code == 422, answer.text


async def test_a_request_does_not_learn_what_variables_hold(
    site: Site, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guess that is right is kept like one that is wrong: encrypted."""
    monkeypatch.setenv("HTTP_CANARY_KEY", CANARY)
    for guess in (CANARY, "another-guess"):
        answer = await site.post("/api/v1/chains", "operator", json={"yaml": YAML, "inputs": {"key": guess}})
        inputs = (await site.engine.store.load(answer.json()["id"])).inputs
        assert list(inputs["key"]["$secret"]) == ["sealed"]
        assert (await site.get(f"/api/v1/chains/{answer.json()['id']}")).json()["inputs"]["key"] == "***"
    assert traces(store) == []


def test_marks_are_shown_as_what_they_are() -> None:
    """Responses show neither the place of a secret nor its cipher text."""
    mark = {"$secret": {"sealed": "gAAAA"}}
    assert masked({"a": mark, "b": [mark], "password": {"x": mark}}) == {
        "a": "***",
        "b": ["***"],
        "password": {"x": "***"},
    }


async def test_errors_of_requests_repeat_no_secret(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong value is repeated, unless a variable of the server holds it, or it looks like a secret."""
    monkeypatch.setenv("HTTP_CANARY_KEY", CANARY)
    for path in (f"/api/v1/chains/{CANARY.replace('/', '%2F')}", f"/api/v1/chains?limit={CANARY.replace('+', '%2B')}"):
        answer = await site.get(path)
        assert answer.status_code >= 400
        assert CANARY not in answer.text
    answer = await site.post(
        "/api/v1/chains", "operator", json={"yaml": f"name: {CANARY}\nsteps: [{{ id: {CANARY} }}]"}
    )
    assert answer.status_code == 422
    assert CANARY not in answer.text
