"""Artifacts on their way from the store to a server: verified, sent once, under the name the server answers."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import anyio

from towpath.artifact import Artifact
from towpath.errors import ServerFailed, TowpathError
from towpath.events import Fact, TransferMade
from towpath.model import ArtifactApproval, ErrorInfo, TransferStatus
from towpath.ports import ReadingStore

from .client import ComfyClient
from .names import upload_name
from .pool import Member
from .tries import Record

FOLDER = "towpath"  # where our files are in a server's input folder
AT_ONCE = 4  # uploads to one server by one step
VERIFIED = 8 * 1024 * 1024  # bytes: up to here a file is read and checked before the first byte is sent


@dataclass(frozen=True, slots=True)
class Target:
    """The step that gets the files: its row, and where its prompt will run."""

    run_id: str
    row: str
    step: str
    item: int | None
    member: Member

    @property
    def folder(self) -> str:
        """The subfolder for files of this run: no other run writes there."""
        return f"{FOLDER}/{hashlib.sha256(self.run_id.encode()).hexdigest()[:12]}"


async def send_all(
    arguments: Mapping[str, Any], target: Target, store: ReadingStore, record: Record
) -> tuple[dict[str, Any], list[Fact]]:
    """The arguments with every artifact replaced by its name on the target's server, and what is left to record.

    Rows become `pending` before the first file is sent, `uploading` as each is. That they are `completed` is
    for the caller to record, together with the prompt that they feed.

    Raises:
        ServerFailed: E_UPLOAD_…, E_SERVER_…. StoreFailed: E_BLOB_…. PromptFailed is none of its.
    """
    found = {artifact.id: artifact for artifact in _artifacts(arguments)}
    if not found:
        return dict(arguments), []
    for artifact in found.values():
        _refuse_rejected(artifact)
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
    done: dict[str, TransferMade] = {}
    limit = anyio.CapacityLimiter(AT_ONCE)

    async def one(key: str) -> None:
        async with limit:
            done[key] = await _send(found[key], transfers[key], target, store, record)

    try:
        async with anyio.create_task_group() as tasks:
            for key in found:
                tasks.start_soon(one, key)
    except BaseExceptionGroup as group:
        raise _first(group) from None
    names = {key: transfer.name or "" for key, transfer in done.items()}
    return {key: _named(value, names) for key, value in arguments.items()}, [done[key] for key in found]


async def _send(
    artifact: Artifact, transfer: TransferMade, target: Target, store: ReadingStore, record: Record
) -> TransferMade:
    member = target.member
    began = time.monotonic()
    # Two steps that want the same bytes on the same server: the second finds what the first has sent.
    async with member.sending.setdefault(artifact.digest, anyio.Lock()):
        known = await _there(artifact, member, store)
        if known is not None:
            return _completed(transfer, known, 0, began)
        await record([replace(transfer, status=TransferStatus.UPLOADING)])
        try:
            name = await _upload(artifact, target)
        except TowpathError as error:
            info = ErrorInfo(error.code, error.problem.message)
            await record([replace(transfer, status=TransferStatus.FAILED, error=info)])
            raise
        member.sent[artifact.digest] = name
    return _completed(transfer, name, artifact.size, began)


def _completed(transfer: TransferMade, name: str, size: int, began: float) -> TransferMade:
    took = int((time.monotonic() - began) * 1e6)
    return replace(transfer, status=TransferStatus.COMPLETED, name=name, size=size, duration_us=took)


async def _there(artifact: Artifact, member: Member, store: ReadingStore) -> str | None:
    """The name of the same bytes on that server, if we sent them before and they are still there."""
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
        async for chunk in artifact.open():  # its last chunk comes only if the digest is right
            yield chunk

    return await upload_patiently(client, name, target.folder, chunks, artifact.size)


async def upload_patiently(
    client: ComfyClient, name: str, folder: str, chunks: Callable[[], AsyncIterator[bytes]], size: int
) -> str:
    """Like `ComfyClient.upload`; a server that is busy is waited for. `chunks` is called for each try."""
    began = anyio.current_time()
    while True:
        try:
            return await client.upload(name, folder, chunks, size)
        except ServerFailed as error:
            again = error.retryable and error.code.startswith("E_SERVER_")
            if not again or anyio.current_time() - began >= client.connection.longest(error):
                raise


def _refuse_rejected(artifact: Artifact) -> None:
    if artifact.row.approval_status == ArtifactApproval.REJECTED:
        raise ServerFailed(
            "E_ARTIFACT_REJECTED",
            f"{artifact.name} v{artifact.version} was rejected: it is sent to no server",
            retryable=False,
        )


def _artifacts(value: Any) -> list[Artifact]:
    if isinstance(value, Artifact):
        return [value]
    if isinstance(value, Mapping):
        return [artifact for inner in value.values() for artifact in _artifacts(inner)]
    if isinstance(value, list):
        return [artifact for inner in value for artifact in _artifacts(inner)]
    return []


def _named(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, Artifact):
        return names[value.id]
    if isinstance(value, Mapping):
        return {key: _named(inner, names) for key, inner in value.items()}
    return [_named(inner, names) for inner in value] if isinstance(value, list) else value


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    at: BaseException = group
    while isinstance(at, BaseExceptionGroup):
        at = at.exceptions[0]
    return at
