"""Artifacts: versions 1..n per (workflow, name) without gaps, exactly one of them the latest.

To change the latest version, one write transaction first unsets the old one and then sets the new one. Two unique
indexes forbid any other state. (One statement for both fails or works, depending on the order of rows.)
"""

from __future__ import annotations

from collections.abc import AsyncIterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import msgspec

from towpath.artifact import File, KeptFile
from towpath.errors import InputInvalid, Place, StoreFailed
from towpath.events import GateFact
from towpath.model import ApprovalStatus, ArtifactApproval, GateAction, Json, StepStatus, kind_of
from towpath.secrets import MARK, sealed
from towpath.values import check_replacement

from . import event_log, gates, rows, transitions
from .clock import new_id, now
from .core import sa, t
from .definitions import elsewhere
from .idempotency import insert_once, page
from .rows import Record, decode, encode, record, record_or_none
from .session import Session
from .versions import given, highest

_LINEAGE_DEPTH = 10_000


async def create_artifact(
    session: Session,
    workflow_id: str,
    filename: str | None = None,
    local_filename: str | None = None,
    local_path: str | Path | None = None,
    file_type: str | None = None,
    *,
    data: bytes | AsyncIterable[bytes] | KeptFile | None = None,
    media_type: str | None = None,
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

    The bytes come from `local_path` or `data` (a `KeptFile` has them safe already); file name, type, size and digest
    are derived from them.
    `name` is the logical output (default: the parent's, else `output`). `version` may be given as a check.
    The only version of an output is its latest, whatever `is_latest` says. A gate that waits lists the new
    version from now on; with a parent and `approved` it is decided with it, in the same transaction.

    Raises:
        InputInvalid: E_ARTIFACT_VERSION if `version` is not the next one, E_ARTIFACT_SOURCE without bytes,
            E_ARTIFACT_PARENT if the parent belongs to another workflow, E_ARTIFACT_BUSY while a run makes it.
        ValueRefused: E_VALUE_TYPE, E_VALUE_SIZE if a kept value would be replaced by something else.
        ApprovalRefused: E_APPROVAL_EXPIRED. StoreFailed: E_DB_REFERENCE, E_DISK_….
    """
    word = transitions.status(ArtifactApproval, approval_status)
    kept = await _keep(session, local_path, data, filename, media_type)
    await session.begin()
    repeated = await _by_key(session, idempotency_key)
    if repeated is not None:
        return repeated
    parent = await _parent(session, workflow_id, name, parent_artifact_id)
    name = name or ("output" if parent is None else str(parent["name"]))
    place = None if parent is None else await _editable(session, workflow_id)
    kept = await _as_value(session, workflow_id, name, kept)
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
        t.artifacts,
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
            "attempt": 1 if parent is None else parent["attempt"],
            "created_by": created_by,
            "extra_metadata": encode(extra_metadata),
            "created_at": at,
            "updated_at": at,
            "idempotency_key": idempotency_key,
        },
    )
    if is_latest:
        await _point_at_latest(session, workflow_id, name, row["id"])
        await gates.relist(session, workflow_id, name)
    if place is not None:
        await _log_edit(session, place, row)
    if place is not None and is_latest and word is ArtifactApproval.APPROVED:
        await _approve_gate(session, row)
    return row


async def edit_artifact(
    session: Session, artifact_id: str, data: bytes | Path | File, by: str, *, reason: str = "", approve: bool = False
) -> Record:
    """Replace an artifact by a new version of the same output, marked `edited`, and return that.

    An edit decides nothing, unless `approve` says so: then a gate that waits for this output is approved in
    the same transaction. A run that is past this step does not change.

    Raises:
        InputInvalid: E_ARTIFACT_MISSING, E_APPROVAL_BY, and what `create_artifact` raises.
    """
    if not by.strip():
        raise InputInvalid("E_APPROVAL_BY", "an edit needs the name of the person who makes it")
    old = await get_artifact(session, artifact_id)
    if old is None:
        raise InputInvalid("E_ARTIFACT_MISSING", "there is no such artifact", found=artifact_id)
    new = data if isinstance(data, File) else File(data)
    source: dict[str, Any] = {"local_path": new.data} if isinstance(new.data, Path) else {"data": new.data}
    named = new.filename or (new.data.name if isinstance(new.data, Path) else old["filename"])
    word = ArtifactApproval.APPROVED if approve else ArtifactApproval.EDITED
    return await create_artifact(
        session,
        old["workflow_id"],
        named,
        **source,
        media_type=new.media_type,
        parent_artifact_id=artifact_id,
        approval_status=word,
        created_by=by,
        extra_metadata={"reason": reason} if reason else None,
    )


async def _editable(session: Session, workflow_id: str) -> Record:
    """The place of a row whose output is about to be replaced.

    Raises InputInvalid (E_ARTIFACT_BUSY) while a run makes the next version itself.
    """
    query = sa.select(
        t.workflows.c.id.label("workflow_id"),
        *(t.workflows.c[name] for name in ("chain_id", "step_id", "item_index", "status")),
        t.chains.c.chain_definition,
    ).join(t.chains, t.chains.c.id == t.workflows.c.chain_id, isouter=True)
    row = await session.fetch_one(query.where(t.workflows.c.id == workflow_id))
    assert row is not None, "its artifact refers to it"
    if row["chain_definition"] is not None and row["status"] in (StepStatus.QUEUED, StepStatus.EXECUTING):
        raise InputInvalid(
            "E_ARTIFACT_BUSY",
            f"step {row['step_id']} is being made again",
            cure="edit what it makes, when it waits for approval again",
        )
    return Record(row)


async def _as_value(session: Session, workflow_id: str, name: str, kept: KeptFile) -> KeptFile:
    """The new version of a value that is stored as an artifact must be a value; its secrets stay secrets."""
    old = await get_latest_artifact(session, workflow_id, name) if name == "value" else None
    if old is None or old["media_type"] != "application/json":
        return kept
    encoded = kept.inline if kept.inline is not None else await session.files.blobs.read(kept.digest)
    before = decode((await session.files.read_bytes(rows.artifact(old))).decode())
    new = check_replacement(encoded, Place(field=name), before, secret=await _is_secret(session, workflow_id))
    for mark, value in new.secrets:
        mark[MARK] = await anyio.to_thread.run_sync(sealed, value, session.files.folder)
    if new.changed:
        return await session.files.keep(msgspec.json.encode(new.value), kept.filename, "application/json")
    return replace(kept, media_type="application/json")


async def _is_secret(session: Session, workflow_id: str) -> bool:
    """Was the value of this row's step declared secret?"""
    query = sa.select(t.workflows.c.step_id, t.chains.c.chain_definition).join(
        t.chains, t.chains.c.id == t.workflows.c.chain_id
    )
    row = await session.fetch_one(query.where(t.workflows.c.id == workflow_id))
    digest = None if row is None else elsewhere(row["chain_definition"])
    if digest is not None:
        large = await session.fetch_one(sa.select(t.definitions.c.definition).where(t.definitions.c.sha256 == digest))
        plan = None if large is None else decode(large["definition"])
    else:
        plan = None if row is None else decode(row["chain_definition"])
    steps = plan.get("steps", []) if isinstance(plan, dict) else []
    return row is not None and any(step["id"] == row["step_id"] and step.get("secret") for step in steps)


async def _log_edit(session: Session, place: Record, row: Record) -> None:
    metadata = row["extra_metadata"]
    data = event_log.about_step(
        place["step_id"],
        place["item_index"],
        artifact=row["id"],
        file=f"{row['name']} v{row['version']}",
        by=row["created_by"],
        reason=metadata.get("reason") if isinstance(metadata, dict) else None,
        parent=row["parent_artifact_id"],
    )
    line = event_log.line(place["chain_id"], place["workflow_id"], GateFact.EDITED, row["created_at"], data)
    await session.note(line)


async def _approve_gate(session: Session, row: Record) -> None:
    """An approved new version decides the gate that waits for it. Raises ApprovalRefused (E_APPROVAL_EXPIRED)."""
    waiting = await gates.pending_of(session, row["workflow_id"])
    if waiting is not None and row["id"] in waiting["artifact_ids"]:
        gate = await session.write(gates.undecided, waiting["id"])
        decision = gates.Decision(ApprovalStatus.APPROVED, GateAction.APPROVE, row["created_by"], "edited")
        await session.write(gates.decide, gate, decision)


async def _keep(
    session: Session,
    path: str | Path | None,
    data: bytes | AsyncIterable[bytes] | KeptFile | None,
    filename: str | None,
    media_type: str | None,
) -> KeptFile:
    if isinstance(data, KeptFile):
        return data
    if data is not None:
        return await session.files.keep(data, filename, media_type)
    if path is not None:
        return await session.files.keep(Path(path), filename or Path(path).name, media_type)
    raise InputInvalid("E_ARTIFACT_SOURCE", "an artifact needs bytes", allowed="local_path=… or data=…")


async def _by_key(session: Session, key: str | None) -> Record | None:
    if key is None:
        return None
    return record_or_none(await session.fetch_one(sa.select(t.artifacts).where(t.artifacts.c.idempotency_key == key)))


async def _parent(session: Session, workflow_id: str, name: str | None, parent_id: str | None) -> Record | None:
    if parent_id is None:
        return None
    parent = await get_artifact(session, parent_id)
    if parent is None or parent["workflow_id"] != workflow_id or name not in (None, parent["name"]):
        raise InputInvalid("E_ARTIFACT_PARENT", "the parent is another output's version", found=parent_id)
    return parent


async def next_version(session: Session, workflow_id: str, name: str) -> int:
    """The number of the next version: one above the highest ever given, also to deleted versions."""
    query = highest(given().c.workflow_id == workflow_id, given().c.name == name)
    row = await session.fetch_one(query)
    return 1 if row is None else int(row["highest"]) + 1


async def _keep_inline(session: Session, kept: KeptFile) -> None:
    known = await session.fetch_one(sa.select(t.blobs.c.size).where(t.blobs.c.sha256 == kept.digest))
    if known is None:
        values = {"sha256": kept.digest, "size": kept.size, "data": kept.inline}
        await session.execute(sa.insert(t.blobs).values(values))


async def _unset_latest(session: Session, workflow_id: str, name: str) -> None:
    old = sa.update(t.artifacts).where(
        t.artifacts.c.workflow_id == workflow_id, t.artifacts.c.name == name, t.artifacts.c.is_latest == 1
    )
    await session.execute(old.values(is_latest=0, updated_at=now()))


async def _point_at_latest(session: Session, workflow_id: str, name: str, artifact_id: str) -> None:
    """Set the pointer of the workflow, if it has none or it points to a version of the same output."""
    same_output = sa.select(t.artifacts.c.id).where(
        t.artifacts.c.workflow_id == workflow_id, t.artifacts.c.name == name
    )
    change = sa.update(t.workflows).where(
        t.workflows.c.id == workflow_id,
        sa.or_(t.workflows.c.latest_artifact_id.is_(None), t.workflows.c.latest_artifact_id.in_(same_output)),
    )
    await session.execute(change.values(latest_artifact_id=artifact_id, updated_at=now()))


async def get_artifact(session: Session, artifact_id: str) -> Record | None:
    """The artifact of that id, or None."""
    return record_or_none(await session.fetch_one(sa.select(t.artifacts).where(t.artifacts.c.id == artifact_id)))


async def get_latest_artifact(session: Session, workflow_id: str, name: str | None = None) -> Record | None:
    """The latest version of a workflow's primary output, or of the output called `name`. One query."""
    query = sa.select(t.artifacts).where(t.artifacts.c.workflow_id == workflow_id)
    if name is not None:
        query = query.where(t.artifacts.c.name == name, t.artifacts.c.is_latest == 1)
    else:
        pointer = sa.select(t.workflows.c.latest_artifact_id).where(t.workflows.c.id == workflow_id)
        query = query.where(t.artifacts.c.id == pointer.scalar_subquery())
    return record_or_none(await session.fetch_one(query))


async def get_artifacts_by_workflow(
    session: Session, workflow_id: str, include_old_versions: bool = False
) -> list[Record]:
    """The outputs of a workflow, by name, newest version first."""
    query = sa.select(t.artifacts).where(t.artifacts.c.workflow_id == workflow_id)
    if not include_old_versions:
        query = query.where(t.artifacts.c.is_latest == 1)
    query = query.order_by(t.artifacts.c.name, t.artifacts.c.version.desc())
    return [record(row) for row in await session.fetch_all(query)]


async def get_artifact_versions(session: Session, artifact_id: str) -> list[Record]:
    """The whole lineage of an artifact, ancestors and descendants, oldest first. One query."""
    up = sa.select(t.artifacts.c.id, t.artifacts.c.parent_artifact_id, sa.literal(0).label("depth"))
    up_all = up.where(t.artifacts.c.id == artifact_id).cte("up", recursive=True)
    parent = t.artifacts.alias("parent")
    up_all = up_all.union_all(
        sa.select(parent.c.id, parent.c.parent_artifact_id, up_all.c.depth + 1).where(
            parent.c.id == up_all.c.parent_artifact_id, up_all.c.depth < _LINEAGE_DEPTH
        )
    )
    root = sa.select(up_all.c.id).order_by(up_all.c.depth.desc()).limit(1).scalar_subquery()
    down = sa.select(t.artifacts.c.id, sa.literal(0).label("depth")).where(t.artifacts.c.id == root)
    down_all = down.cte("down", recursive=True)
    child = t.artifacts.alias("child")
    down_all = down_all.union_all(
        sa.select(child.c.id, down_all.c.depth + 1).where(
            child.c.parent_artifact_id == down_all.c.id, down_all.c.depth < _LINEAGE_DEPTH
        )
    )
    query = sa.select(t.artifacts).where(t.artifacts.c.id.in_(sa.select(down_all.c.id)))
    return [record(row) for row in await session.fetch_all(query.order_by(t.artifacts.c.version, t.artifacts.c.id))]


async def update_artifact_latest_flag(session: Session, artifact_id: str, is_latest: bool) -> Record | None:
    """Make a version the latest, or (False) make the highest other version the latest, if there is one."""
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
    await gates.relist(session, found["workflow_id"], found["name"])
    return await get_artifact(session, artifact_id)


async def _highest_other(session: Session, artifact: Record) -> str | None:
    query = sa.select(t.artifacts.c.id).where(
        t.artifacts.c.workflow_id == artifact["workflow_id"],
        t.artifacts.c.name == artifact["name"],
        t.artifacts.c.id != artifact["id"],
    )
    row = await session.fetch_one(query.order_by(t.artifacts.c.version.desc()).limit(1))
    return None if row is None else str(row["id"])


async def _make_latest(session: Session, workflow_id: str, name: str, artifact_id: str) -> None:
    await _unset_latest(session, workflow_id, name)
    await session.execute(
        sa.update(t.artifacts).where(t.artifacts.c.id == artifact_id).values(is_latest=1, updated_at=now())
    )
    await _point_at_latest(session, workflow_id, name, artifact_id)


async def approve_artifact(session: Session, artifact_id: str, approved_by: str) -> Record | None:
    """Mark a version as approved. To decide a gate, use `approvals.approve`."""
    values = {"approval_status": ArtifactApproval.APPROVED, "approved_by": approved_by, "approved_at": now()}
    return await _judge(session, artifact_id, {**values, "rejection_reason": None})


async def reject_artifact(session: Session, artifact_id: str, rejected_by: str, reason: str = "") -> Record | None:
    """Mark a version as rejected: it is never sent to a server."""
    values = {"approval_status": ArtifactApproval.REJECTED, "approved_by": rejected_by, "approved_at": now()}
    return await _judge(session, artifact_id, {**values, "rejection_reason": reason})


async def _judge(session: Session, artifact_id: str, values: dict[str, Any]) -> Record | None:
    change = sa.update(t.artifacts).where(t.artifacts.c.id == artifact_id)
    return record_or_none(await session.fetch_one(change.values(**values, updated_at=now()).returning(t.artifacts)))


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
    query = sa.select(t.artifacts).order_by(t.artifacts.c.created_at.desc(), t.artifacts.c.id.desc())
    if workflow_id is not None:
        query = query.where(t.artifacts.c.workflow_id == workflow_id)
    if chain_id is not None:
        query = query.join(t.workflows, t.workflows.c.id == t.artifacts.c.workflow_id)
        query = query.where(t.workflows.c.chain_id == chain_id)
    if approval_status is not None:
        query = query.where(t.artifacts.c.approval_status == transitions.status(ArtifactApproval, approval_status))
    if is_latest is not None:
        query = query.where(t.artifacts.c.is_latest == int(is_latest))
    return [record(row) for row in await session.fetch_all(page(query, limit, offset))]


async def delete_artifact(session: Session, artifact_id: str) -> bool:
    """Delete a version; the one before it becomes the latest. Its number is never reused. Did it exist?"""
    await session.begin()
    found = await get_artifact(session, artifact_id)
    if found is None:
        return False
    workflow_id, name = found["workflow_id"], found["name"]
    pointed = sa.update(t.workflows).where(
        t.workflows.c.id == workflow_id, t.workflows.c.latest_artifact_id == artifact_id
    )
    moved = await session.execute(pointed.values(latest_artifact_id=None, updated_at=now()))
    gone = {"workflow_id": workflow_id, "name": name, "version": found["version"], "deleted_at": now()}
    await session.execute(sa.insert(t.artifact_deletions).values(gone))
    heir = await _highest_other(session, found)
    await session.execute(sa.delete(t.artifacts).where(t.artifacts.c.id == artifact_id))
    if found["is_latest"] and heir is not None:
        await session.execute(
            sa.update(t.artifacts).where(t.artifacts.c.id == heir).values(is_latest=1, updated_at=now())
        )
    if moved:
        await _point_at_any(session, workflow_id, heir)
    await gates.relist(session, workflow_id, name)
    return True


async def _point_at_any(session: Session, workflow_id: str, heir: str | None) -> None:
    """After the primary output was deleted, point the workflow at the version before it, else at its first output."""
    older = t.artifacts.alias("older")
    same_output = sa.and_(older.c.workflow_id == t.artifacts.c.workflow_id, older.c.name == t.artifacts.c.name)
    made_first = sa.select(sa.func.min(older.c.id)).where(same_output).scalar_subquery()
    latest = sa.select(t.artifacts.c.id).where(t.artifacts.c.workflow_id == workflow_id, t.artifacts.c.is_latest == 1)
    first = latest.order_by(made_first).limit(1)
    change = sa.update(t.workflows).where(t.workflows.c.id == workflow_id)
    await session.execute(change.values(latest_artifact_id=heir or first.scalar_subquery(), updated_at=now()))
