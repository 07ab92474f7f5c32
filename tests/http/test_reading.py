"""Looking at runs, steps, artifacts and gates over HTTP (N1), and pages of lists."""

from __future__ import annotations

import pytest

from .conftest import OpenSite, Site
from .steps import broken, plain, story

pytestmark = pytest.mark.anyio


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


async def test_filters(site: Site) -> None:
    """Words, parts of names, numbers and flags; several words of a status at once."""
    done, failed = await site.engine.run(plain, text="abcdef"), await site.engine.run(broken)
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
    run = await site.engine.run(broken)
    answer = await site.get(f"/api/v1/chains/{run.id}")
    step = answer.json()["steps"][1]
    assert step["error"]["code"] == "E_STEP_EXCEPTION" or step["error"]["message"]
    assert "cannot read note.txt" in step["error_message"]
    assert 'File "steps.py"' in step["error"]["traceback"]
    assert "/tests/http" not in answer.text


async def test_without_any_key_this_machine_is_let_in(open_site: OpenSite) -> None:
    """A first look needs no key: from this machine, directly. Nobody else gets in."""
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
