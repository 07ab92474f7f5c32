"""The started steps of one run: executes them, stops them, and reports each outcome once.

An async function runs in a task of its own. Nothing awaits that task: its end is a callback. All other work (functions
in threads, ComfyUI steps, runs inside steps, gathering values) runs in a task of the run's task group.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, Generic, TypeVar

import anyio
import anyio.abc

from towpath import user_code
from towpath.attempt import Outcome, failure
from towpath.errors import TowpathError
from towpath.forks import keep_to_this_process
from towpath.logs import guarded_logger
from towpath.user_code import LoopTurn, leave, returned

from .step_executor import StepExecutor, Work, fault, limit_of
from .task_group import callback_context

T = TypeVar("T")

AT_ONCE = 256  # starts within one turn of the loop

_log = guarded_logger("towpath")


class RunningSteps(Generic[T]):
    """Executes work after `start`. Each outcome is reported by `report`; None: the work was stopped.

    `other` executes work that is no attempt at a step's function. `fail` gets an error of the store, which ends the
    run.
    """

    def __init__(
        self,
        executor: StepExecutor,
        is_async: Callable[[Work], bool],
        other: Callable[[Work], Awaitable[Outcome | T | None]],
        report: Callable[[Work, Outcome | T | None], None],
        fail: Callable[[BaseException], None],
    ) -> None:
        self._executor = executor
        self._is_async = is_async
        self._other = other
        self._report = report
        self._fail = fail
        self._tasks: anyio.abc.TaskGroup | None = None
        self._driver: asyncio.Task[Any] | None = None
        self._cancelled_before = 0
        self._loop = asyncio.get_running_loop()
        self._context = callback_context()  # a step's own variables are not seen in callbacks
        self._ready: deque[Work] = deque()
        self._functions: set[Work] = set()  # with a task of their own
        self._turn = LoopTurn(self._loop)
        self._starting = self._closed = False
        self._idle = asyncio.Event()

    def open(self, tasks: anyio.abc.TaskGroup) -> None:
        """Work in this group from now on. The task that calls this is the one that drives the run."""
        self._tasks = tasks
        self._driver = asyncio.current_task()
        self._cancelled_before = 0 if self._driver is None else self._driver.cancelling()
        keep_to_this_process(self._loop)

    # ---- starting

    def start(self, works: Iterable[Work]) -> None:
        """Start work whose start is recorded."""
        self._ready.extend(works)
        if self._ready and not self._starting:
            self._start_some()

    def _start_some(self) -> None:
        """Start a few, and the next ones in the next turn of the loop."""
        self._turn.watch()
        self._starting = bool(self._ready)
        if self._starting:  # even if no others are ready: work that comes in this turn then starts in the next one
            self._loop.call_soon(self._start_some, context=self._context)
        for _ in range(min(AT_ONCE, len(self._ready))):
            self._start(self._ready.popleft())

    def _start(self, work: Work) -> None:
        if self._tasks is None or self._closed:
            return
        if work.cancelled:  # a cancel may have come after the record
            self._report(work, None)
        elif self._is_async(work):
            self._call(work)
        else:
            self._tasks.start_soon(self._perform, work)

    # ---- async functions

    def _call(self, work: Work) -> None:
        try:
            outcome = self._executor.begin(work, self._turn)
        except Exception as error:
            self._faulty(work, error)
            return
        if outcome is not None or work.task is None:
            self._report(work, outcome)
            return
        limit = limit_of(work)
        if limit is not None:
            work.set_timer(self._loop.call_later(limit, self._time_out, work, context=self._context))
        self._functions.add(work)
        work.task.add_done_callback(partial(self._ended, work), context=self._context)

    def _ended(self, work: Work, task: asyncio.Task[Any]) -> None:
        if work.task is not task:
            return  # the task was abandoned
        work.task = None
        if work.cancelled or work.timed_out or self._closed:
            self._over(work, self._stopped(work))
            return
        if self._is_left():
            self._forget(work)
            return
        try:
            outcome = self._executor.outcome_now(work, *returned(task))
        except KeyboardInterrupt:
            self._forget(work)  # the loop has raised it already, and the run is about to be cancelled
            return
        except Exception as error:
            self._forget(work)
            self._faulty(work, error)
            return
        if isinstance(outcome, Outcome):
            self._over(work, outcome)
        else:
            self._forget(work)
            assert self._tasks is not None
            self._tasks.start_soon(self._perform, work, partial(self._executor.outcome_later, work, outcome))

    def _is_left(self) -> bool:
        """Was the run itself cancelled too, as when a loop cancels all its tasks? Then nothing more is recorded."""
        return self._driver is not None and self._driver.cancelling() > self._cancelled_before

    def _stopped(self, work: Work) -> Outcome | None:
        if work.context is not None:
            work.context.end()
        return self._executor.timed_out(work) if work.timed_out and not work.cancelled else None

    def _over(self, work: Work, outcome: Outcome | T | None) -> None:
        self._forget(work)
        work.set_timer(None)
        if not self._closed:
            self._report(work, outcome)

    def _forget(self, work: Work) -> None:
        self._functions.discard(work)
        if self._closed and not self._functions:
            self._idle.set()

    # ---- all other work

    async def _perform(self, work: Work, other: Callable[[], Awaitable[Outcome | T | None]] | None = None) -> None:
        outcome: Outcome | T | None = None
        if not work.cancelled:
            with anyio.CancelScope() as work.scope:
                outcome = await self._recordable(work, other or partial(self._other, work))
            stopped, work.scope = work.scope.cancelled_caught, None
            if stopped:
                await self._executor.abandon(work)
                outcome = self._stopped(work)
        work.set_timer(None)
        self._report(work, outcome)

    async def _recordable(self, work: Work, made: Callable[[], Awaitable[Outcome | T | None]]) -> Outcome | T | None:
        """The outcome. An error of towpath after the end of the function becomes the failure of the step."""
        try:
            return await made()
        except TowpathError:
            raise  # the store failed, or another process owns the run now
        except Exception as error:
            return self._fault(work, error)

    def _faulty(self, work: Work, error: Exception) -> None:
        if isinstance(error, TowpathError):
            self._fail(error)
        else:
            self._report(work, self._fault(work, error))

    def _fault(self, work: Work, error: Exception) -> Outcome:
        _log.error("step %s ended in a fault of towpath's own", work.step.id, exc_info=error)
        return failure(fault(error))

    # ---- stopping

    def stop(self, work: Work) -> None:
        """Stop work: its run is being cancelled. A function has `GRACE` seconds to end; then it is abandoned."""
        if not work.cancelled:
            work.cancelled = True
            self._cancel(work)

    def _time_out(self, work: Work) -> None:
        work.timed_out = True
        self._cancel(work)

    def _cancel(self, work: Work) -> None:
        if work.task is not None:
            work.task.cancel()
            work.set_timer(self._loop.call_later(user_code.GRACE, self._leave, work, context=self._context))
        elif work.scope is not None:
            work.scope.cancel()

    def _leave(self, work: Work) -> None:
        task, work.task = work.task, None
        if task is not None:
            leave(task)
            self._over(work, self._stopped(work))

    def close(self) -> None:
        """Stop all functions. Nothing is reported any more."""
        self._closed = True
        self._ready.clear()
        for work in self._functions:
            self.stop(work)

    async def closed(self) -> None:
        """Wait until all functions have ended, or were abandoned. Call `close` first."""
        if self._functions:
            with anyio.CancelScope(shield=True):
                await self._idle.wait()
