"""What workflows and activities tell each other. Plain, small data: values never travel, only where they are.

Imported by workflow code, so it imports nothing heavy.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, field, fields, replace
from typing import Any

import msgspec
from temporalio.exceptions import ApplicationError, FailureError

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

SUCCEEDED, FAILED, WAITING, CANCELLED, LOST = "succeeded", "failed", "waiting", "cancelled", "lost"
PAUSED = "paused"
ELSEWHERE = ("E_SECRET_MISSING", "E_SECRET_KEY")  # what another worker may have
ERROR = "error"  # what the details of a failure begin with, if it is not a step's own
SERVICE = "temporal"  # the owner of runs
MOST_ASKED = 2_000  # what people ask that travels at once; the rest follows when that is done


@dataclass(frozen=True, slots=True)
class ChainStart:
    """A chain run to work on. `nested`: inside a step, it returns when it pauses. `epoch` is that of a run
    which continues as new, else 0. `heartbeat` is how many seconds a working step may be silent. `granularity`:
    `step`, or `auto` for cheap neighbours in one child. `trace`: the trace context of what asked for it.
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
class Decided:
    """A decision about a waiting row that nobody has acted on: where, about which approval, what it does."""

    step: str
    item: int | None
    approval: str
    action: str


@dataclass(frozen=True, slots=True)
class Begun:
    """A run in hand: its epoch, what the pure state needs of its plan and rows, what was asked meanwhile.

    `over` is its final status if there is nothing to do.
    """

    epoch: int
    plan: str = ""
    rows: str = ""
    cancel: bool = False
    pause: bool = False
    decided: list[Decided] = field(default_factory=list)
    over: str = ""
    trace: str = ""


@dataclass(frozen=True, slots=True)
class Advance:
    """Commands to carry out in one transaction; `decided` are the decisions behind them. Steps in `queued` get
    their rows now, because others start with them or before them.
    """

    run: str
    epoch: int
    commands: list[list[Any]]
    decided: list[Decided] = field(default_factory=list)
    queued: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer that a `Decide`, `Expand` or `Collect` owes: what happened, and the count or truth of it."""

    what: str
    step: str
    result: int = 0


@dataclass(frozen=True, slots=True)
class Advanced:
    """What came of an `Advance`."""

    answers: list[Answer] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Asked:
    """One thing that people ask of a run."""

    kind: str
    step: str = ""
    item: int | None = None
    approval: str = ""
    action: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """How a run stands, and what is asked of it. `called_off`: its end, or that of a run around it, is asked for."""

    status: str
    reason: str = ""
    asked: list[Asked] = field(default_factory=list)
    called_off: bool = False


@dataclass(frozen=True, slots=True)
class Look:
    """Look at a run; with `cancel` ask for its end first."""

    run: str
    cancel: bool = False


@dataclass(frozen=True, slots=True)
class StepTask:
    """A step or item to carry out, and what its workflow must know of it. A group has `members`, in an order
    that keeps dependencies; the task is then named after the first.
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
    """What came of a step. `recorded`: the store has it already. Of a group: what came of those that began."""

    status: str
    recorded: bool = True
    members: list[tuple[str, int | None, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class InnerRun:
    """The run inside a step, or what came of the step without it."""

    run: str = ""
    result: StepResult | None = None
    trace: str = ""


@dataclass(frozen=True, slots=True)
class InnerEnded:
    """The chain inside a step ended, or paused; `called_off` if the step is being cancelled."""

    task: StepTask
    run: str
    called_off: bool = False


@dataclass(frozen=True, slots=True)
class Lost:
    """A step whose worker never said what came of it; `cancelled` if somebody cancelled its workflow."""

    task: StepTask
    why: str
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class GaveUp:
    """A run that its workflow cannot go on with."""

    run: str
    epoch: int


@dataclass(frozen=True, slots=True)
class ChainResult:
    """How a chain run was left."""

    status: str


# ---- names


def workflow_id(*parts: str) -> str:
    """The id of a workflow, never longer than the smallest limit of a server (255 bytes)."""
    name = "/".join(parts)
    if len(name.encode()) <= 250:
        return name
    return f"{name.encode()[:200].decode(errors='ignore')}~{hashlib.sha256(name.encode()).hexdigest()[:32]}"


# ---- errors


def why(error: BaseException | None) -> str:
    """What an error says, from its innermost cause. Texts travel as details, because codecs encode only those."""
    while isinstance(error, FailureError) and isinstance(error.cause, FailureError):
        error = error.cause
    if isinstance(error, ApplicationError) and len(error.details) > 1:
        return f"{error.message}: {error.details[1]}"[:500]
    return str(error)[:500]


# ---- plans and rows, small


def pack_plan(plan: Plan) -> str:
    """A plan without what only activities need."""
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
    """The plan again."""
    return msgspec.json.decode(_unpack(packed), type=Plan)


def pack_rows(rows: Sequence[RestoredRow]) -> str:
    """Rows as the pure state continues from them."""
    return _pack(list(rows))


def unpack_rows(packed: str) -> list[RestoredRow]:
    """The rows again."""
    return msgspec.json.decode(_unpack(packed), type=list[RestoredRow])


def pack_commands(given: Iterable[Command]) -> list[list[Any]]:
    """Commands as lists: their name, then their fields."""
    return [[type(command).__name__, *astuple(command)] for command in given]


def unpack_commands(packed: Iterable[Sequence[Any]]) -> list[Command]:
    """The commands again."""
    return [_command(getattr(commands, name), given) for name, *given in packed]


def _command(kind: type[Command], given: Sequence[Any]) -> Command:
    """A command of its kind, with words and lists as its fields have them."""
    named = {field.name: value for field, value in zip(fields(kind), given, strict=True)}
    return msgspec.convert(named, type=kind)


def _pack(data: Any) -> str:
    # Text, because JSON payloads are what people can read in Temporal's UI and what codecs know.
    return base64.b64encode(zlib.compress(msgspec.json.encode(data))).decode()


def _unpack(packed: str) -> bytes:
    return zlib.decompress(base64.b64decode(packed))
