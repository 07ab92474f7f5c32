"""The corpus group `approval_token`, and the life of an approval link (H6)."""

from __future__ import annotations

import hashlib
import logging
import sqlite3
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from tests.corpus import Case
from towpath.store import approval_links

from .conftest import OpenSite, Site, raw
from .corpus_cases import fits, ids, of_corpus, played
from .steps import story

pytestmark = pytest.mark.anyio


async def link(site: Site, hours: float | None = None) -> tuple[str, Mapping[str, Any]]:
    """The path of a link to the gate of a new run, and the gate."""
    run = await site.engine.run(story)
    (gate,) = await site.engine.approvals(run.id)
    answer = await site.post(f"/api/v1/approvals/{gate['id']}/link", "approver", json={"hours": hours} if hours else {})
    assert answer.status_code == 201, answer.text
    path: str = answer.json()["url"].removeprefix("http://127.0.0.1:8700")
    return path, gate


@of_corpus("approval_token-001", "approval_token-002", "approval_token-003")
async def test_links_that_lead_nowhere(site: Site, wanted: Case) -> None:
    """Unknown, cut, changed: all the same."""
    path, gate = await link(site)
    changed = path[:-5] + ("A" if path[-5] != "A" else "B") + path[-4:]
    wrong = {"001": "/a/unknown", "002": path[:-1], "003": changed}[wanted.id[-3:]]
    fits(await site.get(wrong, None), wanted)
    for verb in ("approve", "reject"):
        fits(await site.post(f"{wrong}/{verb}", None, json={"seen": gate["artifact_ids"]}), wanted)
    assert (await site.engine.get_approval(gate["id"])).status == "pending"


async def test_a_new_link_makes_an_old_one_void(site: Site) -> None:
    path, gate = await link(site)
    await site.post(f"/api/v1/approvals/{gate['id']}/link", "approver", json={})
    assert (await site.get(path, None)).status_code == 404


@of_corpus(("approval_token-005", False), ("approval_token-006", True), names="set_back")
async def test_links_end(site: Site, monkeypatch: pytest.MonkeyPatch, wanted: Case, set_back: bool) -> None:
    """One second too late is too late, and a clock that is set back by a day opens nothing again."""
    path, gate = await link(site, hours=1)
    gate_row = await site.engine.get_approval(gate["id"])
    assert gate_row is not None
    end: int = gate_row["link_expires_at"]
    monkeypatch.setattr(approval_links, "now", lambda: end - 1_000_000)
    assert (await site.get(path, None)).status_code == 200
    monkeypatch.setattr(approval_links, "now", lambda: end + 1_000_000)
    fits(await site.get(path, None), wanted)
    if set_back:
        monkeypatch.setattr(approval_links, "now", lambda: end - int(86_400e6))
        fits(await site.get(path, None), wanted)
    fits(await site.post(f"{path}/approve", None, json={"seen": gate["artifact_ids"]}), wanted)
    assert (await site.engine.get_approval(gate["id"])).status == "pending"


@of_corpus("approval_token-006")
async def test_a_clock_that_was_set_back_before_anybody_looked(
    site: Site, monkeypatch: pytest.MonkeyPatch, wanted: Case
) -> None:
    """What was recorded meanwhile tells how late it is."""
    path, gate = await link(site, hours=1)
    late = gate["requested_at"] + int((3600 + 60) * 1e6)
    with sqlite3.connect(site.app.state.records._store.database.path) as database:
        database.execute(
            "INSERT INTO events (chain_id, type, at, data) VALUES (?, 'X', ?, '{}')", (gate["chain_id"], late)
        )
    monkeypatch.setattr(approval_links, "now", lambda: gate["requested_at"] - int(86_400e6))
    fits(await site.get(path, None), wanted)


@of_corpus("approval_token-007")
async def test_H6_a_link_decides_once(site: Site, wanted: Case) -> None:
    """A second decision is refused with the name of the first; only the hash of the token is kept."""
    path, gate = await link(site)
    token = path.removeprefix("/a/")
    row = await site.engine.get_approval(gate["id"])
    assert row.link_token_hash == hashlib.sha256(token.encode()).hexdigest()
    done = await site.post(f"{path}/approve", None, json={"decided_by": "Ann", "seen": gate["artifact_ids"]})
    assert (done.status_code, done.json()["status"], done.json()["decided_by"]) == (200, "approved", "Ann (link)")
    again = await site.post(f"{path}/reject", None, json={"by": "Bob"})
    fits(again, wanted)
    assert again.json()["error"]["decided_by"] == "Ann (link)"
    assert again.json()["error"]["decided_at"] == done.json()["decided_at"]
    run = await site.engine.resume(gate["chain_id"], check=False)
    assert run.status == "completed"


async def test_H6_tokens_are_nowhere(open_site: OpenSite, store: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Neither in a log, nor in the store, nor in any other answer."""
    caplog.set_level(logging.DEBUG)
    async with open_site() as site:
        path, gate = await link(site)
        token = path.removeprefix("/a/")
        await site.get(path, None)
        told = [
            (await site.get(p)).text for p in ("/api/v1/approvals", "/api/v1/events", f"/api/v1/approvals/{gate['id']}")
        ]
        await site.post(f"{path}/approve", None, json={})
        assert all(token not in text for text in told)
    ours = [r for r in caplog.records if not r.name.startswith(("httpx", "httpcore"))]  # those are the test's client
    assert [r.getMessage() for r in ours if token in r.getMessage()] == []
    for file in store.parent.rglob("*"):
        assert not file.is_file() or token.encode() not in file.read_bytes(), file


@of_corpus("approval_token-008")
async def test_two_people_at_the_same_moment(site: Site, wanted: Case) -> None:
    """One decision, one 409; the run gets one request."""
    path, gate = await link(site)
    answers: list[httpx.Response] = []

    async def decide(what: str) -> None:
        answers.append(await site.post(f"{path}/{what}", None, json={"by": what, "seen": gate["artifact_ids"]}))

    async with anyio.create_task_group() as tasks:
        for what in ("approve", "reject", "approve"):
            tasks.start_soon(decide, what)
    assert sorted(a.status_code for a in answers) == [200, 409, 409]
    assert next(a for a in answers if a.status_code == 409).json()["error"]["code"] == "E_LINK_USED", wanted.expect
    events = await site.engine.store.events(gate["chain_id"])
    assert [e["type"] for e in events].count("DecisionRecorded") == 1


@of_corpus(("approval_token-010", "GET"), ("approval_token-011", "HEAD"), names="method")
async def test_looking_decides_nothing(site: Site, wanted: Case, method: str) -> None:
    """A mail scanner that follows links, and asks for heads, changes nothing."""
    path, gate = await link(site)
    async with site.client() as scanner:
        for accept in ("*/*", "text/html", "application/json"):
            for _ in range(3):
                answer = await scanner.request(method, path, headers={"Accept": accept})
                assert answer.status_code == 200, wanted.expect
        for wrong in ("approve", "reject"):
            assert (await scanner.request(method, f"{path}/{wrong}")).status_code in (401, 404, 405)
    assert (await site.engine.get_approval(gate["id"])).status == "pending"


async def test_a_link_shows_its_files_and_no_others(site: Site) -> None:
    """What is to be looked at can be looked at; everything else needs a key."""
    path, gate = await link(site)
    answer = await site.get(f"{path}/files/{gate['artifact_ids'][0]}", None)
    assert (answer.status_code, answer.content) == (200, b"HELLO")
    run = await site.engine.snapshot(gate["chain_id"])
    assert (await site.get(f"{path}/files/{run['write'].artifact.id}", None)).status_code == 404
    assert (await site.get(f"/api/v1/artifacts/{gate['artifact_ids'][0]}/raw", None)).status_code == 401


@of_corpus("approval_token-013")
async def test_a_file_that_was_replaced_meanwhile(site: Site, wanted: Case) -> None:
    """What was seen is not what there is: by a link, and by a key."""
    path, gate = await link(site)
    assert (await site.post(f"{path}/approve", None, json={})).json()["error"]["code"] == "E_BODY_FIELD"
    await site.engine.edit(gate["artifact_ids"][0], b"NEWER", by="Ann")
    fits(await site.post(f"{path}/approve", None, json={"seen": gate["artifact_ids"]}), wanted)
    stale = await site.post(f"/api/v1/approvals/{gate['id']}/approve", "approver", json={"seen": gate["artifact_ids"]})
    assert (stale.status_code, stale.json()["error"]["code"]) == (409, "E_APPROVAL_STALE")
    assert (await site.engine.get_approval(gate["id"])).status == "pending"


@of_corpus("approval_token-012")
async def test_a_run_that_was_cancelled_meanwhile(site: Site, wanted: Case) -> None:
    path, gate = await link(site)
    await site.engine.cancel(gate["chain_id"])
    fits(await site.post(f"{path}/approve", None, json={"seen": gate["artifact_ids"]}), wanted)
    closed = await site.post(f"/api/v1/approvals/{gate['id']}/approve", "approver", json={"seen": []})
    assert (closed.status_code, closed.json()["error"]["code"]) == (409, "E_CHAIN_CLOSED")


@of_corpus(
    ("approval_token-015", "approve", {"decided_by": "x" * 1_000_000}),
    ("approval_token-015", "reject", {"reason": "x" * 1_000_000}),
    ("approval_token-017", "reject", {"action": "regenerate", "parameters": {"loudness": 3}}),
    names="verb body",
)
async def test_words_that_are_too_long_and_names_that_are_unknown(
    site: Site, wanted: Case, verb: str, body: dict[str, Any]
) -> None:
    path, gate = await link(site)
    fits(await site.post(f"{path}/{verb}", None, json=body), wanted)
    assert (await site.engine.get_approval(gate["id"])).status == "pending"


@of_corpus("approval_token-016")
async def test_a_comment_that_is_a_formula(site: Site, wanted: Case) -> None:
    """In the export it is text."""
    run = await site.engine.run(story)
    (gate,) = await site.engine.approvals(run.id)
    comment = wanted.input.removeprefix("comment with CSV formula ")
    assert comment.startswith("=cmd")
    await site.engine.reject(gate, by="+Ann", reason=comment, action="stop")
    answer = await site.get("/api/v1/approvals.csv")
    assert f"'{comment}" in answer.text
    assert ",'+Ann," in answer.text
    assert f",{comment}" not in answer.text


@of_corpus("approval_token-018", "approval_token-020", "approval_token-021")
async def test_what_browsers_are_told_about_a_link(site: Site, wanted: Case) -> None:
    """No referrer, no frame, no inline script; names are text."""
    run = await site.engine.run(story)
    (gate,) = await site.engine.approvals(run.id)
    old = gate["artifacts"][0]["id"]
    await site.engine.edit(old, b"x", by="<script>alert(1)</script>")
    await site.app.state.engine.create_artifact(
        gate["workflow_id"], "<svg onload=alert(1)>.txt", data=b"y", parent_artifact_id=old, created_by="x"
    )
    made = await site.post(f"/api/v1/approvals/{gate['id']}/link", "approver", json={})
    path = made.json()["url"].removeprefix("http://127.0.0.1:8700")
    for accept in ("text/html", "application/json"):
        answer = await site.get(path, None, headers={"Accept": accept})
        assert answer.status_code == 200, wanted.expect
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert 'name="referrer"' not in answer.text, "a page may not soften what its header says"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert "unsafe-inline" not in answer.headers["content-security-policy"]
        if "html" in answer.headers["content-type"]:
            assert "<svg onload" not in answer.text


async def test_a_form_of_a_link_needs_its_token(site: Site) -> None:
    """A page of another site cannot make a browser decide, even if it knows the link."""
    path, gate = await link(site)
    kind = (b"content-type", b"application/x-www-form-urlencoded")
    answer = await raw(site.app, "POST", f"{path}/approve", [kind], [b"by=x"])
    assert (answer.status, answer.code) == (403, "E_CSRF")
    assert (await site.engine.get_approval(gate["id"])).status == "pending"


async def test_a_gate_that_is_decided_gets_no_link(site: Site) -> None:
    run = await site.engine.run(story)
    (gate,) = await site.engine.approvals(run.id)
    await site.engine.approve(gate, by="Ann")
    answer = await site.post(f"/api/v1/approvals/{gate['id']}/link", "approver", json={})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "E_APPROVAL_DECIDED")
    assert (await site.post("/api/v1/approvals/x/link", "approver", json={})).status_code == 404


def test_the_secret_is_ours_alone(tmp_path: Path) -> None:
    """Made once, readable by its owner, and refused if others may read it."""
    from towpath.adapters.http.settings import SECRET_FILE, server_secret
    from towpath.errors import StoreFailed

    first = server_secret(tmp_path)
    assert server_secret(tmp_path) == first
    assert len(first) == 64
    path = tmp_path / SECRET_FILE
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]
    path.chmod(0o640)
    with pytest.raises(StoreFailed, match="E_SERVER_SECRET"):
        server_secret(tmp_path)


def test_every_case_of_the_group_is_played() -> None:
    """No case was left out: each is the parameter of a test, which is named by it."""
    assert ids("approval_token") - played(sys.modules[__name__]) == set()
