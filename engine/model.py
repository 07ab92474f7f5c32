"""The nouns: what a chain is (`Plan`, `StepPlan`) and what a run leaves behind (`Artifact`, statuses).

Everything here is frozen, plain data that survives JSON: a plan is stored with its run, is handed to
other processes and is read by workflow code that may not do I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec
from msgspec import Struct

from .late import Late

_notebook = Late("towpath.notebook")
Json = Any
"""JSON-typed data: None, bool, int, float, str, list, dict with str keys."""

MAX_STEPS = 100_000
MAX_ITEMS = 100_000


class ChainStatus(StrEnum):
    """Status of a chain run. `completed partial failed cancelled` are final."""

    PENDING = "pending"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self in FINAL_CHAIN


class StepStatus(StrEnum):
    """Status of a workflow row: one step of a run, or one item of a mapped step."""

    QUEUED = "queued"
    EXECUTING = "executing"
    WAITING_APPROVAL = "waiting_approval"
    COMPLETED = "completed"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"
    CACHED = "cached"

    @property
    def final(self) -> bool:
        return self in FINAL_STEP

    @property
    def done(self) -> bool:
        """Completed now, or taken over completed from an earlier run."""
        return self is StepStatus.COMPLETED or self is StepStatus.CACHED


FINAL_CHAIN = frozenset({ChainStatus.COMPLETED, ChainStatus.PARTIAL, ChainStatus.FAILED, ChainStatus.CANCELLED})
FINAL_STEP = frozenset(
    {StepStatus.COMPLETED, StepStatus.FAILED, StepStatus.SKIPPED, StepStatus.CANCELLED, StepStatus.CACHED}
)


class TransferStatus(StrEnum):
    """Status of one sending of an artifact to a server."""

    PENDING = "pending"
    UPLOADING = "uploading"
    COMPLETED = "completed"
    FAILED = "failed"


class ApprovalStatus(StrEnum):
    """Status of a gate. Everything but `pending` is a decision and is final."""

    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"


class GateAction(StrEnum):
    """What a decision does to the row that waits. A rejection or a timeout that may `regenerate` no more stops."""

    APPROVE = "approve"
    STOP = "stop"
    SKIP = "skip"
    REGENERATE = "regenerate"


class ArtifactApproval(StrEnum):
    """What people said about one version of an artifact (words of the system that towpath replaces)."""

    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"
    AUTO_APPROVED = "auto_approved"
    EDITED = "edited"


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how patiently a step is tried.

    `attempts` counts all tries. The wait before try n+1 is `delay * backoff ** (n - 1)` seconds, at most
    `max_delay`; with `jitter` a uniform random share between half and all of it (decorrelates a herd of
    steps that failed together).
    """

    attempts: int = 1
    delay: float = 2.0
    backoff: float = 2.0
    max_delay: float = 300.0
    jitter: bool = True

    def wait(self, attempt: int, spread: float = 1.0) -> float:
        """Seconds to wait after failed try `attempt`; `spread` in [0, 1] is the caller's random number."""
        full = min(self.max_delay, self.delay * self.backoff ** min(attempt - 1, 64))
        return full * (0.5 + spread / 2) if self.jitter else full


@dataclass(frozen=True, slots=True)
class ApprovalPolicy:
    """What happens at a gate. Times are seconds; None waits without a limit. `max_retries` counts regenerations."""

    on_rejected: str = "stop"
    max_retries: int = 0
    timeout: float | None = None
    timeout_action: str = "auto_reject"


@dataclass(frozen=True, slots=True)
class InputSpec:
    """A declared input of a chain. `type` is one of string integer number boolean json file.

    `shape` says more, where the annotation of a `@chain` does (see `input_types.py`).
    The value of a `secret` input is shown nowhere (`secrets.py`).
    """

    name: str
    type: str = "json"
    required: bool = True
    default: Json = None
    description: str = ""
    source: str = ""
    target: str = ""
    shape: Json = None
    secret: bool = False


class StepPlan(Struct, frozen=True, gc=False):
    """One node of a compiled chain.

    `parameters` and `foreach` are bindings: JSON in which `{"$ref": …}`, `{"$item": …}` and
    `{"$template": …}` stand for values known only at run time (see `binding.py`). `watches` are the
    dependencies whose `.status` or `.error` the condition names. A step with `pairs_with` maps over a
    mapped step and starts item i when item i of that step is recorded. `secret` says that the value is one, and
    `secrets` names the parameters that are: of what they get only that it is secret is recorded.

    `retry_on` names the exceptions that are worth a retry; empty: all. `limit` is a limit of the process that all
    steps with its name share; `concurrency` limits the attempts of this function alone. `process`: the function runs
    in a process of its own.
    """

    id: str
    kind: str
    target: str
    parameters: dict[str, Json] = msgspec.field(default_factory=dict)
    depends_on: tuple[str, ...] = ()
    condition: str | None = None
    watches: tuple[str, ...] = ()
    foreach: Json = None
    mapped: bool = False
    pairs_with: str | None = None
    on_item_failure: str = "fail"
    approval: ApprovalPolicy | None = None
    retry: RetryPolicy = msgspec.field(default_factory=RetryPolicy)
    retry_on: tuple[str, ...] = ()
    timeout: float | None = None
    total_timeout: float | None = None
    limit: str | None = None
    concurrency: int | None = None
    process: bool = False
    server: str | None = None
    requires: dict[str, Json] = msgspec.field(default_factory=dict)
    cheap: bool = False
    cache: Json = None
    secret: bool = False
    secrets: tuple[str, ...] = ()
    description: str = ""
    level: int = 0
    chain: Plan | None = None


class Plan(Struct, frozen=True, gc=False):
    """A compiled chain: steps in a topological order that is always the same for one chain; levels count from 0.

    `workflows` are the ComfyUI workflows of its steps by name. They are added when a run is made, so that the run uses
    the same ones on every host.
    """

    name: str
    steps: tuple[StepPlan, ...]
    inputs: tuple[InputSpec, ...] = ()
    description: str = ""
    output: Json = None
    concurrency: int | None = None
    metadata: dict[str, Json] = msgspec.field(default_factory=dict)
    folder: str = ""
    workflows: dict[str, Json] = msgspec.field(default_factory=dict)

    def _repr_html_(self) -> str:
        return str(_notebook.plan_html(self))

    def step(self, step_id: str) -> StepPlan:
        """The step of that id; KeyError if there is none."""
        for step in self.steps:
            if step.id == step_id:
                return step
        raise KeyError(step_id)

    @property
    def levels(self) -> tuple[tuple[str, ...], ...]:
        """Step ids by level, each level in plan order."""
        grouped: dict[int, list[str]] = {}
        for step in self.steps:
            grouped.setdefault(step.level, []).append(step.id)
        return tuple(tuple(grouped[level]) for level in sorted(grouped))


def secret_inputs(plan: Plan) -> frozenset[str]:
    """The inputs of a chain that are declared secret."""
    return frozenset(spec.name for spec in plan.inputs if spec.secret)


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """Why something failed, as kept in the row. `traceback` holds the user's frames only."""

    code: str
    message: str = ""  # empty if the error has no text
    type: str = ""
    traceback: str = ""
    failed_items: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ArtifactRow:
    """One version of one named output. Sizes are bytes, `digest` is SHA-256 in hex, times are UTC microseconds."""

    id: str
    workflow_id: str
    name: str
    version: int
    filename: str
    media_type: str
    size: int
    digest: str
    is_latest: bool = True
    parent_artifact_id: str | None = None
    approval_status: str = ArtifactApproval.AUTO_APPROVED
    attempt: int = 1
    created_at: int = 0

    @property
    def kind(self) -> str:
        """`image video audio text model` or `file`: the key under which `.output.<kind>` finds it."""
        return kind_of(self.media_type)


def kind_of(media_type: str) -> str:
    """The kind of file that a media type names."""
    major = media_type.split("/", 1)[0]
    if major in ("image", "video", "audio", "text", "model"):
        return major
    return "text" if media_type == "application/json" else "file"
