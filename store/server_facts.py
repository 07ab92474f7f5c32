"""Facts about servers as SQL: artifacts on their way to a server, and prompts sent there."""

from __future__ import annotations

from typing import Any

from towpath.events import PromptSent, TransferMade
from towpath.model import StepStatus, TransferStatus

from . import transitions
from .backend import Write, add
from .core import sa, t
from .event_log import about, log_event
from .rows import encode
from .statements import Expression, Statement, Upsert, each, one_of
from .statements import param as b

_FIRST = Upsert(
    lambda insert: (
        insert(t.artifact_transfers)
        .values(
            id=b("transfer"),
            artifact_id=b("artifact"),
            source_workflow_id=b("source"),
            target_workflow_id=b("row"),
            target_server=b("server"),
            target_subfolder=b("subfolder"),
            status=TransferStatus.PENDING,
            attempt=0,
            idempotency_key=b("key"),
            created_at=b("at"),
            updated_at=b("at"),
        )
        .on_conflict_do_nothing()
    )
)
_AGAIN = Statement(
    lambda: (
        # A retry of the step sends again: a failed transfer becomes pending again.
        sa.update(t.artifact_transfers)
        .where(
            t.artifact_transfers.c.idempotency_key == b("key"),
            one_of(t.artifact_transfers.c.status, transitions.TRANSFER[TransferStatus.PENDING]),
        )
        .values(status=TransferStatus.PENDING, error_message=None, updated_at=b("at"))
    )
)
_STANDS = each(
    (TransferStatus.UPLOADING, TransferStatus.COMPLETED, TransferStatus.FAILED),
    lambda status: (
        # A completed row stays completed. If the server has lost the file, it is sent again without a new row.
        sa.update(t.artifact_transfers)
        .where(
            t.artifact_transfers.c.idempotency_key == b("key"),
            one_of(t.artifact_transfers.c.status, (*transitions.TRANSFER[status], status)),
        )
        .values(
            status=status,
            attempt=t.artifact_transfers.c.attempt + int(status is TransferStatus.UPLOADING),
            target_name=sa.func.coalesce(b("name"), t.artifact_transfers.c.target_name),
            bytes=sa.func.coalesce(b("size"), t.artifact_transfers.c.bytes),
            duration_us=sa.func.coalesce(b("duration"), t.artifact_transfers.c.duration_us),
            uploaded_at=b("at") if status is TransferStatus.COMPLETED else None,
            error_message=b("message"),
            updated_at=b("at"),
        )
    ),
)


def close(rows: Any, why: str) -> Expression:
    """Fail the transfers to these rows (a select of ids) that have not ended."""
    transfers = t.artifact_transfers
    on_their_way = one_of(transfers.c.status, (TransferStatus.PENDING, TransferStatus.UPLOADING))
    failed = {"status": TransferStatus.FAILED, "error_message": why, "updated_at": b("at")}
    return sa.update(transfers).where(transfers.c.target_workflow_id.in_(rows), on_their_way).values(failed)


_CLOSE = Statement(lambda: close([b("row")], "the step ended before it was sent"))
_SENT = Statement(
    lambda: (
        sa.update(t.workflows)
        .where(t.workflows.c.id == b("row"), t.workflows.c.status == StepStatus.EXECUTING)
        .values(
            server_address=b("server"),
            prompt_id=b("prompt"),
            workflow_definition=b("definition"),
            updated_at=b("at"),
        )
    )
)
SENT_BEFORE = Statement(
    lambda: (
        sa.select(t.artifact_transfers.c.target_name)
        .join(t.artifacts, t.artifacts.c.id == t.artifact_transfers.c.artifact_id)
        .where(
            t.artifacts.c.sha256 == b("digest"),
            t.artifact_transfers.c.target_server == b("server"),
            t.artifact_transfers.c.status == TransferStatus.COMPLETED,
            t.artifact_transfers.c.target_name.is_not(None),
        )
        .order_by(t.artifact_transfers.c.uploaded_at.desc())
        .limit(1)
    )
)
"""The name under which a server got the same bytes before."""


def transfer_key(fact: TransferMade) -> str:
    """The key of a transfer's row. Sending the same artifact for the same row is one transfer, however often it is
    tried.
    """
    return f"{fact.row}/{fact.artifact}/{fact.server}"


def transfer_made(fact: TransferMade, run: str, at: int, out: list[Write]) -> None:
    """A transfer's row and its line in the audit trail."""
    key = transfer_key(fact)
    message = fact.error.message if fact.error is not None else None
    first = _FIRST(
        transfer=fact.id,
        artifact=fact.artifact,
        source=fact.source_row,
        row=fact.row,
        server=fact.server,
        subfolder=fact.subfolder,
        key=key,
        at=at,
    )
    add(out, first)
    if fact.status is TransferStatus.PENDING:
        add(out, _AGAIN(key=key, at=at))
    else:
        size, duration = fact.size, fact.duration_us
        add(out, _STANDS[fact.status](key=key, name=fact.name, size=size, duration=duration, message=message, at=at))
    data = about(fact, artifact=fact.artifact, server=fact.server, name=fact.name, bytes=fact.size, error=message)
    log_event(out, run, fact.row, f"Transfer{fact.status.capitalize()}", at, data)


def close_transfers(row: str, at: int, out: list[Write]) -> None:
    """End the open transfers of a step that ended without completing."""
    add(out, _CLOSE(row=row, at=at))


def prompt_sent(fact: PromptSent, run: str, at: int, out: list[Write]) -> None:
    """Record a prompt before it is sent to the server, so that it is found after a crash."""
    sent = _SENT(row=fact.row, server=fact.server, prompt=fact.prompt_id, definition=encode(fact.definition), at=at)
    add(out, sent)
    log_event(out, run, fact.row, "PromptSent", at, about(fact, server=fact.server, prompt=fact.prompt_id))
