"""Who did what stands in the audit trail; signing out ends the session; limits hold before anything is read."""

from __future__ import annotations

import csv
import io
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from towpath import chain

from .conftest import OpenSite, Site, raw
from .steps import shout, write

pytestmark = pytest.mark.anyio

YAML = """
name: plain
steps: [{ id: told, python: "tests.http.steps:write", parameters: { text: x } }]
"""


@chain
def story(text: str) -> Any:
    note = write(text).with_approval()
    return shout(note)


@chain
def outer(text: str) -> Any:
    return story(text)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def events(site: Site, run_id: str | None = None) -> list[dict[str, Any]]:
    path = "/api/v1/events" if run_id is None else f"/api/v1/chains/{run_id}/events"
    rows: list[dict[str, Any]] = (await site.get(path)).json()["rows"]
    return rows


def who(rows: list[dict[str, Any]], kind: str) -> list[str]:
    """The names in lines of a kind."""
    return [row["data"]["by"] for row in rows if row["type"] == kind and "by" in row["data"]]


async def test_every_deed_has_a_name(site: Site) -> None:
    """Started, run again, paused, resumed, cancelled, deleted; keys, links, sessions: the key's name, as it was."""
    names = {role: (await site.get("/api/v1/me", role)).json()["name"] for role in ("operator", "approver", "admin")}
    admin, operator = site.client("admin"), site.client("operator")
    made = (await operator.post("/api/v1/chains", json={"yaml": YAML})).json()["id"]
    assert who(await events(site, made), "ChainCreated") == [names["operator"]]
    assert (await operator.post(f"/api/v1/chains/{made}/pause")).status_code == 202
    assert (await operator.post(f"/api/v1/chains/{made}/cancel")).status_code == 202
    again = (await operator.post(f"/api/v1/chains/{made}/rerun", json={})).json()["id"]
    assert who(await events(site, again), "ChainCreated") == [names["operator"]]
    told = await events(site, made)
    assert (who(told, "PauseRequested"), who(told, "CancelRequested")) == ([names["operator"]], [names["operator"]])
    run = await site.engine.run(story, text="a")
    assert who(await events(site, run.id), "ChainCreated") == [], "a script has no name"
    (gate,) = await site.engine.approvals(run.id)
    link = await site.post(f"/api/v1/approvals/{gate['id']}/link", "approver", json={})
    assert link.status_code == 201
    assert who(await events(site, run.id), "LinkMade") == [names["approver"]]
    (artifact,) = (await site.get(f"/api/v1/artifacts?chain_id={run.id}")).json()["rows"]
    assert (await admin.post(f"/api/v1/chains/{run.id}/cancel")).status_code == 202
    assert (await admin.delete(f"/api/v1/artifacts/{artifact['id']}")).json()["deleted"]
    assert who(await events(site, run.id), "ArtifactDeleted") == [names["admin"]]
    assert (await admin.delete(f"/api/v1/chains/{run.id}")).json()["deleted"]
    assert (await admin.post("/api/v1/keys", json={"name": "kim", "role": "viewer"})).status_code == 201
    assert (await admin.delete("/api/v1/keys/kim")).json()["deleted"]
    rows = await events(site)
    assert [row["data"]["run_id"] for row in rows if row["type"] == "ChainDeleted"] == [run.id]
    for kind in ("ChainDeleted", "KeyMade", "KeyRevoked"):
        assert who(rows, kind)[-1] == names["admin"], kind
    text = str(rows)
    assert not any(key in text for key in site.keys.values()) and link.json()["url"].rpartition("/")[2] not in text


async def test_who_did_what_outlives_the_run(site: Site) -> None:
    """Who started, decided and cancelled it, also in a run inside of it; what it was about is gone with it."""
    names = {role: (await site.get("/api/v1/me", role)).json()["name"] for role in ("operator", "approver", "admin")}
    run = await site.engine.run(outer, text="a-canary-text")
    (gate,) = await site.engine.approvals()
    inner = gate["chain_id"]
    assert inner != run.id
    body = {"seen": gate["artifact_ids"], "reason": "a-canary-reason"}
    assert (await site.post(f"/api/v1/approvals/{gate['id']}/approve", "approver", json=body)).status_code == 200
    assert (await site.post(f"/api/v1/chains/{run.id}/cancel", "operator")).status_code == 202
    before = [row for row in await events(site) if "by" in row["data"]]
    assert (await site.client("admin").delete(f"/api/v1/chains/{run.id}")).json()["deleted"]
    rows = await events(site)
    kept = {(row["seq"], row["type"], row["at"], row["data"]["by"]) for row in rows if "by" in row["data"]}
    assert kept > {(row["seq"], row["type"], row["at"], row["data"]["by"]) for row in before}
    assert names["approver"] in [row["data"]["by"] for row in rows if row["data"].get("run_id") == inner]
    assert names["operator"] in [row["data"]["by"] for row in rows if row["data"].get("run_id") == run.id]
    assert all(row["chain_id"] is None for row in rows)
    assert "canary" not in str(rows)


async def test_going_on_is_noted(open_site: OpenSite) -> None:
    async with open_site(execute=True) as site:
        run = await site.engine.run(story, text="a")
        assert (await site.post(f"/api/v1/chains/{run.id}/resume", "operator")).status_code == 202
        assert who(await events(site, run.id), "ResumeRequested") == [
            (await site.get("/api/v1/me", "operator")).json()["name"]
        ]


async def test_the_history_page_names_who_asked(site: Site) -> None:
    made = (await site.post("/api/v1/chains", "operator", json={"yaml": YAML})).json()["id"]
    await site.post(f"/api/v1/chains/{made}/cancel", "operator")
    page = await site.get(f"/runs/{made}/history", "viewer", headers={"Accept": "text/html"})
    name = (await site.get("/api/v1/me", "operator")).json()["name"]
    assert page.text.count(name) >= 2, "who started it, and who cancelled it"


async def signed_in(site: Site, role: str) -> httpx.AsyncClient:
    browser = site.client(headers={"Origin": "http://127.0.0.1:8700"})
    assert (await browser.post("/login", json={"key": site.keys[role]})).status_code == 200
    return browser


async def test_signing_out_ends_the_session_on_the_server(site: Site) -> None:
    """The cookie of yesterday, a copy in another browser, and one from before a restart open nothing."""
    browser, other = await signed_in(site, "admin"), await signed_in(site, "admin")
    cookie = browser.cookies["towpath_session"]
    assert (await browser.get("/api/v1/me")).json()["way"] == "session"
    assert (await browser.post("/logout")).status_code == 200
    old = [(b"cookie", f"towpath_session={cookie}".encode())]
    assert (await raw(site.app, "GET", "/api/v1/me", old)).status == 401
    assert (await raw(site.app, "POST", "/api/v1/keys", [*old, (b"origin", b"http://127.0.0.1:8700")])).status == 401
    assert (await raw(site.app, "GET", "/api/v1/me", [(b"cookie", b"a=b; " + old[0][1] + b"; c=d")])).status == 401
    assert (await other.get("/api/v1/me")).status_code == 200, "the other session is another one"
    name = (await other.get("/api/v1/me")).json()["name"]
    rows = await events(site)
    assert (who(rows, "SignedIn"), who(rows, "SignedOut")) == ([name, name], [name])
    assert (await raw(site.app, "POST", "/logout", [*old, (b"origin", b"http://127.0.0.1:8700")])).status == 200
    assert who(await events(site), "SignedOut") == [name], "it ends once"


async def test_a_cookie_that_was_made_with_the_secret_alone_opens_nothing(site: Site) -> None:
    """With the server's secret, a cookie can be forged; without a row, its session is not valid."""
    forged = site.app.state.authenticator.cookies.cookie("guessed")
    assert (await raw(site.app, "GET", "/api/v1/me", [(b"cookie", f"towpath_session={forged}".encode())])).status == 401


async def test_sign_ins_are_counted_before_anything_is_read(open_site: OpenSite) -> None:
    """Wrong keys, broken bodies and none at all count alike; the body of one too many is not touched."""
    kind = (b"content-type", b"application/json")
    async with open_site(failed_keys=3) as site:
        right = [b'{"key":"' + site.keys["viewer"].encode() + b'"}']
        for _ in range(6):  # a right key is no wrong one
            assert (await raw(site.app, "POST", "/login", [kind], list(right))).status == 200
        for body in (b'{"key":"tp_wrong"}', b"{", b'{"key":"a","key":"a"}'):
            assert (await raw(site.app, "POST", "/login", [kind], [body])).status in (400, 401)
        left = [b'{"key":"tp_wrong"}']
        answer = await raw(site.app, "POST", "/login", [kind], left)
        assert (answer.status, answer.code, len(left)) == (429, "E_AUTH_RATE", 1)
        bearer = (b"authorization", f"Bearer {site.keys['viewer']}".encode())
        assert (await raw(site.app, "GET", "/api/v1/me", [bearer])).status == 200, (
            "a right key in the header still goes"
        )


async def test_a_login_is_short(site: Site) -> None:
    for kind in (b"application/json", b"application/x-www-form-urlencoded"):
        answer = await raw(site.app, "POST", "/login", [(b"content-type", kind)], [b" " * 20_000])
        assert (answer.status, answer.code) == (413, "E_BODY_SIZE")


async def test_what_a_key_changes_is_counted(open_site: OpenSite) -> None:
    """Looking is not counted, and one key's haste is not another's."""
    async with open_site(changes_a_minute=3) as site:
        statuses = [(await site.post("/api/v1/chains", "operator", json={})).status_code for _ in range(5)]
        assert statuses == [422, 422, 422, 429, 429]
        assert (await site.get("/api/v1/chains", "operator")).status_code == 200
        assert (await site.post("/api/v1/chains", "admin", json={})).status_code == 422


async def test_an_upload_leaves_the_disk_room_for_runs(open_site: OpenSite) -> None:
    """Refused before it is read where it says its size, and else when the room is used up."""
    async with open_site(keep_free=2**60) as site:
        run = await site.engine.run(story, text="a")
        (artifact,) = (await site.get(f"/api/v1/artifacts?chain_id={run.id}")).json()["rows"]
        path = f"/api/v1/artifacts/{artifact['id']}/versions"
        for headers in ({}, {"Content-Type": "text/plain"}):
            answer = await site.post(path, "approver", content=b"x" * 10, headers=headers, params={"by": "kim"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (507, "E_DISK_FULL")
        assert len((await site.get(f"/api/v1/artifacts/{artifact['id']}/versions")).json()["rows"]) == 1


@pytest.mark.parametrize(
    "query",
    [
        "/chains?limit=1&limit=2",
        "/chains?limit=1&limit=1",
        "/chains?sort=name&sort=name",
        "/chains?after=x&after=y",
        "/artifacts?order=asc&order=desc",
        "/artifacts?chain_id=a&chain_id=b",
        "/events?limit=1&limit=2",
        "/events?after=1&after=2",
        "/approvals?search=a&search=b",
        "/workflows?offset=0&offset=1",
        "/me?a=1&a=2",
    ],
)
async def test_a_parameter_is_given_once(site: Site, query: str) -> None:
    """Which of the two would count? The same for what is equal, unknown, or of a route that takes none."""
    answer = await site.get(f"/api/v1{query}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "E_PARAM_TYPE"), answer.text


@pytest.mark.parametrize(
    "query",
    [
        "file_size=1&file_size[eq]=2",
        "file_size[eq]=2&file_size=1",
        "file_size[gte]=1&file_size[gte]=2",
        "file_type=image&file_type[eq]=video",
        "created_at[gte]=1&created_at[gte]=1",
        "workflow_id=a&workflow_id[eq]=a",
        "is_latest=true&is_latest[eq]=false",
    ],
)
async def test_one_filter_has_one_value(site: Site, query: str) -> None:
    """However it is written: the second one would silently count, or the first."""
    answer = await site.get(f"/api/v1/artifacts?{query}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "E_PARAM_TYPE"), answer.text


async def test_words_of_a_filter_may_be_given_apart(site: Site) -> None:
    assert (await site.get("/api/v1/chains?status=failed&status=partial")).status_code == 200


UNNAMED = (
    "last", "last~1", "last~0", "LAST", "last~", " ", "", "  a", "a ", ".", "..", ".a", "a.", "-a", "--all", "a/b",
    "a\\b", "%2e%2e", "%2E", "a%2fb", "a%5cb", "a%00", "a\0b", "a\nb", "a\tb", "a\x1b[2J", "a\x7fb", "a\x9bb",
    "a\u202eb", "a\u200bb", "a\u2066b", "\ufeffa", "a\u00a0b", "a\u2028b", "a%E2%80%AEb", "?a", "#a", "*", "'a", "$a",
    "\uff4c\uff41\uff53\uff54", "\uff2c\uff21\uff33\uff34", "la\uff53t", "last \uff5e1", "l a s t", "la st", "last ~1",
    "last\u3000~1", ";a", "(a)", "{a}", "[a]", "~a", "!1", "\ud800", "a" * 201,
)  # fmt: skip


@pytest.mark.parametrize("run_id", UNNAMED)
async def test_a_run_id_that_nobody_could_name(site: Site, run_id: str) -> None:
    """On a command line `last` is another run, `-a` an option; in a terminal bidi characters show another name."""
    if "\ud800" not in run_id:
        answer = await site.post("/api/v1/chains", "operator", json={"yaml": YAML, "run_id": run_id})
        assert answer.status_code in (400, 422), answer.text
        assert answer.json()["error"]["code"] in ("E_RUN_ID", "E_TEXT_CONTROL", "E_BODY_FIELD"), answer.text
    with pytest.raises(Exception, match="E_RUN_ID"):
        await site.engine.run(story, run_id=run_id, text="a")
    assert (await site.get("/api/v1/chains")).json()["rows"] == []


@pytest.mark.parametrize(
    "run_id", ["a", "2026-11-29", "photo no. 7", "ü", "日本", "lasting", "last-1", "a@b:c+d=e,f~g_h", "100 %", "a&b"]
)
async def test_a_run_id_that_can_be_named(site: Site, run_id: str) -> None:
    answer = await site.post("/api/v1/chains", "operator", json={"yaml": YAML, "run_id": run_id})
    assert answer.status_code == 202, answer.text
    assert (await site.get(f"/api/v1/chains/{quote(run_id)}")).json()["id"] == run_id


@pytest.mark.parametrize(
    "text",
    ["=1+1", "+1", "-1", "@a", "\n=1", "\r=1", "\t=1", " =1", "\n",
     "\uff1d1", "\uff0b1", "\uff0d1", "\uff20a", " \uff1d1",
     "\u3000=1", "\ufe661", "\x0b=1", "\x85=1", "\ufeff=1", "\u200b=1"],
)  # fmt: skip
async def test_no_cell_is_a_formula(site: Site, text: str) -> None:
    """Whatever a spreadsheet drops before it looks: breaks, gaps of any width, and signs of full width."""
    from towpath.adapters.http.approval_routes import _cell

    sheet = io.StringIO()
    csv.writer(sheet).writerow([_cell(text)])
    (cell,) = next(csv.reader(io.StringIO(sheet.getvalue(), newline="")))
    assert cell == f"'{text}"


@pytest.mark.parametrize("text", ["", "a=1", "kim (key kim)", "1", "ü", "nothing - really"])
async def test_other_cells_stay_as_they_are(text: str) -> None:
    from towpath.adapters.http.approval_routes import _cell

    assert _cell(text) == text
