"""What workflows and activities send each other: plain, small data. Values stay in the store.

Recorded histories hold these names and fields, so they never change: names of workflows, activities and signals,
and the fields of the classes. Workflow code imports this module, so it imports nothing heavy.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec.structs import replace

from towpath import commands
from towpath.commands import Command, RestoredRow
from towpath.model import Plan

CHAIN, STEP = "Chain", "Step"
BEGIN, ADVANCE, LOOK, GIVE_UP = "begin_run", "advance_run", "look_at_run", "give_up_run"
RUN_STEP, RUN_STEPS, LOSE_STEP = "run_step", "run_steps", "lose_step"
OPEN_INNER, CLOSE_INNER = "open_inner_run", "close_inner_run"
GROUP = "group"  # the kind of a task with members
ACTIVITIES = (BEGIN, ADVANCE, LOOK, GIVE_UP, RUN_STEP, RUN_STEPS, LOSE_STEP, OPEN_INNER, CLOSE_INNER)
WAKE, RESUME = "wake", "resume"

SUCCEEDED, FAILED, WAITING, CANCELLED = "succeeded", "failed", "waiting", "cancelled"
PAUSED = "paused"
WORKER_LACKS = ("E_SECRET_MISSING", "E_SECRET_KEY")  # errors of one worker; another worker may have the secret
ERROR = "error"  # the first detail of a failure that is not a step's own
SERVICE = "temporal"  # the owner of runs
MAX_REQUESTS = 2_000  # requests in one message; the rest follows in the next


@dataclass(frozen=True, slots=True)
class ChainStart:
    """The input of a `Chain` workflow.

    `nested`: the run is inside a step, and its workflow returns when the run pauses. `epoch`: the epoch of a run that
    continues as new, else 0. `heartbeat`: seconds after which a silent step goes to another worker. `granularity`:
    `step`, or `auto` to group cheap steps. `trace`: the trace context of the caller.
    """

    run: str
    queue: str
    nested: bool = False
    epoch: int = 0
    heartbeat: float = 10.0
    paused: bool = False
    granularity: str = "step"
    trace: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision about a waiting row that is not applied yet: the row, the approval, and the action."""

    step: str
    item: int | None
    approval: str
    action: str


@dataclass(frozen=True, slots=True)
class ClaimedRun:
    """A claimed run: its epoch, the parts of plan and rows that the pure state needs, and pending requests.

    `over`: the final status of a run that is over. The other fields are empty then.
    """

    epoch: int
    plan: str = ""
    rows: str = ""
    cancel: bool = False
    pause: bool = False
    decided: list[Decision] = field(default_factory=list)
    over: str = ""
    trace: str = ""


@dataclass(frozen=True, slots=True)
class Advance:
    """Commands to record in one transaction. `decided`: the decisions that led to them. `queued`: steps that get
    their rows now although they start later.
    """

    run: str
    epoch: int
    commands: list[list[Any]]
    decided: list[Decision] = field(default_factory=list)
    queued: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a `Decide`, `Expand` or `Collect`. `result`: a count, or 1 for true and 0 for false."""

    what: str
    step: str
    result: int = 0


@dataclass(frozen=True, slots=True)
class Advanced:
    """The answers to the commands of an `Advance`."""

    answers: list[Answer] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class RunRequest:
    """One pending request: `cancel`, `pause`, a decision, or news of the chain inside a step."""

    kind: str
    step: str = ""
    item: int | None = None
    approval: str = ""
    action: str = ""


@dataclass(frozen=True, slots=True)
class StatusReply:
    """A run's status and pending requests. `called_off`: a cancel of the run, or of a run around it, is pending."""

    status: str
    reason: str = ""
    asked: list[RunRequest] = field(default_factory=list)
    called_off: bool = False


@dataclass(frozen=True, slots=True)
class StatusQuery:
    """Asks for a run's status. `cancel`: first record a cancel."""

    run: str
    cancel: bool = False


@dataclass(frozen=True, slots=True)
class StepTask:
    """A step or item to execute, with the settings that its workflow needs.

    `members`: the steps of a group, dependencies first. A group's task has the name of its first member.
    """

    run: str
    epoch: int
    step: str
    item: int | None
    kind: str
    queue: str
    attempts: int = 1
    delay: float = 2.0
    backoff: float = 2.0
    max_delay: float = 300.0
    timeout: float | None = None
    heartbeat: float = 10.0
    granularity: str = "step"
    members: list[tuple[str, int | None]] = field(default_factory=list)
    trace: str = ""


@dataclass(frozen=True, slots=True)
class StepResult:
    """How a step ended. `recorded`: the store has it. `members`: how the members of a group ended that started."""

    status: str
    recorded: bool = True
    members: list[tuple[str, int | None, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class InnerRun:
    """The run inside a step; or the step's result, if the step ended without one."""

    run: str = ""
    result: StepResult | None = None
    trace: str = ""


@dataclass(frozen=True, slots=True)
class InnerEnded:
    """The chain inside a step ended or paused. `called_off`: the step is being cancelled."""

    task: StepTask
    run: str
    called_off: bool = False


@dataclass(frozen=True, slots=True)
class LostStep:
    """A step whose workflow ended without a result. `cancelled`: the workflow was cancelled by hand."""

    task: StepTask
    why: str
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class AbandonedRun:
    """A run whose workflow failed."""

    run: str
    epoch: int


@dataclass(frozen=True, slots=True)
class ChainResult:
    """The result of a `Chain` workflow: the status in which it left its run."""

    status: str


# ---- names


def workflow_id(*parts: str) -> str:
    """The id of a workflow, within the smallest limit of a server (255 bytes)."""
    name = "/".join(parts)
    if len(name.encode()) <= 250:
        return name
    return f"{name.encode()[:200].decode(errors='ignore')}~{hashlib.sha256(name.encode()).hexdigest()[:32]}"


# ---- plans, rows and commands, packed


def pack_plan(plan: Plan) -> str:
    """A plan without the fields that only activities need."""
    steps = tuple(
        replace(
            step,
            target="",
            parameters={},
            condition=None if step.condition is None else "…",
            foreach=None,
            requires={},
            cache=None,
            description="",
            chain=None,
        )
        for step in plan.steps
    )
    return _pack(replace(plan, steps=steps, inputs=(), description="", output=None, metadata={}, workflows={}))


def unpack_plan(packed: str) -> Plan:
    """The plan that `pack_plan` packed."""
    return msgspec.json.decode(_unpack(packed), type=Plan)


def pack_rows(rows: Sequence[RestoredRow]) -> str:
    """Rows in the form from which the pure state continues."""
    return _pack(list(rows))


def unpack_rows(packed: str) -> list[RestoredRow]:
    """The rows that `pack_rows` packed."""
    return msgspec.json.decode(_unpack(packed), type=list[RestoredRow])


def pack_commands(given: Iterable[Command]) -> list[list[Any]]:
    """Each command as a list: its name, then its fields."""
    return [[type(command).__name__, *msgspec.structs.astuple(command)] for command in given]


def unpack_commands(packed: Iterable[Sequence[Any]]) -> list[Command]:
    """The commands that `pack_commands` packed."""
    return [_command(getattr(commands, name), given) for name, *given in packed]


def _command(kind: type[Command], given: Sequence[Any]) -> Command:
    named = dict(zip(kind.__struct_fields__, given, strict=True))
    return msgspec.convert(named, type=kind)


def _pack(data: Any) -> str:
    # Text, because Temporal's pages show JSON payloads and codecs know them.
    return base64.b64encode(zlib.compress(msgspec.json.encode(data))).decode()


def _unpack(packed: str) -> bytes:
    return zlib.decompress(base64.b64decode(packed))
