"""The corpus group `sql`: filters, sorts, searches and cursors are data."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.corpus import cases

from .conftest import Site, raw
from .steps import plain

pytestmark = pytest.mark.anyio

CASES = {case.id: case for case in cases("sql")}


@pytest.mark.parametrize(
    ("number", "query"),
    [
        ("001", "status=' OR '1'='1"),
        ("002", "sort=name; DROP TABLE chains"),
        ("003", "sort=(SELECT 1)"),
        ("005", "order=asc--"),
        ("006", "x') OR '1'='1=1"),
        ("007", "name[$eq'--]=1"),
        ("008", "metadata.a.b[0]'=1"),
        ("012", "search=" + "x" * 1_000_000),
        ("013", "status=1e999"),
        ("018", "name[contains]=" + "a%" * 5_000),
        ("020", "sort=rowid"),
    ],
    ids=["001", "002", "003", "005", "006", "007", "008", "012", "013", "018", "020"],
)
async def test_what_is_refused(site: Site, number: str, query: str) -> None:
    """422 with a code; the list is there and whole afterwards."""
    await site.engine.run(plain)
    name, _, value = query.partition("=") if number != "006" else query.rpartition("=")
    key = (b"authorization", f"Bearer {site.keys['viewer']}".encode())
    answer = await raw(site.app, "GET", "/api/v1/chains", [key], query=f"{quote(name)}={quote(value)}".encode())
    wanted = CASES[f"sql-{number}"]
    assert str(answer.status) in wanted.expect, answer
    assert not wanted.codes or answer.code in wanted.codes
    assert len((await site.get("/api/v1/chains")).json()["rows"]) == 1


@pytest.mark.parametrize(
    ("number", "text"),
    [("010", "_"), ("010", "%"), ("011", "\\"), ("015", ":bind"), ("016", "%(x)s"), ("017", "{x}"), ("015", "?")],
)
async def test_what_is_taken_by_the_letter(site: Site, number: str, text: str) -> None:
    """No wildcard, no escape, no bind parameter: rows that hold it are found, others are not."""
    other = await site.engine.create_chain("other")
    row = await site.engine.create_chain(f"a{text}b")
    async with site.client("viewer") as client:
        for query in ({"search": text}, {"name[contains]": text}, {"name": f"a{text}b"}):
            rows = (await client.get("/api/v1/chains", params=query)).json()["rows"]
            assert [r["id"] for r in rows] == [row.id], (query, other.id, CASES[f"sql-{number}"].expect)


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


def test_every_case_of_the_group_is_tested() -> None:
    """No case was left out."""
    named = set(re.findall(r'"(\d{3})"', Path(__file__).read_text()))
    assert sorted(i for i in CASES if i.removeprefix("sql-") not in named) == []
