"""Uploads of artifacts from the store to a server: verified, sent once, under the name that the server returns."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import anyio
from msgspec import structs

from towpath.artifact import Artifact
from towpath.errors import ServerFailed, TowpathError
from towpath.events import Fact, TransferMade
from towpath.model import ArtifactApproval, ArtifactRow, ErrorInfo, TransferStatus
from towpath.ports import ReadingStore

from .client import ComfyClient
from .concurrency import map_all
from .file_names import upload_name
from .pool import Member
from .workflow_try import RecordFacts

FOLDER = "towpath"  # below a server's input folder
AT_ONCE = 4  # uploads of one step at the same time
VERIFIED = 8 * 1024 * 1024  # bytes: a file up to this size is read and verified before the first byte is sent


@dataclass(frozen=True, slots=True)
class Target:
    """The step that needs the files: its row, and the server of its prompt."""

    run_id: str
    row: str
    step: str
    item: int | None
    member: Member

    @property
    def folder(self) -> str:
        """The subfolder for files of this run; other runs do not write there."""
        return f"{FOLDER}/{hashlib.sha256(self.run_id.encode()).hexdigest()[:12]}"


async def send_all(
    arguments: Mapping[str, Any], target: Target, store: ReadingStore, record: RecordFacts
) -> tuple[dict[str, Any], list[Fact]]:
    """The arguments with every artifact replaced by its name on the server, and facts that the caller must record.

    A transfer is recorded as `pending` before the first file is sent, and as `uploading` before its own file is.
    The returned facts say `completed`; the caller records them in one unit with the prompt.

    Raises:
        ServerFailed: E_ARTIFACT_REJECTED, E_UPLOAD_…, E_SERVER_…. StoreFailed: E_BLOB_….
    """
    found = {artifact.id: artifact for artifact in artifacts_in(arguments)}
    if not found:
        return dict(arguments), []
    for artifact in found.values():
        refuse_rejected(artifact.row)
    transfers = {
        key: TransferMade(
            store.new_id(),
            target.row,
            target.step,
            target.item,
            key,
            artifact.row.workflow_id,
            target.member.server.name,
            TransferStatus.PENDING,
            target.folder,
        )
        for key, artifact in found.items()
    }
    await record(list(transfers.values()))

    async def send(key: str) -> TransferMade:
        return await _send(found[key], transfers[key], target, store, record)

    completed = await map_all(send, list(found), AT_ONCE)
    names = {transfer.artifact: transfer.name or "" for transfer in completed}
    return {key: _named(value, names) for key, value in arguments.items()}, list(completed)


async def _send(
    artifact: Artifact, transfer: TransferMade, target: Target, store: ReadingStore, record: RecordFacts
) -> TransferMade:
    member = target.member
    began = time.monotonic()
    # If two steps need the same bytes on this server, the second waits and finds the file of the first.
    async with member.sending.setdefault(artifact.digest, anyio.Lock()):
        known = await _existing(artifact, member, store)
        if known is not None:
            return _completed(transfer, known, 0, began)
        await record([structs.replace(transfer, status=TransferStatus.UPLOADING)])
        try:
            name = await _upload(artifact, target)
        except TowpathError as error:
            info = ErrorInfo(error.code, error.problem.message)
            await record([structs.replace(transfer, status=TransferStatus.FAILED, error=info)])
            raise
        member.sent[artifact.digest] = name
    return _completed(transfer, name, artifact.size, began)


def _completed(transfer: TransferMade, name: str, size: int, began: float) -> TransferMade:
    took = int((time.monotonic() - began) * 1e6)
    return structs.replace(transfer, status=TransferStatus.COMPLETED, name=name, size=size, duration_us=took)


async def _existing(artifact: Artifact, member: Member, store: ReadingStore) -> str | None:
    """The name of a file with the same bytes that was sent to this server before and still exists."""
    name = member.sent.get(artifact.digest) or await store.sent_before(member.server.name, artifact.digest)
    if name is None or name.endswith("]") or not await member.client.has_input(name, artifact.size):
        return None
    return name


async def _upload(artifact: Artifact, target: Target) -> str:
    """Send the bytes and return the server's name for them."""
    client, name = target.member.client, upload_name(artifact.filename, artifact.digest)
    whole = await artifact.read_bytes() if artifact.size <= VERIFIED else None

    async def chunks() -> AsyncIterator[bytes]:
        if whole is not None:
            yield whole
            return
        async for chunk in artifact.open():  # yields the last chunk only if the digest is right
            yield chunk

    return await upload_with_retry(client, name, target.folder, chunks, artifact.size)


async def upload_with_retry(
    client: ComfyClient, name: str, folder: str, chunks: Callable[[], AsyncIterator[bytes]], size: int
) -> str:
    """`ComfyClient.upload`, retried while the server fails. `chunks` is called for each attempt."""
    began = anyio.current_time()
    while True:
        try:
            return await client.upload(name, folder, chunks, size)
        except ServerFailed as error:
            again = error.retryable and error.code.startswith("E_SERVER_")
            if not again or anyio.current_time() - began >= client.connection.retry_seconds(error):
                raise


def refuse_rejected(row: ArtifactRow) -> None:
    """Raise ServerFailed (E_ARTIFACT_REJECTED) for a version that was rejected."""
    if row.approval_status == ArtifactApproval.REJECTED:
        message = f"{row.name} v{row.version} was rejected and is not sent to a server"
        raise ServerFailed("E_ARTIFACT_REJECTED", message, retryable=False)


def artifacts_in(value: Any) -> list[Artifact]:
    """The artifacts in a value, at any depth."""
    if isinstance(value, Artifact):
        return [value]
    if isinstance(value, Mapping):
        return [artifact for inner in value.values() for artifact in artifacts_in(inner)]
    if isinstance(value, list):
        return [artifact for inner in value for artifact in artifacts_in(inner)]
    return []


def _named(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, Artifact):
        return names[value.id]
    if isinstance(value, Mapping):
        return {key: _named(inner, names) for key, inner in value.items()}
    return [_named(inner, names) for inner in value] if isinstance(value, list) else value
