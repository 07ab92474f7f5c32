"""Rows of chains and workflows, each written or read in a transaction of its own."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from towpath.errors import StoreFailed
from towpath.model import Json
from towpath.store import (
    Record,
    RunStore,
    Session,
    create_chain,
    create_workflow,
    get_artifacts_by_workflow,
    get_chain_by_temporal_id,
    get_workflow_by_step,
    update_chain_status,
    update_workflow_status,
)

from .opened_store import known_workflow, opened

T = TypeVar("T")

WAITS = (0.1, 0.4, 1.6)  # seconds before each retry of a write
_LEVEL = re.compile(r"executing_level_([0-9]{1,9})")


async def create_chain_record(
    chain_name: str,
    temporal_workflow_id: str | None = None,
    temporal_run_id: str | None = None,
    chain_definition: Json = None,
    description: str | None = None,
    *,
    store: RunStore | None = None,
    idempotency_key: str | None = None,
) -> str:
    """Insert a chain and return its id; for a Temporal id or key that has a chain already, that chain's id.

    Raises StoreFailed: E_DB_….
    """

    async def write(session: Session) -> Record:
        await session.begin()
        if temporal_workflow_id is not None and (row := await get_chain_by_temporal_id(session, temporal_workflow_id)):
            return row
        return await create_chain(
            session,
            chain_name,
            temporal_workflow_id=temporal_workflow_id,
            temporal_run_id=temporal_run_id,
            chain_definition=chain_definition,
            description=description,
            idempotency_key=idempotency_key,
        )

    return str((await _written(store, write))["id"])


async def create_workflow_record(  # noqa: PLR0913, PLR0917 - the seed's signature
    workflow_name: str,
    server_address: str | None = None,
    prompt_id: str | None = None,
    chain_id: str | None = None,
    step_id: str | None = None,
    temporal_workflow_id: str | None = None,
    temporal_run_id: str | None = None,
    workflow_definition: Json = None,
    parameters: Json = None,
    *,
    store: RunStore | None = None,
    idempotency_key: str | None = None,
) -> str:
    """Insert a workflow as `queued` and return its id; for a step or key that has a workflow already, that one's id.

    Without `chain_id` it is a standalone workflow. The seed's placeholder for an unknown prompt, `pending`, is
    stored as no prompt. Raises StoreFailed: E_DB_REFERENCE without such a chain, E_DB_….
    """

    async def write(session: Session) -> Record:
        await session.begin()
        if chain_id is not None and step_id is not None:
            row = await get_workflow_by_step(session, chain_id, step_id)
            if row is not None:
                return row
        return await create_workflow(
            session,
            workflow_name,
            server_address,
            None if prompt_id == "pending" else prompt_id,
            chain_id=chain_id,
            step_id=step_id,
            temporal_workflow_id=temporal_workflow_id,
            temporal_run_id=temporal_run_id,
            workflow_definition=workflow_definition,
            parameters=parameters,
            idempotency_key=idempotency_key,
        )

    return str((await _written(store, write))["id"])


async def update_chain_status_activity(
    chain_id: str,
    status: str,
    current_level: int | None = None,
    error_message: str | None = None,
    *,
    store: RunStore | None = None,
) -> None:
    """Change the status of a chain. The seed's `executing_level_2` is read as `running` at level 2.

    Raises:
        StoreFailed: E_DB_REFERENCE without such a chain, E_TRANSITION, E_DB_… after 3 retries. InputInvalid: E_STATUS.
    """
    level = _LEVEL.fullmatch(status)
    if level is not None:
        status, current_level = "running", int(level[1]) if current_level is None else current_level

    async def write(session: Session) -> Record | None:
        return await update_chain_status(session, chain_id, status, current_level, error_message)

    if await _written(store, write) is None:
        raise StoreFailed("E_DB_REFERENCE", "there is no such chain", found=chain_id)


async def update_workflow_status_activity(
    workflow_id: str,
    status: str,
    error_message: str | None = None,
    *,
    server_address: str | None = None,
    prompt_id: str | None = None,
    store: RunStore | None = None,
) -> None:
    """Change the status of a workflow, and optionally the server and id of its prompt.

    Raises:
        StoreFailed: E_DB_REFERENCE without such a workflow, E_TRANSITION, E_DB_… after 3 retries.
        InputInvalid: E_STATUS.
    """

    async def write(session: Session) -> None:
        await known_workflow(session, workflow_id)
        await update_workflow_status(
            session, workflow_id, status, error_message, server_address=server_address, prompt_id=prompt_id
        )

    await _written(store, write)


async def get_workflow_artifacts(workflow_id: str, *, store: RunStore | None = None) -> list[str]:
    """The ids of the latest version of each output of a workflow, the primary output first.

    Raises StoreFailed: E_DB_REFERENCE without such a workflow, E_DB_….
    """
    async with opened(store) as db, db.session() as session:
        workflow = await known_workflow(session, workflow_id)
        found = await get_artifacts_by_workflow(session, workflow_id)
    first = workflow["latest_artifact_id"]
    return [str(row["id"]) for row in sorted(found, key=lambda row: row["id"] != first)]


async def _written(store: RunStore | None, write: Callable[[Session], Awaitable[T]]) -> T:
    """The result of `write` in a transaction. A busy database is retried after each of `WAITS`."""
    waits = iter(WAITS)
    while True:
        try:
            async with opened(store) as db, db.session() as session:
                return await write(session)
        except StoreFailed as error:
            wait = next(waits, None)
            if wait is None or not error.retryable:
                raise
        await anyio.sleep(wait)
