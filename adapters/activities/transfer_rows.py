"""The rows of transfers that belong to no run. All that `transfer_artifacts` writes into the store is here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from towpath.events import Fact, TransferMade
from towpath.model import TransferStatus
from towpath.store import RunStore, Session, create_transfer, get_transfer, update_transfer_status
from towpath.store.server_facts import transfer_key

_OPEN = (TransferStatus.PENDING, TransferStatus.UPLOADING)


@dataclass(frozen=True, slots=True)
class TransferRows:
    """The rows of one call: each fact of a transfer becomes the status of its row."""

    db: RunStore
    target_workflow_id: str | None
    ids: dict[str, str] = field(default_factory=dict)  # of rows, by artifact

    async def record(self, facts: Iterable[Fact]) -> None:
        """Write facts in one transaction. Raises StoreFailed: E_DB_…."""
        async with self.db.session() as session:
            await session.begin()
            for fact in facts:
                assert isinstance(fact, TransferMade)
                if fact.status is TransferStatus.PENDING:
                    await self._insert(session, fact)
                else:
                    await self._update(session, fact)

    async def close(self, message: str) -> None:
        """Mark the transfers that have not ended as failed."""
        async with self.db.session() as session:
            await session.begin()
            for id_ in self.ids.values():
                row = await get_transfer(session, id_)
                if row is not None and row["status"] in _OPEN:
                    await update_transfer_status(session, id_, TransferStatus.FAILED, message)

    async def _insert(self, session: Session, fact: TransferMade) -> None:
        """A new row, or the row of an earlier call; if that one failed, it becomes pending again."""
        row = await create_transfer(
            session,
            fact.artifact,
            fact.source_row,
            fact.server,
            self.target_workflow_id,
            fact.subfolder,
            idempotency_key=transfer_key(fact),
        )
        self.ids[fact.artifact] = row["id"]
        if row["status"] == TransferStatus.FAILED:
            await update_transfer_status(session, row["id"], TransferStatus.PENDING)

    async def _update(self, session: Session, fact: TransferMade) -> None:
        row = await get_transfer(session, self.ids[fact.artifact])
        if row is None or row["status"] == TransferStatus.COMPLETED:
            return  # completed is final, also if the server lost the file and it is sent again
        if row["status"] == TransferStatus.FAILED and fact.status is TransferStatus.COMPLETED:
            await update_transfer_status(session, row["id"], TransferStatus.UPLOADING)  # another call closed it
        await update_transfer_status(
            session,
            row["id"],
            fact.status,
            fact.error.message if fact.error is not None else None,
            size=fact.size,
            duration_us=fact.duration_us,
            target_name=fact.name,
        )
