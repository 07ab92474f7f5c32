"""What is known of a run while it is watched: its steps, its levels, and what they report. Draws nothing."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from towpath.adapters.wording import place
from towpath.events import (
    ChainEnded,
    ChainPaused,
    ChainResumed,
    DecisionApplied,
    Fact,
    StepDropped,
    StepEnded,
    StepReady,
    StepRetried,
    StepStarted,
)
from towpath.model import ChainStatus, Plan, StepStatus
from towpath.ports import RunRow, StepRow
from towpath.run import Run

Reported = Mapping[tuple[str, int | None], tuple[float, float | None]]


@dataclass(slots=True, eq=False)
class StepFigures:
    """One step. Of a mapped step `items` is their number, and the other figures count items."""

    id: str
    level: int
    asks: bool = False  # people, for an approval
    status: StepStatus | None = None
    items: int | None = None
    running: set[int] = field(default_factory=set)
    waiting: set[int | None] = field(default_factory=set)  # at a gate; None is the step itself
    ended: int = 0
    failed: int = 0
    began: float | None = None  # None also while it only waits for people
    worked: float | None = None  # seconds before it `began`
    took: float | None = None
    reason: str = ""
    error: str = ""  # the first one
    again: str = ""  # the attempt that failed last, while the next one is to come

    @property
    def over(self) -> bool:
        return self.status is not None and self.status.final

    @property
    def queued(self) -> int:
        return max(0, (self.items or 0) - self.ended - len(self.running) - len(self.waiting))

    @property
    def shown_status(self) -> StepStatus | None:
        """The status; a mapped step is what its open items are: they run, or wait for people, or for a slot."""
        if self.items is None or self.over or self.running:
            return self.status
        if self.waiting and not self.queued:
            return StepStatus.WAITING_APPROVAL
        return StepStatus.QUEUED if self.queued else self.status

    def elapsed(self, now: float) -> float | None:
        if self.took is not None or self.over:
            return self.took
        return self.worked if self.began is None else (self.worked or 0) + now - self.began

    def work(self) -> None:
        """It works from now on, if it did not before."""
        if self.began is None:
            self.began = time.monotonic()

    def rest(self) -> None:
        """It waits for people, or is over: only the time in which it worked counts."""
        if self.began is not None:
            self.worked = (self.worked or 0) + time.monotonic() - self.began
            self.began = None


class RunFigures:
    """The steps of a run by id, and how the run stands. `take` is told every fact."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.steps = {step.id: StepFigures(step.id, step.level, asks=step.approval is not None) for step in plan.steps}
        self.began = time.monotonic()
        self.ended: float | None = None
        self.state = ""  # `pausing`, `paused: approval`, or how it ended
        self.reported: Reported = {}

    # ---- what is recorded

    def load(self, run: RunRow) -> None:
        """Take over what is recorded of a run: it is resumed, or another process works on it."""
        by_step: dict[str, list[StepRow]] = {}
        for row in run.rows:
            by_step.setdefault(row.step, []).append(row)
        for step_id, rows in by_step.items():
            if step_id in self.steps:
                self._load_step(self.steps[step_id], rows, here=run.status is ChainStatus.RUNNING)
        if run.pause_requested and not run.status.final:
            self.state = "pausing"

    def _load_step(self, step: StepFigures, rows: Iterable[StepRow], *, here: bool) -> None:
        step.running, step.waiting, step.ended, step.failed = set(), set(), 0, 0
        took: float | None = None  # from start to end, also where it waited for people
        for row in rows:
            if row.status is StepStatus.WAITING_APPROVAL:
                step.waiting.add(row.item)
            if row.item is None:
                step.status, step.items, step.reason = row.status, row.count, row.reason
                if row.started_at is not None and row.completed_at is not None:
                    took = max(0, row.completed_at - row.started_at) / 1e6
            elif row.status is StepStatus.EXECUTING and here:
                step.running.add(row.item)
            step.ended += row.item is not None and row.status.final
            step.failed += row.item is not None and row.status is StepStatus.FAILED
            if row.error is not None and row.status is StepStatus.FAILED:
                step.error = step.error or _error_of(row.step, row.item, row.error.message)
        if step.shown_status is StepStatus.EXECUTING:
            step.work()
        else:
            step.rest()
        if step.over and step.took is None:
            step.took = step.worked if step.asks else took

    def settle(self, run: Run) -> None:
        """Take over how the run stands at the end; a rerun, for one, has steps that no fact told of."""
        for one in run.steps:
            step = self.steps.get(one.id)
            if step is not None and one.status is not None and step.status is not one.status:
                step.status = one.status
        self.ended = time.monotonic()
        self.state = f"paused: {run.reason}" if run.status is ChainStatus.PAUSED and run.reason else str(run.status)

    # ---- what happens

    def take(self, fact: Fact) -> None:
        """A recorded fact of this run. Facts of items come by the thousand: they are first, and cheap."""
        if isinstance(fact, StepReady | StepStarted):
            step = self.steps.get(fact.step)
            if step is not None:
                _take_start(step, fact)
        elif isinstance(fact, StepEnded | StepDropped | DecisionApplied):
            step = self.steps.get(fact.step)
            if step is not None:
                _take_end(step, fact)
        elif isinstance(fact, StepRetried) and fact.step in self.steps:
            where = place(fact.step, fact.item)
            self.steps[fact.step].again = f"{where}: attempt {fact.attempt} failed: {fact.error.message}"
        elif isinstance(fact, ChainPaused):
            self.state = f"paused: {fact.reason}"
        elif isinstance(fact, ChainResumed):
            self.state = ""
        elif isinstance(fact, ChainEnded):
            self.state = str(fact.status)

    # ---- sums

    def counts(self) -> dict[StepStatus | None, int]:
        """How many steps have each status."""
        found: dict[StepStatus | None, int] = {}
        for step in self.steps.values():
            found[step.shown_status] = found.get(step.shown_status, 0) + 1
        return found

    def gates(self) -> int:
        return sum(len(step.waiting) for step in self.steps.values())

    def progress_of(self, step: StepFigures) -> tuple[float, float | None]:
        """What is done of how much; a mapped step counts items, and the parts of items that report."""
        if step.items is None and step.status is StepStatus.COMPLETED:
            return 0, None  # the last report of a step that is done says nothing
        if step.items is None:
            return self.reported.get((step.id, None), (0, None))
        parts = (self.reported.get((step.id, item), (0, None)) for item in list(step.running))
        return step.ended + sum(min(1, done / total) for done, total in parts if total and done > 0), step.items


def _take_start(step: StepFigures, fact: StepReady | StepStarted) -> None:
    if isinstance(fact, StepReady) and not fact.started:
        if fact.item is None:
            step.status, step.items = StepStatus.QUEUED, fact.count
        return
    if fact.item is not None:
        step.running.add(fact.item)
    else:
        step.status = StepStatus.EXECUTING
        if isinstance(fact, StepReady):
            step.items = fact.count
    if step.began is None:
        step.work()
    if step.again:
        step.again = ""


def _take_end(step: StepFigures, fact: StepEnded | StepDropped | DecisionApplied) -> None:
    if step.waiting:
        step.waiting.discard(fact.item)
    if fact.item is not None:
        step.running.discard(fact.item)
        if fact.status is StepStatus.COMPLETED:
            step.ended += 1
            if step.waiting:
                _rest_if_all_wait(step)
            return
    _set_status(step, fact.item, fact.status)
    error = None if isinstance(fact, StepDropped) else fact.error
    if error is not None:
        step.error = step.error or _error_of(fact.step, fact.item, error.message)
    elif fact.item is None:
        step.reason = fact.reason


def _set_status(step: StepFigures, item: int | None, status: StepStatus) -> None:
    if status is StepStatus.WAITING_APPROVAL:
        step.waiting.add(item)
    if item is None:
        step.status = status
        if status is StepStatus.EXECUTING:  # a person asked for it once more
            step.work()
        elif status.final or status is StepStatus.WAITING_APPROVAL:
            step.rest()
            step.took = step.worked if status.final else None
    elif status is StepStatus.EXECUTING:
        step.running.add(item)
        step.work()
    else:
        step.ended += status.final
        step.failed += status is StepStatus.FAILED
        _rest_if_all_wait(step)


def _rest_if_all_wait(step: StepFigures) -> None:
    if step.shown_status is StepStatus.WAITING_APPROVAL:
        step.rest()


def _error_of(step: str, item: int | None, message: str) -> str:
    return message if item is None else f"{place(step, item)}: {message}"
