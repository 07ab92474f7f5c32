"""Plain SQL for tests that look at, or damage, what a store keeps. Values go where `?` stands."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from towpath.store import RunStore
from towpath.store.backend import Row, Script
from towpath.store.statements import Made, Query


def query(sql: str, *values: Any) -> Query:
    first, *rest = sql.split("?")
    named = first + "".join(f":v{n}{part}" for n, part in enumerate(rest))
    return Made(sa.text(named))(**{f"v{n}": value for n, value in enumerate(values)})


async def raw(store: RunStore, sql: str, *values: Any) -> list[Row]:
    """Run one statement in a write transaction of its own; its rows, if it has any."""
    return await store.database.write(_run, query(sql, *values))


def _run(asked: Query) -> Script[list[Row]]:
    return (yield asked).rows
