"""Rows of the store as users get them from `Engine`: frozen, with a type for every column.

A record is a mapping too: `gate.status` and `gate["status"]` are the same. Times are UTC microseconds, and JSON columns
are decoded. An unknown name raises AttributeError, or KeyError in brackets. `json.dumps(row, default=dict)` writes one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, ClassVar, Self

from .model import Json


@cache
def _names(kind: type[FrozenRow]) -> dict[str, None]:
    return dict.fromkeys(field.name for field in fields(kind))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrozenRow(Mapping[str, Any]):
    """A frozen row. It equals every mapping with the same items."""

    _inside: ClassVar[Mapping[str, type[FrozenRow]]] = {}
    """Columns that hold lists of rows, with the kind of those."""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """The record of a row and of the rows in it. Columns that it does not know are left out."""
        known = {name: row[name] for name in _names(cls) if name in row}
        return cls(**known | {name: [kind.of(one) for one in row[name]] for name, kind in cls._inside.items()})

    def __getitem__(self, name: str) -> Any:
        if name not in _names(type(self)):
            raise KeyError(name)
        return getattr(self, name)

    def __iter__(self) -> Iterator[str]:
        return iter(_names(type(self)))

    def __len__(self) -> int:
        return len(_names(type(self)))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChainRecord(FrozenRow):
    """A chain run: a row of `chains`. `status` is a word of `ChainStatus`.

    `name` is the name of the chain, `run_name` the one that the run was given.
    """

    id: str
    name: str
    description: str | None = None
    temporal_workflow_id: str | None = None
    temporal_run_id: str | None = None
    status: str
    status_reason: str | None = None
    current_level: int = 0
    started_at: int
    completed_at: int | None = None
    error_message: str | None = None
    error_code: str | None = None
    chain_definition: Json = None
    definition_hash: str | None = None
    inputs: Json = None
    parent_run_id: str | None = None
    regenerated_from_step_id: str | None = None
    parent_workflow_id: str | None = None
    owner: Json = None
    epoch: int = 0
    lease_until: int | None = None
    cancel_requested_at: int | None = None
    pause_requested_at: int | None = None
    idempotency_key: str | None = None
    created_at: int
    updated_at: int
    run_name: str | None = None
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepColumns(FrozenRow):
    """What the records of steps and of items share. `status` is a word of `StepStatus`."""

    id: str
    chain_id: str | None = None
    step_id: str | None = None
    item_index: int | None = None
    workflow_name: str
    server_address: str | None = None
    prompt_id: str | None = None
    temporal_workflow_id: str | None = None
    temporal_run_id: str | None = None
    status: str
    latest_artifact_id: str | None = None
    attempt: int = 0
    item_count: int | None = None
    queued_at: int
    started_at: int | None = None
    completed_at: int | None = None
    error_message: str | None = None
    error_code: str | None = None
    error: Json = None
    idempotency_key: str | None = None
    created_at: int
    updated_at: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WorkflowRecord(StepColumns):
    """One step of a run, or one item of a mapped step: a row of `workflows`."""

    value: Json = None
    workflow_definition: Json = None
    parameters: Json = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ItemRecord(StepColumns):
    """One item of a mapped step, without the columns that may be large.

    `files` counts its latest files. `approval` is the id of the gate that waits behind it.
    """

    files: int
    approval: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ArtifactRecord(FrozenRow):
    """One version of one output file: a row of `artifacts`. `file_size` is bytes, `sha256` is in hex.

    `approval_status` is a word of `ArtifactApproval`. `local_path` is the file with the bytes, only to be read; None if
    they are in the database.
    """

    id: str
    workflow_id: str
    name: str
    version: int
    is_latest: bool
    filename: str
    local_filename: str | None = None
    local_path: str | None = None
    file_type: str
    file_format: str | None = None
    file_size: int
    media_type: str
    sha256: str
    node_id: str | None = None
    subfolder: str = ""
    comfy_folder_type: str = "output"
    parent_artifact_id: str | None = None
    approval_status: str
    approved_by: str | None = None
    approved_at: int | None = None
    rejection_reason: str | None = None
    attempt: int = 1
    parameters: Json = None
    created_by: str | None = None
    extra_metadata: Json = None
    idempotency_key: str | None = None
    created_at: int
    updated_at: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TransferRecord(FrozenRow):
    """One sending of an artifact to a server: a row of `artifact_transfers`. `status` is a word of `TransferStatus`."""

    id: str
    artifact_id: str
    source_workflow_id: str
    target_workflow_id: str | None = None
    target_server: str
    target_subfolder: str = ""
    target_name: str | None = None
    status: str
    attempt: int = 0
    bytes: int | None = None
    duration_us: int | None = None
    uploaded_at: int | None = None
    error_message: str | None = None
    idempotency_key: str | None = None
    created_at: int
    updated_at: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gate(FrozenRow):
    """A gate and, once there is one, the decision: a row of `approvals`.

    `status` is a word of `ApprovalStatus`, `action` one of `GateAction`. `delivered` says that the run acted on the
    decision.
    """

    id: str
    chain_id: str | None = None
    workflow_id: str
    step_id: str | None = None
    item_index: int | None = None
    attempt: int = 1
    status: str
    artifact_ids: list[str]
    policy: dict[str, Json]
    requested_at: int
    expires_at: int | None = None
    boot: str | None = None
    booted_at: int | None = None
    decided_at: int | None = None
    decided_by: str | None = None
    reason: str | None = None
    action: str | None = None
    decision_parameters: Json = None
    delivered: bool = False
    link_token_hash: str | None = None
    link_expires_at: int | None = None
    idempotency_key: str | None = None
    created_at: int
    updated_at: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GateFile(FrozenRow):
    """A file that a gate lists. `size` is bytes."""

    id: str
    name: str
    version: int
    filename: str
    media_type: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PendingGate(Gate):
    """A gate that waits for a person, with the files to look at. `run`, `step` and `item` say where it is."""

    run: str | None
    step: str | None
    item: int | None
    artifacts: list[GateFile]

    _inside: ClassVar[Mapping[str, type[FrozenRow]]] = {"artifacts": GateFile}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WorkflowDetails(WorkflowRecord):
    """A step with the latest version of each of its files."""

    artifacts: list[ArtifactRecord]

    _inside: ClassVar[Mapping[str, type[FrozenRow]]] = {"artifacts": ArtifactRecord}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChainDetails(ChainRecord):
    """A run with its steps and their files."""

    workflows: list[WorkflowDetails]

    _inside: ClassVar[Mapping[str, type[FrozenRow]]] = {"workflows": WorkflowDetails}
