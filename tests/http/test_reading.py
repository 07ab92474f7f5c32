"""Looking at runs, steps, artifacts and gates over HTTP (N1), and pages of lists."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from typing import Any

import pytest
import sqlalchemy as sa

from towpath.store.tables import artifacts

from .conftest import OpenSite, Site
from .steps import broken, plain, story, talkative

pytestmark = pytest.mark.anyio

YAML = """
name: plain
steps: [{ id: told, python: "tests.http.steps:write", parameters: { text: x } }]
"""


async def test_N1_everything_of_a_run_can_be_asked_for(site: Site) -> None:
    """Run, steps, artifacts, versions, lineage, bytes: each under its address, with the values that were made."""
    run = await site.engine.run(plain, text="abc")
    shown = (await site.get(f"/api/v1/chains/{run.id}")).json()
    assert (shown["status"], [s["step_id"] for s in shown["steps"]]) == ("completed", ["write", "shout", "measure"])
    measured = shown["steps"][2]
    assert measured["value"] == {"length": 3, "text": "ABC"}
    loud = shown["steps"][1]["artifacts"][0]
    assert (loud["filename"], loud["version"], loud["file_size"]) == ("loud.txt", 1, 3)
    assert (await site.get(f"/api/v1/artifacts/{loud['id']}/raw")).content == b"ABC"
    line = (await site.get(f"/api/v1/artifacts/{loud['id']}/lineage")).json()
    assert line["step"]["step_id"] == "shout"
    assert [a["filename"] for a in line["inputs"]] == ["note.txt"]
    assert [s["step_id"] for s in line["used_by"]] == ["measure"]
    assert line["parameters"]["note"]["$artifact"] == line["inputs"][0]["id"]
    defined = (await site.get(f"/api/v1/chains/{run.id}/definition")).json()
    assert defined["levels"] == [["write"], ["shout"], ["measure"]]
    logs = (await site.get(f"/api/v1/chains/{run.id}/logs", params={"step": "write"})).json()["rows"]
    assert "writing 3 characters" in logs[0]["text"]
    workflow = (await site.get(f"/api/v1/workflows/{measured['id']}")).json()
    assert workflow["value"] == measured["value"]


async def test_runs_are_named_tagged_and_found(site: Site) -> None:
    """In the body of a start and of a rerun; by filters, which the cursor does not depend on."""
    start = {"yaml": YAML, "name": " media-12 ", "tags": {"client": "x y", "urgent": ""}}
    made = await site.post("/api/v1/chains", "operator", json=start)
    assert made.status_code == 202, made.text
    shown = (await site.get(f"/api/v1/chains/{made.json()['id']}")).json()
    assert (shown["run_name"], shown["tags"]) == ("media-12", {"client": "x y", "urgent": ""})
    run = await site.engine.run(plain, text="a", name="media-13", tags=["urgent"])
    await site.engine.run(plain, text="a")
    for body, label in (({}, ("media-13", {"urgent": ""})), ({"name": "b", "tags": []}, ("b", {}))):
        again = await site.post(f"/api/v1/chains/{run.id}/rerun", "operator", json=body)
        shown = (await site.get(f"/api/v1/chains/{again.json()['id']}")).json()
        assert (shown["run_name"], shown["tags"]) == label
    for query, names in (
        ("run_name=media-12", ["media-12"]),
        ("run_name[contains]=MEDIA", ["media-13", "media-13", "media-12"]),
        ("tag=urgent", ["media-13", "media-13", "media-12"]),
        ("tag=urgent&tag=client%3Dx+y", ["media-12"]),
        ("tag=client%3Dx", []),
        ("search=edia-1&status=completed", ["media-13"]),
        (f"started_at[gte]={10**17}", []),
    ):
        answer = await site.get(f"/api/v1/chains?{query}")
        assert answer.status_code == 200, answer.text
        assert [row["run_name"] for row in answer.json()["rows"]] == names, query
    page = (await site.get("/api/v1/chains?tag=urgent&limit=2")).json()
    rest = (await site.get("/api/v1/chains", params={"tag": "urgent", "limit": "2", "after": page["next"]})).json()
    assert [row["run_name"] for row in page["rows"] + rest["rows"]] == ["media-13", "media-13", "media-12"]


@pytest.mark.parametrize(
    "body",
    [{"name": "last"}, {"name": ""}, {"name": 3}, {"tags": {"a": 1}}, {"tags": {"a b": ""}}, {"tags": "a"}],
    ids=str,
)
async def test_a_wrong_name_or_tag_is_refused(site: Site, body: dict[str, Any]) -> None:
    answer = await site.post("/api/v1/chains", "operator", json={"yaml": YAML, **body})
    assert answer.status_code == 422, answer.text
    assert (await site.get("/api/v1/chains")).json()["rows"] == []


async def test_a_wrong_filter_of_tags_is_refused(site: Site) -> None:
    for query in ("tag=a%20b", "tag=", "tag=%22", "run_name=a&run_name=b", "tag[contains]=a", f"tag=a%3D{'x' * 600}"):
        assert (await site.get(f"/api/v1/chains?{query}")).status_code == 422, query


async def test_a_run_is_removed_by_an_admin_when_it_is_over(site: Site) -> None:
    run = await site.engine.run(plain, text="abc")
    path = f"/api/v1/chains/{run.id}"
    assert (await site.client("operator").delete(path)).status_code == 403
    gone = (await site.client("admin").delete(path)).json()
    assert (gone["id"], gone["deleted"], gone["steps"], gone["files"]) == (run.id, True, 3, 2)
    assert gone["bytes"] == 6
    assert (await site.client("admin").delete(path)).status_code == 404
    made = (await site.post("/api/v1/chains", "operator", json={"yaml": YAML})).json()["id"]
    assert (await site.client("admin").delete(f"/api/v1/chains/{made}")).status_code == 409


async def test_pages_of_a_list_show_every_row_once(site: Site) -> None:
    """Following `next` gives each row once, in order, although new ones come meanwhile."""
    ids = [(await site.engine.run(plain, text=str(n))).id for n in range(7)]
    seen: list[str] = []
    after = None
    async with site.client("viewer") as client:
        for turn in range(10):
            params = {"limit": "2", **({"after": after} if after else {})}
            page = (await client.get("/api/v1/chains", params=params)).json()
            seen += [row["id"] for row in page["rows"]]
            if turn == 0:
                await site.engine.run(plain, text="new")
            after = page["next"]
            if after is None:
                break
    assert seen == ids[::-1]


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("sort", ["filename", "file_size", "created_at", "version"])
async def test_every_sort_pages_without_loss(site: Site, sort: str, order: str) -> None:
    """Rows with equal sort values are neither lost nor repeated between pages."""
    for text in ("a", "bb", "a"):
        await site.engine.run(plain, text=text)
    async with site.client("viewer") as client:
        whole = (await client.get("/api/v1/artifacts", params={"sort": sort, "order": order})).json()["rows"]
        seen, after = [], None
        for _ in range(20):
            params = {"sort": sort, "order": order, "limit": "1", **({"after": after} if after else {})}
            page = (await client.get("/api/v1/artifacts", params=params)).json()
            seen += page["rows"]
            after = page["next"]
            if after is None:
                break
    assert [a["id"] for a in seen] == [a["id"] for a in whole]
    values = [a[sort] for a in whole]
    assert values == sorted(values, reverse=order == "desc")


async def test_gates_without_an_end_are_sorted_and_paged_as_well(site: Site) -> None:
    """Ends that are missing, and ends that are equal, lose no gate between pages."""
    for n in range(3):
        await site.engine.run(story, text=str(n))
    rows = (await site.get("/api/v1/approvals")).json()["rows"]
    end = rows[0]["requested_at"] + 3_600_000_000
    with sqlite3.connect(site.app.state.records._store.database.path) as database:
        await site.engine.run(story)
        await site.engine.run(story)
        for gate in (await site.engine.approvals())[:2]:
            database.execute("UPDATE approvals SET expires_at = ? WHERE id = ?", (end, gate["id"]))
    async with site.client("viewer") as client:
        for order, first in (("asc", end), ("desc", None)):
            seen: list[str] = []
            params = {"sort": "expires_at", "order": order, "limit": "1"}
            for _ in range(10):
                page = (await client.get("/api/v1/approvals", params=params)).json()
                assert seen or page["rows"][0]["expires_at"] == first
                seen += [row["id"] for row in page["rows"]]
                if page["next"] is None:
                    break
                params["after"] = page["next"]
            assert len(seen) == len(set(seen)) == 5


async def test_names_may_be_long(site: Site) -> None:
    """A cursor holds the name that a list is sorted by, however long it is."""
    words = "".join(hashlib.sha256(str(n).encode()).hexdigest() for n in range(80))
    rows = [await site.engine.create_chain(f"{n}{words}") for n in range(2)]
    first = (await site.get("/api/v1/chains", params={"sort": "name", "order": "asc", "limit": "1"})).json()
    params = {"sort": "name", "order": "asc", "limit": "1", "after": first["next"]}
    second = (await site.get("/api/v1/chains", params=params)).json()
    assert [first["rows"][0]["id"], second["rows"][0]["id"]] == [row.id for row in rows]


async def test_logs_come_in_pages(site: Site) -> None:
    """A run of many items has many logs: each is shown once, the tail of each is enough."""
    run = await site.engine.run(talkative, count=7)
    path = f"/api/v1/chains/{run.id}/logs"
    whole = (await site.get(path)).json()["rows"]
    assert [row["item_index"] for row in whole if row["step_id"] == "talk"] == list(range(7))
    seen: list[dict[str, Any]] = []
    params = {"limit": "3", "tail": "5", "step": "talk"}
    for _ in range(4):
        page = (await site.get(path, params=params)).json()
        assert len(page["rows"]) <= 3
        seen += page["rows"]
        if page["next"] is None:
            break
        params["after"] = page["next"]
    assert [row["item_index"] for row in seen] == list(range(7))
    assert all(len(row["text"]) == 5 for row in seen)
    other = await site.get(path, params={**params, "step": "other"})
    assert (other.status_code, other.json()["error"]["code"]) == (400, "E_CURSOR")
    for wrong in ({"limit": "101"}, {"tail": "0"}, {"after": "x"}):
        assert (await site.get(path, params=wrong)).status_code in (400, 422), wrong


async def test_the_lineage_of_a_sheet_of_many_photos(site: Site) -> None:
    """No input is left out, however many there were."""
    run = await site.engine.run(plain)
    sheet = run["shout"].artifact.id
    ids = [f"photo-{n}" for n in range(1_200)]
    async with site.app.state.records.session() as session:
        photo = await session.fetch_one(sa.select(artifacts).where(artifacts.c.id == run["write"].artifact.id))
        for one in ids:
            await session.execute(sa.insert(artifacts).values({**photo, "id": one, "name": one}))
        got = json.dumps({"photos": [{"$artifact": one} for one in ids]})
        await session.execute(sa.update(artifacts).where(artifacts.c.id == sheet).values(parameters=got))
    line = (await site.get(f"/api/v1/artifacts/{sheet}/lineage")).json()
    assert [photo["id"] for photo in line["inputs"]] == ids
    await site.engine.delete_chain(run.id)  # what is not as a run leaves it is not left behind


async def test_filters(site: Site) -> None:
    """Words, parts of names, numbers and flags; several words of a status at once."""
    done, failed = await site.engine.run(plain, text="abcdef", check=False), await site.engine.run(broken, check=False)
    async with site.client("viewer") as client:

        async def ids(path: str, **params: str) -> list[str]:
            answer = await client.get(
                f"/api/v1/{path}", params={name.replace("__", "["): v for name, v in params.items()}
            )
            assert answer.status_code == 200, answer.text
            return [row["id"] for row in answer.json()["rows"]]

        assert await ids("chains", status="failed") == [failed.id]
        assert await ids("chains", status="failed,completed") == [failed.id, done.id]
        assert await ids("chains", search="plai") == [done.id]
        assert len(await ids("artifacts", chain_id=done.id)) == 2
        assert len(await ids("artifacts", **{"file_size[gte]": "6"})) == 2
        assert await ids("artifacts", **{"filename[contains]": "%"}) == []
        assert len(await ids("workflows", status="failed")) == 1
        assert await ids("chains", inner="true") == []


async def test_a_gate_and_what_it_lists(site: Site) -> None:
    """The inbox: what waits, with what there is to look at."""
    run = await site.engine.run(story, text="look")
    assert run.status == "paused"
    rows = (await site.get("/api/v1/approvals", params={"status": "pending"})).json()["rows"]
    assert [(g["step_id"], [a["filename"] for a in g["artifacts"]]) for g in rows] == [("shout", ["loud.txt"])]
    assert "link_token_hash" not in rows[0]
    one = (await site.get(f"/api/v1/approvals/{rows[0]['id']}")).json()
    assert one["artifacts"] == rows[0]["artifacts"]


async def test_a_failed_step_says_why_without_the_folders_of_this_machine(site: Site) -> None:
    """The user's traceback is shown; where their files lie is not."""
    run = await site.engine.run(broken, check=False)
    answer = await site.get(f"/api/v1/chains/{run.id}")
    step = answer.json()["steps"][1]
    assert step["error"]["code"] == "E_STEP_EXCEPTION" or step["error"]["message"]
    assert "cannot read note.txt" in step["error_message"]
    assert 'File "steps.py"' in step["error"]["traceback"]
    assert "/tests/http" not in answer.text


async def test_without_any_key_this_machine_is_let_in(open_site: OpenSite) -> None:
    """Before the first key is made, direct requests from this machine need no key. All others are refused."""
    async with open_site(keys=False) as site:
        assert (await site.get("/api/v1/me", None)).json()["way"] == "local"
        async with site.client(address="192.0.2.7") as stranger:
            assert (await stranger.get("/api/v1/me")).status_code == 401
        async with site.client(headers={"X-Forwarded-For": "192.0.2.7"}) as proxied:
            assert (await proxied.get("/api/v1/me")).status_code == 401
        await site.app.state.records.add_key("first", "viewer", "0" * 64)
        assert (await site.get("/api/v1/me", None)).status_code == 401
        await site.app.state.records.revoke_key("first")
        assert (await site.get("/api/v1/me", None)).status_code == 401, "revoking the last key opens no door"
