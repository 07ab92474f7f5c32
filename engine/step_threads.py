"""Threads for plain step functions.

Python cannot stop a thread. When an attempt is over before its function has ended (a timeout, a cancel), its thread is
left behind: the function can see that (`context().cancelled`), and the next attempt waits for it, for a while.

The threads are daemons, unlike those of `asyncio` and anyio: no process waits at its end for an attempt that is over.
Before the process ends, it says which steps still run.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Any

import anyio

from .context import StepContext
from .logs import guarded_logger

IDLE = 10.0  # seconds for which a thread without work is kept
AT_EXIT = 5.0  # seconds that functions get to end when the process ends; they can see that their attempt is over
_MOMENT = 0.2  # seconds after which a process that ends says what it waits for

_log = guarded_logger("towpath")
_lock = threading.Lock()
_idle: list[_Worker] = []
_running: set[_Call] = set()

Attempted = tuple[str, str, int | None]  # the run, the step and the item


class _Call:
    """One call of a step's function."""

    def __init__(self, function: Callable[[], Any], context: StepContext) -> None:
        self.context = context
        self.of: Attempted = (context.run_id, context.step_id, context.item)
        self.left_at: float | None = None  # when its attempt was over
        self.ended = threading.Event()
        self.waiting: list[Callable[[], None]] = []
        self._function = function
        self.scope = anyio.CancelScope()  # of the task that waits for the result
        self._loop = asyncio.get_running_loop()
        self.result: asyncio.Future[Any] = self._loop.create_future()

    def run(self) -> Any:
        with _known_to_anyio(self._loop, self.scope):
            return self._function()

    def finish(self, value: Any) -> None:
        """Hand the result over, or clean up if nobody waits for it any more."""
        with _lock:
            _running.discard(self)
            left, waiting = self.left_at is not None, self.waiting
        if left:
            self.context.close()
        self.ended.set()
        for wake in waiting:
            wake()
        if not left:
            _tell(self._loop, self._answer, value)

    def _answer(self, value: Any) -> None:
        if not self.result.done():
            self.result.set_result(value)

    def leave(self) -> None:
        """The attempt is over; the function may not have ended."""
        with _lock:
            if self in _running:
                self.left_at = time.monotonic()
                self.context.lasts = True
        self.context.end()

    def __str__(self) -> str:
        run, step, item = self.of
        return f"attempt {self.context.attempt} at step {step}{'' if item is None else f'[{item}]'} of run {run}"


class _Worker(threading.Thread):
    """A thread that makes one call after the other."""

    def __init__(self) -> None:
        super().__init__(name="towpath step", daemon=True)
        self.calls: SimpleQueue[_Call | None] = SimpleQueue()

    def run(self) -> None:
        while (call := self._next()) is not None:
            value = call.run()
            with _lock:
                _idle.append(self)
            call.finish(value)
            del call, value  # an idle thread keeps nothing alive

    def _next(self) -> _Call | None:
        try:
            return self.calls.get(timeout=IDLE)
        except Empty:
            with _lock:
                if self in _idle:
                    _idle.remove(self)
                    return None
            return self.calls.get()  # `in_step_thread` has taken this thread: its call will come


async def in_step_thread(function: Callable[[], Any], context: StepContext) -> Any:
    """Call a function that never raises in a thread. If this is cancelled, the thread is left behind."""
    call = _Call(function, context)
    with _lock:
        _running.add(call)
        worker = _idle.pop() if _idle else None
    if worker is None:
        worker = _Worker()
        worker.start()
    with call.scope:
        worker.calls.put(call)
        try:
            return await call.result
        except asyncio.CancelledError:
            call.leave()
            raise


@contextmanager
def _known_to_anyio(loop: asyncio.AbstractEventLoop, scope: anyio.CancelScope) -> Iterator[None]:
    """Make `anyio.from_thread` work in this thread, as in anyio's own: it calls into the loop that waits for this one.

    anyio has no public interface for that. If these names are gone one day, its functions need a `token=`.
    """
    try:
        from anyio._core._eventloop import (  # noqa: PLC0415 - may be gone one day
            claim_worker_thread,
            get_async_backend,
            threadlocals,
        )
    except ImportError:
        yield
        return
    with claim_worker_thread(get_async_backend("asyncio"), loop):
        threadlocals.current_cancel_scope = scope
        try:
            yield
        finally:
            del threadlocals.current_cancel_scope


def end_idle_threads() -> None:
    """End the threads that have no work, as an engine is closed. Other engines start new ones."""
    with _lock:
        idle, _idle[:] = list(_idle), []
    for worker in idle:
        worker.calls.put(None)


async def earlier_attempts_end(context: StepContext, grace: float) -> None:
    """Wait for the threads that earlier attempts of this step have left behind, each until `grace` seconds after its
    attempt was over. After that the log says that two attempts overlap.
    """
    if not _running:  # most steps
        return
    of = (context.run_id, context.step_id, context.item)
    with _lock:
        left = [call for call in _running if call.left_at is not None and call.of == of]
    for call in left:
        assert call.left_at is not None
        if not await _ends(call, call.left_at + grace - time.monotonic()):
            context.logger.warning(
                "the thread of %s has not ended %g s after that attempt was over: this attempt runs beside it",
                call,
                grace,
            )


async def _ends(call: _Call, seconds: float) -> bool:
    loop, woken = asyncio.get_running_loop(), asyncio.Event()
    call.waiting.append(lambda: _tell(loop, woken.set))
    if not call.ended.is_set():
        with suppress(TimeoutError):
            async with asyncio.timeout(max(seconds, 0)):
                await woken.wait()
    return call.ended.is_set()


def _tell(loop: asyncio.AbstractEventLoop, callback: Callable[..., None], *args: Any) -> None:
    with suppress(RuntimeError):  # the loop is closed: nobody waits
        loop.call_soon_threadsafe(callback, *args)


@atexit.register
def _say_what_runs() -> None:
    """The process ends. Functions that still run get some seconds, and the log says what the process waits for."""
    with _lock:
        calls = list(_running)
    for call in calls:
        call.context.end()
    with suppress(KeyboardInterrupt):  # pressed again: do not wait
        for seconds, what in ((_MOMENT, f"the process waits up to {AT_EXIT:g} s for it"), (AT_EXIT, "it is cut off")):
            _wait(calls, seconds)
            for call in calls:
                if not call.ended.is_set():
                    _log.warning("the function of %s has not ended although the attempt is over: %s", call, what)


def _wait(calls: Iterable[_Call], seconds: float) -> None:
    until = time.monotonic() + seconds
    for call in calls:
        call.ended.wait(max(0.0, until - time.monotonic()))


def _forget() -> None:
    """A forked child has none of these threads."""
    global _lock  # noqa: PLW0603 - a thread of the parent may have held it
    _lock = threading.Lock()
    _idle.clear()
    _running.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
