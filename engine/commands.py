"""Commands of the pure run state to a driver, and the recorded rows that a resumed run starts from.

A driver must answer `Start`, `StartItems`, `Decide`, `Expand` and `Collect`. It records all others, which need no
answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct

from .model import ChainStatus, StepStatus


class Decide(Struct, frozen=True, gc=False):
    """Evaluate the step's condition; answer with `decided` or `failed`."""

    step: str


class Expand(Struct, frozen=True, gc=False):
    """Find out how many items a mapped step has; answer with `expanded` or `failed`."""

    step: str


class Start(Struct, frozen=True, gc=False):
    """Run the step (or one item); answer with `succeeded`, `failed`, `waiting` or `cancelled`."""

    step: str
    item: int | None = None


class StartItems(Struct, frozen=True, gc=False):
    """As `Start` for the items from `first` to before `stop`, each of which must be answered."""

    step: str
    first: int
    stop: int

    def each(self) -> Iterator[Start]:
        """The commands that start one item each."""
        return (Start(self.step, item) for item in range(self.first, self.stop))


class Collect(Struct, frozen=True, gc=False):
    """All items are over: gather the value of a mapped step; answer with `collected` or `failed`."""

    step: str
    failed: tuple[int, ...] = ()


class Complete(Struct, frozen=True, gc=False):
    """Record the step (or item) as completed."""

    step: str
    item: int | None = None


class AskApproval(Struct, frozen=True, gc=False):
    """Record the step (or item) as waiting for a person."""

    step: str
    item: int | None = None


class Regenerate(Struct, frozen=True, gc=False):
    """Record that a rejection sent the waiting step (or item) back to work; its `Start` follows."""

    step: str
    item: int | None = None


class Wait(Struct, frozen=True, gc=False):
    """Record the step as waiting because the chain inside it waits for a person."""

    step: str
    item: int | None = None


class Fail(Struct, frozen=True, gc=False):
    """Record the step (or item) as failed; `failed` lists the failed items of a mapped step."""

    step: str
    item: int | None = None
    failed: tuple[int, ...] = ()


class Skip(Struct, frozen=True, gc=False):
    """Record the step (or item) as skipped, with the reason."""

    step: str
    reason: str
    item: int | None = None


class Cancel(Struct, frozen=True, gc=False):
    """Record the step (or item) as cancelled; it is not running."""

    step: str
    item: int | None = None


class Pause(Struct, frozen=True, gc=False):
    """Nothing more can happen now: `approval` or `requested`."""

    reason: str


class Finish(Struct, frozen=True, gc=False):
    """Every step has ended; `status` is the status of the chain."""

    status: ChainStatus


Command = (
    Decide
    | Expand
    | Start
    | StartItems
    | Collect
    | Complete
    | AskApproval
    | Regenerate
    | Wait
    | Fail
    | Skip
    | Cancel
    | Pause
    | Finish
)


class RestoredRow(Struct, frozen=True, gc=False):
    """What a store knows of one row when a run is resumed.

    `waits_for_person` is true at a gate, false for a step whose inner chain waits; `count` is the number of items of
    a mapped step's parent row; `failed_items` says that a completed mapped step has failed items; `rejected` marks
    a row whose rejection stopped the chain; `regenerations` says how often rejections made it run again.
    """

    step: str
    item: int | None
    status: StepStatus
    waits_for_person: bool = False
    count: int | None = None
    failed_items: bool = False
    rejected: bool = False
    regenerations: int = 0


def one_by_one(commands: Iterable[Command]) -> Iterator[Command]:
    """The commands, with a `Start` for each item of a `StartItems`."""
    for command in commands:
        if isinstance(command, StartItems):
            yield from command.each()
        else:
            yield command
