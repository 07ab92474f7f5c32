"""Which status may follow which. Statements that change a status have these words in their WHERE clause."""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar

from towpath.errors import InputInvalid, StoreFailed
from towpath.model import ChainStatus, StepStatus, TransferStatus

S = TypeVar("S", bound=StrEnum)

_C, _S, _T = ChainStatus, StepStatus, TransferStatus

CHAIN: dict[ChainStatus, tuple[ChainStatus, ...]] = {
    _C.PENDING: (),
    _C.RUNNING: (_C.PENDING, _C.RUNNING, _C.PAUSED),
    _C.PAUSED: (_C.PENDING, _C.RUNNING, _C.PAUSED),
    **dict.fromkeys((_C.COMPLETED, _C.PARTIAL, _C.FAILED, _C.CANCELLED), (_C.PENDING, _C.RUNNING, _C.PAUSED)),
}
"""From which statuses a chain may come to the key."""

_OPEN = (_S.EXECUTING, _S.QUEUED, _S.WAITING_APPROVAL)
STEP: dict[StepStatus, tuple[StepStatus, ...]] = {
    _S.QUEUED: (),
    _S.EXECUTING: _OPEN,
    _S.WAITING_APPROVAL: (_S.EXECUTING, _S.QUEUED),
    **dict.fromkeys((_S.COMPLETED, _S.FAILED, _S.SKIPPED, _S.CANCELLED, _S.CACHED), _OPEN),
}

STEP_FACTS = {
    _S.QUEUED: "StepQueued",
    _S.EXECUTING: "StepStarted",
    _S.WAITING_APPROVAL: "StepWaiting",
    _S.COMPLETED: "StepCompleted",
    _S.FAILED: "StepFailed",
    _S.SKIPPED: "StepSkipped",
    _S.CANCELLED: "StepCancelled",
    _S.CACHED: "StepCached",
}
"""What the audit trail calls the coming of a status."""

TRANSFER: dict[TransferStatus, tuple[TransferStatus, ...]] = {
    _T.PENDING: (_T.FAILED,),
    _T.UPLOADING: (_T.PENDING, _T.UPLOADING, _T.FAILED),
    _T.COMPLETED: (_T.PENDING, _T.UPLOADING),
    _T.FAILED: (_T.PENDING, _T.UPLOADING),
}

_READ_AS = {"initializing": "pending"}  # the seed's word


def status(kind: type[S], word: str) -> S:
    """A status word given by a caller. Raises InputInvalid (E_STATUS) for one that does not exist."""
    try:
        return kind(_READ_AS.get(word, word))
    except ValueError:
        raise InputInvalid("E_STATUS", f"no such {kind.__name__}", found=word, allowed=" ".join(kind)) from None


def refused(table: str, row: str, old: str, new: str) -> StoreFailed:
    """The error for a change of status that is not allowed."""
    final = "; that status is final" if old in {*_final(), "approved", "rejected"} else ""
    return StoreFailed("E_TRANSITION", f"{table} {row} cannot go from {old} to {new}{final}")


def _final() -> set[str]:
    return {*(c for c in ChainStatus if c.final), *(s for s in StepStatus if s.final)}
