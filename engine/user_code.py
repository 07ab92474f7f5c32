"""Calling a step's function so that nothing it does reaches the driver of the run.

An async function runs in a task of its own, a plain one in a thread. Both see a copy of the context variables of
whoever started the run. What the function raises comes back as `StepRaised`, whatever it is.
"""

from __future__ import annotations

import asyncio
import inspect
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import Context, copy_context
from functools import partial
from typing import Any, TypeVar, cast

import anyio
from anyio.to_thread import run_sync

from .capture import look_at_streams
from .context import StepContext
from .forks import OneProcess, keep_to_this_process
from .logs import guarded_logger
from .step_calls import call_async, call_plain, may_hold_objects, to_receive, with_files
from .step_threads import in_step_thread
from .steps import Step

T = TypeVar("T")

GRACE = 10.0  # seconds in which a cancelled async function must end
TURN = 0.005  # seconds after which the event loop should get its turn: for timers, and for other runs

_log = guarded_logger("towpath")
_NOTHING = nullcontext()
_left: set[asyncio.Task[Any]] = set()
"""Tasks that did not end when they were cancelled: asyncio itself keeps no reference to them."""


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
    """Call a step's function, and return what it returns.

    `variables` are the context variables that it sees (default: those of the caller); it gets a copy. `around` is
    entered there, around the call. If this is cancelled, an async function has 10 s to end; a thread cannot be stopped
    and is left behind (see `step_threads`).

    Raises:
        StepRaised: whatever the function raised, `KeyboardInterrupt`, `SystemExit` and `GeneratorExit` too.
    """
    keep_to_this_process(asyncio.get_running_loop())
    variables = copy_context() if variables is None else variables
    entered = around or nullcontext()
    if step.is_async:
        return await files_kept(
            await in_own_task(*prepared_call(step, arguments, context, variables), entered), context
        )
    call, own = partial(call_plain, step, arguments, context), _own_variables(context, variables)
    async with limiter or nullcontext():
        value, error = await in_step_thread(lambda: own.run(_called, call, entered), context)
    if error is not None:
        raise StepRaised(error)
    if inspect.isawaitable(value):
        return await files_kept(await in_own_task(lambda: value, own), context)
    return value


async def files_kept(value: Any, context: StepContext) -> Any:
    """What an async function returned, with files for objects that have a codec. These are written in a thread.

    Raises StepRaised: what a codec, or a method of the value's own classes, raised.
    """
    if not may_hold_objects(value):
        return value
    variables = copy_context() if context.variables is None else context.variables.copy()
    save = partial(with_files, value, context)
    kept, error = await run_sync(lambda: variables.run(_called, save, _NOTHING), abandon_on_cancel=True)
    if error is not None:
        raise StepRaised(error)
    return kept


def prepared_call(
    step: Step[..., Any], arguments: dict[str, Any], context: StepContext, variables: Context
) -> tuple[Callable[[], Any], Context]:
    """The call of an async function, and the copy of the context variables in which it must run."""
    own = _own_variables(context, variables)
    annotations = to_receive(step, arguments) if step.receives else None
    if annotations:
        return partial(call_async, step, arguments, annotations, context), own
    args, kwargs = step.call_arguments(arguments)
    return partial(step.function, *args, **kwargs), own


def _own_variables(context: StepContext, variables: Context) -> Context:
    look_at_streams()
    own = variables.copy()
    own.run(context.enter)
    context.variables = own
    return own


class LoopTurn:
    """How long the loop's turn has lasted. Functions that never suspend run one after the other in one turn: those for
    which it has lasted `TURN` seconds already wait for the next one.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._began = 0.0
        self._watched = self._asked = False

    def watch(self) -> None:
        """Watch the turns of the loop from this one on, until one in which nobody asks."""
        if not self._watched:
            self._watched = True
            self._begin()
            self._asked = True  # what starts now runs in the next turn

    def _begin(self) -> None:
        self._began = self._loop.time()
        self._asked = False
        self._loop.call_soon(self._next)

    def _next(self) -> None:
        self._watched = self._asked
        if self._asked:
            self._begin()

    @property
    def is_long(self) -> bool:
        self._asked = True
        if self._loop.time() - self._began <= TURN:
            return False
        self.watch()
        return True


def own_task(
    call: Callable[[], Awaitable[T]],
    variables: Context,
    around: AbstractContextManager[None] | None = None,
    turn: LoopTurn | None = None,
) -> asyncio.Task[tuple[T, None] | tuple[None, BaseException]]:
    """A task for `call` alone. Its result is what `call` returned, or what it raised; see `returned`."""
    return asyncio.get_running_loop().create_task(_awaited(call, around or _NOTHING, turn), context=variables)


def returned(task: asyncio.Task[tuple[T, None] | tuple[None, BaseException]]) -> tuple[T | None, BaseException | None]:
    """The result of an ended `own_task`: a value, or the error that was raised."""
    try:
        return task.result()
    except asyncio.CancelledError as cancelled:  # cancelled before it began: somebody cancelled all tasks of the loop
        return None, cancelled


def _called(call: Callable[[], Any], around: AbstractContextManager[None]) -> tuple[Any, BaseException | None]:
    """What a plain function returned or raised. A future cannot carry every exception (StopIteration)."""
    try:
        with OneProcess(), around:
            return call(), None
    except BaseException as error:
        return None, error


async def _awaited(
    call: Callable[[], Awaitable[T]], around: AbstractContextManager[None], turn: LoopTurn | None
) -> tuple[T, None] | tuple[None, BaseException]:
    try:
        while turn is not None and turn.is_long:  # noqa: ASYNC110 - for the next turn, not for an event
            await asyncio.sleep(0)
        with OneProcess(), around:
            return await call(), None
    except BaseException as error:
        if _pressed(error):
            raise
        return None, error


async def in_own_task(
    call: Callable[[], Awaitable[T]], variables: Context, around: AbstractContextManager[None] | None = None
) -> T:
    """The result of `call`, in a task of its own. Raises StepRaised."""
    task = own_task(call, variables, around)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.cancelled():  # the caller is cancelled, not the task
            await _stop(task)
            raise
    value, error = returned(task)
    if error is not None:
        raise StepRaised(error) from None
    return cast("T", value)


async def _stop(task: asyncio.Task[Any]) -> None:
    """Cancel a function's task and wait for its end. A task that does not end is abandoned."""
    task.cancel()
    with anyio.CancelScope(shield=True):
        await asyncio.wait({task}, timeout=GRACE)
    if not task.done():
        leave(task)


def leave(task: asyncio.Task[Any]) -> None:
    """Abandon a task that does not end. The loop does not wait for it when it is closed."""
    _log.warning("a step does not end %g s after it was cancelled: its task is abandoned", GRACE)
    _left.add(task)
    task.add_done_callback(_left.discard)
    task.cancel()
    asyncio._unregister_task(task)  # `asyncio.run` would wait for its end for ever
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # the warning above is enough


@contextmanager
def noting_interrupts() -> Iterator[None]:
    """While an engine is open, replace Python's signal handler by towpath's, which does the same. Its frame in a
    traceback distinguishes a Ctrl-C from a `KeyboardInterrupt` that a step raised. Other handlers are not replaced.
    """
    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if ours:
        signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        if ours and signal.getsignal(signal.SIGINT) is _interrupt:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _pressed(error: BaseException) -> bool:
    """Did the user press Ctrl-C? Else the function itself raised the error.

    Only the main thread gets signals, and an error from a signal has the frame of its handler in the traceback.
    """
    if not isinstance(error, KeyboardInterrupt) or threading.current_thread() is not threading.main_thread():
        return False
    handler: Any = signal.getsignal(signal.SIGINT)
    while isinstance(handler, partial):  # the handler of `asyncio.run` is one
        handler = handler.func
    called = type(handler).__call__ if callable(handler) and not hasattr(handler, "__code__") else handler
    code, at = getattr(called, "__code__", None), error.__traceback__
    while at is not None:
        if at.tb_frame.f_code is code:
            return True
        at = at.tb_next
    return False
