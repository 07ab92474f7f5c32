"""What tests of adapters share: engines on a store of the test's own, which is checked when the test is over."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, closing
from pathlib import Path
from typing import Any, Protocol

import anyio
import pytest

from towpath import Engine
from towpath import open_engine as open_real_engine

pytest.register_assert_rewrite("tests.conformance")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class OpenEngine(Protocol):
    def __call__(self, **options: Any) -> AbstractAsyncContextManager[Engine]: ...


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The database file of the test."""
    return tmp_path / "towpath.db"


@pytest.fixture
def open_engine(store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenEngine]:
    """Opens an engine on the test's store. After the test the store is checked from top to bottom."""
    for name in ("TOWPATH_STORE", "TOWPATH_BLOBS", "TOWPATH_ADAPTER", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)

    def opened(**options: Any) -> AbstractAsyncContextManager[Engine]:
        return open_real_engine(f"sqlite:///{store}", **{"durability": "normal", **options})

    yield opened
    if store.exists():
        check(store)


def check(store: Path) -> None:
    """Every invariant that plain SQL can tell, then `fsck`."""
    with closing(sqlite3.connect(store)) as database:
        database.row_factory = sqlite3.Row
        assert database.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        assert database.execute("PRAGMA foreign_key_check").fetchall() == []
        none = {
            "a run that is over has an owner": """SELECT id FROM chains
                WHERE completed_at IS NOT NULL AND owner IS NOT NULL""",
            "a run that is over has an open row": """SELECT w.id FROM workflows w JOIN chains c ON c.id = w.chain_id
                WHERE c.status IN ('completed', 'partial', 'failed', 'cancelled')
                AND w.status IN ('queued', 'executing', 'waiting_approval')""",
            "a completed run has a failed row": """SELECT w.id FROM workflows w JOIN chains c ON c.id = w.chain_id
                WHERE c.status = 'completed' AND w.status IN ('failed', 'cancelled')""",
            "a gate is open though its row does not wait": """SELECT a.id FROM approvals a JOIN workflows w
                ON w.id = a.workflow_id WHERE a.status = 'pending' AND w.status <> 'waiting_approval'""",
            "an output has no latest version, or two": """SELECT workflow_id FROM artifacts
                GROUP BY workflow_id, name HAVING sum(is_latest) <> 1""",
            "a log belongs to no row": """SELECT workflow_id FROM step_logs
                WHERE workflow_id NOT IN (SELECT id FROM workflows)""",
            "a row ended before it began": "SELECT id FROM workflows WHERE completed_at < started_at",
        }
        for what, sql in none.items():
            assert [row[0] for row in database.execute(sql)] == [], what
        for column in ("value", "parameters", "error"):
            for row in database.execute(f"SELECT {column} FROM workflows WHERE {column} IS NOT NULL"):
                json.loads(row[0])
    anyio.run(_fsck, store)


async def _fsck(store: Path) -> None:
    from towpath.adapters.wiring import check_store

    report = await check_store(f"sqlite:///{store}")
    assert not report.problems, str(report)


@pytest.fixture
def commits() -> Any:
    """How many transactions an engine has recorded."""
    return lambda engine: engine.store.database.counts.commits
