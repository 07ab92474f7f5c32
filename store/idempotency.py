"""Inserting once per idempotency key, and pages of lists."""

from __future__ import annotations

from typing import Any

from towpath.errors import InputInvalid

from .core import sa
from .rows import Record, record
from .session import Session

MAX_PAGE = 10_000


async def insert_once(session: Session, table: sa.Table, values: dict[str, Any]) -> Record:
    """Insert a row and return it; if a row with the same idempotency key is there, return that one."""
    key = values.get("idempotency_key")
    if key is not None:
        await session.begin()
        found = await session.fetch_one(sa.select(table).where(table.c.idempotency_key == key))
        if found is not None:
            return record(found)
    row = await session.fetch_one(sa.insert(table).values(values).returning(table))
    assert row is not None
    return record(row)


def page(query: sa.Select[Any], limit: int, offset: int) -> sa.Select[Any]:
    """`limit` rows from `offset`. Raises as `check_page`."""
    check_page(limit, offset)
    return query.limit(limit).offset(offset)


def check_page(limit: int, offset: int) -> None:
    """Raises InputInvalid (E_PAGE) for a limit outside 1 to 10,000 or an offset below 0."""
    if not (0 < limit <= MAX_PAGE and offset >= 0):
        raise InputInvalid(
            "E_PAGE", "limit or offset out of range", found=(limit, offset), allowed=f"1 to {MAX_PAGE}; 0 up"
        )
