"""Artifacts on their way to a server: from the store, with a row for each; or, as long ago, from server to server."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
from anyio.to_thread import run_sync

from towpath.adapters.comfyui.downloads import Limits
from towpath.adapters.comfyui.file_names import upload_name
from towpath.adapters.comfyui.pool import Member
from towpath.adapters.comfyui.uploads import FOLDER, Target, send_all, upload_patiently
from towpath.artifact import Artifact
from towpath.errors import ServerFailed, StoreFailed
from towpath.events import Fact, TransferMade
from towpath.model import ArtifactRow, TransferStatus
from towpath.store import (
    Record,
    RunStore,
    Session,
    create_transfer,
    get_artifact,
    get_transfer,
    update_transfer_status,
)
from towpath.store import rows as store_rows
from towpath.store.disk import source_chunks

from .download_artifacts import opened_output
from .landing import land
from .server_access import Servers, reach, server_settings
from .server_outputs import Entry, Output, read_outputs
from .opened_store import known_workflow, opened

LATEST = ["latest"]


async def transfer_artifacts_from_storage(
    source_workflow_id: str,
    target_server: str,
    artifact_ids: Sequence[str],
    target_workflow_id: str | None = None,
    *,
    store: RunStore | None = None,
    servers: Servers | None = None,
) -> list[str]:
    """Send artifacts of a workflow to a server; the names that the server gave them, in order, folder included.

    `["latest"]` stands for the latest version of each of its outputs. The bytes are checked against their digest
    before they are sent, and are not sent at all if the server still has them. Each has one row per target workflow
    and server, however often it is asked for: `pending`, `uploading`, then `completed` with `target_name`, `bytes`
    and `duration_us`, or `failed` with `error_message`.

    Raises:
        StoreFailed: E_DB_REFERENCE for a workflow or artifact that is not there, E_BLOB_…, E_DB_….
        ServerFailed: E_ARTIFACT_REJECTED before anything is sent, E_UPLOAD_…, E_SERVER_…. InputInvalid: E_URL_….
    """
    settings = server_settings(servers)
    async with opened(store) as db, reach(target_server, settings) as member:
        source, found = await _artifacts(db, source_workflow_id, artifact_ids, target_workflow_id)
        run = source["chain_id"] or source_workflow_id
        target = Target(run, target_workflow_id or source_workflow_id, source["step_id"] or "", None, member)
        trail = _Transfers(db, target_workflow_id)
        try:
            named, last = await send_all({"files": found}, target, db, trail.record)
            await trail.record(last)
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                await trail.give_up(error)
            raise
    names: list[str] = named["files"]
    return names


async def _artifacts(
    db: RunStore, workflow_id: str, artifact_ids: Sequence[str], target_workflow_id: str | None
) -> tuple[Record, list[Artifact]]:
    """The row of the source, and the artifacts that are meant."""
    async with db.session() as session:
        source = await known_workflow(session, workflow_id)
        if target_workflow_id is not None:
            await known_workflow(session, target_workflow_id)
        found = [] if list(artifact_ids) == LATEST else [await _one(session, workflow_id, id_) for id_ in artifact_ids]
    if list(artifact_ids) == LATEST:
        found = await db.latest_artifacts(workflow_id)
        if not found:
            raise StoreFailed("E_DB_REFERENCE", "this workflow has no artifacts", found=workflow_id)
    return source, [Artifact(row, db.files) for row in found]


async def _one(session: Session, workflow_id: str, artifact_id: str) -> ArtifactRow:
    found = await get_artifact(session, artifact_id)
    if found is None or found["workflow_id"] != workflow_id:
        message = f"workflow {workflow_id} has no such artifact"
        raise StoreFailed("E_DB_REFERENCE", message, found=artifact_id, allowed='ids of its artifacts, or ["latest"]')
    return store_rows.artifact(found)


@dataclass(frozen=True, slots=True)
class _Transfers:
    """The rows of one call: facts of the transfers become statuses of their rows."""

    db: RunStore
    target_workflow_id: str | None
    rows: dict[str, str] = field(default_factory=dict)  # by artifact

    async def record(self, facts: Iterable[Fact]) -> None:
        async with self.db.session() as session:
            await session.begin()
            for fact in facts:
                assert isinstance(fact, TransferMade)
                if fact.status is TransferStatus.PENDING:
                    await self._begun(session, fact)
                else:
                    await self._stands(session, fact)

    async def _begun(self, session: Session, fact: TransferMade) -> None:
        """A new row, or the one of an earlier call: what failed then is waiting again."""
        row = await create_transfer(
            session,
            fact.artifact,
            fact.source_row,
            fact.server,
            self.target_workflow_id,
            fact.subfolder,
            idempotency_key=f"{fact.row}/{fact.artifact}/{fact.server}",
        )
        self.rows[fact.artifact] = row["id"]
        if row["status"] == TransferStatus.FAILED:
            await update_transfer_status(session, row["id"], TransferStatus.PENDING)

    async def _stands(self, session: Session, fact: TransferMade) -> None:
        row = await get_transfer(session, self.rows[fact.artifact])
        if row is None or row["status"] == TransferStatus.COMPLETED:
            return  # it stays so; a file that the server lost is sent again without a word
        if row["status"] == TransferStatus.FAILED and fact.status is TransferStatus.COMPLETED:
            await update_transfer_status(session, row["id"], TransferStatus.UPLOADING)  # another call gave it up
        message = fact.error.message if fact.error is not None else None
        await update_transfer_status(
            session,
            row["id"],
            fact.status,
            message,
            size=fact.size,
            duration_us=fact.duration_us,
            target_name=fact.name,
        )

    async def give_up(self, error: BaseException) -> None:
        """No row waits for a call that is over."""
        why = "another file could not be sent" if isinstance(error, Exception) else "the transfer was cancelled"
        async with self.db.session() as session:
            await session.begin()
            for id_ in self.rows.values():
                row = await get_transfer(session, id_)
                if row is not None and row["status"] in (TransferStatus.PENDING, TransferStatus.UPLOADING):
                    await update_transfer_status(session, id_, TransferStatus.FAILED, why)


async def transfer_outputs_to_input(
    source_server: str,
    target_server: str,
    output_files: Sequence[Entry],
    *,
    servers: Servers | None = None,
) -> list[str]:
    """Deprecated: send outputs of one server to another, without any record; the names that the target gave them.

    It needs the source server to be there, checks no digest and keeps nothing: `transfer_artifacts_from_storage` does.

    Raises:
        ServerFailed: E_DOWNLOAD_…, E_OUTPUT_…, E_UPLOAD_…, E_SERVER_…. InputInvalid: E_URL_….
    """
    warnings.warn(
        "transfer_outputs_to_input is deprecated: use transfer_artifacts_from_storage",
        DeprecationWarning,
        stacklevel=2,
    )
    settings = server_settings(servers)
    async with reach(source_server, settings) as source, reach(target_server, settings) as target:
        folder = await run_sync(TemporaryDirectory)
        try:
            outputs = read_outputs(output_files)
            return [await _passed_on(o, source, target, Path(folder.name), settings.limits) for o in outputs]
        finally:
            with anyio.CancelScope(shield=True):
                await run_sync(folder.cleanup)


async def _passed_on(output: Output, source: Member, target: Member, folder: Path, limits: Limits) -> str:
    if output.odd:
        raise ServerFailed(output.code, output.odd, retryable=False)
    path = folder / "file"
    async with opened_output(source, output, limits) as one:
        blob = await land(one.chunks, path)

    def chunks() -> AsyncIterator[bytes]:
        return source_chunks(path)

    name = upload_name(one.filename, blob.digest)
    return await upload_patiently(target.client, name, f"{FOLDER}/passed-on", chunks, blob.size)
