"""The rows of one run as its driver holds them in memory, and how later steps see them.

Fills the `Environment` of bindings. What is here is what the store has recorded (or records in the same
transaction); nothing is read back from the database during a run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec
from msgspec import Struct

from .artifact import Artifact
from .binding import bind
from .errors import ExpressionFailed, Place, StoreFailed
from .events import NewArtifact
from .model import ArtifactApproval, ArtifactRow, ErrorInfo, Json, Plan, StepStatus
from .ports import Files, RunRow, StepRow, Store
from .run_labels import UNLABELLED, RunLabel
from .secrets import Secret
from .values import STORED_VALUE, of_item, restore

_SCALARS = frozenset({int, float, bool, str, type(None)})
INPUTS = "inputs"  # the step id of the row that holds file inputs
_NONE: Mapping[str, Any] = MappingProxyType({})  # shared by the many rows without files and decisions


class LedgerRow(Struct, gc=False):
    """One row of the run."""

    id: str
    step: str
    item: int | None = None
    status: StepStatus = StepStatus.QUEUED
    attempt: int = 0
    value: Json = None
    parameters: Json = None
    error: ErrorInfo | None = None
    count: int | None = None
    approval: str | None = None
    started_at: int | None = None
    server: str | None = None
    prompt: str | None = None
    value_stored: bool = False  # the artifact `value` holds the value; it is not a file of the user
    regenerations: int = 0
    overrides: Mapping[str, Json] = _NONE  # arguments that rejections changed
    highest: Mapping[str, int] = _NONE  # version numbers given so far, from the store
    artifacts: Mapping[str, ArtifactRow] = _NONE


class Ledger:
    """All rows of a run, by step and item."""

    def __init__(self, plan: Plan, files: Files, inputs: dict[str, Json], label: RunLabel = UNLABELLED) -> None:
        self.plan = plan
        self.inputs = inputs
        self.label = label
        self.changes = 0  # counts how often rows were read again
        self.has_secrets = False  # does the run have secrets? Only then are arguments searched for them
        self._files = files
        self._rows: dict[tuple[str, int | None], LedgerRow] = {}

    # ---- rows

    def row(self, step: str, item: int | None = None) -> LedgerRow | None:
        """The row of a step or item, if it has one yet."""
        return self._rows.get((step, item))

    def rows(self) -> Iterable[LedgerRow]:
        """All rows that are known, those of items too."""
        return self._rows.values()

    def add(self, row: LedgerRow) -> LedgerRow:
        self._rows[row.step, row.item] = row
        return row

    async def restore(self, recorded: RunRow) -> None:
        """Load the recorded rows of the run. Values too large for a row are read from their artifact."""
        await self.take(recorded.rows)

    async def take(self, rows: Iterable[StepRow]) -> None:
        """Replace rows by their recorded state."""
        self.changes += 1
        for stored in rows:
            row = self.add(_from_store(stored))
            row.value_stored = isinstance(row.value, dict) and STORED_VALUE in row.value
            if row.value_stored:
                await self._read_value(row)

    async def refresh(self, row: LedgerRow, latest: Iterable[ArtifactRow]) -> None:
        """Load versions that people added; a value that is an artifact is read again."""
        self.changes += 1
        row.artifacts = {artifact.name: artifact for artifact in latest}
        if row.value_stored:
            await self._read_value(row)

    async def _read_value(self, row: LedgerRow) -> None:
        encoded = await self._files.read_bytes(row.artifacts["value"])
        try:
            row.value = msgspec.json.decode(encoded)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StoreFailed(
                "E_VALUE_TYPE",
                f"the artifact `value` is not JSON: {error}",
                place=Place(step=row.step),
                cure="replace it by a version that is",
            ) from None

    def all_artifacts(self) -> list[ArtifactRow]:
        """The latest version of each file of the run, its inputs too."""
        return [artifact for row in self._rows.values() for artifact in row.artifacts.values()]

    def read_by(self, files: Files) -> None:
        """From now on, artifacts are read by `files`."""
        self._files = files

    def keep(self, row: LedgerRow, artifacts: Sequence[NewArtifact]) -> None:
        """Note new versions that are being recorded with this row."""
        waits = row.status is StepStatus.WAITING_APPROVAL
        word = ArtifactApproval.PENDING if waits else ArtifactApproval.AUTO_APPROVED
        if not artifacts:
            return
        kept = dict(row.artifacts)
        for new in artifacts:
            row.value_stored = row.value_stored or new.metadata == {"value": True}
            kept[new.name] = ArtifactRow(
                id=new.id,
                workflow_id=row.id,
                name=new.name,
                version=new.version,
                filename=new.filename,
                media_type=new.media_type,
                size=new.size,
                digest=new.digest,
                parent_artifact_id=new.parent_artifact_id,
                approval_status=word,
                attempt=new.attempt,
            )
        row.artifacts = kept

    def versions(self, row: LedgerRow) -> dict[str, int]:
        """The highest version number given to each output of a row."""
        latest = {name: artifact.version for name, artifact in row.artifacts.items()}
        return latest | {name: max(number, latest.get(name, 0)) for name, number in row.highest.items()}

    def collected(self, step: str, count: int) -> list[Json]:
        """The value of a mapped step: its items' values in order, None where an item has none."""
        values: list[Json] = []
        for item in range(count):
            row = self._rows.get((step, item))
            value = row.value if row is not None and row.status.done else None
            values.append(value if type(value) in _SCALARS else of_item(value, item))
        return values

    # ---- the environment of bindings

    def input(self, name: str) -> object:
        if name not in self.inputs:
            raise ExpressionFailed("E_TEMPLATE_UNDEFINED", f"there is no input {name}")
        return restore(self.inputs[name], lambda file, _: self._artifact(INPUTS, file, None), self._secret)

    def value(self, step: str) -> Any:
        row = self._completed(step)
        if type(row.value) in _SCALARS:
            return row.value
        return restore(row.value, lambda name, item: self._artifact(step, name, item), self._secret)

    def item_value(self, step: str, item: int) -> Any:
        """The value of one completed item of a mapped step."""
        row = self._rows[step, item]
        return restore(row.value, lambda name, _: self._artifact(step, name, item), self._secret)

    def files(self, step: str) -> list[Artifact]:
        """The files for later steps: rejected versions without a replacement are left out."""
        self._completed(step)
        found = self._artifacts_of(step, None, done=True)
        return [a for a in found if a.row.approval_status != ArtifactApproval.REJECTED]

    def artifacts(self, step: str, item: int | None = None) -> list[Artifact]:
        """The latest version of each file of a step, whatever its status; of a mapped step, of all items."""
        return self._artifacts_of(step, item, done=False)

    def _artifacts_of(self, step: str, item: int | None, *, done: bool) -> list[Artifact]:
        """With `done` only those of completed rows: a failed row has only what was rescued."""
        row = self._rows.get((step, item))
        if row is None:
            return []
        rows = [row] if row.count is None else [self._rows.get((step, i)) for i in range(row.count)]
        return [
            Artifact(artifact, self._files)
            for r in rows
            if r is not None and (r.status.done or not done)
            for artifact in r.artifacts.values()
            if not (artifact.name == "value" and r.value_stored)
        ]

    def status(self, step: str) -> str:
        row = self._rows.get((step, None))
        return "pending" if row is None else str(row.status)

    def parameters(self, step: str) -> Json:
        row = self._rows.get((step, None))
        return (row.parameters if row is not None else None) or {}

    def error(self, step: str) -> Json:
        row = self._rows.get((step, None))
        if row is None or row.error is None:
            return None
        return {
            "code": row.error.code,
            "message": row.error.message,
            "failed_items": list(row.error.failed_items),
        }

    def _completed(self, step: str) -> LedgerRow:
        row = self._rows.get((step, None))
        if row is None or not row.status.done:
            status = "pending" if row is None else row.status
            raise ExpressionFailed(
                "E_TEMPLATE_UNDEFINED",
                f"step {step} has no output: it is {status}",
                place=Place(step=step),
                cure=f"guard it with a condition: {step}.status == 'completed' and …",
            )
        return row

    def _secret(self, mark: Json) -> Secret[Any]:
        self.has_secrets = True
        return Secret.kept(mark, self._files.folder)

    def _artifact(self, step: str, name: str, item: int | None) -> Artifact:
        row = self._rows[step, item]
        if name not in row.artifacts:
            raise ExpressionFailed("E_TEMPLATE_UNDEFINED", f"the file {name} of step {step} was deleted")
        return Artifact(row.artifacts[name], self._files)


async def restored_ledger(store: Store, recorded: RunRow) -> Ledger:
    """The ledger of a recorded run."""
    ledger = Ledger(recorded.plan, store.files, recorded.inputs, recorded.label)
    await ledger.restore(recorded)
    return ledger


def chain_value(ledger: Ledger) -> Any:
    """The value of a completed run: what its `@chain` returned, else the values of its last steps by id."""
    plan = ledger.plan
    if plan.output is not None:
        return bind(plan.output, Place(field="output"), ledger)
    needed = {dependency for step in plan.steps for dependency in step.depends_on}
    last = [step.id for step in plan.steps if step.id not in needed]
    return {step: ledger.value(step) for step in last if StepStatus(ledger.status(step)).done}


def _from_store(row: StepRow) -> LedgerRow:
    return LedgerRow(
        id=row.id,
        step=row.step,
        item=row.item,
        status=row.status,
        attempt=row.attempt,
        value=row.value,
        parameters=row.parameters,
        error=row.error,
        count=row.count,
        approval=row.approval,
        started_at=row.started_at,
        server=row.server_address,
        prompt=row.prompt_id,
        regenerations=row.regenerations,
        overrides=dict(row.overrides) or _NONE,
        highest=dict(row.versions) or _NONE,
        artifacts={a.name: a for a in row.artifacts} or _NONE,
    )
