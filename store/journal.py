"""From facts to SQL: what one fact changes in the tables, and its line in the audit trail.

Everything a run records goes through here. Statements are compiled once at import; a fact costs an
update or insert of its row and one insert into `events`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert as insert_sqlite

from towpath.errors import Fenced
from towpath.events import (
    AttemptReleased,
    ChainEnded,
    ChainPaused,
    ChainResumed,
    DecisionApplied,
    Fact,
    GateFact,
    LevelReached,
    LogKept,
    NewArtifact,
    PromptSent,
    StepDropped,
    StepEnded,
    StepReady,
    StepRetried,
    StepStarted,
    TransferMade,
)
from towpath.model import ArtifactApproval, ChainStatus, ErrorInfo, Json, StepStatus, kind_of
from towpath.ports import Lease

from . import gates, server_facts, transitions
from .audit_lines import about as _about
from .audit_lines import add as _add
from .audit_lines import log_event as _log_event
from .batch import Guard, Write
from .rows import encode
from .session import Statement
from .session import value_of as b
from .tables import approvals, artifacts, blobs, chains, step_logs, workflows

_INSERT_ROW = Statement(
    sa.insert(workflows).values(
        id=b("row"),
        chain_id=b("run"),
        step_id=b("step"),
        item_index=b("item"),
        workflow_name=b("target"),
        status=b("status"),
        attempt=b("attempt"),
        item_count=b("count"),
        parameters=b("parameters"),
        queued_at=b("at"),
        started_at=b("started"),
        completed_at=b("completed"),
        error_message=b("reason"),
        created_at=b("at"),
        updated_at=b("at"),
    )
)
_START_ROW = Statement(
    sa.update(workflows)
    .where(workflows.c.id == b("row"), workflows.c.status.in_(transitions.STEP[StepStatus.EXECUTING]))
    .values(
        status=StepStatus.EXECUTING,
        attempt=b("new_attempt"),
        parameters=b("new_parameters"),
        started_at=sa.func.coalesce(workflows.c.started_at, b("at")),
        updated_at=b("at"),
    )
)
_END_ROW: dict[StepStatus, Statement] = {
    status: Statement(
        sa.update(workflows)
        .where(workflows.c.id == b("row"), workflows.c.status.in_(transitions.STEP[status]))
        .values(
            status=status,
            value=b("new_value"),
            attempt=b("new_attempt"),
            error_message=b("new_message"),
            error_code=b("new_code"),
            error=b("new_error"),
            completed_at=b("completed"),
            updated_at=b("at"),
        )
    )
    for status in StepStatus
    if status is not StepStatus.QUEUED
}
_DECIDED_ROW = {
    status: Statement(
        sa.update(workflows)
        .where(workflows.c.id == b("row"), workflows.c.status.in_(transitions.STEP[status]))
        .values(
            status=status,
            error_message=b("new_message"),
            error_code=b("new_code"),
            error=b("new_error"),
            completed_at=b("completed"),
            # What is made again needs a prompt of its own; the one that was judged stays in the audit trail.
            prompt_id=None if status is StepStatus.EXECUTING else workflows.c.prompt_id,
            updated_at=b("at"),
        )
    )
    for status in (StepStatus.COMPLETED, StepStatus.FAILED, StepStatus.SKIPPED, StepStatus.EXECUTING)
}
_POINT_ROW = Statement(sa.update(workflows).where(workflows.c.id == b("row")).values(latest_artifact_id=b("artifact")))
_OLD_VERSION = Statement(
    sa.update(artifacts)
    .where(artifacts.c.workflow_id == b("row"), artifacts.c.name == b("output"), artifacts.c.is_latest == 1)
    .values(is_latest=0, updated_at=b("at"))
)
_NEW_VERSION = Statement(
    sa.insert(artifacts).values(
        id=b("artifact"),
        workflow_id=b("row"),
        name=b("output"),
        version=b("version"),
        is_latest=1,
        filename=b("filename"),
        local_filename=b("local_filename"),
        local_path=b("local_path"),
        file_type=b("file_type"),
        file_format=b("file_format"),
        file_size=b("size"),
        media_type=b("media_type"),
        sha256=b("sha256"),
        node_id=b("node"),
        subfolder=b("subfolder"),
        comfy_folder_type=b("folder"),
        parent_artifact_id=b("parent"),
        approval_status=b("approval_status"),
        attempt=b("attempt"),
        parameters=b("parameters"),
        extra_metadata=b("metadata"),
        created_at=b("at"),
        updated_at=b("at"),
    )
)
_INLINE_BLOB = Statement(
    insert_sqlite(blobs).values(sha256=b("sha256"), size=b("size"), data=b("data")).on_conflict_do_nothing()
)
_ASK = Statement(
    sa.insert(approvals).values(
        id=b("approval"),
        chain_id=b("run"),
        workflow_id=b("row"),
        step_id=b("step"),
        item_index=b("item"),
        attempt=b("attempt"),
        status="pending",
        artifact_ids=b("artifact_ids"),
        policy=b("policy"),
        requested_at=b("at"),
        expires_at=b("expires"),
        boot=b("boot"),
        booted_at=b("booted"),
        created_at=b("at"),
        updated_at=b("at"),
    )
)
_DELIVERED = Statement(
    sa.update(approvals)
    .where(approvals.c.id == b("approval"), approvals.c.status != "pending")
    .values(delivered=1, updated_at=b("at"))
)
_CLOSE_GATES = Statement(
    sa.update(approvals)
    .where(approvals.c.workflow_id == b("row"), approvals.c.delivered == 0)
    .values(
        # A decision that came too late to be acted on stays on record.
        status=sa.case((approvals.c.status == "pending", "cancelled"), else_=approvals.c.status),
        decided_at=sa.func.coalesce(approvals.c.decided_at, b("at")),
        delivered=1,
        updated_at=b("at"),
    )
)
_LEVEL = Statement(
    sa.update(chains)
    # Several processes may work on a run's steps: whoever comes late to say so does not turn it back.
    .where(chains.c.id == b("run"), chains.c.current_level < b("level"))
    .values(current_level=b("level"), updated_at=b("at"))
)
_CHAIN = Statement(
    sa.update(chains)
    .where(chains.c.id == b("run"), chains.c.status.in_(("pending", "running", "paused")))
    .values(
        status=b("new_status"),
        status_reason=b("new_reason"),
        error_message=b("new_message"),
        error_code=b("new_code"),
        completed_at=b("completed"),
        # A pause asked for between the claim and this fact is still to be obeyed.
        pause_requested_at=sa.case((b("keep_owner") == 1, chains.c.pause_requested_at), else_=None),
        owner=sa.case((b("keep_owner") == 1, chains.c.owner), else_=None),
        lease_until=sa.case((b("keep_owner") == 1, chains.c.lease_until), else_=None),
        updated_at=b("at"),
    )
)
_LOG = Statement(
    insert_sqlite(step_logs)
    .values(workflow_id=b("row"), attempt=b("attempt"), text=b("text"), updated_at=b("at"))
    .on_conflict_do_update(index_elements=["workflow_id", "attempt"], set_={"text": b("text"), "updated_at": b("at")})
)
_OWNED = Statement(sa.select(sa.literal(1)).where(chains.c.id == b("run"), chains.c.epoch == b("epoch")))


def guard(lease: Lease) -> Guard:
    """Writes count only while the run's epoch is the lease's."""
    sql, values = _OWNED(run=lease.run_id, epoch=lease.epoch)
    return Guard((lease.run_id, lease.epoch), sql, values, partial(Fenced, lease.run_id))


def writes(run: str, facts: Sequence[Fact], at: int) -> list[Write]:
    """The statements that record these facts of a run, in order."""
    made: list[Write] = []
    for fact in facts:
        _WRITERS[type(fact)](fact, run, at, made)
    return made


def _step_ready(fact: StepReady, run: str, at: int, made: list[Write]) -> None:
    status = StepStatus.EXECUTING if fact.started else StepStatus.QUEUED
    _add(
        made,
        _INSERT_ROW(
            run=run,
            row=fact.row,
            step=fact.step,
            item=fact.item,
            target=fact.target,
            status=status,
            attempt=fact.attempt,
            count=fact.count,
            parameters=encode(fact.parameters),
            started=at if fact.started else None,
            completed=None,
            reason=None,
            at=at,
        ),
    )
    kind = "StepStarted" if fact.started else "StepQueued"
    data: dict[str, Json] = {"step": fact.step}
    if fact.item is not None:
        data["item"] = fact.item
    if fact.count is not None:
        data["items"] = fact.count
    if fact.started:
        data["attempt"] = fact.attempt
    _log_event(made, run, fact.row, kind, at, data)


def _step_started(fact: StepStarted, run: str, at: int, made: list[Write]) -> None:
    started = _START_ROW(row=fact.row, new_attempt=fact.attempt, new_parameters=encode(fact.parameters), at=at)
    _add(made, started, partial(transitions.refused, "workflow", fact.row, "its status", "executing"))
    _log_event(made, run, fact.row, "StepStarted", at, _about(fact, attempt=fact.attempt))


def _attempt_released(fact: AttemptReleased, run: str, at: int, made: list[Write]) -> None:
    _log_event(made, run, fact.row, "AttemptReleased", at, _about(fact, attempt=fact.attempt))


def _step_retried(fact: StepRetried, run: str, at: int, made: list[Write]) -> None:
    error = _error_json(fact.error)
    _log_event(
        made,
        run,
        fact.row,
        "StepRetried",
        at,
        _about(fact, attempt=fact.attempt, error=error, delay=fact.delay),
    )


def _step_ended(fact: StepEnded, run: str, at: int, made: list[Write]) -> None:
    status, error = fact.status, fact.error
    ended = _END_ROW[status](
        row=fact.row,
        new_value=encode(fact.value) if fact.value is not None else None,
        new_attempt=fact.attempt,
        new_message=error.message if error else fact.reason or None,
        new_code=error.code if error else None,
        new_error=encode(_error_json(error)),
        completed=at if status.final else None,
        at=at,
    )
    _add(made, ended, partial(transitions.refused, "workflow", fact.row, "its status", status))
    for artifact in fact.artifacts:
        _write_artifact(fact, artifact, at, made)
    if fact.artifacts:
        _add(made, _POINT_ROW(row=fact.row, artifact=fact.artifacts[0].id))
    if status.final:
        if status is not StepStatus.COMPLETED:
            _add(made, _CLOSE_GATES(row=fact.row, at=at))
            server_facts.close_transfers(fact.row, at, made)
    elif fact.approval is not None:
        _ask(fact, run, at, made)
    files = [f"{a.name} v{a.version}" for a in fact.artifacts]
    kept = list(error.failed_items) if error else None
    data = _about(
        fact,
        attempt=fact.attempt,
        artifacts=files,
        error=_short(error),
        failed_items=kept,
        reason=fact.reason,
    )
    _log_event(made, run, fact.row, transitions.STEP_FACTS[status], at, data)


def _ask(fact: StepEnded, run: str, at: int, made: list[Write]) -> None:
    assert fact.approval is not None
    limit = fact.approval.policy.timeout
    boot, booted = gates.boot(at)
    asked = _ASK(
        run=run,
        row=fact.row,
        approval=fact.approval.id,
        step=fact.step,
        item=fact.item,
        attempt=fact.attempt,
        artifact_ids=encode([a.id for a in fact.artifacts]),
        policy=encode(asdict(fact.approval.policy)),
        expires=None if limit is None else at + int(limit * 1e6),
        boot=boot,
        booted=booted,
        at=at,
    )
    _add(made, asked)
    _log_event(made, run, fact.row, GateFact.REQUESTED, at, _about(fact, approval=fact.approval.id))


def _write_artifact(fact: StepEnded, artifact: NewArtifact, at: int, made: list[Write]) -> None:
    if artifact.inline is not None:
        _add(made, _INLINE_BLOB(sha256=artifact.digest, size=artifact.size, data=artifact.inline))
    if artifact.version > 1:
        _add(made, _OLD_VERSION(row=fact.row, output=artifact.name, at=at))
    _, dot, suffix = artifact.filename.rpartition(".")
    origin = artifact.origin
    pending = ArtifactApproval.PENDING if fact.approval is not None else ArtifactApproval.AUTO_APPROVED
    _add(
        made,
        _NEW_VERSION(
            artifact=artifact.id,
            row=fact.row,
            output=artifact.name,
            version=artifact.version,
            filename=artifact.filename,
            local_filename=None if artifact.local_path is None else artifact.digest,
            local_path=artifact.local_path,
            file_type=kind_of(artifact.media_type),
            file_format=suffix if dot else None,
            size=artifact.size,
            media_type=artifact.media_type,
            sha256=artifact.digest,
            node=origin.node if origin else None,
            subfolder=origin.subfolder if origin else "",
            folder=origin.folder if origin else "output",
            parent=artifact.parent_artifact_id,
            approval_status=pending,
            attempt=artifact.attempt,
            parameters=encode(fact.parameters),
            metadata=encode(artifact.metadata),
            at=at,
        ),
    )


def _step_dropped(fact: StepDropped, run: str, at: int, made: list[Write]) -> None:
    _add(
        made,
        _INSERT_ROW(
            run=run,
            row=fact.row,
            step=fact.step,
            item=fact.item,
            target=fact.target,
            status=fact.status,
            attempt=0,
            count=None,
            parameters=None,
            started=None,
            completed=at,
            reason=fact.reason or None,
            at=at,
        ),
    )
    _log_event(made, run, fact.row, transitions.STEP_FACTS[fact.status], at, _about(fact, reason=fact.reason))


def _decision_applied(fact: DecisionApplied, run: str, at: int, made: list[Write]) -> None:
    error = fact.error
    decided = _DECIDED_ROW[fact.status](
        row=fact.row,
        new_message=error.message if error else fact.reason or None,
        new_code=error.code if error else None,
        new_error=encode(_error_json(error)),
        completed=at if fact.status.final else None,
        at=at,
    )
    _add(made, decided, partial(transitions.refused, "workflow", fact.row, "its status", fact.status))
    _add(made, _DELIVERED(approval=fact.approval, at=at))
    _log_event(made, run, fact.row, GateFact.APPLIED, at, _about(fact, approval=fact.approval, status=fact.status))


def _level_reached(fact: LevelReached, run: str, at: int, made: list[Write]) -> None:
    _add(made, _LEVEL(run=run, level=fact.level, at=at))


def _chain_resumed(fact: ChainResumed, run: str, at: int, made: list[Write]) -> None:
    resumed = _change_chain(run, "running", at)
    _add(made, resumed, partial(transitions.refused, "chain", run, "its status", "running"))
    _log_event(made, run, None, "ChainStarted", at)


def _chain_paused(fact: ChainPaused, run: str, at: int, made: list[Write]) -> None:
    paused = _change_chain(run, "paused", at, reason=fact.reason)
    _add(made, paused, partial(transitions.refused, "chain", run, "its status", "paused"))
    _log_event(made, run, None, "ChainPaused", at, {"reason": fact.reason})


def _chain_ended(fact: ChainEnded, run: str, at: int, made: list[Write]) -> None:
    ended = _change_chain(run, fact.status, at, error=fact.error, completed=at)
    _add(made, ended, partial(transitions.refused, "chain", run, "its status", fact.status))
    _log_event(
        made,
        run,
        None,
        "ChainEnded",
        at,
        {"status": fact.status, **({"error": _short(fact.error)} if fact.error else {})},
    )
    if fact.status in (ChainStatus.CANCELLED, ChainStatus.FAILED):
        made.extend(end_tree(run, at))  # runs inside its steps that waited for a person wait no more


_TREE = """
WITH RECURSIVE tree(id) AS (
    SELECT ? UNION
    SELECT c.id FROM chains c JOIN workflows w ON w.id = c.parent_workflow_id JOIN tree t ON t.id = w.chain_id
)
"""
_OPEN_ROWS = "chain_id IN (SELECT id FROM tree) AND status IN ('queued', 'executing', 'waiting_approval')"
_OPEN_CHAINS = "id IN (SELECT id FROM tree) AND status IN ('pending', 'running', 'paused')"
_END_TREE = (
    f"""{_TREE} INSERT INTO events (chain_id, workflow_id, type, at, data)
        SELECT chain_id, id, 'StepCancelled', ?, CASE WHEN item_index IS NULL THEN json_object('step', step_id)
            ELSE json_object('step', step_id, 'item', item_index) END
        FROM workflows WHERE {_OPEN_ROWS} ORDER BY id""",  # noqa: S608 - fixed text
    f"""{_TREE} UPDATE approvals SET status = CASE status WHEN 'pending' THEN 'cancelled' ELSE status END,
        decided_at = coalesce(decided_at, ?2), delivered = 1, updated_at = ?2
        WHERE chain_id IN (SELECT id FROM tree) AND delivered = 0""",  # noqa: S608
    f"""{_TREE} UPDATE artifact_transfers SET status = 'failed', error_message = 'cancelled', updated_at = ?2
        WHERE status IN ('pending', 'uploading')
        AND target_workflow_id IN (SELECT id FROM workflows WHERE {_OPEN_ROWS})""",  # noqa: S608
    f"""{_TREE} UPDATE workflows SET status = 'cancelled', completed_at = ?2, updated_at = ?2
        WHERE {_OPEN_ROWS}""",  # noqa: S608
    f"""{_TREE} INSERT INTO events (chain_id, type, at, data)
        SELECT id, 'ChainEnded', ?, '{{"status":"cancelled"}}' FROM chains WHERE {_OPEN_CHAINS}""",  # noqa: S608
    f"""{_TREE} UPDATE chains SET status = 'cancelled', completed_at = ?2, updated_at = ?2, owner = NULL,
        lease_until = NULL, epoch = epoch + 1 WHERE {_OPEN_CHAINS}""",  # noqa: S608
)


def end_tree(run: str, at: int) -> list[Write]:
    """End everything open in a run and in the runs inside its steps as cancelled."""
    return [Write(sql, (run, at)) for sql in _END_TREE]


def _change_chain(
    run: str,
    status: str,
    at: int,
    *,
    reason: str | None = None,
    error: ErrorInfo | None = None,
    completed: int | None = None,
) -> tuple[str, list[object]]:
    return _CHAIN(
        run=run,
        new_status=status,
        new_reason=reason,
        new_message=error.message if error else None,
        new_code=error.code if error else None,
        completed=completed,
        keep_owner=int(status == "running"),
        at=at,
    )


def _log_kept(fact: LogKept, run: str, at: int, made: list[Write]) -> None:
    _add(made, _LOG(row=fact.row, attempt=fact.attempt, text=fact.text, at=at))


def _error_json(error: ErrorInfo | None) -> Json:
    if error is None:
        return None
    return {name: value for name, value in asdict(error).items() if value or name in ("code", "message")}


def _short(error: ErrorInfo | None) -> Json:
    return None if error is None else {"code": error.code, "message": error.message[:500]}


_WRITERS: dict[type[Fact], Callable[[Any, str, int, list[Write]], None]] = {
    StepReady: _step_ready,
    StepStarted: _step_started,
    AttemptReleased: _attempt_released,
    StepRetried: _step_retried,
    StepEnded: _step_ended,
    StepDropped: _step_dropped,
    DecisionApplied: _decision_applied,
    LevelReached: _level_reached,
    ChainResumed: _chain_resumed,
    ChainPaused: _chain_paused,
    ChainEnded: _chain_ended,
    TransferMade: server_facts.transfer_made,
    PromptSent: server_facts.prompt_sent,
    LogKept: _log_kept,
}
