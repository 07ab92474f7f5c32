"""From facts to SQL: what one fact changes in the tables, and its line in the audit trail.

Everything a run records goes through here. Statements are compiled once at import; a fact costs an
update or insert of its row and one insert into `events`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import lru_cache, partial
from typing import Any

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
from .backend import Guard, Refuse, Write, add, write
from .core import sa, t
from .ended_tree import close_gates, end_tree
from .event_log import about, log_event, log_step
from .rows import encode
from .statements import (
    Expression,
    InsertInto,
    Phase,
    Query,
    Statement,
    Upsert,
    Values,
    each,
    one_of,
    word_of,
)
from .statements import param as b

_INSERT_ROW = Statement(
    lambda: sa.insert(t.workflows).values(
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
    ),
    "row run step item target status attempt count parameters started completed reason at",
    Phase.ROW_BORN,
)
_START_ROW = Statement(
    lambda: (
        sa.update(t.workflows)
        .where(t.workflows.c.id == b("row"), one_of(t.workflows.c.status, transitions.STEP[StepStatus.EXECUTING]))
        .values(
            status=word_of(StepStatus.EXECUTING),
            attempt=b("new_attempt"),
            parameters=b("new_parameters"),
            started_at=sa.func.coalesce(t.workflows.c.started_at, b("at")),
            updated_at=b("at"),
        )
    ),
    "row new_attempt new_parameters at",
    Phase.ROW_STARTED,
)
_END_ROW: dict[StepStatus, Statement] = each(
    [status for status in StepStatus if status is not StepStatus.QUEUED],
    lambda status: (
        sa.update(t.workflows)
        .where(t.workflows.c.id == b("row"), one_of(t.workflows.c.status, transitions.STEP[status]))
        .values(
            status=word_of(status),
            value=b("new_value"),
            attempt=b("new_attempt"),
            error_message=b("new_message"),
            error_code=b("new_code"),
            error=b("new_error"),
            completed_at=b("completed"),
            updated_at=b("at"),
        )
    ),
    "row new_value new_attempt new_message new_code new_error completed at",
    {StepStatus.COMPLETED: Phase.ROW_COMPLETED},
)
_DECIDED_ROW: dict[StepStatus, Statement] = each(
    (StepStatus.COMPLETED, StepStatus.FAILED, StepStatus.SKIPPED, StepStatus.EXECUTING),
    lambda status: (
        sa.update(t.workflows)
        .where(t.workflows.c.id == b("row"), one_of(t.workflows.c.status, transitions.STEP[status]))
        .values(
            status=word_of(status),
            error_message=b("new_message"),
            error_code=b("new_code"),
            error=b("new_error"),
            completed_at=b("completed"),
            # A regeneration needs a new prompt; the old one stays in the audit trail.
            prompt_id=sa.null() if status is StepStatus.EXECUTING else t.workflows.c.prompt_id,
            updated_at=b("at"),
        )
    ),
    "row new_message new_code new_error completed at",
)
_POINT_ROW = Statement(
    lambda: sa.update(t.workflows).where(t.workflows.c.id == b("row")).values(latest_artifact_id=b("artifact"))
)
_OLD_VERSION = Statement(
    lambda: (
        sa.update(t.artifacts)
        .where(t.artifacts.c.workflow_id == b("row"), t.artifacts.c.name == b("output"), t.artifacts.c.is_latest == 1)
        .values(is_latest=0, updated_at=b("at"))
    )
)
_NEW_VERSION = Statement(
    lambda: sa.insert(t.artifacts).values(
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
_INLINE_BLOB = Upsert(
    lambda insert: insert(t.blobs).values(sha256=b("sha256"), size=b("size"), data=b("data")).on_conflict_do_nothing()
)
_ASK = Statement(
    lambda: sa.insert(t.approvals).values(
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
    lambda: (
        sa.update(t.approvals)
        .where(t.approvals.c.id == b("approval"), t.approvals.c.status != "pending")
        .values(delivered=1, updated_at=b("at"))
    )
)


_CLOSE_GATES = Statement(lambda: close_gates(t.approvals.c.workflow_id == b("row")))
_LEVEL = Statement(
    lambda: (
        sa.update(t.chains)
        # Several processes may work on the steps of a run: a late fact must not lower the level.
        .where(t.chains.c.id == b("run"), t.chains.c.current_level < b("level"))
        .values(current_level=b("level"), updated_at=b("at"))
    ),
    "run level at",
    Phase.LEVEL_REACHED,
)
_CHAIN = Statement(
    lambda: (
        sa.update(t.chains)
        .where(t.chains.c.id == b("run"), one_of(t.chains.c.status, ("pending", "running", "paused")))
        .values(
            status=b("new_status"),
            status_reason=b("new_reason"),
            error_message=b("new_message"),
            error_code=b("new_code"),
            completed_at=b("completed"),
            # A pause requested between the claim and this fact must still take effect.
            pause_requested_at=sa.case(
                (b("keep_owner") == sa.literal_column("1"), t.chains.c.pause_requested_at), else_=None
            ),
            owner=sa.case((b("keep_owner") == sa.literal_column("1"), t.chains.c.owner), else_=None),
            lease_until=sa.case((b("keep_owner") == sa.literal_column("1"), t.chains.c.lease_until), else_=None),
            updated_at=b("at"),
        )
    ),
    "run new_status new_reason new_message new_code completed keep_owner at",
    Phase.RUN_CHANGED,
)


def _log(insert: InsertInto) -> Expression:
    log = {"text": b("text"), "updated_at": b("at"), "done": b("done"), "total": b("total")}
    new = insert(t.step_logs).values(workflow_id=b("row"), attempt=b("attempt"), **log)
    made: Expression = new.on_conflict_do_update(index_elements=["workflow_id", "attempt"], set_=log)
    return made


_LOG = Upsert(_log)
_OWNED = Statement(
    lambda: sa.select(sa.literal_column("1")).where(t.chains.c.id == b("run"), t.chains.c.epoch == b("epoch")),
    "run epoch",
)


@lru_cache(1024)
def guard(lease: Lease) -> Guard:
    """A write is valid only while the epoch of the run is that of the lease."""
    asked = _OWNED(run=lease.run_id, epoch=lease.epoch)
    return Guard((lease.run_id, lease.epoch), asked, partial(Fenced, lease.run_id))


def writes(run: str, facts: Sequence[Fact], at: int) -> list[Write]:
    """The statements that record these facts of a run, in order."""
    out: list[Write] = []
    for fact in facts:
        _WRITERS[type(fact)](fact, run, at, out)
    return out


def _row_refused(status: StepStatus) -> Refuse:
    return lambda values: transitions.refused("workflow", _first(values), "its status", str(status))


def _chain_refused(status: ChainStatus) -> Refuse:
    return lambda values: transitions.refused("chain", _first(values), "its status", str(status))


def _first(values: Values) -> str:
    """The row that a statement is about: the first of its parameters."""
    assert isinstance(values, tuple)
    return str(values[0])


_ROW_REFUSED = {status: _row_refused(status) for status in StepStatus}
_CHAIN_REFUSED = {status: _chain_refused(status) for status in ChainStatus}
_NOT_STARTED = _ROW_REFUSED[StepStatus.EXECUTING]


def _step_ready(fact: StepReady, run: str, at: int, out: list[Write]) -> None:
    row, step, item, count, attempt = fact.row, fact.step, fact.item, fact.count, fact.attempt
    parameters = None if fact.parameters is None else encode(fact.parameters)
    status, started = ("executing", at) if fact.started else ("queued", None)
    new = (row, run, step, item, fact.target, status, attempt, count, parameters, started, None, None, at)
    out.append((_INSERT_ROW, new, None))
    kind = "StepStarted" if fact.started else "StepQueued"
    if count is None:
        log_step(out, run, row, kind, at, step, item, attempt if fact.started else None)
    else:
        log_event(out, run, row, kind, at, {"step": step, "items": count, **_attempt(fact)})


def _attempt(fact: StepReady) -> dict[str, Json]:
    return {"attempt": fact.attempt} if fact.started else {}


def _step_started(fact: StepStarted, run: str, at: int, out: list[Write]) -> None:
    parameters = None if fact.parameters is None else encode(fact.parameters)
    out.append((_START_ROW, (fact.row, fact.attempt, parameters, at), _NOT_STARTED))
    log_step(out, run, fact.row, "StepStarted", at, fact.step, fact.item, fact.attempt)


def _attempt_released(fact: AttemptReleased, run: str, at: int, out: list[Write]) -> None:
    log_event(out, run, fact.row, "AttemptReleased", at, about(fact, attempt=fact.attempt))


def _step_retried(fact: StepRetried, run: str, at: int, out: list[Write]) -> None:
    error = _error_json(fact.error)
    log_event(
        out,
        run,
        fact.row,
        "StepRetried",
        at,
        about(fact, attempt=fact.attempt, error=error, delay=fact.delay),
    )


def _step_ended(fact: StepEnded, run: str, at: int, out: list[Write]) -> None:
    status, error = fact.status, fact.error
    value = None if fact.value is None else encode(fact.value)
    if status is StepStatus.COMPLETED and error is None and not fact.artifacts and not fact.reason:
        completed = (fact.row, value, fact.attempt, None, None, None, at, at)
        out.append((_END_ROW[status], completed, _ROW_REFUSED[status]))
        log_step(out, run, fact.row, "StepCompleted", at, fact.step, fact.item, fact.attempt)
        return
    message, code = (error.message, error.code) if error else (fact.reason or None, None)
    over = at if status.final else None
    ended = (fact.row, value, fact.attempt, message, code, encode(_error_json(error)), over, at)
    out.append((_END_ROW[status], ended, _ROW_REFUSED[status]))
    _ended_with(fact, run, at, out)
    files: Json = [f"{a.name} v{a.version}" for a in fact.artifacts]
    kept: Json = list(error.failed_items) if error else None
    more = {"artifacts": files, "error": _short(error), "failed_items": kept, "reason": fact.reason}
    log_event(out, run, fact.row, transitions.STEP_FACTS[status], at, about(fact, attempt=fact.attempt, **more))


def _ended_with(fact: StepEnded, run: str, at: int, out: list[Write]) -> None:
    """What else changes with the end of a row: its versions, its gates, what is on its way to its server."""
    for artifact in fact.artifacts:
        _write_artifact(fact, artifact, at, out)
    if fact.artifacts:
        add(out, _POINT_ROW(row=fact.row, artifact=fact.artifacts[0].id))
    if not fact.status.final:
        if fact.approval is not None:
            _ask(fact, run, at, out)
    elif fact.status is not StepStatus.COMPLETED:
        add(out, _CLOSE_GATES(row=fact.row, at=at))
        server_facts.close_transfers(fact.row, at, out)


def _ask(fact: StepEnded, run: str, at: int, out: list[Write]) -> None:
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
    add(out, asked)
    log_event(out, run, fact.row, GateFact.REQUESTED, at, about(fact, approval=fact.approval.id))


def _write_artifact(fact: StepEnded, artifact: NewArtifact, at: int, out: list[Write]) -> None:
    if artifact.inline is not None:
        add(out, _INLINE_BLOB(sha256=artifact.digest, size=artifact.size, data=artifact.inline))
    if artifact.version > 1:
        add(out, _OLD_VERSION(row=fact.row, output=artifact.name, at=at))
    _, dot, suffix = artifact.filename.rpartition(".")
    origin = artifact.origin
    pending = ArtifactApproval.PENDING if fact.approval is not None else ArtifactApproval.AUTO_APPROVED
    add(
        out,
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


def _step_dropped(fact: StepDropped, run: str, at: int, out: list[Write]) -> None:
    add(
        out,
        _INSERT_ROW(
            run=run,
            row=fact.row,
            step=fact.step,
            item=fact.item,
            target=fact.target,
            status=str(fact.status),
            attempt=0,
            count=None,
            parameters=None,
            started=None,
            completed=at,
            reason=fact.reason or None,
            at=at,
        ),
    )
    log_event(out, run, fact.row, transitions.STEP_FACTS[fact.status], at, about(fact, reason=fact.reason))


def _decision_applied(fact: DecisionApplied, run: str, at: int, out: list[Write]) -> None:
    error = fact.error
    decided = _DECIDED_ROW[fact.status](
        row=fact.row,
        new_message=error.message if error else fact.reason or None,
        new_code=error.code if error else None,
        new_error=encode(_error_json(error)),
        completed=at if fact.status.final else None,
        at=at,
    )
    add(out, decided, _ROW_REFUSED[fact.status])
    add(out, _DELIVERED(approval=fact.approval, at=at))
    log_event(
        out,
        run,
        fact.row,
        GateFact.APPLIED,
        at,
        about(fact, approval=fact.approval, status=fact.status),
    )


def _level_reached(fact: LevelReached, run: str, at: int, out: list[Write]) -> None:
    out.append((_LEVEL, (run, fact.level, at), None))


def _chain_resumed(fact: ChainResumed, run: str, at: int, out: list[Write]) -> None:
    resumed = _change_chain(run, "running", at)
    add(out, resumed, _CHAIN_REFUSED[ChainStatus.RUNNING])
    log_event(out, run, None, "ChainStarted", at)


def _chain_paused(fact: ChainPaused, run: str, at: int, out: list[Write]) -> None:
    paused = _change_chain(run, "paused", at, reason=fact.reason)
    add(out, paused, _CHAIN_REFUSED[ChainStatus.PAUSED])
    log_event(out, run, None, "ChainPaused", at, {"reason": fact.reason})


def _chain_ended(fact: ChainEnded, run: str, at: int, out: list[Write]) -> None:
    ended = _change_chain(run, fact.status, at, error=fact.error, completed=at)
    add(out, ended, _CHAIN_REFUSED[fact.status])
    log_event(
        out,
        run,
        None,
        "ChainEnded",
        at,
        {"status": fact.status, **({"error": _short(fact.error)} if fact.error else {})},
    )
    if fact.status in (ChainStatus.CANCELLED, ChainStatus.FAILED):
        out.extend(map(write, end_tree(run, at)))  # runs inside its steps no longer wait for a person


def _change_chain(
    run: str,
    status: str,
    at: int,
    *,
    reason: str | None = None,
    error: ErrorInfo | None = None,
    completed: int | None = None,
) -> Query:
    return _CHAIN(
        run=run,
        new_status=str(status),
        new_reason=reason,
        new_message=error.message if error else None,
        new_code=error.code if error else None,
        completed=completed,
        keep_owner=int(status == "running"),
        at=at,
    )


def _log_kept(fact: LogKept, run: str, at: int, out: list[Write]) -> None:
    add(out, _LOG(row=fact.row, attempt=fact.attempt, text=fact.text, at=at, done=fact.done, total=fact.total))


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
