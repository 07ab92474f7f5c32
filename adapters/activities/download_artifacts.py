"""Files of a server into a folder, without any database."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyio.to_thread import run_sync

from towpath.adapters.comfyui.downloads import Download, bring_all
from towpath.adapters.comfyui.replies import OutputFile
from towpath.errors import ServerFailed
from towpath.media import safe_filename
from towpath.model import kind_of
from towpath.store.disk import disk_errors, write_stream

from .server_access import Servers, known_servers, reach
from .server_outputs import Entry, read_outputs

if TYPE_CHECKING:
    from towpath.store import RunStore


async def download_and_store_images(
    server_address: str,
    output_files: Sequence[Entry],
    workflow_id: str | None = None,
    *,
    folder: str | os.PathLike[str] = "artifacts",
    store: RunStore | None = None,
    servers: Servers | None = None,
) -> list[dict[str, Any]]:
    """Download every output into `folder`, each under a unique name, and return one entry for each in the order given.

    For a downloaded file: `filename original_filename local_path node_id server_address file_size file_type
    file_format downloaded_at`, and `media_type sha256`. For a file that failed: `original_filename node_id
    server_address error code retryable`; the other files are downloaded all the same. No database is used, unless
    `workflow_id` is given: then this is `download_and_store_artifacts`.

    Raises:
        StoreFailed: E_DISK_…. InputInvalid: E_SERVER_CONFIG, E_SETTING, E_STRATEGY, E_URL_….
    """
    if workflow_id is not None:
        from .download_artifacts_db import download_and_store_artifacts  # noqa: PLC0415 - the only part with a database

        return await download_and_store_artifacts(
            workflow_id, server_address, output_files, store=store, servers=servers
        )
    known = known_servers(servers)
    target = await run_sync(_made, Path(folder))
    outputs = read_outputs(output_files)
    url = known.server(server_address).url

    async def keep(file: OutputFile, download: Download) -> dict[str, Any]:
        path = target / f"{secrets.token_hex(8)}-{safe_filename(download.filename)}"
        blob = await write_stream(download.chunks, path)
        return {
            "filename": path.name,
            **_origin(file, url),
            "local_path": str(path),
            "file_size": blob.size,
            "file_type": kind_of(download.media_type),
            "file_format": path.suffix.lstrip(".").lower(),
            "media_type": download.media_type,
            "sha256": blob.digest,
            "downloaded_at": datetime.now(UTC).isoformat(),
        }

    def failed(file: OutputFile, error: ServerFailed) -> dict[str, Any]:
        about = {"error": error.problem.message, "code": error.code, "retryable": error.retryable}
        return {**_origin(file, url), **about}

    files = [output for output in outputs if isinstance(output, OutputFile)]
    async with reach(server_address, known) as member:
        results = iter(await bring_all(member.connection, files, keep, known.comfy.rules.limits, failed=failed))
    return [next(results) if isinstance(o, OutputFile) else failed(o.file, o.error) for o in outputs]


def _made(folder: Path) -> Path:
    path = folder.absolute()
    with disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def _origin(file: OutputFile, url: str) -> dict[str, Any]:
    return {"original_filename": file.filename, "node_id": file.node, "server_address": url}
