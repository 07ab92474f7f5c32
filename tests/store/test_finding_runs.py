"""Finding runs among many, and removing them."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.store.conftest import sqlite
from towpath.errors import InputInvalid, RunRefused
from towpath.store import RunStore, create_chain, fsck, list_chains, listing, update_chain_status
from towpath.store.listing import Condition, Page, list_rows
from towpath.store.rows import encode_tags
from towpath.store.sqlite.dialect import DIALECT
from towpath.store.statements import Made
from towpath.store.tables import chains

pytestmark = pytest.mark.anyio

DAY = 86_400_000_000
FIRST = int(datetime(2026, 11, 1, tzinfo=UTC).timestamp() * 1e6)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def runs(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunStore]:
    """A run per hour, oldest first; `f"run {n}"` is its id."""
    async with sqlite(tmp_path_factory.mktemp("runs")) as store:
        async with store.session() as session:
            for n in range(120):
                name = f"media-{n // 2}" if n % 3 else None
                tags = {"client": "abc"[n % 3], **({"urgent": ""} if n % 10 == 0 else {})}
                status = ("completed", "failed", "paused", "cancelled")[n % 4]
                await create_chain(
                    session,
                    ("render", "Report")[n % 2],
                    status,
                    id=f"run {n}",
                    run_name=name,
                    tags=encode_tags(tags),
                    started_at=FIRST + n * DAY // 24,
                )
        yield store


def right(n: int, **asked: Any) -> bool:
    """Does run `n` match? The filters, said a second time."""
    tags = {"client": "abc"[n % 3], **({"urgent": ""} if n % 10 == 0 else {})}
    name = f"media-{n // 2}" if n % 3 else ""
    status = ("completed", "failed", "paused", "cancelled")[n % 4]
    at = FIRST + n * DAY // 24
    found = all(tags.get(k) is not None and v in (None, tags[k]) for k, v in asked.get("tags", {}).items())
    found = found and asked.get("run_name", "").lower() in name
    found = found and asked.get("chain", ("render", "Report")[n % 2]) == ("render", "Report")[n % 2]
    found = found and status in asked.get("status", (status,))
    return found and asked.get("since", 0) <= at < asked.get("until", 2**62)


ASKED: list[dict[str, Any]] = [
    {},
    {"run_name": "media-1"},
    {"run_name": "MEDIA-59"},
    {"run_name": "%"},
    {"chain": "Report"},
    {"chain": "report"},
    {"tags": {"client": "a"}},
    {"tags": {"client": "A"}},
    {"tags": {"client": None, "urgent": None}},
    {"tags": {"client": "b", "urgent": ""}},
    {"tags": {"nothing": None}},
    {"status": ("failed",)},
    {"status": ("completed",)},
    {"status": ("failed", "paused")},
    {"status": ("completed", "paused")},
    {"status": ("failed",), "tags": {"client": "a"}},
    {"since": FIRST + DAY, "until": FIRST + 2 * DAY},
    {"run_name": "media", "tags": {"client": "c"}, "status": ("completed", "failed"), "since": FIRST + DAY},
    {"status": ("completed",), "tags": {"urgent": None}, "chain": "render"},
]


@pytest.mark.parametrize("asked", ASKED, ids=str)
async def test_every_filter_finds_the_right_runs_newest_first(runs: RunStore, asked: dict[str, Any]) -> None:
    """In `list_chains` and in pages of a list, where the cursor goes on with the same filter."""
    expected = [f"run {n}" for n in reversed(range(120)) if right(n, **asked)]
    async with runs.session() as session:
        assert [row.id for row in await list_chains(session, 200, **asked)] == expected
        assert [row.id for row in await list_chains(session, 7, 3, inner=False, **asked)] == expected[3:10]
    assert await paged(runs, conditions(asked)) == expected


def conditions(asked: dict[str, Any]) -> list[Condition]:
    named = {
        "run_name": ("run_name", "contains"),
        "chain": ("name", "eq"),
        "tags": ("tag", "eq"),
        "status": ("status", "eq"),
        "since": ("started_at", "gte"),
        "until": ("started_at", "lt"),
    }
    return [
        Condition(*named[key], [*value.items()] if isinstance(value, dict) else value) for key, value in asked.items()
    ]


async def paged(store: RunStore, asked: list[Condition], limit: int = 7) -> list[str]:
    seen, after = [], None
    async with store.session() as session:
        while True:
            page = await list_rows(session, "chains", Page(asked, after=after, limit=limit))
            seen += [row["id"] for row in page.rows]
            after = page.next
            if after is None:
                return seen


async def test_moments_and_tags_are_taken_in_every_form(runs: RunStore) -> None:
    async with runs.session() as session:
        whole = await list_chains(session, since=datetime(2026, 11, 5, tzinfo=UTC))
        assert len(whole) == 24
        assert len(await list_chains(session, 200, tags=["urgent"])) == 12
        assert len(await list_chains(session, 200, tags="client=a")) == 40
        assert len(await list_chains(session, 200, status=[])) == 120
        with pytest.raises(InputInvalid, match="E_RUN_TAGS"):
            await list_chains(session, tags={'a"': "x"})
        with pytest.raises(InputInvalid, match="E_STATUS"):
            await list_chains(session, status=["failed", "gone"])


async def test_a_name_means_the_newest_run_of_it(runs: RunStore) -> None:
    """A whole id comes before it, and parts of ids behind it."""
    assert await runs.find_ids("chains", "media-20") == ["run 41"]
    assert await runs.find_ids("chains", " media-20 ") == ["run 41"]
    assert await runs.find_ids("chains", "media-2") == ["run 5"]
    assert await runs.find_ids("chains", "MEDIA-20") == []
    assert len(await runs.find_ids("chains", "run 1")) == 1, "an id, although others begin with it"


def plan(what: Any, tmp_path: Path) -> list[str]:
    """How SQLite carries out a select in an empty store."""
    form = Made(what)().statement.compiled(DIALECT)
    with closing(sqlite3.connect(tmp_path / "towpath.db")) as connection:
        return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {form.sql}", [None] * form.sql.count("?"))]


@pytest.mark.parametrize("asked", [one for one in ASKED if one], ids=str)
async def test_lists_are_read_in_order_from_an_index(tmp_path: Path, asked: dict[str, Any]) -> None:
    """Up to the page's last row. Only rare statuses are found by their own index; those of several are sorted."""
    async with sqlite(tmp_path):
        pass
    newest = (chains.c.started_at.desc(), chains.c.id.desc())
    filters = listing.filters("chains", [*conditions(asked), Condition("inner", "eq", False)])
    lines = plan(sa.select(chains).where(*filters).order_by(*newest).limit(51), tmp_path)
    words = asked.get("status", ())
    rare = bool(words) and ("completed" not in words or asked == {"status": ("completed",)})
    assert f"USING INDEX {'ix_chains_status' if rare else 'ix_chains_listed'}" in lines[0], lines
    assert ("USE TEMP B-TREE FOR ORDER BY" in lines) == (rare and len(words) > 1), lines


async def test_an_active_run_is_not_removed(store: RunStore) -> None:
    for status in ("pending", "running", "paused"):
        async with store.session() as session:
            run = await create_chain(session, "demo", status)
        with pytest.raises(RunRefused, match="E_RUN_ACTIVE") as refused:
            await store.remove(run.id)
        assert "towpath cancel" in refused.value.problem.cure
        async with store.session() as session:
            await update_chain_status(session, run.id, "cancelled")
        assert (await store.remove(run.id, "ana")).runs == (run.id,)
    removed = [row for row in await all_events(store) if row["type"] == "ChainDeleted"]
    assert [row["data"]["by"] for row in removed] == ["ana"] * 3


async def all_events(store: RunStore) -> list[Any]:
    from towpath.store import event_log

    async with store.session() as session:
        return [*await event_log.events_after(session, 0)]


async def test_what_a_removed_run_frees(store: RunStore) -> None:
    """Contents that another run has stay; the others are collected by `fsck --repair`."""
    from towpath.store import create_artifact, create_workflow

    made = []
    for contents in ((b"both", b"x" * 20_000), (b"both", b"mine alone")):
        async with store.session() as session:
            run = await create_chain(session, "demo", "completed")
            row = await create_workflow(session, "x", "completed", chain_id=run.id, step_id="x")
            for number, data in enumerate(contents):
                await create_artifact(session, row.id, f"{number}.txt", data=data, name=f"f{number}")
        made.append(run.id)
    first = await store.remove(made[0])
    assert (first.steps, first.files, first.bytes) == (1, 2, 20_000)
    second = await store.remove(made[1])
    assert second.bytes == len(b"both") + len(b"mine alone")
    await fsck(store, repair=True, grace=0)
    counts = (await fsck(store)).counts
    assert (counts["blobs"], counts["blob files"]) == (0, 0)
