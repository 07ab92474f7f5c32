"""One delivery of a step to this worker: begin its row, do its work, record what came of it.

A delivery may be the second of the same step: then what is recorded already is the answer. First to record
wins; who comes second finds that out from the store.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import anyio
import anyio.to_thread

from towpath.adapters.listening import Audience
from towpath.adapters.step_arguments import recorded_parameters
from towpath.adapters.step_executor import LOST_LIMIT, Farm, StepExecutor, Work, crashed, total_timeout
from towpath.adapters.telemetry import Spans
from towpath.attempt import Outcome, failure
from towpath.commands import AskApproval, Cancel, Command, Complete, Fail
from towpath.errors import StepNotRegistered, StoreFailed, TowpathError
from towpath.events import AttemptReleased, Fact, LogKept, StepReady, StepRetried
from towpath.ledger import LedgerRow
from towpath.model import ErrorInfo, StepPlan, StepStatus
from towpath.ports import EngineStore, Lease, Listener, StepRow
from towpath.secrets import revealed
from towpath.steps import Step, find_step

from .messages import CANCELLED, FAILED, SUCCEEDED, StepResult, StepTask
from .views import RunView

TAKEN = ("E_TRANSITION", "E_DB_CONFLICT")
_STATUS = {StepStatus.FAILED: FAILED, StepStatus.CANCELLED: CANCELLED, StepStatus.SKIPPED: CANCELLED}


class TryAgain(Exception):
    """The try failed, and another one follows after `delay` seconds. It is recorded."""

    def __init__(self, error: ErrorInfo, delay: float) -> None:
        super().__init__(error.message)
        self.error = error
        self.delay = delay


class Recorder:
    """Makes facts of runs durable, and tells who listens."""

    def __init__(self, store: EngineStore, listeners: list[Listener], spans: Spans | None = None) -> None:
        self.store = store
        self.spans = spans
        self._audience = Audience(listeners)
        self._spans = Audience([] if spans is None else [spans.heard])

    async def record(self, lease: Lease, facts: Sequence[Fact]) -> None:
        """Record facts as one whole. Raises Fenced, StoreFailed."""
        if not facts:
            return
        await self.store.record(lease, facts)
        for audience in (self._audience, self._spans):
            for fact in facts:
                audience.tell(lease.run_id, fact)


class _Line:
    """One that waits for a slot of a server."""

    def __init__(self) -> None:
        self._came = anyio.Event()

    def wake(self) -> None:
        self._came.set()

    async def turn(self) -> None:
        await self._came.wait()
        self._came = anyio.Event()


class Trying:
    """A step or item in the hands of this worker."""

    def __init__(
        self,
        view: RunView,
        task: StepTask,
        recorder: Recorder,
        threads: anyio.CapacityLimiter,
        farm: Farm | None,
        tries: int,
        since: datetime,
    ) -> None:
        self.step: StepPlan = view.steps[task.step]
        self.task = task
        self.work: Work | None = None
        self.called_off = False
        self.scope = anyio.CancelScope()
        self._in_line = anyio.CancelScope()
        self._seat: Any = None
        self._view = view
        self._recorder = recorder
        self._lease = Lease(task.run, task.epoch)
        self._threads = threads
        self._farm = farm
        self._tries = tries
        self._since = since

    @property
    def _key(self) -> tuple[str, int | None]:
        return self.step.id, self.task.item

    @property
    def _row(self) -> LedgerRow | None:
        return self._view.ledger.row(*self._key)

    # ---- a slot of a server

    @property
    def waits_for_server(self) -> bool:
        """Does the step need a slot of a server?"""
        return self.step.kind == "workflow"

    async def seated(self) -> bool:
        """Wait for a slot of a server; the row is `queued` meanwhile. False: it was called off."""
        assert self._farm is not None
        line = _Line()
        try:
            self._seat = self._farm.take(self.step, line.wake)
            if self._seat is None:
                await self._queue()
            with self._in_line:
                while self._seat is None:
                    await line.turn()
                    self._seat = self._farm.take(self.step, line.wake)
        finally:
            self._farm.settle(line.wake, wants=False)
        return self._seat is not None

    def leave_seat(self) -> None:
        """Give the slot back, if there is one."""
        seat = self.work.seat if self.work is not None else self._seat
        if seat is not None and self._farm is not None:
            self._farm.give_back(seat)

    async def _queue(self) -> None:
        if self._row is not None or self.task.item is not None:
            return  # an item's row can wait until it starts: the step's own row says how many there are
        row = LedgerRow(self._recorder.store.new_id(), *self._key)
        ready = StepReady(row.id, *self._key, self.step.target, False, 0)
        try:
            await self._recorder.record(self._lease, [ready])
        except StoreFailed as error:
            if error.code != "E_DB_CONFLICT":
                raise
            await self._view.ledger.take(await self._rows())
        else:
            self._view.ledger.add(row)

    # ---- beginning

    async def recorded(self) -> StepResult | None:
        """What the store holds already, from an earlier delivery."""
        await self._view.look_around(self.step, self.task.item)
        row = self._row
        if row is None or not (row.status.final or row.status is StepStatus.WAITING_APPROVAL):
            return None
        return StepResult(_STATUS.get(row.status, SUCCEEDED))

    async def begin(self) -> bool:
        """Record that a try begins; False if there is nothing to call the step with: then that is recorded."""
        try:
            return await self._begin()
        except StoreFailed as error:
            if error.code != "E_DB_CONFLICT":
                raise
        # A delivery at the same time made the row: this one is another try of it.
        await self._view.ledger.take(await self._rows())
        return await self._begin()

    async def _begin(self) -> bool:
        facts: list[Fact] = []
        arguments = self._view.facts.call_with(self.step, self.task.item)
        if arguments is None:
            await self._end(Fail(*self._key), facts)
            return False
        if self._view.ledger.has_secrets and self.step.kind != "chain":
            await anyio.to_thread.run_sync(revealed, arguments)  # a try without its secrets is none
        row = self._row
        lost = await self._lost()
        if lost >= LOST_LIMIT:
            self._view.facts.outcomes[self._key] = failure(crashed(self.step, lost))
            await self._end(Fail(*self._key), facts)
            return False
        known = row is not None
        row = row or LedgerRow(self._recorder.store.new_id(), *self._key)
        row.parameters = recorded_parameters(arguments, self.step, self._function())
        self._view.facts.begin_attempt(self.step, row, facts, recorded=known)
        await self._recorder.record(self._lease, facts)
        self.work = Work(self.step, row, arguments, tries=self._tries, deadline=self._deadline(), scope=self.scope)
        self.work.seat = self._seat
        return True

    async def _lost(self) -> int:
        """How many workers have died on the step so far, since it last came to anything."""
        row = self._row
        if row is None or row.status is not StepStatus.EXECUTING or self.step.kind != "python":
            return 0
        return (await self._recorder.store.lost_attempts(self.task.run)).get(row.id, 0)

    async def release(self) -> None:
        """Say that the attempt ends without an outcome though its worker lives: it stops, or could not record."""
        work = self.work
        if work is None:
            return
        with anyio.CancelScope(shield=True), suppress(TowpathError):
            released = AttemptReleased(work.row.id, *self._key, work.row.attempt)
            await self._recorder.record(self._lease, [released])

    def _deadline(self) -> float | None:
        if self.step.total_timeout is None:
            return None
        passed = (datetime.now(UTC) - self._since).total_seconds()
        return time.monotonic() + self.step.total_timeout - passed

    # ---- working

    async def attempt(self) -> Outcome | None:
        """Do the work; None if it was called off meanwhile."""
        assert self.work is not None
        outcome: Outcome | None = None
        executor = self._executor()
        with self.scope:
            outcome = await executor.attempt(self.work)
        if outcome is None:
            await self.abandon()
        return outcome

    async def abandon(self) -> None:
        """Nobody wants the work any more: a server that still has it is told."""
        row = self._row
        if self._farm is not None and row is not None and row.server is not None and row.prompt is not None:
            await self._farm.abandon(row.server, row.prompt)
            row.prompt = None

    def call_off(self) -> None:
        """Stop the work: its run is being cancelled."""
        self.called_off = True
        self._in_line.cancel()
        self.scope.cancel()

    def _function(self) -> Step[..., Any] | None:
        """The step's function, if it is a function and this worker has it."""
        with suppress(StepNotRegistered):
            return find_step(self.step.target) if self.step.kind == "python" else None
        return None

    def _executor(self) -> StepExecutor:
        functions: dict[str, Step[..., Any]] = {}
        store = self._recorder.store
        if self.step.kind == "python":
            functions[self.step.target] = find_step(self.step.target)
        ledger, spans = self._view.ledger, self._recorder.spans
        return StepExecutor(self.task.run, store, ledger, functions, self._threads, self._farm, self._note, spans)

    async def _note(self, facts: Sequence[Fact]) -> None:
        await self._recorder.record(self._lease, facts)

    # ---- ending

    async def end(self, outcome: Outcome | None) -> StepResult:
        """Record what came of the try (None: it was called off). Raises TryAgain after recording that."""
        work = self.work
        assert work is not None
        facts: list[Fact] = []
        if work.context is not None and work.context.log is not None:
            facts.append(LogKept(work.row.id, work.row.attempt, work.context.log.text()))
        if outcome is None:
            return await self._end(Cancel(*self._key), facts)
        if outcome.error is not None:
            outcome = await self._try_again(work, outcome, facts)
        self._view.facts.outcomes[self._key] = outcome
        if outcome.error is not None:
            return await self._end(Fail(*self._key), facts)
        asks = self.step.approval is not None
        return await self._end(AskApproval(*self._key) if asks else Complete(*self._key), facts)

    async def _try_again(self, work: Work, outcome: Outcome, facts: list[Fact]) -> Outcome:
        """Raise TryAgain if another try is due; else the outcome that the step ends with."""
        assert outcome.error is not None
        if not outcome.retryable or self._tries >= self.step.retry.attempts or self.called_off:
            return outcome
        delay = self.step.retry.wait(self._tries)  # the full wait: jitter is for many steps of one process
        if work.deadline is not None and time.monotonic() + delay >= work.deadline:
            return failure(total_timeout(self.step, outcome.error))
        facts.append(StepRetried(work.row.id, *self._key, work.row.attempt, outcome.error, delay))
        await self._recorder.record(self._lease, facts)
        raise TryAgain(outcome.error, delay)

    async def _end(self, command: Command, facts: list[Fact]) -> StepResult:
        self._view.facts.record(command, facts)
        try:
            await self._recorder.record(self._lease, facts)
        except StoreFailed as error:
            if error.code not in TAKEN:
                raise
            found = await self._recorded_by_another()
            if found is None:
                raise
            return found
        row = self._row
        assert row is not None
        return StepResult(_STATUS.get(row.status, SUCCEEDED))

    async def _recorded_by_another(self) -> StepResult | None:
        await self._view.ledger.take(await self._rows())
        row = self._row
        over = row is not None and (row.status.final or row.status is StepStatus.WAITING_APPROVAL)
        return StepResult(_STATUS.get(row.status, SUCCEEDED)) if row is not None and over else None

    async def _rows(self) -> Sequence[StepRow]:
        """The step's own row as recorded now, if it is there."""
        item = self.task.item
        if item is None:
            found = await self._recorder.store.rows_of(self.task.run, [self.step.id])
            return [row for row in found if row.item is None]
        return await self._recorder.store.rows_of(self.task.run, [], [(self.step.id, item)])

    async def drop(self) -> StepResult:
        """Record that the step is cancelled. What an earlier worker left at a server goes away."""
        result = await self._end(Cancel(*self._key), [])
        await self.abandon()
        return result

    async def lose(self, error: TowpathError) -> StepResult:
        """Record that nobody knows what became of the step."""
        found = await self.recorded()
        if found is not None:
            return found
        self._view.facts.outcomes[self._key] = failure(error)
        return await self._end(Fail(*self._key), [])
