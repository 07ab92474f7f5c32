"""Artifacts: versions 1..n per (workflow, name) without gaps, exactly one of them the latest.

The switch of the latest version is unset-then-set inside one write transaction; two unique indexes make
anything else impossible (research: a swap in one statement fails or works by row order).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa

from towpath.artifact import KeptFile
from towpath.errors import InputInvalid, StoreFailed
from towpath.model import ArtifactApproval, Json, kind_of

from . import transitions
from .clock import new_id, now
from .keyed import insert_once, page
from .rows import Record, encode, record, record_or_none
from .session import Session
from .tables import artifact_deletions, artifacts, blobs, workflows

_LINEAGE_DEPTH = 10_000


async def create_artifact(
    session: Session,
    workflow_id: str,
    filename: str | None = None,
    local_filename: str | None = None,
    local_path: str | Path | None = None,
    file_type: str | None = None,
    *,
    data: bytes | None = None,
    name: str | None = None,
    version: int | None = None,
    is_latest: bool = True,
    parent_artifact_id: str | None = None,
    approval_status: str = "auto_approved",
    node_id: str | None = None,
    subfolder: str = "",
    comfy_folder_type: str = "output",
    created_by: str | None = None,
    extra_metadata: Json = None,
    idempotency_key: str | None = None,
) -> Record:
    """Keep a file as the next version of a workflow's output and return its row.

    The bytes come from `local_path` or `data`; file name, type, size and digest are derived from them.
    `name` is the logical output (default: the parent's, else `output`). `version` may be given as a check.
    The only version of an output is its latest, whatever `is_latest` says.

    Raises:
        InputInvalid: E_ARTIFACT_VERSION if `version` is not the next one, E_ARTIFACT_SOURCE without bytes,
            E_ARTIFACT_PARENT if the parent belongs to another workflow. StoreFailed: E_DB_REFERENCE, E_DISK_….
    """
    word = transitions.status(ArtifactApproval, approval_status)
    kept = await _keep(session, local_path, data, filename)
    await session.begin()
    repeated = await _by_key(session, idempotency_key)
    if repeated is not None:
        return repeated
    name = await _logical_name(session, workflow_id, name, parent_artifact_id)
    expected = await next_version(session, workflow_id, name)
    if version is not None and version != expected:
        raise InputInvalid("E_ARTIFACT_VERSION", f"the next version of {name} is {expected}", found=version)
    at = now()
    if kept.inline is not None:
        await _keep_inline(session, kept)
    is_latest = is_latest or await get_latest_artifact(session, workflow_id, name) is None
    if is_latest:
        await _unset_latest(session, workflow_id, name)
    row = await insert_once(
        session,
        artifacts,
        {
            "id": new_id(),
            "workflow_id": workflow_id,
            "name": name,
            "version": expected,
            "is_latest": int(is_latest),
            "filename": kept.filename,
            "local_filename": local_filename or (None if kept.local_path is None else kept.digest),
            "local_path": kept.local_path,
            "file_type": file_type or kind_of(kept.media_type),
            "file_format": Path(kept.filename).suffix.lstrip(".") or None,
            "file_size": kept.size,
            "media_type": kept.media_type,
            "sha256": kept.digest,
            "node_id": node_id,
            "subfolder": subfolder,
            "comfy_folder_type": comfy_folder_type,
            "parent_artifact_id": parent_artifact_id,
            "approval_status": word,
            "approved_at": at if word is ArtifactApproval.APPROVED else None,
            "approved_by": created_by if word is ArtifactApproval.APPROVED else None,
            "attempt": 1,
            "created_by": created_by,
            "extra_metadata": encode(extra_metadata),
            "created_at": at,
            "updated_at": at,
            "idempotency_key": idempotency_key,
        },
    )
    if is_latest:
        await _point_at_latest(session, workflow_id, name, row["id"])
    return row


async def _keep(session: Session, path: str | Path | None, data: bytes | None, filename: str | None) -> KeptFile:
    if data is not None:
        return await session.files.keep(data, filename)
    if path is not None:
        return await session.files.keep(Path(path), filename or Path(path).name)
    raise InputInvalid("E_ARTIFACT_SOURCE", "an artifact needs bytes", allowed="local_path=… or data=…")


async def _by_key(session: Session, key: str | None) -> Record | None:
    if key is None:
        return None
    return record_or_none(await session.fetch_one(sa.select(artifacts).where(artifacts.c.idempotency_key == key)))


async def _logical_name(session: Session, workflow_id: str, name: str | None, parent_id: str | None) -> str:
    if parent_id is None:
        return name or "output"
    parent = await get_artifact(session, parent_id)
    if parent is None or parent["workflow_id"] != workflow_id or name not in (None, parent["name"]):
        raise InputInvalid("E_ARTIFACT_PARENT", "the parent is another output's version", found=parent_id)
    return str(parent["name"])


async def next_version(session: Session, workflow_id: str, name: str) -> int:
    """The number the next version gets: one above the highest ever given, deleted ones included."""
    highest = sa.union_all(
        sa.select(artifacts.c.version).where(artifacts.c.workflow_id == workflow_id, artifacts.c.name == name),
        sa.select(artifact_deletions.c.version).where(
            artifact_deletions.c.workflow_id == workflow_id, artifact_deletions.c.name == name
        ),
    ).subquery()
    row = await session.fetch_one(sa.select(sa.func.coalesce(sa.func.max(highest.c.version), 0).label("top")))
    assert row is not None
    return int(row["top"]) + 1


async def _keep_inline(session: Session, kept: KeptFile) -> None:
    known = await session.fetch_one(sa.select(blobs.c.size).where(blobs.c.sha256 == kept.digest))
    if known is None:
        values = {"sha256": kept.digest, "size": kept.size, "data": kept.inline}
        await session.execute(sa.insert(blobs).values(values))


async def _unset_latest(session: Session, workflow_id: str, name: str) -> None:
    old = sa.update(artifacts).where(
        artifacts.c.workflow_id == workflow_id, artifacts.c.name == name, artifacts.c.is_latest == 1
    )
    await session.execute(old.values(is_latest=0, updated_at=now()))


async def _point_at_latest(session: Session, workflow_id: str, name: str, artifact_id: str) -> None:
    """Move the workflow's pointer if it has none yet or points to a version of the same output."""
    same_output = sa.select(artifacts.c.id).where(artifacts.c.workflow_id == workflow_id, artifacts.c.name == name)
    change = sa.update(workflows).where(
        workflows.c.id == workflow_id,
        sa.or_(workflows.c.latest_artifact_id.is_(None), workflows.c.latest_artifact_id.in_(same_output)),
    )
    await session.execute(change.values(latest_artifact_id=artifact_id, updated_at=now()))


async def get_artifact(session: Session, artifact_id: str) -> Record | None:
    """The artifact of that id, or None."""
    return record_or_none(await session.fetch_one(sa.select(artifacts).where(artifacts.c.id == artifact_id)))


async def get_latest_artifact(session: Session, workflow_id: str, name: str | None = None) -> Record | None:
    """The latest version of a workflow's primary output, or of the output called `name`. One query."""
    query = sa.select(artifacts).where(artifacts.c.workflow_id == workflow_id)
    if name is not None:
        query = query.where(artifacts.c.name == name, artifacts.c.is_latest == 1)
    else:
        pointer = sa.select(workflows.c.latest_artifact_id).where(workflows.c.id == workflow_id)
        query = query.where(artifacts.c.id == pointer.scalar_subquery())
    return record_or_none(await session.fetch_one(query))


async def get_artifacts_by_workflow(
    session: Session, workflow_id: str, include_old_versions: bool = False
) -> list[Record]:
    """The outputs of a workflow, by name, newest version first."""
    query = sa.select(artifacts).where(artifacts.c.workflow_id == workflow_id)
    if not include_old_versions:
        query = query.where(artifacts.c.is_latest == 1)
    query = query.order_by(artifacts.c.name, artifacts.c.version.desc())
    return [record(row) for row in await session.fetch_all(query)]


async def get_artifact_versions(session: Session, artifact_id: str) -> list[Record]:
    """The whole lineage of an artifact, ancestors and descendants, oldest first. One query."""
    up = sa.select(artifacts.c.id, artifacts.c.parent_artifact_id, sa.literal(0).label("depth"))
    up_all = up.where(artifacts.c.id == artifact_id).cte("up", recursive=True)
    parent = artifacts.alias("parent")
    up_all = up_all.union_all(
        sa.select(parent.c.id, parent.c.parent_artifact_id, up_all.c.depth + 1).where(
            parent.c.id == up_all.c.parent_artifact_id, up_all.c.depth < _LINEAGE_DEPTH
        )
    )
    root = sa.select(up_all.c.id).order_by(up_all.c.depth.desc()).limit(1).scalar_subquery()
    down = sa.select(artifacts.c.id, sa.literal(0).label("depth")).where(artifacts.c.id == root)
    down_all = down.cte("down", recursive=True)
    child = artifacts.alias("child")
    down_all = down_all.union_all(
        sa.select(child.c.id, down_all.c.depth + 1).where(
            child.c.parent_artifact_id == down_all.c.id, down_all.c.depth < _LINEAGE_DEPTH
        )
    )
    query = sa.select(artifacts).where(artifacts.c.id.in_(sa.select(down_all.c.id)))
    return [record(row) for row in await session.fetch_all(query.order_by(artifacts.c.version, artifacts.c.id))]


async def update_artifact_latest_flag(session: Session, artifact_id: str, is_latest: bool) -> Record | None:
    """Make a version the latest, or (False) hand that over to the highest other version, if there is one."""
    await session.begin()
    found = await get_artifact(session, artifact_id)
    if found is None:
        return None
    if bool(found["is_latest"]) == is_latest:
        return found
    chosen = artifact_id if is_latest else await _highest_other(session, found)
    if chosen is None:
        raise StoreFailed("E_ARTIFACT_LATEST", "the only version of an output is its latest", found=artifact_id)
    await _make_latest(session, found["workflow_id"], found["name"], chosen)
    return await get_artifact(session, artifact_id)


async def _highest_other(session: Session, artifact: Record) -> str | None:
    query = sa.select(artifacts.c.id).where(
        artifacts.c.workflow_id == artifact["workflow_id"],
        artifacts.c.name == artifact["name"],
        artifacts.c.id != artifact["id"],
    )
    row = await session.fetch_one(query.order_by(artifacts.c.version.desc()).limit(1))
    return None if row is None else str(row["id"])


async def _make_latest(session: Session, workflow_id: str, name: str, artifact_id: str) -> None:
    await _unset_latest(session, workflow_id, name)
    await session.execute(
        sa.update(artifacts).where(artifacts.c.id == artifact_id).values(is_latest=1, updated_at=now())
    )
    await _point_at_latest(session, workflow_id, name, artifact_id)


async def approve_artifact(session: Session, artifact_id: str, approved_by: str) -> Record | None:
    """Mark a version as approved. Gates have functions of their own (`approvals.approve`)."""
    values = {"approval_status": ArtifactApproval.APPROVED, "approved_by": approved_by, "approved_at": now()}
    return await _judge(session, artifact_id, {**values, "rejection_reason": None})


async def reject_artifact(session: Session, artifact_id: str, rejected_by: str, reason: str = "") -> Record | None:
    """Mark a version as rejected: it is never transferred nor handed to a later step."""
    values = {"approval_status": ArtifactApproval.REJECTED, "approved_by": rejected_by, "approved_at": now()}
    return await _judge(session, artifact_id, {**values, "rejection_reason": reason})


async def _judge(session: Session, artifact_id: str, values: dict[str, Any]) -> Record | None:
    change = sa.update(artifacts).where(artifacts.c.id == artifact_id)
    return record_or_none(await session.fetch_one(change.values(**values, updated_at=now()).returning(artifacts)))


async def list_artifacts(
    session: Session,
    limit: int = 100,
    offset: int = 0,
    workflow_id: str | None = None,
    approval_status: str | None = None,
    is_latest: bool | None = None,
    chain_id: str | None = None,
) -> list[Record]:
    """Artifacts, newest first."""
    query = sa.select(artifacts).order_by(artifacts.c.created_at.desc(), artifacts.c.id.desc())
    if workflow_id is not None:
        query = query.where(artifacts.c.workflow_id == workflow_id)
    if chain_id is not None:
        query = query.join(workflows, workflows.c.id == artifacts.c.workflow_id)
        query = query.where(workflows.c.chain_id == chain_id)
    if approval_status is not None:
        query = query.where(artifacts.c.approval_status == transitions.status(ArtifactApproval, approval_status))
    if is_latest is not None:
        query = query.where(artifacts.c.is_latest == int(is_latest))
    return [record(row) for row in await session.fetch_all(page(query, limit, offset))]


async def delete_artifact(session: Session, artifact_id: str) -> bool:
    """Delete a version; the one before it becomes the latest. Its number is never given again. Was it there?"""
    await session.begin()
    found = await get_artifact(session, artifact_id)
    if found is None:
        return False
    workflow_id, name = found["workflow_id"], found["name"]
    pointed = sa.update(workflows).where(workflows.c.id == workflow_id, workflows.c.latest_artifact_id == artifact_id)
    moved = await session.execute(pointed.values(latest_artifact_id=None, updated_at=now()))
    gone = {"workflow_id": workflow_id, "name": name, "version": found["version"], "deleted_at": now()}
    await session.execute(sa.insert(artifact_deletions).values(gone))
    heir = await _highest_other(session, found)
    await session.execute(sa.delete(artifacts).where(artifacts.c.id == artifact_id))
    if found["is_latest"] and heir is not None:
        await session.execute(sa.update(artifacts).where(artifacts.c.id == heir).values(is_latest=1, updated_at=now()))
    if moved:
        await _point_at_any(session, workflow_id, heir)
    return True


async def _point_at_any(session: Session, workflow_id: str, heir: str | None) -> None:
    """Point a workflow whose primary output was deleted at the version before it, else at its first output."""
    older = artifacts.alias("older")
    same_output = sa.and_(older.c.workflow_id == artifacts.c.workflow_id, older.c.name == artifacts.c.name)
    made_first = sa.select(sa.func.min(older.c.id)).where(same_output).scalar_subquery()
    latest = sa.select(artifacts.c.id).where(artifacts.c.workflow_id == workflow_id, artifacts.c.is_latest == 1)
    first = latest.order_by(made_first).limit(1)
    change = sa.update(workflows).where(workflows.c.id == workflow_id)
    await session.execute(change.values(latest_artifact_id=heir or first.scalar_subquery(), updated_at=now()))
