"""The processes of an engine or a worker, for steps with `process=True`. See `child_process` for one of them."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from towpath.context import StepContext
from towpath.step_threads import in_step_thread
from towpath.steps import Step

if TYPE_CHECKING:
    from .child_process import ChildProcess


class ProcessPool:
    """The processes of one engine or worker: `size` at most (default: one per CPU), each started when it is needed."""

    def __init__(self, size: int | None = None) -> None:
        self._limiter = anyio.CapacityLimiter(size or os.cpu_count() or 1)
        self._idle: list[ChildProcess] = []

    async def call(
        self, step: Step[..., Any], arguments: dict[str, Any], context: StepContext, retry_on: tuple[str, ...]
    ) -> Any:
        """Call a step's function in a process, and return what it returns. If this is cancelled, the process is killed.

        Raises:
            Reported: the function raised. StepProcessFailed: E_STEP_PROCESS, E_STEP_PROCESS_DIED.
        """
        # Most programs have no such step: they need not load `multiprocessing`.
        from towpath.step_process import Returned  # noqa: PLC0415

        from .child_process import ChildProcess, request_for  # noqa: PLC0415

        request = await anyio.to_thread.run_sync(partial(request_for, step, arguments, context, retry_on))
        async with self._limiter:
            child = self._idle.pop() if self._idle else ChildProcess()
            try:
                outcome = await in_step_thread(partial(child.answer, request, context), context)
            except BaseException:
                child.stop()
                raise
            if child.alive:
                self._idle.append(child)
        if isinstance(outcome, Returned):
            context.saved += outcome.saved
            return outcome.value
        raise outcome

    async def close(self) -> None:
        """End the processes, none of which has a call any more."""
        while self._idle:
            await anyio.to_thread.run_sync(self._idle.pop().kill)
