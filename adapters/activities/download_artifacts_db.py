"""Files of a server into the store: all of them with their rows, in one transaction, or none."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from towpath.adapters.comfyui.downloads import Download, bring_all
from towpath.adapters.comfyui.replies import OutputFile
from towpath.artifact import KeptFile
from towpath.logs import guarded_logger
from towpath.model import kind_of
from towpath.store import Record, RunStore, create_artifact, get_artifacts_by_workflow

from .opened_store import known_workflow, opened
from .server_access import Servers, known_servers, reach
from .server_outputs import Entry, Unreadable, read_outputs

_log = guarded_logger("towpath.activities")


async def download_and_store_artifacts(
    workflow_id: str,
    server_address: str,
    output_files: Sequence[Entry],
    *,
    store: RunStore | None = None,
    servers: Servers | None = None,
) -> list[dict[str, Any]]:
    """Download every output as an artifact of a workflow, named `<node>.<kind>[i]` as a chain's step names it.

    Returns, in the order given, `artifact_id filename original_filename local_path node_id server_address file_size
    file_type file_format downloaded_at`, and `name version media_type sha256`. `local_path` is the blob's, None for
    up to 16 KiB, which are in the database. The same file of the same server and workflow gives the same artifact
    in every call. An output of kind `unknown` is logged and left out.

    Raises:
        StoreFailed: E_DB_REFERENCE without such a workflow, E_DISK_…, E_DB_…. ServerFailed: E_DOWNLOAD_…, E_OUTPUT_…,
            E_ARTIFACT_…, E_SERVER_…. After any error there is neither a row nor a partial file.
    """
    servers_known = known_servers(servers)
    url = servers_known.server(server_address).url
    wanted = _wanted(workflow_id, url, output_files)
    async with opened(store) as db:
        rows = await _existing(db, workflow_id)
        missing = {key: file for key, file in wanted.items() if key not in rows}
        if missing:

            async def keep(_: OutputFile, download: Download) -> KeptFile:
                return await db.files.keep(download.chunks, download.filename, download.media_type)

            async with reach(server_address, servers_known) as member:
                files = list(missing.values())
                kept = await bring_all(member.connection, files, keep, servers_known.comfy.rules.limits)
            rows |= await _recorded(db, workflow_id, wanted, rows, dict(zip(missing, kept, strict=True)))
    return [_entry(rows[key], file, url) for key, file in wanted.items()]


def _wanted(workflow_id: str, url: str, output_files: Sequence[Entry]) -> dict[str, OutputFile]:
    """The outputs by idempotency key: the same output has the same key in every call."""
    wanted: dict[str, OutputFile] = {}
    for output in read_outputs(output_files):
        if isinstance(output, Unreadable):
            _log.warning("left out of workflow %s: %s", workflow_id, output.error.problem.message)
            continue
        parts = [workflow_id, url, output.node, output.folder, output.subfolder, output.filename, output.text]
        digest = hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()
        wanted[f"download {digest}"] = output
    return wanted


async def _existing(db: RunStore, workflow_id: str) -> dict[str, Record]:
    """The rows of earlier downloads by idempotency key."""
    async with db.session() as session:
        await known_workflow(session, workflow_id)
        rows = await get_artifacts_by_workflow(session, workflow_id, include_old_versions=True)
    return {row["idempotency_key"]: row for row in rows if row["idempotency_key"]}


async def _recorded(
    db: RunStore,
    workflow_id: str,
    wanted: Mapping[str, OutputFile],
    existing: Mapping[str, Record],
    kept: Mapping[str, KeptFile],
) -> dict[str, Record]:
    """The new rows, inserted in one transaction. A row that another call inserted meanwhile stays as it is."""
    rows: dict[str, Record] = {}
    counts: Counter[str] = Counter()
    async with db.session() as session:
        for key, file in wanted.items():
            media = kept[key].media_type if key in kept else existing[key]["media_type"]
            kind = f"{file.node}.{kind_of(media)}"
            name = f"{kind}[{counts[kind]}]"
            counts[kind] += 1
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


def _entry(row: Record, file: OutputFile, url: str) -> dict[str, Any]:
    return {
        "artifact_id": row["id"],
        "name": row["name"],
        "version": row["version"],
        "filename": row["local_filename"] or row["filename"],
        "original_filename": file.filename,
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
