"""Files of a server into the store: all of them with their rows, in one transaction, or none."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import anyio

from towpath.adapters.comfyui.downloads import Limits
from towpath.adapters.comfyui.pool import Member
from towpath.adapters.comfyui.workflow_run import DOWNLOADS, bring_home
from towpath.artifact import KeptFile
from towpath.logs import guarded_logger
from towpath.model import kind_of
from towpath.store import Record, RunStore, create_artifact, get_artifacts_by_workflow

from .server_access import Servers, reach, server_settings
from .server_outputs import Entry, Output, read_outputs
from .opened_store import known_workflow, opened

_log = guarded_logger("towpath.activities")


async def download_and_store_artifacts(
    workflow_id: str,
    server_address: str,
    output_files: Sequence[Entry],
    *,
    store: RunStore | None = None,
    servers: Servers | None = None,
) -> list[dict[str, Any]]:
    """Bring every output home as an artifact of a workflow, called `<node>.<kind>[i]` as a chain's step calls it.

    Returns, in the order given, `artifact_id filename original_filename local_path node_id server_address file_size
    file_type file_format downloaded_at`, and `name version media_type sha256`. `local_path` is the blob's, None for
    up to 16 KiB, which are in the database. The same file of the same server and workflow gives the same artifact,
    however often it is asked for. What the server told and nobody understands (`kind` unknown) is logged and left out.

    Raises:
        StoreFailed: E_DB_REFERENCE without such a workflow, E_DISK_…, E_DB_…. ServerFailed: E_DOWNLOAD_…, E_OUTPUT_…,
            E_ARTIFACT_…, E_SERVER_…. After any error there is neither a row nor a partial file.
    """
    settings = server_settings(servers)
    server = settings.server(server_address)
    wanted = _wanted(workflow_id, server.url, read_outputs(output_files))
    async with opened(store) as db:
        known = await _known(db, workflow_id)
        missing = {key: output for key, output in wanted.items() if key not in known}
        if missing:
            async with reach(server_address, settings) as member:
                kept = await _downloaded(member, missing, db, settings.limits)
            known |= await _recorded(db, workflow_id, wanted, known, kept)
    return [_told(known[key], wanted[key], server.url) for key in wanted]


def _wanted(workflow_id: str, url: str, outputs: Sequence[Output]) -> dict[str, Output]:
    """The outputs by the key that makes their artifact the same one each time."""
    wanted: dict[str, Output] = {}
    for output in outputs:
        if output.odd:
            _log.warning("left out of workflow %s: %s", workflow_id, output.odd)
            continue
        file = output.file
        parts = [workflow_id, url, file.node, file.folder, file.subfolder, file.filename, output.text]
        digest = hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()
        wanted[f"download {digest}"] = output
    return wanted


async def _known(db: RunStore, workflow_id: str) -> dict[str, Record]:
    async with db.session() as session:
        await known_workflow(session, workflow_id)
        rows = await get_artifacts_by_workflow(session, workflow_id, include_old_versions=True)
    return {row["idempotency_key"]: row for row in rows if row["idempotency_key"]}


async def _downloaded(member: Member, missing: dict[str, Output], db: RunStore, limits: Limits) -> dict[str, KeptFile]:
    """The bytes of the outputs, safe in the store, with no row yet."""
    kept: dict[str, KeptFile] = {}
    limit = anyio.CapacityLimiter(DOWNLOADS)

    async def one(key: str, output: Output) -> None:
        async with limit:
            if output.text is not None:
                data = output.text.encode("utf-8", "replace")
                kept[key] = await db.files.keep(data, f"node-{output.file.node}.txt", "text/plain")
            else:
                kept[key] = await bring_home(member, output.file, db.files, limits)

    try:
        async with anyio.create_task_group() as tasks:
            for key, output in missing.items():
                tasks.start_soon(one, key, output)
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
    return kept


async def _recorded(
    db: RunStore, workflow_id: str, wanted: dict[str, Output], known: dict[str, Record], kept: dict[str, KeptFile]
) -> dict[str, Record]:
    """The new rows, made in one transaction; those that somebody else made meanwhile stay as they are."""
    rows: dict[str, Record] = {}
    counted: Counter[str] = Counter()
    async with db.session() as session:
        for key, output in wanted.items():
            file = output.file
            media = kept[key].media_type if key in kept else known[key]["media_type"]
            kind = f"{file.node}.{kind_of(media)}"
            name = f"{kind}[{counted[kind]}]"
            counted[kind] += 1
            if key not in kept:
                continue
            rows[key] = await create_artifact(
                session,
                workflow_id,
                data=kept[key],
                name=name,
                node_id=file.node or None,
                subfolder=str(file.subfolder),
                comfy_folder_type=str(file.folder),
                idempotency_key=key,
            )
    return rows


def _told(row: Record, output: Output, url: str) -> dict[str, Any]:
    return {
        "artifact_id": row["id"],
        "name": row["name"],
        "version": row["version"],
        "filename": row["local_filename"] or row["filename"],
        "original_filename": output.file.filename,
        "local_path": row["local_path"],
        "node_id": row["node_id"],
        "server_address": url,
        "file_size": row["file_size"],
        "file_type": row["file_type"],
        "file_format": row["file_format"],
        "media_type": row["media_type"],
        "sha256": row["sha256"],
        "downloaded_at": datetime.fromtimestamp(row["created_at"] / 1e6, UTC).isoformat(),
    }
