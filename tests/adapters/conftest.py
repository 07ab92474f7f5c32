"""What tests of adapters share: engines on a store of the test's own, which is checked when the test is over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol

import anyio
import pytest
import sqlalchemy as sa

from tests.adapters.warm_cli import WarmCli
from towpath import Engine
from towpath import open_engine as open_real_engine
from towpath.store import fsck, open_store
from towpath.store.tables import approvals, artifacts, chains, step_logs, workflows

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
    """`fsck`, and then what must hold between rows when every engine is closed."""
    anyio.run(_checked, store)


async def _checked(store: Path) -> None:
    async with open_store(store, readonly=True) as opened:
        report = await fsck(opened)
        assert not report.problems, str(report)
        async with opened.session() as session:
            for rule, broken in RULES.items():
                assert [row["id"] for row in await session.fetch_all(broken)] == [], rule


_rows_and_runs = workflows.join(chains, chains.c.id == workflows.c.chain_id)
RULES: dict[str, sa.Select[Any]] = {
    "a run that is over has an owner": sa.select(chains.c.id).where(
        chains.c.completed_at.is_not(None), chains.c.owner.is_not(None)
    ),
    "a run that is over has an open row": sa.select(workflows.c.id)
    .select_from(_rows_and_runs)
    .where(
        chains.c.status.in_(("completed", "partial", "failed", "cancelled")),
        workflows.c.status.in_(("queued", "executing", "waiting_approval")),
    ),
    "a completed run has a failed row": sa.select(workflows.c.id)
    .select_from(_rows_and_runs)
    .where(chains.c.status == "completed", workflows.c.status.in_(("failed", "cancelled"))),
    "a gate is open though its row does not wait": sa.select(approvals.c.id)
    .select_from(approvals.join(workflows, workflows.c.id == approvals.c.workflow_id))
    .where(approvals.c.status == "pending", workflows.c.status != "waiting_approval"),
    "an output has no latest version, or two": sa.select(artifacts.c.workflow_id.label("id"))
    .group_by(artifacts.c.workflow_id, artifacts.c.name)
    .having(sa.func.sum(artifacts.c.is_latest) != 1),
    "a log belongs to no row": sa.select(step_logs.c.workflow_id.label("id")).where(
        step_logs.c.workflow_id.not_in(sa.select(workflows.c.id))
    ),
    "a row ended before it began": sa.select(workflows.c.id).where(workflows.c.completed_at < workflows.c.started_at),
}


@pytest.fixture(scope="session")
def warm_cli() -> Iterator[WarmCli]:
    """The command line without the start of a Python for each call."""
    warm = WarmCli()
    yield warm
    warm.close()


@pytest.fixture
def commits() -> Any:
    """How many transactions an engine has recorded."""
    return lambda engine: engine.store.database.counts.commits
