"""One stretch of work on a run, from its begin (or resume) to its end or pause: workflow code.

The pure run state decides. Steps are child workflows; everything else that is to be recorded goes to the
store through local activities. Nothing here reads a clock, a file or a value of the user's.
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
from temporalio.exceptions import ApplicationError, CancelledError, ChildWorkflowError, is_cancelled_exception
from temporalio.workflow import ChildWorkflowCancellationType, ParentClosePolicy

with workflow.unsafe.imports_passed_through():
    from towpath.commands import AskApproval, Cancel, Command, Complete, Fail, Finish, Pause, Start, Wait
    from towpath.model import GateAction
    from towpath.progress import RunState

    from . import messages as m
    from .grouping import SIZE, Groups

WINDOW = 200  # open children; the server refuses more than 2,000, and slows down long before
T = TypeVar("T")
Key = tuple[str, int | None]

_RECORDED: dict[str, tuple[type[Command], ...]] = {
    m.SUCCEEDED: (Complete, AskApproval),
    m.FAILED: (Fail,),
    m.WAITING: (Wait,),
    m.CANCELLED: (Cancel,),
}


class Flags:
    """What signals and cancellations leave for the driver to find."""

    def __init__(self) -> None:
        self.woken = False
        self.resume_after = -1
        self.cancelled = False


async def ask(name: str, argument: Any, result: type[T]) -> T:
    """A short activity of towpath's own, on the worker that has the workflow. Trouble with the store is waited out."""
    answer: T = await workflow.execute_local_activity(
        name,
        argument,
        result_type=result,
        start_to_close_timeout=timedelta(minutes=10),
        retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_interval=timedelta(seconds=10)),
    )
    return answer


class Session:
    """Drives one claimed run: make it, then await `drive()`."""

    def __init__(self, start: m.ChainStart, begun: m.Begun, flags: Flags) -> None:
        plan = m.unpack_plan(begun.plan)
        self.ended = ""  # how: the run's final status, or `paused`
        self.epoch = begun.epoch
        self._start = start
        self._begun = begun
        self._flags = flags
        self._steps = {step.id: step for step in plan.steps}
        self._state = RunState(plan)
        self._groups = Groups(plan, self._state.completed) if start.granularity == "auto" else None
        self._limit = min(plan.concurrency or WINDOW, WINDOW)
        self._waiting: deque[Start] = deque()
        self._open: dict[Key, asyncio.Task[None]] = {}
        self._inbox: deque[tuple[Key, m.StepResult]] = deque()
        self._decided: list[m.Decided] = []
        self._queued: set[str] = set()
        self._ahead: dict[Key, m.StepResult] = {}  # what members of groups came to before the state started them
        self._pausing = self._cancelling = self._draining = False
        self._broken: Exception | None = None

    async def drive(self) -> None:
        """Work until the run is over, paused, or (`ended` empty) is to continue as new."""
        todo = self._state.begin(m.unpack_rows(self._begun.rows))
        for decided in self._begun.decided:
            todo += self._decide(decided)
        if len(self._begun.decided) >= m.MOST_ASKED:
            self._flags.woken = True
        if self._begun.cancel:
            todo += self._cancel()
        if self._begun.pause:
            self._pause()
        await self._settle(todo)
        while not self.ended:
            self._fill()
            self._draining = self._draining or workflow.info().is_continue_as_new_suggested()
            if not self._open and not self._something_happened():
                if self._pausing:
                    await self._settle([Pause("requested")], pausing=True)
                    return
                if self._draining:
                    return
            await workflow.wait_condition(self._something_happened)
            await self._settle(await self._happened())

    def _something_happened(self) -> bool:
        cancelled = self._flags.cancelled and not self._cancelling
        return bool(self._inbox) or self._flags.woken or cancelled or self._broken is not None

    async def _happened(self) -> list[Command]:
        if self._broken is not None:
            raise self._broken
        todo: list[Command] = []
        while self._inbox:
            todo += self._heard(*self._inbox.popleft())
        if self._flags.cancelled and not self._cancelling:
            seen = await ask(m.LOOK, m.Look(self._start.run, cancel=not self._start.nested), m.Seen)
            if self._start.nested and not seen.called_off:
                await self._orphaned()
            todo += self._cancel()
        if self._flags.woken:
            self._flags.woken = False
            seen = await ask(m.LOOK, m.Look(self._start.run), m.Seen)
            for asked in seen.asked:
                todo += self._obey(asked)
            if todo and len(seen.asked) >= m.MOST_ASKED:
                self._flags.woken = True  # there may be more
        return todo

    async def _orphaned(self) -> None:
        """The workflow around this one is gone, but nobody asked for the run's end: it is left to be resumed."""
        self._cancelling = True
        for task in self._open.values():
            task.cancel()
        await workflow.wait_condition(lambda: not self._open)
        raise CancelledError("the workflow around this chain is gone")

    # ---- carrying commands out

    async def _settle(self, todo: Sequence[Command], *, pausing: bool = False) -> None:
        """Record what is decided, until nothing more follows from it. Starts wait for a place in the window."""
        while todo:
            batch: list[Command] = []
            for at, command in enumerate(todo):
                if isinstance(command, Start):
                    self._waiting.append(command)
                elif not isinstance(command, Pause) or pausing or (at == len(todo) - 1 and not self._pausing):
                    batch.append(command)
            queued = self._newly_queued()
            if not batch and not queued:
                return
            decided, self._decided = self._decided, []
            request = m.Advance(self._start.run, self.epoch, m.pack_commands(batch), decided, queued)
            advanced = await ask(m.ADVANCE, request, m.Advanced)
            todo = [command for answer in advanced.answers for command in self._answered(answer)]
            for command in batch:
                if isinstance(command, Finish):
                    self.ended = command.status.value
                elif isinstance(command, Pause):
                    self.ended = m.PAUSED

    def _newly_queued(self) -> list[str]:
        """Steps that are to be seen waiting for a place. One that can start now gets its row when it does."""
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

    def _answered(self, answer: m.Answer) -> list[Command]:
        match answer.what:
            case "decided":
                return self._state.decided(answer.step, bool(answer.result))
            case "expanded":
                return self._state.expanded(answer.step, answer.result)
            case "collected":
                return self._state.collected(answer.step)
            case _:
                return self._state.failed(answer.step)

    # ---- what people ask for

    def _obey(self, asked: m.Asked) -> list[Command]:
        """Act on a request. Getting one twice is harmless; one that comes too early is found again."""
        if asked.kind == "cancel":
            return [] if self._cancelling else self._cancel()
        if asked.kind == "pause":
            self._pause()
        elif self._state.waits(asked.step, asked.item):
            if asked.kind == "decision":
                return self._decide(m.Decided(asked.step, asked.item, asked.approval, asked.action))
            if asked.kind == "inner" and not self._pausing:
                return self._state.woken(asked.step, asked.item)
        return []

    def _decide(self, decided: m.Decided) -> list[Command]:
        if not self._state.waits(decided.step, decided.item):
            return []  # an earlier decision (a rejection) closed this gate already
        self._decided.append(decided)
        action = self._state.comes_to(decided.step, decided.item, GateAction(decided.action))
        if action is GateAction.APPROVE:
            return self._state.approved(decided.step, decided.item)
        unstarted = self._take_unstarted() if action is GateAction.STOP else []
        return [*self._state.rejected(decided.step, decided.item, action), *self._call_off(unstarted)]

    def _cancel(self) -> list[Command]:
        self._cancelling = True
        unstarted = self._take_unstarted()
        todo = [*self._state.cancel(), *self._call_off(unstarted)]
        for task in self._open.values():
            task.cancel()
        return todo

    def _take_unstarted(self) -> list[Start]:
        unstarted = list(self._waiting)
        self._waiting.clear()
        return unstarted

    def _call_off(self, unstarted: list[Start]) -> list[Command]:
        return [command for start in unstarted for command in self._state.cancelled(start.step, start.item)]

    def _pause(self) -> None:
        """What waits in the window stays unrecorded: whoever resumes starts it."""
        self._pausing = True
        self._state.pause()

    # ---- steps

    def _fill(self) -> None:
        """Start children while there are places. A chain inside a step needs none: its steps do."""
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
            self._open[start.step, start.item] = asyncio.create_task(self._child(start))

    def _start_group(self, groups: Groups) -> None:
        """Start a child for the first steps in line that may share one, and for what follows from them alone."""
        ready = [start for start in self._waiting if groups.may_share(start)][:SIZE]
        taken = set(ready)
        self._waiting = deque(start for start in self._waiting if start not in taken)
        members = groups.formed(ready)
        self._open[members[0]] = asyncio.create_task(self._group(ready, members))

    async def _group(self, ready: list[Start], members: list[Key]) -> None:
        task = replace(self._task(ready[0]), kind=m.GROUP, timeout=None, members=members)
        try:
            result = await self._child_result(task, f"{members[0][0]}+{len(members) - 1}")
            came = {(step, item): m.StepResult(status) for step, item, status in result.members}
            if not came and not result.recorded:
                came = await self._all_cancelled(ready)
        except asyncio.CancelledError:
            came = {}
        except ChildWorkflowError as error:
            came = {}
            for start in ready if not self._cancelling else ():
                lost = m.Lost(self._task(start), m.why(error), is_cancelled_exception(error))
                came[start.step, start.item] = await ask(m.LOSE_STEP, lost, m.StepResult)
        except Exception as error:
            self._broken, came = error, {}
        self._open.pop(members[0], None)
        called_off = m.StepResult(m.CANCELLED, recorded=False)
        for start in ready:
            key = (start.step, start.item)
            self._inbox.append((key, came.pop(key, called_off)))
        self._ahead.update(came)

    async def _child(self, start: Start) -> None:
        key = (start.step, start.item)
        try:
            result = await self._result(start)
        except asyncio.CancelledError:
            result = m.StepResult(m.CANCELLED, recorded=False)
        except Exception as error:  # nobody awaits this task: the driver must hear of it
            self._broken, result = error, m.StepResult(m.CANCELLED, recorded=False)
        self._open.pop(key, None)
        self._inbox.append((key, result))

    async def _result(self, start: Start) -> m.StepResult:
        task = self._task(start)
        place = start.step if start.item is None else f"{start.step}[{start.item}]"
        try:
            return await self._unasked(start, await self._child_result(task, place))
        except ChildWorkflowError as error:
            cause = error.cause
            if isinstance(cause, ApplicationError) and cause.details and cause.details[0] == m.FAILED:
                return m.StepResult(m.FAILED)
            if self._cancelling:
                return m.StepResult(m.CANCELLED, recorded=False)
            lost = m.Lost(task, m.why(error), is_cancelled_exception(error))
            return await ask(m.LOSE_STEP, lost, m.StepResult)

    async def _unasked(self, start: Start, result: m.StepResult) -> m.StepResult:
        """A step that was cancelled, but not with its run: somebody did that to its workflow. It has failed.

        Where the run's end is asked for, the step's row is recorded as cancelled, or we are cancelling.
        """
        if result.status != m.CANCELLED or result.recorded or self._cancelling:
            return result
        if not workflow.patched("a step cancelled from outside fails"):
            return result
        return await ask(m.LOSE_STEP, m.Lost(self._task(start), "cancelled", True), m.StepResult)

    async def _all_cancelled(self, ready: list[Start]) -> dict[Key, m.StepResult]:
        """What becomes of the steps of a group whose workflow was cancelled."""
        called_off = m.StepResult(m.CANCELLED, recorded=False)
        return {(start.step, start.item): await self._unasked(start, called_off) for start in ready}

    async def _child_result(self, task: m.StepTask, place: str) -> m.StepResult:
        result: m.StepResult = await workflow.execute_child_workflow(
            m.STEP,
            task,
            # With the epoch: a child of a workflow that is gone may still be on its way to its end.
            id=m.workflow_id(self._start.queue, self._start.run, place, str(self.epoch)),
            result_type=m.StepResult,
            cancellation_type=ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
            parent_close_policy=ParentClosePolicy.REQUEST_CANCEL,
        )
        return result

    def _task(self, start: Start) -> m.StepTask:
        step = self._steps[start.step]
        return m.StepTask(
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
            trace=self._begun.trace,
        )

    def _heard(self, key: Key, result: m.StepResult) -> list[Command]:
        """What follows from a step's end. The end itself is recorded, unless the state makes something else of it."""
        match result.status:
            case m.SUCCEEDED:
                todo = self._state.succeeded(*key)
            case m.WAITING:
                todo = self._state.waiting(*key)
            case m.CANCELLED:
                todo = self._state.cancelled(*key)
            case _:
                todo = self._state.failed(*key)
        if todo and isinstance(todo[0], AskApproval | Wait):
            self._flags.woken = True  # somebody may have decided before we knew that there was something to decide
        if result.recorded and todo and isinstance(todo[0], _RECORDED[result.status]):
            todo = todo[1:]
        return [follows for command in todo for follows in self._overtaken(command)]

    def _overtaken(self, command: Command) -> list[Command]:
        """A step that its group has done already need not start: what follows from its end instead."""
        if isinstance(command, Start) and (command.step, command.item) in self._ahead:
            key = (command.step, command.item)
            return self._heard(key, self._ahead.pop(key))
        return [command]
