"""Calling a step's function so that nothing it does reaches whoever drives the run.

An async function runs in a task of its own, a plain one in a thread, both in a copy of the context variables
of whoever started the run. What the function raises comes back as `StepRaised`, whatever it is.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import opcode
import signal
import threading
from asyncio import runners
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import Context, copy_context
from functools import partial
from typing import Any, TypeVar, cast

import anyio
import anyio.to_thread

from .context import StepContext
from .forks import OneProcess, keep_to_this_process
from .steps import Step

T = TypeVar("T")

GRACE = 10.0  # seconds that an async function is given to end once it is cancelled

_log = logging.getLogger("towpath")
_RAISE = opcode.opmap["RAISE_VARARGS"]
_left: set[asyncio.Task[Any]] = set()
"""Tasks that did not end when they were cancelled: asyncio itself keeps no hold of them."""


class StepRaised(Exception):
    """A step's function raised `error`."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


async def call_step(
    step: Step[..., Any],
    arguments: dict[str, Any],
    context: StepContext,
    limiter: anyio.CapacityLimiter | None = None,
    variables: Context | None = None,
    around: AbstractContextManager[None] | None = None,
) -> Any:
    """What a step's function returns.

    `variables` are the context variables that it sees (default: those of the caller); it gets a copy. `around`
    is entered there, around the call. Cancelled, an async function is given 10 s to end; a thread cannot be
    stopped and is left to itself.

    Raises:
        StepRaised: whatever the function raised, `KeyboardInterrupt`, `SystemExit` and `GeneratorExit` too.
    """
    args, kwargs = step.call_arguments(arguments)
    own = copy_context() if variables is None else variables.copy()
    own.run(context.enter)
    keep_to_this_process(asyncio.get_running_loop())
    call = partial(step.function, *args, **kwargs)
    entered = around or nullcontext()
    if step.is_async:
        return await in_own_task(call, own, entered)
    value, error = await anyio.to_thread.run_sync(
        partial(own.run, _called, call, entered), abandon_on_cancel=True, limiter=limiter
    )
    if error is not None:
        raise StepRaised(error)
    return await in_own_task(lambda: value, own) if inspect.isawaitable(value) else value


def _called(call: Callable[[], Any], around: AbstractContextManager[None]) -> tuple[Any, BaseException | None]:
    """What a plain function returned or raised. A future cannot carry every exception (StopIteration)."""
    try:
        with OneProcess(), around:
            return call(), None
    except BaseException as error:
        return None, error


async def _awaited(
    call: Callable[[], Awaitable[T]], around: AbstractContextManager[None]
) -> tuple[T, None] | tuple[None, BaseException]:
    try:
        with OneProcess(), around:
            return await call(), None
    except BaseException as error:
        if _pressed(error):
            raise
        return None, error


async def in_own_task(
    call: Callable[[], Awaitable[T]], variables: Context, around: AbstractContextManager[None] | None = None
) -> T:
    """What `call` comes to, in a task that it may do with as it likes. Raises StepRaised."""
    task = asyncio.get_running_loop().create_task(_awaited(call, around or nullcontext()), context=variables)
    try:
        value, error = await asyncio.shield(task)
    except asyncio.CancelledError as cancelled:
        if not task.cancelled():  # it is us who are cancelled
            await _stop(task)
            raise
        raise StepRaised(cancelled) from None  # before its first line: somebody cancelled every task there is
    if error is not None:
        raise StepRaised(error)
    return cast("T", value)


async def _stop(task: asyncio.Task[Any]) -> None:
    """Cancel a function's task and wait for its end. One that does not end is left to itself."""
    task.cancel()
    with anyio.CancelScope(shield=True):
        _, working = await asyncio.wait({task}, timeout=GRACE)
    if working:
        _log.warning("a step does not end %g s after it was cancelled: its task is left to itself", GRACE)
        _left.add(task)
        task.add_done_callback(_left.discard)
        task.cancel()


def _pressed(error: BaseException) -> bool:
    """Is this somebody's Ctrl-C, which asks the whole process to stop? Else the function raised it itself.

    Only the main thread gets signals. Python's own handler lets the error appear at whatever instruction runs, so
    it comes from no `raise`; a handler in Python, as that of `asyncio.run`, has a frame of its own.
    """
    if not isinstance(error, KeyboardInterrupt) or threading.current_thread() is not threading.main_thread():
        return False
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None:
        return True
    code = last.tb_frame.f_code
    handler = getattr(signal.getsignal(signal.SIGINT), "__code__", None)
    return code.co_code[last.tb_lasti] != _RAISE or code is handler or code.co_filename == runners.__file__
