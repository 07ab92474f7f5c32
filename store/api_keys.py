"""Access to the HTTP API: keys, and sessions of browsers. Only their digests are stored."""

from __future__ import annotations

from typing import Any

from towpath.errors import InputInvalid, StoreFailed

from .clock import new_id, now
from .core import sa, t
from .rows import Record, record, record_or_none
from .session import Session


def _shown() -> tuple[sa.ColumnElement[Any], ...]:
    return tuple(t.api_keys.c[name] for name in ("id", "name", "role", "created_at", "revoked_at"))


async def create_key(session: Session, name: str, role: str, key_sha256: str) -> Record:
    """Keep the digest of a new key. Raises InputInvalid (E_KEY_NAME) if a key in use has that name."""
    values = {"id": new_id(), "name": name, "role": role, "key_sha256": key_sha256, "created_at": now()}
    try:
        row = await session.fetch_one(sa.insert(t.api_keys).values(values).returning(*_shown()))
    except StoreFailed as error:
        if error.code != "E_DB_CONFLICT":
            raise
        raise InputInvalid(
            "E_KEY_NAME", "a key of that name is in use", found=name, cure="revoke it, or choose another name"
        ) from error
    assert row is not None
    return record(row)


async def find_key(session: Session, key_sha256: str) -> Record | None:
    """The key in use with that digest, its `key_sha256` included, or None."""
    query = sa.select(*_shown(), t.api_keys.c.key_sha256).where(
        t.api_keys.c.key_sha256 == key_sha256, t.api_keys.c.revoked_at.is_(None)
    )
    return record_or_none(await session.fetch_one(query))


async def key_of_session(session: Session, session_sha256: str) -> Record | None:
    """The key in use behind a session that is still open, or None."""
    query = (
        sa.select(*_shown())
        .join(t.sessions, t.sessions.c.key_id == t.api_keys.c.id)
        .where(
            t.sessions.c.session_sha256 == session_sha256,
            t.sessions.c.ended_at.is_(None),
            t.api_keys.c.revoked_at.is_(None),
        )
    )
    return record_or_none(await session.fetch_one(query))


async def begin_session(session: Session, session_sha256: str, key_id: str, seconds: float) -> None:
    """Store the digest of a new session. Sessions older than `seconds` have expired, and are deleted."""
    at = now()
    await session.execute(sa.delete(t.sessions).where(t.sessions.c.created_at < at - int(seconds * 1e6)))
    values = {"session_sha256": session_sha256, "key_id": key_id, "created_at": at}
    await session.execute(sa.insert(t.sessions).values(values))


async def end_session(session: Session, session_sha256: str) -> bool:
    """End a session for good; was it open?"""
    change = sa.update(t.sessions).where(t.sessions.c.session_sha256 == session_sha256, t.sessions.c.ended_at.is_(None))
    return await session.execute(change.values(ended_at=now())) > 0


async def any_key(session: Session) -> bool:
    """Was a key ever made? From then on every caller needs one, also after the last key is revoked."""
    return await session.fetch_one(sa.select(t.api_keys.c.id).limit(1)) is not None


async def list_keys(session: Session) -> list[Record]:
    """All keys ever made, oldest first, without their digests."""
    return [record(row) for row in await session.fetch_all(sa.select(*_shown()).order_by(t.api_keys.c.id))]


async def revoke_key(session: Session, name: str) -> bool:
    """End the key in use of that name for good; was there one?"""
    change = sa.update(t.api_keys).where(t.api_keys.c.name == name, t.api_keys.c.revoked_at.is_(None))
    return await session.execute(change.values(revoked_at=now())) > 0
