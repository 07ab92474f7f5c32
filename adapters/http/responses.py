"""Responses of the API, as msgspec types, and how rows become responses. A field that is not named here is not sent.

Times are UTC microseconds, sizes are bytes, ids are text. A value with the name of a secret is sent as `***`.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, TypeVar

import msgspec
from msgspec import Struct
from starlette.responses import Response

from towpath.model import Json, Plan, StepStatus
from towpath.redaction import HIDDEN
from towpath.secrets import MARK

from .errors import safe_text
from .reading import GateView, RunView, StepView

S = TypeVar("S", bound=Struct)

_SECRET = re.compile(r"token|secret|passw|api_?key|credential|private_?key|authorization", re.IGNORECASE)
_FRAME = re.compile(r'(?m)^(\s*File ")(?:[^"\n]*[/\\])?([^"\n]+")')


class ResponseModel(Struct, frozen=True, kw_only=True):
    """A response."""


class ChainRow(ResponseModel, frozen=True, kw_only=True):
    """A run of a chain. `name` is the name of the chain, `run_name` the one that the run was given."""

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
    run_name: str | None = None
    tags: dict[str, str] = {}


class ArtifactOut(ResponseModel, frozen=True, kw_only=True):
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


class WorkflowRow(ResponseModel, frozen=True, kw_only=True):
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


class WorkflowOut(WorkflowRow, frozen=True, kw_only=True):
    """A step with all that is recorded of it."""

    value: Json = None
    parameters: Json = None
    error: Json = None
    artifacts: list[ArtifactOut] = []


class PlanStep(ResponseModel, frozen=True, kw_only=True):
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


class InputShape(ResponseModel, frozen=True, kw_only=True):
    """An input that a chain declares."""

    name: str
    type: str
    required: bool
    default: Json = None
    description: str = ""


class Definition(ResponseModel, frozen=True, kw_only=True):
    """A chain: its inputs, its levels, its steps."""

    name: str
    description: str
    inputs: list[InputShape]
    levels: list[list[str]]
    steps: list[PlanStep]
    metadata: Json = None


class ChainFileRow(ResponseModel, frozen=True, kw_only=True):
    """A chain file that may be started by its name."""

    chain: str
    valid: bool
    name: str = ""
    description: str = ""
    inputs: list[InputShape] = []
    steps: int = 0
    problem: str = ""


class ChainOut(ChainRow, frozen=True, kw_only=True):
    """A run with its inputs and its steps. Items of mapped steps are left to `/workflows?chain_id=…`."""

    inputs: Json = None
    steps: list[WorkflowOut] = []
    waiting: list[str] = []


class Started(ResponseModel, frozen=True, kw_only=True):
    """A run that was recorded. `executing`: does this process execute it?"""

    id: str
    status: str
    executing: bool


class RequestedOut(ResponseModel, frozen=True, kw_only=True):
    """A request to a run was recorded; `status` is the run's status until its owner acts on the request."""

    id: str
    status: str


class Event(ResponseModel, frozen=True, kw_only=True):
    """A line of the audit trail."""

    seq: int
    type: str
    at: int
    chain_id: str | None = None
    workflow_id: str | None = None
    data: Json = None


class Log(ResponseModel, frozen=True, kw_only=True):
    """The log of one attempt of a step."""

    step_id: str
    item_index: int | None
    attempt: int
    text: str
    updated_at: int


class Progress(ResponseModel, frozen=True, kw_only=True):
    """How far an executing step or item is, where it says so, and the last line of its log.

    A step that failed or was cancelled is listed if it had a progress.
    """

    step_id: str
    item_index: int | None
    attempt: int
    status: str
    done: float | None
    total: float | None
    line: str
    updated_at: int


class TransferRow(ResponseModel, frozen=True, kw_only=True):
    """The transfer of an artifact to a server."""

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


class ListedFile(ResponseModel, frozen=True, kw_only=True):
    """An artifact as a gate lists it."""

    id: str
    name: str
    version: int
    filename: str
    media_type: str
    size: int


class ApprovalRow(ResponseModel, frozen=True, kw_only=True):
    """A gate: the files it lists, when it expires, and the decision."""

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
    artifacts: list[ListedFile] = []


class StepPlace(ResponseModel, frozen=True, kw_only=True):
    """A step of a run, in short."""

    id: str
    chain_id: str | None
    step_id: str | None
    item_index: int | None
    workflow_name: str
    status: str
    attempt: int
    server_address: str | None = None


class ChainPlace(ResponseModel, frozen=True, kw_only=True):
    """A run, in short."""

    id: str
    name: str
    status: str


class Lineage(ResponseModel, frozen=True, kw_only=True):
    """The step, inputs and parameters that made a file, and the steps and servers that got it."""

    artifact: ArtifactOut
    versions: list[ArtifactOut]
    step: StepPlace
    chain: ChainPlace | None
    parameters: Json
    inputs: list[ArtifactOut]
    used_by: list[StepPlace]
    transfers: list[TransferRow]


class Link(ResponseModel, frozen=True, kw_only=True):
    """An approval link. It is sent once; only its hash is kept."""

    url: str
    expires_at: int


class ServerOut(ResponseModel, frozen=True, kw_only=True):
    """A ComfyUI server and its health."""

    name: str
    url: str
    ok: bool | None = None
    slots: int = 0
    queue: int | None = None
    detail: str = ""


class KeyRow(ResponseModel, frozen=True, kw_only=True):
    """A key, without the key."""

    id: str
    name: str
    role: str
    created_at: int
    revoked_at: int | None = None


class NewKey(KeyRow, frozen=True, kw_only=True):
    """A new key. This is the only response that holds it."""

    key: str


class Me(ResponseModel, frozen=True, kw_only=True):
    """The caller: name, role, and what the role allows."""

    name: str
    role: str
    way: str
    may: list[str]


class HealthOut(ResponseModel, frozen=True, kw_only=True):
    """The server answers."""

    status: str


class Deleted(ResponseModel, frozen=True, kw_only=True):
    """What was deleted."""

    id: str
    deleted: bool


class RemovedOut(Deleted, frozen=True, kw_only=True):
    """A run that was deleted. `bytes` are those of files that no other run has: they are collected later."""

    steps: int
    files: int
    bytes: int


class PageOut(ResponseModel, frozen=True, kw_only=True):
    """A page of a list. `next` is the cursor of the next page, and null after the last one."""

    rows: list[Json]
    next: str | None = None


@cache
def page_type(row: type[Struct]) -> type[Struct]:
    """The type of a page of `row`s, for the OpenAPI document."""
    fields: list[Any] = [("rows", list[row]), ("next", str | None, None)]  # type: ignore[valid-type]
    return msgspec.defstruct(f"{row.__name__}PageOut", fields, bases=(ResponseModel,), kw_only=True)


# ---- views and rows as responses


def chain_of(view: RunView) -> ChainOut:
    """A run with its steps, without the items of mapped ones."""
    steps = [step_of(StepView(row, tuple(row["artifacts"]))) for row in view.steps if row["item_index"] is None]
    waiting = [row["id"] for row in view.steps if row["status"] == StepStatus.WAITING_APPROVAL]
    return shaped(ChainOut, view.chain, steps=steps, waiting=waiting)


def step_of(view: StepView) -> WorkflowOut:
    """A step (or an item) with its files."""
    place = {name: view.row[name] for name in ("chain_id", "step_id", "item_index")}
    return shaped(WorkflowOut, view.row, artifacts=[shaped(ArtifactOut, {**row, **place}) for row in view.artifacts])


def approval_of(view: GateView) -> ApprovalRow:
    """A gate with the files that it lists."""
    files = [shaped(ListedFile, row, size=row["file_size"]) for row in view.listed]
    return shaped(ApprovalRow, view.gate, artifacts=files)


def shaped(kind: type[S], row: Any, **more: Any) -> S:
    """A response of this kind from a row: only the fields that the kind names."""
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
    """A recorded error without secrets; the frames of its traceback name files without folders."""
    if not isinstance(error, dict):
        return error
    trace = error.get("traceback")
    shown = _cleaned({**error, "traceback": _FRAME.sub(r"\1\2", trace)} if isinstance(trace, str) else error)
    return {**shown, "code": error["code"]} if "code" in error else shown


def masked(value: Json) -> Json:
    """Data with `***` in place of secrets, and of all texts at or below a key with the name of a secret."""
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


def redacted_data(value: Json) -> Json:
    """Data without secrets and without folders of this machine, at any depth."""
    return _cleaned(masked(value))


def _cleaned(value: Json) -> Json:
    if isinstance(value, str):
        return safe_text(value)
    if isinstance(value, dict):
        return {name: _cleaned(inner) for name, inner in value.items()}
    return [_cleaned(inner) for inner in value] if isinstance(value, list) else value


def definition_of(plan: Plan) -> Definition:
    """A chain as a response: without the folder of its file."""
    return Definition(
        name=plan.name,
        description=plan.description,
        inputs=chain_inputs(plan),
        levels=[list(level) for level in plan.levels],
        steps=[
            PlanStep(
                id=step.id,
                kind=step.kind,
                target=step.target,
                level=step.level,
                depends_on=list(step.depends_on),
                condition=step.condition,
                mapped=step.mapped,
                requires_approval=step.approval is not None,
                description=step.description,
                parameters=masked(step.parameters),
            )
            for step in plan.steps
        ],
        metadata=masked(plan.metadata),
    )


def chain_inputs(plan: Plan) -> list[InputShape]:
    """The inputs that a chain declares."""
    return [
        InputShape(
            name=i.name,
            type=i.type,
            required=i.required,
            default=masked({i.name: i.default})[i.name],
            description=i.description,
        )
        for i in plan.inputs
    ]


def json_response(data: Any, status: int = 200) -> Response:
    """Data as JSON."""
    return Response(msgspec.json.encode(data), status, media_type="application/json")
