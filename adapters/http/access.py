"""What a request has access to: the engine, the server's own records in the store, and who calls.

`ServerRecords` holds what the engine does not offer: keys, sessions of browsers, the audit trail, listings.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol, cast

from towpath.adapters.wiring import Engine
from towpath.store import Record, Session, api_keys, artifacts, event_log, lineage, listing

from .principals import ANONYMOUS, Anonymous, Principal

if TYPE_CHECKING:  # `towpath keys` works without a web framework
    from starlette.requests import Request


COMMAND_LINE = "command line"  # the name in the audit trail for changes by `towpath keys`


class _Sessions(Protocol):
    def session(self) -> AbstractAsyncContextManager[Session]: ...


class ServerRecords:
    """The store behind an engine. Each method is one transaction."""

    def __init__(self, engine: Engine) -> None:
        self._store = cast("_Sessions", engine.store)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """A transaction; it commits when the block ends."""
        async with self._store.session() as session:
            yield session

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Session]:
        """A session for reading: all statements inside see the same state of the store. Keep the block short."""
        async with self.session() as session, session.one_moment():
            yield session

    async def any_key(self) -> bool:
        async with self.session() as session:
            return await api_keys.any_key(session)

    async def key_of_digest(self, digest: str) -> Record | None:
        async with self.session() as session:
            return await api_keys.find_key(session, digest)

    async def key_of_session(self, digest: str) -> Record | None:
        async with self.session() as session:
            return await api_keys.key_of_session(session, digest)

    async def sign_in(self, digest: str, key: Record, seconds: float) -> None:
        async with self.session() as session:
            await api_keys.begin_session(session, digest, key["id"], seconds)
            await event_log.note(session, "SignedIn", key["name"])

    async def sign_out(self, digest: str, by: str) -> None:
        async with self.session() as session:
            if await api_keys.end_session(session, digest):
                await event_log.note(session, "SignedOut", by)

    async def add_key(self, name: str, role: str, digest: str, by: str = COMMAND_LINE) -> Record:
        async with self.session() as session:
            key = await api_keys.create_key(session, name, role, digest)
            await event_log.note(session, "KeyMade", by, key=name, role=role)
            return key

    async def list_keys(self) -> list[Record]:
        async with self.session() as session:
            return await api_keys.list_keys(session)

    async def revoke_key(self, name: str, by: str = COMMAND_LINE) -> bool:
        async with self.session() as session:
            revoked = await api_keys.revoke_key(session, name)
            if revoked:
                await event_log.note(session, "KeyRevoked", by, key=name)
            return revoked

    async def note_resume(self, run_id: str, by: str) -> None:
        async with self.session() as session:
            await event_log.note(session, "ResumeRequested", by, run=run_id)

    async def delete_artifact(self, artifact: Mapping[str, Any], chain_id: str | None, by: str) -> bool:
        async with self.session() as session:
            deleted = await artifacts.delete_artifact(session, artifact["id"])
            if deleted:
                names = {name: artifact[name] for name in ("name", "version", "filename")}
                await event_log.note(session, "ArtifactDeleted", by, run=chain_id, artifact=artifact["id"], **names)
            return deleted

    async def page(self, what: str, page: listing.Page) -> listing.Rows:
        async with self.session() as session:
            return await listing.list_rows(session, what, page)

    async def lineage(self, artifact_id: str) -> Record | None:
        async with self.session() as session:
            return await lineage.lineage_of(session, artifact_id)

    async def last_event(self) -> int:
        async with self.session() as session:
            return await event_log.last_event(session)

    async def events_after(self, seq: int, **which: Any) -> list[Record]:
        async with self.session() as session:
            return await event_log.events_after(session, seq, **which)

    async def logs_after(self, chain_id: str, after: tuple[int, str] | None, **which: Any) -> list[Record]:
        async with self.session() as session:
            return await event_log.logs_after(session, chain_id, after, **which)


def engine_of(request: Request) -> Engine:
    """The engine behind a request."""
    engine: Engine = request.app.state.engine
    return engine


def records_of(request: Request) -> ServerRecords:
    """The server's records behind a request."""
    records: ServerRecords = request.app.state.records
    return records


def principal_of(request: Request) -> Principal:
    """Who calls. Use it behind routes that need a role: there is always a principal."""
    principal: Principal = request.state.principal
    return principal


def visitor_of(request: Request) -> Principal | Anonymous:
    """Who looks at a page; anonymous on the login page and on some errors."""
    visitor: Principal | Anonymous = getattr(request.state, "principal", ANONYMOUS)
    return visitor


def id_of(request: Request) -> str:
    """The `{id}` in the address."""
    found: str = request.path_params["id"]
    return found
