"""The corpus group `sql`: filters, sorts, searches and cursors are data."""

from __future__ import annotations

import sys
from urllib.parse import quote

import pytest

from tests.corpus import Case

from .conftest import Site, raw
from .corpus_cases import fits, ids, of_corpus, played
from .steps import plain

pytestmark = pytest.mark.anyio


@of_corpus(
    ("sql-001", "status=' OR '1'='1"),
    ("sql-002", "sort=name; DROP TABLE chains"),
    ("sql-003", "sort=(SELECT 1)"),
    ("sql-005", "order=asc--"),
    ("sql-006", "x') OR '1'='1=1"),
    ("sql-007", "name[$eq'--]=1"),
    ("sql-008", "metadata.a.b[0]'=1"),
    ("sql-012", "search=" + "x" * 1_000_000),
    ("sql-013", "status=1e999"),
    ("sql-018", "name[contains]=" + "a%" * 5_000),
    ("sql-020", "sort=rowid"),
    names="query",
)
async def test_what_is_refused(site: Site, wanted: Case, query: str) -> None:
    """422 with a code; the list is there and whole afterwards."""
    await site.engine.run(plain)
    name, _, value = query.partition("=") if wanted.id != "sql-006" else query.rpartition("=")
    key = (b"authorization", f"Bearer {site.keys['viewer']}".encode())
    answer = await raw(site.app, "GET", "/api/v1/chains", [key], query=f"{quote(name)}={quote(value)}".encode())
    fits(answer, wanted)
    assert len((await site.get("/api/v1/chains")).json()["rows"]) == 1


@of_corpus(
    ("sql-010", "_"),
    ("sql-010", "%"),
    ("sql-011", "\\"),
    ("sql-015", ":bind"),
    ("sql-015", "?"),
    ("sql-016", "%(x)s"),
    ("sql-017", "{x}"),
    names="text",
)
async def test_what_is_taken_by_the_letter(site: Site, wanted: Case, text: str) -> None:
    """No wildcard, no escape, no bind parameter: rows that hold it are found, others are not."""
    other = await site.engine.create_chain("other")
    row = await site.engine.create_chain(f"a{text}b")
    async with site.client("viewer") as client:
        for query in ({"search": text}, {"name[contains]": text}, {"name": f"a{text}b"}):
            rows = (await client.get("/api/v1/chains", params=query)).json()["rows"]
            assert [r["id"] for r in rows] == [row.id], (query, other.id, wanted.expect)


@pytest.mark.parametrize("path", ["chains", "workflows", "artifacts", "transfers", "approvals", "keys"])
async def test_every_filter_of_every_list_takes_odd_values_as_data(site: Site, path: str) -> None:
    """Each filter and sort that the document names, with values that would hurt: 200, 400 or 422, never 5xx."""
    await site.engine.run(plain)
    document = (await site.get("/api/v1/openapi.json")).json()
    names = [p["name"] for p in document["paths"][f"/api/v1/{path}"]["get"]["parameters"]]
    async with site.client("admin") as client:
        for name in names:
            for value in ("'", "1; DROP TABLE chains", "\u0000", "9" * 30, "-1", "", "\ud7ff", "null", "[]"):
                answer = await client.get(f"/api/v1/{path}", params={name: value})
                assert answer.status_code in (200, 400, 422), (name, value, answer.text)
        assert (await client.get("/api/v1/chains")).json()["rows"] != []


def test_every_case_of_the_group_is_played() -> None:
    """No case was left out: each is the parameter of a test, which is named by it."""
    assert ids("sql") - played(sys.modules[__name__]) == set()
