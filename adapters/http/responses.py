"""What goes over the wire as an answer. Fields not named here stay here.

Times are UTC microseconds, sizes bytes, ids text. What is named like a secret is shown as `***`.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from towpath.redaction import HIDDEN
from towpath.secrets import MARK

from .errors import safe_text

S = TypeVar("S", bound=Struct)

Json = Any

_SECRET = re.compile(r"token|secret|passw|api_?key|credential|private_?key|authorization", re.IGNORECASE)
_FRAME = re.compile(r'(?m)^(\s*File ")(?:[^"\n]*[/\\])?([^"\n]+")')


class Given(Struct, frozen=True, kw_only=True):
    """An answer."""


# ---- answers


class ChainRow(Given, frozen=True, kw_only=True):
    """A run of a chain."""

    id: str
    name: str
    status: str
    description: str | None = None
    status_reason: str | None = None
    current_level: int = 0
    started_at: int | None = None
    completed_at: int | None = None
    error_message: str | None = None
    error_code: str | None = None
    parent_run_id: str | None = None
    regenerated_from_step_id: str | None = None
    parent_workflow_id: str | None = None
    created_at: int = 0
    updated_at: int = 0


class ArtifactRow(Given, frozen=True, kw_only=True):
    """One version of one output of a step."""

    id: str
    workflow_id: str
    name: str
    version: int
    is_latest: bool
    filename: str
    media_type: str
    file_type: str
    file_size: int
    sha256: str
    parent_artifact_id: str | None = None
    approval_status: str = ""
    approved_by: str | None = None
    approved_at: int | None = None
    rejection_reason: str | None = None
    attempt: int = 1
    created_by: str | None = None
    extra_metadata: Json = None
    created_at: int = 0
    chain_id: str | None = None
    step_id: str | None = None
    item_index: int | None = None


class WorkflowRow(Given, frozen=True, kw_only=True):
    """A step of a run, or an item of a mapped one."""

    id: str
    chain_id: str | None
    step_id: str | None
    item_index: int | None
    workflow_name: str
    status: str
    attempt: int
    server_address: str | None = None
    prompt_id: str | None = None
    latest_artifact_id: str | None = None
    item_count: int | None = None
    queued_at: int = 0
    started_at: int | None = None
    completed_at: int | None = None
    error_message: str | None = None
    error_code: str | None = None


class Workflow(WorkflowRow, frozen=True, kw_only=True):
    """A step with everything that is recorded of it."""

    value: Json = None
    parameters: Json = None
    error: Json = None
    artifacts: list[ArtifactRow] = []


class PlanStep(Given, frozen=True, kw_only=True):
    """A step as the chain describes it."""

    id: str
    kind: str
    target: str
    level: int
    depends_on: list[str] = []
    condition: str | None = None
    mapped: bool = False
    requires_approval: bool = False
    description: str = ""
    parameters: Json = None


class InputShape(Given, frozen=True, kw_only=True):
    """An input that a chain declares."""

    name: str
    type: str
    required: bool
    default: Json = None
    description: str = ""


class Definition(Given, frozen=True, kw_only=True):
    """A chain: its inputs, its levels, its steps."""

    name: str
    description: str
    inputs: list[InputShape]
    levels: list[list[str]]
    steps: list[PlanStep]
    metadata: Json = None


class ChainFileRow(Given, frozen=True, kw_only=True):
    """A chain file that may be started by its name."""

    chain: str
    valid: bool
    name: str = ""
    description: str = ""
    inputs: list[InputShape] = []
    steps: int = 0
    problem: str = ""


class Chain(ChainRow, frozen=True, kw_only=True):
    """A run with its inputs and its steps. Items of mapped steps are left to `/workflows?chain_id=…`."""

    inputs: Json = None
    steps: list[Workflow] = []
    waiting: list[str] = []


class Started(Given, frozen=True, kw_only=True):
    """A run that was recorded; `executing` says whether this process works on it."""

    id: str
    status: str
    executing: bool


class Asked(Given, frozen=True, kw_only=True):
    """What was asked of a run, and its status until that is done."""

    id: str
    status: str


class Event(Given, frozen=True, kw_only=True):
    """A line of the audit trail."""

    seq: int
    type: str
    at: int
    chain_id: str | None = None
    workflow_id: str | None = None
    data: Json = None


class Log(Given, frozen=True, kw_only=True):
    """What one try of a step logged."""

    step_id: str
    item_index: int | None
    attempt: int
    text: str
    updated_at: int


class TransferRow(Given, frozen=True, kw_only=True):
    """The sending of an artifact to a server."""

    id: str
    artifact_id: str
    source_workflow_id: str
    target_workflow_id: str | None
    target_server: str
    status: str
    attempt: int
    target_subfolder: str = ""
    target_name: str | None = None
    bytes: int | None = None
    duration_us: int | None = None
    uploaded_at: int | None = None
    error_message: str | None = None
    created_at: int = 0
    updated_at: int = 0


class Seen(Given, frozen=True, kw_only=True):
    """An artifact as a gate lists it."""

    id: str
    name: str
    version: int
    filename: str
    media_type: str
    size: int


class ApprovalRow(Given, frozen=True, kw_only=True):
    """A gate: what it shows, until when, and what was decided."""

    id: str
    chain_id: str | None
    workflow_id: str
    step_id: str | None
    item_index: int | None
    status: str
    artifact_ids: list[str]
    policy: Json
    requested_at: int
    attempt: int = 1
    expires_at: int | None = None
    decided_at: int | None = None
    decided_by: str | None = None
    reason: str | None = None
    action: str | None = None
    decision_parameters: Json = None
    link_expires_at: int | None = None
    artifacts: list[Seen] = []


class StepPlace(Given, frozen=True, kw_only=True):
    """Which step of which run."""

    id: str
    chain_id: str | None
    step_id: str | None
    item_index: int | None
    workflow_name: str
    status: str
    attempt: int
    server_address: str | None = None


class ChainPlace(Given, frozen=True, kw_only=True):
    """Which run."""

    id: str
    name: str
    status: str


class Lineage(Given, frozen=True, kw_only=True):
    """Which step, which inputs and which parameters made a file, and who got it."""

    artifact: ArtifactRow
    versions: list[ArtifactRow]
    step: StepPlace
    chain: ChainPlace | None
    parameters: Json
    inputs: list[ArtifactRow]
    used_by: list[StepPlace]
    transfers: list[TransferRow]


class Link(Given, frozen=True, kw_only=True):
    """An approval link. It is shown once; only its hash is kept."""

    url: str
    expires_at: int


class Server(Given, frozen=True, kw_only=True):
    """A ComfyUI server and how it is."""

    name: str
    url: str
    ok: bool | None = None
    slots: int = 0
    queue: int | None = None
    detail: str = ""


class KeyRow(Given, frozen=True, kw_only=True):
    """A key, without the key."""

    id: str
    name: str
    role: str
    created_at: int
    revoked_at: int | None = None


class NewKey(KeyRow, frozen=True, kw_only=True):
    """A key that was just made: the only time that it is shown."""

    key: str


class Me(Given, frozen=True, kw_only=True):
    """Who you are to this server."""

    name: str
    role: str
    way: str
    may: list[str]


class Health(Given, frozen=True, kw_only=True):
    """The server answers."""

    status: str


class Deleted(Given, frozen=True, kw_only=True):
    """What is gone."""

    id: str
    deleted: bool


class Page(Given, frozen=True, kw_only=True):
    """A page of a list; `next` asks for the following one and is null after the last."""

    rows: list[Json]
    next: str | None = None


@cache
def page_type(row: type[Struct]) -> type[Struct]:
    """The type of a page of `row`s, for the OpenAPI document."""
    fields: list[Any] = [("rows", list[row]), ("next", str | None, None)]  # type: ignore[valid-type]
    return msgspec.defstruct(f"{row.__name__}Page", fields, bases=(Given,), kw_only=True)


# ---- from rows to answers


def shaped(kind: type[S], row: Any, **more: Any) -> S:
    """An answer from a row: the fields it names, and nothing else of the row."""
    data = {name: row[name] for name in kind.__struct_fields__ if name in row}
    for name in ("error_message", "rejection_reason", "reason"):
        if isinstance(data.get(name), str):
            data[name] = safe_text(data[name])
    for name in ("parameters", "decision_parameters", "inputs", "extra_metadata", "value"):
        if name in data:
            data[name] = masked(data[name])
    if data.get("error") is not None:
        data["error"] = shown_error(data["error"])
    return kind(**{**data, **more})


def shown_error(error: Json) -> Json:
    """A recorded error: frames name files without their folders."""
    if not isinstance(error, dict):
        return error
    trace = error.get("traceback")
    told = _cleaned({**error, "traceback": _FRAME.sub(r"\1\2", trace)} if isinstance(trace, str) else error)
    return {**told, "code": error["code"]} if "code" in error else told


def masked(value: Json) -> Json:
    """Data with `***` for secrets, for texts that are named like secrets, and for all texts inside of what is."""
    if isinstance(value, dict):
        if MARK in value:
            return HIDDEN
        return {name: _hidden(inner) if _SECRET.search(name) else masked(inner) for name, inner in value.items()}
    return [masked(inner) for inner in value] if isinstance(value, list) else value


def _hidden(value: Json) -> Json:
    if isinstance(value, str):
        return HIDDEN if value else value
    if isinstance(value, dict):
        if MARK in value:
            return HIDDEN
        return {name: _hidden(inner) for name, inner in value.items()}
    return [_hidden(inner) for inner in value] if isinstance(value, list) else value


def told(value: Json) -> Json:
    """Data without secrets and without the folders of this machine, at any depth."""
    return _cleaned(masked(value))


def _cleaned(value: Json) -> Json:
    if isinstance(value, str):
        return safe_text(value)
    if isinstance(value, dict):
        return {name: _cleaned(inner) for name, inner in value.items()}
    return [_cleaned(inner) for inner in value] if isinstance(value, list) else value
