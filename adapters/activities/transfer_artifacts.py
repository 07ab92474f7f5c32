"""Artifacts on their way to a server: from the store, with a row for each; or, deprecated, from another server."""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
from anyio.to_thread import run_sync

from towpath.adapters.comfyui.downloads import Download, bring_all
from towpath.adapters.comfyui.file_names import upload_name
from towpath.adapters.comfyui.replies import OutputFile
from towpath.adapters.comfyui.uploads import FOLDER, Target, send_all, upload_with_retry
from towpath.artifact import Artifact
from towpath.errors import StoreFailed
from towpath.model import ArtifactRow
from towpath.store import Record, RunStore, Session, get_artifact
from towpath.store import rows as store_rows
from towpath.store.disk import source_chunks, write_stream

from .opened_store import known_workflow, opened
from .server_access import Servers, known_servers, reach
from .server_outputs import Entry, Unreadable, read_outputs
from .transfer_rows import TransferRows

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
    """Send artifacts of a workflow to a server; returns the names that the server gave them, in order, with folder.

    `["latest"]` means the latest version of each of its outputs. The bytes are checked against their digest
    before they are sent, and are not sent at all if the server still has them. There is one row per artifact, target
    workflow and server, however many calls there are: `pending`, `uploading`, then `completed` with `target_name`,
    `bytes` and `duration_us`, or `failed` with `error_message`.

    Raises:
        StoreFailed: E_DB_REFERENCE for a workflow or artifact that does not exist, E_BLOB_…, E_DB_….
        ServerFailed: E_ARTIFACT_REJECTED before anything is sent, E_UPLOAD_…, E_SERVER_…. InputInvalid: E_URL_….
    """
    known = known_servers(servers)
    async with opened(store) as db, reach(target_server, known) as member:
        source, found = await _artifacts(db, source_workflow_id, artifact_ids, target_workflow_id)
        run = source["chain_id"] or source_workflow_id
        target = Target(run, target_workflow_id or source_workflow_id, source["step_id"] or "", None, member)
        rows = TransferRows(db, target_workflow_id)
        try:
            named, completed = await send_all({"files": found}, target, db, rows.record)
            await rows.record(completed)
        except BaseException as error:
            failed = isinstance(error, Exception)
            with anyio.CancelScope(shield=True):
                await rows.close("another file could not be sent" if failed else "the transfer was cancelled")
            raise
    names: list[str] = named["files"]
    return names


async def _artifacts(
    db: RunStore, workflow_id: str, artifact_ids: Sequence[str], target_workflow_id: str | None
) -> tuple[Record, list[Artifact]]:
    """The row of the source workflow, and its artifacts that `artifact_ids` names."""
    latest = list(artifact_ids) == LATEST
    async with db.session() as session:
        source = await known_workflow(session, workflow_id)
        if target_workflow_id is not None:
            await known_workflow(session, target_workflow_id)
        found = [] if latest else [await _artifact(session, workflow_id, id_) for id_ in artifact_ids]
    if latest:
        found = await db.latest_artifacts(workflow_id)
        if not found:
            raise StoreFailed("E_DB_REFERENCE", "this workflow has no artifacts", found=workflow_id)
    return source, [Artifact(row, db.files) for row in found]


async def _artifact(session: Session, workflow_id: str, artifact_id: str) -> ArtifactRow:
    found = await get_artifact(session, artifact_id)
    if found is None or found["workflow_id"] != workflow_id:
        message = f"workflow {workflow_id} has no such artifact"
        raise StoreFailed("E_DB_REFERENCE", message, found=artifact_id, allowed='ids of its artifacts, or ["latest"]')
    return store_rows.artifact(found)


async def transfer_outputs_to_input(
    source_server: str,
    target_server: str,
    output_files: Sequence[Entry],
    *,
    servers: Servers | None = None,
) -> list[str]:
    """Deprecated: send outputs of one server to another without any record; returns the names the target gave them.

    The source server must be up, no digest is checked, and nothing is kept. `transfer_artifacts_from_storage` needs
    no source server, checks digests, and keeps rows.

    Raises:
        ServerFailed: E_DOWNLOAD_…, E_OUTPUT_…, E_UPLOAD_…, E_SERVER_…. InputInvalid: E_URL_….
    """
    warnings.warn(
        "transfer_outputs_to_input is deprecated: use transfer_artifacts_from_storage",
        DeprecationWarning,
        stacklevel=2,
    )
    known = known_servers(servers)
    outputs = read_outputs(output_files)
    for output in outputs:
        if isinstance(output, Unreadable):
            raise output.error
    files = [output for output in outputs if isinstance(output, OutputFile)]
    async with reach(source_server, known) as source, reach(target_server, known) as target:
        folder = await run_sync(TemporaryDirectory)

        async def pass_on(_: OutputFile, download: Download) -> str:
            path = Path(folder.name) / secrets.token_hex(8)
            blob = await write_stream(download.chunks, path)
            name = upload_name(download.filename, blob.digest)
            sent = await upload_with_retry(
                target.client, name, f"{FOLDER}/passed-on", lambda: source_chunks(path), blob.size
            )
            await run_sync(path.unlink)
            return sent

        try:
            return await bring_all(source.connection, files, pass_on, known.comfy.rules.limits)
        finally:
            with anyio.CancelScope(shield=True):
                await run_sync(folder.cleanup)
