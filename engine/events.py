"""Facts: what happened to a run, in the order in which the store gets it. The `events` table keeps them for good.

Each fact names the row it is about by id. A list of facts given to the store at once is recorded as
one whole or not at all.
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from .artifact import Origin
from .model import ApprovalPolicy, ChainStatus, ErrorInfo, Json, StepStatus, TransferStatus


class GateFact(StrEnum):
    """What the audit trail says about a gate: who was asked what, who decided when and why, what came of it."""

    REQUESTED = "ApprovalRequested"
    RECORDED = "DecisionRecorded"
    TIMED_OUT = "ApprovalTimedOut"
    APPLIED = "DecisionApplied"
    EDITED = "ArtifactEdited"


class NewArtifact(Struct, frozen=True, gc=False):
    """A version about to be recorded. The bytes are safe already, or travel along in `inline`."""

    id: str
    name: str
    version: int
    filename: str
    media_type: str
    size: int
    digest: str
    local_path: str | None = None
    inline: bytes | None = None
    attempt: int = 1
    parent_artifact_id: str | None = None
    metadata: Json = None
    origin: Origin | None = None


class NewApproval(Struct, frozen=True, gc=False):
    """A gate about to be recorded, for the artifacts recorded with it."""

    id: str
    policy: ApprovalPolicy


class StepReady(Struct, frozen=True, gc=False):
    """A step's (or item's) row is created, started already or waiting for a slot."""

    row: str
    step: str
    item: int | None
    target: str
    started: bool
    attempt: int
    parameters: Json = None
    count: int | None = None


class StepStarted(Struct, frozen=True, gc=False):
    """A queued row, or one found unfinished after a crash, begins (another) attempt."""

    row: str
    step: str
    item: int | None
    attempt: int
    parameters: Json = None


class AttemptReleased(Struct, frozen=True, gc=False):
    """A worker that stops lets an attempt go in good order: another one makes the next, and none was lost."""

    row: str
    step: str
    item: int | None
    attempt: int


class StepRetried(Struct, frozen=True, gc=False):
    """An attempt failed and another one follows after `delay` seconds."""

    row: str
    step: str
    item: int | None
    attempt: int
    error: ErrorInfo
    delay: float


class StepEnded(Struct, frozen=True, gc=False):
    """A row got its outcome: completed, failed, cancelled, or waiting for a person.

    `failed_items` on a completed mapped step are those it kept.
    """

    row: str
    step: str
    item: int | None
    status: StepStatus
    attempt: int = 1
    value: Json = None
    artifacts: tuple[NewArtifact, ...] = ()
    approval: NewApproval | None = None
    error: ErrorInfo | None = None
    parameters: Json = None
    reason: str = ""


class StepDropped(Struct, frozen=True, gc=False):
    """A step that never started ends as skipped or cancelled; its row is created with this fact."""

    row: str
    step: str
    item: int | None
    target: str
    status: StepStatus
    reason: str


class DecisionApplied(Struct, frozen=True, gc=False):
    """A decision (or the end of the time for it) took effect: the waiting row is over, or `executing` again."""

    row: str
    step: str
    item: int | None
    approval: str
    status: StepStatus
    error: ErrorInfo | None = None
    reason: str = ""


class LevelReached(Struct, frozen=True, gc=False):
    """The first step of a level started."""

    level: int


class ChainResumed(Struct, frozen=True, gc=False):
    """The run is resumed."""


class ChainPaused(Struct, frozen=True, gc=False):
    """The run waits for a resume or a decision. Reasons: approval, requested, interrupted."""

    reason: str


class ChainEnded(Struct, frozen=True, gc=False):
    """The run is over, with its first cause if it failed."""

    status: ChainStatus
    error: ErrorInfo | None = None


class TransferMade(Struct, frozen=True, gc=False):
    """The state of one transfer of an artifact to a step's server. One row per artifact, step row and server.

    `size` counts the bytes that were sent: 0 if the server had them already. `name` is the server's.
    """

    id: str
    row: str
    step: str
    item: int | None
    artifact: str
    source_row: str
    server: str
    status: TransferStatus
    subfolder: str = ""
    name: str | None = None
    size: int | None = None
    duration_us: int | None = None
    error: ErrorInfo | None = None


class PromptSent(Struct, frozen=True, gc=False):
    """A workflow is about to be sent to a server with an id that towpath chose; recorded before it is sent."""

    row: str
    step: str
    item: int | None
    server: str
    prompt_id: str
    definition: Json = None


class LogKept(Struct, frozen=True, gc=False):
    """The log lines of an attempt and the progress it reported, as they stand now."""

    row: str
    attempt: int
    text: str
    done: float | None = None
    total: float | None = None


Fact = (
    StepReady
    | StepStarted
    | AttemptReleased
    | StepRetried
    | StepEnded
    | StepDropped
    | DecisionApplied
    | LevelReached
    | ChainResumed
    | ChainPaused
    | ChainEnded
    | TransferMade
    | PromptSent
    | LogKept
)
