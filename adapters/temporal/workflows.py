"""The two workflow types: a chain run, and one step of a run. They know no user code, no database and no clock."""

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
    from . import messages
    from .failures import is_step_failure, reason_of, step_failure
    from .run_driver import RunDriver, Signals, local_activity

CRASHES = 10  # how many workers may die during a step before the step is lost
UNLIMITED = timedelta(days=3650)
SLACK = timedelta(seconds=60)  # the activity ends a late attempt itself; the server's limit is for a stuck activity


@workflow.defn(name=messages.CHAIN, failure_exception_types=[Exception])
class ChainWorkflow:
    """Drives one chain run until it is over, with a new RunDriver after each pause."""

    @workflow.init
    def __init__(self, start: messages.ChainStart) -> None:
        self._start = start
        self._signals = Signals()

    @workflow.signal(name=messages.WAKE)
    def wake(self) -> None:
        """The run has a new request in the store."""
        self._signals.woken = True

    @workflow.signal(name=messages.RESUME)
    def resume(self, epoch: int) -> None:
        """Resume the run, if it paused in this epoch or before."""
        self._signals.resume_after = max(self._signals.resume_after, epoch)

    @workflow.run
    async def run(self, start: messages.ChainStart) -> messages.ChainResult:
        """Work on the run until it is over. A run inside a step also returns when it pauses."""
        driving = asyncio.create_task(self._drive(start))
        while not driving.done():
            try:
                await workflow.wait_condition(driving.done)
            except asyncio.CancelledError:
                self._signals.cancelled = True  # the driver handles it between two transactions
        return driving.result()

    async def _drive(self, start: messages.ChainStart) -> messages.ChainResult:
        epoch = start.epoch
        if start.paused:
            if not await self._wait_for_resume(start, epoch):
                return messages.ChainResult("over")
            epoch = 0
        while True:
            claimed = await local_activity(messages.BEGIN, replace(start, epoch=epoch), messages.ClaimedRun)
            if claimed.over:
                return messages.ChainResult(claimed.over)
            status = await self._drive_until_pause(start, claimed)
            if not status:
                await workflow.wait_condition(workflow.all_handlers_finished)
                workflow.continue_as_new(replace(start, epoch=claimed.epoch, paused=False, trace=claimed.trace))
            if status != messages.PAUSED or start.nested:
                return messages.ChainResult(status)
            if not await self._wait_for_resume(start, claimed.epoch):
                return messages.ChainResult("over")
            epoch = 0

    async def _drive_until_pause(self, start: messages.ChainStart, claimed: messages.ClaimedRun) -> str:
        """The status in which the driver left the run; empty to continue as new. An error leaves the run paused."""
        try:
            driver = RunDriver(start, claimed, self._signals)
            await driver.drive()
        except Exception as error:
            abandoned = messages.AbandonedRun(start.run, claimed.epoch)
            reply = await local_activity(messages.GIVE_UP, abandoned, messages.StatusReply)
            if _is_over(reply):
                return reply.status  # another process ended the run
            if isinstance(error, FailureError):
                raise
            raise ApplicationError(str(error), type=type(error).__name__, non_retryable=True) from error
        return driver.ended

    async def _wait_for_resume(self, start: messages.ChainStart, epoch: int) -> bool:
        """Wait until a paused run should continue. False if it is over."""
        signals = self._signals
        while True:
            if signals.cancelled:
                await local_activity(messages.LOOK, messages.StatusQuery(start.run, cancel=True), messages.StatusReply)
            signals.woken = False
            reply = await local_activity(messages.LOOK, messages.StatusQuery(start.run), messages.StatusReply)
            if _is_over(reply):
                return False
            if signals.resume_after >= epoch or _ends_pause(reply):
                return True
            if workflow.info().is_continue_as_new_suggested() and not signals.cancelled:
                # Signals repeat for requests that wait for the resume, so even a paused run gets a long history.
                workflow.continue_as_new(replace(start, epoch=epoch, paused=True))
            await workflow.wait_condition(
                lambda: signals.woken or signals.cancelled or signals.resume_after >= epoch,
            )


def _is_over(reply: messages.StatusReply) -> bool:
    return reply.status not in ("pending", "running", "paused")


def _ends_pause(reply: messages.StatusReply) -> bool:
    """Does a pending request end the pause? A pause that a person requested ends only with a resume or a cancel."""
    return any(
        request.kind == "cancel" or (request.kind != "pause" and reply.reason == "approval") for request in reply.asked
    )


@workflow.defn(name=messages.STEP, failure_exception_types=[Exception])
class StepWorkflow:
    """Executes one step: one activity, or the chain inside the step."""

    @workflow.run
    async def run(self, task: messages.StepTask) -> messages.StepResult:
        """The step's recorded result. A failed step fails its workflow, so that Temporal's pages show it."""
        result = await (_inner(task) if task.kind == "chain" else _activity(task))
        if result.status == messages.FAILED:
            raise step_failure("E_STEP_FAILED", "")
        return result


async def _activity(task: messages.StepTask) -> messages.StepResult:
    pause = 1.0
    while True:
        result = await _execute(task)
        if result is not None:
            return result
        try:
            await workflow.sleep(pause)  # the step is fine: it waits for a worker that has its secrets
        except asyncio.CancelledError:
            return messages.StepResult(messages.CANCELLED, recorded=False)
        pause = min(pause * 2, 60.0)


async def _execute(task: messages.StepTask) -> messages.StepResult | None:
    """The step's result, or None if the worker lacks something that another worker may have."""
    # A ComfyUI step may wait long for a slot of a server before its timeout begins.
    timed = task.timeout is not None and task.kind != "workflow"
    limit = timedelta(seconds=task.timeout or 0) + SLACK if timed else UNLIMITED
    try:
        result: messages.StepResult = await workflow.execute_activity(
            messages.RUN_STEPS if task.kind == messages.GROUP else messages.RUN_STEP,
            task,
            result_type=messages.StepResult,
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
            return messages.StepResult(messages.CANCELLED, recorded=False)
        cause = error.cause
        if isinstance(cause, ApplicationError) and is_step_failure(cause):
            raise step_failure(cause.type or "E_STEP_FAILED", str(cause.details[1])) from None
        if isinstance(cause, ApplicationError) and cause.type in messages.WORKER_LACKS:
            return None
        if task.kind == messages.GROUP:
            raise  # the chain's workflow asks the store how each member ended
        return await _lose(task, error)


async def _lose(task: messages.StepTask, error: FailureError) -> messages.StepResult:
    return await local_activity(messages.LOSE_STEP, messages.LostStep(task, reason_of(error)), messages.StepResult)


async def _inner(task: messages.StepTask) -> messages.StepResult:
    inner = await local_activity(messages.OPEN_INNER, task, messages.InnerRun)
    if inner.result is not None:
        return inner.result
    cancelled = False
    try:
        await _inner_chain(task, inner)
    except asyncio.CancelledError:
        cancelled = True
    except ChildWorkflowError as error:
        if not is_cancelled_exception(error):
            return await _lose(task, error)
        cancelled = True
    ended = messages.InnerEnded(task, inner.run, cancelled or _is_being_cancelled())
    return await local_activity(messages.CLOSE_INNER, ended, messages.StepResult)


async def _inner_chain(task: messages.StepTask, inner: messages.InnerRun) -> None:
    """Start the workflow of the run inside a step. If an older workflow still has the run, wait for its end first."""
    start = messages.ChainStart(
        inner.run, task.queue, True, heartbeat=task.heartbeat, granularity=task.granularity, trace=inner.trace
    )
    pause = 1.0
    while True:
        try:
            await workflow.execute_child_workflow(
                messages.CHAIN,
                start,
                id=messages.workflow_id(task.queue, inner.run),
                result_type=messages.ChainResult,
                cancellation_type=ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
                parent_close_policy=ParentClosePolicy.REQUEST_CANCEL,
            )
            return
        except WorkflowAlreadyStartedError:
            await workflow.sleep(pause)
            pause = min(pause * 2, 60.0)


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


WORKFLOWS = [ChainWorkflow, StepWorkflow]
