"""Files of a server into a folder, without any database."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from towpath.adapters.comfyui.downloads import Download, Limits, download
from towpath.adapters.comfyui.pool import Member
from towpath.adapters.comfyui.workflow_run import DOWNLOADS
from towpath.errors import ServerFailed
from towpath.media import extension
from towpath.model import kind_of

from .landing import land, made_folder, unique_name
from .server_access import Servers, reach, server_settings
from .server_outputs import Entry, Output, read_outputs

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
    """Bring every output home into `folder`, each under a name of its own, and tell of each in the order given.

    What came: `filename original_filename local_path node_id server_address file_size file_type file_format
    downloaded_at`, and `media_type sha256`. What did not: `original_filename node_id server_address error code
    retryable`; the others are there all the same. There is no database, unless `workflow_id` is given: then this is
    `download_and_store_artifacts`.

    Raises:
        StoreFailed: E_DISK_…. InputInvalid: E_SERVER_CONFIG, E_SETTING, E_URL_….
    """
    if workflow_id is not None:
        from .download_artifacts_db import download_and_store_artifacts  # noqa: PLC0415 - the only part with a database

        return await download_and_store_artifacts(
            workflow_id, server_address, output_files, store=store, servers=servers
        )
    settings = server_settings(servers)
    target = await made_folder(folder)
    outputs = read_outputs(output_files)
    told: dict[int, dict[str, Any]] = {}
    limit = anyio.CapacityLimiter(DOWNLOADS)

    async def one(index: int) -> None:
        async with limit:
            told[index] = await _brought(member, outputs[index], target, settings.limits)

    async with reach(server_address, settings) as member:
        try:
            async with anyio.create_task_group() as tasks:
                for index in range(len(outputs)):
                    tasks.start_soon(one, index)
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
    return [told[index] for index in range(len(outputs))]


async def _brought(member: Member, output: Output, folder: Path, limits: Limits) -> dict[str, Any]:
    """One output in the folder, or why it is not there."""
    about = {
        "original_filename": output.file.filename,
        "node_id": output.file.node,
        "server_address": member.server.url,
    }
    if output.odd:
        return {**about, "error": output.odd, "code": output.code, "retryable": False}
    try:
        async with opened_output(member, output, limits) as one:
            path = folder / unique_name(one.filename)
            blob = await land(one.chunks, path)
    except ServerFailed as error:
        return {**about, "error": error.problem.message, "code": error.code, "retryable": error.retryable}
    return {
        "filename": path.name,
        **about,
        "local_path": str(path),
        "file_size": blob.size,
        "file_type": kind_of(one.media_type),
        "file_format": path.suffix.lstrip(".").lower(),
        "media_type": one.media_type,
        "sha256": blob.digest,
        "downloaded_at": datetime.now(UTC).isoformat(),
    }


@asynccontextmanager
async def opened_output(member: Member, output: Output, limits: Limits) -> AsyncIterator[Download]:
    """An output as a stream under a name for people. Raises ServerFailed as `download` does, also while it is read."""
    fallback = f"node-{output.file.node}"
    if output.text is not None:
        yield Download(f"{fallback}.txt", "text/plain", _whole(output.text))
        return
    async with aclosing(download(member.connection, output.file, limits, fallback)) as downloads:
        async for one in downloads:
            named = one.filename if not one.refused_name else f"{fallback}{extension(one.media_type)}"
            yield Download(named, one.media_type, one.chunks, one.refused_name)


async def _whole(text: str) -> AsyncIterator[bytes]:
    yield text.encode("utf-8", "replace")
