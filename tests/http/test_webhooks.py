"""Webhooks: signed, retried, delivered at least once, and without delaying anything else."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
import sqlalchemy as sa
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from towpath.adapters.http import webhooks
from towpath.adapters.http.settings import EVENTS, HttpSettings, Webhook, settings_from
from towpath.errors import InputInvalid
from towpath.store.tables import webhook_cursors

from .conftest import OpenSite, Site
from .serving import PATIENCE, eventually, on_a_socket
from .steps import lost, plain, story

pytestmark = pytest.mark.anyio

SECRET = "0123456789abcdef-secret"


@dataclass
class Receiver:
    """Hears webhooks; answers with `answers` in turn, the last one for ever."""

    answers: list[int] = field(default_factory=lambda: [200])
    heard: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)

    async def hook(self, request: Request) -> Response:
        status = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.heard.append((status, dict(request.headers), await request.body()))
        return Response(status_code=status)

    @property
    def app(self) -> Starlette:
        return Starlette(routes=[Route("/hook", self.hook, methods=["POST"])])

    def told(self, status: int = 200) -> list[dict[str, Any]]:
        """What was heard and answered so."""
        return [json.loads(body) for answered, _, body in self.heard if answered == status]

    async def until(self, count: int) -> None:
        await eventually(lambda: len(self.told()) >= count)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits of milliseconds."""
    init = webhooks.Webhooks.__init__

    def soon(self: Any, records: Any, settings: Any) -> None:
        init(self, records, settings, first_wait=0.01, poll=0.01)

    monkeypatch.setattr(webhooks.Webhooks, "__init__", soon)
    monkeypatch.setattr(webhooks, "LONGEST_WAIT", 0.05)


@pytest.fixture
async def receiver() -> AsyncIterator[tuple[Receiver, str]]:
    """A receiver and its address."""
    made = Receiver()
    async with on_a_socket(made.app) as url:
        yield made, f"{url}/hook"


async def begun(site: Site, receivers: int = 1) -> None:
    """Wait until the server has stored a cursor for each receiver: later events are delivered."""
    with anyio.fail_after(PATIENCE):
        while await _cursors(site) < receivers:  # noqa: ASYNC110 - a row in the store
            await anyio.sleep(0.01)


async def _cursors(site: Site) -> int:
    async with site.app.state.records.session() as session:
        return len(await session.fetch_all(sa.select(webhook_cursors)))


async def test_approval_wanted_and_chain_ended(open_site: OpenSite, receiver: tuple[Receiver, str]) -> None:
    """Both are delivered once, signed, with all that is needed to act on them."""
    heard, url = receiver
    async with open_site(webhooks=(Webhook(url, SECRET),), url="https://tow.example/") as site:
        await begun(site)
        run = await site.engine.run(story)
        await heard.until(1)
        (gate,) = await site.engine.approvals()
        await site.engine.approve(gate, by="Ann")
        await run.resume()
        await heard.until(2)
        await anyio.sleep(0.1)
    wanted, ended = heard.told()
    assert (wanted["type"], wanted["data"]["approval"], wanted["data"]["chain_id"]) == (
        "approval.requested",
        gate["id"],
        run.id,
    )
    assert wanted["data"]["url"] == f"https://tow.example/approvals/{gate['id']}"
    assert (ended["type"], ended["data"]["status"]) == ("chain.ended", "completed")
    for _, headers, body in heard.heard:
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        right = base64.b64encode(hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()).decode()
        assert headers["webhook-signature"] == f"v1,{right}"
        assert json.loads(body)["id"] == headers["webhook-id"]


async def test_told_again_until_heard(open_site: OpenSite, receiver: tuple[Receiver, str]) -> None:
    """Errors and redirects are no answer; the same message comes again, under the same id, and in order."""
    heard, url = receiver
    heard.answers = [500, 302, 404, 503, 200]
    async with open_site(webhooks=(Webhook(url, SECRET, ("chain.ended",)),)) as site:
        await begun(site)
        runs = [(await site.engine.run(plain, text=str(n))).id for n in range(3)]
        await heard.until(3)
    assert [m["data"]["chain_id"] for m in heard.told()] == runs
    assert len({headers["webhook-id"] for _, headers, _ in heard.heard[:5]}) == 1


async def test_what_happened_while_the_server_was_away(open_site: OpenSite, receiver: tuple[Receiver, str]) -> None:
    """The cursor is a row: the next server tells what this one did not, and nothing from before the first one."""
    heard, url = receiver
    hooks = (Webhook(url, SECRET, ("chain.ended",)),)
    async with open_site() as site:
        await site.engine.run(plain)
    async with open_site(webhooks=hooks) as site:
        await begun(site)
    async with open_site() as site:
        away = (await site.engine.run(plain)).id
    async with open_site(webhooks=hooks) as site:
        await heard.until(1)
        await anyio.sleep(0.1)
    assert [m["data"]["chain_id"] for m in heard.told()] == [away]


async def test_what_is_too_old_is_tried_once_at_least(
    open_site: OpenSite, receiver: tuple[Receiver, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that was away for a week tells what it missed; what is not heard then is given up."""
    heard, url = receiver
    monkeypatch.setattr(webhooks, "MOST_AGE", 0)
    hooks = (Webhook(url, SECRET, ("chain.ended",)),)
    async with open_site(webhooks=hooks) as site:
        await begun(site)
    async with open_site() as site:
        runs = [(await site.engine.run(plain, text=str(n))).id for n in range(2)]
    heard.answers = [500, 200]
    async with open_site(webhooks=hooks):
        await heard.until(1)
        await anyio.sleep(0.1)
    told = [json.loads(body)["data"]["chain_id"] for _, _, body in heard.heard]
    assert told == runs


async def test_an_error_in_a_message_holds_no_folder(open_site: OpenSite, receiver: tuple[Receiver, str]) -> None:
    heard, url = receiver
    async with open_site(webhooks=(Webhook(url, SECRET),)) as site:
        await begun(site)
        await site.engine.run(lost, check=False)
        await heard.until(1)
    assert "…/photo.png" in heard.told()[0]["data"]["error"]["message"]
    assert b"/srv/private" not in heard.heard[0][2]


async def test_a_secret_in_the_form_of_the_standard(open_site: OpenSite, receiver: tuple[Receiver, str]) -> None:
    """`whsec_` and base64: what is decoded signs."""
    heard, url = receiver
    key = b"sixteen bytes or more"
    async with open_site(webhooks=(Webhook(url, "whsec_" + base64.b64encode(key).decode()),)) as site:
        await begun(site)
        await site.engine.run(plain)
        await heard.until(1)
    _, headers, body = heard.heard[0]
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    right = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{right}"


async def test_a_dead_receiver_stops_nothing(open_site: OpenSite, receiver: tuple[Receiver, str]) -> None:
    """Neither runs, nor answers, nor the other receivers."""
    heard, url = receiver
    dead = Webhook("http://127.0.0.1:9/hook", SECRET)
    async with open_site(webhooks=(dead, Webhook(url, SECRET))) as site:
        await begun(site, 2)
        assert (await site.engine.run(plain)).status == "completed"
        await heard.until(1)
        assert (await site.get("/api/v1/chains")).status_code == 200


async def test_whoever_is_gone_is_told_nothing_more(open_site: OpenSite, receiver: tuple[Receiver, str]) -> None:
    """410 ends it."""
    heard, url = receiver
    heard.answers = [410]
    async with open_site(webhooks=(Webhook(url, SECRET),)) as site:
        await begun(site)
        for _ in range(3):
            await site.engine.run(plain)
        await eventually(lambda: bool(heard.heard))
        await anyio.sleep(0.2)  # time for a second message, which must not come
    assert len(heard.heard) == 1


async def test_addresses_are_not_logged_whole(
    open_site: OpenSite, receiver: tuple[Receiver, str], caplog: pytest.LogCaptureFixture
) -> None:
    """They may hold a secret; the host is enough to find the trouble."""
    heard, url = receiver
    heard.answers = [500, 200]
    async with open_site(webhooks=(Webhook(f"{url}?token=S3CRET", SECRET, ("chain.ended",)),)) as site:
        await begun(site)
        await site.engine.run(plain)
        await heard.until(1)
    ours = "\n".join(r.getMessage() for r in caplog.records if r.name == "towpath.http")
    assert "webhook 127.0.0.1 answers 500" in ours
    assert "S3CRET" not in ours


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest",
        "http://metadata.google.internal/x",
        "file:///etc/passwd",
        "ftp://h/x",
        "http://0x7f000001/x",
    ],
)
def test_addresses_that_are_never_called(url: str) -> None:
    """Where clouds keep credentials, and spellings that two programs read differently."""
    with pytest.raises(InputInvalid, match="E_URL_"):
        webhooks.checked(Webhook(url, SECRET))


@pytest.mark.parametrize(
    "table",
    [
        {"webhooks": [{"url": "http://h/x"}]},
        {"webhooks": [{"url": "http://h/x", "secret": "short"}]},
        {"webhooks": [{"url": "http://h/x", "secret": SECRET, "events": ["other"]}]},
        {"webhooks": "x"},
        {"port": 1},
        {"hosts": "tow.example"},
        {"webhooks": [{"url": "http://h/x", "secret": "whsec_no base64 at all"}]},
        {"webhooks": [{"url": "http://h/x", "secret": SECRET, "events": "chain.ended"}]},
        {"webhooks": [{"url": "http://h/x", "secret": SECRET, "events": [[]]}]},
        {"webhooks": [{"url": "http://h/x", "secret": SECRET, "events": [e]} for e in EVENTS]},
        {"max_upload": True},
        {"max_upload": 0},
        {"link_hours": -1},
        {"link_hours": "1"},
        {"url": "tow.example"},
    ],
)
def test_settings_that_are_none(table: dict[str, Any]) -> None:
    """E_SETTING, with the place."""
    with pytest.raises(InputInvalid, match="E_SETTING"):
        settings_from(table)


def test_settings_from_the_table_of_the_file() -> None:
    """What an argument says counts more."""
    table = {"hosts": ["Gate.Example"], "webhooks": [{"url": "http://h/x", "secret": SECRET}], "link_hours": 2}
    settings = settings_from(table, more_hosts=["Other"], chains="chains", execute=True, url=None)
    assert settings.hosts == ("gate.example", "other")
    assert settings.webhooks == (Webhook("http://h/x", SECRET),)
    assert (settings.execute, settings.link_hours, str(settings.chains)) == (True, 2, "chains")
    assert HttpSettings().hosts == ()
