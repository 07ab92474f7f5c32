"""The corpus group `http_auth`: who is let in, under which name, and that no other page gets anything."""

from __future__ import annotations

import logging
import re
import sys

import pytest
from starlette.routing import Route as Routed

from tests.corpus import Case
from towpath.errors import StoreFailed

from .conftest import OpenSite, Site, raw
from .corpus_cases import fits, ids, of_corpus, played
from .steps import story

pytestmark = pytest.mark.anyio

CHAINS = "/api/v1/chains"
MULTIPART = b"multipart/form-data; boundary=edge"


def bearer(key: str) -> tuple[bytes, bytes]:
    return b"authorization", f"Bearer {key}".encode()


@of_corpus(
    ("http_auth-001", [], b""),
    ("http_auth-002", [(b"authorization", b"Bearer")], b""),
    ("http_auth-003", [(b"authorization", b"Bearer wrong")], b""),
    ("http_auth-006", [], b"api_key=x"),
    ("http_auth-027", [(b"authorization", b"Bearer " + b"x" * 1_000_000)], b""),
    ("http_auth-028", [(b"authorization", b"Bearer tp_\x00\nabc")], b""),
    names="headers query",
)
async def test_keys_that_are_none(site: Site, wanted: Case, headers: list[tuple[bytes, bytes]], query: bytes) -> None:
    """No key, a wrong one, one in the wrong place: 401, whatever it looks like."""
    fits(await raw(site.app, "GET", CHAINS, headers, query=query), wanted)


@of_corpus("http_auth-005")
async def test_two_keys_are_none(site: Site, wanted: Case) -> None:
    """Two parties that read different ones of two headers is how doors are opened."""
    headers = [bearer(site.keys["viewer"]), bearer(site.keys["admin"])]
    fits(await raw(site.app, "GET", CHAINS, headers), wanted)


@of_corpus(
    ("http_auth-007", "/api/v1/artifacts/health"),
    ("http_auth-008", "/api/v1/variables/x/ready"),
    ("http_auth-010", "//api/v1/chains"),
    ("http_auth-011", "/api/v1/../v1/chains"),
    ("http_auth-012", "/API/V1/chains"),
    ("http_auth-013", "/api/v1/chains;x=1"),
    names="path",
)
async def test_no_spelling_of_an_address_needs_no_key(site: Site, wanted: Case, path: str) -> None:
    """Nothing is open because of how an address ends or is written; with a key the same is not found."""
    fits(await raw(site.app, "GET", path), wanted)
    assert (await raw(site.app, "GET", path, [bearer(site.keys["admin"])])).status == 404


@of_corpus(
    ("http_auth-015", "GET", CHAINS, "null"),
    ("http_auth-015", "POST", f"{CHAINS}/x/cancel", "null"),
    ("http_auth-016", "POST", f"{CHAINS}/x/cancel", "https://evil.example"),
    ("http_auth-016", "POST", f"{CHAINS}/x/cancel", "http://127.0.0.1:8701"),
    ("http_auth-016", "POST", f"{CHAINS}/x/cancel", "http://[::1"),
    names="method path origin",
)
async def test_pages_of_others_get_nothing(site: Site, wanted: Case, method: str, path: str, origin: str) -> None:
    """A foreign or hidden origin, or one that is none, is refused with a session cookie and without."""
    async with site.client() as browser:
        fits(await browser.request(method, path, headers={"Origin": origin}), wanted)
        await browser.post("/login", json={"key": site.keys["approver"]})
        fits(await browser.request(method, path, headers={"Origin": origin}), wanted)


async def test_a_cookie_alone_is_no_sign_of_a_will(site: Site) -> None:
    """Reading needs the cookie only; whatever changes something needs a page of ours."""
    async with site.client() as browser:
        signed_in = await browser.post("/login", json={"key": site.keys["approver"]})
        cookie = signed_in.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "samesite=strict" in cookie.lower()
        assert (await browser.get(CHAINS)).status_code == 200
        answer = await browser.post(f"{CHAINS}/x/cancel")
        assert answer.json()["error"]["code"] == "E_CSRF"
        answer = await browser.post(f"{CHAINS}/x/cancel", headers={"Origin": "http://127.0.0.1:8700"})
        assert answer.json()["error"]["code"] == "E_ROLE"


@of_corpus("http_auth-017")
async def test_a_form_needs_the_token_of_its_page(site: Site, wanted: Case) -> None:
    """A decision posted as a form without the token of a page of ours decides nothing."""
    await site.engine.run(story)
    (gate,) = await site.engine.approvals()
    async with site.client() as browser:
        await browser.post("/login", json={"key": site.keys["approver"]})
        origin = {"Origin": "http://127.0.0.1:8700"}
        answer = await browser.post(f"/approvals/{gate['id']}/approve", data={"seen": "x"}, headers=origin)
        assert answer.status_code == 403, wanted.expect
        assert wanted.codes[0] in answer.text
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


@of_corpus("http_auth-018")
async def test_a_json_address_takes_json(site: Site, wanted: Case) -> None:
    """What a form of another site can send without asking is not read."""
    fits(await site.post(CHAINS, "admin", data={"yaml": "x"}), wanted)


@of_corpus(
    ("http_auth-020", b"attacker.example"),
    ("http_auth-021", b"127.0.0.1.attacker.example"),
    ("http_auth-022", b""),
    names="host",
)
async def test_the_server_has_names(open_site: OpenSite, wanted: Case, host: bytes) -> None:
    """A name that resolves to this machine is not a name of this server, with keys or without any."""
    async with open_site(keys=False) as site:
        fits(await raw(site.app, "GET", CHAINS, [(b"host", host)]), wanted)


@pytest.mark.parametrize(
    "host", [b"localhost:99999999", b"localhost:8700@evil", b"LOCALHOST", b"[::1]:8700", b"gate.example:1"]
)
async def test_names_are_compared_whole(open_site: OpenSite, host: bytes) -> None:
    """Upper case and ports do not matter, anything else does."""
    async with open_site(keys=False, hosts=("gate.example",)) as site:
        answer = await raw(site.app, "GET", CHAINS, [(b"host", host)])
        assert answer.status == (400 if b"@" in host else 200)


@of_corpus("http_auth-023")
async def test_where_a_proxy_says_it_was_asked_for_changes_nothing(site: Site, wanted: Case) -> None:
    """Links are made of the name that the server was called by."""
    await site.engine.run(story)
    (gate,) = await site.engine.approvals()
    headers = [bearer(site.keys["admin"]), (b"x-forwarded-host", b"evil.example")]
    made = await raw(site.app, "POST", f"/api/v1/approvals/{gate['id']}/link", headers)
    assert (made.status, b"evil" in made.body) == (201, False), wanted.expect


@of_corpus("http_auth-025")
async def test_a_method_in_a_header_is_none(site: Site, wanted: Case) -> None:
    run = await site.engine.run(story)
    await site.engine.cancel(run.id)
    path, key = f"{CHAINS}/{run.id}", bearer(site.keys["admin"])
    await raw(site.app, "GET", path, [key, (b"x-http-method-override", b"DELETE")])
    assert (await raw(site.app, "GET", path, [key])).status == 200, wanted.expect


@of_corpus("http_auth-026")
async def test_a_method_that_nobody_needs(site: Site, wanted: Case) -> None:
    """TRACE shows a caller's headers to scripts."""
    fits(await raw(site.app, "TRACE", "/"), wanted)


@of_corpus("http_auth-030")
async def test_a_viewer_decides_nothing(site: Site, wanted: Case) -> None:
    """Who may look may not decide."""
    await site.engine.run(story)
    (gate,) = await site.engine.approvals()
    seen = {"seen": gate["artifact_ids"]}
    fits(await site.post(f"/api/v1/approvals/{gate['id']}/approve", "viewer", json=seen), wanted)
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


async def test_every_form_of_every_page_needs_its_token(site: Site) -> None:
    """The table is walked: what a browser posts with its cookie, and without a token of ours, changes nothing."""
    posts = [row for row in site.app.state.table.pages if row.method != "GET" and not row.path.startswith("/a/")]
    assert len(posts) > 8
    async with site.client() as browser:
        await browser.post("/login", json={"key": site.keys["admin"]})
        cookie = (b"cookie", f"towpath_session={browser.cookies['towpath_session']}".encode())
    edge = b'--edge\r\nContent-Disposition: form-data; name="csrf"\r\n\r\nwrong\r\n--edge--\r\n'
    for row in posts:
        path = re.sub(r"{\w+(:int)?}", "1", row.path)
        for kind, body in ((b"application/x-www-form-urlencoded", b"csrf=wrong"), (MULTIPART, edge)):
            if kind == MULTIPART and row.path in ("/login", "/logout"):
                continue  # no forms with files
            answer = await raw(site.app, "POST", path, [cookie, (b"content-type", kind)], [body])
            assert (answer.status, b"E_CSRF" in answer.body) == (403, True), (row, kind)


async def test_a_store_that_is_busy_while_somebody_is_let_in(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is one of ours, with the headers that every answer has."""

    async def busy(*_: object) -> None:
        raise StoreFailed("E_DB_BUSY", "the database is busy")

    monkeypatch.setattr(site.app.state.records, "key_of_digest", busy)
    answer = await raw(site.app, "GET", CHAINS, [bearer(site.keys["viewer"])])
    assert (answer.status, answer.code) == (503, "E_DB_BUSY")
    assert "sandbox" in answer.headers["content-security-policy"]


async def test_a_cookie_goes_by_tls_where_people_come_by_tls(open_site: OpenSite) -> None:
    """TLS ends before this server: its `url` says so. Direct calls without TLS work as well."""
    async with open_site(url="https://tow.example", hosts=("tow.example",)) as site, site.client() as browser:
        for host, secure in (("tow.example", True), ("127.0.0.1:8700", False)):
            answer = await browser.post("/login", json={"key": site.keys["viewer"]}, headers={"Host": host})
            assert ("; secure" in answer.headers["set-cookie"].lower()) == secure, host


async def test_what_is_routed_is_what_the_table_says(site: Site) -> None:
    """There is no second way in: the app's routes are those of the table, one to one."""
    routes = [route for route in site.app.routes if isinstance(route, Routed)]
    assert len(routes) == len(site.app.routes)
    routed = sorted((next(iter((route.methods or set()) - {"HEAD"})), route.path) for route in routes)
    assert routed == sorted((row.method, row.path) for row in site.app.state.table.rows)


def test_every_case_of_the_group_is_played() -> None:
    """No case was left out: each is the parameter of a test, which is named by it."""
    assert ids("http_auth") - played(sys.modules[__name__]) == set()
