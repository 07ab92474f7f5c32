"""The two workflow types: a chain run, and a step of one. Both know no user code, no database and no clock."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    ChildWorkflowError,
    FailureError,
    WorkflowAlreadyStartedError,
    is_cancelled_exception,
)
from temporalio.workflow import ActivityCancellationType, ChildWorkflowCancellationType, ParentClosePolicy

with workflow.unsafe.imports_passed_through():
    from . import messages as m
    from .session import Flags, Session, ask

CRASHES = 10  # how often a step's worker may vanish before the step is given up
UNLIMITED = timedelta(days=3650)
SLACK = timedelta(seconds=60)  # the activity ends an attempt itself; the server's limit is for one that cannot


@workflow.defn(name=m.CHAIN, failure_exception_types=[Exception])
class ChainWorkflow:
    """Drives one chain run, in as many sessions as it has pauses."""

    @workflow.init
    def __init__(self, start: m.ChainStart) -> None:
        self._start = start
        self._flags = Flags()

    @workflow.signal(name=m.WAKE)
    def wake(self) -> None:
        """Something was asked of the run: the rows say what."""
        self._flags.woken = True

    @workflow.signal(name=m.RESUME)
    def resume(self, epoch: int) -> None:
        """Go on, if the run is still as it was left in that epoch."""
        self._flags.resume_after = max(self._flags.resume_after, epoch)

    @workflow.run
    async def run(self, start: m.ChainStart) -> m.ChainResult:
        """Work on the run until it is over (inside a step: or paused)."""
        driving = asyncio.create_task(self._drive(start))
        while not driving.done():
            try:
                await workflow.wait_condition(driving.done)
            except asyncio.CancelledError:
                self._flags.cancelled = True  # the driver finds it: it must not be stopped in the middle
        return driving.result()

    async def _drive(self, start: m.ChainStart) -> m.ChainResult:
        epoch = start.epoch
        if start.paused:
            if not await self._goes_on(start, epoch):
                return m.ChainResult("over")
            epoch = 0
        while True:
            begun = await ask(m.BEGIN, replace(start, epoch=epoch), m.Begun)
            if begun.over:
                return m.ChainResult(begun.over)
            status = await self._session(start, begun)
            if not status:
                await workflow.wait_condition(workflow.all_handlers_finished)
                workflow.continue_as_new(replace(start, epoch=begun.epoch, paused=False, trace=begun.trace))
            if status != m.PAUSED or start.nested:
                return m.ChainResult(status)
            if not await self._goes_on(start, begun.epoch):
                return m.ChainResult("over")
            epoch = 0

    async def _session(self, start: m.ChainStart, begun: m.Begun) -> str:
        """How a session ended. Whatever goes wrong leaves no run behind that only looks as if it ran."""
        try:
            session = Session(start, begun, self._flags)
            await session.drive()
        except Exception as error:
            seen = await ask(m.GIVE_UP, m.GaveUp(start.run, begun.epoch), m.Seen)
            if seen.status not in ("pending", "running", "paused"):
                return seen.status  # ended from outside, with our epoch
            if isinstance(error, FailureError):
                raise
            raise ApplicationError(str(error), type=type(error).__name__, non_retryable=True) from error
        return session.ended

    async def _goes_on(self, start: m.ChainStart, epoch: int) -> bool:
        """Wait until a paused run is to go on; False if it is over."""
        while True:
            if self._flags.cancelled:
                await ask(m.LOOK, m.Look(start.run, cancel=True), m.Seen)
            self._flags.woken = False
            seen = await ask(m.LOOK, m.Look(start.run), m.Seen)
            if seen.status not in ("pending", "running", "paused"):
                return False
            if self._flags.resume_after >= epoch or _ends_pause(seen):
                return True
            if workflow.info().is_continue_as_new_suggested() and not self._flags.cancelled:
                # Told again and again of what a pause keeps waiting, even a run that does nothing gets a long history.
                workflow.continue_as_new(replace(start, epoch=epoch, paused=True))
            await workflow.wait_condition(
                lambda: self._flags.woken or self._flags.cancelled or self._flags.resume_after >= epoch
            )


def _ends_pause(seen: m.Seen) -> bool:
    """Was something asked that ends the pause? One that somebody asked for ends only when they say so."""
    return any(asked.kind == "cancel" or (asked.kind != "pause" and seen.reason == "approval") for asked in seen.asked)


@workflow.defn(name=m.STEP, failure_exception_types=[Exception])
class StepWorkflow:
    """Carries out one step: one activity, or the chain inside it."""

    @workflow.run
    async def run(self, task: m.StepTask) -> m.StepResult:
        """The step's end, recorded. A failed step fails its workflow, for those who look at Temporal's pages."""
        result = await (_inner(task) if task.kind == "chain" else _activity(task))
        if result.status == m.FAILED:
            raise _failed("E_STEP_FAILED", "")
        return result


async def _activity(task: m.StepTask) -> m.StepResult:
    pause = 1.0
    while True:
        result = await _delivered(task)
        if result is not None:
            return result
        try:
            await workflow.sleep(pause)  # nothing is wrong with the step: a worker that has its secrets will come
        except asyncio.CancelledError:
            return m.StepResult(m.CANCELLED, recorded=False)
        pause = min(pause * 2, 60.0)


async def _delivered(task: m.StepTask) -> m.StepResult | None:
    """The step's end, or None if it got to workers only that cannot carry it out."""
    # A workflow step may wait long for a slot of a server before its time begins.
    timed = task.timeout is not None and task.kind != "workflow"
    limit = timedelta(seconds=task.timeout or 0) + SLACK if timed else UNLIMITED
    try:
        result: m.StepResult = await workflow.execute_activity(
            m.RUN_STEPS if task.kind == m.GROUP else m.RUN_STEP,
            task,
            result_type=m.StepResult,
            start_to_close_timeout=limit,
            heartbeat_timeout=timedelta(seconds=task.heartbeat),
            cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            retry_policy=RetryPolicy(
                initial_interval=timedelta(seconds=max(task.delay, 0.001)),
                backoff_coefficient=max(task.backoff, 1.0),
                maximum_interval=timedelta(seconds=max(task.max_delay, task.delay, 0.001)),
                maximum_attempts=task.attempts + CRASHES,
            ),
        )
        return result
    except ActivityError as error:
        if is_cancelled_exception(error):
            return m.StepResult(m.CANCELLED, recorded=False)
        cause = error.cause
        if isinstance(cause, ApplicationError) and cause.details and cause.details[0] == m.FAILED:
            raise _failed(cause.type or "E_STEP_FAILED", str(cause.details[1])) from None
        if isinstance(cause, ApplicationError) and cause.type in m.ELSEWHERE:
            return None
        if task.kind == m.GROUP:
            raise  # the chain asks for each of its members what became of it
        return await ask(m.LOSE_STEP, m.Lost(task, m.why(error)), m.StepResult)


async def _inner(task: m.StepTask) -> m.StepResult:
    inner = await ask(m.OPEN_INNER, task, m.InnerRun)
    if inner.result is not None:
        return inner.result
    called_off = False
    try:
        await _inner_chain(task, inner)
    except (ChildWorkflowError, asyncio.CancelledError) as error:
        called_off = is_cancelled_exception(error)
        if not called_off:
            return await ask(m.LOSE_STEP, m.Lost(task, m.why(error)), m.StepResult)
    ended = m.InnerEnded(task, inner.run, called_off or _cancel_asked())
    return await ask(m.CLOSE_INNER, ended, m.StepResult)


async def _inner_chain(task: m.StepTask, inner: m.InnerRun) -> None:
    """Have the run inside a step driven. An older workflow that still has it was told to stop: wait for its end."""
    start = m.ChainStart(
        inner.run, task.queue, True, heartbeat=task.heartbeat, granularity=task.granularity, trace=inner.trace
    )
    pause = 1.0
    while True:
        try:
            await workflow.execute_child_workflow(
                m.CHAIN,
                start,
                id=m.workflow_id(task.queue, inner.run),
                result_type=m.ChainResult,
                cancellation_type=ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
                parent_close_policy=ParentClosePolicy.REQUEST_CANCEL,
            )
            return
        except WorkflowAlreadyStartedError:
            await workflow.sleep(pause)
            pause = min(pause * 2, 60.0)


def _cancel_asked() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _failed(code: str, message: str) -> ApplicationError:
    return ApplicationError(code, m.FAILED, message, type=code, non_retryable=True)


WORKFLOWS = [ChainWorkflow, StepWorkflow]
