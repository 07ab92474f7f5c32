"""Drives a claimed run until it is over, pauses, or continues as new. Workflow code.

The pure run state decides what happens next. Steps are child workflows. Local activities write everything else to the
store. Nothing here reads a clock, a file or a user's value.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import CancelledError, ChildWorkflowError, is_cancelled_exception
from temporalio.workflow import ChildWorkflowCancellationType, ParentClosePolicy

with workflow.unsafe.imports_passed_through():
    from towpath.commands import AskApproval, Cancel, Command, Complete, Fail, Finish, Pause, Start, StartItems, Wait
    from towpath.model import GateAction
    from towpath.progress import RunState

    from . import messages
    from .failures import is_step_failure, reason_of
    from .step_groups import SIZE, Key, StepGroups

WINDOW = 200  # open children; the server refuses more than 2,000, and slows down long before
T = TypeVar("T")

_NOT_RECORDED = messages.StepResult(messages.CANCELLED, recorded=False)
_RECORDED: dict[str, tuple[type[Command], ...]] = {
    messages.SUCCEEDED: (Complete, AskApproval),
    messages.FAILED: (Fail,),
    messages.WAITING: (Wait,),
    messages.CANCELLED: (Cancel,),
}


class Signals:
    """Signals and cancellations that the driver has not handled yet."""

    def __init__(self) -> None:
        self.woken = False
        self.resume_after = -1
        self.cancelled = False


async def local_activity(name: str, argument: Any, result: type[T]) -> T:
    """Run a short activity on the worker that has the workflow. Retries for as long as the store fails."""
    answer: T = await workflow.execute_local_activity(
        name,
        argument,
        result_type=result,
        start_to_close_timeout=timedelta(minutes=10),
        retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_interval=timedelta(seconds=10)),
    )
    return answer


class RunDriver:
    """Drives one claimed run: make it, then await `drive()`."""

    def __init__(self, start: messages.ChainStart, claimed: messages.ClaimedRun, signals: Signals) -> None:
        plan = messages.unpack_plan(claimed.plan)
        self.ended = ""  # the run's final status, or `paused`
        self.epoch = claimed.epoch
        self._start = start
        self._claimed = claimed
        self._signals = signals
        self._steps = {step.id: step for step in plan.steps}
        self._state = RunState(plan)
        self._groups = StepGroups(plan, self._state.completed) if start.granularity == "auto" else None
        self._limit = min(plan.concurrency or WINDOW, WINDOW)
        self._waiting: deque[Start] = deque()
        self._open: dict[Key, asyncio.Task[None]] = {}
        self._results: deque[tuple[Key, messages.StepResult]] = deque()
        self._decisions: list[messages.Decision] = []
        self._queued: set[str] = set()
        self._early: dict[Key, messages.StepResult] = {}  # of group members that the state has not started yet
        self._pausing = self._cancelling = self._draining = False
        self._error: Exception | None = None

    async def drive(self) -> None:
        """Work until the run is over or paused, or until it should continue as new (`ended` is empty then)."""
        commands = self._state.begin(messages.unpack_rows(self._claimed.rows))
        for decision in self._claimed.decided:
            commands += self._decide(decision)
        if len(self._claimed.decided) >= messages.MAX_REQUESTS:
            self._signals.woken = True
        if self._claimed.cancel:
            commands += self._cancel()
        if self._claimed.pause:
            self._pause()
        await self._carry_out(commands)
        while not self.ended:
            self._fill()
            self._draining = self._draining or workflow.info().is_continue_as_new_suggested()
            if not self._open and not self._has_news():
                if self._pausing:
                    await self._carry_out([Pause("requested")], pausing=True)
                    return
                if self._draining:
                    return
            await workflow.wait_condition(self._has_news)
            await self._carry_out(await self._handle_news())

    def _has_news(self) -> bool:
        cancelled = self._signals.cancelled and not self._cancelling
        return bool(self._results) or self._signals.woken or cancelled or self._error is not None

    async def _handle_news(self) -> list[Command]:
        """The commands that follow from results of steps, cancellation and requests, in this order."""
        if self._error is not None:
            raise self._error
        commands: list[Command] = []
        while self._results:
            key, result = self._results.popleft()
            if await self._tells_of_cancel(result):
                commands += self._cancel()
            commands += self._after_step(key, result)
        if self._signals.cancelled and not self._cancelling:
            reply = await self._look(cancel=not self._start.nested)
            if self._start.nested and not reply.called_off:
                await self._leave_orphaned()
            commands += self._cancel()
        if self._signals.woken:
            self._signals.woken = False
            reply = await self._look()
            for request in reply.asked:
                commands += self._apply(request)
            if commands and len(reply.asked) >= messages.MAX_REQUESTS:
                self._signals.woken = True  # there may be more
        return commands

    async def _look(self, *, cancel: bool = False) -> messages.StatusReply:
        """The status of the run and its pending requests. `cancel`: first record a cancel."""
        query = messages.StatusQuery(self._start.run, cancel)
        return await local_activity(messages.LOOK, query, messages.StatusReply)

    async def _tells_of_cancel(self, result: messages.StepResult) -> bool:
        """Did a worker cancel this step, or a later one of its group, before this workflow heard of the run's cancel?

        Without the cancel, the state would take the step for one that ends alone, and the run for completed.
        """
        results = (result, *self._early.values())
        cancelled = any(one.status == messages.CANCELLED and one.recorded for one in results)
        if self._cancelling or not cancelled or not workflow.patched("a cancelled step tells of the cancel"):
            return False
        return (await self._look()).called_off

    async def _leave_orphaned(self) -> None:
        """The workflow around this one is gone, but no cancel was requested: leave the run to be resumed."""
        self._cancelling = True
        for task in self._open.values():
            task.cancel()
        await workflow.wait_condition(lambda: not self._open)
        raise CancelledError("the workflow around this chain is gone")

    # ---- carrying commands out

    async def _carry_out(self, commands: Sequence[Command], *, pausing: bool = False) -> None:
        """Record commands and what follows from their answers, until nothing is left. Starts wait for a place."""
        while commands:
            batch: list[Command] = []
            for at, command in enumerate(commands):
                if isinstance(command, Start):
                    self._waiting.append(command)
                elif isinstance(command, StartItems):
                    self._waiting.extend(command.each())
                elif not isinstance(command, Pause) or pausing or (at == len(commands) - 1 and not self._pausing):
                    batch.append(command)
            queued = self._newly_queued()
            if not batch and not queued:
                return
            decisions, self._decisions = self._decisions, []
            packed = messages.pack_commands(batch)
            request = messages.Advance(self._start.run, self.epoch, packed, decisions, queued)
            advanced = await local_activity(messages.ADVANCE, request, messages.Advanced)
            commands = [command for answer in advanced.answers for command in self._after_answer(answer)]
            for command in batch:
                if isinstance(command, Finish):
                    self.ended = command.status.value
                elif isinstance(command, Pause):
                    self.ended = messages.PAUSED

    def _newly_queued(self) -> list[str]:
        """Steps without a place, which get a `queued` row now. A step with a place gets its row when it starts."""
        places, queued = self._limit - self._working(), list[str]()
        for start in self._waiting:
            shares = self._groups is not None and self._groups.may_share(start)
            places -= self._steps[start.step].kind != "chain" and not shares
            if places < 0 and start.item is None and not shares and start.step not in self._queued:
                queued.append(start.step)
        self._queued.update(queued)
        return queued

    def _working(self) -> int:
        return sum(self._steps[step].kind != "chain" for step, _ in self._open)

    def _after_answer(self, answer: messages.Answer) -> list[Command]:
        match answer.what:
            case "decided":
                return self._state.decided(answer.step, bool(answer.result))
            case "expanded":
                return self._state.expanded(answer.step, answer.result)
            case "collected":
                return self._state.collected(answer.step)
            case _:
                return self._state.failed(answer.step)

    # ---- requests

    def _apply(self, request: messages.RunRequest) -> list[Command]:
        """Apply a request. A second delivery is harmless; a request that comes too early is delivered again."""
        if request.kind == "cancel":
            return [] if self._cancelling else self._cancel()
        if request.kind == "pause":
            self._pause()
        elif self._state.waits(request.step, request.item):
            if request.kind == "decision":
                return self._decide(
                    messages.Decision(request.step, request.item, request.approval, request.action),
                )
            if request.kind == "inner" and not self._pausing:
                return self._state.woken(request.step, request.item)
        return []

    def _decide(self, decision: messages.Decision) -> list[Command]:
        if not self._state.waits(decision.step, decision.item):
            return []  # an earlier rejection has closed this gate
        self._decisions.append(decision)
        action = self._state.comes_to(decision.step, decision.item, GateAction(decision.action))
        if action is GateAction.APPROVE:
            return self._state.approved(decision.step, decision.item)
        unstarted = self._take_unstarted() if action is GateAction.STOP else []
        return [*self._state.rejected(decision.step, decision.item, action), *self._cancelled(unstarted)]

    def _cancel(self) -> list[Command]:
        self._cancelling = True
        unstarted = self._take_unstarted()
        commands = [*self._state.cancel(), *self._cancelled(unstarted)]
        for task in self._open.values():
            task.cancel()
        return commands

    def _take_unstarted(self) -> list[Start]:
        unstarted = list(self._waiting)
        self._waiting.clear()
        return unstarted

    def _cancelled(self, unstarted: list[Start]) -> list[Command]:
        return [command for start in unstarted for command in self._state.cancelled(start.step, start.item)]

    def _pause(self) -> None:
        """Start nothing more. Steps that wait for a place are not recorded: a resume starts them."""
        self._pausing = True
        self._state.pause()

    # ---- children

    def _fill(self) -> None:
        """Start children while there are places. A chain inside a step takes no place: its own steps do."""
        working = self._working()
        while self._waiting and not self._pausing and not self._draining and len(self._open) < WINDOW:
            if self._groups is not None and self._groups.may_share(self._waiting[0]):
                self._start_group(self._groups)
                continue
            counts = self._steps[self._waiting[0].step].kind != "chain"
            if counts and working >= self._limit:
                return
            working += counts
            start = self._waiting.popleft()
            self._open[start.step, start.item] = asyncio.create_task(self._run_child(start))

    def _start_group(self, groups: StepGroups) -> None:
        """Start one child for the first waiting steps that may share one, and for the steps that follow from them."""
        ready = [start for start in self._waiting if groups.may_share(start)][:SIZE]
        grouped = set(ready)
        self._waiting = deque(start for start in self._waiting if start not in grouped)
        members = groups.formed(ready)
        self._open[members[0]] = asyncio.create_task(self._run_group(ready, members))

    async def _run_group(self, ready: list[Start], members: list[Key]) -> None:
        results: dict[Key, messages.StepResult] = {}
        try:
            results = await self._group_results(ready, members)
        except asyncio.CancelledError:
            pass
        except Exception as error:
            self._error = error
        self._open.pop(members[0], None)
        for start in ready:
            key = (start.step, start.item)
            self._results.append((key, results.pop(key, _NOT_RECORDED)))
        self._early.update(results)

    async def _group_results(self, ready: list[Start], members: list[Key]) -> dict[Key, messages.StepResult]:
        task = replace(self._task(ready[0]), kind=messages.GROUP, timeout=None, members=members)
        try:
            result = await self._child_result(task, f"{members[0][0]}+{len(members) - 1}")
        except ChildWorkflowError as error:
            return {} if self._cancelling else await self._lost_group(ready, error)
        if not result.members and not result.recorded:
            return {(start.step, start.item): await self._checked(start, _NOT_RECORDED) for start in ready}
        return {(step, item): messages.StepResult(status) for step, item, status in result.members}

    async def _lost_group(self, ready: list[Start], error: ChildWorkflowError) -> dict[Key, messages.StepResult]:
        reason, cancelled = reason_of(error), is_cancelled_exception(error)
        return {(start.step, start.item): await self._lose(start, reason, cancelled) for start in ready}

    async def _run_child(self, start: Start) -> None:
        key = (start.step, start.item)
        try:
            result = await self._result(start)
        except asyncio.CancelledError:
            result = _NOT_RECORDED
        except Exception as error:  # this task is not awaited, so `drive` raises the error
            self._error, result = error, _NOT_RECORDED
        self._open.pop(key, None)
        self._results.append((key, result))

    async def _result(self, start: Start) -> messages.StepResult:
        place = start.step if start.item is None else f"{start.step}[{start.item}]"
        try:
            return await self._checked(start, await self._child_result(self._task(start), place))
        except ChildWorkflowError as error:
            if is_step_failure(error.cause):
                return messages.StepResult(messages.FAILED)
            if self._cancelling:
                return _NOT_RECORDED
            return await self._lose(start, reason_of(error), is_cancelled_exception(error))

    async def _checked(self, start: Start, result: messages.StepResult) -> messages.StepResult:
        """The result; but a step whose workflow was cancelled by hand has failed.

        If the run is being cancelled, the step's row is recorded as cancelled or this driver is cancelling.
        """
        if result.status != messages.CANCELLED or result.recorded or self._cancelling:
            return result
        if not workflow.patched("a step cancelled from outside fails"):
            return result
        return await self._lose(start, "cancelled", True)

    async def _lose(self, start: Start, reason: str, cancelled: bool) -> messages.StepResult:
        lost = messages.LostStep(self._task(start), reason, cancelled)
        return await local_activity(messages.LOSE_STEP, lost, messages.StepResult)

    async def _child_result(self, task: messages.StepTask, place: str) -> messages.StepResult:
        result: messages.StepResult = await workflow.execute_child_workflow(
            messages.STEP,
            task,
            # The id has the epoch, because the child of an earlier workflow may still be running.
            id=messages.workflow_id(self._start.queue, self._start.run, place, str(self.epoch)),
            result_type=messages.StepResult,
            cancellation_type=ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
            parent_close_policy=ParentClosePolicy.REQUEST_CANCEL,
        )
        return result

    def _task(self, start: Start) -> messages.StepTask:
        step = self._steps[start.step]
        return messages.StepTask(
            run=self._start.run,
            epoch=self.epoch,
            step=start.step,
            item=start.item,
            kind=step.kind,
            queue=self._start.queue,
            attempts=step.retry.attempts,
            delay=step.retry.delay,
            backoff=step.retry.backoff,
            max_delay=step.retry.max_delay,
            timeout=step.timeout,
            heartbeat=self._start.heartbeat,
            granularity=self._start.granularity,
            trace=self._claimed.trace,
        )

    def _after_step(self, key: Key, result: messages.StepResult) -> list[Command]:
        """The commands after a step's end. The first one is dropped if the store has it already."""
        match result.status:
            case messages.SUCCEEDED:
                commands = self._state.succeeded(*key)
            case messages.WAITING:
                commands = self._state.waiting(*key)
            case messages.CANCELLED:
                commands = self._state.cancelled(*key)
            case _:
                commands = self._state.failed(*key)
        if commands and isinstance(commands[0], AskApproval | Wait):
            self._signals.woken = True  # a decision may have come before the state knew of the gate
        if result.recorded and commands and isinstance(commands[0], _RECORDED[result.status]):
            commands = commands[1:]
        return [follows for command in commands for follows in self._without_early(command)]

    def _without_early(self, command: Command) -> list[Command]:
        """The command. If it starts a step that its group has executed already: what follows from that step."""
        if isinstance(command, StartItems) and self._early:
            return [follows for start in command.each() for follows in self._without_early(start)]
        if isinstance(command, Start) and (command.step, command.item) in self._early:
            key = (command.step, command.item)
            return self._after_step(key, self._early.pop(key))
        return [command]
