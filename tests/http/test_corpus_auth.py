"""The corpus group `http_auth`: who is let in, under which name, and that no other page gets anything."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
from starlette.routing import Route as Routed

from tests.corpus import Case, cases

from .conftest import OpenSite, Site, raw
from .steps import story

pytestmark = pytest.mark.anyio

CHAINS = "/api/v1/chains"
CASES = {case.id: case for case in cases("http_auth")}


def case(number: str) -> Case:
    """A case of the group."""
    return CASES[f"http_auth-{number}"]


def fits(found: int, code: str, wanted: Case) -> None:
    """The answer is one that the corpus allows."""
    assert str(found) in wanted.expect, (found, code, wanted.expect)
    assert not wanted.codes or code in wanted.codes, (code, wanted.codes)


def bearer(key: str) -> tuple[bytes, bytes]:
    return b"authorization", f"Bearer {key}".encode()


@pytest.mark.parametrize(
    ("number", "headers", "query"),
    [
        ("001", [], b""),
        ("002", [(b"authorization", b"Bearer")], b""),
        ("003", [(b"authorization", b"Bearer wrong")], b""),
        ("006", [], b"api_key=x"),
        ("027", [(b"authorization", b"Bearer " + b"x" * 1_000_000)], b""),
        ("028", [(b"authorization", b"Bearer tp_\x00\nabc")], b""),
    ],
    ids=["001", "002", "003", "006", "027", "028"],
)
async def test_keys_that_are_none(site: Site, number: str, headers: list[tuple[bytes, bytes]], query: bytes) -> None:
    """No key, a wrong one, one in the wrong place: 401, whatever it looks like."""
    answer = await raw(site.app, "GET", CHAINS, headers, query=query)
    fits(answer.status, answer.code, case(number))


async def test_two_keys_are_none(site: Site) -> None:
    """Two parties that read different ones of two headers is how doors are opened."""
    headers = [bearer(site.keys["viewer"]), bearer(site.keys["admin"])]
    answer = await raw(site.app, "GET", CHAINS, headers)
    fits(answer.status, answer.code, case("005"))


@pytest.mark.parametrize(
    ("number", "path"),
    [
        ("007", "/api/v1/artifacts/health"),
        ("008", "/api/v1/variables/x/ready"),
        ("010", "//api/v1/chains"),
        ("011", "/api/v1/../v1/chains"),
        ("012", "/API/V1/chains"),
        ("013", "/api/v1/chains;x=1"),
    ],
)
async def test_no_spelling_of_an_address_needs_no_key(site: Site, number: str, path: str) -> None:
    """Nothing is open because of how an address ends or is written; with a key the same is not found."""
    wanted = case(number)
    without = await raw(site.app, "GET", path)
    assert without.status in (401, 404)
    assert str(without.status) in wanted.expect
    assert (await raw(site.app, "GET", path, [bearer(site.keys["admin"])])).status == 404


async def test_pages_of_others_get_nothing(open_site: OpenSite) -> None:
    """A foreign or hidden origin is refused with a session cookie, and without: 403 E_CSRF."""
    async with open_site() as site, site.client() as browser:
        signed_in = await browser.post("/login", json={"key": site.keys["approver"]})
        cookie = signed_in.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "samesite=strict" in cookie.lower()
        assert (await browser.get(CHAINS)).status_code == 200
        answer = await browser.get(CHAINS, headers={"Origin": "null"})
        fits(answer.status_code, answer.json()["error"]["code"], case("015"))
        answer = await browser.post(f"{CHAINS}/x/cancel", headers={"Origin": "https://evil.example"})
        fits(answer.status_code, answer.json()["error"]["code"], case("016"))
        answer = await browser.post(f"{CHAINS}/x/cancel")
        assert answer.json()["error"]["code"] == "E_CSRF", "a cookie alone is no sign of a will"
        answer = await browser.post(f"{CHAINS}/x/cancel", headers={"Origin": "http://127.0.0.1:8700"})
        assert answer.json()["error"]["code"] == "E_ROLE"


async def test_a_form_needs_the_token_of_its_page(site: Site) -> None:
    """A decision posted as a form without the token of a page of ours decides nothing."""
    await site.engine.run(story)
    (gate,) = await site.engine.approvals()
    async with site.client() as browser:
        await browser.post("/login", json={"key": site.keys["approver"]})
        origin = {"Origin": "http://127.0.0.1:8700"}
        answer = await browser.post(f"/approvals/{gate['id']}/approve", data={"seen": "x"}, headers=origin)
        assert answer.status_code == 403
        assert "E_CSRF" in answer.text
        assert str(answer.status_code) in case("017").expect
    assert (await site.engine.get_approval(gate["id"])).status == "pending"


@pytest.mark.parametrize(
    ("headers", "let_in"),
    [
        ({"Origin": "null"}, True),  # a form of ours: our pages send no referrer, so browsers hide their origin
        ({"Origin": "null", "Sec-Fetch-Site": "same-origin"}, True),
        ({"Origin": "null", "Sec-Fetch-Site": "cross-site"}, False),
        ({"Origin": "https://evil.example"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({}, True),
    ],
)
async def test_forms_of_our_pages_reach_their_address(site: Site, headers: dict[str, str], let_in: bool) -> None:
    """With its token a form counts, where the browser does not say that another site sent it."""
    run = await site.engine.run(story)
    (gate,) = await site.engine.approvals()
    async with site.client() as browser:
        await browser.post("/login", json={"key": site.keys["approver"]})
        page = (await browser.get(f"/approvals/{gate['id']}", headers={"Accept": "text/html"})).text
        found = re.search(r'name="csrf" value="([^"]+)"', page)
        assert found is not None
        form = {"csrf": found[1], "seen": gate["artifact_ids"][0]}
        answer = await browser.post(f"/approvals/{gate['id']}/approve", data=form, headers=headers)
        assert answer.status_code == (303 if let_in else 403), answer.text
    assert (await site.engine.get_approval(gate["id"])).status == ("approved" if let_in else "pending")
    assert run.status == "paused"


async def test_people_are_shown_the_way_in(site: Site) -> None:
    """A page without a session leads to the login, and from there on to the page; never to another site."""
    token = ""
    async with site.client(headers={"Accept": "text/html"}) as browser:
        turned = await browser.get("/runs")
        assert (turned.status_code, turned.headers["location"]) == (303, "/login?next=/runs")
        for onward, wanted in (
            ("/runs", "/runs"),
            ("//evil.example", "/"),
            ("https://evil.example", "/"),
            ("/\\evil", "/"),
        ):
            page = (await browser.get("/login")).text
            found = re.search(r'name="csrf" value="([^"]+)"', page)
            assert found is not None
            token = found[1]
            form = {"csrf": token, "key": site.keys["viewer"], "next": onward}
            answer = await browser.post("/login", data=form)
            assert (answer.status_code, answer.headers["location"]) == (303, wanted)
            browser.cookies.clear()
        wrong = await browser.post("/login", data={"csrf": token, "key": "tp_wrong"})
        assert wrong.headers["location"] == "/login?failed=1"
        assert "set-cookie" not in wrong.headers


async def test_a_session_ends_with_its_key(site: Site) -> None:
    """Revoking a key throws out who came in with it; logging out deletes the cookie."""
    rows = (await site.get("/api/v1/keys", "admin")).json()["rows"]
    name = next(row["name"] for row in rows if row["role"] == "viewer")
    async with site.client() as browser:
        await browser.post("/login", json={"key": site.keys["viewer"]})
        assert (await browser.get("/api/v1/me")).json()["way"] == "session"
        await site.app.state.records.revoke_key(name)
        assert (await browser.get("/api/v1/me")).status_code == 401
    async with site.client() as browser:
        await browser.post("/login", json={"key": site.keys["admin"]})
        await browser.post("/logout", headers={"Origin": "http://127.0.0.1:8700"})
        assert (await browser.get("/api/v1/me")).status_code == 401


async def test_a_json_address_takes_json(site: Site) -> None:
    """What a form of another site can send without asking is not read."""
    answer = await site.post(CHAINS, "admin", data={"yaml": "x"})
    fits(answer.status_code, answer.json()["error"]["code"], case("018"))


@pytest.mark.parametrize(
    ("number", "host"), [("020", b"attacker.example"), ("021", b"127.0.0.1.attacker.example"), ("022", b"")]
)
async def test_the_server_has_names(open_site: OpenSite, number: str, host: bytes) -> None:
    """A name that resolves to this machine is not a name of this server, with keys or without any."""
    async with open_site(keys=False) as site:
        answer = await raw(site.app, "GET", CHAINS, [(b"host", host)])
        fits(answer.status, answer.code, case(number))


@pytest.mark.parametrize(
    "host", [b"localhost:99999999", b"localhost:8700@evil", b"LOCALHOST", b"[::1]:8700", b"gate.example:1"]
)
async def test_names_are_compared_whole(open_site: OpenSite, host: bytes) -> None:
    """Upper case and ports do not matter, anything else does."""
    async with open_site(keys=False, hosts=("gate.example",)) as site:
        answer = await raw(site.app, "GET", CHAINS, [(b"host", host)])
        assert answer.status == (400 if b"@" in host else 200)


async def test_headers_that_change_nothing(site: Site) -> None:
    """X-Forwarded-Host and X-HTTP-Method-Override are for others."""
    key = bearer(site.keys["admin"])
    forwarded = await raw(site.app, "GET", CHAINS, [key, (b"x-forwarded-host", b"evil.example")])
    assert (forwarded.status, b"evil" in forwarded.body) == (200, False)
    assert "ignored" in case("023").expect
    run = await site.engine.run(story)
    await site.engine.cancel(run.id)
    path = f"{CHAINS}/{run.id}"
    await raw(site.app, "GET", path, [key, (b"x-http-method-override", b"DELETE")])
    assert (await raw(site.app, "GET", path, [key])).status == 200
    assert "ignored" in case("025").expect


async def test_a_method_that_nobody_needs(site: Site) -> None:
    """TRACE shows a caller's headers to scripts."""
    answer = await raw(site.app, "TRACE", "/")
    fits(answer.status, answer.code, case("026"))


async def test_a_viewer_decides_nothing(site: Site) -> None:
    """Who may look may not decide."""
    await site.engine.run(story)
    (gate,) = await site.engine.approvals()
    answer = await site.post(f"/api/v1/approvals/{gate['id']}/approve", "viewer", json={"seen": gate["artifact_ids"]})
    fits(answer.status_code, answer.json()["error"]["code"], case("030"))
    assert (await site.engine.get_approval(gate["id"])).status == "pending"


async def test_wrong_keys_are_counted(open_site: OpenSite, caplog: pytest.LogCaptureFixture) -> None:
    """Guessing gets slow; a right key is let in all the while; no key is ever logged."""
    caplog.set_level(logging.DEBUG)
    async with open_site(failed_keys=5) as site:
        wrong = [bearer("tp_" + "A" * 43)]
        statuses = [(await raw(site.app, "GET", CHAINS, wrong)).status for _ in range(8)]
        assert statuses == [401] * 5 + [429] * 3
        assert "retry-after" in (await raw(site.app, "GET", CHAINS, wrong)).headers
        assert (await raw(site.app, "GET", CHAINS, [bearer(site.keys["viewer"])])).status == 200
        assert "A" * 43 not in caplog.text
        assert site.keys["viewer"] not in caplog.text


async def test_every_route_refuses_whoever_has_no_key_or_a_lesser_role(site: Site) -> None:
    """The table is walked: 401 without a key and 403 with every role that is not enough, for each route."""
    allowed = {
        "viewer": {"viewer", "operator", "approver", "admin"},
        "operator": {"operator", "admin"},
        "approver": {"approver", "admin"},
        "admin": {"admin"},
        "anyone": set(),
    }
    rows = site.app.state.table.rows
    assert len(rows) > 40
    for row in rows:
        path = re.sub(r"{\w+(:int)?}", "1", row.path)
        assert "{" not in path, f"{path}: teach this test its parameters"
        if row.role == "anyone":
            assert (row.path in ("/login", "/logout", "/api/v1/health")) or row.path.startswith(("/a/", "/static/"))
            continue
        assert (await raw(site.app, row.method, path)).status == 401, row
        for role, key in site.keys.items():
            status = (await raw(site.app, row.method, path, [bearer(key)])).status
            assert (status == 403) == (role not in allowed[row.role]), (row, role, status)


async def test_what_is_routed_is_what_the_table_says(site: Site) -> None:
    """There is no second way in: the app's routes are those of the table, one to one."""
    routes = [route for route in site.app.routes if isinstance(route, Routed)]
    assert len(routes) == len(site.app.routes)
    routed = sorted((next(iter((route.methods or set()) - {"HEAD"})), route.path) for route in routes)
    assert routed == sorted((row.method, row.path) for row in site.app.state.table.rows)


def test_every_case_of_the_group_is_tested() -> None:
    """No case was left out."""
    source = Path(__file__).read_text()
    assert [i for i in CASES if f'"{i.removeprefix("http_auth-")}"' not in source] == []
