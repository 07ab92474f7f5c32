"""One delivery of a step to this worker: record its start, execute it, record its end.

A step can be delivered twice. The first delivery that records an end wins; the other one returns what the store has.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import anyio
import anyio.to_thread

from towpath.adapters.attempt_news import last_news_of
from towpath.adapters.limits import Limits, refuse_unknown_limit
from towpath.adapters.listening import Audience
from towpath.adapters.run_facts import Key
from towpath.adapters.step_executor import LOST_LIMIT, Resources, StepExecutor, Work, crashed, total_timeout
from towpath.attempt import Outcome, failure
from towpath.changed_code import refuse_misfit
from towpath.commands import AskApproval, Cancel, Command, Complete, Fail
from towpath.errors import StepNotRegistered, StoreFailed, TowpathError
from towpath.events import AttemptReleased, Fact, StepReady, StepRetried
from towpath.ledger import LedgerRow
from towpath.model import ErrorInfo, Json, StepPlan, StepStatus
from towpath.ports import Lease, StepRow
from towpath.secrets import revealed
from towpath.steps import Step, find_step

from .messages import CANCELLED, FAILED, SUCCEEDED, StepResult, StepTask
from .run_cache import CachedRun

RECORDED_BEFORE = ("E_TRANSITION", "E_DB_CONFLICT")
_RESULTS = {StepStatus.FAILED: FAILED, StepStatus.CANCELLED: CANCELLED, StepStatus.SKIPPED: CANCELLED}


class TryAgain(Exception):
    """The attempt failed, which is recorded. The next one is due after `delay` seconds."""

    def __init__(self, error: ErrorInfo, delay: float) -> None:
        super().__init__(error.message)
        self.error = error
        self.delay = delay


class Recorder:
    """Records facts of runs, then calls the listeners."""

    def __init__(self, resources: Resources) -> None:
        self.resources = resources
        self.store = resources.store
        self.limits = Limits(resources.limits)
        self._audiences = [Audience(resources.listeners)]
        if resources.spans is not None:
            self._audiences.append(Audience([resources.spans.on_fact]))

    async def record(self, lease: Lease, facts: Sequence[Fact]) -> None:
        """Record facts in one transaction. Raises Fenced, StoreFailed."""
        if not facts:
            return
        await self.store.record(lease, facts)
        for audience in self._audiences:
            for fact in facts:
                audience.notify(lease.run_id, fact)


class _SlotWaiter:
    """Waits until a slot of a server may be free. The farm calls `wake`."""

    def __init__(self) -> None:
        self._woken = anyio.Event()

    def wake(self) -> None:
        self._woken.set()

    async def wait(self) -> None:
        await self._woken.wait()
        self._woken = anyio.Event()


class StepAttempt:
    """One attempt at a step or item on this worker.

    `number` counts attempts at the step from 1, `since` is when Temporal scheduled it.
    """

    def __init__(self, run: CachedRun, task: StepTask, recorder: Recorder, number: int, since: datetime) -> None:
        self.step: StepPlan = run.steps[task.step]
        self.task = task
        self.run = run
        self.work: Work | None = None
        self.error: ErrorInfo | None = None  # with which the step failed in this attempt
        self.cancelled = self.ends = False
        self._scope = anyio.CancelScope()
        self._slot_scope = anyio.CancelScope()
        self._slot: Any = None
        self._counted = False  # under the step's limits
        self._recorder = recorder
        self._farm = recorder.resources.farm
        self._lease = Lease(task.run, task.epoch)
        self._number = number
        self._since = since

    @property
    def key(self) -> Key:
        """The step's id and the item's index."""
        return self.step.id, self.task.item

    @property
    def _row(self) -> LedgerRow | None:
        return self.run.ledger.row(*self.key)

    # ---- a slot of a ComfyUI server

    @property
    def needs_slot(self) -> bool:
        """Does the step run on a ComfyUI server?"""
        return self.step.kind == "workflow"

    async def take_slot(self) -> bool:
        """Wait for a slot of a server; the row is `queued` meanwhile. False if the attempt is cancelled."""
        assert self._farm is not None
        waiter = _SlotWaiter()
        try:
            self._slot = self._farm.take(self.step, waiter.wake)
            if self._slot is None:
                await self._queue()
            with self._slot_scope:
                while self._slot is None:
                    await waiter.wait()
                    self._slot = self._farm.take(self.step, waiter.wake)
        finally:
            self._farm.settle(waiter.wake, wants=False)
        return self._slot is not None

    @property
    def needs_limit(self) -> bool:
        """Does the step share a limit with other steps?"""
        return self.step.limit is not None or self.step.concurrency is not None

    async def take_limit(self) -> bool:
        """Wait until the step's limits allow it; the row is `queued` meanwhile. False if the attempt is cancelled."""
        self._counted = self._recorder.limits.take(self.step)
        if not self._counted:
            await self._queue()
            with self._slot_scope:
                await self._recorder.limits.wait(self.step)
                self._counted = True
        return self._counted

    def give_back_slot(self) -> None:
        """Give back the slot and the place under a limit, if the attempt has them."""
        if self._counted:
            self._counted = False
            self._recorder.limits.give_back(self.step)
        slot = self.work.seat if self.work is not None else self._slot
        if slot is not None and self._farm is not None:
            self._farm.give_back(slot)

    async def _queue(self) -> None:
        if self._row is not None or self.task.item is not None:
            return  # an item gets its row when it starts: the row of the mapped step has the number of items
        row = LedgerRow(self._recorder.store.new_id(), *self.key)
        ready = StepReady(row.id, *self.key, self.step.target, False, 0)
        try:
            await self._recorder.record(self._lease, [ready])
        except StoreFailed as error:
            if error.code != "E_DB_CONFLICT":
                raise
            await self._read_row()
        else:
            self.run.ledger.add(row)

    # ---- the start

    async def recorded(self) -> StepResult | None:
        """The result that an earlier delivery recorded; None without one."""
        await self.run.refresh_for(self.step, self.task.item)
        return self._known_result()

    def _known_result(self) -> StepResult | None:
        row = self._row
        if row is None or not (row.status.final or row.status is StepStatus.WAITING_APPROVAL):
            return None
        return StepResult(_RESULTS.get(row.status, SUCCEEDED))

    async def begin(self) -> bool:
        """Record that the attempt starts. False if the step failed without a call, which is recorded then."""
        try:
            return await self._begin()
        except StoreFailed as error:
            if error.code != "E_DB_CONFLICT":
                raise
        # A simultaneous delivery made the row, so this is another attempt at it.
        await self._read_row()
        return await self._begin()

    async def _begin(self) -> bool:
        facts: list[Fact] = []
        arguments = self.run.facts.call_with(self.step, self.task.item)
        if arguments is None:
            await self._end(Fail(*self.key), facts)
            return False
        if self.run.ledger.has_secrets and self.step.kind != "chain":
            await anyio.to_thread.run_sync(
                revealed, arguments
            )  # a worker without the secrets must not count an attempt
        function = self._function()
        if function is not None:
            refuse_misfit(self.step, function)  # a worker with other code must not count an attempt
        row = self._row
        deaths = await self._deaths()
        if deaths >= LOST_LIMIT:
            self.run.facts.outcomes[self.key] = failure(crashed(self.step, deaths))
            await self._end(Fail(*self.key), facts)
            return False
        known = row is not None
        row = row or LedgerRow(self._recorder.store.new_id(), *self.key)
        row.parameters = self.run.facts.parameters(self.step, row, arguments, function)
        self.run.facts.begin_attempt(self.step, row, facts, recorded=known)
        await self._recorder.record(self._lease, facts)
        self.work = Work(self.step, row, arguments, tries=self._number, deadline=self._deadline(), scope=self._scope)
        self.work.seat = self._slot
        return True

    async def _deaths(self) -> int:
        """How many workers have died during the step since its last recorded outcome."""
        row = self._row
        if row is None or row.status is not StepStatus.EXECUTING or self.step.kind != "python":
            return 0
        return (await self._recorder.store.lost_attempts(self.task.run)).get(row.id, 0)

    async def release(self) -> None:
        """Record that the attempt ended without an outcome although its worker lives."""
        work = self.work
        if work is None:
            return
        with anyio.CancelScope(shield=True), suppress(TowpathError):
            released = AttemptReleased(work.row.id, *self.key, work.row.attempt)
            await self._recorder.record(self._lease, [released])

    def _deadline(self) -> float | None:
        if self.step.total_timeout is None:
            return None
        passed = (datetime.now(UTC) - self._since).total_seconds()
        return time.monotonic() + self.step.total_timeout - passed

    # ---- the work

    async def attempt(self) -> Outcome | None:
        """Execute the step. None if the attempt was cancelled meanwhile."""
        assert self.work is not None
        outcome: Outcome | None = None
        refuse_unknown_limit(self.step, self._recorder.resources.limits)
        executor = self._executor()
        with self._scope:
            outcome = await executor.attempt(self.work)
        if outcome is None:
            await self.abandon()
        return outcome

    async def abandon(self) -> None:
        """Cancel the step's prompt at its server, if there is one."""
        row = self._row
        if self._farm is not None and row is not None and row.server is not None and row.prompt is not None:
            await self._farm.abandon(row.server, row.prompt)
            row.prompt = None

    def cancel(self) -> None:
        """Stop the work, because the run is being cancelled."""
        self.cancelled = True
        self._slot_scope.cancel()
        self._scope.cancel()

    def _function(self) -> Step[..., Any] | None:
        """The step's function, if the step has one and this worker knows it."""
        with suppress(StepNotRegistered):
            return find_step(self.step.target) if self.step.kind == "python" else None
        return None

    def _executor(self) -> StepExecutor:
        functions: dict[str, Step[..., Any]] = {}
        if self.step.kind == "python":
            functions[self.step.target] = find_step(self.step.target)
        return StepExecutor(self.task.run, self._recorder.resources, self.run.ledger, functions, self._record)

    async def _record(self, facts: Sequence[Fact]) -> None:
        await self._recorder.record(self._lease, facts)

    def told(self) -> list[dict[str, Json]]:
        """The progress that the step has reported; empty without."""
        figures = None if self.work is None or self.work.context is None else self.work.context.figures
        if figures is None:
            return []
        return [{"step": self.step.id, "item": self.task.item, "done": figures[0], "total": figures[1]}]

    # ---- the end

    async def end(self, outcome: Outcome | None) -> StepResult:
        """Record the outcome (None: cancelled). Raises TryAgain if another attempt follows, after recording that."""
        work = self.work
        assert work is not None
        self.ends = True  # no older log follows the last one
        facts: list[Fact] = []
        news = last_news_of(work, failed=outcome is None or outcome.error is not None)
        if news is not None:
            facts.append(news)
        if outcome is None:
            return await self._end(Cancel(*self.key), facts)
        self.error = outcome.error
        if outcome.error is not None:
            outcome = await self._retry_or_fail(work, outcome, facts)
        self.run.facts.outcomes[self.key] = outcome
        if outcome.error is not None:
            return await self._end(Fail(*self.key), facts)
        gated = self.step.approval is not None
        return await self._end(AskApproval(*self.key) if gated else Complete(*self.key), facts)

    async def _retry_or_fail(self, work: Work, outcome: Outcome, facts: list[Fact]) -> Outcome:
        """Raise TryAgain if another attempt is due, else return the outcome with which the step fails."""
        assert outcome.error is not None
        if not outcome.retryable or self._number >= self.step.retry.attempts or self.cancelled:
            return outcome
        delay = self.step.retry.wait(self._number)  # without jitter, which is for many steps of one process
        if work.deadline is not None and time.monotonic() + delay >= work.deadline:
            return failure(total_timeout(self.step, outcome.error))
        facts.append(StepRetried(work.row.id, *self.key, work.row.attempt, outcome.error, delay))
        await self._recorder.record(self._lease, facts)
        raise TryAgain(outcome.error, delay)

    async def _end(self, command: Command, facts: list[Fact]) -> StepResult:
        self.run.facts.record(command, facts)
        try:
            await self._recorder.record(self._lease, facts)
        except StoreFailed as error:
            if error.code not in RECORDED_BEFORE:
                raise
            await self._read_row()
            found = self._known_result()
            if found is None:
                raise
            return found
        row = self._row
        assert row is not None
        return StepResult(_RESULTS.get(row.status, SUCCEEDED))

    async def _read_row(self) -> None:
        """Read the step's own row again, if there is one."""
        await self.run.ledger.take(await self._rows())

    async def _rows(self) -> Sequence[StepRow]:
        store, item = self._recorder.store, self.task.item
        if item is None:
            return [row for row in await store.rows_of(self.task.run, [self.step.id]) if row.item is None]
        return await store.rows_of(self.task.run, [], [(self.step.id, item)])

    async def drop(self) -> StepResult:
        """Record that the step is cancelled, and cancel a prompt that an earlier worker left at a server."""
        result = await self._end(Cancel(*self.key), [])
        await self.abandon()
        return result

    async def lose(self, error: TowpathError) -> StepResult:
        """Record that the step failed with `error`, unless a result is recorded."""
        found = await self.recorded()
        if found is not None:
            return found
        self.run.facts.outcomes[self.key] = failure(error)
        return await self._end(Fail(*self.key), [])
