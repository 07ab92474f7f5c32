"""The store of a function: the caller's, or the configured one, opened for the call."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from towpath.adapters.settings import settle
from towpath.errors import StoreFailed
from towpath.store import Record, RunStore, Session, get_workflow, open_store


@asynccontextmanager
async def opened(store: RunStore | None) -> AsyncIterator[RunStore]:
    """The given store, or the configured one for this block. Raises StoreFailed, InputInvalid."""
    if store is not None:
        yield store
        return
    settings = settle()
    async with open_store(settings.store, blobs=settings.blobs, durability=settings.durability) as own:
        yield own


async def known_workflow(session: Session, workflow_id: str) -> Record:
    """The row of a workflow. Raises StoreFailed (E_DB_REFERENCE) if it does not exist."""
    found = await get_workflow(session, workflow_id)
    if found is None:
        cure = "`create_workflow_record` inserts one"
        raise StoreFailed("E_DB_REFERENCE", "there is no such workflow", found=workflow_id, cure=cure)
    return found
