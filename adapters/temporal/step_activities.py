"""The activities of steps: those that call user code, alone or in groups, and those of chains inside steps."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from towpath.adapters.attempt_news import due, news_of
from towpath.adapters.run_facts import Key, inner_failure
from towpath.adapters.step_executor import Work
from towpath.attempt import Outcome, failure
from towpath.commands import AskApproval, Cancel, Command, Complete, Fail, Wait
from towpath.errors import (
    ExpressionFailed,
    InputInvalid,
    RunRefused,
    SecretMissing,
    ServerFailed,
    StoreFailed,
    TowpathError,
    ValueRefused,
)
from towpath.events import Fact
from towpath.ledger import LedgerRow, chain_value, restored_ledger
from towpath.model import ChainStatus, StepStatus
from towpath.new_run import Reads, new_run
from towpath.ports import Lease, RunRow

from . import messages
from .failures import activity_result, as_application_errors
from .run_cache import CachedRun, RunCache, value_executor
from .step_attempt import Recorder, StepAttempt, TryAgain


class StepActivities:
    """The activities on one worker that execute steps. `active` are the attempts in progress."""

    def __init__(self, recorder: Recorder, cache: RunCache) -> None:
        self._recorder = recorder
        self._store = recorder.store
        self._cache = cache
        self.active: set[StepAttempt] = set()

    @activity.defn(name=messages.RUN_STEP)
    @as_application_errors
    async def run_step(self, task: messages.StepTask) -> messages.StepResult:
        """Execute one attempt at a step and record its outcome. A result that is recorded already is returned."""
        info = activity.info()
        run = await self._cache.get(task.run)
        self._adopt(task)
        attempt = StepAttempt(run, task, self._recorder, info.attempt, info.scheduled_time)
        try:
            result = await self._execute(attempt)
        except TryAgain as again:
            raise _next_attempt(again) from None
        if attempt.error is None:
            return activity_result(result, "E_STEP_FAILED", "the step's row has the error")
        return activity_result(result, attempt.error.code, attempt.error.message)

    async def _execute(self, attempt: StepAttempt) -> messages.StepResult:
        found = await attempt.recorded()
        if found is not None:
            return found
        async with self._holding(attempt):
            found = await self._before_start(attempt)
            if found is not None:
                return found
            if not await self._begin(attempt):
                return messages.StepResult(messages.FAILED)
            outcome = await self._outcome(attempt)
            try:
                return await attempt.end(outcome)
            except TryAgain:
                raise
            except BaseException:
                self._cache.forget(attempt.task.run)
                await attempt.release()
                raise

    async def _before_start(self, attempt: StepAttempt) -> messages.StepResult | None:
        """The result of a step that must not start here: it is cancelled, or ended while it waited for a slot."""
        if await self._is_cancelled(attempt.task):
            return await attempt.drop()
        for needed, take in ((attempt.needs_slot, attempt.take_slot), (attempt.needs_limit, attempt.take_limit)):
            if needed and not await self._taken(attempt, take):
                return await attempt.drop()
        return await attempt.recorded() if attempt.needs_slot or attempt.needs_limit else None

    async def _taken(self, attempt: StepAttempt, take: Callable[[], Awaitable[bool]]) -> bool:
        try:
            return await take()
        except asyncio.CancelledError:
            if not await self._is_requested_cancel(attempt.task):
                raise
            return False

    async def _begin(self, attempt: StepAttempt) -> bool:
        try:
            return await attempt.begin()
        except BaseException:
            self._cache.forget(attempt.task.run)
            raise

    async def _outcome(self, attempt: StepAttempt) -> Outcome | None:
        """The outcome of the attempt, None if it was cancelled."""
        if attempt.cancelled:
            return None
        try:
            return await attempt.attempt()
        except asyncio.CancelledError:
            if not await self._is_requested_cancel(attempt.task):
                # The worker stops, its heartbeats were too late, or the workflows above are gone although no cancel
                # was requested. Another worker executes the step, now or after a resume.
                await attempt.release()
                raise
            await attempt.abandon()
            return None
        except TowpathError as error:
            if isinstance(error, StoreFailed | SecretMissing):
                raise
            return failure(error)

    async def _is_requested_cancel(self, task: messages.StepTask) -> bool:
        """Was this activity cancelled because the run is being cancelled?"""
        details = activity.cancellation_details()
        return details is not None and details.cancel_requested and await self._is_cancelled(task)

    async def _is_cancelled(self, task: messages.StepTask) -> bool:
        """Is a cancel of the run pending?"""
        return bool(await self._store.cancelled_among([task.run]))

    @asynccontextmanager
    async def _holding(self, attempt: StepAttempt) -> AsyncIterator[None]:
        """Send heartbeats during an attempt, and keep it among the active ones."""
        heartbeats = asyncio.create_task(_send_heartbeats(attempt.task.heartbeat / 3, attempt))
        self.active.add(attempt)
        attempt.run.active.add(attempt.key)
        try:
            yield
        finally:
            heartbeats.cancel()
            attempt.give_back_slot()
            self.active.discard(attempt)
            attempt.run.active.discard(attempt.key)

    def _adopt(self, task: messages.StepTask) -> None:
        spans = self._recorder.resources.spans
        if spans is not None:
            spans.adopt(task.run, task.trace)

    # ---- groups

    @activity.defn(name=messages.RUN_STEPS)
    @as_application_errors
    async def run_steps(self, task: messages.StepTask) -> messages.StepResult:
        """Execute the members of a group. A member starts when the members that it depends on have completed."""
        results: dict[Key, messages.StepResult] = {}
        run = await self._cache.get(task.run)
        self._adopt(task)
        waiting = [(step, item) for step, item in task.members]
        heartbeats = asyncio.create_task(_send_heartbeats(task.heartbeat / 3))
        try:
            while waiting:
                inside = {step for step, _ in waiting}
                ready = [key for key in waiting if not inside.intersection(run.steps[key[0]].depends_on)]
                waiting = [key for key in waiting if key not in set(ready)]
                await self._execute_members(run, task, ready, results)
                waiting = [key for key in waiting if _may_follow(run, key, results)]
        finally:
            heartbeats.cancel()
        members = [(*key, result.status) for key, result in results.items()]
        return messages.StepResult(messages.SUCCEEDED, members=members)

    async def _execute_members(
        self, run: CachedRun, task: messages.StepTask, ready: list[Key], results: dict[Key, messages.StepResult]
    ) -> None:
        """Execute independent members at the same time, so that one commit holds their transactions."""

        async def execute(key: Key) -> None:
            member = dataclasses.replace(task, step=key[0], item=key[1], kind="python", members=[])
            attempt = StepAttempt(run, member, self._recorder, 1, activity.info().scheduled_time)
            results[key] = await self._execute(attempt)

        ended = await asyncio.gather(*(execute(key) for key in ready), return_exceptions=True)
        for error in ended:
            if error is not None:
                raise error

    # ---- lost steps

    @activity.defn(name=messages.LOSE_STEP)
    @as_application_errors
    async def lose_step(self, lost: messages.LostStep) -> messages.StepResult:
        """Record that a step failed because its workflow ended without a result, unless a result is recorded."""
        run = await self._cache.get(lost.task.run)
        attempt = StepAttempt(run, lost.task, self._recorder, 1, datetime.datetime.now(datetime.UTC))
        if await attempt.recorded() is None and await self._is_cancelled(lost.task):
            return await attempt.drop()
        await self._cancel_inner(lost.task, run)
        result = await attempt.lose(_lost_error(lost))
        if lost.cancelled:
            await attempt.abandon()
        return result

    async def _cancel_inner(self, task: messages.StepTask, run: CachedRun) -> None:
        """Cancel the run inside a lost step."""
        if run.steps[task.step].chain is None:
            return
        recorded = await self._store.load(task.run)
        for row in recorded.rows:
            if (row.step, row.item) == (task.step, task.item) and not row.status.final and row.id in recorded.children:
                with suppress(RunRefused):
                    await self._store.request(recorded.children[row.id], "cancel")

    # ---- polling

    async def poll(self) -> None:
        """Stop attempts whose runs are being cancelled. Raises StoreFailed."""
        active = list(self.active)
        if not active:
            return
        cancelled = set(await self._store.cancelled_among(sorted({attempt.task.run for attempt in active})))
        for attempt in active:
            if attempt.task.run in cancelled and not attempt.cancelled:
                attempt.cancel()

    async def record_news(self) -> int:
        """Record new log lines and progress. Returns the number of characters."""
        size = 0
        by_work = {id(attempt.work): attempt for attempt in self.active if attempt.work is not None}
        for work, fact in await news_of(due(attempt.work for attempt in list(self.active) if attempt.work is not None)):
            attempt = by_work[id(work)]
            if attempt in self.active and not attempt.ends:
                size += len(fact.text)
                with suppress(TowpathError):
                    await self._store.record(Lease(attempt.task.run, attempt.task.epoch), [fact])
        return size


def _next_attempt(again: TryAgain) -> ApplicationError:
    """Makes Temporal deliver the step again after the delay."""
    return ApplicationError(
        again.error.code,
        messages.ERROR,
        again.error.message,
        type=again.error.code,
        next_retry_delay=datetime.timedelta(seconds=again.delay),
        category=ApplicationErrorCategory.BENIGN,
    )


def _lost_error(lost: messages.LostStep) -> ServerFailed:
    if lost.cancelled:
        return ServerFailed(
            "E_STEP_CANCELLED",
            "the step's workflow was cancelled on Temporal, but not its run",
            cure="`towpath cancel` ends a run; `towpath rerun` runs this step and its dependents again",
            retryable=False,
        )
    return ServerFailed(
        "E_STEP_LOST",
        f"the outcome of the step is unknown: {lost.why}",
        cure="its workers died or its workflow was ended; look at the workers' memory and log, then rerun",
        retryable=False,
    )


def _may_follow(run: CachedRun, key: Key, results: dict[Key, messages.StepResult]) -> bool:
    """Have all members that this one depends on completed, or not ended yet? If not, the chain's workflow decides."""
    needed = (results.get((step, None)) for step in run.steps[key[0]].depends_on)
    return all(result is None or result.status == messages.SUCCEEDED for result in needed)


async def _send_heartbeats(interval: float, attempt: StepAttempt | None = None) -> None:
    """Send heartbeats. Their details are the progress of the attempt, for people who look at Temporal's own pages."""
    while True:
        activity.heartbeat(*(() if attempt is None else attempt.told()))
        await asyncio.sleep(interval)


class InnerActivities:
    """The activities of steps that are chains: open the run inside the step, and record its end for the step."""

    def __init__(self, recorder: Recorder, cache: RunCache) -> None:
        self._recorder = recorder
        self._store = recorder.store
        self._cache = cache

    @activity.defn(name=messages.OPEN_INNER)
    @as_application_errors
    async def open_inner_run(self, task: messages.StepTask) -> messages.InnerRun:
        """Start the step, and create the run inside it. A run that exists is found by the step's row."""
        run = await self._cache.get(task.run)
        spans = self._recorder.resources.spans
        if spans is not None:
            spans.adopt(task.run, task.trace)
        await run.refresh_for(run.steps[task.step], task.item)
        row = run.ledger.row(task.step, task.item)
        if row is not None and row.status.final:
            return messages.InnerRun(result=messages.StepResult(_status_of(row)))
        try:
            opened = await self._open(run, task, row)
            if opened is None:
                return await self._fail(run, task)
        except (InputInvalid, ValueRefused, ExpressionFailed) as error:
            run.facts.outcomes[task.step, task.item] = failure(error)
            return await self._fail(run, task)
        except BaseException:
            self._cache.forget(task.run)
            raise
        row_id, inner = opened
        return messages.InnerRun(inner, trace="" if spans is None else spans.passed_on(task.run, row_id) or task.trace)

    async def _open(self, run: CachedRun, task: messages.StepTask, row: LedgerRow | None) -> tuple[str, str] | None:
        """The ids of the step's row and of the run inside it. None if the step has no arguments."""
        step, facts = run.steps[task.step], list[Fact]()
        arguments = run.facts.call_with(step, task.item)
        if arguments is None:
            return None
        known = row is not None
        row = row or LedgerRow(self._store.new_id(), task.step, task.item)
        row.parameters = run.facts.parameters(step, row, arguments)
        run.facts.begin_attempt(step, row, facts, recorded=known)
        await self._recorder.record(Lease(task.run, task.epoch), facts)
        inner = (await self._store.load(task.run)).children.get(row.id)
        if inner is None:
            inner = self._store.new_id()
            assert step.chain is not None
            new = await new_run(
                self._store, inner, step.chain, arguments, reads=Reads.WRITTEN, parent_workflow_id=row.id
            )
            await self._store.create_run(new)
        return row.id, inner

    async def _fail(self, run: CachedRun, task: messages.StepTask) -> messages.InnerRun:
        facts: list[Fact] = []
        run.facts.record(Fail(task.step, task.item), facts)
        await self._recorder.record(Lease(task.run, task.epoch), facts)
        return messages.InnerRun(result=messages.StepResult(messages.FAILED))

    @activity.defn(name=messages.CLOSE_INNER)
    @as_application_errors
    async def close_inner_run(self, ended: messages.InnerEnded) -> messages.StepResult:
        """Record for the step how its chain ended, or that it waits for a person."""
        task = ended.task
        run = await self._cache.get(task.run)
        await run.refresh([], [(task.step, task.item)])
        inner = await self._store.load(ended.run)
        row = run.ledger.row(task.step, task.item)
        assert row is not None
        if row.status.final:
            cancelled = row.status is StepStatus.CANCELLED
            return messages.StepResult(messages.CANCELLED if cancelled else messages.SUCCEEDED)
        stopped = await self._is_stopped(task.run)
        if ended.called_off and not stopped and not inner.status.final:
            return messages.StepResult(messages.CANCELLED, recorded=False)  # the chain's workflow decides, if it lives
        command, status = await self._command_after(run, task, row, inner, stopped=stopped)
        facts: list[Fact] = []
        try:
            run.facts.record(command, facts)
            await self._recorder.record(Lease(task.run, task.epoch), facts)
        except BaseException:
            self._cache.forget(task.run)
            raise
        return messages.StepResult(status)

    async def _is_stopped(self, run_id: str) -> bool:
        """Is the run being cancelled, or did a rejection stop it?"""
        run = await self._store.load(run_id)
        return run.cancel_requested or any(row.rejected for row in run.rows)

    async def _command_after(
        self, run: CachedRun, task: messages.StepTask, row: LedgerRow, inner: RunRow, *, stopped: bool
    ) -> tuple[Command, str]:
        """The command about the step that follows from its run, and the status of the step's result."""
        key, step = (task.step, task.item), run.steps[task.step]
        if not inner.status.final:
            if not stopped:
                return Wait(*key), messages.WAITING
            with suppress(RunRefused):
                await self._store.request(inner.id, "cancel")
            return Cancel(*key), messages.CANCELLED
        if inner.status is ChainStatus.CANCELLED and stopped:
            return Cancel(*key), messages.CANCELLED
        outcome = inner_failure(step, inner.status, inner.error)
        if inner.status is ChainStatus.COMPLETED:
            outcome = await self._inner_outcome(run, Work(step, row, {}), inner)
        run.facts.outcomes[key] = outcome
        if outcome.error is not None:
            return Fail(*key), messages.FAILED
        return (Complete(*key) if step.approval is None else AskApproval(*key)), messages.SUCCEEDED

    async def _inner_outcome(self, run: CachedRun, work: Work, inner: RunRow) -> Outcome:
        try:
            value = chain_value(await restored_ledger(self._store, inner))
        except (InputInvalid, ValueRefused, ExpressionFailed) as error:
            return failure(error)
        return await value_executor(self._recorder.resources, run).keep_inner(work, value)


def _status_of(row: LedgerRow) -> str:
    if row.status is StepStatus.FAILED:
        return messages.FAILED
    return messages.SUCCEEDED if row.status.done else messages.CANCELLED
