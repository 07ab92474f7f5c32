"""The ports of the engine, as Protocols. Stores and adapters implement them."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from .artifact import ArtifactFiles, File, KeptFile
from .errors import TowpathError
from .events import Fact
from .model import ArtifactRow, ChainStatus, ErrorInfo, Json, Plan, StepStatus
from .run_labels import UNLABELLED, RunLabel

if TYPE_CHECKING:
    from .records import ArtifactRecord, Gate, PendingGate


@dataclass(frozen=True, slots=True)
class NewRun:
    """A new run, before its first step. `facts` are recorded with it: file inputs, and the results that a
    rerun reuses. `by` names the caller of the server, for the audit trail.
    """

    id: str
    plan: Plan
    inputs: dict[str, Json]
    facts: tuple[Fact, ...] = ()
    parent_workflow_id: str | None = None
    parent_run_id: str | None = None
    regenerated_from_step_id: str | None = None
    by: str = ""
    label: RunLabel = UNLABELLED


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write a run: valid while the run's epoch is still this one."""

    run_id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Birth:
    """A run that `newborn` made and that is not recorded yet."""

    lease: Lease
    new: NewRun
    at: int  # UTC microseconds


@dataclass(frozen=True, slots=True)
class Request:
    """What people request of a run that another process may own: `cancel`, `pause`, or a decision.

    A decision has its `approval`, the status word `decision`, the resulting `action` (`GateAction`), and
    the `parameters` for a regeneration. `by` is empty after a timeout.
    """

    run_id: str
    kind: str
    step: str = ""
    item: int | None = None
    approval: str = ""
    decision: str = ""
    action: str = ""
    reason: str = ""
    by: str = ""
    parameters: dict[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StepRow:
    """What is recorded of one row of a run.

    `decision` is one that the run has not acted on yet. `regenerations` counts decisions that made the row run
    again, `overrides` holds the arguments they changed, `rejected` marks a row that a rejection failed.
    `versions` are the highest version numbers given to the outputs of a row that is not over.
    """

    id: str
    step: str
    item: int | None
    status: StepStatus
    attempt: int
    value: Json = None
    count: int | None = None
    parameters: Json = None
    error: ErrorInfo | None = None
    reason: str = ""
    waits_for_person: bool = False
    approval: str | None = None
    decision: Request | None = None
    regenerations: int = 0
    overrides: dict[str, Json] = field(default_factory=dict)
    rejected: bool = False
    versions: dict[str, int] = field(default_factory=dict)
    queued_at: int = 0
    started_at: int | None = None
    completed_at: int | None = None
    server_address: str | None = None
    prompt_id: str | None = None
    artifacts: tuple[ArtifactRow, ...] = ()


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run as recorded: its chain, its rows, and what people requested."""

    id: str
    plan: Plan
    status: ChainStatus
    inputs: dict[str, Json]
    rows: tuple[StepRow, ...]
    reason: str = ""
    level: int = 0
    error: ErrorInfo | None = None
    parent_workflow_id: str | None = None
    parent_run_id: str | None = None
    started_at: int = 0
    completed_at: int | None = None
    cancel_requested: bool = False
    pause_requested: bool = False
    children: dict[str, str] = field(default_factory=dict)
    root: str = ""
    label: RunLabel = UNLABELLED


@dataclass(frozen=True, slots=True)
class RunStatus:
    """A run now: its status with the reason of a pause, its epoch, whether it has an owner, and whether
    cancel is requested.
    """

    status: ChainStatus
    reason: str = ""
    epoch: int = 0
    owned: bool = False
    cancel_requested: bool = False


@dataclass(frozen=True, slots=True)
class Removed:
    """A run that was removed, with `runs`: itself and those inside it.

    `bytes` is the size of the files that no other run has. Their space comes back when they are collected
    (`towpath fsck --repair`).
    """

    id: str
    runs: tuple[str, ...]
    steps: int
    files: int
    bytes: int


Done = Callable[[Exception | None], None]
"""Is told what became of queued facts: None when they are durable, else the error."""


class Files(ArtifactFiles, Protocol):
    """Stores new files, and reads the bytes of stored ones."""

    async def keep(
        self,
        data: bytes | Path | AsyncIterable[bytes],
        filename: str | None = None,
        media: str | None = None,
        stem: str = "output",
    ) -> KeptFile:
        """Store bytes durably. Raises ValueRefused (E_VALUE_FILE), StoreFailed (E_DISK_…)."""
        ...

    async def is_failing(self) -> bool:
        """Are writes failing now? So a full or broken disk is not taken for an error of a step."""
        ...

    def key_of(self, row: ArtifactRow) -> str | None:
        """The name within the store of the blob that holds an artifact's bytes; None for bytes in the database."""
        ...

    async def place(self, row: ArtifactRow) -> Path | None:
        """The file that holds an artifact's bytes, whether or not it exists; None for bytes in the database."""
        ...

    async def write_to(self, row: ArtifactRow, target: Path) -> None:
        """Write an artifact's bytes to a path of the user's, whole or not at all."""
        ...

    @property
    def folder(self) -> Path:
        """The folder of a run's working files and of its files for people."""
        ...


class Store(Protocol):
    """Writes runs, and loads them: what a run needs from a database, in facts. Every method is one transaction."""

    @property
    def files(self) -> Files: ...

    @property
    def broken(self) -> TowpathError | None:
        """The error that ended all writing, or None. It lasts until the store is opened again."""
        ...

    def new_id(self) -> str:
        """A key for a row: unique, ordered by time."""
        ...

    async def create_run(self, run: NewRun) -> bool:
        """Record a run before anything of it starts; False if its id is there already."""
        ...

    async def claim(self, run_id: str, service: str = "") -> Lease:
        """Become the owner of a run without a living owner. Its gates whose timeout is over are closed.

        With `service` that service owns the run, not this process: its lease does not expire, and it may claim again.

        Raises RunRefused: E_RUN_MISSING, E_RUN_OVER, E_RUN_OWNED (names the owner).
        """
        ...

    async def renew(self, leases: Sequence[Lease]) -> list[str]:
        """Renew leases; returns the ids of runs that this process lost."""
        ...

    async def leaving(self, lease: Lease) -> None:
        """Record that this process stops working on the run before its steps have ended."""
        ...

    async def release(self, lease: Lease) -> None:
        """Stop owning without ending the run."""
        ...

    async def record(self, lease: Lease, facts: Sequence[Fact]) -> None:
        """Record facts in one transaction; returns when they are durable. Raises Fenced, StoreFailed."""
        ...

    def record_soon(self, lease: Lease, facts: Sequence[Fact], done: Done) -> None:
        """Queue facts for the next commit; they are recorded in one transaction, as `record` does it.

        `done` is called in the event loop with None when they are durable, or with the error: Fenced, StoreFailed.
        It must not raise. Raises StoreFailed at once if nothing can be recorded.
        """
        ...

    def newborn(self, new: NewRun) -> tuple[Lease, RunRow, Birth]:
        """A new run as `create_run`, `claim` and `load` would give it, owned by this process. Nothing is recorded.

        `record_born` records it; until then `release` forgets it. Only for a run with an id from `new_id`, without
        `facts`, and not inside a step. Raises StoreFailed (E_DB_VALUE) for inputs that no database holds.
        """
        ...

    def record_born(self, birth: Birth, facts: Sequence[Fact], done: Done) -> None:
        """As `record_soon`: record a newborn run as running, and its first facts, in one transaction.

        A ChainResumed among the facts adds nothing: a newborn run has started.
        """
        ...

    async def load(self, run_id: str) -> RunRow:
        """The whole run as recorded. Raises RunRefused (E_RUN_MISSING)."""
        ...

    async def lost_attempts(self, run_id: str) -> dict[str, int]:
        """For each executing row: how many processes died during an attempt of it, since its last outcome."""
        ...


class Requests(Protocol):
    """What people ask of runs that another process may own. Every method is one transaction."""

    async def request(self, run_id: str, kind: str, by: str = "") -> ChainStatus:
        """Request `cancel` or `pause`; returns the run's status. A run without an owner obeys at once."""
        ...

    async def remove(self, run_id: str, by: str = "") -> Removed:
        """Delete a run that is over with all that belongs to it, the copies for people too.

        Raises RunRefused: E_RUN_MISSING, E_RUN_ACTIVE, E_RUN_INSIDE.
        """
        ...

    async def requests(self, run_ids: Sequence[str]) -> list[Request]:
        """The open requests of these runs. Gates in them whose timeout is over are closed first."""
        ...

    async def edits(self, run_ids: Sequence[str], after: int) -> tuple[int, list[Request]]:
        """The last event that was read, and the rows of these runs whose files people replaced since event `after`, as
        requests of kind `edit`.
        """
        ...

    async def runs_with_requests(self) -> dict[str, int]:
        """The runs (and those around them) with open requests or with gates whose timeout is over, and since when.

        Times are UTC microseconds of the last such event."""
        ...

    async def cancelled_among(self, run_ids: Sequence[str]) -> list[str]:
        """The runs among these for which cancel is requested, for them or for a run around them."""
        ...


class RunReader(Protocol):
    """Reads parts of runs. Every method is one transaction."""

    def one_moment(self) -> AbstractAsyncContextManager[None]:
        """One snapshot for all reads of a task inside the block. For a short time only."""
        ...

    async def status_of(self, run_id: str) -> RunStatus:
        """The status of a run, in one short query. Raises RunRefused (E_RUN_MISSING)."""
        ...

    async def rows_of(self, run_id: str, steps: Sequence[str], items: Sequence[tuple[str, int]] = ()) -> list[StepRow]:
        """The rows of some steps with all their items, and of some items."""
        ...

    async def running_in(self, service: str) -> list[str]:
        """The running runs that a service owns, those inside steps left out."""
        ...

    async def latest_artifacts(self, row_id: str) -> list[ArtifactRow]:
        """The latest version of each output of a row, as people may have left it."""
        ...

    async def versions(self, row_id: str) -> dict[str, int]:
        """The highest version number ever given to each output of a row, deleted versions included."""
        ...

    async def sent_before(self, server: str, digest: str) -> str | None:
        """The name under which a server got these bytes in an earlier completed transfer."""
        ...

    async def find_ids(self, what: str, part: str) -> list[str]:
        """The ids among `chains`, `artifacts` or `approvals` that are, begin or end with `part`; the first few."""
        ...

    async def logs(self, run_id: str, since: int = 0) -> list[dict[str, Any]]:
        """The log lines of a run's steps: step_id, item_index, attempt, text, updated_at (UTC microseconds).

        Only those that were recorded at or after `since`.
        """
        ...

    async def figures(self, run_id: str) -> list[dict[str, Any]]:
        """The recorded progress of a run's executing steps and items: step_id, item_index, done, total."""
        ...

    async def events(self, run_id: str, after: int = 0, limit: int = 1000) -> list[dict[str, Any]]:
        """The recorded facts of a run with `seq` above `after`, in order."""
        ...


class Gates(Protocol):
    """Lists gates, and records decisions. Every method is one transaction."""

    async def get_pending_approvals(self, chain_id: str | None = None, limit: int = 100) -> list[PendingGate]:
        """The gates that wait for a person, oldest first: all of them, or those in a run and in the runs inside it."""
        ...

    async def get_approval(self, approval_id: str) -> Gate | None: ...

    async def approve(
        self, approval_id: str, by: str, *, seen: Collection[str] | None = None, reason: str = ""
    ) -> Gate: ...

    async def reject(
        self,
        approval_id: str,
        by: str,
        *,
        reason: str = "",
        action: str | None = None,
        parameters: dict[str, Json] | None = None,
    ) -> Gate: ...

    async def edit_artifact(
        self, artifact_id: str, data: bytes | Path | File, by: str, *, reason: str = "", approve: bool = False
    ) -> ArtifactRecord: ...


class ReadingStore(Store, RunReader, Protocol):
    """Writes runs and reads parts of them."""


class EngineStore(Store, Requests, RunReader, Protocol):
    """All that an engine and its adapters need of a store."""


Listener = Callable[[str, Fact], None]
"""Gets every fact of a run, after it was recorded."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The state in which an adapter left a run: over, or paused with a reason."""

    status: ChainStatus
    reason: str = ""
    error: ErrorInfo | None = None
    ledger: Any = None


class Adapter(Protocol):
    """Executes runs."""

    listeners: list[Listener]

    def with_resources(self, plan: Plan) -> Plan:
        """The plan of a new run, completed by what it needs from outside, such as workflow files.

        Raises ChainInvalid for what cannot run as it is, FeatureMissing.
        """
        ...

    def adopt(self, new: NewRun) -> bool:
        """Take a new run that has an id of towpath: `execute` will record it, together with its first steps.

        False if this adapter does not: then the caller records it.
        """
        ...

    async def abandon(self, run_id: str) -> None:
        """Cancel the prompts that a run without a worker has left at servers."""
        ...

    def resolve_steps(self, plan: Plan, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Resolve every step of a plan before its first step starts. Raises StepNotRegistered."""
        ...

    def keep(self, run_id: str, functions: Mapping[str, Any]) -> None:
        """Keep the functions of a run of this process. Each run has its own: names may be ambiguous."""
        ...

    def kept(self, run_id: str) -> Mapping[str, Any]:
        """The functions that a run of this process works with, or worked with; empty if unknown here."""
        ...

    async def execute(self, run_id: str, on_claimed: Callable[[], None] | None = None) -> Ended:
        """Work on a run until it is over or paused; `on_claimed` is called when it is recorded as running.

        Raises RunRefused, Fenced, StoreFailed.
        """
        ...

    async def deliver_requests(self) -> None:
        """Act now on the requests for the runs that this process works on."""
        ...

    def progress(self, run_id: str) -> dict[tuple[str, int | None], tuple[float, float | None]]:
        """The progress that steps of this process report: (done, total) by step and item."""
        ...

    def working(self, run_id: str) -> bool:
        """Does this process work on the run?"""
        ...

    def finishes_alone(self, run_id: str) -> bool:
        """May the run have ended since this process last reported it?"""
        ...
