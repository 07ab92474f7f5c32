"""Transfers: the sending of an artifact to a server."""

from __future__ import annotations

from typing import Any

from towpath.model import TransferStatus

from . import transitions
from .clock import new_id, now
from .core import sa, t
from .idempotency import insert_once, page
from .rows import Record, record, record_or_none
from .session import Session
from .statements import one_of


async def create_transfer(
    session: Session,
    artifact_id: str,
    source_workflow_id: str,
    target_server: str,
    target_workflow_id: str | None = None,
    target_subfolder: str = "",
    status: str = "pending",
    *,
    id: str | None = None,  # noqa: A002 - the column's name
    idempotency_key: str | None = None,
) -> Record:
    """Insert a transfer and return its row; with a key seen before, the row made then.

    Raises:
        InputInvalid: E_STATUS. StoreFailed: E_DB_REFERENCE without such an artifact or workflow.
    """
    at = now()
    word = transitions.status(TransferStatus, status)
    values = {
        "id": id or new_id(),
        "artifact_id": artifact_id,
        "source_workflow_id": source_workflow_id,
        "target_workflow_id": target_workflow_id,
        "target_server": target_server,
        "target_subfolder": target_subfolder,
        "status": word,
        "attempt": 0,
        "uploaded_at": at if word is TransferStatus.COMPLETED else None,
        "created_at": at,
        "updated_at": at,
        "idempotency_key": idempotency_key,
    }
    return await insert_once(session, t.artifact_transfers, values)


async def get_transfer(session: Session, transfer_id: str) -> Record | None:
    """The transfer of that id, or None."""
    return record_or_none(
        await session.fetch_one(sa.select(t.artifact_transfers).where(t.artifact_transfers.c.id == transfer_id))
    )


async def update_transfer_status(
    session: Session,
    transfer_id: str,
    status: str,
    error_message: str | None = None,
    *,
    size: int | None = None,
    duration_us: int | None = None,
    target_name: str | None = None,
) -> Record | None:
    """Change a transfer's status: `uploading` counts an attempt, `completed` sets `uploaded_at`.

    Returns None if there is no such transfer. Raises StoreFailed (E_TRANSITION), InputInvalid (E_STATUS).
    """
    new = transitions.status(TransferStatus, status)
    at = now()
    values: dict[str, Any] = {"status": new, "updated_at": at, "error_message": error_message}
    if new is TransferStatus.UPLOADING:
        values["attempt"] = t.artifact_transfers.c.attempt + 1
    if new is TransferStatus.COMPLETED:
        values["uploaded_at"] = at
    optional = {"bytes": size, "duration_us": duration_us, "target_name": target_name}
    values.update({name: value for name, value in optional.items() if value is not None})
    change = sa.update(t.artifact_transfers).where(
        t.artifact_transfers.c.id == transfer_id, one_of(t.artifact_transfers.c.status, transitions.TRANSFER[new])
    )
    changed = await session.fetch_one(change.values(values).returning(t.artifact_transfers))
    if changed is not None:
        return record(changed)
    current = await get_transfer(session, transfer_id)
    if current is None or current["status"] == new:
        return current
    raise transitions.refused("transfer", transfer_id, current["status"], new)


async def list_transfers(
    session: Session,
    artifact_id: str | None = None,
    status: str | None = None,
    limit: int = 100,
    offset: int = 0,
) -> list[Record]:
    """Transfers, oldest first."""
    query = sa.select(t.artifact_transfers).order_by(t.artifact_transfers.c.created_at, t.artifact_transfers.c.id)
    if artifact_id is not None:
        query = query.where(t.artifact_transfers.c.artifact_id == artifact_id)
    if status is not None:
        query = query.where(t.artifact_transfers.c.status == transitions.status(TransferStatus, status))
    return [record(row) for row in await session.fetch_all(page(query, limit, offset))]


async def delete_transfer(session: Session, transfer_id: str) -> bool:
    """Delete a transfer; was it there?"""
    return await session.execute(sa.delete(t.artifact_transfers).where(t.artifact_transfers.c.id == transfer_id)) > 0
